//! A model of tables, checkpoints and crashes around [`decide`] and [`Store::collect`]: whatever happens, a table that is
//! filled has every epoch behind its base exactly once, or the start is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::checkpoint;
use crate::checkpoint::store::manifest_path;
use crate::checkpoint::{
    Decision, FoundLog, FoundManifest, FoundTable, Holds, Manifest, Start, Store, TableState, decide, rolls_forward,
};
use crate::epoch::Epoch;
use crate::sink::{Committable, Found};
use crate::storage::{MemoryStorage, Storage};

const NAMES: [&str; 3] = ["a", "b", "c"];

/// A table: the epochs that its files have, in the order of their commits.
#[derive(Clone, Debug, Default)]
struct Table {
    view: u64,
    base: u64,
    committed: u64,
    rows: Vec<u64>,
}

struct World {
    random: StdRng,
    storage: Arc<MemoryStorage>,
    store: Store,
    /// What the log has.
    first: u64,
    last: u64,
    on_disk: BTreeMap<&'static str, Table>,
    /// Backups of tables.
    copies: Vec<(&'static str, Table)>,
    /// The version of each view of the plan.
    plan: BTreeMap<&'static str, u64>,
    /// For each manifest with a checkpoint and each table, the epochs of the rows that no file has.
    buffers: BTreeMap<(u64, &'static str), Vec<u64>>,
    damaged: BTreeMap<u64, String>,
    incarnation: u64,
    trace: Vec<String>,
}

/// The process died.
struct Crash;

impl World {
    fn new(seed: u64) -> World {
        let storage = Arc::new(MemoryStorage::default());
        World {
            random: StdRng::seed_from_u64(seed),
            store: Store::new(Arc::<MemoryStorage>::clone(&storage)),
            storage,
            first: 1,
            last: 0,
            on_disk: BTreeMap::new(),
            copies: Vec::new(),
            plan: NAMES.map(|name| (name, 0)).into(),
            buffers: BTreeMap::new(),
            damaged: BTreeMap::new(),
            incarnation: 0,
            trace: Vec::new(),
        }
    }

    fn chance(&mut self, probability: f64) -> bool {
        self.random.random_bool(probability)
    }

    fn crash(&mut self) -> Result<(), Crash> {
        if self.chance(0.04) { Err(Crash) } else { Ok(()) }
    }

    fn manifests(&self) -> BTreeMap<u64, FoundManifest> {
        let numbers = self.store.numbers().expect("memory");
        let read = |number| match self.store.read(number) {
            Ok(manifest) => FoundManifest::Whole(Box::new(manifest)),
            Err(error) => FoundManifest::Damaged(error.to_string()),
        };
        numbers.into_iter().map(|number| (number, read(number))).collect()
    }

    /// What the plan and the disk go through while nothing runs.
    fn between(&mut self) {
        if self.chance(0.15) {
            let name = NAMES[self.random.random_range(0..NAMES.len())];
            match self.random.random_range(0..3) {
                0 => drop(self.plan.remove(name)),
                1 => *self.plan.entry(name).or_default() += 1,
                _ => drop(self.plan.entry(name).or_default()),
            }
            self.trace.push(format!("plan {:?}", self.plan));
        }
        let numbers = self.store.numbers().expect("memory");
        if let Some(newest) = numbers.last().filter(|_| self.random.random_bool(0.05)) {
            self.trace.push(format!("manifest {newest} is damaged"));
            self.storage.put(&manifest_path(*newest), b"{}").expect("memory");
        } else if let Some(number) = numbers.last().filter(|_| self.random.random_bool(0.05)) {
            self.damaged.insert(*number, "a flipped bit".to_owned());
            self.trace.push(format!("state of {number} is damaged"));
        }
    }

    /// Somebody makes a copy of a table, or puts one back.
    fn copy_tables(&mut self) {
        if self.chance(0.2) {
            self.copies.extend(self.on_disk.iter().map(|(name, table)| (*name, table.clone())));
        }
        if !self.copies.is_empty() && self.chance(0.04) {
            let (name, table) = self.copies[self.random.random_range(0..self.copies.len())].clone();
            self.trace.push(format!("put back: {name} as of {}", table.committed));
            self.on_disk.insert(name, table);
        }
    }

    fn found(&self) -> Vec<FoundTable> {
        let table = |(name, view): (&&'static str, &u64)| FoundTable {
            generation: 0,
            name: (*name).to_owned(),
            found: match self.on_disk.get(name) {
                None => Found::New,
                Some(table) if table.view == *view => {
                    Found::Same { base: Epoch(table.base), committed: Epoch(table.committed) }
                }
                Some(_) => Found::Changed { what: "the view".to_owned() },
            },
            needs: BTreeSet::from([format!("{name}{view}")]),
        };
        self.plan.iter().map(table).collect()
    }

    /// One life of the process. Returns false if it refuses to start.
    fn run(&mut self) -> Result<bool, Crash> {
        self.incarnation += 1;
        let manifests = self.manifests();
        let log = FoundLog { id: String::new(), first: Epoch(self.first) };
        let start = match decide(&log, &manifests, &self.damaged, &self.found()) {
            Decision::Refuse(why) => {
                self.trace.push(why);
                return Ok(false);
            }
            Decision::Start(start) => start,
        };
        self.trace.push(format!("{start:?}"));
        let from = start.from.epoch().0;
        assert!(from + 1 >= self.first && from <= self.last, "{:#?}", self.trace);
        for (name, view) in self.plan.clone() {
            let table = self.on_disk.entry(name).or_default();
            let is_same = table.view == view && table.base == from;
            let is_new = !start.rebuilt.contains_key(name);
            if !is_new && !is_same {
                *table = Table { view, base: from, committed: from, rows: Vec::new() };
            }
            self.crash()?;
        }
        if let Some(FoundManifest::Whole(newest)) = start.newest.and_then(|number| manifests.get(&number)) {
            for name in self.plan.clone().into_keys().filter(|name| !start.rebuilt.contains_key(*name)) {
                if rolls_forward(newest, name, Epoch(self.on_disk[name].committed), 0) {
                    self.commit(name, newest);
                }
                self.crash()?;
            }
        }
        let mut held: BTreeMap<&'static str, Vec<u64>> = BTreeMap::new();
        for name in self.plan.keys() {
            let mut rows = self.buffers.get(&(start.from.number(), *name)).cloned().unwrap_or_default();
            rows.retain(|epoch| *epoch > self.on_disk[name].committed);
            let goes_on = !start.rebuilt.contains_key(*name);
            held.insert(name, if goes_on { rows } else { Vec::new() });
        }
        self.feed(start, held).map(|()| true)
    }

    /// Replays, then takes new epochs; checkpoints and commits at random.
    fn feed(&mut self, start: Start, mut held: BTreeMap<&'static str, Vec<u64>>) -> Result<(), Crash> {
        let (from, mut base, mut number) = (start.from.epoch().0, start.from.number(), start.next_number);
        let end = self.last + self.random.random_range(0..8);
        let committed: BTreeMap<_, _> = self.plan.keys().map(|name| (*name, self.on_disk[name].committed)).collect();
        for epoch in from + 1..=end {
            self.last = self.last.max(epoch);
            for (name, rows) in &mut held {
                rows.extend((epoch > committed[name]).then_some(epoch));
            }
            let holds_state = self.chance(0.25);
            if !holds_state && !self.chance(0.25) {
                continue;
            }
            let mut tables = BTreeMap::new();
            for (name, rows) in &mut held {
                let table = &self.on_disk[name];
                let is_due = self.random.random_bool(0.5) && !rows.is_empty();
                let body =
                    if is_due { serde_json::to_string(&std::mem::take(rows)).expect("numbers") } else { String::new() };
                // The content that they were prepared for, as a file's tag says it.
                let summary = format!("{} {}", table.view, table.base);
                let pending = is_due.then_some(Committable { version: 1, body, summary }).into_iter().collect();
                let state = TableState {
                    base: Epoch(table.base),
                    committed: Epoch(table.committed),
                    pending,
                    generation: None,
                };
                tables.insert((*name).to_owned(), state);
            }
            self.crash()?;
            let state = checkpoint(epoch, self.plan.iter().map(|(name, view)| format!("{name}{view}")));
            let manifest = Manifest {
                version: Manifest::VERSION,
                number,
                incarnation: self.incarnation,
                parent: None,
                log_id: String::new(),
                made_us: 0,
                epoch: Epoch(epoch),
                holds: if holds_state { Holds::Checkpoint(Box::new(state)) } else { Holds::Refers(base) },
                tables,
                rewound_to: None,
            };
            let manifest = self.store.write(manifest).expect("memory");
            if holds_state {
                base = manifest.number;
                self.buffers.extend(held.iter().map(|(name, rows)| ((base, *name), rows.clone())));
            }
            number = manifest.number + 1;
            self.trace.push(format!("manifest {} @{epoch}, state {holds_state}", manifest.number));
            for name in held.keys() {
                self.crash()?;
                self.commit(name, &manifest);
            }
            self.crash()?;
            if holds_state && let Some(oldest) = self.store.collect(self.incarnation).expect("memory").oldest {
                self.crash()?;
                self.first = self.first.max(oldest.0 + 1);
                assert!(self.first <= epoch + 1, "what is not replayed yet is gone: {:#?}", self.trace);
            }
        }
        for (name, rows) in held {
            let table = self.on_disk.get_mut(name).expect("begun");
            table.rows.extend(rows);
            // As a stop does, and as if there were no manifest in between.
            let whole: Vec<u64> = (table.base + 1..=end.max(table.base)).collect();
            assert_eq!(table.rows, whole, "table {name}: {:#?}", self.trace);
        }
        Err(Crash)
    }

    fn commit(&mut self, name: &'static str, manifest: &Manifest) {
        let table = self.on_disk.get_mut(name).expect("begun");
        let Some(decided) = manifest.tables.get(name) else { return };
        for committable in &decided.pending {
            if table.committed < manifest.epoch.0 && committable.summary == format!("{} {}", table.view, table.base) {
                table.rows.extend(serde_json::from_str::<Vec<u64>>(&committable.body).expect("as written"));
                table.committed = manifest.epoch.0;
            }
        }
    }
}

#[test]
fn whatever_happens_a_table_has_every_epoch_once_or_the_start_is_refused() {
    let (mut refused, mut lives) = (0, 0);
    for seed in 0..500 {
        let mut world = World::new(seed);
        for _ in 0..25 {
            let before = world.on_disk.clone();
            lives += 1;
            // A crash is not the end, and neither is a life that went well.
            if let Ok(false) = world.run() {
                refused += 1;
                break;
            }
            // The last stop was a kill: what was not committed by a manifest is not in a table.
            for (name, table) in &mut world.on_disk {
                let committed = table.committed;
                table.rows.retain(|epoch| *epoch <= committed);
                let kept = before.get(name).is_none_or(|before| {
                    (before.view, before.base) != (table.view, table.base) || table.rows.starts_with(&before.rows)
                });
                assert!(kept, "seed {seed}, table {name}: {:#?}", world.trace);
            }
            world.between();
            world.copy_tables();
        }
    }
    assert!(lives > 5_000 && refused < lives / 20, "{refused} of {lives} starts were refused");
}
