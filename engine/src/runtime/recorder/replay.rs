//! The replay: what the recorder does before it records.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam_channel::Receiver;
use tokio::sync::watch;

use super::{Partition, Recorder, RecorderError};
use crate::checkpoint::{Checkpoint, PartitionState};
use crate::epoch::Epoch;
use crate::fence::Incarnation;
use crate::ingest::{LogWriter, Record, Replay};
use crate::plan::NodeId;
use crate::runtime::JobError;
use crate::runtime::intake::{Closer, Request};
use crate::runtime::notes::Notes;
use crate::source::{Appended, Data, Offset, Resume};
use crate::watermark::Mark;

/// What a replay found.
pub(in crate::runtime) struct Replayed {
    /// The last epoch that is sealed in the log.
    pub(in crate::runtime) sealed: Epoch,
    /// How many messages, or rows of ranges, were fed again.
    pub(in crate::runtime) messages: u64,
    /// For each source, its partitions.
    pub(in crate::runtime) resume: BTreeMap<NodeId, Vec<Resume>>,
}

impl Recorder {
    /// Goes on from a checkpoint; before the replay.
    pub(in crate::runtime) fn restore(&mut self, checkpoint: &Checkpoint, notes: Vec<Notes>) {
        for (partition, notes) in checkpoint.partitions.iter().zip(notes) {
            let PartitionState { source, name, next, arrival_us, ended, .. } = partition;
            let id = self.source_named(source);
            let place = self.partitions.len();
            let name: Arc<str> = name.as_str().into();
            if let Some(id) = id {
                self.places.insert((id, Arc::clone(&name)), place);
                // A watermark that begins anew has to hear again of what holds it back.
                let source = &self.sources[&id];
                if !source.is_restored && source.source.bounded() {
                    self.bridge.mark(id, Mark::Declared { partition: place as u32 });
                    if *ended {
                        self.bridge.mark(id, Mark::Ended { partition: place as u32 });
                    }
                }
            }
            let (next, arrival_us, ended) = (*next, *arrival_us, *ended);
            let source_name = source.as_str().into();
            self.partitions.push(Partition { source: id, source_name, name, next, arrival_us, ended, notes });
        }
        self.open = checkpoint.epoch.next();
        self.next = Offset(checkpoint.next_offset);
        self.sealed_us = checkpoint.sealed_us;
        self.time.replayed(checkpoint.sealed_us, &*self.clock);
        self.positions.sealed(checkpoint.epoch, self.next);
    }

    /// Feeds the log to the dataflow, exactly as it was fed when it was written: from where the replay stands, to its end.
    pub(in crate::runtime) fn replay(&mut self, mut replay: Replay) -> Result<(LogWriter, Replayed), RecorderError> {
        let mut sealed = Epoch(self.open.0 - 1);
        let first = self.next;
        while let Some(record) = replay.next()? {
            if let Record::Seal { epoch, .. } = &record {
                sealed = *epoch;
            } else {
                // What a crash left without a Seal waits for one: it was acknowledged, and perhaps nothing else comes.
                self.opened_us.get_or_insert_with(|| self.clock.monotonic_us());
            }
            self.bridge.durable(replay.settled_epoch());
            self.replay_one(record)?;
        }
        self.bridge.push()?;
        let writer = replay.finish()?;
        // From here on every epoch is durable before it is closed.
        self.bridge.durable(Epoch(u64::MAX));
        self.log_bytes.store(writer.bytes(), Ordering::Relaxed);
        self.positions.durable(self.next);
        let mut resume: BTreeMap<NodeId, Vec<Resume>> = self.sources.keys().map(|id| (*id, Vec::new())).collect();
        for partition in &self.partitions {
            if let Some(partitions) = partition.source.and_then(|source| resume.get_mut(&source)) {
                let (notes, places) = partition.notes.resume();
                let (next, ended) = (partition.next, partition.ended);
                partitions.push(Resume { partition: partition.name.to_string(), next, ended, notes, places });
            }
        }
        Ok((writer, Replayed { sealed, messages: self.next.0 - first.0, resume }))
    }

    fn replay_one(&mut self, record: Record) -> Result<(), RecorderError> {
        match record {
            Record::Open { partition, source, name } => {
                assert_eq!(partition.0 as usize, self.partitions.len(), "the log declares partitions in order");
                self.add_partition(self.source_named(&source), source.into(), name.into());
            }
            Record::Messages { partition, arrival_us, first, messages, notes } => {
                self.next = Offset(first.0 + messages.len() as u64);
                let at = Appended { first, next: self.next };
                self.partitions[partition.0 as usize].notes.take(notes, at);
                self.feed(partition, arrival_us, first, Data::Messages(messages))?;
            }
            Record::Range { partition, arrival_us, first, rows, start, end, checksum } => {
                self.next = Offset(first.0 + rows);
                let known = &mut self.partitions[partition.0 as usize];
                known.next = end;
                let Some(id) = known.source else { return Ok(()) };
                let name = Arc::clone(&known.name);
                let recorded = &self.sources[&id];
                let changed = |problem: String| RecorderError::Changed { source: recorded.name.clone(), problem };
                let (data, found) =
                    recorded.source.reread(&name, start, end).map_err(|error| changed(error.to_string()))?;
                if found != checksum {
                    return Err(changed(format!("{name} has changed since it was read at {start}..{end}")));
                }
                self.feed(partition, arrival_us, first, data)?;
            }
            Record::End { partition } => self.end_partition(partition.0 as usize),
            Record::Seal { epoch, now_us, checkpoint } => {
                let checkpoint = checkpoint && self.marks.is_idle();
                self.closed(epoch, now_us, checkpoint)?;
            }
        }
        Ok(())
    }
}

/// A table that is ahead of the log would silently swallow the rows of the epochs to come.
pub(in crate::runtime) fn check_committed(committed: &[(String, Epoch)], replayed: &Replayed) -> Result<(), JobError> {
    for (table, epoch) in committed {
        if *epoch > replayed.sealed {
            return Err(JobError::Log(format!(
                "table {table} has committed epoch {epoch}, but the log ends at epoch {}: the log has lost its end. \
                 Restore the log's files from a backup, or move the data folder away to start anew",
                replayed.sealed
            )));
        }
    }
    Ok(())
}

/// What the recorder's thread does.
pub(in crate::runtime) struct Recording {
    pub(in crate::runtime) recorder: Recorder,
    pub(in crate::runtime) replay: Replay,
    pub(in crate::runtime) incarnation: Incarnation,
    pub(in crate::runtime) requests: Receiver<Request>,
    pub(in crate::runtime) closer: Closer,
    /// Dropped with the log.
    pub(in crate::runtime) recording: watch::Sender<()>,
}

impl Recording {
    /// Replays, says how far it came, and records if it may go on.
    pub(in crate::runtime) fn run(mut self, may_go_on: impl FnOnce(Result<Replayed, RecorderError>) -> bool) {
        match self.recorder.replay(self.replay) {
            Err(error) => drop(may_go_on(Err(error))), // The start was given up.
            Ok((writer, found)) => {
                if may_go_on(Ok(found)) {
                    self.recorder.record(writer.fenced_by(self.incarnation), &self.requests);
                    drop(self.recording);
                    self.closer.close(self.requests);
                }
            }
        }
    }
}
