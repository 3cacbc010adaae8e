//! Somebody who stands between storage and its callers: sees each call, and may refuse it, delay it, or hide its outcome.
//! Harnesses are made of it: what fails, who is next, what is looked at.
//!
//! ```text
//!   caller ─► InterposedDisk ─► around(call, path, run) ─► run() ─► the disk
//!                                      └ or an error, and the disk never hears of it
//! ```

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::simulated::Call;
use super::{AppendFile, Disk, DiskEntry, DiskFile, Entry, Metadata, Storage, StorageError};

/// Who stands before a disk.
pub trait DiskInterposer: Send + Sync + 'static {
    /// Makes a call by `run`, or does not. `path` is the new name of a link or a rename, and the name of an open file.
    fn around<T>(&self, call: Call, path: &Path, run: impl FnOnce() -> io::Result<T>) -> io::Result<T>;

    /// Makes a write by `write`, which is told how many of the bytes the disk is given: at most `byte_count`.
    fn around_write(
        &self,
        path: &Path,
        byte_count: usize,
        write: impl FnOnce(usize) -> io::Result<usize>,
    ) -> io::Result<usize> {
        self.around(Call::Write, path, || write(byte_count))
    }

    /// Returns whether the disk is never told of a sync, and its caller hears that it is done.
    fn swallows(&self, sync: Call) -> bool {
        let _ = sync;
        false
    }
}

/// A disk with somebody before it. Clones share both.
pub struct InterposedDisk<I> {
    disk: Arc<dyn Disk>,
    interposer: Arc<I>,
}

impl<I: DiskInterposer> InterposedDisk<I> {
    /// Puts somebody before a disk.
    pub fn new(disk: Arc<dyn Disk>, interposer: Arc<I>) -> Self {
        InterposedDisk { disk, interposer }
    }

    fn file(
        &self,
        call: Call,
        path: &Path,
        open: impl FnOnce() -> io::Result<Box<dyn DiskFile>>,
    ) -> io::Result<Box<dyn DiskFile>> {
        let file = self.interposer.around(call, path, open)?;
        Ok(Box::new(InterposedFile { interposer: Arc::clone(&self.interposer), path: path.to_owned(), file }))
    }
}

impl<I> Clone for InterposedDisk<I> {
    fn clone(&self) -> Self {
        InterposedDisk { disk: Arc::clone(&self.disk), interposer: Arc::clone(&self.interposer) }
    }
}

impl<I> fmt::Debug for InterposedDisk<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("InterposedDisk").field(&self.disk).finish()
    }
}

impl<I: DiskInterposer> Disk for InterposedDisk<I> {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.file(Call::Create, path, || self.disk.create_new(path))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.file(Call::Open, path, || self.disk.open(path))
    }

    fn open_or_create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.file(Call::Open, path, || self.disk.open_or_create(path))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.interposer.around(Call::Read, path, || self.disk.read(path))
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.interposer.around(Call::Link, to, || self.disk.hard_link(from, to))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.interposer.around(Call::Rename, to, || self.disk.rename(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.interposer.around(Call::Remove, path, || self.disk.remove_file(path))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.interposer.around(Call::CreateFolder, path, || self.disk.create_dir(path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DiskEntry>> {
        self.interposer.around(Call::List, dir, || self.disk.list(dir))
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.interposer.around(Call::Metadata, path, || self.disk.metadata(path))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let is_swallowed = self.interposer.swallows(Call::SyncFolder);
        self.interposer.around(Call::SyncFolder, dir, || if is_swallowed { Ok(()) } else { self.disk.sync_dir(dir) })
    }

    fn random(&self) -> u64 {
        self.disk.random()
    }
}

struct InterposedFile<I> {
    interposer: Arc<I>,
    path: PathBuf,
    file: Box<dyn DiskFile>,
}

impl<I> fmt::Debug for InterposedFile<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}

impl<I: DiskInterposer> InterposedFile<I> {
    fn sync(&mut self, sync: impl FnOnce(&mut dyn DiskFile) -> io::Result<()>) -> io::Result<()> {
        let is_swallowed = self.interposer.swallows(Call::SyncFile);
        let run = || if is_swallowed { Ok(()) } else { sync(&mut *self.file) };
        self.interposer.around(Call::SyncFile, &self.path, run)
    }
}

impl<I: DiskInterposer> DiskFile for InterposedFile<I> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.interposer.around_write(&self.path, bytes.len(), |given| self.file.write(&bytes[..given]))
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.interposer.around(Call::Read, &self.path, || self.file.read_at(offset, buf))
    }

    fn sync_all(&mut self) -> io::Result<()> {
        self.sync(|file| file.sync_all())
    }

    fn sync_data(&mut self) -> io::Result<()> {
        self.sync(|file| file.sync_data())
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.interposer.around(Call::SetLen, &self.path, || self.file.set_len(len))
    }

    fn size(&self) -> io::Result<u64> {
        self.interposer.around(Call::Metadata, &self.path, || self.file.size())
    }

    fn try_lock(&mut self) -> io::Result<()> {
        self.interposer.around(Call::Lock, &self.path, || self.file.try_lock())
    }
}

/// A call of [`Storage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageCall {
    /// `put_new`.
    PutNew,
    /// `put`.
    Put,
    /// `get`.
    Get,
    /// `list`.
    List,
    /// `delete`.
    Delete,
    /// `create`.
    Create,
    /// `open`.
    Open,
    /// `sync_dir`.
    SyncFolder,
}

/// Who stands before storage. What becomes of a file that is open is not seen.
pub trait StorageInterposer: Send + Sync + 'static {
    /// Makes a call by `run`, or does not.
    fn around<T>(
        &self,
        call: StorageCall,
        path: &str,
        run: impl FnOnce() -> Result<T, StorageError>,
    ) -> Result<T, StorageError>;
}

/// Storage with somebody before it.
pub struct InterposedStorage<I> {
    storage: Arc<dyn Storage>,
    interposer: Arc<I>,
}

impl<I: StorageInterposer> InterposedStorage<I> {
    /// Puts somebody before storage.
    pub fn new(storage: Arc<dyn Storage>, interposer: Arc<I>) -> Self {
        InterposedStorage { storage, interposer }
    }

    /// Returns who stands there.
    pub fn interposer(&self) -> &I {
        &self.interposer
    }
}

impl<I: StorageInterposer> Storage for InterposedStorage<I> {
    fn put_new(&self, path: &str, bytes: &[u8]) -> Result<(), StorageError> {
        self.interposer.around(StorageCall::PutNew, path, || self.storage.put_new(path, bytes))
    }

    fn put(&self, path: &str, bytes: &[u8]) -> Result<(), StorageError> {
        self.interposer.around(StorageCall::Put, path, || self.storage.put(path, bytes))
    }

    fn get(&self, path: &str) -> Result<Bytes, StorageError> {
        self.interposer.around(StorageCall::Get, path, || self.storage.get(path))
    }

    fn list(&self, dir: &str) -> Result<Vec<Entry>, StorageError> {
        self.interposer.around(StorageCall::List, dir, || self.storage.list(dir))
    }

    fn delete(&self, path: &str) -> Result<(), StorageError> {
        self.interposer.around(StorageCall::Delete, path, || self.storage.delete(path))
    }

    fn create(&self, path: &str) -> Result<Box<dyn AppendFile>, StorageError> {
        self.interposer.around(StorageCall::Create, path, || self.storage.create(path))
    }

    fn open(&self, path: &str) -> Result<Box<dyn AppendFile>, StorageError> {
        self.interposer.around(StorageCall::Open, path, || self.storage.open(path))
    }

    fn sync_dir(&self, dir: &str) -> Result<(), StorageError> {
        self.interposer.around(StorageCall::SyncFolder, dir, || self.storage.sync_dir(dir))
    }
}
