//! Replay: the log's actions, folded to the state of the table at a version.

use std::collections::BTreeMap;

use super::TableError;
use super::actions::{Action, Add, MetaData, Protocol, Remove, Txn};
use super::checkpoint;
use super::log::DeltaLog;
use super::path::FileName;

/// Newest reader protocol that is understood here.
pub(super) const READER_VERSION_MAX: i32 = 1;

/// The state of a table.
#[derive(Clone, Debug)]
pub(super) struct Replay {
    pub(super) version: u64,
    pub(super) protocol: Protocol,
    pub(super) metadata: MetaData,
    pub(super) transactions: BTreeMap<String, Txn>,
    pub(super) adds: BTreeMap<String, Add>,
    /// Files that were taken out; a checkpoint keeps the younger ones for `VACUUM` of other engines.
    pub(super) removes: BTreeMap<String, Remove>,
}

impl Replay {
    /// Reads a table's newest version: from its newest checkpoint, or from the start if there is none that can be
    /// read. `None` if there is no table. Refuses a log with a gap.
    pub(super) fn load(log: DeltaLog) -> Result<Option<Replay>, TableError> {
        let listed = log.versions()?;
        let Some(replay) = Replay::load_until(log, u64::MAX)? else { return Ok(None) };
        // A version that is listed and cannot be reached means that one before it is lost.
        match listed.iter().find(|listed| **listed > replay.version) {
            None => Ok(Some(replay)),
            Some(beyond) => Err(TableError::Damaged {
                path: log.commit_path(replay.version + 1),
                problem: format!("it is missing, and version {beyond} is there"),
            }),
        }
    }

    /// Reads a table as it was at `version`, or newest if it is older.
    pub(super) fn load_until(log: DeltaLog, version: u64) -> Result<Option<Replay>, TableError> {
        let (newest, mut problem) = match checkpoint::read_newest(log) {
            Ok(replay) => (replay.filter(|replay| replay.version <= version), None),
            // What lies before it may still be there, and gives the same.
            Err(error @ (TableError::Damaged { .. } | TableError::Unsupported { .. })) => (None, Some(error)),
            Err(error) => return Err(error),
        };
        let replay = match newest {
            Some(replay) => Some(replay),
            None => Replay::load_older(log, version, &mut problem)?,
        };
        let Some(mut replay) = replay else {
            return match (problem, log.versions()?.first()) {
                (Some(problem), _) => Err(problem),
                (None, None) => refuse_leftovers(log).map(|()| None),
                (None, Some(first)) => Err(TableError::Damaged {
                    path: log.commit_path(0),
                    problem: format!("it is missing, and version {first} is there"),
                }),
            };
        };
        if let Some(problem) = problem {
            tracing::warn!("{problem}; what lies before it gives the same");
        }
        while replay.version < version
            && let Some(actions) = log.read(replay.version + 1)?
        {
            replay.apply(replay.version + 1, actions);
        }
        replay.check(log)?;
        Ok(Some(replay))
    }

    /// Reads the newest checkpoint that is whole and not behind `version`, or version 0 if there is none.
    fn load_older(log: DeltaLog, version: u64, problem: &mut Option<TableError>) -> Result<Option<Replay>, TableError> {
        for (older, _) in checkpoint::listed(log)?.into_iter().rev().filter(|(older, _)| *older <= version) {
            match checkpoint::read(log, older) {
                Ok(replay) => return Ok(Some(replay)),
                Err(error @ (TableError::Damaged { .. } | TableError::Unsupported { .. })) => {
                    problem.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        log.read(0)?.map(|actions| Replay::create(log, actions)).transpose()
    }

    fn create(log: DeltaLog, actions: Vec<Action>) -> Result<Replay, TableError> {
        Replay::from_actions(0, actions).ok_or_else(|| TableError::Damaged {
            path: log.commit_path(0),
            problem: "it has no protocol or no metaData".to_owned(),
        })
    }

    /// Makes a state from all its actions; `None` without a protocol or metadata.
    pub(super) fn from_actions(version: u64, actions: Vec<Action>) -> Option<Replay> {
        let protocol = actions.iter().rev().find_map(|action| match action {
            Action::Protocol(protocol) => Some(protocol.clone()),
            _ => None,
        })?;
        let metadata = actions.iter().rev().find_map(|action| match action {
            Action::MetaData(metadata) => Some(metadata.clone()),
            _ => None,
        })?;
        let (transactions, adds, removes) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut replay = Replay { version, protocol, metadata, transactions, adds, removes };
        replay.apply(version, actions);
        Some(replay)
    }

    /// Applies the next version.
    pub(super) fn apply(&mut self, version: u64, actions: Vec<Action>) {
        self.version = version;
        for action in actions {
            match action {
                Action::Protocol(protocol) => self.protocol = protocol,
                Action::MetaData(metadata) => self.metadata = metadata,
                Action::Txn(txn) => {
                    self.transactions.insert(txn.app_id.clone(), txn);
                }
                Action::Add(add) => {
                    self.removes.remove(&add.path);
                    self.adds.insert(add.path.clone(), add);
                }
                Action::Remove(remove) => {
                    self.adds.remove(&remove.path);
                    self.removes.insert(remove.path.clone(), remove);
                }
            }
        }
    }

    /// Refuses a table that this reader would misread.
    pub(super) fn check(&self, log: DeltaLog) -> Result<(), TableError> {
        if self.protocol.min_reader_version > READER_VERSION_MAX {
            return Err(TableError::Unsupported {
                dir: log.dir.to_owned(),
                problem: format!(
                    "it asks for reader protocol {}, and {READER_VERSION_MAX} is the newest known here",
                    self.protocol.min_reader_version
                ),
            });
        }
        Ok(())
    }
}

/// A table begins with its log, so one that has files and no log has lost it. Taken for a new one it would be filled with less,
/// and its files would be garbage.
fn refuse_leftovers(log: DeltaLog) -> Result<(), TableError> {
    match log.data_files()?.into_keys().find(|path| FileName::parse(path).is_some()) {
        // Whoever made the file has made the log before: if it is there now, this is a table that has just begun.
        Some(file) if log.versions()?.is_empty() => Err(TableError::Damaged {
            path: log.commit_path(0),
            problem: format!(
                "it is missing with all that followed it, and files of the table are there, such as {file}"
            ),
        }),
        _ => Ok(()),
    }
}
