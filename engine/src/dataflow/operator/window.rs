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
use timely::dataflow::channels::pact::{DistributorPact, Pipeline};
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use super::stateless::each_batch;
use super::watermark::WatermarkStream;
use super::{Output, RowStream, send};
use crate::aggregate::{Layout, Selection};
use crate::dataflow::container::{Keyed, KeyedBatch, Rows};
use crate::dataflow::exchange::ByKeyGroup;
use crate::dataflow::gate::{EpochGate, Gated};
use crate::dataflow::{Context, frontier_of};
use crate::epoch::Epoch;
use crate::plan::{NodeId, Plan, WindowNode};
use crate::time::Watermark;
use crate::window::{KeyColumn, WindowState};

/// How a source's watermark becomes that of a window's input: one step for each window in between.
pub(crate) type WatermarkMap = Arc<dyn Fn(Watermark) -> Watermark + Send + Sync>;

/// The time that a window's input goes by.
#[derive(Clone)]
pub(crate) struct Time<'scope> {
    pub(crate) watermarks: WatermarkStream<'scope>,
    pub(crate) map: WatermarkMap,
}

/// Builds a windowed aggregate; returns results and late rows.
pub(crate) fn window<'scope>(
    rows: RowStream<'scope>,
    time: Time<'scope>,
    context: &Context,
    id: NodeId,
    node: &WindowNode,
    plan: &Plan,
) -> Result<(RowStream<'scope>, RowStream<'scope>), String> {
    let (input_schema, schema) = (&plan.node(node.input).schema, &plan.node(id).schema);
    let layout = Layout::new(&node.aggregates, |argument| argument.nullable(input_schema));
    let fields = || node.keys.iter().map(|key| (key.data_type(input_schema), key.nullable(input_schema))).collect();
    let key_column = || KeyColumn::new(fields()).map_err(|error| format!("cannot group by these columns: {error}"));
    let state = WindowState::new(node.assigner, layout.clone(), key_column()?, Arc::clone(schema));
    let keyed = key(rows, context, node, key_column()?, layout);
    Ok(panes(keyed, time, context, id, state))
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
    let evaluate = move |origin: RecordBatch| -> Result<KeyedBatch, String> {
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
        let times_us = Int64Array::new(times.values().clone(), None);
        Ok(KeyedBatch { hashes: KeyColumn::hashes(&keys), keys, times_us, arguments, origin })
    };
    each_batch(rows, context, "key", move |origin| {
        evaluate(origin).map(|batch| Some(Keyed { batch: Some(Arc::new(batch)), selection: None }))
    })
}

/// What goes through a window's gate.
enum Arrival {
    Rows(Keyed),
    Watermark(Watermark),
}

/// The panes behind their gate; results and late rows wait to be sent at their epoch.
struct Panes {
    state: WindowState,
    watermark: Watermark,
    late: Vec<RecordBatch>,
    closed: Vec<(Epoch, Vec<RecordBatch>, Vec<RecordBatch>)>,
    context: Context,
    id: NodeId,
}

impl Gated<Arrival> for Panes {
    fn apply(&mut self, arrival: Arrival) -> Result<(), String> {
        let keyed = match arrival {
            Arrival::Watermark(watermark) => {
                self.watermark = watermark;
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
        self.closed.push((epoch, closed, std::mem::take(&mut self.late)));
        Ok(())
    }
}

fn panes<'scope>(
    keyed: Stream<'scope, Epoch, Keyed>,
    time: Time<'scope>,
    context: &Context,
    id: NodeId,
    state: WindowState,
) -> (RowStream<'scope>, RowStream<'scope>) {
    let name = "window";
    let mut builder = OperatorBuilder::new(name.to_owned(), keyed.scope());
    let mut keyed = builder.new_input(keyed, DistributorPact(|_| ByKeyGroup));
    let Time { watermarks, map } = time;
    let mut watermarks = builder.new_input(watermarks, Pipeline);
    let (results, results_stream) = builder.new_output::<Rows>();
    let (late, late_stream) = builder.new_output::<Rows>();
    let (mut results, mut late) = (Output::from(results), Output::from(late));
    let context = context.clone();
    builder.build(move |capabilities| {
        let mut capabilities = Some(capabilities);
        let mut gate = EpochGate::new(context.first);
        let watermark = Watermark::UNKNOWN;
        let mut panes = Panes { state, watermark, late: Vec::new(), closed: Vec::new(), context: context.clone(), id };
        move |frontiers| {
            if context.failure.is_set() {
                return;
            }
            context.failure.clone().guard(name, || {
                let mut result = Ok(());
                watermarks.for_each(|time, data| {
                    for watermark in data.drain(..) {
                        let arrival = Arrival::Watermark(map(watermark));
                        result = std::mem::replace(&mut result, Ok(()))
                            .and_then(|()| gate.push(*time.time(), arrival, &mut panes));
                    }
                });
                keyed.for_each(|time, data| {
                    let arrival = Arrival::Rows(std::mem::take(data));
                    result = std::mem::replace(&mut result, Ok(()))
                        .and_then(|()| gate.push(*time.time(), arrival, &mut panes));
                });
                result?;
                let frontier = frontier_of(frontiers);
                gate.advance(frontier, &mut panes)?;
                let (mut results, mut late) = (results.activate(), late.activate());
                for (epoch, closed, too_late) in panes.closed.drain(..) {
                    let held = capabilities.as_mut().expect("held until the input ends");
                    held.iter_mut().for_each(|capability| capability.downgrade(&epoch));
                    closed.into_iter().for_each(|batch| send(&mut results, &held[0], batch));
                    too_late.into_iter().for_each(|batch| send(&mut late, &held[1], batch));
                }
                match frontier {
                    Some(frontier) => {
                        for capability in capabilities.iter_mut().flatten() {
                            capability.downgrade(&frontier);
                        }
                    }
                    None => capabilities = None,
                }
                Ok(())
            });
        }
    });
    (results_stream, late_stream)
}
