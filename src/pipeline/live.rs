//! Live results: rows as they leave, on their way into a table.

use arrow::array::RecordBatch;
use tidemill_engine::epoch::Epoch;
use tidemill_engine::sink::{Committable, Found, Sink, SinkError, SinkWriter};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

/// Batches that wait for a slow subscriber before it loses the oldest.
pub(super) const LIVE_BATCHES_MAX: usize = 1024;

/// The rows of a stream as they leave. A subscriber that is too slow slows nobody: it loses the oldest batches, and
/// [`LiveRows::missed`] counts them.
pub struct LiveRows {
    receiver: broadcast::Receiver<(Epoch, RecordBatch)>,
    missed: u64,
}

impl LiveRows {
    pub(super) fn new(receiver: broadcast::Receiver<(Epoch, RecordBatch)>) -> Self {
        LiveRows { receiver, missed: 0 }
    }

    /// Waits for the next rows; `None` when the job has ended.
    pub async fn next(&mut self) -> Option<RecordBatch> {
        loop {
            match self.receiver.recv().await {
                Ok((_, rows)) => return Some(rows),
                Err(RecvError::Lagged(count)) => self.missed += count,
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// Returns how many batches were lost because this subscriber was too slow.
    pub fn missed(&self) -> u64 {
        self.missed
    }
}

/// Where rows go that are only shown: nowhere.
pub(super) struct Nowhere {
    pub(super) name: String,
}

impl Sink for Nowhere {
    fn name(&self) -> &str {
        &self.name
    }

    fn found(&self) -> Found {
        Found::Unkept
    }

    fn begin(&mut self, _: Epoch) -> Result<String, SinkError> {
        Ok("its rows are only shown".to_owned())
    }

    fn last_committed(&self) -> Epoch {
        Epoch::NONE
    }

    fn writer(&mut self, _: usize) -> Box<dyn SinkWriter> {
        Box::new(NowhereWriter)
    }

    fn commit(&mut self, _: Epoch, _: &[Committable]) -> Result<(), SinkError> {
        Ok(())
    }
}

/// The writer of [`Nowhere`].
struct NowhereWriter;

impl SinkWriter for NowhereWriter {
    fn prepare(&mut self, _: Epoch, _: &[(Epoch, RecordBatch)]) -> Result<Vec<Committable>, SinkError> {
        Ok(Vec::new())
    }
}
