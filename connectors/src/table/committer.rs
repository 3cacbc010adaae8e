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

use std::sync::Arc;
use std::time::Duration;

use tidemill_engine::epoch::Epoch;
use tidemill_engine::seeded_bugs::{SeededBug, is_planted};
use tidemill_engine::sink::SinkError;
use tidemill_engine::storage::StorageError;

use super::actions::{Action, Add, Commit, CommitInfo, MetaData};
use super::identity::{Content, app_id, epoch_of};
use super::log::DeltaLog;
use super::opening::{changed_refusal, check_protocol, transaction};
use super::replay::Replay;
use super::settle::failed_sync;
use super::sink::{Shared, tag};
use super::snapshot::LO_EPOCH_TAG;
use super::{TableError, refused};

/// How many versions of others one commit steps over before it gives up.
const FOREIGN_COMMITS_MAX: usize = 100;
/// How often one version is tried when its outcome was unknown and it turned out not to be there.
const UNKNOWN_OUTCOMES_MAX: u32 = 5;
/// Grows by two for each such try.
const BACK_OFF: Duration = Duration::from_millis(5);

/// See the module.
pub(super) struct Committer {
    shared: Arc<Shared>,
    content: Content,
    app_id: String,
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
    /// Makes the committer of a table that is as it should be.
    pub(super) fn new(shared: Arc<Shared>, replay: &Replay) -> Result<Committer, SinkError> {
        let content = Content::of(&replay.metadata).map_err(|problem| refused(&shared.spec.name, problem))?;
        let base_id = shared.spec.base_id();
        Ok(Committer {
            content,
            app_id: app_id(&base_id, content.generation),
            version: replay.version,
            last_committed: content.last_committed(&base_id, &replay.transactions),
            certain: true,
            shared,
        })
    }

    /// The last epoch that is committed.
    pub(super) fn last_committed(&self) -> Epoch {
        self.last_committed
    }

    /// The last version.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Which content is filled.
    pub(super) fn content(&self) -> Content {
        self.content
    }

    /// Makes files of epochs up to `epoch` part of the table. Does nothing if that epoch is committed. Returns whether
    /// this call wrote a version.
    pub(super) fn commit(&mut self, epoch: Epoch, adds: &[Add]) -> Result<bool, SinkError> {
        let shared = Arc::clone(&self.shared);
        let log = shared.log();
        if !self.certain {
            self.catch_up(log)?;
        }
        if epoch <= self.last_committed {
            return Ok(false);
        }
        if let Some(lo) = adds.iter().filter_map(lo_epoch).min().filter(|lo| *lo <= self.last_committed) {
            return Err(self.overtaken(self.last_committed, lo));
        }
        let commit = self.body(epoch, adds, shared.now_ms())?;
        // Until the end is reached, an early return leaves the outcome open.
        self.certain = false;
        let written = self.write(log, epoch, &commit)?;
        self.certain = true;
        Ok(written)
    }

    fn write(&mut self, log: DeltaLog, epoch: Epoch, commit: &Commit) -> Result<bool, SinkError> {
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
            if failure.is_some() && is_planted(SeededBug::UnknownOutcomeSkipped) {
                self.version = version;
                continue;
            }
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
            match judge(&actions, &self.app_id, epoch) {
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
                Action::Protocol(protocol) => check_protocol(protocol).map_err(|problem| self.refused(problem))?,
                Action::MetaData(metadata) => self.check_metadata(metadata)?,
                Action::Txn(txn) if txn.app_id == self.app_id => self.last_committed = epoch_of(txn),
                Action::Txn(_) | Action::Add(_) | Action::Remove(_) => {}
            }
        }
        self.version = version;
        Ok(())
    }

    fn body(&self, epoch: Epoch, adds: &[Add], now_ms: i64) -> Result<Commit, SinkError> {
        let txn = transaction(self.app_id.clone(), epoch, now_ms).map_err(|problem| self.refused(problem))?;
        let parameters =
            [("outputMode", "Append".to_owned()), ("queryId", self.app_id.clone()), ("epochId", epoch.to_string())];
        let info = CommitInfo::new(now_ms, "STREAMING UPDATE", &parameters);
        let adds = adds.iter().cloned().map(Action::Add);
        Ok(Commit::new(info, std::iter::once(Action::Txn(txn)).chain(adds).collect()))
    }

    fn check_metadata(&self, found: &MetaData) -> Result<(), SinkError> {
        let Shared { spec, layout, .. } = &*self.shared;
        if let Some(what) = layout.compare(spec, found).map_err(|problem| self.refused(problem))? {
            return Err(self.refused(changed_refusal(&what)));
        }
        match Content::of(found) {
            Ok(content) if content == self.content => Ok(()),
            Ok(_) => Err(self.refused("another process has replaced its content: stop one of the two".to_owned())),
            Err(problem) => Err(self.refused(problem)),
        }
    }

    /// Two processes run the same job, or one was written off and is not dead.
    fn overtaken(&self, other: Epoch, ours: Epoch) -> SinkError {
        self.refused(format!(
            "another process has committed epoch {other} for this job, while this one holds rows of epoch {ours}: stop one of the two"
        ))
    }

    fn refused(&self, problem: String) -> SinkError {
        refused(&self.shared.spec.name, problem)
    }

    fn storage_error(&self, source: StorageError) -> SinkError {
        self.table_error(source.into())
    }

    fn table_error(&self, error: TableError) -> SinkError {
        error.into_sink_error(&self.shared.spec.name)
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

/// The first epoch with rows in a file of ours.
fn lo_epoch(add: &Add) -> Option<Epoch> {
    tag(add, LO_EPOCH_TAG)?.parse().ok().map(Epoch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::actions::Txn;

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
