//! The recorder: the one thread that owns the log. It replays it, then appends what sources bring, syncs, lets them
//! acknowledge, and hands the same input to the dataflow.
//!
//! ```text
//!   requests ─► append … append [Seal] ─► one fdatasync ─► receipts ─► bridge
//! ```
//!
//! It syncs back to back: whatever arrived during one sync is the next group. An epoch is sealed when it has been open
//! for the epoch interval or is large. If nothing arrives then, its Seal waits as long as a sync takes: who arrives meanwhile
//! would have had to wait for the sync of the Seal. Without input nothing is written, but for one Seal when a partition
//! becomes idle, so that a replay decides the same.

mod group;
mod replay;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrow::array::RecordBatch;
use crossbeam_channel::{Receiver, RecvTimeoutError};

pub(super) use self::replay::{Recording, Replayed, check_committed};
use super::JobError;
use super::bridge::{Bridge, Closed, Origin};
use super::intake::{Ask, Request, SourceState};
use super::marks::{Marked, Marks};
use super::notes::Notes;
use super::positions::Positions;
use super::recorded_time::RecordedTime;
use super::turns;
use crate::checkpoint::PartitionState;
use crate::clock::Clock;
use crate::dataflow::Failure;
use crate::epoch::Epoch;
use crate::ingest::{LogError, LogWriter, PartitionId};
use crate::plan::{EventTimeNode, NodeId};
use crate::seeded_bugs::{SeededBug, is_planted};
use crate::source::{Data, Message, Offset, Source};
use crate::watermark::Mark;

/// Bytes that one sync makes durable, about.
const GROUP_BYTES: usize = 8 << 20;

/// An epoch is sealed when it has this many payload bytes, even before its interval has passed.
const EPOCH_BYTES: usize = 8 << 20;

/// A Seal waits at most so long for the next group to share its sync.
const SEAL_WAIT_US_MAX: i64 = 20_000;

/// How often a recorder whose checkpoint is due looks whether the one before is made.
const CHECKPOINT_CHECK_US: i64 = 100_000;

/// What the recorder knows of a source.
pub(super) struct Recorded {
    pub(super) name: String,
    pub(super) source: Arc<dyn Source>,
    pub(super) event_time: Option<EventTimeNode>,
    pub(super) state: Arc<SourceState>,
    /// Whether its watermark goes on from a checkpoint.
    pub(super) is_restored: bool,
    pub(super) done: bool,
}

/// A partition that the log knows.
struct Partition {
    /// `None`: a source that the plan does not have any more.
    source: Option<NodeId>,
    source_name: Arc<str>,
    name: Arc<str>,
    next: u64,
    arrival_us: Option<i64>,
    ended: bool,
    notes: Notes,
}

/// Why the recorder ended before its time.
#[derive(Debug)]
pub(super) enum RecorderError {
    Log(LogError),
    Changed { source: String, problem: String },
    Closed,
}

impl From<LogError> for RecorderError {
    fn from(error: LogError) -> Self {
        RecorderError::Log(error)
    }
}

impl From<Closed> for RecorderError {
    fn from(Closed: Closed) -> Self {
        RecorderError::Closed
    }
}

/// What a recorder shares with other threads of its job.
pub(super) struct Links {
    pub(super) marks: Arc<Marks>,
    pub(super) failure: Failure,
    pub(super) log_bytes: Arc<std::sync::atomic::AtomicU64>,
    pub(super) positions: Arc<Positions>,
}

/// The recorder's state, from the start of the replay on.
pub(super) struct Recorder {
    pub(super) bridge: Bridge,
    pub(super) sources: BTreeMap<NodeId, Recorded>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) epoch_interval: Duration,
    pub(super) failure: Failure,
    pub(super) checkpoint_interval: Duration,
    pub(super) marks: Arc<Marks>,
    /// When an epoch was marked last, by the monotonic clock.
    marked_us: i64,
    /// Whether an epoch was sealed since.
    sealed_since_mark: bool,
    partitions: Vec<Partition>,
    places: BTreeMap<(NodeId, Arc<str>), usize>,
    open: Epoch,
    /// When the open epoch got its first record, by the monotonic clock.
    opened_us: Option<i64>,
    epoch_bytes: usize,
    /// How long the last sync took.
    sync_us: i64,
    next: Offset,
    sealed_us: i64,
    time: RecordedTime,
    log_bytes: Arc<std::sync::atomic::AtomicU64>,
    positions: Arc<Positions>,
}

impl Recorder {
    pub(super) fn new(
        bridge: Bridge,
        sources: BTreeMap<NodeId, Recorded>,
        clock: Arc<dyn Clock>,
        (epoch_interval, checkpoint_interval): (Duration, Duration),
        links: Links,
    ) -> Recorder {
        let Links { marks, failure, log_bytes, positions } = links;
        Recorder {
            marked_us: clock.monotonic_us(),
            sealed_since_mark: false,
            bridge,
            sources,
            clock,
            epoch_interval,
            checkpoint_interval,
            marks,
            failure,
            partitions: Vec::new(),
            places: BTreeMap::new(),
            open: Epoch::FIRST,
            opened_us: None,
            epoch_bytes: 0,
            sync_us: 0,
            next: Offset(0),
            sealed_us: i64::MIN,
            time: RecordedTime::default(),
            log_bytes,
            positions,
        }
    }

    fn source_named(&self, name: &str) -> Option<NodeId> {
        self.sources.iter().find(|(_, known)| known.name == name).map(|(id, _)| *id)
    }

    /// What a checkpoint at the end of the open epoch needs to know of the log.
    fn marked(&mut self, epoch: Epoch, sealed_us: i64) -> Marked {
        let partition = |partition: &Partition| PartitionState {
            source: partition.source_name.to_string(),
            name: partition.name.to_string(),
            next: partition.next,
            arrival_us: partition.arrival_us,
            ended: partition.ended,
            notes: None, // For the checkpointer to name.
        };
        let changed = |(place, partition): (usize, &mut Partition)| Some((place, partition.notes.changed_rows()?));
        let notes = self.partitions.iter_mut().enumerate().filter_map(changed).collect();
        let received = |(id, source): (&NodeId, &Recorded)| {
            let SourceState { messages, bytes, .. } = &*source.state;
            (*id, (messages.load(Ordering::Relaxed), bytes.load(Ordering::Relaxed)))
        };
        Marked {
            epoch,
            sealed_us,
            next_offset: match self.next.0 {
                _ if is_planted(SeededBug::OffsetForgotten) => 0,
                next if is_planted(SeededBug::OffsetTooHigh) => next + 1,
                next if is_planted(SeededBug::OffsetTooLow) => next.saturating_sub(1),
                next => next,
            },
            partitions: self.partitions.iter().map(partition).collect(),
            notes,
            received: self.sources.iter().map(received).collect(),
        }
    }

    fn add_partition(&mut self, source: Option<NodeId>, source_name: Arc<str>, name: Arc<str>) -> usize {
        let place = self.partitions.len();
        if let Some(id) = source {
            self.places.insert((id, Arc::clone(&name)), place);
            if self.sources[&id].source.bounded() {
                self.bridge.mark(id, Mark::Declared { partition: place as u32 });
            }
        }
        let partition =
            Partition { source, source_name, name, next: 0, arrival_us: None, ended: false, notes: Notes::default() };
        self.partitions.push(partition);
        place
    }

    fn end_partition(&mut self, place: usize) {
        self.partitions[place].ended = true;
        if let Some(id) = self.partitions[place].source {
            self.bridge.mark(id, Mark::Ended { partition: place as u32 });
        }
    }

    fn feed(&mut self, partition: PartitionId, arrival_us: i64, first: Offset, data: Data) -> Result<(), Closed> {
        // Notes alone are no arrival: a device that says only good-bye is idle.
        if matches!(&data, Data::Messages(messages) if messages.is_empty()) {
            return Ok(());
        }
        match self.arrived(partition, arrival_us, first, measure(&data)) {
            Some(origin) => self.bridge.feed(&origin, data),
            None => Ok(()),
        }
    }

    /// The same for messages that are columns already; they count as the messages they were.
    fn feed_columns(
        &mut self,
        partition: PartitionId,
        arrival_us: i64,
        first: Offset,
        columns: Vec<RecordBatch>,
        measured: (u64, usize),
    ) -> Result<(), Closed> {
        let Some(mut origin) = self.arrived(partition, arrival_us, first, measured) else { return Ok(()) };
        for batch in columns {
            let rows = batch.num_rows() as u64;
            self.bridge.feed(&origin, Data::Columns(batch))?;
            origin.first.0 += rows;
        }
        Ok(())
    }

    /// Counts what has come to a partition; returns where it comes from, if the plan still has its source.
    fn arrived(
        &mut self,
        partition: PartitionId,
        arrival_us: i64,
        first: Offset,
        (messages, bytes): (u64, usize),
    ) -> Option<Origin> {
        let known = &mut self.partitions[partition.0 as usize];
        known.arrival_us = Some(known.arrival_us.map_or(arrival_us, |before| before.max(arrival_us)));
        let source = known.source?;
        let state = &self.sources[&source].state;
        state.messages.fetch_add(messages, Ordering::Relaxed);
        state.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let partition_name = Arc::clone(&known.name);
        Some(Origin { source, partition: partition.0, partition_name, arrival_us, first })
    }

    fn closed(&mut self, epoch: Epoch, now_us: i64, checkpoint: bool) -> Result<(), Closed> {
        self.sealed_since_mark = !checkpoint;
        if checkpoint {
            self.marked_us = self.clock.monotonic_us();
            let marked = self.marked(epoch, now_us);
            self.marks.mark(marked);
        }
        self.positions.sealed(epoch, self.next);
        self.bridge.close(epoch, now_us, checkpoint)?;
        self.open = epoch.next();
        self.opened_us = None;
        self.epoch_bytes = 0;
        self.sealed_us = self.sealed_us.max(now_us);
        self.time.replayed(now_us, &*self.clock);
        Ok(())
    }

    /// Records what sources bring until all of them are done or the queue is closed; then seals the last epoch.
    pub(super) fn record(mut self, mut log: LogWriter, requests: &Receiver<Request>) {
        match self.record_all(&mut log, requests) {
            Ok(()) | Err(RecorderError::Closed) => {}
            Err(RecorderError::Log(error)) => JobError::from(error).end(&self.failure),
            Err(RecorderError::Changed { source, problem }) => {
                self.failure.set_environment(format!("source {source}: {problem}"));
            }
        }
    }

    fn record_all(&mut self, log: &mut LogWriter, requests: &Receiver<Request>) -> Result<(), RecorderError> {
        let mut group: Vec<Request> = Vec::new();
        loop {
            let mut stopping = self.sources.values().all(|source| source.done);
            if !stopping {
                match self.wait(requests) {
                    Ok(request) => group.push(request),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => stopping = true,
                }
            }
            let mut bytes: usize = group.iter().map(|request| request.bytes).sum();
            while bytes < GROUP_BYTES {
                let Ok(request) = requests.try_recv() else { break };
                bytes += request.bytes;
                group.push(request);
            }
            let asked = group.len();
            group.retain(|request| !matches!(request.ask, Ask::Stop));
            stopping |= group.len() < asked;
            if stopping {
                self.marks.stop();
            }
            let nothing_came = group.is_empty();
            self.record_group(log, &mut group, stopping, nothing_came)?;
            if stopping {
                return Ok(());
            }
        }
    }

    /// Waits for a request, for the end of the open epoch, or for the next partition to become idle.
    fn wait(&mut self, requests: &Receiver<Request>) -> Result<Request, RecvTimeoutError> {
        let left_us = match self.opened_us {
            // At its end it is looked whether a checkpoint is due.
            Some(opened_us) => {
                let end_us = opened_us.saturating_add(crate::time::micros(self.epoch_interval));
                let end_us = end_us.saturating_add(self.sync_us.min(SEAL_WAIT_US_MAX));
                Some(end_us.saturating_sub(self.clock.monotonic_us()))
            }
            None => {
                let idle_us = self.idle_from_us();
                let idle_left_us = idle_us.map(|idle_us| idle_us.saturating_sub(self.time.now_us(&*self.clock)));
                [idle_left_us, self.mark_left_us()].into_iter().flatten().min()
            }
        };
        let left = left_us.map(|left_us| Duration::from_micros(left_us.try_into().unwrap_or(0)));
        turns::recv(requests, left)
    }

    /// Returns how long until a checkpoint is due, though perhaps nothing more comes.
    fn mark_left_us(&self) -> Option<i64> {
        let interval_us = crate::time::micros(self.checkpoint_interval);
        let due_us = self.sealed_since_mark.then_some(self.marked_us.saturating_add(interval_us))?;
        let left_us = due_us.saturating_sub(self.clock.monotonic_us());
        // While one is under way the next one has to wait.
        Some(if self.marks.is_idle() { left_us } else { left_us.max(CHECKPOINT_CHECK_US) })
    }

    /// Whether the epoch that is sealed now is marked.
    fn must_mark(&self, stopping: bool) -> bool {
        if stopping {
            return self.marks.wait_idle(&self.failure);
        }
        let interval_us = crate::time::micros(self.checkpoint_interval);
        self.marks.is_idle() && self.clock.monotonic_us().saturating_sub(self.marked_us) >= interval_us
    }

    /// Returns when the next partition will be idle that no Seal has found idle yet.
    fn idle_from_us(&self) -> Option<i64> {
        let idle_us = |partition: &Partition| {
            let after_us = self.sources[&partition.source?].event_time?.idle_after_us?;
            let from_us = partition.arrival_us?.saturating_add(after_us).saturating_add(1);
            (!partition.ended && from_us > self.sealed_us).then_some(from_us)
        };
        self.partitions.iter().filter_map(idle_us).min()
    }

    fn must_seal(&self, stopping: bool, nothing_came: bool, now_us: i64) -> bool {
        let interval_us = crate::time::micros(self.epoch_interval);
        match self.opened_us {
            Some(opened_us) => {
                stopping
                    || self.epoch_bytes >= EPOCH_BYTES
                    || self.clock.monotonic_us().saturating_sub(opened_us) >= interval_us
            }
            None if stopping => self.sealed_since_mark,
            None => {
                let is_idle = self.idle_from_us().is_some_and(|idle_us| idle_us <= now_us);
                let is_due = self.marks.is_idle() && self.mark_left_us().is_some_and(|left_us| left_us <= 0);
                nothing_came && (is_idle || is_due)
            }
        }
    }
}

/// Returns messages (rows, for columns) and bytes.
fn measure(data: &Data) -> (u64, usize) {
    match data {
        Data::Messages(messages) => (messages.len() as u64, messages.iter().map(Message::byte_count).sum()),
        Data::Columns(batch) => (batch.num_rows() as u64, batch.get_array_memory_size()),
    }
}
