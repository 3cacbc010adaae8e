//! The watermark of a source: every worker gets all marks, and folds them to the same watermark for each epoch.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use super::Output;
use crate::dataflow::gate::{EpochGate, Gated};
use crate::dataflow::snapshot::{Snapshot, Snapshots};
use crate::dataflow::{Context, frontier_of};
use crate::epoch::Epoch;
use crate::plan::{EventTimeNode, NodeId};
use crate::time::Watermark;
use crate::watermark::{Mark, WatermarkFold};

/// A mark and the worker it goes to.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Addressed(u64, Mark);

/// Marks on their way to all workers.
pub(crate) type Marks = Vec<Addressed>;

/// A stream of marks.
pub(crate) type MarkStream<'scope> = Stream<'scope, Epoch, Marks>;

/// What an epoch ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tick {
    pub(crate) watermark: Watermark,
    /// The time in the epoch's Seal, microseconds: what a source without an event time goes by.
    pub(crate) sealed_us: i64,
    /// Whether a checkpoint is made at its end.
    pub(crate) checkpoint: bool,
}

/// A stream of ticks: one for each epoch, at that epoch.
pub(crate) type TickStream<'scope> = Stream<'scope, Epoch, Vec<Tick>>;

/// Addresses every mark to every worker.
pub(crate) fn to_all(marks: &[Mark], peers: usize) -> Marks {
    (0..peers as u64).flat_map(|worker| marks.iter().map(move |mark| Addressed(worker, *mark))).collect()
}

/// The fold behind its gate; closed epochs wait to be sent.
struct Folding {
    fold: WatermarkFold,
    /// Whether the open epoch is one of a checkpoint.
    checkpoint: bool,
    closed: VecDeque<(Epoch, Tick)>,
    /// Who keeps the fold in checkpoints: it is the same on all workers, so one of them does.
    keeper: Option<Keeper>,
}

struct Keeper {
    id: NodeId,
    snapshots: Arc<Snapshots>,
}

impl Gated<Marks> for Folding {
    fn apply(&mut self, marks: Marks) -> Result<(), String> {
        for Addressed(_, mark) in marks {
            self.checkpoint |= matches!(mark, Mark::Sealed { checkpoint: true, .. });
            self.fold.mark(mark);
        }
        Ok(())
    }

    fn close(&mut self, epoch: Epoch) -> Result<(), String> {
        let (watermark, checkpoint) = (self.fold.close(), std::mem::take(&mut self.checkpoint));
        self.closed.push_back((epoch, Tick { watermark, sealed_us: self.fold.sealed_us(), checkpoint }));
        if let Some(keeper) = self.keeper.as_ref().filter(|_| checkpoint) {
            keeper.snapshots.put(epoch, Snapshot::Fold { id: keeper.id, fold: self.fold.clone() });
        }
        Ok(())
    }
}

/// Builds the fold of one source's marks; it goes on from `restored`.
pub(crate) fn watermark<'scope>(
    marks: MarkStream<'scope>,
    context: &Context,
    id: NodeId,
    event_time: Option<EventTimeNode>,
    restored: Option<WatermarkFold>,
) -> TickStream<'scope> {
    let name = "watermark";
    let mut builder = OperatorBuilder::new(name.to_owned(), marks.scope());
    let is_keeper = marks.scope().index() == 0;
    let mut input = builder.new_input(marks, Exchange::new(|Addressed(worker, _): &Addressed| *worker));
    let (output, stream) = builder.new_output::<Vec<Tick>>();
    let mut output = Output::from(output);
    let context = context.clone();
    builder.build(move |mut capabilities| {
        let mut capability = capabilities.pop();
        let mut gate = EpochGate::new(context.first);
        let (delay_us, idle_after_us) = event_time.map_or((0, None), |time| (time.delay_us, time.idle_after_us));
        let fold = restored.unwrap_or_else(|| WatermarkFold::new(delay_us, idle_after_us));
        let keeper =
            (is_keeper && event_time.is_some()).then(|| Keeper { id, snapshots: Arc::clone(&context.snapshots) });
        let mut folding = Folding { fold, checkpoint: false, closed: VecDeque::new(), keeper };
        move |frontiers| {
            if context.failure.is_set() {
                return;
            }
            context.failure.clone().guard(name, || {
                let mut result = Ok(());
                input.for_each(|time, data| {
                    if result.is_ok() {
                        result = gate.push(*time.time(), std::mem::take(data), &mut folding);
                    }
                });
                result?;
                let frontier = frontier_of(&frontiers[..1]);
                gate.advance(frontier, &mut folding)?;
                let mut output = output.activate();
                for (epoch, tick) in folding.closed.drain(..) {
                    let capability = capability.as_mut().expect("held until the input ends");
                    capability.downgrade(&epoch);
                    output.session_with_builder(capability).give_container(&mut vec![tick]);
                    context.counters.sources[id.0].set_watermark(tick.watermark);
                }
                match frontier {
                    Some(frontier) => capability.iter_mut().for_each(|held| held.downgrade(&frontier)),
                    None => capability = None,
                }
                Ok(())
            });
        }
    });
    stream
}
