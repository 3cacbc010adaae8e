//! A disk whose callers take turns, and that tells a test what happens on it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::turns;
use crate::storage::{Disk, DiskEntry, DiskFile, Metadata};

/// Something on the disk that a test wants to see, and may make an image of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment<'a> {
    /// A file or a folder is about to be synced.
    BeforeSync(&'a Path),
    /// It was synced, whatever came of it.
    AfterSync(&'a Path),
    /// A file is about to be removed.
    BeforeRemove(&'a Path),
}

/// What looks at each [`Moment`], on the thread that makes the call.
pub type Watch = Arc<dyn Fn(Moment<'_>) + Send + Sync>;

/// Calls another disk. Before some calls the turn is passed, so that the calls of several threads mix.
///
/// Never while a folder is made or listed: [`LocalStorage`](crate::storage::LocalStorage) holds a lock then, and a thread
/// that waits for a lock keeps its turn.
#[derive(Clone)]
pub struct TurnDisk {
    disk: Arc<dyn Disk>,
    watch: Option<Watch>,
}

impl TurnDisk {
    /// Wraps a disk; `watch` sees what happens on it.
    pub fn new(disk: Arc<dyn Disk>, watch: Option<Watch>) -> TurnDisk {
        TurnDisk { disk, watch }
    }

    fn see(&self, moment: Moment<'_>) {
        if let Some(watch) = &self.watch {
            watch(moment);
        }
    }

    fn synced<T>(&self, path: &Path, sync: impl FnOnce() -> T) -> T {
        self.see(Moment::BeforeSync(path));
        let synced = sync();
        self.see(Moment::AfterSync(path));
        synced
    }

    fn file(&self, path: &Path, opened: io::Result<Box<dyn DiskFile>>) -> io::Result<Box<dyn DiskFile>> {
        opened.map(|file| Box::new(TurnFile { disk: self.clone(), path: path.to_owned(), file }) as Box<dyn DiskFile>)
    }
}

impl fmt::Debug for TurnDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.disk.fmt(f)
    }
}

impl Disk for TurnDisk {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        turns::pass_sometimes();
        self.file(path, self.disk.create_new(path))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        turns::pass_sometimes();
        self.file(path, self.disk.open(path))
    }

    fn open_or_create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        turns::pass_sometimes();
        self.file(path, self.disk.open_or_create(path))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        turns::pass_sometimes();
        self.disk.read(path)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        turns::pass_sometimes();
        self.disk.hard_link(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        turns::pass_sometimes();
        self.disk.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        turns::pass_sometimes();
        self.see(Moment::BeforeRemove(path));
        self.disk.remove_file(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DiskEntry>> {
        self.disk.list(dir)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.disk.metadata(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.synced(dir, || self.disk.sync_dir(dir))
    }

    fn random(&self) -> u64 {
        self.disk.random()
    }
}

#[derive(Debug)]
struct TurnFile {
    disk: TurnDisk,
    path: PathBuf,
    file: Box<dyn DiskFile>,
}

impl DiskFile for TurnFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        turns::pass_sometimes();
        self.file.write(bytes)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, buf)
    }

    fn sync_all(&mut self) -> io::Result<()> {
        turns::pass_sometimes();
        self.disk.synced(&self.path, || self.file.sync_all())
    }

    fn sync_data(&mut self) -> io::Result<()> {
        turns::pass_sometimes();
        self.disk.synced(&self.path, || self.file.sync_data())
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn try_lock(&mut self) -> io::Result<()> {
        self.file.try_lock()
    }
}
