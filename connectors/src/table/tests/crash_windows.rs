//! The crash windows of the protocol that lie inside a table, by their numbers.
//!
//! ```text
//!   prepare: write, sync, rename, sync folder │ decide │ commit: write, sync, link, sync folder │ acknowledge
//!            2                          3     │ 4 5    │ 10      11          12      13         │ 14
//! ```

use super::faulty::{Fault, faulty_storage};
use super::*;

/// How far the process comes with epoch 2, which two writers prepare a file each for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dies {
    /// Its writers fail, or one of them has not begun: nothing is decided.
    Preparing,
    /// The files are there, and nothing is decided.
    Prepared,
    /// The decision holds the files, and nothing is committed.
    Decided,
    /// While it commits, or at once afterwards.
    Committing,
}

/// Faults of the two files, then of the version; and what readers see before anybody recovers.
type Window = (&'static str, Dies, &'static [Option<Fault>], &'static [i128]);

const BEFORE: Option<Fault> = Some(Fault::Before);
const AFTER: Option<Fault> = Some(Fault::After);
const SYNC: Option<Fault> = Some(Fault::Sync);
const LOST: Option<Fault> = Some(Fault::Lost);

const WINDOWS: [Window; 16] = [
    ("2: torn first file", Dies::Preparing, &[BEFORE], &[1]),
    ("2: torn second file", Dies::Preparing, &[None, BEFORE], &[1]),
    ("3: file renamed, folder not synced, gone", Dies::Preparing, &[None, LOST], &[1]),
    ("3: file renamed, folder not synced, still there", Dies::Preparing, &[None, SYNC], &[1]),
    ("3: file written, answer lost", Dies::Preparing, &[AFTER], &[1]),
    ("4: one writer prepared, one died", Dies::Preparing, &[None, AFTER], &[1]),
    ("5: all prepared, nothing decided", Dies::Prepared, &[], &[1]),
    ("10: decided, no commit", Dies::Decided, &[], &[1]),
    (
        "11: commit written, not linked",
        Dies::Committing,
        &[None, None, BEFORE, BEFORE, BEFORE, BEFORE, BEFORE, BEFORE],
        &[1],
    ),
    ("12: commit linked, folder not synced, gone", Dies::Committing, &[None, None, LOST], &[1]),
    ("12: commit linked, folder not synced, still there", Dies::Committing, &[None, None, SYNC], &[1, 2, 20]),
    ("13: commit durable, answer lost", Dies::Committing, &[None, None, AFTER], &[1, 2, 20]),
    ("13: commit not there, answer lost, tried again", Dies::Committing, &[None, None, BEFORE, AFTER], &[1, 2, 20]),
    ("14: commit durable, nobody told", Dies::Committing, &[], &[1, 2, 20]),
    ("26: disk full at the first file", Dies::Preparing, &[BEFORE, BEFORE], &[1]),
    ("26: disk full at the commit", Dies::Committing, &[None, None, LOST], &[1]),
];

/// Epoch 2 in a process that dies; returns what was decided.
fn die(job: &mut Process, dies: Dies) -> Option<Vec<Committable>> {
    let mut second = job.sink.writer(1);
    let mut prepared = Vec::new();
    prepared.extend(job.prepare(2, &[(2, row(2))]).ok()?);
    prepared.extend(second.prepare(Epoch(2), &[(Epoch(2), row(20))]).ok()?);
    assert_ne!(dies, Dies::Preparing, "a fault was to come");
    if dies == Dies::Prepared {
        return None;
    }
    if dies == Dies::Committing {
        let _ = job.commit(2, &prepared); // It dies: nobody hears of the outcome.
    }
    Some(prepared)
}

#[test]
fn a_crash_in_any_window_of_a_commit_loses_nothing_and_doubles_nothing() {
    for (name, dies, faults, seen) in WINDOWS {
        let faulty = faulty_storage(&MemoryStorage::default());
        let storage: Arc<dyn Storage> = faulty.clone();
        let mut job = open(&storage, plain()).unwrap();
        job.commit_epoch(1, row(1));
        faulty.interposer().fail_writes(faults);
        let decided = die(&mut job, dies);
        drop(job);
        faulty.interposer().fail_writes(&[]);
        assert_eq!(sequence_numbers(&storage), seen, "{name}");

        let mut successor = open(&storage, plain()).unwrap();
        if let Some(decided) = &decided {
            successor.commit(2, decided).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        if successor.last_committed() < 2 {
            // Not decided: the log is replayed.
            let committables = successor.prepare(2, &[(2, row(2)), (2, row(20))]).unwrap();
            successor.commit(2, &committables).unwrap();
        }
        assert_eq!(sequence_numbers(&storage), [1, 2, 20], "{name}");
        successor.sink.clean().unwrap();
        let live: Vec<String> = snapshot(&storage).files.iter().map(|file| file.path.clone()).collect();
        let mut on_disk = files_on_disk(&storage);
        on_disk.retain(|path| !live.contains(path));
        assert_eq!(on_disk, [""; 0], "{name}: no garbage is left");
        successor.commit_epoch(3, row(3));
        assert_eq!(sequence_numbers(&storage), [1, 2, 3, 20], "{name}");
    }
}

#[test]
fn window_15_a_delayed_write_of_a_dead_process_lands_late() {
    let storage = memory();
    let mut job = open(&storage, plain()).unwrap();
    let decided = job.write_epoch(1, row(1));
    // Its commit is under way when the successor looks.
    let mut successor = open(&storage, plain()).unwrap();
    job.commit(1, &decided).unwrap();
    successor.commit(1, &decided).unwrap();
    assert_eq!((successor.last_committed(), snapshot(&storage).version), (1, 1), "the same files and the same epoch");
    // And the other way around: the version is taken when it arrives.
    let mut job = open(&storage, plain()).unwrap();
    let decided = job.write_epoch(2, row(2));
    let mut successor = open(&storage, plain()).unwrap();
    successor.commit(2, &decided).unwrap();
    job.commit(2, &decided).unwrap();
    assert_eq!((sequence_numbers(&storage), snapshot(&storage).version), (vec![1, 2], 2));
}

#[test]
fn window_16_a_process_that_was_written_off_goes_on() {
    let storage = memory();
    let mut zombie = open(&storage, plain()).unwrap();
    let mut successor = open(&storage, plain()).unwrap();
    // Both have the same log, and cut it the same way: whoever is first has committed it.
    let theirs = zombie.write_epoch(1, row(1));
    let ours = successor.write_epoch(1, row(1));
    zombie.commit(1, &theirs).unwrap();
    successor.commit(1, &ours).unwrap();
    assert_eq!(sequence_numbers(&storage), [1]);
    // Another cut: the one that comes later is refused, and commits nothing any more.
    let theirs = zombie.prepare(3, &[(2, row(2)), (3, row(3))]).unwrap();
    successor.commit_epoch(2, row(2));
    assert!(refusal(zombie.commit(3, &theirs)).contains("stop one of the two"));
    successor.commit_epoch(3, row(3));
    assert_eq!(sequence_numbers(&storage), [1, 2, 3]);
}

#[test]
fn window_17_files_of_a_process_that_was_written_off_are_never_named() {
    let storage = memory();
    let mut zombie = open(&storage, plain()).unwrap();
    let mut successor = open(&storage, plain()).unwrap();
    zombie.write_epoch(1, row(1));
    let ours = successor.write_epoch(1, row(1));
    zombie.write_epoch(2, row(2));
    successor.commit(1, &ours).unwrap();
    assert_eq!(sequence_numbers(&storage), [1]);
    assert_eq!(successor.sink.clean().unwrap().files, 1, "that for epoch 2 goes with epoch 2");
    successor.commit_epoch(2, row(2));
    assert_eq!(successor.sink.clean().unwrap().files, 1);
    assert_eq!(files_on_disk(&storage).len(), 2);
}

#[test]
fn window_18_one_table_is_committed_and_the_other_is_not() {
    let storage = memory();
    let other = || TableSpec { name: "readings$dead".to_owned(), ..plain() };
    let open_other = || {
        let clock = Arc::new(ManualClock::at(NOVEMBER_20_US));
        TableSink::create_or_open(Arc::clone(&storage), "tables/readings$dead", other(), clock, dice())
            .map(Process::new)
            .unwrap()
    };
    let (mut first, mut second) = (open(&storage, plain()).unwrap(), open_other());
    let decided = (first.write_epoch(1, row(1)), second.write_epoch(1, row(2)));
    first.commit(1, &decided.0).unwrap();
    drop((first, second));
    let (mut first, mut second) = (open(&storage, plain()).unwrap(), open_other());
    assert_eq!((first.last_committed(), second.last_committed()), (1, 0), "each says for itself how far it is");
    first.commit(1, &decided.0).unwrap();
    second.commit(1, &decided.1).unwrap();
    let rows = |dir: &str| {
        Snapshot::load(&*storage, dir).unwrap().unwrap().files.iter().filter_map(|file| file.rows).sum::<u64>()
    };
    assert_eq!((rows(DIR), rows("tables/readings$dead")), (1, 1));
}

#[test]
fn window_20_another_engine_compacts_while_a_commit_is_under_way() {
    let storage = memory();
    let mut job = open(&storage, plain()).unwrap();
    job.commit_epoch(1, row(1));
    let decided = job.write_epoch(2, row(2));
    // It copies the file under another name: the rows stay, the version is taken.
    let file = snapshot(&storage).files[0].clone();
    let bytes = storage.get(&format!("{DIR}/{}", file.path)).unwrap();
    storage.put_new(&format!("{DIR}/part-0.parquet"), &bytes).unwrap();
    let compaction = format!(
        "{{\"remove\":{{\"path\":\"{}\",\"dataChange\":false,\"deletionTimestamp\":1}}}}\n{{\"add\":{{\"path\":\"part-0.parquet\",\
         \"partitionValues\":{{}},\"size\":{},\"modificationTime\":1,\"dataChange\":false,\"tags\":{{\"tidemill.crc32c\":\"{:08x}\"}}}}}}",
        file.path,
        bytes.len(),
        crc32c::crc32c(&bytes)
    );
    storage.put_new(&version_path(2), compaction.as_bytes()).unwrap();
    job.commit(2, &decided).unwrap();
    assert_eq!((snapshot(&storage).version, sequence_numbers(&storage)), (3, vec![1, 2]));
}

#[test]
fn window_25_a_prepared_file_was_deleted_by_somebody() {
    let storage = memory();
    let decided = open(&storage, plain()).unwrap().write_epoch(1, row(1));
    let path = format!("{DIR}/{}", files_on_disk(&storage)[0]);
    storage.delete(&path).unwrap();
    let error = refusal(open(&storage, plain()).unwrap().commit(1, &decided));
    assert!(error.contains(&path) && error.contains("is gone: restore it; nothing was committed"), "{error}");
    assert_eq!(snapshot(&storage).version, 0);
}

#[test]
fn window_26_a_full_disk_leaves_nothing_half_written_and_the_same_process_goes_on() {
    let faulty = faulty_storage(&MemoryStorage::default());
    let storage: Arc<dyn Storage> = faulty.clone();
    let mut job = open(&storage, plain()).unwrap();
    faulty.interposer().fail_writes(&[BEFORE]);
    assert!(job.prepare(1, &[(1, row(1))]).is_err());
    let prepared = job.write_epoch(1, row(1));
    faulty.interposer().fail_writes(&[BEFORE; 6]);
    assert!(job.commit(1, &prepared).is_err());
    assert_eq!(snapshot(&storage).files.len(), 0);
    job.commit(1, &prepared).unwrap();
    assert_eq!((sequence_numbers(&storage), snapshot(&storage).version), (vec![1], 1));
}

#[test]
fn every_seeded_bug_of_a_table_is_caught() {
    tidemill_engine::seeded_bugs::assert_all_are_caught(tidemill_engine::seeded_bugs::Harness::Connectors);
}
