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
//! `append` waits while too much is in flight: that is the back pressure a source passes on by not reading its socket.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;
pub use tokio_util::sync::CancellationToken as Stop;

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
    /// Declares a partition before its first chunk. A declared partition that has sent nothing holds the watermark
    /// back only if the source is bounded. Declaring one twice does nothing.
    fn open(&self, partition: &str) -> BoxFuture<'_, Result<(), IntakeError>>;
    /// Queues a chunk for the log; waits while too much is in flight.
    fn append(&self, partition: &str, chunk: Chunk) -> BoxFuture<'_, Result<Receipt, IntakeError>>;
    /// Like [`Intake::append`], but returns `None` at once instead of waiting (HTTP answers 503 then).
    fn try_append(&self, partition: &str, chunk: Chunk) -> Option<Result<Receipt, IntakeError>>;
    /// Says that a partition has ended for good: it holds no watermark back any more. When all have, windows flush.
    fn end(&self, partition: &str) -> BoxFuture<'_, Result<(), IntakeError>>;
    /// Says whether the source can receive now (subscribed, listening). `readyz` needs it once from every source.
    fn set_connected(&self, connected: bool);
    /// Counts something bad that never reached the log (refused requests, protocol errors), by a fixed kind.
    fn count_error(&self, kind: &'static str);
}

/// How far a partition had come in the log when the job started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    /// The partition's name.
    pub partition: String,
    /// The `end` of its last [`Chunk::Range`]; 0 if it never sent one.
    pub next: u64,
    /// Whether it has ended.
    pub ended: bool,
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
}

/// A place where data enters.
#[async_trait::async_trait]
pub trait Source: Send + Sync + 'static {
    /// Whether the input has an end.
    fn bounded(&self) -> bool;

    /// Does what can fail before anything starts: binds ports, opens files. Called once, before `run`.
    async fn prepare(&self) -> Result<(), SourceError> {
        Ok(())
    }

    /// Pushes chunks until the input ends or `stop` is cancelled; on `stop` it stops reading, waits for the receipts
    /// it holds, acknowledges them, and returns. `resume` has one entry for each partition the log knows.
    async fn run(&self, intake: Arc<dyn Intake>, resume: Vec<Resume>, stop: Stop) -> Result<(), SourceError>;

    /// Reads again what a [`Chunk::Range`] held. Blocking; only for sources that append ranges.
    fn reread(&self, partition: &str, start: u64, end: u64) -> Result<(Data, u32), SourceError> {
        Err(SourceError::Changed(format!("partition {partition} cannot be read again at {start}..{end}")))
    }
}
