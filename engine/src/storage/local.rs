//! A folder of the local disk, with the fsync rules of files and of directories.
//!
//! An object becomes durable in this order, and nothing else in the program makes a durable file:
//!
//! ```text
//!   write .tmp-<random> ─► fsync it ─► link (put_new) or rename (put) to its name ─► fsync the folder ─► Ok
//!   ───────────── a crash here leaves only a hidden orphan ─────────────┤├─ the object may be there: it is whole
//! ```
//!
//! A folder's own name lies in its parent, so the parents are fsynced as well, once for each process: after a crash a
//! folder may be visible and not yet durable. Orphans are removed by [`LocalStorage::lock`], whose holder is alone.
//!
//! What is assumed of the file system: fsync reaches the medium, rename and link are atomic, and there are hard links.
//! All calls to it go through a [`Disk`], so that tests can count them, stop at each of them and pull the plug.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::seeded_bugs::{SeededBug, is_planted};

use super::{
    AppendFile, Disk, DiskFile, Entry, FileKind, Storage, StorageError, SystemDisk, TEMPORARY_PREFIX, checked,
    checked_dir,
};

/// The file that [`LocalStorage::lock`] locks.
const LOCK_FILE: &str = "lock";

/// Levels of folders that the search for orphans goes down: more than any path of the program has.
const DEPTH_MAX: usize = 32;

/// A folder of the local disk.
#[derive(Debug)]
pub struct LocalStorage {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    /// Folders whose names are known to be durable. Grows with the folders used, not with the files.
    durable: Mutex<HashSet<PathBuf>>,
}

/// The exclusive use of a data folder; released when it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct FolderLock {
    _file: Box<dyn DiskFile>,
}

impl LocalStorage {
    /// Opens a folder to write to; makes it if it is not there. Finds out at once whether it can be written to.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StorageError> {
        LocalStorage::on(Arc::new(SystemDisk), root)
    }

    /// Does the same as [`LocalStorage::open`] on another disk than the machine's.
    pub fn on(disk: Arc<dyn Disk>, root: impl Into<PathBuf>) -> Result<Self, StorageError> {
        let root = root.into();
        make_root(&*disk, &root).map_err(io_error("create the folder", &root))?;
        let probe = root.join(temporary_name(&*disk));
        match disk.create_new(&probe).and_then(|_| disk.remove_file(&probe)) {
            // No room for one more name is no reason to keep what is there from those who ask.
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {}
            probed => probed.map_err(io_error("write into the folder", &root))?,
        }
        Ok(LocalStorage { disk, root, durable: Mutex::default() })
    }

    /// Opens a folder that must be there, to read from: makes and writes nothing by itself.
    pub fn existing(root: impl Into<PathBuf>) -> Result<Self, StorageError> {
        let (disk, root) = (Arc::new(SystemDisk), root.into());
        match disk.metadata(&root) {
            Ok(found) if found.kind == FileKind::Folder => Ok(LocalStorage { disk, root, durable: Mutex::default() }),
            Ok(_) => Err(io_error("open the folder", &root)(io::ErrorKind::NotADirectory.into())),
            Err(error) => Err(missing_or("open the folder", &root)(error)),
        }
    }

    /// Returns the folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Takes the folder for this process alone, and removes what a crash left half-written.
    ///
    /// Fails at once if another process holds it.
    pub fn lock(&self) -> Result<FolderLock, StorageError> {
        let path = self.root.join(LOCK_FILE);
        // Never truncated and never removed: the lock belongs to the file, so all processes must meet at the same one.
        let mut file = self.disk.open_or_create(&path).map_err(io_error("open", &path))?;
        file.try_lock().map_err(|error| {
            io_error("lock", &self.root)(match error.kind() {
                io::ErrorKind::WouldBlock => io::Error::new(
                    io::ErrorKind::WouldBlock,
                    "another process uses this folder; stop it first, or choose another folder",
                ),
                _ => error,
            })
        })?;
        remove_orphans(&*self.disk, &self.root, DEPTH_MAX).map_err(io_error("clean up", &self.root))?;
        Ok(FolderLock { _file: file })
    }

    /// Removes what a crash left half-written in the folder itself, for one who does not lock it. If somebody else writes there
    /// now, his attempt fails and leaves nothing.
    pub fn remove_orphans(&self) -> Result<(), StorageError> {
        remove_orphans(&*self.disk, &self.root, 0).map_err(io_error("clean up", &self.root))
    }

    /// Writes a temporary file beside `target`, lets `publish` give it its name, and makes that durable.
    fn put_with(
        &self,
        path: &str,
        bytes: &[u8],
        publish: impl FnOnce(&Path, &Path) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let target = self.root.join(checked(path)?);
        let dir = self.make_parent(&target)?;
        let temporary = dir.join(temporary_name(&*self.disk));
        let result = write_synced(&*self.disk, &temporary, bytes)
            .map_err(io_error("write", &target))
            .and_then(|()| publish(&temporary, &target));
        // After a rename it is gone already; after a link it is a second name; after an error it is an orphan, and
        // whether its removal works changes nothing.
        let _ = self.disk.remove_file(&temporary);
        result?;
        if is_planted(SeededBug::FolderNotSynced) {
            return Ok(());
        }
        self.disk.sync_dir(&dir).map_err(io_error("sync the folder of", &target))
    }

    /// Makes the folder of `target` and its parents, durably, and returns it.
    fn make_parent(&self, target: &Path) -> Result<PathBuf, StorageError> {
        let dir = target.parent().unwrap_or(&self.root).to_path_buf();
        self.settle(&dir, true)?;
        Ok(dir)
    }

    /// Makes the names of `dir` and of its parents below the root durable; makes them first if `create` says so.
    fn settle(&self, dir: &Path, create: bool) -> Result<(), StorageError> {
        // Held over the I/O, so that no second thread uses a folder whose name is not durable yet.
        let mut durable = self.durable.lock();
        if durable.contains(dir) {
            return Ok(());
        }
        let below = dir.strip_prefix(&self.root).expect("checked paths lie below the root");
        let mut at = self.root.clone();
        for part in below.components() {
            let parent = at.clone();
            at.push(part);
            if durable.contains(&at) {
                continue;
            }
            if create {
                match self.disk.create_dir(&at) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                        return Err(io_error("create the folder", &at)(error));
                    }
                    _ => {}
                }
            }
            self.disk.sync_dir(&parent).map_err(io_error("sync", &parent))?;
            durable.insert(at.clone());
        }
        Ok(())
    }
}

impl Storage for LocalStorage {
    fn put_new(&self, path: &str, bytes: &[u8]) -> Result<(), StorageError> {
        self.put_with(path, bytes, |temporary, target| {
            self.disk.hard_link(temporary, target).map_err(exists_or("link", target))
        })
    }

    fn put(&self, path: &str, bytes: &[u8]) -> Result<(), StorageError> {
        self.put_with(path, bytes, |temporary, target| {
            self.disk.rename(temporary, target).map_err(io_error("replace", target))
        })
    }

    fn get(&self, path: &str) -> Result<Bytes, StorageError> {
        let target = self.root.join(checked(path)?);
        self.disk.read(&target).map(Bytes::from).map_err(missing_or("read", &target))
    }

    fn list(&self, dir: &str) -> Result<Vec<Entry>, StorageError> {
        let dir = self.root.join(checked_dir(dir)?);
        let found = match self.disk.list(&dir) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io_error("list", &dir)(error)),
        };
        let mut entries = Vec::new();
        for entry in found {
            // Nothing of ours has a name that is not UTF-8.
            let Ok(name) = entry.name.into_string() else { continue };
            if name.starts_with(TEMPORARY_PREFIX) {
                continue;
            }
            let path = dir.join(&name);
            let metadata = match self.disk.metadata(&path) {
                Ok(metadata) => metadata,
                // Removed since the folder was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(io_error("list", &path)(error)),
            };
            let is_dir = metadata.kind == FileKind::Folder;
            entries.push(Entry { name, size: if is_dir { 0 } else { metadata.len }, is_dir });
        }
        entries.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(entries)
    }

    fn delete(&self, path: &str) -> Result<(), StorageError> {
        let target = self.root.join(checked(path)?);
        match self.disk.remove_file(&target) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("delete", &target)(error)),
            _ => Ok(()),
        }
    }

    fn create(&self, path: &str) -> Result<Box<dyn AppendFile>, StorageError> {
        let target = self.root.join(checked(path)?);
        let dir = self.make_parent(&target)?;
        let mut file = self.disk.create_new(&target).map_err(exists_or("create", &target))?;
        file.sync_all().map_err(io_error("sync", &target))?;
        self.disk.sync_dir(&dir).map_err(io_error("sync the folder of", &target))?;
        Ok(Box::new(LocalAppendFile { path: target, file, size: 0, failed: false, doubtful_name: None }))
    }

    fn open(&self, path: &str) -> Result<Box<dyn AppendFile>, StorageError> {
        let target = self.root.join(checked(path)?);
        let file = self.disk.open(&target).map_err(missing_or("open", &target))?;
        let size = file.size().map_err(io_error("open", &target))?;
        let doubtful_name = Some(self.disk.clone());
        Ok(Box::new(LocalAppendFile { path: target, file, size, failed: false, doubtful_name }))
    }

    fn sync_dir(&self, dir: &str) -> Result<(), StorageError> {
        let dir = self.root.join(checked_dir(dir)?);
        match self.disk.metadata(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            found => found.map_err(io_error("sync", &dir))?,
        };
        if is_planted(SeededBug::VisibleTakenForDurable) {
            return Ok(());
        }
        self.settle(&dir, false)?;
        self.disk.sync_dir(&dir).map_err(io_error("sync", &dir))
    }
}

struct LocalAppendFile {
    path: PathBuf,
    file: Box<dyn DiskFile>,
    size: u64,
    /// Set by the first failure: after a failed fsync the kernel may drop the pages and report the next one as good.
    failed: bool,
    /// The disk that must still sync the file's name: the process that made the file may have died before it did.
    doubtful_name: Option<Arc<dyn Disk>>,
}

impl LocalAppendFile {
    /// Runs a change; the first one that fails is the last one that is tried.
    fn change<T>(
        &mut self,
        action: &'static str,
        run: impl FnOnce(&mut dyn DiskFile) -> io::Result<T>,
    ) -> Result<T, StorageError> {
        let result = if self.failed && !is_planted(SeededBug::SyncTriedAgain) {
            Err(io::Error::other("an earlier write or sync of this file failed"))
        } else {
            run(&mut *self.file)
        };
        result.map_err(|error| {
            self.failed = true;
            io_error(action, &self.path)(error)
        })
    }

    /// Makes the name durable. That of the folder is: no file is made in a folder before.
    fn settle_name(&mut self) -> Result<(), StorageError> {
        let Some(disk) = &self.doubtful_name else { return Ok(()) };
        let dir = self.path.parent().expect("an object lies in a folder");
        if let Err(error) = disk.sync_dir(dir) {
            self.failed = true;
            return Err(io_error("sync the folder of", &self.path)(error));
        }
        self.doubtful_name = None;
        Ok(())
    }
}

impl AppendFile for LocalAppendFile {
    fn append(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.change("append to", |file| write_all(file, bytes))?;
        self.size += bytes.len() as u64;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        // fdatasync: the length counts as data, only the time stamps do not.
        self.change("sync", |file| file.sync_data())?;
        self.settle_name()
    }

    fn truncate(&mut self, len: u64) -> Result<(), StorageError> {
        if len > self.size {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "the file is shorter than that");
            return Err(io_error("truncate", &self.path)(error));
        }
        self.change("truncate", |file| file.set_len(len).and_then(|()| file.sync_all()))?;
        self.size = len;
        self.settle_name()
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, StorageError> {
        loop {
            match self.file.read_at(offset, buf) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map_err(io_error("read", &self.path)),
            }
        }
    }
}

fn temporary_name(disk: &dyn Disk) -> String {
    format!("{TEMPORARY_PREFIX}{:016x}", disk.random())
}

fn write_synced(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = disk.create_new(path)?;
    write_all(&mut *file, bytes)?;
    if is_planted(SeededBug::FileNotSynced) { Ok(()) } else { file.sync_all() }
}

/// Goes on after a short write and after an interruption.
fn write_all(file: &mut dyn DiskFile, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_folder(disk: &dyn Disk, path: &Path) -> bool {
    disk.metadata(path).is_ok_and(|found| found.kind == FileKind::Folder)
}

/// Makes the root and what is missing above it. A folder is made only in one whose own name is durable, so that of a
/// folder that is found only its own name is in doubt: it may stem from a process that died before the sync.
fn make_root(disk: &dyn Disk, root: &Path) -> io::Result<()> {
    let parent = match root.parent() {
        Some(_) if root == Path::new(".") => return Ok(()),
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Ok(()),
    };
    if is_folder(disk, root) {
        return match disk.sync_dir(parent) {
            // A parent that only others may read, or that knows no sync, is theirs to keep.
            Err(error) if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput) => {
                Ok(())
            }
            result => result,
        };
    }
    make_root(disk, parent)?;
    match disk.create_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_folder(disk, root) => {}
        result => result?,
    }
    disk.sync_dir(parent)
}

/// Removes temporary files in `dir` and below. Only for the holder of the lock: another process's are not orphans.
fn remove_orphans(disk: &dyn Disk, dir: &Path, depth_left: usize) -> io::Result<()> {
    for entry in disk.list(dir)? {
        let path = dir.join(&entry.name);
        if entry.kind == FileKind::Folder && depth_left > 0 {
            remove_orphans(disk, &path, depth_left - 1)?;
        } else if entry.kind == FileKind::File && entry.name.to_string_lossy().starts_with(TEMPORARY_PREFIX) {
            disk.remove_file(&path)?;
        }
    }
    Ok(())
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StorageError {
    let path = path.display().to_string();
    move |source| StorageError::Io { action, path, source }
}

fn exists_or(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StorageError {
    let path = path.display().to_string();
    move |source| match source.kind() {
        io::ErrorKind::AlreadyExists => StorageError::Exists { path },
        _ => StorageError::Io { action, path, source },
    }
}

fn missing_or(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StorageError {
    let path = path.display().to_string();
    move |source| match source.kind() {
        io::ErrorKind::NotFound => StorageError::Missing { path },
        _ => StorageError::Io { action, path, source },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::storage::simulated::{Call, Failure, Fault, SimulatedDisk};

    fn new_file(path: &Path) {
        SystemDisk.create_new(path).unwrap();
    }

    fn orphan_count(dir: &Path) -> usize {
        let is_orphan = |name: &str| name.starts_with(TEMPORARY_PREFIX);
        fs::read_dir(dir)
            .unwrap()
            .filter(|entry| is_orphan(entry.as_ref().unwrap().file_name().to_str().unwrap()))
            .count()
    }

    #[test]
    fn missing_folders_above_the_root_are_made() {
        let folder = tempfile::tempdir().unwrap();
        let storage = LocalStorage::open(folder.path().join("a/b/c")).unwrap();
        storage.put_new("x/y/object", b"1").unwrap();
        assert_eq!(fs::read(folder.path().join("a/b/c/x/y/object")).unwrap(), b"1");
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let in_the_way = folder.path().join("file");
        new_file(&in_the_way);
        for root in [in_the_way.clone(), in_the_way.join("data")] {
            let error = LocalStorage::open(&root).unwrap_err().to_string();
            assert!(error.starts_with("cannot create the folder") && error.contains("file"), "{error}");
        }
    }

    #[test]
    fn a_full_disk_is_no_folder_that_cannot_be_written() {
        let disk = SimulatedDisk::new(1);
        let open = || LocalStorage::on(Arc::new(disk.clone()), "/data");
        open().unwrap().put("object", b"1").unwrap();
        disk.inject(Fault::at(Call::Create, Failure::NoSpace).from_then_on());
        assert_eq!(&open().unwrap().get("object").unwrap()[..], b"1");
        disk.heal();
        disk.inject(Fault::at(Call::Create, Failure::Io).from_then_on());
        assert!(open().unwrap_err().to_string().starts_with("cannot write into the folder /data"));
    }

    #[test]
    fn existing_makes_no_folder() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("typo");
        assert!(matches!(LocalStorage::existing(&root), Err(StorageError::Missing { .. })));
        assert!(!root.exists());
        LocalStorage::open(&root).unwrap().put("object", b"1").unwrap();
        assert_eq!(&LocalStorage::existing(&root).unwrap().get("object").unwrap()[..], b"1");
    }

    #[test]
    fn nothing_temporary_stays_behind() {
        let folder = tempfile::tempdir().unwrap();
        let storage = LocalStorage::open(folder.path()).unwrap();
        storage.put_new("object", b"1").unwrap();
        storage.put_new("object", b"2").unwrap_err();
        storage.put("object", b"3").unwrap();
        assert_eq!(orphan_count(folder.path()), 0);
    }

    #[test]
    fn the_lock_admits_one_and_removes_orphans() {
        let folder = tempfile::tempdir().unwrap();
        let storage = LocalStorage::open(folder.path()).unwrap();
        storage.put("tables/t/object", b"1").unwrap();
        let deep = folder.path().join("tables/t");
        new_file(&deep.join(temporary_name(&SystemDisk)));
        assert_eq!(storage.list("tables/t").unwrap().len(), 1);

        let lock = storage.lock().unwrap();
        assert_eq!(orphan_count(&deep), 0);
        let second = LocalStorage::open(folder.path()).unwrap();
        let error = second.lock().unwrap_err();
        assert!(error.to_string().contains("cannot lock"), "{error}");
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("another process uses this folder"), "{source}");
        drop(lock);
        second.lock().unwrap();
    }
}
