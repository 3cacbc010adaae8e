//! The dataflow: a plan becomes a timely graph, the same on every worker.
//!
//! The timestamp is the [`Epoch`]. Rows travel as whole batches; the watermark is data, folded from marks by every
//! worker for itself; every stateful operator stands behind an epoch gate.

mod container;
mod counters;
mod exchange;
mod failure;
mod gate;
mod operator;
mod snapshot;
mod timestamp;

pub(crate) use container::{LogPlace, TableRows};
pub use counters::{Counter, Counters, DedupCounters, SourceCounters, WindowCounters};
pub use failure::{Blame, Failure};
pub(crate) use operator::dedup::key_column;
pub use operator::source::{FedChunk, Feed};
pub(crate) use operator::table::TableFeed;
pub(crate) use operator::window::layout_and_keys;
pub(crate) use snapshot::{Restored, RestoredWindow, Snapshot, Snapshots};

use std::collections::BTreeMap;
use std::sync::Arc;

use crossbeam_channel::Receiver;
use timely::dataflow::Scope;
use timely::dataflow::operators::Probe;
use timely::dataflow::operators::probe::Handle;
use timely::progress::frontier::MutableAntichain;
use timely::scheduling::SyncActivator;

use crate::epoch::Epoch;
use crate::plan::{Node, NodeId, Operator, Plan};
use crate::time::Watermark;
use operator::RowStream;
use operator::watermark::TickStream;
use operator::window::{Time, WatermarkMap};

/// What every operator of a job shares.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) peers: usize,
    pub(crate) failure: Failure,
    pub(crate) counters: Arc<Counters>,
    /// The first epoch that this run sees.
    pub(crate) first: Epoch,
    /// Where state is handed over at the end of a checkpoint's epoch.
    pub(crate) snapshots: Arc<Snapshots>,
}

/// What enters and leaves the graph on one worker.
pub(crate) struct Ports {
    /// For each source node, what the bridge sends.
    pub(crate) sources: BTreeMap<NodeId, Receiver<Feed>>,
    /// For each table, where its rows go.
    pub(crate) tables: BTreeMap<String, TableFeed>,
    /// What the state of this worker begins with.
    pub(crate) restored: Restored,
}

/// Builds the graph of a plan. Returns what wakes each source, and the probe of everything that leaves.
pub(crate) fn build<'scope>(
    scope: Scope<'scope, Epoch>,
    plan: &Plan,
    context: &Context,
    mut ports: Ports,
) -> Result<(BTreeMap<NodeId, SyncActivator>, Handle<Epoch>), String> {
    let probe = Handle::new();
    let mut wakes = BTreeMap::new();
    let mut built: Vec<(RowStream<'scope>, Option<Time<'scope>>)> = Vec::new();
    // Of sources with an event time, and of those that are deduplicated.
    let mut ticks: BTreeMap<NodeId, TickStream<'scope>> = BTreeMap::new();
    let mut tables = std::mem::take(&mut ports.tables);
    let mut to_table = |rows: RowStream<'scope>, name: &str| -> Result<(), String> {
        let feed = tables.remove(name).ok_or_else(|| format!("there is no sink for table {name}"))?;
        let _ = operator::table::table(rows, context, feed).probe_with(&probe);
        Ok(())
    };
    for (at, node) in plan.nodes.iter().enumerate() {
        let id = NodeId(at);
        let schema = &node.schema;
        let next = match &node.operator {
            Operator::Source(source) => {
                let feed =
                    ports.sources.remove(&id).ok_or_else(|| format!("there is no feed for source {}", source.name))?;
                let (streams, wake) = operator::source::source(scope, context, id, source, feed);
                wakes.insert(id, wake);
                if let Some(name) = &source.dead_table {
                    to_table(streams.dead, name)?;
                }
                if let Some(name) = &source.quarantine_table {
                    to_table(streams.quarantined, name)?;
                }
                let fold = ports.restored.folds.remove(&id);
                let is_dedup = |node: &Node| matches!(&node.operator, Operator::Dedup(dedup) if dedup.input == id);
                if source.event_time.is_some() || plan.nodes.iter().any(is_dedup) {
                    let stream = operator::watermark::watermark(streams.marks, context, id, source.event_time, fold);
                    ticks.insert(id, stream);
                }
                let time =
                    source.event_time.map(|_| Time { ticks: ticks[&id].clone(), map: Arc::new(|watermark| watermark) });
                (streams.rows, time)
            }
            Operator::Dedup(dedup) => {
                let (rows, time) = built[dedup.input.0].clone();
                let ticks = ticks.get(&dedup.input).cloned().ok_or("only a source can be deduplicated")?;
                let restored = ports.restored.dedups.remove(&id);
                let (rows, late) = operator::dedup::dedup(rows, ticks, context, id, plan, restored)?;
                if let Some(name) = &dedup.late_table {
                    to_table(late, name)?;
                }
                (rows, time)
            }
            Operator::Filter { input, predicate } => {
                let (rows, time) = built[input.0].clone();
                (operator::stateless::filter(rows, context, Arc::clone(predicate)), time)
            }
            Operator::Project { input, columns } => {
                let (rows, time) = built[input.0].clone();
                (operator::stateless::project(rows, context, Arc::clone(schema), columns.clone()), time)
            }
            Operator::Window(window) => {
                let (rows, time) = built[window.input.0].clone();
                let time = time.ok_or("a window needs a source with an event time")?;
                let (results, late) = operator::window::window(
                    rows,
                    time.clone(),
                    context,
                    id,
                    plan,
                    ports.restored.windows.remove(&id),
                )?;
                if let Some(name) = &window.late_table {
                    to_table(late, name)?;
                }
                // Whoever groups these results by window_start or by window_end may not close before both are past.
                let (assigner, before) = (window.assigner, time.map);
                let after: WatermarkMap =
                    Arc::new(move |watermark: Watermark| assigner.start_watermark(before(watermark)));
                (results, Some(Time { ticks: time.ticks, map: after }))
            }
            Operator::Table { input, name } => {
                let (rows, time) = built[input.0].clone();
                to_table(rows.clone(), name)?;
                (rows, time)
            }
        };
        built.push(next);
    }
    Ok((wakes, probe))
}

/// Returns the least epoch that may still arrive at any of some inputs; `None` if all have ended.
pub(crate) fn frontier_of(frontiers: &[MutableAntichain<Epoch>]) -> Option<Epoch> {
    frontiers.iter().filter_map(|frontier| frontier.frontier().first().copied()).min()
}
