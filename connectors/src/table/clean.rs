//! Cleaning: what nobody needs any more is deleted, judged by the table's own log and nothing else.
//!
//! | found | deleted when |
//! |---|---|
//! | a file that the table names | never |
//! | a file of this process | never |
//! | a file that was taken out | [`RETENTION_MS`] later: questions to older versions read it until then |
//! | a file that was prepared for epoch e and is not in the table | the table has epoch e: nobody can commit it any more |
//! | a version of the log, a checkpoint | it lies before a whole checkpoint that is older than [`RETENTION_MS`], and is not among the two newest |
//! | anything else | never: it is not ours |
//!
//! The third rule from below needs no clock and no list of living processes: a process that was written off may clean
//! too, and cannot touch what its successor has prepared, since that is for epochs to come. Each deletion stands for
//! itself, so a crash in between leaves only less to do.

use std::collections::BTreeMap;

use tidemill_engine::seeded_bugs::{SeededBug, is_planted};
use tidemill_engine::sink::Cleaned;

use super::TableError;
use super::actions::commit_time_ms;
use super::checkpoint;
use super::identity::Content;
use super::log::{COMMIT_SUFFIX, DeltaLog};
use super::path::{FileName, decode_path};
use super::replay::Replay;
use super::settle::read_durable;

/// How long a file that was taken out stays, and how far back a version can be read: 24 hours, longer than any question
/// runs.
pub(super) const RETENTION_MS: i64 = 24 * 60 * 60 * 1000;

/// Deletes what nobody needs. `base_id` is who fills the table, `incarnation` who cleans.
pub(super) fn clean(log: DeltaLog, base_id: &str, incarnation: u64, now_ms: i64) -> Result<Cleaned, TableError> {
    let mut cleaned = Cleaned::default();
    // Listed before the log is read: what another process prepares and commits from here on is not judged.
    let on_disk = log.data_files()?;
    // Durable before it is believed: a power loss must not bring back a table that needs what was deleted.
    let Some(replay) = read_durable(log)? else { return Ok(cleaned) };
    for (path, why) in unnamed(log, base_id, &replay, &on_disk)? {
        let own = FileName::parse(&path).is_some_and(|name| name.incarnation == incarnation);
        if own || !why.is_deletable(now_ms) {
            continue;
        }
        log.storage.delete(&log.table_path(&path))?;
        tracing::debug!(file = log.table_path(&path), ?why, "deleted");
        cleaned.files += 1;
        cleaned.bytes += on_disk[&path];
    }
    clean_log(log, now_ms, &mut cleaned)?;
    Ok(cleaned)
}

/// Why a file that is there is not in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unnamed {
    /// It was taken out, at this time if its remover said so.
    Removed {
        /// Milliseconds.
        at_ms: Option<i64>,
    },
    /// It was prepared for an epoch that the table has, and was not committed.
    Abandoned,
    /// It was prepared for an epoch to come.
    Pending,
    /// It is not a file of this program.
    Unknown,
}

impl Unnamed {
    fn is_deletable(self, now_ms: i64) -> bool {
        match self {
            Unnamed::Removed { at_ms } => at_ms.is_some_and(|at_ms| at_ms <= now_ms - RETENTION_MS),
            Unnamed::Abandoned => true,
            Unnamed::Pending => is_planted(SeededBug::PreparedFileCleaned),
            Unnamed::Unknown => false,
        }
    }
}

/// Finds the files that are there and not in the table.
pub(super) fn unnamed(
    log: DeltaLog,
    base_id: &str,
    replay: &Replay,
    on_disk: &BTreeMap<String, u64>,
) -> Result<BTreeMap<String, Unnamed>, TableError> {
    let content = Content::of(&replay.metadata)
        .map_err(|problem| TableError::Unsupported { dir: log.dir.to_owned(), problem })?;
    let committed = content.last_committed(base_id, &replay.transactions);
    let mut named = BTreeMap::new();
    for remove in replay.removes.values() {
        named.insert(decode_path(log.dir, &remove.path)?, Some(remove.deletion_timestamp));
    }
    // Last, since a live file counts, however its path was written when it was taken out.
    for add in replay.adds.values() {
        named.insert(decode_path(log.dir, &add.path)?, None);
    }
    let why = |path: &str| match (named.get(path), FileName::parse(path)) {
        (Some(None), _) => None,
        (Some(Some(at_ms)), _) => Some(Unnamed::Removed { at_ms: *at_ms }),
        (None, Some(name)) if name.epoch <= committed => Some(Unnamed::Abandoned),
        (None, Some(_)) => Some(Unnamed::Pending),
        (None, None) => Some(Unnamed::Unknown),
    };
    Ok(on_disk.keys().filter_map(|path| Some((path.clone(), why(path)?))).collect())
}

/// Deletes versions and checkpoints before the one that all readers can start from.
fn clean_log(log: DeltaLog, now_ms: i64, cleaned: &mut Cleaned) -> Result<(), TableError> {
    let checkpoints = checkpoint::listed(log)?;
    let Some(cut) = cut(log, &checkpoints, now_ms)? else { return Ok(()) };
    let commits = log.listed(COMMIT_SUFFIX)?.into_iter();
    let commits = commits.map(|(version, bytes)| (version, bytes, log.commit_path(version)));
    let checkpoints = checkpoints.into_iter();
    let checkpoints = checkpoints.map(|(version, bytes)| (version, bytes, log.path(&checkpoint::file_name(version))));
    // Oldest first, and versions before the checkpoints: what is left begins at one place.
    for (_, bytes, path) in commits.chain(checkpoints).filter(|(version, _, _)| *version < cut) {
        log.storage.delete(&path)?;
        cleaned.files += 1;
        cleaned.bytes += bytes;
    }
    Ok(())
}

/// Returns the newest checkpoint that is old enough, has a newer one after it, and is whole.
fn cut(log: DeltaLog, checkpoints: &[(u64, u64)], now_ms: i64) -> Result<Option<u64>, TableError> {
    let Some((_newest, older)) = checkpoints.split_last() else { return Ok(None) };
    let mut candidates = Vec::new();
    for (version, _) in older {
        let commit = log.get(&format!("{version:020}{COMMIT_SUFFIX}"))?;
        match commit.and_then(|commit| commit_time_ms(&commit)) {
            Some(written_ms) if written_ms <= now_ms - RETENTION_MS => candidates.push(*version),
            // The ones after it are younger.
            Some(_) => break,
            None => {}
        }
    }
    for version in candidates.into_iter().rev() {
        match checkpoint::read(log, version) {
            Ok(_) => return Ok(Some(version)),
            Err(TableError::Storage(error)) => return Err(error.into()),
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "kept what lies before it"),
        }
    }
    Ok(None)
}
