//! The restart: reads what is there, lets [`decide`] decide, and prepares everything that a job begins with.
//!
//! ```text
//!   claim the folder ─► open the log ─► read manifests ─► what do the tables say? ─► decide ─► read the state
//!                                                                            ▲              │ damaged
//!                                                                            └──────────────┘
//!   ─► skip the log to there ─► begin each table ─► roll the newest manifest's commits forward ─► take charge ─► replay
//! ```
//! Everything here may be interrupted, and begins anew then.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::RecordBatch;

use super::checkpointer::by_epoch;
use super::notes::Notes;
use super::outlook::{Fate, Outlook, Reach};
use super::{JobError, JobOptions, LOG_FOLDER};
use crate::checkpoint::{
    Attempt, BufferState, Checkpoint, CheckpointError, Decision, DedupSaved, FoundLog, FoundManifest, FoundTable,
    Holds, Manifest, PaneState, Part, PartitionState, STEPS_MAX, SourceState, Start, Store, TableState, WindowSaved,
    decide, rolls_forward,
};
use crate::clock::Clock;
use crate::dataflow::{Restored, RestoredWindow};
use crate::epoch::Epoch;
use crate::fence::Incarnation;
use crate::ingest::{Log, LogOptions, Replay};
use crate::key::KeyGroups;
use crate::plan::{NodeId, Operator, Plan};
use crate::sink::{Found, Sink};
use crate::storage::Storage;
use crate::time::Watermark;
use crate::window::SavedPane;

/// What a job begins with.
pub(super) struct Restart {
    pub(super) incarnation: Incarnation,
    pub(super) replay: Replay,
    pub(super) log_id: String,
    pub(super) start: Start,
    pub(super) checkpoint: Option<Checkpoint>,
    /// The parts of the checkpoint.
    parts: HashMap<Part, RecordBatch>,
    pub(super) sinks: Vec<Box<dyn Sink>>,
    /// For each sink, the epoch behind which its content begins.
    pub(super) bases: Vec<Epoch>,
}

impl Restart {
    /// Finds out where to begin, and brings the tables there. Blocking. `names` are those of the sinks, in their order.
    pub(super) fn prepare(
        plan: &Plan,
        names: &[String],
        sinks: Vec<Box<dyn Sink>>,
        options: &JobOptions,
    ) -> Result<Restart, JobError> {
        // Before anything is read that an earlier process may still write.
        let incarnation = Incarnation::claim(&options.storage, &*options.clock)?;
        let store = Store::new(Arc::clone(&options.storage));
        store.sync()?;
        let replay = Log::open(Arc::clone(&options.storage), LOG_FOLDER, &*options.dice, options.log)?;
        let prospect = Prospect::of(plan, names, &sinks, &store, replay)?;
        let outlook = prospect.outlook(plan);
        let Prospect { replay, log, manifests, tables, chosen: Chosen { start, checkpoint, parts }, .. } = prospect;
        for note in &outlook.notes {
            tracing::warn!("{note}");
        }
        let mut restart = Restart {
            incarnation,
            replay,
            log_id: log.id,
            bases: Vec::with_capacity(sinks.len()),
            start,
            checkpoint,
            parts,
            sinks,
        };
        restart.begin_tables(&tables, &outlook)?;
        if let Some(newest) = restart.start.newest.and_then(|number| manifests.get(&number)?.whole()) {
            restart.roll_forward(newest)?;
        }
        restart.take_charge(&store, &*options.clock)?;
        Ok(restart)
    }

    /// Takes the number of the next manifest, so that no process of before can decide anything any more. What one of them
    /// has decided since the manifests were read is rolled forward.
    fn take_charge(&mut self, store: &Store, clock: &dyn Clock) -> Result<(), JobError> {
        for _ in 0..STEPS_MAX {
            let number = self.start.next_number;
            let manifest = self.charge(number, clock.now_us());
            let attempt = store.try_write(&manifest)?;
            self.start.next_number = number + 1;
            match attempt {
                Attempt::Written => {
                    self.start.newest = Some(number);
                    return Ok(());
                }
                Attempt::Taken(Some(found)) => self.roll_forward(&found)?,
                Attempt::Taken(None) => {}
            }
        }
        Err(JobError::Environment("other processes write checkpoints all the time: stop them".to_owned()))
    }

    /// Returns the manifest that decides nothing but who is in charge.
    fn charge(&self, number: u64, made_us: i64) -> Manifest {
        let table = |sink: &dyn Sink, base: Epoch| {
            let generation = Some(sink.generation());
            let state = TableState { base, committed: sink.last_committed(), generation, pending: Vec::new() };
            (sink.name().to_owned(), state)
        };
        Manifest {
            version: Manifest::VERSION,
            number,
            incarnation: self.incarnation.number(),
            parent: self.start.newest,
            log_id: self.log_id.clone(),
            made_us,
            epoch: self.start.from.epoch(),
            holds: Holds::Refers(self.start.from.number()),
            tables: self.sinks.iter().zip(&self.bases).map(|(sink, base)| table(&**sink, *base)).collect(),
            rewound_to: None,
        }
    }

    fn begin_tables(&mut self, tables: &[FoundTable], outlook: &Outlook) -> Result<(), JobError> {
        for (table, fate) in &outlook.tables {
            match fate {
                Fate::FilledAgain { .. } | Fate::Gone { .. } => tracing::warn!(table, "{fate}"),
                _ => tracing::info!(table, "{fate}"),
            }
        }
        let from = self.start.from.epoch();
        for (sink, table) in self.sinks.iter_mut().zip(tables) {
            let base = match (&table.found, self.start.rebuilt.get(&table.name)) {
                (Found::Same { base, .. }, None) => *base,
                _ => from,
            };
            let done = sink.begin(base)?;
            tracing::debug!(table = table.name, "{done}");
            self.bases.push(base);
        }
        Ok(())
    }

    /// Commits what the newest manifest has decided, and a crash has kept from its tables.
    fn roll_forward(&mut self, newest: &Manifest) -> Result<(), JobError> {
        for (sink, base) in self.sinks.iter_mut().zip(&self.bases) {
            // What was decided for another content is not for this one.
            let Some(decided) = newest.tables.get(sink.name()).filter(|decided| decided.base == *base) else {
                continue;
            };
            let is_rebuilt = self.start.rebuilt.contains_key(sink.name());
            if !is_rebuilt && rolls_forward(newest, sink.name(), sink.last_committed(), sink.generation()) {
                sink.commit(newest.epoch, &decided.pending)?;
                tracing::info!(
                    table = sink.name(),
                    epoch = newest.epoch.0,
                    "committed what was decided before the stop"
                );
            }
        }
        Ok(())
    }

    /// Returns what a source had counted.
    pub(super) fn source(&self, key: &str, name: &str) -> SourceState {
        let found = self.checkpoint.as_ref().and_then(|checkpoint| checkpoint.sources.get(key)).cloned();
        found.unwrap_or_else(|| SourceState { name: name.to_owned(), ..SourceState::default() })
    }

    /// Returns what the checkpoint has of a window.
    pub(super) fn window(&self, key: &str) -> Option<&WindowSaved> {
        self.checkpoint.as_ref()?.windows.get(key)
    }

    /// Returns what the checkpoint has of a deduplicated source.
    pub(super) fn dedup(&self, key: &str) -> Option<&DedupSaved> {
        self.checkpoint.as_ref()?.dedups.get(key)
    }

    /// Returns the parts with rows of a table that no file has.
    pub(super) fn buffers(&self, table: &str) -> Vec<BufferState> {
        let buffers = self.checkpoint.as_ref().and_then(|checkpoint| checkpoint.buffers.get(table));
        buffers.cloned().unwrap_or_default()
    }

    /// Returns what each partition of the checkpoint has noted, and, by their places, where the checkpoint has it.
    pub(super) fn notes(&self) -> Result<(Vec<Notes>, BTreeMap<usize, Part>), JobError> {
        let (mut notes, mut saved) = (Vec::new(), BTreeMap::new());
        let partitions = self.checkpoint.iter().flat_map(|checkpoint| &checkpoint.partitions);
        for (place, partition) in partitions.enumerate() {
            notes.push(match &partition.notes {
                None => Notes::default(),
                Some(part) => {
                    saved.insert(place, part.clone());
                    Notes::restored(&self.parts[part]).map_err(|problem| {
                        let PartitionState { source, name, .. } = partition;
                        JobError::Log(format!("cannot restore what source {source} noted of {name:?}: {problem}"))
                    })?
                }
            });
        }
        Ok((notes, saved))
    }

    /// Whether the state of this key goes on.
    pub(super) fn has_source(&self, key: &str) -> bool {
        self.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.sources.contains_key(key))
    }

    /// Returns the state that one worker begins with.
    pub(super) fn state_of(&self, keys: &BTreeMap<NodeId, String>, worker: usize, workers: usize) -> Restored {
        let mut restored = Restored::default();
        let Some(checkpoint) = &self.checkpoint else { return restored };
        for (id, key) in keys {
            if let Some(fold) = checkpoint.sources.get(key).and_then(|source| source.fold.clone()) {
                restored.folds.insert(*id, fold);
            }
            let restore = |watermark: Watermark, pieces: &[PaneState]| {
                let mut panes: BTreeMap<i64, Vec<SavedPane>> = BTreeMap::new();
                for state in shares(pieces, worker, workers) {
                    let rows = self.parts[&state.part].clone();
                    panes.entry(state.start_us).or_default().push(SavedPane { rows, groups: state.groups });
                }
                RestoredWindow { watermark, panes: panes.into_iter().collect() }
            };
            if let Some(window) = checkpoint.windows.get(key) {
                restored.windows.insert(*id, restore(window.watermark, &window.panes));
            }
            if let Some(dedup) = checkpoint.dedups.get(key) {
                restored.dedups.insert(*id, restore(dedup.watermark, &dedup.stretches));
            }
        }
        restored
    }

    /// Returns the rows of a table that no file has.
    pub(super) fn buffer_of(
        &self,
        table: &str,
        schema: &arrow::datatypes::SchemaRef,
        committed: Epoch,
    ) -> Result<Vec<(Epoch, RecordBatch)>, JobError> {
        let Some(checkpoint) = &self.checkpoint else { return Ok(Vec::new()) };
        if self.start.rebuilt.contains_key(table) || committed >= checkpoint.epoch {
            return Ok(Vec::new());
        }
        let mut rows = Vec::new();
        for buffer in checkpoint.buffers.get(table).into_iter().flatten() {
            let part = by_epoch(schema, &self.parts[&buffer.part])
                .map_err(|error| JobError::Log(format!("cannot restore the rows of table {table}: {error}")))?;
            // Some may be in a file since: a job that went back to fill another table commits epochs before the checkpoint.
            rows.extend(part.into_iter().filter(|(epoch, _)| *epoch > committed));
        }
        Ok(rows)
    }
}

/// Returns the pieces of panes that a worker owns.
pub(super) fn shares(panes: &[PaneState], worker: usize, workers: usize) -> Vec<PaneState> {
    let own = KeyGroups::of_worker(worker, workers);
    let share = |pane: &PaneState| Some(PaneState { groups: pane.groups.shared_with(own)?, ..pane.clone() });
    panes.iter().filter_map(share).collect()
}

/// Everything that a start is decided from, and the decision: nothing is made or changed for it.
struct Prospect {
    replay: Replay,
    log: FoundLog,
    /// When the first epoch of the log was sealed.
    oldest_us: Option<i64>,
    manifests: BTreeMap<u64, FoundManifest>,
    tables: Vec<FoundTable>,
    chosen: Chosen,
}

impl Prospect {
    fn of(
        plan: &Plan,
        names: &[String],
        sinks: &[Box<dyn Sink>],
        store: &Store,
        mut replay: Replay,
    ) -> Result<Prospect, JobError> {
        let log = FoundLog { id: format!("{:032x}", replay.log_id()), first: replay.reach().first };
        let manifests = store.read_all()?;
        let tables = found_tables(plan, names, sinks);
        let chosen = choose(store, &log, &manifests, &tables)?;
        replay.skip_to(chosen.start.from.epoch())?;
        let oldest_us = replay.oldest_sealed_us()?;
        Ok(Prospect { replay, log, oldest_us, manifests, tables, chosen })
    }

    fn outlook(&self, plan: &Plan) -> Outlook {
        let Chosen { start, checkpoint, .. } = &self.chosen;
        let manifests = || self.manifests.values().rev().filter_map(FoundManifest::whole);
        let known = manifests().find_map(Manifest::checkpoint);
        let sources = plan.nodes.iter().filter_map(|node| match &node.operator {
            Operator::Source(source) => Some(source.name.as_str()),
            _ => None,
        });
        let reach = Reach {
            from: start.from,
            since_us: checkpoint.as_ref().map_or(self.oldest_us, |checkpoint| Some(checkpoint.sealed_us)),
        };
        Outlook::of(start, reach, manifests().next(), known, &self.tables, &sources.collect())
    }
}

/// Says what [`Job::start`](super::Job::start) would do with a data folder, and does nothing of it. `sinks` are those of the
/// job; none of them is begun. `None` if the folder has no log: then everything is new. Blocking.
///
/// Errors are those that the job would refuse to start with, as far as the log need not be replayed to find them.
pub fn foresee(plan: &Plan, sinks: &[Box<dyn Sink>], storage: &Arc<dyn Storage>) -> Result<Option<Outlook>, JobError> {
    let names: Vec<String> = plan.tables().into_iter().map(|(name, _)| name).collect();
    let log = Log::existing(Arc::clone(storage), LOG_FOLDER, LogOptions::default())?;
    let Some(replay) = log else { return Ok(None) };
    let prospect = Prospect::of(plan, &names, sinks, &Store::new(Arc::clone(storage)), replay)?;
    Ok(Some(prospect.outlook(plan)))
}

fn found_tables(plan: &Plan, names: &[String], sinks: &[Box<dyn Sink>]) -> Vec<FoundTable> {
    let keys = plan.state_keys();
    let table = |name: &String, sink: &dyn Sink| FoundTable {
        name: name.clone(),
        found: sink.found(),
        generation: sink.generation(),
        needs: plan.states_of(name).iter().map(|id| keys[id].clone()).collect(),
    };
    names.iter().zip(sinks).map(|(name, sink)| table(name, &**sink)).collect()
}

/// Where to start, and the state there.
struct Chosen {
    start: Start,
    checkpoint: Option<Checkpoint>,
    parts: HashMap<Part, RecordBatch>,
}

/// Decides, and reads the state; decides again without a checkpoint that turns out to be damaged.
fn choose(
    store: &Store,
    log: &FoundLog,
    manifests: &BTreeMap<u64, FoundManifest>,
    tables: &[FoundTable],
) -> Result<Chosen, JobError> {
    use crate::checkpoint::From;
    let mut damaged = BTreeMap::new();
    loop {
        let start = match decide(log, manifests, &damaged, tables) {
            Decision::Refuse(why) => return Err(JobError::Log(why)),
            Decision::Start(start) => start,
        };
        let From::Checkpoint { number, .. } = start.from else {
            return Ok(Chosen { start, checkpoint: None, parts: HashMap::new() });
        };
        let checkpoint = manifests.get(&number).and_then(FoundManifest::whole).and_then(Manifest::checkpoint);
        let checkpoint = checkpoint.expect("only a whole one with a checkpoint is chosen").clone();
        // Once each: after a change of the workers several pieces of a pane are of one part.
        let mut seen = HashSet::new();
        let named: Vec<&Part> = checkpoint.parts().filter(|part| seen.insert(*part)).collect();
        match store.read_parts(named.iter().copied()) {
            Ok(batches) => {
                let parts = named.into_iter().cloned().zip(batches).collect();
                return Ok(Chosen { start, checkpoint: Some(checkpoint), parts });
            }
            Err(error @ CheckpointError::Damaged { .. }) => drop(damaged.insert(number, error.to_string())),
            Err(error) => return Err(error.into()),
        }
    }
}
