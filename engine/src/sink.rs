//! Sinks: where results leave, in two phases.
//!
//! ```text
//!   writer 0: prepare(epoch, rows) ─┐
//!   writer 1: prepare(epoch, rows) ─┴─► committables ─► commit(epoch, committables)
//!             durable, invisible        in a manifest   visible, all or nothing, idempotent by epoch
//! ```
//! Calls block; the runtime makes them on threads that may wait. Until they are prepared, rows are the runtime's: they
//! are part of its checkpoints.

use std::time::Duration;

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

/// What a sink has already, as it says itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    New,
    /// Rows of the very same view.
    Same {
        /// The epoch behind which they begin.
        base: Epoch,
        /// The last epoch that is committed.
        committed: Epoch,
    },
    /// It keeps no rows: whatever was sent before is gone.
    Unkept,
    /// Rows of something else.
    Changed {
        /// What has changed, for people.
        what: String,
    },
}

/// A place where results leave: one committer, and writers beside it. [`Sink::begin`] comes first, once.
pub trait Sink: Send + 'static {
    /// The sink's name, for logs and metrics.
    fn name(&self) -> &str;
    /// Returns what is there.
    fn found(&self) -> Found;
    /// Brings the sink to where rows of the epochs behind `base` can be committed, all or nothing: makes it if it is new,
    /// does nothing if it has such a base, and replaces its whole content else. Returns what was done, for people.
    fn begin(&mut self, base: Epoch) -> Result<String, SinkError>;
    /// How often the sink's content was replaced or taken back: what was prepared for another content is not for this one.
    fn generation(&self) -> u64 {
        0
    }
    /// The last epoch that is committed, read from the sink itself: rows up to it are never sent again.
    fn last_committed(&self) -> Epoch;
    /// How long rows wait at most for a commit; `None`: as long as the job says.
    fn commit_interval(&self) -> Option<Duration> {
        None
    }
    /// Whether its rows leave in their order: then it has one writer, whatever the job says.
    fn keeps_order(&self) -> bool {
        false
    }
    /// Makes a writer. Several prepare side by side, and what they leave can be committed together; `index` tells them
    /// apart. A writer is used by one thread.
    fn writer(&mut self, index: usize) -> Box<dyn SinkWriter>;
    /// Phase two: makes everything that was prepared for `epoch` visible at once. Doing it again for the same epoch, also
    /// in another process, does nothing. With no committables it does nothing at all.
    fn commit(&mut self, epoch: Epoch, committables: &[Committable]) -> Result<(), SinkError>;
    /// Removes what crashes and replaced content have left behind, and never what a reader or a commit still needs.
    /// Called once after a start, when what was pending is committed; a sink that runs long may do it by itself too.
    fn clean(&mut self) -> Result<Cleaned, SinkError> {
        Ok(Cleaned::default())
    }
}

/// What [`Sink::clean`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Files.
    pub files: usize,
    /// Bytes in them.
    pub bytes: u64,
}

/// Phase one of a sink.
pub trait SinkWriter: Send + 'static {
    /// Makes rows of epochs up to `epoch` durable, and invisible. After an error nothing counts as prepared; the same
    /// rows may be prepared again, and what the first try left is garbage that the sink removes some day.
    fn prepare(&mut self, epoch: Epoch, rows: &[(Epoch, RecordBatch)]) -> Result<Vec<Committable>, SinkError>;
}
