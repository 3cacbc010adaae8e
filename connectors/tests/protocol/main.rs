//! The protocol of two phases, tried by a seed: several processes on one disk, accidents at any call, and a judge beside.
//!
//! ```text
//!   machine ── runs one process at a time, switches between two calls of the disk, starts, kills, stops
//!     job   ── recovers, records, checkpoints, commits, collects, cleans, goes back: over the real modules
//!     table ── the two tables it writes
//!     judge ── knows what is certain, reads tables and manifests as anybody would
//! ```
//! A failure prints one line of JSON and the command that repeats it. `TIDEMILL_SEEDS=20000` tries more.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, which is what it should do")]

mod ablation;
mod job;
mod judge;
mod machine;
mod start;
mod table;
mod unsure;
mod windows;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tidemill_engine::storage::{LocalStorage, SimulatedDisk, Storage};

use ablation::Ablation;
use judge::Judge;
use machine::{Accident, Machine, Plan, Work, data_folder};
use unsure::unsure;

/// Runs of the test, unless `TIDEMILL_SEEDS` says otherwise.
const RUNS: u64 = 1_000;
/// Lives of a machine in one run, and one more at the end that nothing happens to.
const LIVES: std::ops::RangeInclusive<u32> = 2..=4;
/// After one of so many lives an old copy of a table is put back.
const LIVES_PER_COPY: u32 = 8;
/// What a start says that cannot go on from such a copy.
const REFUSED: &str = "the table's folder is older than the checkpoints";
/// Within so many runs every ablation is caught.
const ABLATION_RUNS: u64 = 2_000;

/// What a run does. One of so many processes goes back to an older checkpoint.
fn plan(random: &mut SmallRng, restores: u32) -> Plan {
    let mut accidents = Vec::new();
    let mut at = 0;
    for _ in 0..random.random_range(0..=2) {
        at += random.random_range(1..700);
        accidents.push((at, Accident::Successor { restores: random.random_ratio(1, restores) }));
        if random.random_ratio(1, 4) {
            at += random.random_range(1..300);
            accidents.push((at, Accident::Kill));
        }
    }
    if random.random_ratio(3, 4) {
        accidents.push((at + random.random_range(1..1_500), Accident::Stop));
    }
    Plan { accidents, restores: random.random_ratio(1, restores), is_last: false }
}

/// One run; what the judge saw, or what it found.
fn run(seed: u64, ablation: Option<Ablation>) -> Result<Judge, String> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut disk = SimulatedDisk::new(seed);
    let mut judge = Judge::default();
    let lives = random.random_range(LIVES);
    let mut is_put_back = false;
    // Now and then everybody goes back first.
    let restores = if seed.is_multiple_of(8) { 1 } else { 6 };
    for life in 0..=lives {
        let is_last = life == lives;
        let plan = if is_last { Plan { is_last, ..Plan::default() } } else { plan(&mut random, restores) };
        let work: Work = Arc::new(move |process, restores| {
            let local = LocalStorage::on(process.disk(), "data").map_err(table::words)?;
            let storage = unsure(local, process.seed);
            job::run(process, storage, ablation, restores)
        });
        if std::env::var_os("TIDEMILL_TRACE").is_some() {
            eprintln!("life {life} of {lives}: {plan:?}");
        }
        let planned = format!("life {life} of {lives}, {plan:?}");
        judge = match Machine::run(&disk, random.random(), plan, judge, work) {
            Ok(judge) => judge,
            // The log does not reach back to where the copy ends. Nothing is lost silently, and nothing more happens.
            Err(found) if is_put_back && found.contains(REFUSED) => return Ok(Judge::default()),
            Err(found) => return Err(format!("{planned}: {found}")),
        };
        if is_last {
            let storage: Arc<dyn Storage> = Arc::new(data_folder(&disk));
            judge.look_at_the_end(&storage).map_err(|found| format!("at the end: {found}"))?;
        }
        disk = if random.random() { disk.kill() } else { disk.crash(random.random()) };
        judge.next_life();
        if ablation.is_none() && random.random_ratio(1, LIVES_PER_COPY) {
            is_put_back |= put_back_a_copy(&disk, &mut random);
        }
    }
    Ok(judge)
}

/// Somebody puts an old copy of one table's folder back: its newest versions are gone. Returns whether there are older ones.
fn put_back_a_copy(disk: &SimulatedDisk, random: &mut SmallRng) -> bool {
    let storage = data_folder(disk);
    let log = format!("{}/_delta_log", table::table_dir(table::TABLES[random.random_range(0..table::TABLES.len())]));
    let versions = storage.list(&log).expect("a disk that works");
    if versions.len() < 2 {
        return false;
    }
    for version in &versions[random.random_range(1..versions.len())..] {
        storage.delete(&format!("{log}/{}", version.name)).expect("a disk that works");
    }
    storage.sync_dir(&log).expect("a disk that works");
    true
}

/// What all runs together saw: those that see nothing prove nothing.
#[derive(Debug, Default)]
struct Seen {
    epochs: u64,
    looks: u64,
    commits: u64,
    manifests: u64,
    restores: u64,
}

impl Seen {
    fn add(&mut self, judge: &Judge) {
        self.epochs += judge.last_epoch();
        self.looks += judge.looks;
        self.commits += judge.commits;
        self.manifests += judge.manifest_count;
        self.restores += judge.restores;
    }
}

/// Tries seeds on all cores until one gives something; of several the smallest that was found.
fn in_parallel<T: Send>(seeds: std::ops::Range<u64>, find: impl Fn(u64) -> Option<T> + Sync) -> Option<T> {
    let next = AtomicU64::new(seeds.start);
    let found: Mutex<BTreeMap<u64, T>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || !found.lock().is_empty() {
                        return;
                    }
                    if let Some(it) = find(seed) {
                        found.lock().insert(seed, it);
                    }
                }
            });
        }
    });
    found.into_inner().pop_first().map(|(_, it)| it)
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

#[test]
fn whatever_crashes_and_whoever_goes_on_tables_have_whole_epochs_once() {
    let (first, runs) = match number("TIDEMILL_SEED") {
        Some(seed) => (seed, 1),
        None => (1, number("TIDEMILL_SEEDS").unwrap_or(RUNS)),
    };
    let seen = Mutex::new(Seen::default());
    let failure = in_parallel(first..first + runs, |seed| match run(seed, None) {
        Ok(judge) => {
            seen.lock().add(&judge);
            None
        }
        Err(found) => Some((seed, found)),
    });
    if let Some((seed, found)) = failure {
        panic!(
            "{{\"seed\":{seed},\"verdict\":{found:?}}}\nrepeat it: TIDEMILL_SEED={seed} cargo test --workspace --test protocol"
        );
    }
    let Seen { epochs, looks, commits, manifests, restores } = seen.into_inner();
    println!(
        "{{\"seed\":{first},\"runs\":{runs},\"epochs\":{epochs},\"looks\":{looks},\"commits\":{commits},\"manifests\":{manifests},\"restores\":{restores},\"verdict\":\"ok\"}}"
    );
    let enough = runs / 4;
    assert!(restores >= enough && commits >= 4 * enough && epochs >= 4 * enough, "the runs do too little");
}

#[test]
fn every_safeguard_that_is_left_out_is_missed() {
    for ablation in ablation::ALL {
        let caught = in_parallel(1..ABLATION_RUNS + 1, |seed| Some((seed, run(seed, Some(ablation)).err()?)));
        let (seed, found) = caught.unwrap_or_else(|| panic!("{ablation:?} is not caught in {ABLATION_RUNS} runs"));
        println!("{ablation:?} is caught by seed {seed}: {found}");
    }
}

#[test]
fn every_seeded_bug_of_the_protocol_is_caught() {
    tidemill_engine::seeded_bugs::assert_all_are_caught(tidemill_engine::seeded_bugs::Harness::Protocol);
}
