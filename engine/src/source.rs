//! Sources: where data enters. A source pushes chunks into its [`Intake`] and hears when they are durable.
//!
//! The allowed order of calls, for each partition:
//!
//! ```text
//!   open(partition) ─► append(chunk) ─► … ─► append(chunk) ─► end(partition)      end: bounded sources only
//!                          │
//!                          ├─ Ok(receipt): queued, in this order; wait for the receipt before acknowledging
//!                          │                 ├─ Ok(Appended): durable. Acknowledge now, and not before.
//!                          │                 └─ Err: never acknowledge; the log has failed and the job stops
//!                          └─ Err: nothing was appended
//! ```
//!
//! `append` waits while too much is in flight: that is the backpressure a source passes on by not reading its socket.
//!
//! What a source promises:
//! 1. It acknowledges nothing before its receipt has resolved to `Ok`.
//! 2. The ranges of a partition follow each other: each starts where the one before ends, in every run; [`Resume::next`]
//!    says where to go on. [`Source::reread`] gives the same data for a range as long as the log has it; a replay compares
//!    the checksum, and stops if it is another.
//! 3. After [`Intake::end`] nothing is appended to the partition, in this run and in all later ones; [`Resume::ended`]
//!    tells. More input for a source that has ended is a new partition.
//! 4. An unbounded source returns from [`Source::run`] only after `stop` or with an error; otherwise the job fails.
//! 5. It can be prepared and run again when `run` has returned, however it has, and when [`Source::release`] has: a job
//!    that stopped because the disk failed is started anew in the same process. What `run` has taken (a port, a
//!    connection, a name) is given back when it returns or is dropped, and is taken again the next time.
//!
//! What the runtime promises:
//! 1. Chunks of a partition reach the log and the dataflow in the order of their calls. Between partitions there is none.
//! 2. A chunk is part of one epoch, whole.
//! 3. A partition is declared in the log before its first chunk. `open` is needed only to declare one earlier:
//!    a bounded source declares all of its partitions first, so that none of them misses the watermark of another.
//! 4. When a bounded source returns from `run` without `stop`, each of its partitions that has not ended ends.
//! 5. `reread` is called while the log is replayed: before `run`, from one thread, for each partition in the order of its
//!    ranges. A job that only settles calls it without [`Source::prepare`].
//! 6. `prepare` is followed by `run` or, if the job does not come that far, by `release`.
//! 7. The notes of a chunk are durable when its receipt resolves; [`Resume::notes`] has those of every chunk that is in
//!    the log, acknowledged or not, and of no other.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;
pub use tokio_util::sync::CancellationToken as Stop;

use crate::error::with_causes;
use crate::storage::StorageError;

/// A boxed future, so that source traits stay object safe and cheap to compile against.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The position of a message in the ingest log: how many messages came before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(pub u64);

/// One message as it came from outside: undecoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The topic it was published to; empty where there is none. UTF-8.
    pub topic: Bytes,
    /// The payload, undecoded. May hold several rows (NDJSON, a JSON array).
    pub payload: Bytes,
    /// What else its connector knows of it, in the connector's own encoding; empty where there is nothing.
    pub attributes: Bytes,
}

impl Message {
    /// Makes a message without attributes.
    pub fn new(topic: impl Into<Bytes>, payload: impl Into<Bytes>) -> Message {
        Message { topic: topic.into(), payload: payload.into(), attributes: Bytes::new() }
    }

    /// Returns how many bytes it holds.
    pub fn byte_count(&self) -> usize {
        self.topic.len() + self.payload.len() + self.attributes.len()
    }
}

/// What a source must know again after a crash, beside its messages: an id in flight, a number heard last. The log keeps
/// it in the same record as the messages it came with, so that both are there or neither.
///
/// Later notes of a partition replace earlier ones of the same key; [`Resume::notes`] gives back what is left. Their size
/// is the source's to bound: all of them are part of every checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// What it is about, in the source's own encoding.
    pub key: Bytes,
    /// What is to be known; empty: nothing any more.
    pub value: Bytes,
}

impl Note {
    /// Makes a note that replaces an earlier one of the same key.
    pub fn new(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Note {
        Note { key: key.into(), value: value.into() }
    }

    /// Makes a note that removes the earlier one of the same key.
    pub fn forget(key: impl Into<Bytes>) -> Note {
        Note { key: key.into(), value: Bytes::new() }
    }

    /// Returns how many bytes it holds.
    pub fn byte_count(&self) -> usize {
        self.key.len() + self.value.len()
    }
}

/// What a decoder turns into columns.
#[derive(Clone, Debug)]
pub enum Data {
    /// Raw messages.
    Messages(Vec<Message>),
    /// Columns already, in the source's schema (generators, Parquet files).
    Columns(RecordBatch),
}

/// A piece of input: all of it becomes durable, and part of an epoch, or nothing.
#[derive(Clone, Debug)]
pub enum Chunk {
    /// Input that cannot be read again: the log keeps the messages themselves.
    Messages(Vec<Message>),
    /// The same, with what the source must know again. There may be notes without messages.
    Noted(Vec<Message>, Vec<Note>),
    /// The same, decoded already because the source had to look into it: the log keeps messages and notes, and the dataflow
    /// takes the columns. They are what the source's own decoder makes of these messages, wherever they stand, and none is
    /// a dead letter; they are one batch, or each of their rows is a message.
    Decoded {
        /// What the log keeps.
        messages: Vec<Message>,
        /// What the source must know again.
        notes: Vec<Note>,
        /// What the dataflow takes.
        columns: Vec<RecordBatch>,
    },
    /// Input that [`Source::reread`] can produce again: the log keeps only the range `[start, end)` and a checksum.
    Range {
        /// First position, in the source's own unit (byte, row, sequence number).
        start: u64,
        /// Position after the last.
        end: u64,
        /// The data itself.
        data: Data,
        /// A checksum over the data by the source's own rule; `reread` must give the same.
        checksum: u32,
    },
}

/// How far messages have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The log has them, and a power loss does not take them away.
    Durable,
    /// Every table behind their source shows what came of them, or nothing came.
    Committed,
}

/// Where a durable chunk stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the chunk's first message.
    pub first: Offset,
    /// Offset after the chunk's last message.
    pub next: Offset,
}

/// Resolves when the chunk is durable.
pub type Receipt = BoxFuture<'static, Result<Appended, IntakeError>>;

/// Why a chunk was not taken.
#[derive(Clone, Debug, thiserror::Error)]
pub enum IntakeError {
    /// The job is stopping; nothing was appended.
    #[error("the job is stopping")]
    Stopping,
    /// The log failed: it is unknown whether the chunk is durable, and nothing may be acknowledged any more.
    #[error("the ingest log failed: {0}")]
    LogFailed(String),
    /// A chunk is bigger than the limit; nothing was appended.
    #[error("a chunk of {bytes} bytes is over the limit of {max} bytes")]
    TooBig {
        /// The chunk's size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
}

/// Where a source puts its chunks. One for each source; cheap to clone as an `Arc`.
pub trait Intake: Send + Sync + 'static {
    /// Declares a partition. One that has sent nothing yet holds the watermark back only if the source is bounded.
    /// Declaring one twice, or one that the log knows, does nothing.
    fn open(&self, partition: &str) -> BoxFuture<'_, Result<(), IntakeError>>;
    /// Queues a chunk for the log; waits while too much is in flight.
    fn append(&self, partition: &str, chunk: Chunk) -> BoxFuture<'_, Result<Receipt, IntakeError>>;
    /// Like [`Intake::append`], but returns `None` at once instead of waiting (HTTP answers 503 then).
    fn try_append(&self, partition: &str, chunk: Chunk) -> Option<Result<Receipt, IntakeError>>;
    /// Says that a partition has ended for good: it holds the watermark back no more. When all partitions of the source
    /// have, its watermark is [`Watermark::END`](crate::time::Watermark::END), and every window closes.
    fn end(&self, partition: &str) -> BoxFuture<'_, Result<(), IntakeError>>;
    /// Says whether the source can receive now (subscribed, listening). `readyz` needs it once from every source.
    fn set_connected(&self, connected: bool);
    /// Counts something bad that never reached the log (refused requests, protocol errors), by a fixed kind.
    fn count_error(&self, kind: &'static str);
    /// Says how far the messages before an offset have come; `None` if the log has not so many, or nothing is known.
    fn stage(&self, before: Offset) -> Option<Stage> {
        let _ = before;
        None
    }
}

/// How far a partition had come in the log when the job started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resume {
    /// The partition's name.
    pub partition: String,
    /// The `end` of its last [`Chunk::Range`]; 0 if it never sent one.
    pub next: u64,
    /// Whether it has ended.
    pub ended: bool,
    /// What was noted and not forgotten, by key.
    pub notes: BTreeMap<Bytes, Bytes>,
    /// Where the messages stand that those notes came with, by the same keys; not for notes of a log or a checkpoint that
    /// an older version has folded.
    pub places: BTreeMap<Bytes, Appended>,
}

/// What can go wrong in a source; Display is for people.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The environment: a port in use, an unreadable file, a broker that refuses us.
    #[error("{0}")]
    Environment(String),
    /// What was read before is not there any more or has changed, so the log cannot be replayed.
    #[error("{0}")]
    Changed(String),
    /// The intake refused.
    #[error(transparent)]
    Intake(#[from] IntakeError),
    /// What the source keeps in the data folder cannot be written or read.
    #[error("{}", with_causes(.0))]
    Storage(#[from] StorageError),
}

/// How one of the places is doing that a source fetches from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetStatus {
    /// Which, as its options name it.
    pub target: String,
    /// Whether it answered when it was last asked.
    pub connected: bool,
    /// How its circuit breaker stands, in a word, and as a number: 0 closed, 1 half-open, 2 open.
    pub breaker: &'static str,
    /// See there.
    pub breaker_level: u8,
    /// Attempts that failed since the program began.
    pub failures: u64,
    /// Why the last attempt failed, until one does not.
    pub error: Option<String>,
}

/// A place where data enters.
#[async_trait::async_trait]
pub trait Source: Send + Sync + 'static {
    /// Whether the input has an end.
    fn bounded(&self) -> bool;

    /// Does what can fail before anything starts: binds ports, finds files. Called before the log is replayed.
    async fn prepare(&self) -> Result<(), SourceError> {
        Ok(())
    }

    /// Gives back what `prepare` has taken, because `run` will not be called.
    fn release(&self) {}

    /// Pushes chunks until the input ends or `stop` is cancelled; on `stop` it stops reading, waits for the receipts
    /// it holds, acknowledges them, and returns. `resume` has one entry for each partition the log knows.
    async fn run(&self, intake: Arc<dyn Intake>, resume: Vec<Resume>, stop: Stop) -> Result<(), SourceError>;

    /// Says how the places are doing that it fetches from; none where others send to it. There are as many as its options name.
    fn targets(&self) -> Vec<TargetStatus> {
        Vec::new()
    }

    /// Reads again what a [`Chunk::Range`] held: the data and its checksum. Blocking; only for sources that append
    /// ranges.
    fn reread(&self, partition: &str, start: u64, end: u64) -> Result<(Data, u32), SourceError> {
        Err(SourceError::Changed(format!("partition {partition} cannot be read again at {start}..{end}")))
    }
}
