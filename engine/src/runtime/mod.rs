//! The runtime: a running job, from its start to its end.
//!
//! Threads that compute never wait, and those that wait never compute:
//!
//! ```text
//!   source tasks (tokio) ─► intake ─► recorder (thread) ─► bridge ─► workers (timely) ─► egress (thread per table)
//!        ▲ receipts                     │ log, fdatasync                                    │ prepare, commit
//!        └──────────────────────────────┘                     progress ◄────────────────────┘
//! ```
//!
//! Everything between two of them is bounded: bytes queued for the log, epochs in the dataflow, batches queued for a
//! table. A slow table therefore holds the dataflow back, that holds the recorder back, and that the sockets.

mod bridge;
mod buffer;
mod egress;
mod intake;
mod job;
mod progress;
mod recorded_time;
mod recorder;
mod status;
#[cfg(test)]
mod tests;
mod worker;

pub use job::{Job, LOG_FOLDER};
pub use status::{JobStatus, Live, SourceStatus, Subscription, TableStatus, WindowStatus};

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, Dice};
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
    /// Time between two commits of a table.
    pub commit_interval: Duration,
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
    /// The disk, a broker, a file: the text says what to do.
    #[error("{0}")]
    Environment(String),
    /// An operator failed: a bug of ours or an expression that cannot be evaluated.
    #[error("{0}")]
    Operator(String),
}
