//! Egress: the thread of each table, which takes its rows, and commits them in two phases.
//!
//! A commit is due when rows have waited for the commit interval, when too many bytes have, and at the end. It goes up
//! to the last epoch that is complete and durable in the log; rows of later epochs stay with the sink.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::RecordBatch;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use tokio::sync::broadcast;

use super::buffer::RowBuffer;
use super::progress::Progress;
use crate::clock::Clock;
use crate::dataflow::Failure;
use crate::epoch::Epoch;
use crate::error::with_causes;
use crate::sink::{Sink, SinkError, SinkWriter};

/// Batches that wait for a table's thread.
pub(super) const BATCHES_QUEUED_MAX: usize = 64;

/// Bytes that a table holds before it commits ahead of time.
const BUFFERED_BYTES_MAX: usize = 64 << 20;

/// How long a commit that has to wait for its epoch waits before it looks again.
const EPOCH_CHECK: Duration = Duration::from_millis(10);

/// Batches that a live subscriber may be behind.
pub(super) const LIVE_BATCHES_MAX: usize = 256;

/// What a table's thread shares with the status.
#[derive(Debug, Default)]
pub(super) struct TableState {
    pub(super) rows: AtomicU64,
    pub(super) committed: AtomicU64,
}

/// One table's thread.
pub(super) struct Egress {
    pub(super) sink: Box<dyn Sink>,
    pub(super) writer: Box<dyn SinkWriter>,
    /// Rows that are in no file yet.
    pub(super) buffer: RowBuffer,
    pub(super) rows: Receiver<(Epoch, RecordBatch)>,
    pub(super) live: broadcast::Sender<(Epoch, RecordBatch)>,
    pub(super) state: Arc<TableState>,
    pub(super) progress: Arc<Progress>,
    pub(super) failure: Failure,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) commit_interval: Duration,
}

impl Egress {
    /// Runs until the dataflow has ended, then commits what is complete.
    pub(super) fn run(mut self) {
        let ended = catch_unwind(AssertUnwindSafe(|| self.take_all().and_then(|()| self.commit_rest())));
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.failure.set_environment(with_causes(&error)),
            // At once: the dataflow would notice only with the table's next rows.
            Err(_) => self.failure.set(format!("table {}: its thread ended by an internal error", self.sink.name())),
        }
    }

    fn take_all(&mut self) -> Result<(), SinkError> {
        let interval_us = crate::time::micros(self.commit_interval);
        let mut waiting_since_us: Option<i64> = None;
        loop {
            let received = match waiting_since_us {
                None => self.rows.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(since_us) => {
                    let left_us = since_us.saturating_add(interval_us) - self.clock.monotonic_us();
                    let left = Duration::from_micros(left_us.try_into().unwrap_or(0));
                    self.rows.recv_timeout(left.max(Duration::from_micros(1)))
                }
            };
            let due = match received {
                Ok((epoch, rows)) => {
                    self.take(epoch, rows);
                    // Rows keep coming while the interval passes: look at the time after each.
                    let now_us = self.clock.monotonic_us();
                    let since_us = *waiting_since_us.get_or_insert(now_us);
                    now_us - since_us >= interval_us || self.buffer.bytes() >= BUFFERED_BYTES_MAX
                }
                Err(RecvTimeoutError::Timeout) => true,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            if due && self.commit()? {
                waiting_since_us = (!self.buffer.is_empty()).then(|| self.clock.monotonic_us());
            } else if due && self.rows.is_empty() {
                self.progress.wait_completed(self.progress.completed().next(), EPOCH_CHECK);
            }
        }
    }

    fn take(&mut self, epoch: Epoch, rows: RecordBatch) {
        self.state.rows.fetch_add(rows.num_rows() as u64, Ordering::Relaxed);
        if self.live.receiver_count() > 0 {
            let _ = self.live.send((epoch, rows.clone())); // The last subscriber may just have left.
        }
        self.sink.observe(epoch, &rows);
        // A replay sends again what the table has.
        if epoch > self.sink.last_committed() {
            self.buffer.push(epoch, rows);
        }
    }

    /// Commits up to the last complete epoch; returns whether there was one to commit.
    fn commit(&mut self) -> Result<bool, SinkError> {
        let epoch = self.progress.committable();
        if epoch <= self.sink.last_committed() {
            return Ok(false);
        }
        // Every row of a complete epoch was handed over before the epoch was called complete. More than what is there now
        // is not taken: workers that are faster than this thread would never let it come to the commit.
        for _ in 0..self.rows.len() {
            let Ok((epoch, rows)) = self.rows.try_recv() else { break };
            self.take(epoch, rows);
        }
        // An operator that failed has set this before any epoch without its rows could look complete.
        if self.failure.is_set() {
            return Ok(true);
        }
        let committables = self.writer.prepare(epoch, &self.buffer.take(epoch))?;
        self.sink.commit(epoch, &committables)?;
        self.state.committed.store(self.sink.last_committed().0, Ordering::Relaxed);
        Ok(true)
    }

    fn commit_rest(&mut self) -> Result<(), SinkError> {
        self.progress.wait_ended();
        self.commit().map(|_| ())
    }
}
