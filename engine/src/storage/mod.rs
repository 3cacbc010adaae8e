//! Storage: where durable bytes live. Blocking calls, made only from threads that may wait.
//!
//! Paths are relative to the storage's root, with `/` between parts, and never leave it: a part that is empty, `.`
//! or `..` is refused. Parent folders are made as needed, durably.
//!
//! What every implementation promises:
//! 1. After [`Storage::put_new`] or [`Storage::put`] returns `Ok`, the object with exactly these bytes survives power loss.
//! 2. An object appears whole or not at all, to every reader and after every crash.
//! 3. [`Storage::put_new`] fails with [`StorageError::Exists`] if the object is there; of two racing calls one wins.
//! 4. After [`AppendFile::sync`] returns `Ok`, all bytes appended before it survive power loss. After an `Err` the file
//!    must not be trusted again: drop it, and recover from what is on disk.
//! 5. After an `Err` other than [`StorageError::Exists`] a put may have happened or not: look before it is tried again.
//! 6. [`Storage::delete`] promises nothing about power loss: what was deleted may come back, until its folder is synced.
//!
//! ```text
//!   Storage ◄── MemoryStorage                                       promises 2 and 3; nothing outlives the process
//!      ▲
//!      └─────── LocalStorage ──► Disk ◄── SystemDisk                files of the machine
//!               the crash protocol   ▲
//!                                    └─── SimulatedDisk             stops, loses, tears and refuses, by a seed
//! ```

mod disk;
mod interposed;
mod local;
mod memory;
mod reserve;
pub mod simulated;

pub use disk::{Disk, DiskEntry, DiskFile, FileKind, Metadata, SystemDisk};
pub use interposed::{DiskInterposer, InterposedDisk, InterposedStorage, StorageCall, StorageInterposer};
pub use local::{FolderLock, LocalStorage};
pub use memory::MemoryStorage;
pub use reserve::{RESERVE_BYTES, Reserve};
pub use simulated::SimulatedDisk;

use std::io;

use bytes::Bytes;

/// A name and a size, as [`Storage::list`] returns them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name within the listed folder; for a folder without its contents.
    pub name: String,
    /// Bytes; 0 for a folder.
    pub size: u64,
    /// Whether it is a folder.
    pub is_dir: bool,
}

/// What can go wrong on storage, with the path that it happened to.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// `put_new` or `create` found something there.
    #[error("cannot create {path}: it exists already")]
    Exists {
        /// The object.
        path: String,
    },
    /// Nothing is there.
    #[error("cannot open {path}: it does not exist")]
    Missing {
        /// The object.
        path: String,
    },
    /// The path leaves the storage's root, or is empty.
    #[error("{path:?} is not a path inside the data folder")]
    BadPath {
        /// The path as given.
        path: String,
    },
    /// The operating system refused.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried: `read`, `write`, `sync`, ...
        action: &'static str,
        /// The object.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl StorageError {
    /// Returns whether the operating system refused: what was asked is right, and may work another time.
    pub fn is_disk_failure(&self) -> bool {
        // A lock that another process holds is no failure.
        matches!(self, StorageError::Io { source, .. } if source.kind() != io::ErrorKind::WouldBlock)
    }

    /// Returns whether the disk or the quota is full: it may work again when space is freed.
    pub fn is_disk_full(&self) -> bool {
        let StorageError::Io { source, .. } = self else { return false };
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// A folder of durable objects and append-only files. See the module for the promises.
///
/// [`Storage::list`] and [`Storage::sync_dir`] take the empty path for the root.
pub trait Storage: Send + Sync + 'static {
    /// Makes an object that must not exist yet.
    fn put_new(&self, path: &str, bytes: &[u8]) -> Result<(), StorageError>;
    /// Makes or replaces an object.
    fn put(&self, path: &str, bytes: &[u8]) -> Result<(), StorageError>;
    /// Reads a whole object.
    fn get(&self, path: &str) -> Result<Bytes, StorageError>;
    /// Lists a folder, by name. A folder that does not exist is empty.
    fn list(&self, dir: &str) -> Result<Vec<Entry>, StorageError>;
    /// Removes an object; one that is not there is no error. Not durable by itself: a power loss may bring the object
    /// back, whole, until [`Storage::sync_dir`] of its folder returned `Ok`.
    fn delete(&self, path: &str) -> Result<(), StorageError>;
    /// Makes an empty file to append to; its name is durable when this returns.
    fn create(&self, path: &str) -> Result<Box<dyn AppendFile>, StorageError>;
    /// Opens a file to append to. That it was there to open says nothing about power loss; the first
    /// [`AppendFile::sync`] makes its name and all of its bytes durable, whoever wrote them.
    fn open(&self, path: &str) -> Result<Box<dyn AppendFile>, StorageError>;
    /// Makes what is visible in a folder durable, before a decision is based on it (after a crash an entry may be
    /// visible and not yet durable).
    fn sync_dir(&self, dir: &str) -> Result<(), StorageError>;
}

/// A file that grows at its end.
pub trait AppendFile: Send {
    /// Appends all bytes; on an error any prefix of them may be in the file.
    fn append(&mut self, bytes: &[u8]) -> Result<(), StorageError>;
    /// Makes everything appended so far durable (`fdatasync`).
    fn sync(&mut self) -> Result<(), StorageError>;
    /// Cuts the file to `len` bytes, durably.
    fn truncate(&mut self, len: u64) -> Result<(), StorageError>;
    /// Returns the length in bytes.
    fn size(&self) -> u64;
    /// Reads up to `buf.len()` bytes at `offset`; returns how many, 0 at the end.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, StorageError>;
}

/// How the names of files begin that are being written. Hidden from lists, refused in paths.
const TEMPORARY_PREFIX: &str = ".tmp-";

/// Refuses paths that could leave the root. Every implementation calls it first.
fn checked(path: &str) -> Result<&str, StorageError> {
    let bad = path
        .split('/')
        .any(|part| part.is_empty() || part == "." || part == ".." || part.starts_with(TEMPORARY_PREFIX))
        || path.contains('\\')
        || path.contains('\0');
    if bad { Err(StorageError::BadPath { path: path.to_owned() }) } else { Ok(path) }
}

/// The same for a folder: the empty path is the root.
fn checked_dir(dir: &str) -> Result<&str, StorageError> {
    if dir.is_empty() { Ok(dir) } else { checked(dir) }
}

#[cfg(test)]
mod tests {
    //! One table of behaviour, held by every implementation.

    mod promises;

    use std::sync::Arc;

    use super::*;

    fn each(claim: impl Fn(&dyn Storage)) {
        claim(&MemoryStorage::default());
        claim(&LocalStorage::on(Arc::new(SimulatedDisk::new(1)), "data").unwrap());
        let folder = tempfile::tempdir().unwrap();
        claim(&LocalStorage::open(folder.path()).unwrap());
    }

    fn names(storage: &dyn Storage, dir: &str) -> Vec<String> {
        storage.list(dir).unwrap().into_iter().map(|entry| entry.name).collect()
    }

    #[test]
    fn put_new_refuses_what_is_there() {
        each(|storage| {
            storage.put_new("a/b", b"first").unwrap();
            assert!(matches!(storage.put_new("a/b", b"second"), Err(StorageError::Exists { .. })));
            assert!(matches!(storage.create("a/b"), Err(StorageError::Exists { .. })));
            assert_eq!(&storage.get("a/b").unwrap()[..], b"first");
        });
    }

    #[test]
    fn of_racing_put_new_calls_one_wins() {
        each(|storage| {
            let wins: Vec<bool> = std::thread::scope(|scope| {
                let racers: Vec<_> = (0u8..8)
                    .map(|racer| scope.spawn(move || storage.put_new("deep/er/one", &[racer; 1000]).is_ok()))
                    .collect();
                racers.into_iter().map(|racer| racer.join().unwrap()).collect()
            });
            assert_eq!(wins.iter().filter(|won| **won).count(), 1);
            let winner = wins.iter().position(|won| *won).unwrap();
            assert_eq!(&storage.get("deep/er/one").unwrap()[..], &[winner as u8; 1000][..]);
        });
    }

    #[test]
    fn put_replaces_and_delete_removes() {
        each(|storage| {
            storage.put("a", b"first").unwrap();
            storage.put("a", b"2").unwrap();
            assert_eq!(&storage.get("a").unwrap()[..], b"2");
            storage.delete("a").unwrap();
            storage.delete("a").unwrap();
            assert!(matches!(storage.get("a"), Err(StorageError::Missing { .. })));
            assert!(matches!(storage.open("a"), Err(StorageError::Missing { .. })));
            storage.put_new("a", b"again").unwrap();
        });
    }

    #[test]
    fn list_is_sorted_by_name_and_shows_one_level() {
        each(|storage| {
            for path in ["b/2", "b/10", "b/1/deep", "b!", "a"] {
                storage.put(path, b"xyz").unwrap();
            }
            assert_eq!(names(storage, ""), ["a", "b", "b!"]);
            let entry = |name: &str, size, is_dir| Entry { name: name.to_owned(), size, is_dir };
            assert_eq!(storage.list("b").unwrap(), [entry("1", 0, true), entry("10", 3, false), entry("2", 3, false)]);
            assert_eq!(storage.list("nowhere/at/all").unwrap(), []);
            assert!(storage.list("a").is_err());
            storage.delete("b/1/deep").unwrap();
            assert_eq!(names(storage, "b"), ["1", "10", "2"]);
            storage.sync_dir("b/1").unwrap();
            storage.sync_dir("").unwrap();
            storage.sync_dir("nowhere").unwrap();
        });
    }

    #[test]
    fn an_object_is_no_folder_and_a_folder_is_no_object() {
        each(|storage| {
            storage.put("a", b"1").unwrap();
            assert!(storage.put("a/b", b"2").is_err());
            assert_eq!(&storage.get("a").unwrap()[..], b"1");
            storage.put("c/d", b"3").unwrap();
            assert!(storage.put("c", b"4").is_err());
            assert!(matches!(storage.put_new("c", b"4"), Err(StorageError::Exists { .. })));
            assert!(storage.get("c").is_err());
            assert!(storage.delete("c").is_err());
            assert_eq!(&storage.get("c/d").unwrap()[..], b"3");
        });
    }

    #[test]
    fn no_path_leaves_the_root() {
        each(|storage| {
            for path in [
                "",
                "/",
                "/etc/x",
                "a//b",
                "a/",
                "..",
                "../x",
                "a/../../x",
                "./a",
                "a\\b",
                "a\0b",
                ".tmp-1",
                "a/.tmp-1/b",
            ] {
                let bad = |result: Result<(), StorageError>| matches!(result, Err(StorageError::BadPath { .. }));
                assert!(bad(storage.put(path, b"")), "{path:?}");
                assert!(bad(storage.put_new(path, b"")), "{path:?}");
                assert!(bad(storage.get(path).map(drop)), "{path:?}");
                assert!(bad(storage.delete(path)), "{path:?}");
                assert!(bad(storage.create(path).map(drop)), "{path:?}");
                assert!(bad(storage.open(path).map(drop)), "{path:?}");
                assert!(path.is_empty() || bad(storage.list(path).map(drop)), "{path:?}");
                assert!(path.is_empty() || bad(storage.sync_dir(path)), "{path:?}");
            }
        });
    }

    #[test]
    fn appended_bytes_are_there_when_opened_again() {
        each(|storage| {
            let mut file = storage.create("log/1").unwrap();
            assert_eq!(file.size(), 0);
            file.append(b"hello ").unwrap();
            file.append(b"world").unwrap();
            file.sync().unwrap();
            drop(file);

            let mut file = storage.open("log/1").unwrap();
            assert_eq!(file.size(), 11);
            file.append(b"!").unwrap();
            file.truncate(5).unwrap();
            assert!(file.truncate(6).is_err(), "a truncation never grows a file");
            file.append(b"!!").unwrap();
            file.sync().unwrap();
            assert_eq!(file.size(), 7);
            assert_eq!(&storage.get("log/1").unwrap()[..], b"hello!!");

            let mut buf = [0; 4];
            assert_eq!(file.read_at(4, &mut buf).unwrap(), 3);
            assert_eq!(&buf[..3], b"o!!");
            assert_eq!(file.read_at(7, &mut buf).unwrap(), 0);
            assert_eq!(file.read_at(1 << 40, &mut buf).unwrap(), 0);
        });
    }
}
