//! What a job says about itself while it runs.

use arrow::array::RecordBatch;
use tokio::sync::broadcast::Receiver;

use crate::epoch::Epoch;
use crate::source::TargetStatus;
use crate::time::Watermark;

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
    /// Values that did not fit in their column, and are NULL.
    pub nulled: u64,
    /// Tags, labels, fields and attributes that are in no column, since none is declared for them.
    pub dropped_attributes: u64,
    /// What was refused before the log, by kind.
    pub errors: Vec<(&'static str, u64)>,
    /// The source's watermark, if it has an event time.
    pub watermark: Option<Watermark>,
    /// The places it fetches from; none where others send to it.
    pub targets: Vec<TargetStatus>,
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

/// Counters of one deduplicated source: the rows that decoded and are not quarantined are in one of the three.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DedupStatus {
    /// The source's name.
    pub source: String,
    /// Rows that went on.
    pub taken: u64,
    /// Rows that were dropped, since they had come before.
    pub repeats: u64,
    /// Rows that were too old to tell.
    pub late: u64,
    /// Bytes of the keys that are remembered.
    pub state_bytes: u64,
}

/// The last checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckpointStatus {
    /// Its epoch: what a restart would begin behind.
    pub epoch: Epoch,
    /// When it was made, microseconds since 1970, UTC; 0 if this run has made none yet.
    pub made_us: i64,
    /// How long it took from its mark on, microseconds.
    pub duration_us: i64,
    /// Bytes it has written, beside what it names of earlier ones.
    pub bytes: u64,
    /// How many this run has made.
    pub count: u64,
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
    /// The last checkpoint.
    pub checkpoint: CheckpointStatus,
    /// Rows handed to the dataflow whose epoch is not completed.
    pub rows_in_flight: u64,
    /// Sources, in plan order.
    pub sources: Vec<SourceStatus>,
    /// Windows, in plan order.
    pub windows: Vec<WindowStatus>,
    /// Deduplicated sources, in plan order.
    pub dedups: Vec<DedupStatus>,
    /// Tables, in plan order.
    pub tables: Vec<TableStatus>,
}

/// Live rows of one table as they leave the dataflow, before their commit. A subscriber that is too slow loses the
/// oldest batches and is told how many.
pub struct Subscription {
    pub(super) receiver: Receiver<(Epoch, RecordBatch)>,
}

impl From<Receiver<(Epoch, RecordBatch)>> for Subscription {
    /// Makes a subscription of what [`JobOptions::live`](super::JobOptions::live) shows.
    fn from(receiver: Receiver<(Epoch, RecordBatch)>) -> Self {
        Subscription { receiver }
    }
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
