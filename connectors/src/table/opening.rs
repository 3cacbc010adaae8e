//! Opening in two steps: what is there, then what becomes of it. In between the job's recovery decides.
//!
//! ```text
//!   look ─┬─ New ───────────────────────────────► begin(base): created
//!         ├─ Same { base, … } ─┬─ the same base ─► begin(base): continued, nothing is written
//!         │                    └─ another base ──► begin(base): replaced
//!         ├─ Changed { what } ──────────────────► begin(base): replaced
//!         └─ another's, damaged, too new ───────► refused, and nothing is touched
//! ```
//! *Replaced* is one version: all live files are removed, the metadata is that of the view, and the generation is one
//! higher. The version before it keeps the old rows until its files are cleaned away.

use std::fmt;

use tidemill_engine::epoch::Epoch;
use tidemill_engine::sink::SinkError;

use super::actions::{Action, Add, Commit, CommitInfo, MetaData, Protocol, Remove, Txn};
use super::identity::{Content, app_id, foreign_job};
use super::layout::{Layout, TableSpec};
use super::log::DeltaLog;
use super::refused;
use super::replay::{READER_VERSION_MAX, Replay};
use super::settle::{read_durable, settle};

/// Newest writer protocol whose rules are kept here.
pub(super) const WRITER_VERSION_MAX: i32 = 2;

/// What is there before a job begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// No table.
    New,
    /// The table, as the view wants it.
    Same {
        /// How often its content was replaced.
        generation: u64,
        /// The epoch that its content starts behind.
        base: Epoch,
        /// The last epoch in it.
        last_committed: Epoch,
    },
    /// The table, as another form of the view wanted it.
    Changed {
        /// A sentence without its end: what is not the same.
        what: String,
    },
}

/// What [`super::TableSink::begin`] did, as a sentence to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// There was no table.
    Created,
    /// Nothing was written.
    Continued {
        /// The last epoch in the table.
        at: Epoch,
    },
    /// The table's content was removed, and starts anew.
    Replaced {
        /// The version that still has the rows from before.
        version: u64,
    },
}

impl fmt::Display for Begun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Begun::Created => write!(f, "created"),
            Begun::Continued { at } => write!(f, "continued at epoch {at}"),
            Begun::Replaced { version } => write!(f, "replaced; version {version} still has the rows from before"),
        }
    }
}

/// Looks at a table. Makes durable what it sees, and writes nothing.
pub(super) fn look(log: DeltaLog, spec: &TableSpec, layout: &Layout) -> Result<Found, SinkError> {
    let replay = read_durable(log).map_err(|error| error.into_sink_error(&spec.name))?;
    judge(replay.as_ref(), spec, layout).map_err(|problem| refused(&spec.name, problem))
}

fn judge(replay: Option<&Replay>, spec: &TableSpec, layout: &Layout) -> Result<Found, String> {
    let Some(replay) = replay else { return Ok(Found::New) };
    check_protocol(&replay.protocol)?;
    let changed = layout.compare(spec, &replay.metadata)?;
    let base_id = spec.base_id();
    // One table is filled by one job.
    if let Some(other) = foreign_job(&base_id, &replay.transactions) {
        return Err(format!(
            "the table on disk has rows of {other}, and this is {base_id}: choose another name or location, or move the folder away"
        ));
    }
    if let Some(what) = changed {
        return Ok(Found::Changed { what });
    }
    let content = Content::of(&replay.metadata)?;
    let last_committed = content.last_committed(&base_id, &replay.transactions);
    Ok(Found::Same { generation: content.generation, base: content.base, last_committed })
}

/// Makes the table what `spec` says, with a content that starts behind `base`. `new_id` is used for a new one.
pub(super) fn begin(
    log: DeltaLog,
    spec: &TableSpec,
    layout: &Layout,
    base: Epoch,
    new_id: &str,
    now_ms: i64,
) -> Result<(Begun, Replay), SinkError> {
    let mut begun = None;
    let replay = settle(log, &spec.name, |replay| {
        let found = judge(replay, spec, layout).map_err(|problem| refused(&spec.name, problem))?;
        match (found, replay) {
            (Found::Same { base: same, last_committed, .. }, _) if same == base => {
                begun.get_or_insert(Begun::Continued { at: last_committed });
                Ok(None)
            }
            (Found::New, _) | (_, None) => {
                begun = Some(Begun::Created);
                Ok(Some(creation(spec, layout, base, new_id, now_ms)))
            }
            (Found::Same { .. } | Found::Changed { .. }, Some(replay)) => {
                begun = Some(Begun::Replaced { version: replay.version });
                replacement(replay, spec, layout, base, now_ms)
                    .map(Some)
                    .map_err(|problem| refused(&spec.name, problem))
            }
        }
    })?;
    let (Some(begun), Some(replay)) = (begun, replay) else {
        return Err(refused(&spec.name, "its folder was removed while it was opened".to_owned()));
    };
    Ok((begun, replay))
}

fn creation(spec: &TableSpec, layout: &Layout, base: Epoch, new_id: &str, now_ms: i64) -> Commit {
    let protocol = Protocol { min_reader_version: READER_VERSION_MAX, min_writer_version: WRITER_VERSION_MAX };
    let content = Content { generation: 0, base };
    let metadata = layout.metadata(spec, new_id.to_owned(), Some(now_ms), content);
    let info = CommitInfo::new(now_ms, "CREATE TABLE", &[]);
    Commit::new(info, vec![Action::Protocol(protocol), Action::MetaData(metadata)])
}

fn replacement(replay: &Replay, spec: &TableSpec, layout: &Layout, base: Epoch, now_ms: i64) -> Result<Commit, String> {
    let generation = Content::of(&replay.metadata)?.generation + 1;
    let metadata =
        layout.metadata(spec, replay.metadata.id.clone(), replay.metadata.created_time, Content { generation, base });
    let txn = transaction(app_id(&spec.base_id(), generation), base, now_ms)?;
    Ok(removal("REPLACE TABLE", metadata, txn, replay.adds.values(), now_ms))
}

/// Returns the transaction that says how far the content goes.
pub(super) fn transaction(app_id: String, epoch: Epoch, now_ms: i64) -> Result<Txn, String> {
    let version = i64::try_from(epoch.0).map_err(|_| format!("epoch {epoch} is too large"))?;
    Ok(Txn { app_id, version, last_updated: Some(now_ms) })
}

/// Returns the commit that takes files out and gives the table other metadata, at once.
pub(super) fn removal<'a>(
    operation: &str,
    metadata: MetaData,
    txn: Txn,
    files: impl Iterator<Item = &'a Add>,
    now_ms: i64,
) -> Commit {
    let removes = files.map(|add| {
        Action::Remove(Remove {
            path: add.path.clone(),
            deletion_timestamp: Some(now_ms),
            data_change: true,
            extended_file_metadata: Some(true),
            partition_values: Some(add.partition_values.clone()),
            size: Some(add.size),
        })
    });
    let actions = [Action::MetaData(metadata), Action::Txn(txn)].into_iter().chain(removes).collect();
    let mut info = CommitInfo::new(now_ms, operation, &[]);
    info.is_blind_append = Some(false);
    Commit::new(info, actions)
}

/// Refuses a table that a writer of this version would break.
pub(super) fn check_protocol(found: &Protocol) -> Result<(), String> {
    if found.min_reader_version <= READER_VERSION_MAX && found.min_writer_version <= WRITER_VERSION_MAX {
        return Ok(());
    }
    Err(format!(
        "the table on disk asks for reader protocol {} and writer protocol {}, and this program keeps {READER_VERSION_MAX} and {WRITER_VERSION_MAX}: choose another name or location",
        found.min_reader_version, found.min_writer_version
    ))
}

/// What to do with a table that the view does not fit any more.
pub(super) fn changed_refusal(what: &str) -> String {
    format!("{what}: give the view a new name or location, or move the folder away to rebuild it from the log")
}
