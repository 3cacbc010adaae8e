//! The runtime: a running job, from its start to its end.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;

use crate::clock::Clock;
use crate::epoch::Epoch;
use crate::plan::Plan;
use crate::sink::{Sink, SinkError};
use crate::source::SourceError;
use crate::storage::{Storage, StorageError};
use crate::time::Watermark;

/// How a job runs. Nothing here changes a result.
#[derive(Clone)]
pub struct JobOptions {
    /// The data folder: the log lies in `log/`.
    pub storage: Arc<dyn Storage>,
    /// The clock that stamps arrivals.
    pub clock: Arc<dyn Clock>,
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
    /// An operator failed: a bug of ours or an expression that cannot be evaluated.
    #[error("{0}")]
    Operator(String),
}

/// Counters of one source. received = rows + dead (by message where a message did not decode at all).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceStatus {
    /// Its name.
    pub name: String,
    /// Whether it can receive now.
    pub connected: bool,
    /// Whether its input has ended.
    pub ended: bool,
    /// Messages (or rows, for sources of columns) in the log, replayed ones included.
    pub messages: u64,
    /// Payload bytes in the log.
    pub bytes: u64,
    /// Rows that decoded and are not quarantined.
    pub rows: u64,
    /// Dead letters.
    pub dead: u64,
    /// Rows from the future.
    pub quarantined: u64,
    /// What was refused before the log, by kind.
    pub errors: Vec<(&'static str, u64)>,
    /// The source's watermark, if it has an event time.
    pub watermark: Option<Watermark>,
}

/// Counters of one table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableStatus {
    /// Its name.
    pub name: String,
    /// Rows handed to the table since the start (rows already committed before a restart are not handed over again).
    pub rows: u64,
    /// Its last committed epoch.
    pub committed: Epoch,
}

/// Counters of one windowed view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WindowStatus {
    /// The late table's name without `$late`, or the node's number.
    pub name: String,
    /// Rows that fell into at least one window.
    pub rows: u64,
    /// Rows too late for any.
    pub late: u64,
    /// Result rows that left.
    pub results: u64,
}

/// What a job is doing now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobStatus {
    /// Whether every source has been able to receive at least once (and the log is replayed).
    pub ready: bool,
    /// Whether all sources have ended and everything is committed.
    pub finished: bool,
    /// Why the job stopped by itself, if it did.
    pub failure: Option<String>,
    /// The last epoch that was sealed.
    pub sealed: Epoch,
    /// The last epoch whose results have all left the dataflow.
    pub completed: Epoch,
    /// Log bytes.
    pub log_bytes: u64,
    /// Rows handed to the dataflow whose epoch is not completed.
    pub rows_in_flight: u64,
    /// Sources, in plan order.
    pub sources: Vec<SourceStatus>,
    /// Windows, in plan order.
    pub windows: Vec<WindowStatus>,
    /// Tables, in plan order.
    pub tables: Vec<TableStatus>,
}

/// Live rows of one table as they leave the dataflow, before their commit. A subscriber that is too slow loses the
/// oldest batches and is told how many.
pub struct Subscription {
    receiver: tokio::sync::broadcast::Receiver<(Epoch, RecordBatch)>,
}

/// What a subscriber gets.
#[derive(Clone, Debug)]
pub enum Live {
    /// Rows of an epoch.
    Rows(Epoch, RecordBatch),
    /// This many batches were dropped because the subscriber was too slow.
    Missed(u64),
}

impl Subscription {
    /// Waits for the next rows; `None` when the job has ended.
    pub async fn next(&mut self) -> Option<Live> {
        use tokio::sync::broadcast::error::RecvError;
        match self.receiver.recv().await {
            Ok((epoch, rows)) => Some(Live::Rows(epoch, rows)),
            Err(RecvError::Lagged(count)) => Some(Live::Missed(count)),
            Err(RecvError::Closed) => None,
        }
    }
}

/// A running job.
pub struct Job {
    _private: (),
}

impl Job {
    /// Opens the log, replays it, and starts the sources. `sinks` has one for each of [`Plan::tables`], in that order.
    /// Returns when the log is replayed and every source runs (is [`Source::prepare`](crate::source::Source::prepare)d
    /// and told to run), so that a problem at the start is an error here.
    pub async fn start(_plan: Plan, _sinks: Vec<Box<dyn Sink>>, _options: JobOptions) -> Result<Job, JobError> {
        Ok(Job { _private: () })
    }

    /// Returns what the job is doing now.
    pub fn status(&self) -> JobStatus {
        JobStatus::default()
    }

    /// Returns live rows of a table from now on; `None` if there is no such table.
    pub fn subscribe(&self, _table: &str) -> Option<Subscription> {
        None
    }

    /// Waits until all sources have ended and everything is committed, or until the job fails. For a job with an
    /// unbounded source this ends only by a failure.
    pub async fn finished(&self) -> Result<(), JobError> {
        Ok(())
    }

    /// Stops: sources first, then the log, then the dataflow; commits what is complete.
    pub async fn stop(self) -> Result<(), JobError> {
        Ok(())
    }
}
