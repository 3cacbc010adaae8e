//! The intake: where sources put their chunks, on the way to the recorder.
//!
//! What is queued is bounded by bytes: [`BYTES_QUEUED_MAX`] over all sources. A source that finds no room waits, and
//! so does whoever sends to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, TrySendError};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, oneshot};

use super::positions::Positions;
use super::turns;
use crate::ingest::RECORD_BYTES_MAX;
use crate::plan::NodeId;
use crate::seeded_bugs::{SeededBug, is_planted};
use crate::source::{Appended, BoxFuture, Chunk, Data, Intake, IntakeError, Message, Offset, Receipt, Stage};

/// Bytes that wait for the log, over all sources.
pub(super) const BYTES_QUEUED_MAX: usize = 32 << 20;

/// The unit in which room is counted: a request takes at least one.
const ROOM_UNIT_BYTES: usize = 1 << 10;

/// Requests that wait for the log: as many as there are units of room, and a stop.
pub(super) const REQUESTS_QUEUED_MAX: usize = ROOM_UNITS + 1;

const ROOM_UNITS: usize = BYTES_QUEUED_MAX / ROOM_UNIT_BYTES;

/// What framing and names add to a chunk in the log, at most.
const RECORD_OVERHEAD_BYTES: usize = 1 << 20;

/// What a source asks of the recorder.
pub(super) enum Ask {
    Open {
        partition: Arc<str>,
    },
    Append {
        partition: Arc<str>,
        chunk: Chunk,
        receipt: oneshot::Sender<Result<Appended, IntakeError>>,
    },
    End {
        partition: Arc<str>,
    },
    /// The source has ended by itself: all its partitions end.
    Done,
    /// Whoever runs the job wants it to stop.
    Stop,
}

/// An ask, from whom, and the room it takes until its rows are in the dataflow.
pub(super) struct Request {
    pub(super) source: NodeId,
    pub(super) ask: Ask,
    /// Payload bytes.
    pub(super) bytes: usize,
    pub(super) room: Option<OwnedSemaphorePermit>,
}

/// What a source says about itself, for the status.
#[derive(Debug, Default)]
pub(super) struct SourceState {
    pub(super) connected: AtomicBool,
    pub(super) was_connected: AtomicBool,
    pub(super) ended: AtomicBool,
    pub(super) messages: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) errors: Mutex<Vec<(&'static str, u64)>>,
}

/// The queue to the recorder; shared by all sources of a job.
#[derive(Clone)]
pub(super) struct Queue {
    sender: Sender<Request>,
    room: Arc<Semaphore>,
}

/// The recorder's side of the queue's end.
pub(super) struct Closer(Arc<Semaphore>);

impl Closer {
    /// Refuses everything from now on, and drops what was sent until then, so that nobody waits for a receipt that never
    /// comes. Returns when the last source has gone: a channel keeps what it has as long as there is a way in.
    pub(super) fn close(self, requests: Receiver<Request>) {
        self.0.close();
        while turns::recv(&requests, None).is_ok() {}
    }
}

impl Queue {
    pub(super) fn new(sender: Sender<Request>) -> Queue {
        Queue { sender, room: Arc::new(Semaphore::new(ROOM_UNITS)) }
    }

    /// Refuses everything from now on, and has the recorder stop after what is queued.
    pub(super) fn stop(&self) {
        self.room.close();
        // Full or disconnected: a stop is queued already, or the recorder has ended.
        let _ = self.sender.try_send(Request { source: NodeId(usize::MAX), ask: Ask::Stop, bytes: 0, room: None });
    }

    /// Returns what the recorder closes the queue with when it ends. It is no way in: the queue ends without it.
    pub(super) fn closer(&self) -> Closer {
        Closer(Arc::clone(&self.room))
    }

    fn send(&self, source: NodeId, ask: Ask, bytes: usize, room: OwnedSemaphorePermit) -> Result<(), IntakeError> {
        match self.sender.try_send(Request { source, ask, bytes, room: Some(room) }) {
            Ok(()) => Ok(()),
            Err(TrySendError::Disconnected(_)) => Err(IntakeError::Stopping),
            Err(TrySendError::Full(_)) => unreachable!("the channel has a place for every unit of room"),
        }
    }

    async fn wait_and_send(&self, source: NodeId, ask: Ask, bytes: usize) -> Result<(), IntakeError> {
        let room = Arc::clone(&self.room).acquire_many_owned(units(bytes)).await.map_err(|_| IntakeError::Stopping)?;
        self.send(source, ask, bytes, room)
    }

    /// Says that a source has ended by itself.
    pub(super) async fn done(&self, source: NodeId) -> Result<(), IntakeError> {
        self.wait_and_send(source, Ask::Done, 0).await
    }
}

/// The intake of one source.
pub(super) struct SourceIntake {
    pub(super) source: NodeId,
    pub(super) queue: Queue,
    pub(super) state: Arc<SourceState>,
    pub(super) positions: Arc<Positions>,
}

impl Intake for SourceIntake {
    fn open(&self, partition: &str) -> BoxFuture<'_, Result<(), IntakeError>> {
        let ask = Ask::Open { partition: partition.into() };
        Box::pin(self.queue.wait_and_send(self.source, ask, 0))
    }

    fn append(&self, partition: &str, chunk: Chunk) -> BoxFuture<'_, Result<Receipt, IntakeError>> {
        let partition = partition.into();
        Box::pin(async move {
            let bytes = checked_bytes(&chunk)?;
            let (receipt, waiting) = oneshot::channel();
            self.queue.wait_and_send(self.source, Ask::Append { partition, chunk, receipt }, bytes).await?;
            Ok(receive(waiting))
        })
    }

    fn try_append(&self, partition: &str, chunk: Chunk) -> Option<Result<Receipt, IntakeError>> {
        let bytes = match checked_bytes(&chunk) {
            Ok(bytes) => bytes,
            Err(error) => return Some(Err(error)),
        };
        let room = match Arc::clone(&self.queue.room).try_acquire_many_owned(units(bytes)) {
            Ok(room) => room,
            Err(TryAcquireError::NoPermits) => return None,
            Err(TryAcquireError::Closed) => return Some(Err(IntakeError::Stopping)),
        };
        let (receipt, waiting) = oneshot::channel();
        let ask = Ask::Append { partition: partition.into(), chunk, receipt };
        Some(self.queue.send(self.source, ask, bytes, room).map(|()| receive(waiting)))
    }

    fn end(&self, partition: &str) -> BoxFuture<'_, Result<(), IntakeError>> {
        let ask = Ask::End { partition: partition.into() };
        Box::pin(self.queue.wait_and_send(self.source, ask, 0))
    }

    fn set_connected(&self, connected: bool) {
        self.state.connected.store(connected, Ordering::Relaxed);
        if connected {
            self.state.was_connected.store(true, Ordering::Relaxed);
        }
    }

    fn count_error(&self, kind: &'static str) {
        let mut errors = self.state.errors.lock();
        match errors.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, count)) => *count += 1,
            None => errors.push((kind, 1)),
        }
    }

    fn stage(&self, before: Offset) -> Option<Stage> {
        self.positions.stage(self.source, before)
    }
}

fn receive(waiting: oneshot::Receiver<Result<Appended, IntakeError>>) -> Receipt {
    // A recorder that ends without an answer has not synced: nothing may be acknowledged.
    Box::pin(async move { waiting.await.unwrap_or(Err(IntakeError::Stopping)) })
}

fn checked_bytes(chunk: &Chunk) -> Result<usize, IntakeError> {
    let messages = |messages: &[Message]| -> usize { messages.iter().map(|message| message.byte_count() + 16).sum() };
    let kept = |bytes: usize| {
        let max = RECORD_BYTES_MAX - RECORD_OVERHEAD_BYTES;
        if bytes > max { Err(IntakeError::TooBig { bytes, max }) } else { Ok(bytes) }
    };
    match chunk {
        Chunk::Messages(read) => kept(messages(read)),
        Chunk::Noted(read, notes) => {
            kept(messages(read) + notes.iter().map(|note| note.byte_count() + 16).sum::<usize>())
        }
        Chunk::Decoded { messages: read, notes, .. } => {
            kept(messages(read) + notes.iter().map(|note| note.byte_count() + 16).sum::<usize>())
        }
        Chunk::Range { data: Data::Messages(read), .. } => Ok(messages(read)),
        Chunk::Range { data: Data::Columns(batch), .. } => Ok(batch.get_array_memory_size()),
    }
}

fn units(bytes: usize) -> u32 {
    if is_planted(SeededBug::QueueWithoutBound) {
        return 0;
    }
    bytes.div_ceil(ROOM_UNIT_BYTES).clamp(1, ROOM_UNITS) as u32
}
