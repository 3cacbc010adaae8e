//! Egress: the threads of a table. They take its rows, and do what the checkpointer orders: phase one, phase two.
//!
//! ```text
//!   workers ─► rows ───┐
//!                      ▼              prepare(e): rows up to e into files, or named as waiting
//!                   writer 0, 1, … ◄─ commit(e):  the table's own commit; writer 0 has it
//!                                     clean:      files that nothing can name any more
//! ```
//! Every row of a complete epoch was handed over before the epoch was called complete. So, when an order names a complete
//! epoch, what it needs is in the buffer or in the channel.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};

use arrow::array::RecordBatch;
use crossbeam_channel::{Receiver, RecvError, Sender, TryRecvError, never, select};
use tokio::sync::broadcast;

use super::buffer::RowBuffer;
use super::marks::Marks;
use crate::clock::Clock;
use crate::dataflow::{Failure, LogPlace, TableRows};
use crate::epoch::Epoch;
use crate::seeded_bugs::{SeededBug, is_planted};
use crate::sink::{Committable, Sink, SinkError, SinkWriter};

/// Batches that wait for a table's writer.
pub(super) const BATCHES_QUEUED_MAX: usize = 64;

/// Orders that wait for a writer: the checkpointer waits for each answer.
pub(super) const ORDERS_QUEUED_MAX: usize = 1;

/// Bytes that a writer holds before its table is committed ahead of time.
pub(super) const BUFFERED_BYTES_MAX: usize = 64 << 20;

/// Bytes that a writer holds before no further epoch is let into the dataflow: the commit that is due since
/// [`BUFFERED_BYTES_MAX`] waits for a long checkpoint, or for a slow disk.
pub(super) const HELD_BYTES_MAX: usize = 4 * BUFFERED_BYTES_MAX;

/// From here on a checkpoint commits what waits, before its time: it is enough for a file, and would be written into the
/// checkpoint and soon after into the file.
const FILE_BYTES_MIN: usize = 8 << 20;

/// Batches that a live subscriber may be behind.
pub(super) const LIVE_BATCHES_MAX: usize = 256;

/// No rows wait.
const NOTHING: i64 = i64::MAX;
const NO_EPOCH: u64 = u64::MAX;

/// What a table's threads share with the status and the checkpointer.
#[derive(Debug)]
pub(super) struct TableState {
    pub(super) rows: AtomicU64,
    pub(super) committed: AtomicU64,
    /// Batches on their way to a writer, all writers together.
    queued: Arc<AtomicUsize>,
    /// Whether rows have left the writers for files that no commit names yet.
    is_deciding: AtomicBool,
    /// Every row up to this epoch is in a commit.
    decided: AtomicU64,
    /// One for each writer.
    waiting: Vec<Waiting>,
}

/// What a writer holds.
#[derive(Debug)]
struct Waiting {
    /// Since when rows wait for a commit, by the monotonic clock.
    since_us: AtomicI64,
    is_full: AtomicBool,
    bytes: AtomicUsize,
    /// The epoch of the first row; [`NO_EPOCH`] if there are none.
    from: AtomicU64,
}

impl TableState {
    pub(super) fn new(committed: Epoch, writer_count: usize) -> TableState {
        let nothing = || Waiting {
            since_us: AtomicI64::new(NOTHING),
            is_full: AtomicBool::new(false),
            bytes: AtomicUsize::new(0),
            from: AtomicU64::new(NO_EPOCH),
        };
        TableState {
            rows: AtomicU64::new(0),
            committed: AtomicU64::new(committed.0),
            queued: Arc::default(),
            is_deciding: AtomicBool::new(false),
            decided: AtomicU64::new(committed.0),
            waiting: (0..writer_count).map(|_| nothing()).collect(),
        }
    }

    /// Returns since when rows wait for a commit, by the monotonic clock.
    pub(super) fn waiting_since_us(&self) -> Option<i64> {
        let since_us = self.waiting.iter().map(|waiting| waiting.since_us.load(Ordering::Acquire)).min();
        since_us.filter(|since_us| *since_us != NOTHING)
    }

    /// Whether so many bytes wait that a commit is due at once.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.iter().any(|waiting| waiting.is_full.load(Ordering::Acquire))
    }

    /// Whether so many bytes wait that a checkpoint should rather commit them than keep them.
    pub(super) fn is_worth_a_file(&self) -> bool {
        self.waiting.iter().any(|waiting| waiting.bytes.load(Ordering::Acquire) >= FILE_BYTES_MIN)
    }

    /// Whether so many bytes wait that no more may come before a commit.
    pub(super) fn is_overfull(&self) -> bool {
        self.waiting.iter().any(|waiting| waiting.bytes.load(Ordering::Acquire) >= HELD_BYTES_MAX)
    }

    /// Notes what a writer holds.
    pub(super) fn holds(&self, writer: usize, bytes: usize) {
        self.waiting[writer].bytes.store(bytes, Ordering::Release);
    }

    /// Notes the epoch of the first row that a writer holds.
    pub(super) fn holds_from(&self, writer: usize, epoch: Option<Epoch>) {
        self.waiting[writer].from.store(epoch.map_or(NO_EPOCH, |epoch| epoch.0), Ordering::SeqCst);
    }

    /// Returns the count of batches that are on their way to a writer: up before a batch is sent, down when it is held.
    pub(super) fn queued(&self) -> &Arc<AtomicUsize> {
        &self.queued
    }

    /// Says that rows leave the writers for files; before they do.
    pub(super) fn decides(&self, is_due: bool) {
        if is_due {
            self.is_deciding.store(true, Ordering::SeqCst);
        }
    }

    /// Says that all rows up to an epoch are in a commit.
    pub(super) fn decided(&self, epoch: Epoch) {
        self.decided.fetch_max(epoch.0, Ordering::SeqCst);
        self.is_deciding.store(false, Ordering::SeqCst);
    }

    /// Whether every row of an epoch that is complete is in a commit.
    pub(super) fn has_committed(&self, epoch: Epoch) -> bool {
        // In this order: a row goes from the queue to a writer, from there into a file, and then into a commit.
        self.decided.load(Ordering::SeqCst) >= epoch.0
            || (self.queued.load(Ordering::SeqCst) == 0
                && self.waiting.iter().all(|waiting| waiting.from.load(Ordering::SeqCst) > epoch.0)
                && !self.is_deciding.load(Ordering::SeqCst))
    }
}

/// What the checkpointer orders.
pub(super) enum Order {
    /// Phase one of an epoch that is complete.
    Prepare {
        epoch: Epoch,
        /// Whether rows go into files now; otherwise they wait, and are told.
        is_due: bool,
        answer: Sender<Result<Prepared, SinkError>>,
    },
    /// Phase two; only for the first writer.
    Commit { epoch: Epoch, committables: Vec<Committable>, answer: Sender<Result<Epoch, SinkError>> },
    /// Remove garbage; only for the first writer.
    Clean { answer: Sender<Result<(), SinkError>> },
}

/// What a writer says to [`Order::Prepare`].
#[derive(Default)]
pub(super) struct Prepared {
    pub(super) committables: Vec<Committable>,
    /// Rows up to the epoch that are in no file.
    pub(super) waiting: Vec<(Epoch, RecordBatch)>,
}

/// One writer of a table, on a thread of its own.
pub(super) struct Egress {
    pub(super) name: String,
    pub(super) index: usize,
    pub(super) writer: Box<dyn SinkWriter>,
    /// The table itself; the first writer has it.
    pub(super) sink: Option<Box<dyn Sink>>,
    pub(super) buffer: RowBuffer,
    pub(super) rows: Receiver<TableRows>,
    pub(super) orders: Receiver<Order>,
    pub(super) live: broadcast::Sender<(Epoch, RecordBatch)>,
    pub(super) state: Arc<TableState>,
    pub(super) marks: Arc<Marks>,
    pub(super) failure: Failure,
    pub(super) clock: Arc<dyn Clock>,
}

/// What comes to a writer.
enum Next {
    Rows(Result<TableRows, RecvError>),
    Order(Result<Order, RecvError>),
}

impl Egress {
    /// Runs until nobody orders any more.
    pub(super) fn run(mut self) {
        let (name, failure) = (self.name.clone(), self.failure.clone());
        if catch_unwind(AssertUnwindSafe(|| while self.step() {})).is_err() {
            // At once: the dataflow would notice only with the table's next rows.
            failure.set(format!("table {name}: its thread ended by an internal error"));
        }
    }

    /// Waits for rows or an order, and does what is to be done; returns whether more may come.
    fn step(&mut self) -> bool {
        let next = select! {
            recv(self.rows) -> rows => Next::Rows(rows),
            recv(self.orders) -> order => Next::Order(order),
        };
        self.take_up(next)
    }

    /// The same without waiting; returns whether more may come.
    pub(super) fn poll(&mut self) -> bool {
        // Rows first: which of two ready channels a `select!` takes is not ours to decide.
        if !self.rows.is_empty() {
            return self.take_up(Next::Rows(self.rows.recv()));
        }
        match self.orders.try_recv() {
            Err(TryRecvError::Empty) => true,
            Err(TryRecvError::Disconnected) => false,
            Ok(order) => self.take_up(Next::Order(Ok(order))),
        }
    }

    fn take_up(&mut self, next: Next) -> bool {
        match next {
            Next::Rows(Ok(rows)) => self.take(rows),
            // The dataflow has ended; orders may still come.
            Next::Rows(Err(RecvError)) => self.rows = never(),
            Next::Order(Ok(order)) => self.obey(order),
            Next::Order(Err(RecvError)) => return false,
        }
        true
    }

    fn take(&mut self, (epoch, place, rows): TableRows) {
        let count = rows.num_rows() as u64 + u64::from(is_planted(SeededBug::CountTooHigh));
        self.state.rows.fetch_add(count, Ordering::Relaxed);
        if self.live.receiver_count() > 0 {
            let _ = self.live.send((epoch, rows.clone())); // The last subscriber may just have left.
        }
        self.keep(epoch, place, rows);
        self.state.queued.fetch_sub(1, Ordering::SeqCst);
    }

    /// Adds rows that wait for a commit.
    pub(super) fn keep(&mut self, epoch: Epoch, place: LogPlace, rows: RecordBatch) {
        self.buffer.push(epoch, place, rows);
        self.state.holds(self.index, self.buffer.bytes());
        self.state.holds_from(self.index, self.buffer.first());
        let waiting = &self.state.waiting[self.index];
        let since_us = waiting.since_us.fetch_min(self.clock.monotonic_us(), Ordering::AcqRel);
        let is_full = self.buffer.bytes() >= BUFFERED_BYTES_MAX && !waiting.is_full.swap(true, Ordering::AcqRel);
        if since_us == NOTHING || is_full {
            self.marks.rows_wait();
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Prepare { epoch, is_due, answer } => {
                // More than what is there now is not taken: workers that are faster than this thread would never let it
                // come to the commit.
                for _ in 0..self.rows.len() {
                    let Ok(rows) = self.rows.try_recv() else { break };
                    self.take(rows);
                }
                let prepared = if is_due { self.prepare(epoch) } else { Ok(self.waiting(epoch)) };
                let _ = answer.send(prepared); // After a failure nobody waits.
            }
            Order::Commit { epoch, committables, answer } => {
                let sink = self.sink.as_mut().expect("only the first writer commits");
                let committed = sink.commit(epoch, &committables).map(|()| sink.last_committed());
                let _ = answer.send(committed);
            }
            Order::Clean { answer } => {
                let sink = self.sink.as_mut().expect("only the first writer cleans");
                let _ = answer.send(sink.clean().map(drop));
            }
        }
    }

    fn prepare(&mut self, epoch: Epoch) -> Result<Prepared, SinkError> {
        let rows = self.buffer.take(epoch);
        self.state.holds(self.index, self.buffer.bytes());
        self.state.holds_from(self.index, self.buffer.first());
        // What stays is of epochs after this one: it waits from now on.
        let waiting = &self.state.waiting[self.index];
        waiting.is_full.store(self.buffer.bytes() >= BUFFERED_BYTES_MAX, Ordering::Release);
        let since_us = if self.buffer.is_empty() { NOTHING } else { self.clock.monotonic_us() };
        waiting.since_us.store(since_us, Ordering::Release);
        let committables = if rows.is_empty() { Vec::new() } else { self.writer.prepare(epoch, &rows)? };
        Ok(Prepared { committables, waiting: Vec::new() })
    }

    fn waiting(&self, epoch: Epoch) -> Prepared {
        Prepared {
            committables: Vec::new(),
            waiting: self.buffer.peek(epoch).map(|(of, rows)| (of, rows.clone())).collect(),
        }
    }
}
