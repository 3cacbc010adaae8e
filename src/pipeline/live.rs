//! Live results: rows as they leave, on their way into a table.

use arrow::array::RecordBatch;
use tidemill_engine::epoch::Epoch;
use tidemill_engine::sink::{Cleaned, Committable, Sink, SinkError, SinkWriter};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

/// Batches that wait for a slow subscriber before it loses the oldest.
pub(super) const LIVE_BATCHES_MAX: usize = 1024;

/// The rows of a stream as they leave. A subscriber that is too slow slows nobody: it loses the oldest batches, and
/// [`LiveRows::missed`] counts them.
pub struct LiveRows {
    receiver: broadcast::Receiver<RecordBatch>,
    missed: u64,
}

impl LiveRows {
    pub(super) fn new(receiver: broadcast::Receiver<RecordBatch>) -> Self {
        LiveRows { receiver, missed: 0 }
    }

    /// Waits for the next rows; `None` when the job has ended.
    pub async fn next(&mut self) -> Option<RecordBatch> {
        loop {
            match self.receiver.recv().await {
                Ok(rows) => return Some(rows),
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

/// Shows rows to subscribers on their way into a table.
pub(super) struct Shown {
    pub(super) table: Box<dyn Sink>,
    pub(super) live: broadcast::Sender<RecordBatch>,
}

impl Sink for Shown {
    fn name(&self) -> &str {
        self.table.name()
    }

    fn last_committed(&self) -> Epoch {
        self.table.last_committed()
    }

    fn writer(&mut self, index: usize) -> Box<dyn SinkWriter> {
        self.table.writer(index)
    }

    fn commit(&mut self, epoch: Epoch, committables: &[Committable]) -> Result<(), SinkError> {
        self.table.commit(epoch, committables)
    }

    fn observe(&mut self, _: Epoch, rows: &RecordBatch) {
        // No subscriber is no error.
        let _ = self.live.send(rows.clone());
    }

    fn clean(&mut self) -> Result<Cleaned, SinkError> {
        self.table.clean()
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
