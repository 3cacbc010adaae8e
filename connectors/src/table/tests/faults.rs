//! Storage that fails: no fault loses a row or doubles one.

use bytes::Bytes;
use parking_lot::Mutex;
use tidemill_engine::storage::{AppendFile, Entry, StorageError};

use super::*;

/// What a call of [`Storage::put_new`] does instead of working.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Fails, nothing is there.
    Before,
    /// Fails, and it is there all the same.
    After,
    /// A sync fails; whether it is there, nobody knows.
    Sync,
}

/// Storage whose calls fail as told.
struct FaultyStorage {
    inner: MemoryStorage,
    /// Taken from the end, one for each `put_new`.
    faults: Mutex<Vec<Option<Fault>>>,
}

fn io_error(action: &'static str, path: &str) -> StorageError {
    StorageError::Io { action, path: path.to_owned(), source: std::io::Error::other("injected") }
}

impl Storage for FaultyStorage {
    fn put_new(&self, path: &str, bytes: &[u8]) -> Result<(), StorageError> {
        match self.faults.lock().pop().flatten() {
            None => self.inner.put_new(path, bytes),
            Some(Fault::Before) => Err(io_error("write", path)),
            Some(Fault::After) => self.inner.put_new(path, bytes).and(Err(io_error("write", path))),
            Some(Fault::Sync) => self.inner.put_new(path, bytes).and(Err(io_error("sync the folder of", path))),
        }
    }
    fn put(&self, path: &str, bytes: &[u8]) -> Result<(), StorageError> {
        self.inner.put(path, bytes)
    }
    fn get(&self, path: &str) -> Result<Bytes, StorageError> {
        self.inner.get(path)
    }
    fn list(&self, dir: &str) -> Result<Vec<Entry>, StorageError> {
        self.inner.list(dir)
    }
    fn delete(&self, path: &str) -> Result<(), StorageError> {
        self.inner.delete(path)
    }
    fn create(&self, path: &str) -> Result<Box<dyn AppendFile>, StorageError> {
        self.inner.create(path)
    }
    fn open(&self, path: &str) -> Result<Box<dyn AppendFile>, StorageError> {
        self.inner.open(path)
    }
    fn sync_dir(&self, dir: &str) -> Result<(), StorageError> {
        self.inner.sync_dir(dir)
    }
}

/// Runs three epochs to the end through any sequence of faults, opening the table anew after each error.
fn run_through(faults: &[Option<Fault>]) -> (usize, Arc<dyn Storage>) {
    let inner = MemoryStorage::default();
    let mut faults: Vec<Option<Fault>> = faults.to_vec();
    faults.reverse();
    let storage: Arc<dyn Storage> = Arc::new(FaultyStorage { inner: inner.clone(), faults: Mutex::new(faults) });
    let attempt = || -> Result<(), SinkError> {
        let mut job = open(&storage, plain())?;
        for epoch in 1..=3 {
            let committables = job.prepare(epoch, &[(epoch, row(epoch))])?;
            job.commit(epoch, &committables)?;
        }
        Ok(())
    };
    let mut restarts = 0;
    while let Err(error) = attempt() {
        assert!(matches!(error, SinkError::Storage { .. }), "{error}");
        restarts += 1;
        assert!(restarts < 20, "{error}");
    }
    (restarts, Arc::new(inner))
}

#[test]
fn a_fault_at_any_write_neither_loses_nor_doubles_a_row() {
    // 0: creation; then a file and a version for each epoch.
    for at in 0..7 {
        for fault in [Fault::Before, Fault::After, Fault::Sync] {
            for repeated in 1..=3 {
                let mut faults = vec![None; at];
                faults.extend(vec![Some(fault); repeated]);
                let (_, storage) = run_through(&faults);
                assert_eq!(sequence_numbers(&storage), [1, 2, 3], "{fault:?} x {repeated} at write {at}");
            }
        }
    }
}

#[test]
fn a_version_that_never_lands_is_an_error_after_a_few_tries() {
    let mut faults = vec![None, None];
    faults.extend(vec![Some(Fault::Before); 6]);
    let (restarts, storage) = run_through(&faults);
    assert_eq!(restarts, 1, "five retries inside, then an error");
    assert_eq!(sequence_numbers(&storage), [1, 2, 3]);
}

#[test]
fn the_same_sink_goes_on_after_an_error_that_left_the_outcome_open() {
    let inner = MemoryStorage::default();
    let faults = Mutex::new(vec![Some(Fault::Sync), None, None]);
    let storage: Arc<dyn Storage> = Arc::new(FaultyStorage { inner, faults });
    let mut job = open(&storage, plain()).unwrap();
    let committables = job.write_epoch(1, row(1));
    assert!(job.commit(1, &committables).is_err());
    assert_eq!(job.last_committed(), 0, "not known yet");
    job.commit(1, &committables).unwrap();
    assert_eq!((job.last_committed(), job.sink.version()), (1, Some(1)));
    job.commit_epoch(2, row(2));
    assert_eq!(sequence_numbers(&storage), [1, 2]);
}

#[test]
fn a_file_that_could_not_be_written_is_tried_again_under_another_name() {
    let inner = MemoryStorage::default();
    let faults = Mutex::new(vec![Some(Fault::After), None]);
    let storage: Arc<dyn Storage> = Arc::new(FaultyStorage { inner, faults });
    let mut job = open(&storage, plain()).unwrap();
    assert!(job.prepare(1, &[(1, row(1))]).is_err());
    let committables = job.write_epoch(1, row(1));
    job.commit(1, &committables).unwrap();
    assert_eq!(sequence_numbers(&storage), [1]);
    assert!(snapshot(&storage).files[0].path.ends_with("-w00000-0001.parquet"));
}
