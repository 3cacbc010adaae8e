//! The bridge: from the log into the dataflow, in whole epochs, and never more than the dataflow can hold.
//!
//! timely has no backpressure. The bridge lets at most [`EPOCHS_IN_FLIGHT_MAX`] epochs in that are not complete; the
//! recorder waits here for more, and with it, through its bounded queue, every source.
//!
//! Nor are tables bounded by themselves: they take all rows of an epoch, so that it can be completed, and hold them until
//! the next commit. So no epoch is begun while a table holds too much of those that it could commit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{SendTimeoutError, Sender};
use timely::scheduling::SyncActivator;

use super::egress::TableState;
use super::progress::Progress;
use super::turns;
use crate::dataflow::{Failure, FedChunk, Feed};
use crate::epoch::Epoch;
use crate::plan::NodeId;
use crate::source::{Data, Message, Offset};
use crate::watermark::Mark;

/// Epochs that are let in before the first of them is complete: enough to keep every worker busy.
pub(super) const EPOCHS_IN_FLIGHT_MAX: u64 = 8;

/// Chunks that wait for one source on one worker.
pub(super) const CHUNKS_QUEUED_MAX: usize = 64;

/// Messages are handed over in pieces of about this size, so that all workers decode.
const PIECE_BYTES: usize = 256 << 10;

/// And of at most this many.
const PIECE_MESSAGES: usize = 4_096;

/// How often a waiting bridge looks whether the job has failed.
const FAILURE_CHECK: Duration = Duration::from_millis(100);

/// How often a bridge that waits for tables looks whether they have room.
const TABLE_CHECK: Duration = Duration::from_millis(5);

/// The dataflow has failed, or ended: there is nobody to feed.
#[derive(Debug)]
pub(super) struct Closed;

/// One source's way in: a channel and a wake-up for each worker.
pub(super) struct Lane {
    pub(super) senders: Vec<Sender<Feed>>,
    pub(super) wakes: Vec<SyncActivator>,
}

/// Feeds epochs to the workers.
pub(super) struct Bridge {
    lanes: BTreeMap<NodeId, Lane>,
    progress: Arc<Progress>,
    tables: Vec<Arc<TableState>>,
    failure: Failure,
    open: Epoch,
    next_worker: usize,
    piece: Option<Piece>,
    marks: BTreeMap<NodeId, Vec<Mark>>,
}

/// Messages that are gathered before they are handed over.
struct Piece {
    source: NodeId,
    bytes: usize,
    chunk: FedChunk,
}

/// Where a chunk comes from.
#[derive(Clone)]
pub(super) struct Origin {
    pub(super) source: NodeId,
    pub(super) partition: u32,
    pub(super) partition_name: Arc<str>,
    pub(super) arrival_us: i64,
    pub(super) first: Offset,
}

impl Bridge {
    pub(super) fn new(
        lanes: BTreeMap<NodeId, Lane>,
        progress: Arc<Progress>,
        tables: Vec<Arc<TableState>>,
        failure: Failure,
        first: Epoch,
    ) -> Bridge {
        Bridge { lanes, progress, tables, failure, open: first, next_worker: 0, piece: None, marks: BTreeMap::new() }
    }

    /// Notes that the log is durable up to this epoch.
    pub(super) fn durable(&self, epoch: Epoch) {
        self.progress.durable(epoch);
    }

    /// Notes what the open epoch says about a partition beside its rows.
    pub(super) fn mark(&mut self, source: NodeId, mark: Mark) {
        self.marks.entry(source).or_default().push(mark);
    }

    /// Feeds input of the open epoch. Messages are gathered to pieces; waits while the dataflow is full.
    pub(super) fn feed(&mut self, origin: &Origin, data: Data) -> Result<(), Closed> {
        match data {
            Data::Columns(batch) => {
                self.progress.feed(self.open, batch.num_rows() as u64);
                self.flush()?;
                let piece = Piece::new(origin, origin.first, Data::Columns(batch));
                self.hand_over(piece)
            }
            Data::Messages(messages) => {
                self.progress.feed(self.open, messages.len() as u64);
                for (at, message) in messages.into_iter().enumerate() {
                    self.gather(origin, Offset(origin.first.0 + at as u64), message)?;
                }
                Ok(())
            }
        }
    }

    fn gather(&mut self, origin: &Origin, offset: Offset, message: Message) -> Result<(), Closed> {
        if !self.piece.as_ref().is_some_and(|piece| piece.takes(origin)) {
            self.flush()?;
            self.piece = Some(Piece::new(origin, offset, Data::Messages(Vec::new())));
        }
        let piece = self.piece.as_mut().expect("made above");
        piece.push(offset, message);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Closed> {
        match self.piece.take() {
            Some(piece) => self.hand_over(piece),
            None => Ok(()),
        }
    }

    fn hand_over(&mut self, piece: Piece) -> Result<(), Closed> {
        self.wait_for_room()?;
        let Some(lane) = self.lanes.get(&piece.source) else { return Ok(()) };
        let worker = self.next_worker % lane.senders.len();
        self.next_worker = self.next_worker.wrapping_add(1);
        self.send(lane, worker, Feed::Chunk(piece.chunk))
    }

    fn wait_for_room(&self) -> Result<(), Closed> {
        let needed = Epoch(self.open.0.saturating_sub(EPOCHS_IN_FLIGHT_MAX));
        while !self.progress.wait_completed(needed, FAILURE_CHECK) {
            if self.failure.is_set() {
                return Err(Closed);
            }
        }
        Ok(())
    }

    fn send(&self, lane: &Lane, worker: usize, feed: Feed) -> Result<(), Closed> {
        let mut feed = feed;
        loop {
            match turns::send(&lane.senders[worker], feed, FAILURE_CHECK) {
                Ok(()) => break,
                Err(SendTimeoutError::Disconnected(_)) => return Err(Closed),
                Err(SendTimeoutError::Timeout(_)) if self.failure.is_set() => return Err(Closed),
                Err(SendTimeoutError::Timeout(back)) => feed = back,
            }
        }
        lane.wakes[worker].activate().map_err(|_| Closed)
    }

    /// Hands over what is gathered, without ending the epoch.
    pub(super) fn push(&mut self) -> Result<(), Closed> {
        self.flush()
    }

    /// Ends the open epoch on all workers.
    pub(super) fn close(&mut self, epoch: Epoch, now_us: i64, checkpoint: bool) -> Result<(), Closed> {
        assert_eq!(epoch, self.open, "epochs are sealed in order");
        self.flush()?;
        self.wait_for_room()?;
        self.progress.seal(epoch);
        for (source, lane) in &self.lanes {
            let mut marks = self.marks.remove(source).unwrap_or_default();
            marks.push(Mark::Sealed { now_us, checkpoint });
            for worker in 0..lane.senders.len() {
                // One worker sends the marks to all; rows decide on the others.
                let marks = if worker == 0 { std::mem::take(&mut marks) } else { Vec::new() };
                self.send(lane, worker, Feed::Close { epoch, marks, checkpoint })?;
            }
        }
        self.open = epoch.next();
        self.wait_for_tables(epoch)
    }

    /// Waits until tables have committed enough, of epochs up to one that is closed: all of them will be complete, whatever
    /// waits here. While it is not known to be durable they may not commit it, and would be waited for in vain.
    fn wait_for_tables(&self, closed: Epoch) -> Result<(), Closed> {
        while self.progress.is_durable(closed) && self.tables.iter().any(|table| table.is_overfull()) {
            if self.failure.is_set() {
                return Err(Closed);
            }
            std::thread::sleep(TABLE_CHECK);
        }
        Ok(())
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        // Otherwise a bug in the recorder would look like the end of the input.
        if std::thread::panicking() {
            self.failure.set("the recorder ended by an internal error".to_owned());
        }
        // The channels close first; then the sources are woken to see it, and to let their epochs end.
        for lane in std::mem::take(&mut self.lanes).into_values() {
            drop(lane.senders);
            for wake in lane.wakes {
                let _ = wake.activate(); // A worker that has ended needs no waking.
            }
        }
    }
}

impl Piece {
    fn new(origin: &Origin, first: Offset, data: Data) -> Piece {
        let places = match &data {
            Data::Messages(_) => Vec::new(),
            Data::Columns(batch) => vec![(first, batch.num_rows())],
        };
        Piece {
            source: origin.source,
            bytes: 0,
            chunk: FedChunk {
                partition: origin.partition,
                partition_name: Arc::clone(&origin.partition_name),
                arrival_us: origin.arrival_us,
                places,
                data,
            },
        }
    }

    fn takes(&self, origin: &Origin) -> bool {
        self.source == origin.source
            && self.chunk.partition == origin.partition
            && self.chunk.arrival_us == origin.arrival_us
            && self.bytes < PIECE_BYTES
            && matches!(&self.chunk.data, Data::Messages(messages) if messages.len() < PIECE_MESSAGES)
    }

    fn push(&mut self, offset: Offset, message: Message) {
        self.bytes += message.payload.len() + message.topic.len();
        match self.chunk.places.last_mut() {
            Some((first, count)) if first.0 + *count as u64 == offset.0 => *count += 1,
            _ => self.chunk.places.push((offset, 1)),
        }
        if let Data::Messages(messages) = &mut self.chunk.data {
            messages.push(message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::egress::HELD_BYTES_MAX;
    use super::*;

    #[test]
    fn no_epoch_is_begun_while_a_table_holds_too_much_that_it_could_commit() {
        let progress = Arc::new(Progress::default());
        let table = Arc::new(TableState::new(Epoch::NONE, 2));
        let tables = vec![Arc::clone(&table)];
        let mut bridge = Bridge::new(BTreeMap::new(), Arc::clone(&progress), tables, Failure::new(|| {}), Epoch(1));
        table.holds(1, HELD_BYTES_MAX);
        bridge.close(Epoch(1), 0, false).expect("what is not durable cannot be committed, so it is not waited for");
        progress.durable(Epoch(u64::MAX));
        let (closed, is_closed) = crossbeam_channel::bounded(1);
        let closing = std::thread::spawn(move || {
            bridge.close(Epoch(2), 0, false).expect("goes on");
            closed.send(()).expect("the test waits");
        });
        is_closed.recv_timeout(Duration::from_millis(100)).expect_err("the table has no room");
        table.holds(1, 0);
        is_closed.recv_timeout(Duration::from_secs(20)).expect("it has committed");
        closing.join().expect("ends");
    }
}
