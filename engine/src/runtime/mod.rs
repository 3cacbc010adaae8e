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

mod bridge;
mod buffer;
mod checkpointer;
mod egress;
mod intake;
mod job;
mod marks;
mod outlook;
mod progress;
mod recorded_time;
mod recorder;
mod restart;
mod status;
#[cfg(test)]
mod tests;
mod worker;

pub use job::{Job, LOG_FOLDER};
pub use outlook::{Fate, Outlook, Reach};
pub use restart::foresee;
pub use status::{CheckpointStatus, JobStatus, Live, SourceStatus, Subscription, TableStatus, WindowStatus};

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use tokio::sync::broadcast;

use crate::clock::{Clock, Dice};
use crate::epoch::Epoch;
use crate::ingest::LogOptions;
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
