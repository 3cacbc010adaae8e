//! The disk under [`LocalStorage`](super::LocalStorage): the system calls that it makes, as a trait, and nothing more.
//!
//! The trait is no second storage. It promises only what the calls of the operating system promise, so that the order
//! of writes, syncs, links and renames that makes an object durable can be tested on a disk that loses what was not
//! synced ([`SimulatedDisk`](super::SimulatedDisk)), as it is and not as a copy of it.

use std::ffi::OsString;
use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::clock::{Dice, SystemDice};

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// Anything else: a symbolic link, a socket.
    Other,
}

/// A name in a folder, as [`Disk::list`] returns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskEntry {
    /// The name within the folder.
    pub name: OsString,
    /// What it stands for; a symbolic link is not followed.
    pub kind: FileKind,
}

/// What [`Disk::metadata`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// What the path leads to; symbolic links are followed.
    pub kind: FileKind,
    /// The length in bytes; means nothing for a folder.
    pub len: u64,
}

/// The calls on names. Errors are those of the operating system.
pub trait Disk: Debug + Send + Sync + 'static {
    /// Makes an empty file to read from and append to; fails if the name is taken.
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file that is there to read from and append to; only to read from where nobody may write.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file, which is made if it is not there and never emptied if it is.
    fn open_or_create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Reads a whole file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Gives a file a second name; fails if that name is taken.
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file another name in the same folder; replaces the file that had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes the name of a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Makes one folder; fails if the name is taken.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Returns what is in a folder, in any order.
    fn list(&self, dir: &Path) -> io::Result<Vec<DiskEntry>>;
    /// Returns what a path leads to.
    fn metadata(&self, path: &Path) -> io::Result<Metadata>;
    /// Makes the names in a folder durable, added and removed ones.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Returns random bits, as the names of temporary files need them.
    fn random(&self) -> u64;
}

/// The calls on an open file. It is closed, and its lock is released, when it is dropped.
pub trait DiskFile: Debug + Send + Sync {
    /// Appends bytes; returns how many, which may be fewer than given.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// Reads bytes at `offset`; returns how many, 0 at the end.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
    /// Makes content, length and attributes durable (`fsync`).
    fn sync_all(&mut self) -> io::Result<()>;
    /// Makes content and length durable (`fdatasync`).
    fn sync_data(&mut self) -> io::Result<()>;
    /// Cuts or extends the file to `len` bytes.
    fn set_len(&mut self, len: u64) -> io::Result<()>;
    /// Returns the length in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Locks the file for this holder alone; fails with [`io::ErrorKind::WouldBlock`] if another one holds it.
    fn try_lock(&mut self) -> io::Result<()>;
}

/// The disk of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemDisk;

impl Disk for SystemDisk {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        boxed(OpenOptions::new().create_new(true).read(true).append(true).open(path))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        match OpenOptions::new().read(true).append(true).open(path) {
            Err(error) if is_for_readers(&error) => boxed(File::open(path)),
            opened => boxed(opened),
        }
    }

    fn open_or_create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        boxed(OpenOptions::new().create(true).read(true).append(true).open(path))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one place that may rename")]
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DiskEntry>> {
        let entry = |entry: fs::DirEntry| Ok(DiskEntry { name: entry.file_name(), kind: kind_of(entry.file_type()?) });
        fs::read_dir(dir)?.map(|found| found.and_then(entry)).collect()
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        let found = fs::metadata(path)?;
        Ok(Metadata { kind: kind_of(found.file_type()), len: found.len() })
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn random(&self) -> u64 {
        SystemDice.roll()
    }
}

fn is_for_readers(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}

impl DiskFile for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::Write::write(self, bytes)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        FileExt::read_at(self, buf, offset)
    }

    fn sync_all(&mut self) -> io::Result<()> {
        File::sync_all(self)
    }

    fn sync_data(&mut self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn try_lock(&mut self) -> io::Result<()> {
        File::try_lock(self).map_err(io::Error::from)
    }
}

fn boxed(opened: io::Result<File>) -> io::Result<Box<dyn DiskFile>> {
    opened.map(|file| Box::new(file) as Box<dyn DiskFile>)
}

fn kind_of(file_type: fs::FileType) -> FileKind {
    if file_type.is_dir() {
        FileKind::Folder
    } else if file_type.is_file() {
        FileKind::File
    } else {
        FileKind::Other
    }
}
