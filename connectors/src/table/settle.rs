//! Settling: one version that follows from what is there, written once, whoever else writes and whatever fails.
//!
//! ```text
//!   ┌─► sync, read the newest version ─► decide ─┬─ nothing left to do ─► settled
//!   │                                            └─ a body ─► put_new(v + 1)
//!   └──── ok, exists, or unknown: what is there says what happened ────┘
//! ```
//! The decision is a function of the table alone, so a crash anywhere in between, or another process that does the
//! same, changes nothing: the next round finds the version, and has nothing left to do.

use std::time::Duration;

use tidemill_engine::sink::SinkError;
use tidemill_engine::storage::StorageError;

use super::actions::Commit;
use super::log::DeltaLog;
use super::replay::Replay;
use super::{TableError, refused};

/// How often it looks again when others write at the same time, or an outcome was unknown.
const ROUNDS_MAX: u32 = 6;
/// Grows by two for each write whose outcome was unknown.
const BACK_OFF: Duration = Duration::from_millis(2);

/// Writes what `decide` returns until it returns `None`; then returns the table, durable as it was read.
pub(super) fn settle(
    log: DeltaLog,
    table: &str,
    mut decide: impl FnMut(Option<&Replay>) -> Result<Option<Commit>, SinkError>,
) -> Result<Option<Replay>, SinkError> {
    let mut failure = None;
    for round in 0..ROUNDS_MAX {
        let replay = read_durable(log).map_err(|error| error.into_sink_error(table))?;
        let Some(commit) = decide(replay.as_ref())? else { return Ok(replay) };
        match log.write(replay.map_or(0, |replay| replay.version + 1), &commit) {
            // Whoever made it, it is read in the next round.
            Ok(()) | Err(StorageError::Exists { .. }) => {}
            Err(error) if failed_sync(&error) => return Err(TableError::from(error).into_sink_error(table)),
            // Unknown: what is there is read in the next round, once it is durable.
            Err(error) => {
                failure = Some(error);
                std::thread::sleep(BACK_OFF * 2_u32.pow(round));
            }
        }
    }
    Err(match failure {
        Some(error) => TableError::from(error).into_sink_error(table),
        None => refused(table, "other writers change it all the time: stop them, or try again".to_owned()),
    })
}

/// Reads the newest version, and makes it durable first: decisions are about to be based on it.
pub(super) fn read_durable(log: DeltaLog) -> Result<Option<Replay>, TableError> {
    log.sync()?;
    Replay::load(log)
}

/// A failed sync is not repaired by another one that succeeds: stop, and recover from what is there.
pub(super) fn failed_sync(error: &StorageError) -> bool {
    matches!(error, StorageError::Io { action, .. } if action.starts_with("sync"))
}
