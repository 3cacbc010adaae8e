//! Two processes on one log: the older one stopped, was replaced, and goes on.

use super::*;
use crate::clock::ManualClock;
use crate::fence::{Fenced, Incarnation};

/// Starts a process: claims the folder, then reads the log.
fn start(storage: &MemoryStorage) -> (Vec<Record>, LogWriter) {
    let shared: Arc<dyn Storage> = Arc::new(storage.clone());
    let incarnation = Incarnation::claim(&shared, &ManualClock::at(0)).unwrap();
    let (records, writer) = recover(storage, options(600)).unwrap();
    (records, writer.fenced_by(incarnation))
}

fn write(writer: &mut LogWriter, feed: &mut Feed, written: &mut Vec<Record>, group_count: usize) {
    for _ in 0..group_count {
        let group = feed.group();
        append_all(writer, &group);
        writer.sync().unwrap();
        written.extend(group);
    }
}

#[test]
fn a_process_that_was_replaced_acknowledges_nothing_and_harms_nothing() {
    for seed in 0..100 {
        let storage = MemoryStorage::default();
        let mut feed = Feed::new(seed);
        let mut written = Vec::new();
        for _ in 0..seed % 3 {
            let (_, mut writer) = start(&storage);
            write(&mut writer, &mut feed, &mut written, 4);
        }
        // With no group the older one stands in a segment that the newer one finds whole, and could go on with.
        let (_, mut older) = start(&storage);
        write(&mut older, &mut feed, &mut written, seed as usize % 4);
        // Appended, and stopped before the sync.
        let mut stale = Feed::new(seed + 500);
        stale.rewind(&written);
        let unacknowledged = stale.group();

        let (records, mut newer) = start(&storage);
        assert_eq!(records, written, "seed {seed}: what was acknowledged is read");
        let writes_before = feed.random.random();
        if writes_before {
            write(&mut newer, &mut feed, &mut written, 1);
        }
        append_all(&mut older, &unacknowledged);
        let error = older.sync().unwrap_err();
        // When both go for the same segment, the newer one has it already, or will find it.
        let is_beaten = matches!(error, LogError::Storage(StorageError::Exists { .. }));
        assert!(is_beaten || matches!(error, LogError::Fenced(Fenced::TakenOver { .. })), "seed {seed}: {error}");
        assert!(matches!(older.sync(), Err(LogError::Poisoned(_))));

        if writes_before {
            write(&mut newer, &mut feed, &mut written, 5);
            assert_eq!(recover(&storage, options(600)).unwrap().0, written, "seed {seed}");
        } else {
            let group = feed.group();
            append_all(&mut newer, &group);
            match newer.sync() {
                Ok(()) => written.extend(group),
                Err(LogError::Storage(StorageError::Exists { .. })) => {}
                Err(error) => panic!("seed {seed}: {error}"),
            }
            let records = start(&storage).0;
            assert!(records.starts_with(&written), "seed {seed}: what was acknowledged is still there");
        }
    }
}

#[test]
fn the_error_of_a_fenced_log_says_who_and_what_it_means() {
    let storage = MemoryStorage::default();
    let (_, mut older) = start(&storage);
    older.append(&seal(1, false));
    older.sync().unwrap();
    start(&storage);
    older.append(&seal(2, false));
    let error = older.sync().unwrap_err().to_string();
    assert!(error.contains("another process") && error.contains("acknowledges nothing more"), "{error}");
}
