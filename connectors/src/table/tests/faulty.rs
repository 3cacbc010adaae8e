//! Storage whose calls fail as told.

use bytes::Bytes;
use parking_lot::Mutex;
use tidemill_engine::storage::{AppendFile, Entry, StorageError};

use super::*;

/// What a call of [`Storage::put_new`] does instead of working.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Fails, nothing is there.
    Before,
    /// Fails, and it is there all the same.
    After,
    /// A sync fails, and it is there.
    Sync,
    /// A sync fails, and a power loss takes it away.
    Lost,
}

/// See the module.
pub(super) struct FaultyStorage {
    inner: MemoryStorage,
    /// One for each `put_new` to come.
    writes: Mutex<VecDeque<Option<Fault>>>,
    /// So many calls of `delete` work, then the process is as good as dead.
    deletes_left: Mutex<usize>,
}

impl FaultyStorage {
    pub(super) fn of(inner: &MemoryStorage) -> Arc<FaultyStorage> {
        let (writes, deletes_left) = (Mutex::default(), Mutex::new(usize::MAX));
        Arc::new(FaultyStorage { inner: inner.clone(), writes, deletes_left })
    }

    /// Lets the next writes fail so.
    pub(super) fn fail_writes(&self, faults: &[Option<Fault>]) {
        *self.writes.lock() = faults.iter().copied().collect();
    }

    /// Lets all deletions fail after some.
    pub(super) fn fail_deletes_after(&self, count: usize) {
        *self.deletes_left.lock() = count;
    }
}

fn io_error(action: &'static str, path: &str) -> StorageError {
    StorageError::Io { action, path: path.to_owned(), source: std::io::Error::other("injected") }
}

impl Storage for FaultyStorage {
    fn put_new(&self, path: &str, bytes: &[u8]) -> Result<(), StorageError> {
        let fault = self.writes.lock().pop_front().flatten();
        match fault {
            None => self.inner.put_new(path, bytes),
            Some(Fault::Before) => Err(io_error("write", path)),
            Some(Fault::After) => self.inner.put_new(path, bytes).and(Err(io_error("write", path))),
            Some(Fault::Sync) => self.inner.put_new(path, bytes).and(Err(io_error("sync the folder of", path))),
            Some(Fault::Lost) => Err(io_error("sync the folder of", path)),
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
        let mut left = self.deletes_left.lock();
        *left = left.checked_sub(1).ok_or_else(|| io_error("delete", path))?;
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
