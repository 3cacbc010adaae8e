//! The protocol of two phases, tried by a seed: several processes on one disk, accidents at any call, and a judge beside.
//!
//! ```text
//!   machine ── runs one process at a time, switches between two calls of the disk, starts, kills, stops
//!     job   ── recovers, records, checkpoints, commits, collects, cleans, goes back: over the real modules
//!     judge ── knows what is certain, reads tables and manifests as anybody would
//! ```
//! A failure prints one line of JSON and the command that repeats it. `TIDEMILL_SEEDS=20000` tries more.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, which is what it should do")]

mod ablation;
mod job;
mod judge;
mod machine;
mod start;
mod unsure;

use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tidemill_engine::storage::{LocalStorage, SimulatedDisk, Storage};

use ablation::Ablation;
use judge::Judge;
use machine::{Accident, Machine, Plan, Work, data_folder};
use unsure::Unsure;

/// Runs of the test, unless `TIDEMILL_SEEDS` says otherwise.
const RUNS: u64 = 1_000;
/// Lives of a machine in one run, and one more at the end that nothing happens to.
const LIVES: std::ops::RangeInclusive<u32> = 2..=4;
/// Within so many runs every ablation is caught.
const ABLATION_RUNS: u64 = 2_000;

/// What a run does.
fn plan(random: &mut SmallRng) -> Plan {
    let mut accidents = Vec::new();
    let mut at = 0;
    for _ in 0..random.random_range(0..=2) {
        at += random.random_range(1..700);
        accidents.push((at, Accident::Successor { restores: random.random_ratio(1, 6) }));
        if random.random_ratio(1, 4) {
            at += random.random_range(1..300);
            accidents.push((at, Accident::Kill));
        }
    }
    if random.random_ratio(3, 4) {
        accidents.push((at + random.random_range(1..1_500), Accident::Stop));
    }
    Plan { accidents, restores: random.random_ratio(1, 6), is_last: false }
}

/// One run; what the judge saw, or what it found.
fn run(seed: u64, ablation: Option<Ablation>) -> Result<Judge, String> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut disk = SimulatedDisk::new(seed);
    let mut judge = Judge::default();
    let lives = random.random_range(LIVES);
    for life in 0..=lives {
        let is_last = life == lives;
        let plan = if is_last { Plan { is_last, ..Plan::default() } } else { plan(&mut random) };
        let work: Work = Arc::new(move |process, restores| {
            let local = LocalStorage::on(Arc::new(process.clone()), "data").map_err(job::words)?;
            let storage = Arc::new(Unsure::new(local, process.seed));
            job::run(process, storage, ablation, restores)
        });
        if std::env::var_os("TIDEMILL_TRACE").is_some() {
            eprintln!("life {life} of {lives}: {plan:?}");
        }
        let planned = format!("life {life} of {lives}, {plan:?}");
        judge = Machine::run(&disk, random.random(), plan, judge, work).map_err(|found| format!("{planned}: {found}"))?;
        if is_last {
            let storage: Arc<dyn Storage> = Arc::new(data_folder(&disk));
            judge.look_at_the_end(&storage).map_err(|found| format!("at the end: {found}"))?;
        }
        disk = if random.random() { disk.kill() } else { disk.crash(random.random()) };
        judge.next_life();
    }
    Ok(judge)
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
    let (mut epochs, mut looks, mut commits, mut manifests, mut restores) = (0, 0, 0, 0, 0);
    for seed in first..first + runs {
        match run(seed, None) {
            Ok(judge) => {
                epochs += judge.last_epoch();
                looks += judge.looks;
                commits += judge.commits;
                manifests += judge.manifest_count;
                restores += judge.restores;
            }
            Err(found) => panic!(
                "{{\"seed\":{seed},\"verdict\":{found:?}}}\nrepeat it: TIDEMILL_SEED={seed} cargo test --workspace --test protocol"
            ),
        }
    }
    println!(
        "{{\"seed\":{first},\"runs\":{runs},\"epochs\":{epochs},\"looks\":{looks},\"commits\":{commits},\"manifests\":{manifests},\"restores\":{restores},\"verdict\":\"ok\"}}"
    );
    let enough = runs / 4;
    assert!(restores >= enough && commits >= 4 * enough && epochs >= 4 * enough, "the runs do too little");
}

#[test]
fn every_safeguard_that_is_left_out_is_missed() {
    for ablation in ablation::ALL {
        let caught = (1..=ABLATION_RUNS).find_map(|seed| Some((seed, run(seed, Some(ablation)).err()?)));
        let (seed, found) = caught.unwrap_or_else(|| panic!("{ablation:?} is not caught in {ABLATION_RUNS} runs"));
        println!("{ablation:?} is caught by seed {seed}: {found}");
    }
}
