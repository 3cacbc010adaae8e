//! Two processes on one log: the older one stopped, was replaced, and goes on.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::*;
use crate::clock::ManualClock;
use crate::fence::{Fenced, Incarnation};
use crate::storage::{AppendFile, Entry};

/// Starts a process: claims the folder, then reads the log.
fn start(storage: &(impl Storage + Clone)) -> (Vec<Record>, LogWriter) {
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

/// A folder that another process takes over just before the n-th call that the first one makes.
#[derive(Clone)]
struct Contested {
    inner: MemoryStorage,
    calls_left: Arc<AtomicUsize>,
    /// What the successor has read.
    found: Arc<Mutex<Option<Vec<Record>>>>,
}

impl Contested {
    fn call(&self) -> &MemoryStorage {
        if self.calls_left.fetch_sub(1, Ordering::SeqCst) == 0 {
            *self.found.lock() = Some(start(&self.inner).0);
        }
        &self.inner
    }
}

impl Storage for Contested {
    fn put_new(&self, path: &str, bytes: &[u8]) -> Result<(), StorageError> {
        self.call().put_new(path, bytes)
    }

    fn put(&self, path: &str, bytes: &[u8]) -> Result<(), StorageError> {
        self.call().put(path, bytes)
    }

    fn get(&self, path: &str) -> Result<Bytes, StorageError> {
        self.call().get(path)
    }

    fn list(&self, dir: &str) -> Result<Vec<Entry>, StorageError> {
        self.call().list(dir)
    }

    fn delete(&self, path: &str) -> Result<(), StorageError> {
        self.call().delete(path)
    }

    fn create(&self, path: &str) -> Result<Box<dyn AppendFile>, StorageError> {
        self.call().create(path)
    }

    fn open(&self, path: &str) -> Result<Box<dyn AppendFile>, StorageError> {
        Ok(Box::new(ContestedFile { file: self.call().open(path)?, storage: self.clone() }))
    }

    fn sync_dir(&self, dir: &str) -> Result<(), StorageError> {
        self.call().sync_dir(dir)
    }
}

struct ContestedFile {
    file: Box<dyn AppendFile>,
    storage: Contested,
}

impl AppendFile for ContestedFile {
    fn append(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.storage.call();
        self.file.append(bytes)
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        self.storage.call();
        self.file.sync()
    }

    fn truncate(&mut self, len: u64) -> Result<(), StorageError> {
        self.file.truncate(len)
    }

    fn size(&self) -> u64 {
        self.file.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, StorageError> {
        self.file.read_at(offset, buf)
    }
}

#[test]
fn whenever_a_successor_takes_over_it_has_read_what_was_acknowledged() {
    let (mut acknowledged_count, mut refused_count) = (0, 0);
    for seed in 0..10 {
        for calls_left in 0..60 {
            let found = Arc::new(Mutex::new(None));
            let never = Arc::new(AtomicUsize::new(usize::MAX));
            let storage = Contested { inner: MemoryStorage::default(), calls_left: never, found: Arc::clone(&found) };
            let mut feed = Feed::new(seed);
            let (_, mut writer) = start(&storage);
            let mut acknowledged = Vec::new();
            storage.calls_left.store(calls_left, Ordering::SeqCst);
            for _ in 0..12 {
                let group = feed.group();
                append_all(&mut writer, &group);
                if writer.sync().is_err() {
                    refused_count += 1;
                    break;
                }
                acknowledged.extend(group);
            }
            if let Some(found) = found.lock().take() {
                assert!(found.starts_with(&acknowledged), "seed {seed}, taken over at call {calls_left}");
            }
            acknowledged_count += acknowledged.len();
        }
    }
    assert!(acknowledged_count > 1_000 && refused_count > 200, "{acknowledged_count} and {refused_count}");
}
