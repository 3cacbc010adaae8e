//! Outboxes: results of a view on their way to somebody else, kept on disk until they are delivered.
//!
//! ```text
//!   rows of a view ─► prepare ─► commit(epoch)          courier (a task) ─► broker, server, file
//!                     │ files    │ one small file          │ reads in order, at most WINDOW_ROWS ahead of the cursor
//!                     ▼          ▼                         ▼
//!   sinks/<name>/ rows/…      ready/<epoch>             cursor          delivered rows are removed
//! ```
//! A table's sink makes rows visible to readers; this one makes them visible to a courier, by the same two phases: so a row
//! enters the outbox exactly once, through any crash. Every row has a number that it keeps for ever. What leaves the outbox
//! leaves in the order of the numbers, **at least once**: the cursor says how far everything is delivered, and it is durable
//! before more than [`WINDOW_ROWS`] rows behind it are sent. So after a crash no more than those are sent again; and a
//! courier that can tell its receiver a row's number (MQTT at QoS 2, an HTTP server that knows idempotency keys) has each of
//! them taken once.
//!
//! A view never waits for a courier. An outbox has a limit in bytes, rows and files; when it is full, rows are left out, the
//! oldest or the newest as the sink says, and counted. They stay in the view's own table. What may be in flight is never
//! left out.
//!
//! ```text
//!            ┌── progress, or nothing to do ◄──┐
//!            ▼                                 │
//!   deliver ─► failed ─► wait 100 ms … 30 s ───┴─► after five failures in a row the breaker (`breaker.rs`) is open: one
//!                                                  attempt for each wait, until something is delivered
//! ```
//!
//! Where rows are delivered many at once, as a request or a file, a courier *claims* them first: which rows are one piece is
//! durable before the piece leaves, so after a crash it leaves again with the same name and the same bytes.

mod papers;
mod rows;

mod shelf;
mod status;

mod sink;

mod delivery;
mod desk;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use tidemill_engine::source::Stop;
use tidemill_engine::storage::StorageError;

pub use desk::{Desk, DeskEvent, Progress};
pub use rows::{Encoded, Row};
pub use shelf::{Files, Limits, OnFull};
pub use sink::{OutboxSink, OutboxSpec};
pub use status::{Gauges, OutboxStatus};

/// So many rows behind the cursor may be sent, and are sent again after a crash. Enough to keep a broker busy while the
/// cursor is written.
pub const WINDOW_ROWS: u64 = 1_024;

/// Turns rows of a view into what is delivered.
pub trait Encoder: Send + Sync + 'static {
    /// Encodes each row of a batch, in its order. A row that cannot be delivered at all is rejected, and counted.
    ///
    /// # Errors
    /// Says why nothing of the batch can be encoded.
    fn encode(&self, rows: &RecordBatch, out: &mut Encoded) -> Result<(), String>;
}

/// Delivers rows.
///
/// 1. Rows are taken from the desk in their order, and confirmed there.
/// 2. It returns when the way is blocked: it is called again after a while. When `stop` is cancelled it returns soon.
/// 3. What it has taken and not confirmed is its own to deliver with the next call; in the next process the desk hands it
///    out again.
#[async_trait::async_trait]
pub trait Courier: Send + 'static {
    /// Delivers what is there and what comes, until something fails or `stop` is cancelled.
    async fn deliver(&mut self, desk: &mut Desk, stop: &Stop) -> Result<(), DeliveryError>;
}

/// Where results go: what a sink's options have become.
pub trait Destination: Send + Sync + 'static {
    /// Returns how rows are encoded.
    fn encoder(&self) -> Arc<dyn Encoder>;
    /// Makes a courier.
    fn courier(&self) -> Box<dyn Courier>;
}

/// Why nothing could be delivered.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// The other side is away, refuses, or breaks the rules; it may be better later.
    #[error("{0}")]
    Failed(String),
    /// The same, and the other side asks us to stay away for a while.
    #[error("{problem}")]
    Busy {
        /// What it says.
        problem: String,
        /// How long.
        after: Duration,
    },
    /// The outbox itself cannot be read or written.
    #[error("cannot use the outbox")]
    Storage(#[from] StorageError),
    /// A file of the outbox does not hold what was written.
    #[error("{path} is damaged: {problem}; restore it, and delivery goes on")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong.
        problem: String,
    },
}
