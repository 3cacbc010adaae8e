//! The crash windows of the protocol, by their numbers: what was done, what is on storage, what recovery does.
//!
//! Each row with a step is run against the real modules: a process stops at its n-th call of the disk, for every n of the
//! window, once killed and once by a power loss; another one recovers, and the judge looks. The calls of a step are found
//! by a run without an accident, so that no window is missed when a step changes its calls. Rows without a step say why.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tidemill_engine::storage::{LocalStorage, SimulatedDisk, Storage};

use super::in_parallel;
use super::job;
use super::judge::Judge;
use super::machine::{Accident, Machine, Plan, Work, data_folder};
use super::table;

/// What a process is doing at a call, as its path and its neighbours tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    /// The log is written, and nothing else.
    Record,
    /// A data file, or a pack, is being made.
    Prepare,
    /// The manifest is being made.
    Decide,
    /// A version of a table is being made.
    Commit,
    /// A version of a table is being made that takes files out.
    Rewind,
}

/// Where a number of the list is tried.
enum Tried {
    /// At every call of this step.
    At(Step),
    /// By another test.
    By(&'static str),
    /// Not at all, and why.
    NotOurs(&'static str),
}

/// Number, what the crash comes after, what is on storage then, what recovery does.
type Window = (u32, &'static str, &'static str, &'static str, Tried);

const RACES: &str = "whatever_crashes_and_whoever_goes_on_tables_have_whole_epochs_once";

const WINDOWS: [Window; 26] = [
    (1, "rows wait, no file has them", "the log", "replays them", Tried::At(Step::Record)),
    (2, "a part of a file", "a torn temporary file", "makes files of other names", Tried::At(Step::Prepare)),
    (3, "file named, folder not synced", "it may vanish", "needs it not: nobody named it", Tried::At(Step::Prepare)),
    (4, "one writer prepared, one did not", "whole files", "makes others", Tried::At(Step::Prepare)),
    (5, "all prepared", "whole files", "makes others", Tried::At(Step::Decide)),
    (6, "temporary manifest", "a stray file", "makes others", Tried::At(Step::Decide)),
    (7, "manifest named, killed", "visible, perhaps not durable", "syncs, then believes it", Tried::At(Step::Decide)),
    (8, "manifest named, power lost", "perhaps gone", "nobody acted on it", Tried::At(Step::Decide)),
    (
        9,
        "manifest sent, answer lost",
        "decided or not",
        "-",
        Tried::NotOurs("a local disk answers; the process ends at any error, which is 7"),
    ),
    (10, "manifest durable", "decided, not in the table", "rolls forward", Tried::At(Step::Commit)),
    (11, "temporary version", "a stray file", "rolls forward", Tried::At(Step::Commit)),
    (12, "version named, folder not synced", "it may vanish", "rolls forward", Tried::At(Step::Commit)),
    (13, "version durable, answer lost", "in the table", "reads it, and is done", Tried::By(RACES)),
    (14, "version durable, nobody told", "in the table", "finds it, and does nothing", Tried::At(Step::Commit)),
    (15, "a write of a dead process lands late", "the same rows", "finds them", Tried::By(RACES)),
    (16, "a process goes on that was replaced", "one of the two wins", "adopts what is there", Tried::By(RACES)),
    (17, "its writers go on", "files of its incarnation", "never names them", Tried::By(RACES)),
    (18, "one table committed, one not", "one is an epoch ahead", "rolls the other forward", Tried::At(Step::Commit)),
    (19, "a compacted file, not committed", "-", "-", Tried::NotOurs("there is no compaction yet")),
    (
        20,
        "compaction and append race",
        "-",
        "-",
        Tried::By("table::tests::crash_windows::window_20_another_engine_compacts_while_a_commit_is_under_way"),
    ),
    (21, "two compactions race", "-", "-", Tried::NotOurs("there is no compaction yet")),
    (22, "going back is decided", "tables still have what was abandoned", "takes it out", Tried::At(Step::Rewind)),
    (23, "went back, nothing new yet", "tables end at the checkpoint", "goes on from there", Tried::At(Step::Rewind)),
    (
        24,
        "the newest manifest is lost",
        "tables are ahead",
        "drops what they have",
        Tried::By("a_lost_manifest_leaves_tables_ahead_and_nothing_is_doubled"),
    ),
    (
        25,
        "a prepared file is deleted",
        "a decision without its file",
        "refuses, and names it",
        Tried::By("table::tests::commit::a_successor_names_the_file_of_one_writer_that_is_gone_or_damaged"),
    ),
    (
        26,
        "the disk is full",
        "a failed write",
        "nothing is decided",
        Tried::By("table::tests::crash_windows::a_crash_in_any_window_of_a_commit_loses_nothing_and_doubles_nothing"),
    ),
];

/// Seeds of the lives that are cut off.
const SEEDS: std::ops::Range<u64> = 1..4;

fn work(log: Arc<Mutex<Vec<(u64, Step)>>>) -> Work {
    Arc::new(move |process, restores| {
        let log = Arc::clone(&log);
        process.watch(move |call, path| log.lock().push((call, step_of(path))));
        let local = LocalStorage::on(process.disk(), "data").map_err(table::words)?;
        let storage: Arc<dyn Storage> = Arc::new(local);
        job::run(process, storage, None, restores)
    })
}

fn step_of(path: &str) -> Step {
    let has = |part: &str| path.contains(part);
    match () {
        () if has("_delta_log") => Step::Commit,
        () if has("tables/") || has("checkpoint/state") => Step::Prepare,
        () if has("checkpoint/manifest") => Step::Decide,
        () => Step::Record,
    }
}

/// The disk and the judge after a life, and the calls that changed something.
type Cut = (SimulatedDisk, Judge, Vec<(u64, Step)>);

/// A life on what was there, perhaps cut off at a call; then one to recover. Returns the calls of the first.
fn life(
    disk: &SimulatedDisk,
    judge: Judge,
    seed: u64,
    restores: bool,
    cut: Option<(u64, bool)>,
) -> Result<Cut, String> {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let accidents = cut.map(|(at, _)| vec![(at, Accident::Stop)]).unwrap_or_default();
    let plan = Plan { accidents, restores, is_last: false };
    let mut judge = Machine::run(disk, seed, plan, judge, work(Arc::clone(&calls)))?;
    judge.next_life();
    let next = match cut {
        Some((at, true)) => disk.crash(at ^ seed),
        _ => disk.kill(),
    };
    let calls = calls.lock().clone();
    Ok((next, judge, calls))
}

fn recovered(disk: &SimulatedDisk, judge: Judge, seed: u64) -> Result<(), String> {
    let plan = Plan { is_last: true, ..Plan::default() };
    let mut judge = Machine::run(disk, seed, plan, judge, work(Arc::default()))?;
    judge.look_at_the_end(&(Arc::new(data_folder(disk)) as Arc<dyn Storage>))
}

#[test]
fn a_crash_at_any_call_of_any_window_is_recovered_from() {
    let numbers: Vec<u32> = WINDOWS.iter().map(|window| window.0).collect();
    assert_eq!(numbers, (1..=26).collect::<Vec<_>>());
    let (mut cuts, mut went_back) = (Vec::new(), 0);
    let mut tried = BTreeMap::<Step, u64>::new();
    for seed in SEEDS {
        // A life that makes something to go back to, and the one that is cut off: the same one each time.
        let (disk, judge, _) = life(&SimulatedDisk::new(seed), Judge::default(), seed, false, None).unwrap();
        for restores in [false, true] {
            let (_, seen, calls) = life(&disk.kill(), judge.clone(), seed + 100, restores, None).unwrap();
            went_back += seen.restores;
            for (call, step) in calls {
                let step = if restores && step == Step::Commit { Step::Rewind } else { step };
                *tried.entry(step).or_default() += 2;
                for power_lost in [false, true] {
                    cuts.push((seed, restores, call, step, power_lost, disk.kill(), judge.clone()));
                }
            }
        }
    }
    assert!(went_back > 0, "nobody went back");
    let failure = in_parallel(0..cuts.len() as u64, |at| {
        let (seed, restores, call, step, power_lost, disk, judge) = &cuts[at as usize];
        let found = life(disk, judge.clone(), seed + 100, *restores, Some((*call, *power_lost)))
            .and_then(|(disk, judge, _)| recovered(&disk, judge, seed + 200))
            .err()?;
        let windows: Vec<u32> = WINDOWS
            .iter()
            .filter(|window| matches!(window.4, Tried::At(at) if at == *step))
            .map(|window| window.0)
            .collect();
        Some(format!("seed {seed}, call {call}, power lost {power_lost}, windows {windows:?}: {found}"))
    });
    assert_eq!(failure, None);
    for (number, done, on_storage, recovery, how) in &WINDOWS {
        let how = match how {
            Tried::At(step) => {
                assert!(tried.get(step).is_some_and(|count| *count > 10), "window {number} was not tried");
                format!("{} crashes", tried[step])
            }
            Tried::By(test) => format!("by {test}"),
            Tried::NotOurs(why) => format!("not ours: {why}"),
        };
        println!("{number:>2} | {done} | {on_storage} | {recovery} | {how}");
    }
}

#[test]
fn a_lost_manifest_leaves_tables_ahead_and_nothing_is_doubled() {
    for seed in 1..40 {
        let (disk, judge, _) = life(&SimulatedDisk::new(seed), Judge::default(), seed, false, None).unwrap();
        let storage = data_folder(&disk);
        let folder = tidemill_engine::checkpoint::MANIFEST_FOLDER;
        let Some(newest) = storage.list(folder).unwrap().pop() else { continue };
        storage.delete(&format!("{folder}/{}", newest.name)).unwrap();
        recovered(&disk, judge, seed + 200).unwrap_or_else(|found| panic!("seed {seed}: {found}"));
    }
}
