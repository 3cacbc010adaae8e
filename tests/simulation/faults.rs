//! An error at any call of the disk: what follows is no acknowledgement that does not hold, an honest word about the disk,
//! and a clean restart.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use tidemill::engine::storage::SimulatedDisk;
use tidemill::engine::storage::simulated::{Call, Failure, Fault};

use super::judge::verdict;
use super::life::{End, Settings, live};
use super::report::{Failures, chosen};
use super::scenario::Script;
use super::world::World;

/// How many faults are tried, if the environment does not say `TIDEMILL_FAULTS`: they lie evenly over all there are, and so
/// over a life, its start and its end. `./check soak` tries all.
const FAULTS: u64 = 400;

/// Threads that try.
const THREADS: usize = 2;

/// What strikes, at the n-th call or write of a life.
#[derive(Clone, Copy, Debug)]
enum Strike {
    /// A call fails.
    Io,
    /// A call fails: there is no room.
    NoSpace,
    /// A write takes half, and the next one the rest: no error at all.
    ShortWrite,
    /// A write takes half, and then the disk is full.
    TornWrite,
}

impl Strike {
    /// Every fault that a life of so many calls and writes can meet.
    fn all(calls: u64, writes: u64) -> Vec<(Strike, u64)> {
        let at_calls = (1..=calls).flat_map(|nth| [(Strike::Io, nth), (Strike::NoSpace, nth)]);
        let at_writes = (1..=writes).flat_map(|nth| [(Strike::ShortWrite, nth), (Strike::TornWrite, nth)]);
        at_calls.chain(at_writes).collect()
    }

    fn prepare(self, nth: u64, disk: &SimulatedDisk) {
        match self {
            Strike::Io => disk.inject(Fault::at_any(Failure::Io).nth(nth)),
            Strike::NoSpace => disk.inject(Fault::at_any(Failure::NoSpace).nth(nth)),
            Strike::ShortWrite => disk.inject(Fault::at(Call::Write, Failure::Short).nth(nth)),
            Strike::TornWrite => {
                disk.inject(Fault::at(Call::Write, Failure::Short).nth(nth));
                disk.inject(Fault::at(Call::Write, Failure::NoSpace).nth(nth + 1).from_then_on());
            }
        }
    }
}

#[test]
fn an_error_at_any_call_costs_no_acknowledged_row() {
    let seed = chosen("TIDEMILL_SEED").unwrap_or(5);
    let script = Script::new(seed, 14);
    let disk = SimulatedDisk::new(seed);
    let life = live(&disk, &World::new(), &script, &Settings::small(seed, 2), None);
    life.end.stopped().expect("nothing happens to it");
    let all = Strike::all(disk.calls(), disk.writes());
    let (found, wanted) = (all.len() as u64, chosen("TIDEMILL_FAULTS").unwrap_or(FAULTS));
    let chosen_faults: Vec<u64> = match chosen("TIDEMILL_FAULT") {
        Some(fault) => vec![fault],
        None if wanted >= found => (0..found).collect(),
        None => (0..wanted).map(|nth| nth * found / wanted + seed % (found / wanted)).collect(),
    };
    let failures = Failures::new("simulation::faults");
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(fault) = chosen_faults.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (strike, nth) = all[*fault as usize];
                    let told = format!("{strike:?} at {nth}");
                    let variables = [("TIDEMILL_SEED", seed), ("TIDEMILL_FAULT", *fault)];
                    failures.check(seed, &told, &variables, || strike_at(strike, nth, seed, &script));
                }
            });
        }
    });
    failures.none();
    println!("{}", json!({ "seed": seed, "faults": chosen_faults.len(), "of": found, "verdict": "right" }));
}

fn strike_at(strike: Strike, nth: u64, seed: u64, script: &Script) -> Result<usize, String> {
    let (disk, world, settings) = (SimulatedDisk::new(seed), World::new(), Settings::small(seed, 2));
    strike.prepare(nth, &disk);
    let struck = live(&disk, &world, script, &settings, None);
    honest(&struck.end)?;
    match strike {
        Strike::ShortWrite => struck.end.stopped().map_err(|end| format!("a short write is no error: {end}"))?,
        Strike::TornWrite if matches!(struck.end, End::Stopped) => {
            return Err("the disk was full to the end, and nobody says so".to_owned());
        }
        Strike::Io | Strike::NoSpace | Strike::TornWrite => {}
    }
    // The harshest end: what was written and not synced is lost, and so is what a failed sync was to keep.
    let disk = disk.crash(nth);
    let again = live(&disk, &world, script, &Settings::small(nth, 1 + (nth % 3) as usize), None);
    again.end.stopped().map_err(|end| format!("after {:?} and a power loss: {end}", struck.end))?;
    Ok(verdict(&disk, &world.past(), script)?.rows)
}

/// Says whether a life that met an error of the disk says so.
pub(super) fn honest(end: &End) -> Result<(), String> {
    match end {
        End::Stopped => Ok(()),
        End::NotStarted(error) | End::Failed(error) if error.is_disk_failure() => Ok(()),
        end => end.stopped().map_err(|end| format!("the disk failed, and the job says {end}")),
    }
}
