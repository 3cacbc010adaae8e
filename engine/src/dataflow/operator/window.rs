//! The window: keys before the exchange, panes behind the gate, results when the watermark closes them.
//!
//! ```text
//!   rows ─► key: evaluate keys and arguments ═══ exchange by key group ═══► gate ─► panes ─┬─► results
//!                                                          watermark ─────► gate           └─► late
//! ```

use std::sync::Arc;

use arrow::array::{Array, AsArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::TimestampMicrosecondType;
use timely::dataflow::Stream;

use super::RowStream;
use super::gated::{Arrival, Closed, Stateful, gated};
use super::stateless::each_batch;
use super::watermark::{Tick, TickStream};
use crate::aggregate::{Layout, Selection};
use crate::dataflow::Context;
use crate::dataflow::container::{Keyed, KeyedBatch, LogPlace};
use crate::dataflow::gate::Gated;
use crate::dataflow::snapshot::{RestoredWindow, Snapshot, WindowSnapshot};
use crate::epoch::Epoch;
use crate::plan::{NodeId, Operator, Plan, WindowNode};
use crate::seeded_bugs::{SeededBug, is_planted};
use crate::time::Watermark;
use crate::window::{KeyColumn, WindowState};

/// How a source's watermark becomes that of a window's input: one step for each window in between.
pub(crate) type WatermarkMap = Arc<dyn Fn(Watermark) -> Watermark + Send + Sync>;

/// The time that a window's input goes by.
#[derive(Clone)]
pub(crate) struct Time<'scope> {
    pub(crate) ticks: TickStream<'scope>,
    pub(crate) map: WatermarkMap,
}

/// Builds a windowed aggregate that goes on from `restored`; returns results and late rows.
pub(crate) fn window<'scope>(
    rows: RowStream<'scope>,
    time: Time<'scope>,
    context: &Context,
    id: NodeId,
    plan: &Plan,
    restored: Option<RestoredWindow>,
) -> Result<(RowStream<'scope>, RowStream<'scope>), String> {
    let Operator::Window(node) = &plan.node(id).operator else { unreachable!("only windows are built here") };
    let (layout, keys) = layout_and_keys(node, plan)?;
    let mut state = WindowState::new(node.assigner, layout, keys, Arc::clone(&plan.node(id).schema));
    let mut watermark = Watermark::UNKNOWN;
    if let Some(restored) = restored {
        watermark = restored.watermark;
        state.restore(watermark, &restored.panes).map_err(|error| format!("cannot restore a window: {error}"))?;
    }
    let (layout, keys) = layout_and_keys(node, plan)?;
    let keyed = key(rows, context, node, keys, layout);
    let panes = Panes {
        state,
        watermark,
        checkpoint: false,
        worker: keyed.scope().index(),
        rows: 0,
        late_rows: 0,
        results: 0,
        late: Vec::new(),
        closed: Vec::new(),
        context: context.clone(),
        id,
    };
    let Time { ticks, map } = time;
    let map = move |tick: Tick| Tick { watermark: map(tick.watermark), ..tick };
    Ok(gated("window", keyed, ticks, map, context, panes))
}

/// Returns how the accumulators of a window lie, and what its keys are.
pub(crate) fn layout_and_keys(node: &WindowNode, plan: &Plan) -> Result<(Layout, KeyColumn), String> {
    let schema = &plan.node(node.input).schema;
    let layout = Layout::new(&node.aggregates, |argument| argument.nullable(schema));
    let fields = node.keys.iter().map(|key| (key.data_type(schema), key.nullable(schema))).collect();
    let keys = KeyColumn::new(fields).map_err(|error| format!("cannot group by these columns: {error}"))?;
    Ok((layout, keys))
}

/// Evaluates keys and arguments, and hashes the keys: all that the exchange and the panes need.
fn key<'scope>(
    rows: RowStream<'scope>,
    context: &Context,
    node: &WindowNode,
    key_column: KeyColumn,
    layout: Layout,
) -> Stream<'scope, Epoch, Keyed> {
    let (keys, time_column) = (node.keys.clone(), node.time_column);
    let evaluate = move |origin: RecordBatch, place: LogPlace| -> Result<KeyedBatch, String> {
        let columns: Result<Vec<_>, _> = keys.iter().map(|key| key.evaluate(&origin)).collect();
        let columns = columns.map_err(|error| error.to_string())?;
        let keys = key_column.keys(&columns, origin.num_rows()).map_err(|error| error.to_string())?;
        let mut arguments = Vec::new();
        for (at, argument) in layout.arguments().enumerate() {
            let column = argument.evaluate(&origin).map_err(|error| error.to_string())?;
            arguments.push(layout.prepare(at, &column).map_err(|error| error.to_string())?);
        }
        let times = origin.column(time_column).as_primitive::<TimestampMicrosecondType>();
        assert_eq!(times.null_count(), 0, "the source refuses rows without an event time");
        let inclusive = i64::from(is_planted(SeededBug::WindowEndInclusive));
        let times_us = match inclusive {
            0 => Int64Array::new(times.values().clone(), None),
            _ => times.values().iter().map(|time_us| time_us - inclusive).collect(),
        };
        Ok(KeyedBatch { place, hashes: KeyColumn::hashes(&keys), keys, times_us, arguments, origin })
    };
    each_batch(rows, context, "key", move |origin, place| {
        evaluate(origin, place).map(|batch| Some(Keyed { batch: Some(Arc::new(batch)), selection: None }))
    })
}

/// The panes behind their gate; results and late rows wait to be sent at their epoch.
struct Panes {
    state: WindowState,
    watermark: Watermark,
    /// Whether the open epoch is one of a checkpoint.
    checkpoint: bool,
    worker: usize,
    rows: u64,
    late_rows: u64,
    results: u64,
    late: Vec<RecordBatch>,
    closed: Vec<Closed>,
    context: Context,
    id: NodeId,
}

impl Stateful for Panes {
    fn closed(&mut self) -> &mut Vec<Closed> {
        &mut self.closed
    }
}

impl Gated<Arrival> for Panes {
    fn apply(&mut self, arrival: Arrival) -> Result<(), String> {
        let keyed = match arrival {
            Arrival::Tick(tick) => {
                self.watermark = tick.watermark;
                self.checkpoint = tick.checkpoint;
                return Ok(());
            }
            Arrival::Rows(keyed) => keyed,
        };
        let Some(batch) = &keyed.batch else { return Ok(()) };
        let selection = match &keyed.selection {
            None => Selection::All(batch.hashes.len()),
            Some(rows) => Selection::Rows(rows),
        };
        let late = self.state.update(&batch.keys, &batch.hashes, batch.times_us.values(), &batch.arguments, selection);
        let counters = &self.context.counters.windows[self.id.0];
        counters.rows.add((selection.count() - late.len()) as u64);
        self.rows += (selection.count() - late.len()) as u64;
        self.late_rows += late.len() as u64;
        if !late.is_empty() {
            counters.late.add(late.len() as u64);
            let rows = take_record_batch(&batch.origin, &UInt32Array::from(late)).map_err(|error| error.to_string())?;
            self.late.push(rows);
        }
        Ok(())
    }

    fn close(&mut self, epoch: Epoch) -> Result<(), String> {
        let closed = self.state.close(self.watermark).map_err(|error| error.to_string())?;
        let count: usize = closed.iter().map(RecordBatch::num_rows).sum();
        self.context.counters.windows[self.id.0].results.add(count as u64);
        self.results += count as u64;
        self.closed.push((epoch, closed, std::mem::take(&mut self.late)));
        if std::mem::take(&mut self.checkpoint) {
            let snapshot = WindowSnapshot {
                watermark: self.state.watermark(),
                rows: self.rows,
                late: self.late_rows,
                results: self.results,
                panes: self.state.snapshot(),
            };
            self.context.snapshots.put(epoch, Snapshot::Window { id: self.id, worker: self.worker, snapshot });
        }
        Ok(())
    }
}
