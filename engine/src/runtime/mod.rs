//! The runtime: a running job, from its start to its end.
//!
//! Threads that compute never wait, and those that wait never compute:
//!
//! ```text
//!   source tasks (tokio) ─► intake ─► recorder (thread) ─► bridge ─► workers (timely) ─► egress (threads per table)
//!        ▲ receipts                     │ log, fdatasync                 │ snapshots           ▲ prepare, commit
//!        └──────────────────────────────┤                                ▼                     ▼
//!                                       └─── marks ─────────────► checkpointer (thread): packs, manifest
//! ```
//!
//! Everything between two of them is bounded: bytes queued for the log, epochs in the dataflow, batches queued for a
//! table. A slow table therefore holds the dataflow back, that holds the recorder back, and that the sockets.
//!
//! In a [`simulation`] the same threads run one at a time, in the order that a seed gives.

mod bridge;
mod buffer;
mod checkpointer;
mod egress;
mod intake;
mod job;
mod kept;
mod marks;
mod notes;
mod outlet;
mod outlook;
mod positions;
mod progress;
mod recorded_time;
mod recorder;
mod restart;
pub mod simulation;
mod starting;
mod status;
#[cfg(test)]
mod tests;
mod turns;
mod worker;

pub use job::{Job, LOG_FOLDER};
pub use outlook::{Fate, Outlook, Reach};
pub use restart::foresee;
pub use status::{
    CheckpointStatus, DedupStatus, JobStatus, Live, SourceStatus, Subscription, TableStatus, WindowStatus,
};

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use tokio::sync::broadcast;

use crate::checkpoint::CheckpointError;
use crate::clock::{Clock, Dice};
use crate::dataflow::{Blame, Failure};
use crate::epoch::Epoch;
use crate::error::with_causes;
use crate::fence::Fenced;
use crate::ingest::{LogError, LogOptions};
use crate::sink::SinkError;
use crate::source::SourceError;
use crate::storage::{Storage, StorageError};

/// How a job runs. Nothing here changes a result.
#[derive(Clone)]
pub struct JobOptions {
    /// The data folder: the log lies in `log/`.
    pub storage: Arc<dyn Storage>,
    /// The clock that stamps arrivals.
    pub clock: Arc<dyn Clock>,
    /// The dice that a new log's id is thrown with.
    pub dice: Arc<dyn Dice>,
    /// Timely worker threads, at least 1.
    pub workers: usize,
    /// Time between two checkpoints: what a restart has to replay.
    pub checkpoint_interval: Duration,
    /// Time between two commits of a table: how soon others see its rows.
    pub commit_interval: Duration,
    /// Threads that write the files of a table, at most as many as there are workers; at least 1.
    pub table_writers: usize,
    /// How the log is written.
    pub log: LogOptions,
    /// Where rows of a table are shown, for those who want to see the first one: [`Job::subscribe`] may come too late.
    pub live: BTreeMap<String, broadcast::Sender<(Epoch, RecordBatch)>>,
    /// Longest time an epoch stays open once it has rows.
    pub epoch_interval: Duration,
}

/// Why a job could not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The plan cannot run.
    #[error("{0}")]
    Plan(String),
    /// A source failed.
    #[error("source {source_name}: {error}")]
    Source {
        /// Which one.
        source_name: String,
        /// Why.
        error: SourceError,
    },
    /// A sink failed.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The data folder failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The log is damaged, or was made by a newer version.
    #[error("{0}")]
    Log(String),
    /// A broker, a file, another process: the text says what to do.
    #[error("{0}")]
    Environment(String),
    /// The disk failed or is full. What was acknowledged is safe; a later start goes on.
    #[error("{reason}")]
    Disk {
        /// What was tried, where, and why it failed.
        reason: String,
        /// Whether there is no room left.
        is_full: bool,
    },
    /// An operator failed: a bug of ours or an expression that cannot be evaluated.
    #[error("{0}")]
    Operator(String),
}

impl JobError {
    /// Returns whether the disk failed: what was acknowledged is safe, and a later start goes on. Nothing else is
    /// healed by starting again.
    pub fn is_disk_failure(&self) -> bool {
        matches!(self, JobError::Disk { .. }) || self.storage_error().is_some_and(StorageError::is_disk_failure)
    }

    /// Returns whether the disk failed because it has no room left.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, JobError::Disk { is_full: true, .. })
            || self.storage_error().is_some_and(StorageError::is_disk_full)
    }

    fn storage_error(&self) -> Option<&StorageError> {
        match self {
            JobError::Storage(error)
            | JobError::Sink(SinkError::Storage { source: error, .. })
            | JobError::Source { error: SourceError::Storage(error), .. } => Some(error),
            _ => None,
        }
    }

    /// Makes this the reason why a running job stops.
    fn end(&self, failure: &Failure) {
        let reason = with_causes(self);
        match self {
            _ if self.is_disk_failure() => failure.set_disk(reason, self.is_disk_full()),
            JobError::Operator(_) => failure.set(reason),
            _ => failure.set_environment(reason),
        }
    }
}

/// Returns how a job ended that has this failure.
fn outcome_of(failure: &Failure) -> Result<(), JobError> {
    match failure.reason() {
        None => Ok(()),
        Some((Blame::Environment, reason)) => Err(JobError::Environment(reason)),
        Some((Blame::Disk { is_full }, reason)) => Err(JobError::Disk { reason, is_full }),
        Some((Blame::Operator, reason)) => Err(JobError::Operator(reason)),
    }
}

impl From<LogError> for JobError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Storage(source) => JobError::Storage(source),
            LogError::Fenced(error) => error.into(),
            // The failure before it was the disk's.
            LogError::Poisoned(_) => JobError::Disk { reason: with_causes(&error), is_full: false },
            damaged => JobError::Log(with_causes(&damaged)),
        }
    }
}

impl From<Fenced> for JobError {
    fn from(error: Fenced) -> Self {
        match error {
            Fenced::Unknown { source } => JobError::Storage(source),
            taken_over @ Fenced::TakenOver { .. } => JobError::Environment(with_causes(&taken_over)),
        }
    }
}

impl From<CheckpointError> for JobError {
    fn from(error: CheckpointError) -> Self {
        match error {
            CheckpointError::Storage(source) => JobError::Storage(source),
            damaged_or_overtaken => JobError::Log(with_causes(&damaged_or_overtaken)),
        }
    }
}
