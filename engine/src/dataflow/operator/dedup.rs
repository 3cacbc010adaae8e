//! Deduplication: keys before the exchange; behind the gate rows are gathered until their epoch is complete, put into the
//! order of the log, and judged.
//!
//! ```text
//!   rows ─► key: hash keys ═══ exchange by key group ═══► gate ─► gather, sort, judge ─┬─► what is taken
//!                                          watermark ─────► gate                       └─► late
//! ```
//! Rows of several workers come in any order, and which of two equal ones is the first must not depend on it: so none is
//! judged before all of its epoch are there. That delays nothing that is seen: windows close, and tables commit, at the
//! end of an epoch.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{is_null, or, take_record_batch};
use arrow::datatypes::TimestampMicrosecondType;
use timely::dataflow::Stream;

use super::RowStream;
use super::gated::{Arrival, Closed, Stateful, gated};
use super::stateless::each_batch;
use super::watermark::{Tick, TickStream};
use crate::aggregate::Selection;
use crate::dataflow::Context;
use crate::dataflow::container::{Keyed, KeyedBatch};
use crate::dataflow::gate::Gated;
use crate::dataflow::snapshot::{DedupSnapshot, RestoredWindow, Snapshot};
use crate::dedup::{Candidates, DedupState, Judged};
use crate::epoch::Epoch;
use crate::plan::{DedupNode, NodeId, Operator, Plan, SourceNode};
use crate::time::Watermark;
use crate::window::KeyColumn;

/// Builds the deduplication of a source that goes on from `restored`; returns what is taken, and late rows.
pub(crate) fn dedup<'scope>(
    rows: RowStream<'scope>,
    ticks: TickStream<'scope>,
    context: &Context,
    id: NodeId,
    plan: &Plan,
    restored: Option<RestoredWindow>,
) -> Result<(RowStream<'scope>, RowStream<'scope>), String> {
    let Operator::Dedup(node) = &plan.node(id).operator else { unreachable!("only deduplications are built here") };
    let Operator::Source(source) = &plan.node(node.input).operator else {
        return Err("only a source can be deduplicated".to_owned());
    };
    let mut state = DedupState::new(node.within_us, key_column(node, plan)?);
    if let Some(restored) = restored {
        let outcome = state.restore(restored.watermark, &restored.panes);
        outcome.map_err(|error| format!("cannot restore what source {} has seen: {error}", source.name))?;
    }
    let keyed = key(rows, context, node, source, key_column(node, plan)?);
    let judging = Judging {
        watermark: state.watermark(),
        state,
        checkpoint: false,
        worker: keyed.scope().index(),
        gathered: Vec::new(),
        taken: 0,
        repeats: 0,
        late: 0,
        bytes: 0,
        closed: Vec::new(),
        context: context.clone(),
        id,
    };
    let has_event_time = source.event_time.is_some();
    // Without an event time rows go by their arrival, and nothing arrives before the last Seal.
    let map = move |tick: Tick| Tick {
        watermark: if has_event_time { tick.watermark } else { Watermark(tick.sealed_us) },
        ..tick
    };
    Ok(gated("dedup", keyed, ticks, map, context, judging))
}

/// Returns what the keys of a deduplication are.
pub(crate) fn key_column(node: &DedupNode, plan: &Plan) -> Result<KeyColumn, String> {
    let schema = &plan.node(node.input).schema;
    let field = |column: &usize| {
        let field = schema.field(*column);
        (field.data_type().clone(), field.is_nullable())
    };
    KeyColumn::new(node.keys.iter().map(field).collect())
        .map_err(|error| format!("cannot tell rows apart by these columns: {error}"))
}

/// Evaluates and hashes the keys, and takes the times.
fn key<'scope>(
    rows: RowStream<'scope>,
    context: &Context,
    node: &DedupNode,
    source: &SourceNode,
    key_column: KeyColumn,
) -> Stream<'scope, Epoch, Keyed> {
    let (columns, event_time) = (node.keys.clone(), source.event_time);
    each_batch(rows, context, "dedup key", move |origin, place| {
        let columns: Vec<ArrayRef> = columns.iter().map(|column| Arc::clone(origin.column(*column))).collect();
        let keys = key_column.keys(&columns, origin.num_rows()).map_err(|error| error.to_string())?;
        let times_us = match event_time {
            Some(time) => {
                let times = origin.column(time.column).as_primitive::<TimestampMicrosecondType>();
                Int64Array::new(times.values().clone(), None)
            }
            None => Int64Array::from_value(place.arrival_us, origin.num_rows()),
        };
        let arguments = keyless(&columns)?.into_iter().collect();
        let batch = KeyedBatch { place, hashes: KeyColumn::hashes(&keys), keys, times_us, arguments, origin };
        Ok(Some(Keyed { batch: Some(Arc::new(batch)), selection: None }))
    })
}

/// Returns which rows have no key, since a column of it is null; `None` if all have one.
fn keyless(columns: &[ArrayRef]) -> Result<Option<ArrayRef>, String> {
    let mut keyless: Option<BooleanArray> = None;
    for column in columns.iter().filter(|column| column.null_count() > 0) {
        let null = is_null(column).map_err(|error| error.to_string())?;
        keyless = Some(match keyless {
            None => null,
            Some(before) => or(&before, &null).map_err(|error| error.to_string())?,
        });
    }
    Ok(keyless.map(|keyless| Arc::new(keyless) as ArrayRef))
}

/// The state behind its gate; what is taken, and late rows, wait to be sent at their epoch.
struct Judging {
    state: DedupState,
    watermark: Watermark,
    /// Whether the open epoch is one of a checkpoint.
    checkpoint: bool,
    worker: usize,
    /// The rows of the open epoch, as they came.
    gathered: Vec<(Arc<KeyedBatch>, Option<Vec<u32>>)>,
    taken: u64,
    repeats: u64,
    late: u64,
    /// What the state was last said to hold.
    bytes: i64,
    closed: Vec<Closed>,
    context: Context,
    id: NodeId,
}

impl Gated<Arrival> for Judging {
    fn apply(&mut self, arrival: Arrival) -> Result<(), String> {
        match arrival {
            Arrival::Tick(tick) => {
                self.watermark = tick.watermark;
                self.checkpoint = tick.checkpoint;
            }
            Arrival::Rows(Keyed { batch, selection }) => self.gathered.extend(batch.map(|batch| (batch, selection))),
        }
        Ok(())
    }

    fn close(&mut self, epoch: Epoch) -> Result<(), String> {
        let mut gathered = std::mem::take(&mut self.gathered);
        gathered.sort_unstable_by_key(|(batch, _)| batch.place);
        let (mut taken, mut late) = (Vec::with_capacity(gathered.len()), Vec::new());
        let mut repeats = 0;
        for (batch, selection) in gathered {
            let judged = self.judge(&batch, selection.as_deref());
            repeats += judged.repeats;
            taken.extend(rows_of(&batch.origin, judged.taken)?);
            late.extend(rows_of(&batch.origin, judged.late)?);
        }
        self.count(&taken, &late, repeats);
        self.closed.push((epoch, taken, late));
        self.state.close(self.watermark);
        let bytes = self.state.bytes() as i64;
        self.context.counters.dedups[self.id.0].state_changed(bytes - std::mem::replace(&mut self.bytes, bytes));
        if std::mem::take(&mut self.checkpoint) {
            let snapshot = DedupSnapshot {
                watermark: self.state.watermark(),
                taken: self.taken,
                repeats: self.repeats,
                late: self.late,
                stretches: self.state.snapshot(),
            };
            self.context.snapshots.put(epoch, Snapshot::Dedup { id: self.id, worker: self.worker, snapshot });
        }
        Ok(())
    }
}

impl Stateful for Judging {
    fn closed(&mut self) -> &mut Vec<Closed> {
        &mut self.closed
    }
}

impl Judging {
    fn judge(&mut self, batch: &KeyedBatch, selection: Option<&[u32]>) -> Judged {
        let rows = Candidates {
            keys: &batch.keys,
            hashes: &batch.hashes,
            times_us: batch.times_us.values(),
            keyless: batch.arguments.first().map(|keyless| keyless.as_boolean()),
        };
        self.state.judge(rows, selection.map_or(Selection::All(batch.hashes.len()), Selection::Rows))
    }

    fn count(&mut self, taken: &[RecordBatch], late: &[RecordBatch], repeats: u64) {
        let count = |batches: &[RecordBatch]| batches.iter().map(|batch| batch.num_rows() as u64).sum::<u64>();
        let (taken, late) = (count(taken), count(late));
        let counters = &self.context.counters.dedups[self.id.0];
        counters.taken.add(taken);
        counters.repeats.add(repeats);
        counters.late.add(late);
        self.taken += taken;
        self.repeats += repeats;
        self.late += late;
    }
}

/// Returns these rows of a batch; all of them are the batch itself.
fn rows_of(batch: &RecordBatch, rows: Vec<u32>) -> Result<Option<RecordBatch>, String> {
    match rows.len() {
        0 => Ok(None),
        count if count == batch.num_rows() => Ok(Some(batch.clone())),
        _ => take_record_batch(batch, &UInt32Array::from(rows)).map(Some).map_err(|error| error.to_string()),
    }
}
