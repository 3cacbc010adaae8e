//! Rewind: the table's part of `tidemill restore`. What was committed behind a checkpoint's epoch is taken out, in one
//! version.
//!
//! ```text
//!   files      e10 [1..10]   e20 [11..20]   e30 [21..30]         to = 25, committed = 20
//!   after      e10           e20            -                    rows of 21..25 come from the checkpoint's buffer,
//!              generation + 1, txn{…@generation, 20}             those behind 25 from the log
//! ```
//! So all goes that was committed behind what the checkpoint counts as committed, also a file that has no rows behind the
//! checkpoint itself: it was not committed when the checkpoint was made, and its rows are in the buffer.
//!
//! Which generation follows is decided in the manifest before; so a rewind that is done again finds it, and does
//! nothing. A process that was written off and still writes finds another generation than its own, and stops.

use tidemill_engine::epoch::Epoch;
use tidemill_engine::sink::SinkError;
use tidemill_engine::storage::Storage;

use super::actions::{Add, Commit};
use super::identity::{Content, app_id, base_id, foreign_job};
use super::layout::check_owner;
use super::log::DeltaLog;
use super::opening::{check_protocol, removal, transaction};
use super::refused;
use super::replay::Replay;
use super::settle::settle;
use super::sink::tag;
use super::snapshot::{HI_EPOCH_TAG, LO_EPOCH_TAG};

/// Which table goes back, and how far.
#[derive(Clone, Copy, Debug)]
pub struct Rewind<'a> {
    /// The job that fills it, by the id of its log.
    pub job: &'a str,
    /// Its name.
    pub name: &'a str,
    /// The epoch of the checkpoint, for people.
    pub to: Epoch,
    /// What the checkpoint counts as committed in this table, its own decided commit included: files with rows behind it
    /// go. Those of before the checkpoint are in its buffer.
    pub committed: Epoch,
    /// The generation that the table's content has afterwards.
    pub generation: u64,
}

/// What [`rewind`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewound {
    /// Files that belong to the table no more.
    pub files_removed: usize,
    /// The table's newest version; `None` if there is no table.
    pub version: Option<u64>,
}

/// Takes out of the table in `dir` what was committed behind a checkpoint. Does nothing if its generation is reached.
pub fn rewind(storage: &dyn Storage, dir: &str, rewind: Rewind, now_ms: i64) -> Result<Rewound, SinkError> {
    let log = DeltaLog { storage, dir };
    let mut files_removed = 0;
    let replay = settle(log, rewind.name, |replay| {
        let Some(replay) = replay else { return Ok(None) };
        match decide(replay, rewind, now_ms).map_err(|problem| refused(rewind.name, problem))? {
            None => Ok(None),
            Some((removed, commit)) => {
                files_removed = removed;
                Ok(Some(commit))
            }
        }
    })?;
    Ok(Rewound { files_removed, version: replay.map(|replay| replay.version) })
}

/// Returns how many files go, and the commit that takes them out; `None` if it is done.
fn decide(replay: &Replay, rewind: Rewind, now_ms: i64) -> Result<Option<(usize, Commit)>, String> {
    let base_id = base_id(rewind.job, rewind.name);
    check_protocol(&replay.protocol)?;
    check_owner(&base_id, &replay.metadata)?;
    if let Some(other) = foreign_job(&base_id, &replay.transactions) {
        return Err(format!("the table on disk has rows of {other}, and this is {base_id}: nothing was removed"));
    }
    if rewind.committed > rewind.to {
        return Err(format!(
            "it had epoch {} already when the checkpoint of epoch {} was made, which therefore does not have the rows between: choose another checkpoint",
            rewind.committed, rewind.to
        ));
    }
    let content = Content::of(&replay.metadata)?;
    if content.generation >= rewind.generation {
        return Ok(None);
    }
    // An old copy of the folder: to say now that it has them would lose the rows in between.
    let last_committed = content.last_committed(&base_id, &replay.transactions);
    if last_committed < rewind.committed {
        return Err(format!(
            "it has rows up to epoch {last_committed} only, and the checkpoint of epoch {} counts on epoch {}: the table's folder is older than the checkpoints. Nothing was removed. Restore the folder as a whole from a backup; or move the table's away, and it is filled again as far as the log reaches back",
            rewind.to, rewind.committed
        ));
    }
    let mut gone: Vec<&Add> = Vec::new();
    for add in replay.adds.values() {
        let epoch = |key| tag(add, key).and_then(|text| text.parse().ok()).map(Epoch);
        let (Some(lo), Some(hi)) = (epoch(LO_EPOCH_TAG), epoch(HI_EPOCH_TAG)) else {
            return Err(format!(
                "{} was written by another program, which may have put rows of several epochs together: it cannot go back to epoch {}",
                add.path, rewind.to
            ));
        };
        if hi <= rewind.committed {
            continue;
        }
        if lo <= rewind.committed {
            return Err(format!(
                "{} has rows of epochs {lo} to {hi}, and the checkpoint says that epoch {} is the last one in the table: nothing was removed",
                add.path, rewind.committed
            ));
        }
        // Also what has rows of before the checkpoint only: they are in its buffer.
        gone.push(add);
    }
    let mut metadata = replay.metadata.clone();
    Content { generation: rewind.generation, ..content }.describe_in(&mut metadata.configuration);
    let txn = transaction(app_id(&base_id, rewind.generation), rewind.committed, now_ms)?;
    let count = gone.len();
    Ok(Some((count, removal("RESTORE", metadata, txn, gone.into_iter(), now_ms))))
}
