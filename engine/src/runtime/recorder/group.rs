//! A group: the requests that one sync makes durable, and that are answered and fed after it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::RecordBatch;
use tokio::sync::oneshot;

use super::{Partition, Recorder, RecorderError, measure};
use crate::error::with_causes;
use crate::ingest::{LogWriter, PartitionId, Record};
use crate::plan::NodeId;
use crate::runtime::intake::{Ask, Request};
use crate::seeded_bugs::{SeededBug, is_planted};
use crate::source::{Appended, Chunk, Data, IntakeError, Message, Note};

/// A chunk that is appended: what to answer, and what to feed, after the sync.
struct Group {
    partition: PartitionId,
    appended: Appended,
    data: Fed,
    receipt: oneshot::Sender<Result<Appended, IntakeError>>,
}

/// What the dataflow takes of a chunk.
enum Fed {
    Data(Data),
    /// What messages were decoded to before, with what they count: messages and bytes.
    Columns(Vec<RecordBatch>, (u64, usize)),
}

impl Recorder {
    pub(super) fn record_group(
        &mut self,
        log: &mut LogWriter,
        group: &mut Vec<Request>,
        stopping: bool,
        nothing_came: bool,
    ) -> Result<(), RecorderError> {
        let arrival_us = self.time.now_us(&*self.clock);
        let mut appended: Vec<Group> = Vec::with_capacity(group.len());
        let mut rooms = Vec::with_capacity(group.len());
        let mut records = 0;
        for request in group.drain(..) {
            let before = self.partitions.len();
            self.epoch_bytes += request.bytes;
            let (step, count) = self.append(log, request.source, request.ask, arrival_us);
            records += count + (self.partitions.len() - before);
            appended.extend(step);
            rooms.extend(request.room);
        }
        if records > 0 && self.opened_us.is_none() {
            self.opened_us = Some(self.clock.monotonic_us());
        }
        let seal = self.must_seal(stopping, nothing_came, arrival_us);
        let epoch = self.open;
        let checkpoint = seal && self.must_mark(stopping);
        if seal {
            log.append(&Record::Seal { epoch, now_us: arrival_us, checkpoint });
        }
        if records > 0 || seal {
            let begun_us = self.clock.monotonic_us();
            if let Err(error) = log.sync() {
                let refused = IntakeError::LogFailed(with_causes(&error));
                for group in appended {
                    let _ = group.receipt.send(Err(refused.clone())); // A source that has gone waits for nothing.
                }
                return Err(error.into());
            }
            self.sync_us = self.clock.monotonic_us().saturating_sub(begun_us);
            self.log_bytes.store(log.bytes(), Ordering::Relaxed);
            self.positions.durable(self.next);
        }
        let mut feeding = Vec::with_capacity(appended.len());
        for group in appended {
            let _ = group.receipt.send(Ok(group.appended));
            feeding.push((group.partition, group.appended.first, group.data));
        }
        for (partition, first, data) in feeding {
            match data {
                Fed::Data(data) => self.feed(partition, arrival_us, first, data)?,
                Fed::Columns(columns, measured) => {
                    self.feed_columns(partition, arrival_us, first, columns, measured)?;
                }
            }
        }
        self.bridge.push()?;
        if seal {
            self.closed(epoch, arrival_us, checkpoint)?;
        }
        drop(rooms); // Only now is there room for more: what was queued is in the dataflow.
        Ok(())
    }

    /// Appends one request to the log; returns what must be answered and fed after the sync, and how many records.
    fn append(&mut self, log: &mut LogWriter, source: NodeId, ask: Ask, arrival_us: i64) -> (Option<Group>, usize) {
        match ask {
            Ask::Open { partition } => {
                self.partition(log, source, &partition);
                (None, 0)
            }
            Ask::End { partition } => {
                let place = self.partition(log, source, &partition);
                (None, self.end(log, place))
            }
            Ask::Done => (None, self.done(log, source)),
            Ask::Stop => (None, 0),
            Ask::Append { partition, chunk, receipt } => {
                let partition = PartitionId(self.partition(log, source, &partition) as u32);
                let first = self.next;
                let data = match chunk {
                    Chunk::Messages(messages) => {
                        Fed::Data(self.append_messages(log, partition, arrival_us, messages, Vec::new()))
                    }
                    Chunk::Noted(messages, notes) => {
                        Fed::Data(self.append_messages(log, partition, arrival_us, messages, notes))
                    }
                    Chunk::Decoded { messages, notes, columns } => {
                        let kept = self.append_messages(log, partition, arrival_us, messages, notes);
                        Fed::Columns(columns, measure(&kept))
                    }
                    Chunk::Range { start, end, data, checksum } => {
                        let rows = measure(&data).0;
                        self.next.0 += rows;
                        self.partitions[partition.0 as usize].next = end;
                        log.append(&Record::Range { partition, arrival_us, first, rows, start, end, checksum });
                        Fed::Data(data)
                    }
                };
                let appended = Appended { first, next: self.next };
                (Some(Group { partition, appended, data, receipt }), 1)
            }
        }
    }

    fn append_messages(
        &mut self,
        log: &mut LogWriter,
        partition: PartitionId,
        arrival_us: i64,
        messages: Vec<Message>,
        notes: Vec<Note>,
    ) -> Data {
        let first = self.next;
        self.next.0 += messages.len() as u64;
        if is_planted(SeededBug::NoteApart) {
            let notes = notes.clone();
            log.append(&Record::Messages { partition, arrival_us, first, messages: Vec::new(), notes });
        }
        let notes = if is_planted(SeededBug::NoteLost) { Vec::new() } else { notes };
        let record = Record::Messages { partition, arrival_us, first, messages, notes };
        log.append(&record);
        let Record::Messages { messages, notes, .. } = record else { unreachable!("made above") };
        // Before the sync: a mark stands behind it, and without it there is no mark.
        self.partitions[partition.0 as usize].notes.take(notes, Appended { first, next: self.next });
        Data::Messages(messages)
    }

    /// Returns a partition's place; declares it in the log if it is new.
    fn partition(&mut self, log: &mut LogWriter, source: NodeId, name: &Arc<str>) -> usize {
        if let Some(place) = self.places.get(&(source, Arc::clone(name))) {
            return *place;
        }
        let source_name = self.sources[&source].name.clone();
        let place = self.add_partition(Some(source), source_name.as_str().into(), Arc::clone(name));
        log.append(&Record::Open { partition: PartitionId(place as u32), source: source_name, name: name.to_string() });
        place
    }

    fn end(&mut self, log: &mut LogWriter, place: usize) -> usize {
        if self.partitions[place].ended {
            return 0;
        }
        log.append(&Record::End { partition: PartitionId(place as u32) });
        self.end_partition(place);
        1
    }

    fn done(&mut self, log: &mut LogWriter, source: NodeId) -> usize {
        let places = |recorder: &Recorder| -> Vec<usize> {
            let own = |(place, partition): (usize, &Partition)| (partition.source == Some(source)).then_some(place);
            recorder.partitions.iter().enumerate().filter_map(own).collect()
        };
        if places(self).is_empty() {
            self.partition(log, source, &"".into()); // An empty input ends, too.
        }
        let records = places(self).into_iter().map(|place| self.end(log, place)).sum();
        let recorded = self.sources.get_mut(&source).expect("only known sources ask");
        recorded.done = true;
        recorded.state.ended.store(true, Ordering::Relaxed);
        records
    }
}
