//! The committer: writes versions of one table, and never guesses what happened to one.
//!
//! ```text
//!                    put_new(v)
//!        ┌───────────── ok ──────────────────────────────► committed
//!        │              exists ─► read v ─┬─ our txn, epoch ≥ ours ─► committed (an earlier try, or a twin)
//!   v = last + 1                          ├─ our txn, epoch < ours ─► overtaken: two processes; stop
//!        │                                └─ another's ─► is it still our table? ─► v + 1
//!        └───────────── any other error ─► unknown ─► read v ─┬─ there ─► as above
//!                                                             └─ not there ─► the same v, the same body
//! ```
//! After an error that leaves the outcome open the committer reads the log from the last version it is sure of before
//! it does anything else.

use std::collections::BTreeMap;
use std::time::Duration;

use tidemill_engine::clock::Clock;
use tidemill_engine::epoch::Epoch;
use tidemill_engine::sink::SinkError;
use tidemill_engine::storage::{Storage, StorageError};

use super::TableError;
use super::actions::{Action, Add, CommitInfo, MetaData, Protocol, Txn, encode_commit};
use super::layout::{Layout, TableSpec};
use super::log::DeltaLog;
use super::replay::{READER_VERSION_MAX, Replay};
use super::snapshot::LO_EPOCH_TAG;

/// Newest writer protocol whose rules are kept here.
const WRITER_VERSION_MAX: i32 = 2;
/// How many versions of others one commit steps over before it gives up.
const FOREIGN_COMMITS_MAX: usize = 100;
/// How often one version is tried when its outcome was unknown and it turned out not to be there.
const UNKNOWN_OUTCOMES_MAX: u32 = 5;
/// Grows by two for each such try.
const BACK_OFF: Duration = Duration::from_millis(5);
/// How often an open looks again when others create the same table at the same time.
const CREATE_ATTEMPTS_MAX: usize = 5;

/// See the module.
pub(super) struct Committer {
    spec: TableSpec,
    layout: Layout,
    dir: String,
    version: u64,
    last_committed: Epoch,
    /// Whether `version` is certainly the last one written by this process.
    certain: bool,
}

/// What was found where our version should go.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Ours,
    Overtaken(Epoch),
    Foreign,
}

impl Committer {
    /// Opens the table or creates it. `new_id` is used for a new one.
    pub(super) fn open(
        storage: &dyn Storage,
        dir: &str,
        spec: TableSpec,
        layout: Layout,
        clock: &dyn Clock,
        new_id: String,
    ) -> Result<Committer, SinkError> {
        let mut committer =
            Committer { spec, layout, dir: dir.to_owned(), version: 0, last_committed: Epoch::NONE, certain: true };
        let log = DeltaLog { storage, dir };
        // A version may be visible and not durable yet; decisions are about to be based on it.
        log.sync().map_err(|error| committer.storage_error(error))?;
        let mut attempt = 0;
        let replay = loop {
            let listed = log.versions().map_err(|error| committer.storage_error(error))?;
            if let Some(replay) = Replay::load(log).map_err(|error| committer.table_error(error))? {
                committer.check_gaps(log, &listed, replay.version)?;
                break replay;
            }
            attempt += 1;
            if attempt > CREATE_ATTEMPTS_MAX {
                return Err(committer.refused("its folder is made and removed by others all the time".to_owned()));
            }
            let commit = committer.creation(clock.now_us() / 1_000, &new_id);
            match log.write(0, &commit) {
                // Whoever made it, it is read at the next round.
                Ok(()) | Err(StorageError::Exists { .. }) => {}
                Err(error) if attempt == CREATE_ATTEMPTS_MAX || failed_sync(&error) => {
                    return Err(committer.storage_error(error));
                }
                // Unknown: what is there is read at the next round, once it is durable.
                Err(_) => {}
            }
            log.sync().map_err(|error| committer.storage_error(error))?;
        };
        committer.check(&replay.protocol, &replay.metadata)?;
        committer.check_foreign_jobs(&replay.transactions)?;
        committer.version = replay.version;
        if let Some(txn) = replay.transactions.get(&committer.spec.app_id) {
            committer.last_committed = epoch_of(txn);
        }
        Ok(committer)
    }

    /// The last epoch that is committed.
    pub(super) fn last_committed(&self) -> Epoch {
        self.last_committed
    }

    /// The last version.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// What the table looks like.
    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What the table is.
    pub(super) fn spec(&self) -> &TableSpec {
        &self.spec
    }

    /// Makes files of epochs up to `epoch` part of the table. Does nothing if that epoch is committed. Returns whether
    /// this call wrote a version.
    pub(super) fn commit(
        &mut self,
        storage: &dyn Storage,
        epoch: Epoch,
        adds: &[Add],
        now_ms: i64,
    ) -> Result<bool, SinkError> {
        let dir = self.dir.clone();
        let log = DeltaLog { storage, dir: &dir };
        if !self.certain {
            self.catch_up(log)?;
        }
        if epoch <= self.last_committed {
            return Ok(false);
        }
        if let Some(lo) = adds.iter().filter_map(lo_epoch).min().filter(|lo| *lo <= self.last_committed) {
            return Err(self.overtaken(self.last_committed, lo));
        }
        let commit = self.body(epoch, adds, now_ms)?;
        // Until the end is reached, an early return leaves the outcome open.
        self.certain = false;
        let written = self.write(log, epoch, &commit)?;
        self.certain = true;
        Ok(written)
    }

    fn write(&mut self, log: DeltaLog, epoch: Epoch, commit: &[u8]) -> Result<bool, SinkError> {
        let (mut unknown, mut foreign) = (0, 0);
        loop {
            let version = self.version + 1;
            let failure = match log.write(version, commit) {
                Ok(()) => {
                    self.version = version;
                    self.last_committed = epoch;
                    return Ok(true);
                }
                Err(StorageError::Exists { .. }) => None,
                Err(error) if failed_sync(&error) => return Err(self.storage_error(error)),
                Err(error) => Some(error),
            };
            // Visible is not yet durable, and whoever wrote it may have died before its own sync.
            log.sync().map_err(|error| self.storage_error(error))?;
            let Some(actions) = log.read(version).map_err(|error| self.table_error(error))? else {
                unknown += 1;
                if unknown > UNKNOWN_OUTCOMES_MAX {
                    let path = log.commit_path(version);
                    return Err(self.storage_error(failure.unwrap_or(StorageError::Missing { path })));
                }
                std::thread::sleep(BACK_OFF * 2_u32.pow(unknown));
                continue;
            };
            match judge(&actions, &self.spec.app_id, epoch) {
                Found::Ours => {
                    self.step(version, &actions)?;
                    return Ok(true);
                }
                Found::Overtaken(other) => return Err(self.overtaken(other, epoch)),
                Found::Foreign => self.step(version, &actions)?,
            }
            foreign += 1;
            if foreign > FOREIGN_COMMITS_MAX {
                return Err(
                    self.refused(format!("other writers took {foreign} versions in a row: stop them, or try again"))
                );
            }
        }
    }

    /// Reads what was written since the last version that is certain.
    fn catch_up(&mut self, log: DeltaLog) -> Result<(), SinkError> {
        log.sync().map_err(|error| self.storage_error(error))?;
        while let Some(actions) = log.read(self.version + 1).map_err(|error| self.table_error(error))? {
            self.step(self.version + 1, &actions)?;
        }
        self.certain = true;
        Ok(())
    }

    /// Takes over a version that is there, and refuses to go on if the table is ours no more.
    fn step(&mut self, version: u64, actions: &[Action]) -> Result<(), SinkError> {
        for action in actions {
            match action {
                Action::Protocol(protocol) => self.check_protocol(protocol)?,
                Action::MetaData(metadata) => self.check_metadata(metadata)?,
                Action::Txn(txn) if txn.app_id == self.spec.app_id => self.last_committed = epoch_of(txn),
                Action::Txn(_) | Action::Add(_) | Action::Remove(_) => {}
            }
        }
        self.version = version;
        Ok(())
    }

    fn body(&self, epoch: Epoch, adds: &[Add], now_ms: i64) -> Result<Vec<u8>, SinkError> {
        let version = i64::try_from(epoch.0).map_err(|_| self.refused(format!("epoch {epoch} is too large")))?;
        let txn = Txn { app_id: self.spec.app_id.clone(), version, last_updated: Some(now_ms) };
        let parameters = [
            ("outputMode", "Append".to_owned()),
            ("queryId", self.spec.app_id.clone()),
            ("epochId", epoch.to_string()),
        ];
        let info = CommitInfo::new(now_ms, "STREAMING UPDATE", &parameters);
        let adds = adds.iter().cloned().map(Action::Add);
        Ok(encode_commit(info, std::iter::once(Action::Txn(txn)).chain(adds).collect()))
    }

    fn creation(&self, now_ms: i64, new_id: &str) -> Vec<u8> {
        let protocol = Protocol { min_reader_version: READER_VERSION_MAX, min_writer_version: WRITER_VERSION_MAX };
        let metadata = self.layout.metadata(&self.spec, new_id.to_owned(), now_ms);
        let info = CommitInfo::new(now_ms, "CREATE TABLE", &[]);
        encode_commit(info, vec![Action::Protocol(protocol), Action::MetaData(metadata)])
    }

    fn check(&self, protocol: &Protocol, metadata: &MetaData) -> Result<(), SinkError> {
        self.check_protocol(protocol)?;
        self.check_metadata(metadata)
    }

    fn check_protocol(&self, found: &Protocol) -> Result<(), SinkError> {
        if found.min_reader_version <= READER_VERSION_MAX && found.min_writer_version <= WRITER_VERSION_MAX {
            return Ok(());
        }
        Err(self.refused(format!(
            "the table on disk asks for reader protocol {} and writer protocol {}, and this program keeps {READER_VERSION_MAX} and {WRITER_VERSION_MAX}: choose another name or location",
            found.min_reader_version, found.min_writer_version
        )))
    }

    fn check_metadata(&self, found: &MetaData) -> Result<(), SinkError> {
        self.layout.mismatch(&self.spec, found).map_or(Ok(()), |problem| Err(self.refused(problem)))
    }

    /// One table is filled by one job: the epochs of another mean something else.
    fn check_foreign_jobs(&self, transactions: &BTreeMap<String, Txn>) -> Result<(), SinkError> {
        let other = transactions.keys().find(|app_id| app_id.starts_with("tidemill/") && **app_id != self.spec.app_id);
        other.map_or(Ok(()), |other| {
            Err(self.refused(format!(
                "the table on disk has rows of {other}, and this is {}: choose another name or location, or move the folder away",
                self.spec.app_id
            )))
        })
    }

    /// A version that is listed and cannot be reached means that one before it is lost.
    fn check_gaps(&self, log: DeltaLog, listed: &[u64], version: u64) -> Result<(), SinkError> {
        match listed.iter().find(|listed| **listed > version) {
            None => Ok(()),
            Some(beyond) => Err(self.table_error(TableError::Damaged {
                path: log.commit_path(version + 1),
                problem: format!("it is missing, and version {beyond} is there"),
            })),
        }
    }

    /// Two processes run the same job, or one was written off and is not dead.
    fn overtaken(&self, other: Epoch, ours: Epoch) -> SinkError {
        self.refused(format!(
            "another process has committed epoch {other} for this job, while this one holds rows of epoch {ours}: stop one of the two"
        ))
    }

    fn refused(&self, problem: String) -> SinkError {
        SinkError::Refused { table: self.spec.name.clone(), problem }
    }

    fn storage_error(&self, source: StorageError) -> SinkError {
        SinkError::Storage { table: self.spec.name.clone(), source }
    }

    fn table_error(&self, error: TableError) -> SinkError {
        error.into_sink_error(&self.spec.name)
    }
}

/// Decides whose version this is.
fn judge(actions: &[Action], app_id: &str, epoch: Epoch) -> Found {
    let ours = actions.iter().find_map(|action| match action {
        Action::Txn(txn) if txn.app_id == app_id => Some(epoch_of(txn)),
        _ => None,
    });
    match ours {
        None => Found::Foreign,
        Some(found) if found >= epoch => Found::Ours,
        Some(found) => Found::Overtaken(found),
    }
}

/// A failed sync is not repaired by another one that succeeds: stop, and recover from what is there.
fn failed_sync(error: &StorageError) -> bool {
    matches!(error, StorageError::Io { action, .. } if action.starts_with("sync"))
}

/// The first epoch with rows in a file of ours.
fn lo_epoch(add: &Add) -> Option<Epoch> {
    add.tags.as_ref()?.get(LO_EPOCH_TAG)?.as_deref()?.parse().ok().map(Epoch)
}

fn epoch_of(txn: &Txn) -> Epoch {
    Epoch(u64::try_from(txn.version).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_judged_by_its_transaction() {
        let txn = |app_id: &str, version| Action::Txn(Txn { app_id: app_id.to_owned(), version, last_updated: None });
        for (actions, expected) in [
            (vec![], Found::Foreign),
            (vec![txn("them", 9)], Found::Foreign),
            (vec![txn("them", 9), txn("us", 5)], Found::Ours),
            (vec![txn("us", 6)], Found::Ours),
            (vec![txn("us", 4)], Found::Overtaken(Epoch(4))),
        ] {
            assert_eq!(judge(&actions, "us", Epoch(5)), expected);
        }
    }
}
