//! Storage whose calls fail as told.

use parking_lot::Mutex;
use tidemill_engine::storage::{InterposedStorage, StorageCall, StorageError, StorageInterposer};

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

/// Storage whose calls fail as told.
pub(super) type FaultyStorage = InterposedStorage<Faults>;

/// Makes storage of which no call fails yet.
pub(super) fn faulty_storage(inner: &MemoryStorage) -> Arc<FaultyStorage> {
    Arc::new(InterposedStorage::new(Arc::new(inner.clone()), Arc::default()))
}

/// See the module.
#[derive(Default)]
pub(super) struct Faults {
    /// One for each `put_new` to come.
    writes: Mutex<VecDeque<Option<Fault>>>,
    /// If there is one: so many calls of `delete` work, then the process is as good as dead.
    deletes_left: Mutex<Option<usize>>,
}

impl Faults {
    /// Lets the next writes fail so.
    pub(super) fn fail_writes(&self, faults: &[Option<Fault>]) {
        *self.writes.lock() = faults.iter().copied().collect();
    }

    /// Lets all deletions fail after some.
    pub(super) fn fail_deletes_after(&self, count: usize) {
        *self.deletes_left.lock() = Some(count);
    }
}

fn io_error(action: &'static str, path: &str) -> StorageError {
    StorageError::Io { action, path: path.to_owned(), source: std::io::Error::other("injected") }
}

impl StorageInterposer for Faults {
    fn around<T>(
        &self,
        call: StorageCall,
        path: &str,
        run: impl FnOnce() -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        match call {
            StorageCall::PutNew => match self.writes.lock().pop_front().flatten() {
                None => run(),
                Some(Fault::Before) => Err(io_error("write", path)),
                Some(Fault::After) => run().and(Err(io_error("write", path))),
                Some(Fault::Sync) => run().and(Err(io_error("sync the folder of", path))),
                Some(Fault::Lost) => Err(io_error("sync the folder of", path)),
            },
            StorageCall::Delete => {
                if let Some(left) = self.deletes_left.lock().as_mut() {
                    *left = left.checked_sub(1).ok_or_else(|| io_error("delete", path))?;
                }
                run()
            }
            _ => run(),
        }
    }
}
