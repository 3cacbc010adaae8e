//! The start of a process, in the order of the engine's own, and going back to an older checkpoint.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::RecordBatch;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tidemill_connectors::table::{Checksums, FileDescription, Found, Rewind, TableSink, describe, rewind};
use tidemill_engine::checkpoint::{
    Checkpoint, CheckpointError, Decision, FoundLog, FoundManifest, FoundTable, From, Holds, Manifest, Part, Start,
    Store, TableState, decide, line_of_descent, rolls_forward,
};
use tidemill_engine::clock::{Dice, ManualClock, SeededDice};
use tidemill_engine::epoch::Epoch;
use tidemill_engine::fence::Incarnation;
use tidemill_engine::ingest::{Log, LogOptions, Replay};
use tidemill_engine::sink::Sink;
use tidemill_engine::storage::Storage;

use super::ablation::Ablation;
use super::job::{JOB, SUM};
use super::machine::Process;
use super::table::{TABLES, spec, table_dir, words};

/// The folder of the log.
pub(crate) const LOG: &str = "log";

/// What a process begins with.
pub(crate) struct Recovered {
    pub(crate) incarnation: Incarnation,
    pub(crate) store: Store,
    pub(crate) start: Start,
    pub(crate) checkpoint: Option<Checkpoint>,
    pub(crate) parts: HashMap<Part, RecordBatch>,
    pub(crate) replay: Replay,
    pub(crate) log_id: String,
    pub(crate) sinks: Vec<Box<dyn Sink>>,
    pub(crate) bases: Vec<Epoch>,
}

type Manifests = BTreeMap<u64, FoundManifest>;

fn read_manifests(store: &Store) -> Result<Manifests, String> {
    let mut manifests = BTreeMap::new();
    for number in store.numbers().map_err(words)? {
        let found = match store.read(number) {
            Ok(manifest) => FoundManifest::Whole(Box::new(manifest)),
            Err(error @ CheckpointError::Damaged { .. }) => FoundManifest::Damaged(error.to_string()),
            Err(error) => return Err(words(error)),
        };
        manifests.insert(number, found);
    }
    Ok(manifests)
}

fn newest(manifests: &Manifests) -> Option<&Manifest> {
    manifests.values().rev().find_map(|found| match found {
        FoundManifest::Whole(manifest) => Some(&**manifest),
        _ => None,
    })
}

fn open_tables(process: &Process, storage: &Arc<dyn Storage>) -> Result<Vec<TableSink>, String> {
    let clock = Arc::new(ManualClock::at(1_000_000));
    let dice: Arc<dyn Dice> = Arc::new(SeededDice::new(process.seed));
    TABLES
        .iter()
        .map(|table| {
            TableSink::open(Arc::clone(storage), &table_dir(table), spec(table), clock.clone(), Arc::clone(&dice))
                .map_err(words)
        })
        .collect()
}

/// Recovers: everything that is read is durable before it is believed, and decided commits are rolled forward.
pub(crate) fn recover(process: &Process, storage: &Arc<dyn Storage>) -> Result<Recovered, String> {
    let incarnation = Incarnation::claim(storage, &ManualClock::at(0)).map_err(words)?;
    let store = Store::new(Arc::clone(storage));
    store.sync().map_err(words)?;
    finish_restore(storage, &store)?;
    let dice = SeededDice::new(process.seed ^ 1);
    let options = LogOptions { segment_bytes_max: 900, checkpoint_segment_bytes_min: 300 };
    let mut replay = Log::open(Arc::clone(storage), LOG, &dice, options).map_err(words)?;
    let log = FoundLog { id: format!("{:032x}", replay.log_id()), first: replay.reach().first };
    let manifests = read_manifests(&store)?;
    let mut sinks = open_tables(process, storage)?;
    let tables: Vec<FoundTable> = (TABLES.iter().zip(&sinks))
        .map(|(name, sink)| FoundTable {
            generation: Sink::generation(sink),
            name: (*name).to_owned(),
            found: Sink::found(sink),
            needs: if *name == "sums" { BTreeSet::from([SUM.to_owned()]) } else { BTreeSet::new() },
        })
        .collect();
    let (start, checkpoint, parts) = choose(&store, &log, &manifests, &tables)?;
    let is_fresh = |table: &FoundTable| table.found == tidemill_engine::sink::Found::New;
    // That a table lacks what a late commit of a replaced process has cut elsewhere is told, and is no damage.
    let is_damage = |note: &&String| !note.contains("counts on epoch");
    let is_odd = start.notes.iter().any(|note| is_damage(&note))
        || tables.iter().any(|table| start.rebuilt.contains_key(&table.name) && !is_fresh(table));
    if is_odd && process.is_alone() {
        // Nothing is ever damaged here.
        return Err(format!("it found something bad: {:?} {:?}", start.notes, start.rebuilt));
    }
    process.trace(|| {
        let found: Vec<String> = tables.iter().map(|table| format!("{:?}", table.found)).collect();
        format!("incarnation {}: {:?} newest {:?} {found:?}", incarnation.number(), start.from, start.newest)
    });
    replay.skip_to(start.from.epoch()).map_err(words)?;
    let mut bases = Vec::new();
    for (sink, table) in sinks.iter_mut().zip(&tables) {
        let base = match (&table.found, start.rebuilt.get(&table.name)) {
            (tidemill_engine::sink::Found::Same { base, .. }, None) => *base,
            _ => start.from.epoch(),
        };
        TableSink::begin(sink, base).map_err(words)?;
        bases.push(base);
    }
    if let Some(newest) = newest(&manifests) {
        for sink in &mut sinks {
            let is_rebuilt = start.rebuilt.contains_key(Sink::name(sink));
            if !is_rebuilt
                && rolls_forward(newest, Sink::name(sink), Sink::last_committed(sink), Sink::generation(sink))
            {
                let pending = &newest.tables[Sink::name(sink)].pending;
                Sink::commit(sink, newest.epoch, pending).map_err(words)?;
            }
        }
    }
    let sinks = sinks.into_iter().map(|sink| Box::new(sink) as Box<dyn Sink>).collect();
    Ok(Recovered { incarnation, store, start, checkpoint, parts, replay, log_id: log.id, sinks, bases })
}

type Chosen = (Start, Option<Checkpoint>, HashMap<Part, RecordBatch>);

fn choose(store: &Store, log: &FoundLog, manifests: &Manifests, tables: &[FoundTable]) -> Result<Chosen, String> {
    let mut damaged = BTreeMap::new();
    loop {
        let start = match decide(log, manifests, &damaged, tables) {
            Decision::Refuse(why) => return Err(why),
            Decision::Start(start) => start,
        };
        let From::Checkpoint { number, .. } = start.from else { return Ok((start, None, HashMap::new())) };
        let Some(FoundManifest::Whole(manifest)) = manifests.get(&number) else { unreachable!("it was chosen") };
        let checkpoint = manifest.checkpoint().expect("it was chosen").clone();
        match store.read_parts(checkpoint.parts()) {
            Ok(batches) => {
                let parts = checkpoint.parts().cloned().zip(batches).collect();
                return Ok((start, Some(checkpoint), parts));
            }
            Err(error @ CheckpointError::Damaged { .. }) => drop(damaged.insert(number, error.to_string())),
            Err(error) => return Err(words(error)),
        }
    }
}

/// What a checkpoint counts as committed in a table, its own commit included.
fn committed_with(manifest: &Manifest, table: &TableState) -> Epoch {
    if table.pending.is_empty() { table.committed } else { manifest.epoch }
}

/// Goes back to an older checkpoint: writes the manifest that decides it. Returns whether it did.
pub(crate) fn restore(
    process: &Process,
    storage: &Arc<dyn Storage>,
    recovered: &Recovered,
    ablation: Option<Ablation>,
) -> Result<bool, String> {
    let mut random = SmallRng::seed_from_u64(process.seed ^ 2);
    let store = &recovered.store;
    let manifests = read_manifests(store)?;
    let Some(newest) = newest(&manifests) else { return Ok(false) };
    let whole = manifests.values().filter_map(|found| match found {
        FoundManifest::Whole(manifest) => Some(&**manifest),
        _ => None,
    });
    let line = line_of_descent(whole.clone());
    let targets: Vec<&Manifest> = whole
        .filter(|manifest| manifest.checkpoint().is_some() && manifest.rewound_to.is_none())
        .filter(|manifest| line.contains(&manifest.number))
        // A table that was ahead has rows in its files that this checkpoint does not have in its buffers.
        .filter(|manifest| manifest.tables.values().all(|table| table.committed <= manifest.epoch))
        .collect();
    if targets.is_empty() {
        return Ok(false);
    }
    let target = targets[random.random_range(0..targets.len())];
    let mut tables = BTreeMap::new();
    for sink in open_tables(process, storage)? {
        let Found::Same { generation, .. } = sink.found() else { return Ok(false) };
        let Some(known) = target.tables.get(Sink::name(&sink)) else { return Ok(false) };
        let committed = committed_with(target, known);
        let found = describe(&**storage, &table_dir(Sink::name(&sink)), Checksums::Skip).map_err(words)?;
        let is_split = |file: &FileDescription| {
            file.lo_epoch.is_some_and(|lo| lo <= committed.0) && file.hi_epoch.is_some_and(|hi| hi > committed.0)
        };
        // As the program does: a table that lacks rows is filled by the next start, and one whose files have rows on both
        // sides, after it was filled again, goes back to another checkpoint only.
        if Sink::last_committed(&sink) < committed || found.is_some_and(|table| table.files.iter().any(is_split)) {
            return Ok(false);
        }
        let state = TableState { base: known.base, committed, pending: Vec::new(), generation: Some(generation + 1) };
        tables.insert(Sink::name(&sink).to_owned(), state);
    }
    let number = newest.number + 1;
    let manifest = Manifest {
        number: manifests.keys().last().map_or(number, |last| last + 1),
        incarnation: recovered.incarnation.number(),
        parent: Some(newest.number),
        epoch: target.epoch,
        holds: Holds::Refers(target.number),
        tables,
        rewound_to: Some(target.epoch),
        ..newest.clone()
    };
    if ablation == Some(Ablation::RestoreWithoutRecord) {
        rewind_tables(storage, &manifest)?;
        return Ok(false);
    }
    let manifest = store.write(manifest).map_err(words)?;
    process.trace(|| format!("manifest {} goes back to {} of {}", manifest.number, manifest.base(), manifest.epoch));
    // A successor that claimed before this has not read the manifest, and goes on without it: then nothing is taken out.
    recovered.incarnation.check().map_err(words)?;
    Ok(true)
}

/// Does what the newest manifest has decided, if it goes back.
pub(crate) fn finish_restore(storage: &Arc<dyn Storage>, store: &Store) -> Result<(), String> {
    let manifests = read_manifests(store)?;
    match newest(&manifests).filter(|newest| newest.rewound_to.is_some()) {
        Some(newest) => rewind_tables(storage, newest),
        None => Ok(()),
    }
}

fn rewind_tables(storage: &Arc<dyn Storage>, decided: &Manifest) -> Result<(), String> {
    for (name, table) in &decided.tables {
        let (to, committed) = (decided.epoch, table.committed);
        let generation = table.generation.ok_or("a manifest that goes back, without a generation")?;
        rewind(&**storage, &table_dir(name), Rewind { job: JOB, name, to, committed, generation }, 1_000)
            .map_err(words)?;
    }
    Ok(())
}
