//! Lives in a row: the seed makes up the script, the disk, the turns, how the job runs each time, and how each life ends.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use tidemill::engine::error::with_causes;
use tidemill::engine::storage::SimulatedDisk;
use tidemill::engine::storage::simulated::{Call, Failure, Fault, When};

use super::faults::honest;
use super::judge::{garbage, verdict};
use super::life::{End, Settings, live};
use super::report::{Failures, chosen};
use super::scenario::{Chance, Script};
use super::world::World;

/// Seeds of a run, if the environment does not say `TIDEMILL_SEEDS`.
const SEEDS: u64 = 200;

/// Threads that go through seeds.
const THREADS: usize = 2;

/// What a seed led to.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    rows: usize,
    faults: Vec<String>,
    /// Of all turns, of what subscribers saw, and of all calls of the disk.
    trace_hash: u64,
}

#[test]
fn whatever_the_seed_nothing_is_lost_and_nothing_counted_twice() {
    let failures = Failures::new("simulation::seeds::whatever");
    let (first, count) = match chosen("TIDEMILL_SEED") {
        Some(seed) => (seed, 1),
        None => (1, chosen("TIDEMILL_SEEDS").unwrap_or(SEEDS)),
    };
    let (next, rows) = (AtomicU64::new(first), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    failures.check(seed, "see the seed", &[("TIDEMILL_SEED", seed)], || {
                        let outcome = lives(seed)?;
                        rows.fetch_add(outcome.rows as u64, Ordering::Relaxed);
                        Ok(outcome.rows)
                    });
                }
            });
        }
    });
    let rows = rows.load(Ordering::Relaxed);
    failures.none();
    println!("{}", json!({ "seeds": count, "first": first, "rows": rows, "verdict": "right" }));
}

#[test]
fn the_same_seed_leaves_the_same_trace() {
    let mut traces = Vec::new();
    for seed in [1, 2, 3, 17, 18] {
        let (once, again) = (lives(seed), lives(seed));
        assert_eq!(once, again, "seed {seed}");
        traces.push(once.expect("right").trace_hash);
    }
    for workers in 1..=3 {
        let life = || {
            let (disk, script) = (SimulatedDisk::new(9), Script::new(9, 25));
            let life = live(&disk, &World::new(), &script, &Settings::small(9, workers), None);
            (life.trace_hash, disk.trace_hash())
        };
        assert_eq!(life(), life(), "{workers} workers");
        traces.push(life().0);
    }
    traces.sort_unstable();
    traces.dedup();
    assert_eq!(traces.len(), 8, "another seed, another number of workers: another trace");
}

/// Lives from the first start to the end of the script, however many lives that takes, and judges.
fn lives(seed: u64) -> Result<Outcome, String> {
    let chance = Chance::new(seed);
    let script = Script::new(chance.seed(), chance.within(15..45) as usize);
    let (mut disk, world) = (SimulatedDisk::new(chance.seed()), World::new());
    let mut outcome = Outcome { rows: 0, faults: Vec::new(), trace_hash: seed };
    let (mut accidents, mut has_flipped) = (chance.below(5), false);
    loop {
        let settings = settings(&chance);
        let accident = if accidents > 0 { Some(Accident::prepare(&chance, &disk)) } else { None };
        accidents = accidents.saturating_sub(1);
        let told = |outcome: &Outcome, what: String| format!("after {:?}: {what}", outcome.faults);
        // One only: of each thing there is a copy, and not a second one.
        let may_flip = !has_flipped && accident.is_some() && chance.one_in(3);
        let flipped = if may_flip { flip(&chance, &disk) } else { None };
        has_flipped |= flipped.is_some();
        let life = live(&disk, &world, &script, &settings, None);
        outcome.trace_hash = outcome.trace_hash.rotate_left(7) ^ life.trace_hash ^ disk.trace_hash();
        outcome.faults.extend(accident.as_ref().map(|accident| format!("{accident:?} with {settings:?}")));
        match (&life.end, flipped) {
            // A pack may hold what older checkpoints need, too; a manifest never does: without it there is the one before.
            (End::NotStarted(error), Some((path, bit)))
                if with_causes(error).contains(&path) && path.ends_with(".pack") =>
            {
                disk.flip(format!("data/{path}"), bit).expect("it was there");
            }
            (End::Stopped, _) if accident.is_none() => break,
            (end, flipped) => {
                honest(end).map_err(|what| told(&outcome, format!("{what} {flipped:?}")))?;
                if accident.is_none() {
                    return Err(told(&outcome, format!("{end:?}")));
                }
            }
        }
        disk = if chance.one_in(2) { disk.kill() } else { disk.crash(chance.seed()) };
        disk.set_capacity(None);
    }
    let told = |what: String| format!("after {:?}: {what}", outcome.faults);
    verdict(&disk, &world.past(), &script).map_err(told)?;
    // Once more, and one more row: what is left of all that now is what is kept.
    let (before, script) = (disk.kill(), script.and_one_more());
    let last = live(&disk, &world, &script, &settings(&chance), None);
    last.end.stopped().map_err(|end| told(format!("the last start: {end}")))?;
    outcome.rows = verdict(&disk, &world.past(), &script).map_err(told)?.rows;
    garbage(&disk, &before).map_err(told)?;
    outcome.trace_hash = outcome.trace_hash.rotate_left(7) ^ last.trace_hash ^ disk.trace_hash();
    Ok(outcome)
}

/// Makes up how a job runs.
fn settings(chance: &Chance) -> Settings {
    let seconds = |of: &[u64]| Duration::from_millis(chance.pick(of));
    Settings {
        seed: chance.seed(),
        workers: chance.pick(&[1, 2, 2, 3]),
        table_writers: chance.pick(&[1, 2, 3]),
        epoch_interval: seconds(&[20, 50, 300]),
        checkpoint_interval: seconds(&[1_000, 5_000, 20_000]),
        commit_interval: seconds(&[500, 4_000, 30_000]),
        segment_bytes: chance.pick(&[600, 1_500, 6_000]),
    }
}

/// What ends a life.
#[derive(Clone, Copy, Debug)]
enum Accident {
    /// The process dies at a call.
    Dies { call: u64, when: When },
    /// The process dies at a sync.
    DiesAtSync { sync: u64, when: When },
    /// Some call fails, once.
    Error { call: u64, failure: Failure },
    /// Of some write only a half is taken.
    Short { write: u64 },
    /// There is room for so many bytes.
    Full { bytes: u64 },
}

impl Accident {
    /// Makes one up, and lets the disk know. It may never come.
    fn prepare(chance: &Chance, disk: &SimulatedDisk) -> Accident {
        let when = chance.pick(&[When::Before, When::After]);
        let call = 1 + chance.below(2_000);
        let accident = match chance.below(8) {
            0..=2 => Accident::Dies { call, when },
            3 => Accident::DiesAtSync { sync: 1 + call / 5, when },
            4 | 5 => Accident::Error { call, failure: chance.pick(&[Failure::Io, Failure::NoSpace]) },
            6 => Accident::Short { write: 1 + call / 6 },
            _ => Accident::Full { bytes: disk.used_bytes() + chance.below(60_000) },
        };
        match accident {
            Accident::Dies { call, when } => disk.stop_at_call(call, when),
            Accident::DiesAtSync { sync, when } => disk.stop_at_sync(sync, when),
            Accident::Error { call, failure } => disk.inject(Fault::at_any(failure).nth(call)),
            Accident::Short { write } => disk.inject(Fault::at(Call::Write, Failure::Short).nth(write)),
            Accident::Full { bytes } => disk.set_capacity(Some(bytes)),
        }
        accident
    }
}

/// Flips a bit of the newest manifest or pack, of which there is an older one; returns which.
fn flip(chance: &Chance, disk: &SimulatedDisk) -> Option<(String, u64)> {
    let folder = chance.pick(&["checkpoint/manifest", "checkpoint/state"]);
    let files = disk.files();
    let mut found = files.iter().filter(|(path, _)| path.parent().is_some_and(|dir| dir.ends_with(folder)));
    let (newest, bytes) = found.next_back()?;
    found.next()?;
    let name = newest.file_name()?.to_str()?;
    let bit = chance.below((*bytes * 8).max(1));
    disk.flip(newest, bit).ok()?;
    Some((format!("{folder}/{name}"), bit))
}
