//! The source: takes epochs from the bridge, decodes, and moves the capability.
//!
//! Decoding happens here, on every worker, because it costs more than all the rest. What leaves:
//!
//! ```text
//!               ┌─► rows         decoded, with an event time that can be
//!   chunks ─────┼─► dead         what did not decode, with its reason and its place in the log
//!               ├─► quarantined  rows stamped too far ahead of their arrival
//!               └─► marks        greatest event time of each partition, to all workers
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, AsArray, BinaryBuilder, BooleanArray, Int64Builder, RecordBatch, StringViewBuilder,
    TimestampMicrosecondBuilder,
};
use arrow::compute::filter_record_batch;
use arrow::datatypes::TimestampMicrosecondType;
use crossbeam_channel::{Receiver, TryRecvError};
use timely::dataflow::Scope;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::scheduling::SyncActivator;

use super::{Output, RowStream};
use crate::dataflow::Context;
use crate::dataflow::container::{LogPlace, Rows};
use crate::dataflow::counters::SourceCounters;
use crate::dataflow::operator::watermark::{MarkStream, Marks, to_all};
use crate::dataflow::snapshot::{Snapshot, SourceCounts};
use crate::decode::{DeadLetter, Decoded, Decoder, Place as ChunkPlace};
use crate::epoch::Epoch;
use crate::plan::{EventTimeNode, NodeId, SourceNode, dead_letter_schema};
use crate::seeded_bugs::{SeededBug, is_planted};
use crate::source::{Data, Offset};
use crate::watermark::Mark;
use crate::window::EVENT_TIME_MAX_US;

/// Chunks decoded in one activation: more would keep the operators behind waiting.
const CHUNKS_PER_ACTIVATION_MAX: usize = 4;

/// What the bridge sends to one source on one worker.
#[derive(Debug)]
pub enum Feed {
    /// Input of the open epoch.
    Chunk(FedChunk),
    /// The open epoch ends.
    Close {
        /// Which one.
        epoch: Epoch,
        /// Its marks: given to one worker only, and reach all.
        marks: Vec<Mark>,
        /// Whether a checkpoint is made at its end.
        checkpoint: bool,
    },
}

/// Input as the log has it.
#[derive(Debug)]
pub struct FedChunk {
    /// Partition number in the log.
    pub partition: u32,
    /// The partition's name, for dead letters.
    pub partition_name: Arc<str>,
    /// Recorded time of arrival, microseconds.
    pub arrival_us: i64,
    /// Where the messages stand in the log: runs of first offset and count.
    pub places: Vec<(Offset, usize)>,
    /// The input itself.
    pub data: Data,
}

impl FedChunk {
    fn place(&self) -> ChunkPlace<'_> {
        ChunkPlace { partition: &self.partition_name, arrival_us: self.arrival_us, runs: &self.places }
    }
}

/// The streams that leave a source.
pub(crate) struct SourceStreams<'scope> {
    pub(crate) rows: RowStream<'scope>,
    pub(crate) dead: RowStream<'scope>,
    pub(crate) quarantined: RowStream<'scope>,
    pub(crate) marks: MarkStream<'scope>,
}

/// Builds the source and returns its streams, and what wakes it when the bridge has sent something.
pub(crate) fn source<'scope>(
    scope: Scope<'scope, Epoch>,
    context: &Context,
    id: NodeId,
    node: &SourceNode,
    feed: Receiver<Feed>,
) -> (SourceStreams<'scope>, SyncActivator) {
    let name = format!("source {}", node.name);
    let mut builder = OperatorBuilder::new(name.clone(), scope);
    let (rows, rows_stream) = builder.new_output::<Rows>();
    let (dead, dead_stream) = builder.new_output::<Rows>();
    let (quarantined, quarantined_stream) = builder.new_output::<Rows>();
    let (marks, marks_stream) = builder.new_output::<Marks>();
    let mut outputs = Outputs {
        rows: Output::from(rows),
        dead: Output::from(dead),
        quarantined: Output::from(quarantined),
        marks: Output::from(marks),
    };
    let address = builder.operator_info().address;
    let again = scope.activator_for(address.clone());
    let wake = scope.worker().sync_activator_for(address.to_vec());

    let context = context.clone();
    let mut decoder = node.format.decoder();
    let event_time = node.event_time;
    builder.build(move |capabilities| {
        let mut capabilities = Some(capabilities);
        let mut open = Epoch::NONE;
        let mut seen = BTreeMap::new();
        let mut counts = SourceCounts::default();
        move |_| {
            if context.failure.is_set() {
                return;
            }
            context.failure.clone().guard(&name, || {
                let Some(held) = &mut capabilities else { return Ok(()) };
                if open < context.first {
                    open = context.first;
                    held.iter_mut().for_each(|capability| capability.downgrade(&open));
                }
                for _ in 0..CHUNKS_PER_ACTIVATION_MAX {
                    match feed.try_recv() {
                        Ok(Feed::Chunk(chunk)) => {
                            let sorted = sort_out(&mut *decoder, &chunk, event_time, &mut seen)?;
                            counts.add(&sorted);
                            context.counters.sources[id.0].nulled.add(sorted.nulled);
                            context.counters.sources[id.0].dropped_attributes.add(sorted.dropped_attributes);
                            let place = LogPlace {
                                first: chunk.places.first().map_or(Offset(0), |(first, _)| *first),
                                batch: 0,
                                arrival_us: chunk.arrival_us,
                            };
                            outputs.send(held, sorted, place, &context.counters.sources[id.0]);
                        }
                        Ok(Feed::Close { epoch, mut marks, checkpoint }) => {
                            assert_eq!(epoch, open, "epochs come in order");
                            marks.extend(std::mem::take(&mut seen).into_values());
                            outputs.send_marks(held, to_all(&marks, context.peers));
                            if checkpoint {
                                context.snapshots.put(epoch, Snapshot::Source { id, counts });
                            }
                            open = epoch.next();
                            held.iter_mut().for_each(|capability: &mut Capability<Epoch>| capability.downgrade(&open));
                        }
                        Err(TryRecvError::Empty) => return Ok(()),
                        Err(TryRecvError::Disconnected) => {
                            capabilities = None; // The input has ended: frontiers become empty.
                            return Ok(());
                        }
                    }
                }
                again.activate(); // There may be more, but the operators behind come first.
                Ok(())
            });
        }
    });
    let streams =
        SourceStreams { rows: rows_stream, dead: dead_stream, quarantined: quarantined_stream, marks: marks_stream };
    (streams, wake)
}

/// The outputs of a source; capabilities stand in the same order.
struct Outputs {
    rows: Output<Rows>,
    dead: Output<Rows>,
    quarantined: Output<Rows>,
    marks: Output<Marks>,
}

impl Outputs {
    fn send(&mut self, held: &[Capability<Epoch>], sorted: Sorted, place: LogPlace, counters: &SourceCounters) {
        let outputs = [
            (&mut self.rows, sorted.rows, &counters.rows),
            (&mut self.dead, sorted.dead.into_iter().collect(), &counters.dead),
            (&mut self.quarantined, sorted.quarantined, &counters.quarantined),
        ];
        for ((output, batches, counter), capability) in outputs.into_iter().zip(held) {
            let mut output = output.activate();
            let filled = batches.into_iter().filter(|batch| batch.num_rows() > 0);
            for (place, batch) in (0..).map(|batch| LogPlace { batch, ..place }).zip(filled) {
                counter.add(batch.num_rows() as u64);
                let mut rows = Rows { batch: Some(batch), place };
                output.session_with_builder(capability).give_container(&mut rows);
            }
        }
    }

    fn send_marks(&mut self, held: &[Capability<Epoch>], mut marks: Marks) {
        self.marks.activate().session_with_builder(&held[3]).give_container(&mut marks);
    }
}

/// A chunk, decoded and sorted out.
#[derive(Default)]
struct Sorted {
    rows: Vec<RecordBatch>,
    quarantined: Vec<RecordBatch>,
    dead: Option<RecordBatch>,
    nulled: u64,
    dropped_attributes: u64,
}

impl SourceCounts {
    fn add(&mut self, sorted: &Sorted) {
        let count = |batches: &[RecordBatch]| batches.iter().map(|batch| batch.num_rows() as u64).sum::<u64>();
        self.rows += count(&sorted.rows);
        self.quarantined += count(&sorted.quarantined);
        self.dead += count(sorted.dead.as_slice());
        self.nulled += sorted.nulled;
        self.dropped_attributes += sorted.dropped_attributes;
    }
}

/// Decodes a chunk and sorts its rows out: usable, from the future, or dead. Notes the partition's greatest event time.
fn sort_out(
    decoder: &mut dyn Decoder,
    chunk: &FedChunk,
    event_time: Option<EventTimeNode>,
    seen: &mut BTreeMap<u32, Mark>,
) -> Result<Sorted, String> {
    let decoded = decoder.decode(&chunk.data, &chunk.place());
    let dead = dead_letters(chunk, &decoded.dead)?;
    let Decoded { nulled, dropped_attributes, .. } = decoded;
    let mut sorted = Sorted { dead, nulled, dropped_attributes, ..Sorted::default() };
    let Some(event_time) = event_time else {
        sorted.rows = decoded.batches;
        return Ok(sorted);
    };
    for batch in decoded.batches.into_iter().filter(|batch| batch.num_rows() > 0) {
        let (usable, quarantined) = split_by_time(batch, event_time, chunk.arrival_us)?;
        sorted.quarantined.extend(quarantined);
        let Some(batch) = usable else { continue };
        let times = batch.column(event_time.column).as_primitive::<TimestampMicrosecondType>();
        let time_us = arrow::compute::max(times).expect("batches have rows, and their times are not null");
        let has_future = sorted.quarantined.iter().any(|rows| rows.num_rows() > 0);
        let time_us = time_us + if has_future && is_planted(SeededBug::FutureMovesWatermark) { 1 << 40 } else { 0 };
        let mark = seen.entry(chunk.partition).or_insert(Mark::Seen {
            partition: chunk.partition,
            time_us,
            arrival_us: chunk.arrival_us,
        });
        if let Mark::Seen { time_us: before, arrival_us, .. } = mark {
            *before = time_us.max(*before);
            *arrival_us = chunk.arrival_us.max(*arrival_us);
        }
        sorted.rows.push(batch);
    }
    Ok(sorted)
}

/// Splits off the rows whose event time is too far ahead of their arrival, or no time that windows can hold.
fn split_by_time(
    batch: RecordBatch,
    event_time: EventTimeNode,
    arrival_us: i64,
) -> Result<(Option<RecordBatch>, Option<RecordBatch>), String> {
    let times = batch.column(event_time.column).as_primitive::<TimestampMicrosecondType>();
    if times.null_count() > 0 {
        return Err("an event time is null; declare the column NOT NULL".to_owned());
    }
    let latest = event_time.future_limit_us.map_or(EVENT_TIME_MAX_US, |limit| arrival_us.saturating_add(limit));
    let latest = latest.min(EVENT_TIME_MAX_US);
    let usable = |time_us: i64| (-EVENT_TIME_MAX_US..=latest).contains(&time_us);
    if times.values().iter().all(|time_us| usable(*time_us)) {
        return Ok((Some(batch), None));
    }
    let keep = BooleanArray::from(times.values().iter().map(|time_us| usable(*time_us)).collect::<Vec<_>>());
    let drop = arrow::compute::not(&keep).map_err(|error| error.to_string())?;
    let part = |mask: &BooleanArray| filter_record_batch(&batch, mask).map_err(|error| error.to_string());
    let (kept, dropped) = (part(&keep)?, part(&drop)?);
    Ok(((kept.num_rows() > 0).then_some(kept), Some(dropped)))
}

fn dead_letters(chunk: &FedChunk, dead: &[DeadLetter]) -> Result<Option<RecordBatch>, String> {
    if dead.is_empty() {
        return Ok(None);
    }
    let mut arrival = TimestampMicrosecondBuilder::new().with_timezone("UTC");
    let (mut partition, mut offset) = (StringViewBuilder::new(), Int64Builder::new());
    let (mut topic, mut reason, mut payload) =
        (StringViewBuilder::new(), StringViewBuilder::new(), BinaryBuilder::new());
    let place = chunk.place();
    for letter in dead {
        arrival.append_value(chunk.arrival_us);
        partition.append_value(&*chunk.partition_name);
        offset.append_value(place.offset_of(letter.message).0 as i64);
        let name = String::from_utf8_lossy(&letter.topic);
        topic.append_option((!name.is_empty()).then_some(name));
        reason.append_value(&letter.reason);
        payload.append_value(&letter.payload);
    }
    let columns: Vec<arrow::array::ArrayRef> = vec![
        Arc::new(arrival.finish()),
        Arc::new(partition.finish()),
        Arc::new(offset.finish()),
        Arc::new(topic.finish()),
        Arc::new(reason.finish()),
        Arc::new(payload.finish()),
    ];
    RecordBatch::try_new(dead_letter_schema(), columns).map(Some).map_err(|error| error.to_string())
}
