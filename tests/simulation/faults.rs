//! An error at any call of the disk: what follows is no acknowledgement that does not hold, an honest word about the disk,
//! and a clean restart.

use std::sync::atomic::{AtomicU64, Ordering};

use tidemill::engine::storage::SimulatedDisk;
use tidemill::engine::storage::simulated::{Call, Failure, Fault};

use super::judge::verdict;
use super::life::{End, Settings, live};
use super::report::{Failures, chosen};
use super::scenario::Script;
use super::world::World;

/// How many calls are tried: they lie evenly over a life, its start and its end.
const CALLS: u64 = 90;

/// Threads that try.
const THREADS: usize = 2;

/// An error that strikes once, at the n-th call of a life.
#[derive(Clone, Copy, Debug)]
enum Strike {
    Io,
    NoSpace,
    ShortWrite,
}

#[test]
fn an_error_at_any_call_costs_no_acknowledged_row() {
    let seed = chosen("TIDEMILL_SEED").unwrap_or(5);
    let script = Script::new(seed, 14);
    let disk = SimulatedDisk::new(seed);
    let life = live(&disk, &World::new(), &script, &Settings::small(seed, 2), None);
    life.end.stopped().expect("nothing happens to it");
    let call_count = disk.calls();
    let failures = Failures::new("simulation::faults");
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let nth = next.fetch_add(1, Ordering::Relaxed);
                    if nth >= CALLS {
                        return;
                    }
                    // Not always at the same place of what repeats itself.
                    let call = 1 + (nth * call_count + nth % 7 * 13) / CALLS % call_count;
                    let strike = [Strike::Io, Strike::NoSpace, Strike::ShortWrite][(nth % 3) as usize];
                    if chosen("TIDEMILL_CALL").is_none_or(|chosen| chosen == call) {
                        let fault = format!("{strike:?} at call {call}");
                        let variables = [("TIDEMILL_SEED", seed), ("TIDEMILL_CALL", call)];
                        failures.check(seed, &fault, &variables, || strike_at(strike, call, seed, &script));
                    }
                }
            });
        }
    });
    failures.none();
}

fn strike_at(strike: Strike, call: u64, seed: u64, script: &Script) -> Result<usize, String> {
    let (disk, world, settings) = (SimulatedDisk::new(seed), World::new(), Settings::small(seed, 2));
    disk.inject(match strike {
        Strike::Io => Fault::at_any(Failure::Io).nth(call),
        Strike::NoSpace => Fault::at_any(Failure::NoSpace).nth(call),
        // Some of the calls are writes.
        Strike::ShortWrite => Fault::at(Call::Write, Failure::Short).nth(call / 6 + 1),
    });
    let struck = live(&disk, &world, script, &settings, None);
    honest(&struck.end)?;
    if matches!((strike, &struck.end), (Strike::ShortWrite, End::NotStarted(_) | End::Failed(_))) {
        return Err(format!("a short write is no error: {:?}", struck.end));
    }
    // The harshest end: what was written and not synced is lost, and so is what a failed sync was to keep.
    let disk = disk.crash(call);
    let again = live(&disk, &world, script, &Settings::small(call, 1 + (call % 3) as usize), None);
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
