//! Cleaning: garbage goes within a bound, and nothing goes that somebody needs.

use tidemill_engine::clock::Clock;
use tidemill_engine::sink::Cleaned;

use super::faulty::faulty_storage;
use super::*;
use crate::table::{Checksums, checkpoint, describe};

/// Where files of another engine lie.
fn foreign(name: &str) -> String {
    format!("{DIR}/date=2026-11-20/{name}")
}

/// A table with one of everything: `keep` and `go` are what must stay and what must go a day later.
struct Garden {
    storage: Arc<dyn Storage>,
    keep: Vec<String>,
    go: Vec<String>,
}

fn garden(storage: Arc<dyn Storage>) -> Garden {
    let mut first = open(&storage, plain()).unwrap();
    first.commit_epoch(1, row(1));
    let removed = files_on_disk(&storage);
    first.write_epoch(3, row(3));
    drop(first);
    // The view was changed: the first file is taken out. What was prepared for epoch 3 is of the old content.
    let mut sink = look(&storage, TableSpec { fingerprint: "f2".to_owned(), ..plain() }).unwrap();
    sink.begin(Epoch::NONE).unwrap();
    let mut second = Process::new(sink);
    second.commit_epoch(3, row(3));
    second.write_epoch(9, row(9));
    let go: Vec<String> =
        files_on_disk(&storage).into_iter().filter(|path| path.starts_with("e000000000003")).collect();
    let live: Vec<String> = snapshot(&storage).files.iter().map(|file| file.path.clone()).collect();
    let go: Vec<String> = go.into_iter().filter(|path| !live.contains(path)).chain(removed).collect();
    storage.put(&foreign("part-1.parquet"), b"whose?").unwrap();
    let keep: Vec<String> = files_on_disk(&storage).into_iter().filter(|path| !go.contains(path)).collect();
    assert_eq!((keep.len(), go.len()), (3, 2), "live, for epoch 9, foreign; abandoned, removed");
    Garden { storage, keep, go }
}

fn changed() -> TableSpec {
    TableSpec { fingerprint: "f2".to_owned(), ..plain() }
}

#[test]
fn what_nobody_needs_goes_and_everything_else_stays() {
    let Garden { storage, keep, go } = garden(memory());
    let mut job = open(&storage, changed()).unwrap();
    let own = job.write_epoch(4, row(4));
    let cleaned = job.sink.clean().unwrap();
    assert_eq!(cleaned.files, 1, "what was abandoned, at once");
    assert_eq!(job.sink.clean().unwrap(), Cleaned::default());
    assert!(files_on_disk(&storage).contains(&go[1]), "questions to version 1 may still read it");
    let old = Snapshot::load_at(&*storage, DIR, 1).unwrap().unwrap();
    read_file(&storage, &old.files[0]);
    drop(job);

    let mut job = open_at(&storage, changed(), NOVEMBER_20_US + DAY_US).unwrap();
    assert_eq!(job.sink.clean().unwrap().files, 1, "what was taken out, a day later");
    let left = files_on_disk(&storage);
    assert!(keep.iter().all(|path| left.contains(path)) && go.iter().all(|path| !left.contains(path)), "{left:?}");
    // What was prepared before the restart may be committed: it was for an epoch to come.
    job.commit(4, &own).unwrap();
    assert_eq!(sequence_numbers(&storage), [3, 4]);
}

#[test]
fn a_process_that_was_written_off_cannot_clean_away_what_its_successor_prepared() {
    let storage = memory();
    let mut zombie = open(&storage, plain()).unwrap();
    zombie.commit_epoch(1, row(1));
    let mut successor = open(&storage, plain()).unwrap();
    let prepared = successor.write_epoch(2, row(2));
    assert_eq!(zombie.sink.clean().unwrap(), Cleaned::default());
    successor.commit(2, &prepared).unwrap();
    assert_eq!(zombie.sink.clean().unwrap(), Cleaned::default());
    assert_eq!(sequence_numbers(&storage), [1, 2]);
}

#[test]
fn what_a_process_left_behind_goes_when_the_table_has_passed_its_epoch() {
    let storage = memory();
    for attempt in 0..5 {
        // Each dies between the two phases.
        open(&storage, plain()).unwrap().write_epoch(1, row(attempt));
    }
    let mut job = open(&storage, plain()).unwrap();
    assert_eq!(job.sink.clean().unwrap(), Cleaned::default(), "one of them may be decided");
    job.commit_epoch(1, row(7));
    assert_eq!(job.sink.clean().unwrap().files, 5);
    assert_eq!((files_on_disk(&storage).len(), sequence_numbers(&storage)), (1, vec![7]));
}

/// Writes a version every three hours, and a checkpoint every five versions; after each it is cleaned.
fn long_log(storage: &Arc<dyn Storage>, versions: u64) -> Process {
    let clock = Arc::new(ManualClock::at(NOVEMBER_20_US));
    let sink = TableSink::create_or_open(Arc::clone(storage), DIR, plain(), clock.clone(), dice()).unwrap();
    let mut job = Process::new(sink);
    for version in 1..=versions {
        clock.advance(std::time::Duration::from_secs(3 * 60 * 60));
        job.commit_epoch(version, row(version));
        if version % 5 == 0 {
            checkpoint::write(&**storage, DIR, version, clock.now_us() / 1_000).unwrap();
            job.sink.clean().unwrap();
        }
    }
    job
}

#[test]
fn the_log_does_not_grow_for_ever_and_each_version_that_is_left_can_be_read() {
    // Eight versions are a day. At 20, the checkpoint of 10 is a day old, and that of 15 is one of the two newest.
    for (versions, first, checkpoints) in [(4, 0, 0), (14, 0, 2), (15, 5, 3), (23, 10, 3), (63, 50, 3)] {
        let storage = memory();
        drop(long_log(&storage, versions));
        let log = describe(&*storage, DIR, Checksums::Verify).unwrap().unwrap().log;
        let found = (log.first_version, log.versions as u64, log.checkpoints.len());
        assert_eq!(found, (Some(first), versions + 1 - first, checkpoints), "{versions}");
        for version in 0..=versions + 1 {
            let found = Snapshot::load_at(&*storage, DIR, version).unwrap();
            let found = found.map(|found| (found.version, found.files.len() as u64));
            assert_eq!(found, (first..=versions).contains(&version).then_some((version, version)));
        }
    }
}

#[test]
fn a_reader_that_slept_until_its_next_version_was_cleaned_away_begins_anew() {
    let storage = memory();
    open(&storage, plain()).unwrap();
    let mut sleeper = snapshot(&storage);
    let mut job = long_log(&storage, 23);
    assert!(sleeper.refresh(&*storage, DIR).unwrap());
    assert_eq!((sleeper.version, sleeper.files.len()), (23, 23));
    assert!(!sleeper.refresh(&*storage, DIR).unwrap());
    job.commit_epoch(24, row(24));
    assert!(sleeper.refresh(&*storage, DIR).unwrap());
    assert_eq!(sleeper.files.len(), 24);
}

#[test]
fn a_damaged_checkpoint_is_passed_over_when_the_first_versions_are_gone() {
    let storage = memory();
    drop(long_log(&storage, 23));
    let expected = snapshot(&storage);
    for name in [format!("{:020}.checkpoint.parquet", 20), "_last_checkpoint".to_owned()] {
        let path = format!("{DIR}/_delta_log/{name}");
        let bytes = storage.get(&path).unwrap();
        let mut flipped = bytes.to_vec();
        flipped[bytes.len() / 2] ^= 1;
        storage.put(&path, &flipped).unwrap();
        let found = snapshot(&storage);
        assert_eq!((found.version, &found.files), (expected.version, &expected.files), "{name}");
        assert_eq!(open(&storage, plain()).unwrap().last_committed(), 23);
        storage.put(&path, &bytes).unwrap();
    }
}

#[test]
fn a_crash_between_two_deletions_leaves_a_table_that_everybody_can_read() {
    let late_us = NOVEMBER_20_US + 40 * DAY_US;
    let mut ends = Vec::new();
    for deletes in 0.. {
        let faulty = faulty_storage(&MemoryStorage::default());
        let storage: Arc<dyn Storage> = faulty.clone();
        let Garden { keep, .. } = garden(Arc::clone(&storage));
        let mut job = open(&storage, changed()).unwrap();
        for epoch in 4..=13 {
            job.commit_epoch(epoch, row(epoch));
            if epoch % 3 == 0 {
                checkpoint::write(&*storage, DIR, job.sink.version().unwrap(), NOVEMBER_20_US / 1_000).unwrap();
            }
        }
        drop(job);
        let expected = sequence_numbers(&storage);
        let checkpoints = describe(&*storage, DIR, Checksums::Skip).unwrap().unwrap().log.checkpoints;
        let kept = checkpoints[checkpoints.len() - 2].version;
        faulty.interposer().fail_deletes_after(deletes);
        let ended = open_at(&storage, changed(), late_us).unwrap().sink.clean();
        // It died here. What is left is read, by this program and version by version.
        assert_eq!(sequence_numbers(&storage), expected, "after {deletes}");
        for version in kept..=snapshot(&storage).version {
            let found = Snapshot::load_at(&*storage, DIR, version).unwrap().expect("kept");
            assert_eq!(found.version, version, "after {deletes}");
        }
        faulty.interposer().fail_deletes_after(usize::MAX);
        let mut job = open_at(&storage, changed(), late_us).unwrap();
        job.sink.clean().unwrap();
        job.commit_epoch(14, row(14));
        let left = files_on_disk(&storage);
        let of_epoch_9 = |path: &&String| path.starts_with("e000000000009");
        assert!(keep.iter().filter(|path| !of_epoch_9(path)).all(|path| left.contains(path)));
        let log = describe(&*storage, DIR, Checksums::Verify).unwrap().unwrap().log;
        ends.push((left.len(), log.first_version, log.checkpoints.len()));
        if ended.is_ok() {
            assert!(deletes > 10, "{deletes}: files, versions and checkpoints go");
            assert_eq!(log.first_version, Some(kept));
            break;
        }
    }
    assert!(ends.iter().all(|end| *end == ends[0]), "all crashes end alike: {ends:?}");
}
