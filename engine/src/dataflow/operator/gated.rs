//! What deduplication and windows share: keyed rows and ticks go through the epoch gate to a state, and what it has closed
//! leaves at its epoch, in two outputs.
//!
//! ```text
//!   keyed ═══ by key group ═══► ┐                 ┌─► first    results, or what is taken
//!                               ├─► gate ─► state ┤
//!   ticks ────────────────────► ┘                 └─► second   late rows
//! ```

use arrow::array::RecordBatch;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::{DistributorPact, Pipeline};
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use super::watermark::{Tick, TickStream};
use super::{Output, RowStream, send};
use crate::dataflow::container::{Keyed, Rows};
use crate::dataflow::exchange::ByKeyGroup;
use crate::dataflow::gate::{EpochGate, Gated};
use crate::dataflow::{Context, frontier_of};
use crate::epoch::Epoch;

/// What goes through the gate.
pub(super) enum Arrival {
    Rows(Keyed),
    Tick(Tick),
}

/// What an epoch leaves behind: the epoch, and the batches of both outputs.
pub(super) type Closed = (Epoch, Vec<RecordBatch>, Vec<RecordBatch>);

/// A state behind the gate. What its epochs leave waits in it to be sent.
pub(super) trait Stateful: Gated<Arrival> + 'static {
    /// Returns what waits; the caller empties it.
    fn closed(&mut self) -> &mut Vec<Closed>;
}

/// Builds the operator of a state; `map` makes of a tick what the state is to see of it.
pub(super) fn gated<'scope>(
    name: &'static str,
    keyed: Stream<'scope, Epoch, Keyed>,
    ticks: TickStream<'scope>,
    map: impl Fn(Tick) -> Tick + 'static,
    context: &Context,
    mut state: impl Stateful,
) -> (RowStream<'scope>, RowStream<'scope>) {
    let mut builder = OperatorBuilder::new(name.to_owned(), keyed.scope());
    let mut keyed = builder.new_input(keyed, DistributorPact(|_| ByKeyGroup));
    let mut ticks = builder.new_input(ticks, Pipeline);
    let (first, first_stream) = builder.new_output::<Rows>();
    let (second, second_stream) = builder.new_output::<Rows>();
    let (mut first, mut second) = (Output::from(first), Output::from(second));
    let context = context.clone();
    builder.build(move |capabilities| {
        let mut capabilities = Some(capabilities);
        let mut gate = EpochGate::new(context.first);
        move |frontiers| {
            if context.failure.is_set() {
                return;
            }
            context.failure.clone().guard(name, || {
                let mut result = Ok(());
                ticks.for_each(|time, data| {
                    for tick in data.drain(..) {
                        let arrival = Arrival::Tick(map(tick));
                        result = std::mem::replace(&mut result, Ok(()))
                            .and_then(|()| gate.push(*time.time(), arrival, &mut state));
                    }
                });
                keyed.for_each(|time, data| {
                    let arrival = Arrival::Rows(std::mem::take(data));
                    result = std::mem::replace(&mut result, Ok(()))
                        .and_then(|()| gate.push(*time.time(), arrival, &mut state));
                });
                result?;
                let frontier = frontier_of(frontiers);
                gate.advance(frontier, &mut state)?;
                let (mut first, mut second) = (first.activate(), second.activate());
                for (epoch, batches, others) in state.closed().drain(..) {
                    let held = capabilities.as_mut().expect("held until the input ends");
                    held.iter_mut().for_each(|capability| capability.downgrade(&epoch));
                    batches.into_iter().for_each(|batch| send(&mut first, &held[0], batch));
                    others.into_iter().for_each(|batch| send(&mut second, &held[1], batch));
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
    (first_stream, second_stream)
}
