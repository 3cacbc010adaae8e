//! Sinks: where results leave, in two phases.
//!
//! ```text
//!   write(epoch, rows) … ─► prepare(epoch) ─► commit(epoch, committables)
//!                           durable, invisible   visible, all or nothing, idempotent by epoch
//! ```
//! Calls block; the runtime makes them on threads that may wait. One sink is driven by one caller at a time.

use arrow::array::RecordBatch;
use serde::{Deserialize, Serialize};

use crate::epoch::Epoch;

/// What phase one left behind for phase two: the sink's own words, in a version of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committable {
    /// Version of `body`'s format.
    pub version: u32,
    /// What `commit` needs, as the sink wrote it.
    pub body: String,
    /// One line for people.
    pub summary: String,
}

/// Why a sink could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// Storage refused.
    #[error("table {table}")]
    Storage {
        /// The table.
        table: String,
        /// Why.
        #[source]
        source: crate::storage::StorageError,
    },
    /// The table on disk is not the one this job writes.
    #[error("table {table}: {problem}")]
    Refused {
        /// The table.
        table: String,
        /// What does not fit, and what to do.
        problem: String,
    },
    /// Rows could not be encoded.
    #[error("table {table}: cannot encode rows: {problem}")]
    Encode {
        /// The table.
        table: String,
        /// Why.
        problem: String,
    },
}

/// A place where results leave.
pub trait Sink: Send + 'static {
    /// The sink's name, for logs and metrics.
    fn name(&self) -> &str;
    /// The last epoch that is committed, read from the sink itself: rows up to it are never sent again.
    fn last_committed(&self) -> Epoch;
    /// Takes rows of an epoch. Epochs come in order; rows of one epoch in any order.
    fn write(&mut self, epoch: Epoch, rows: RecordBatch) -> Result<(), SinkError>;
    /// Bytes held in memory since the last `prepare`.
    fn buffered_bytes(&self) -> usize;
    /// Phase one: makes all rows up to and including `epoch` durable, and invisible.
    fn prepare(&mut self, epoch: Epoch) -> Result<Vec<Committable>, SinkError>;
    /// Phase two: makes them visible at once. Doing it again for the same epoch does nothing. With no committables it
    /// does nothing at all.
    fn commit(&mut self, epoch: Epoch, committables: &[Committable]) -> Result<(), SinkError>;
}
