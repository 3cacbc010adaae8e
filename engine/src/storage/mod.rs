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

mod local;
mod memory;

pub use local::LocalStorage;
pub use memory::MemoryStorage;

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
    #[error("{path} exists already")]
    Exists {
        /// The object.
        path: String,
    },
    /// Nothing is there.
    #[error("{path} does not exist")]
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

/// A folder of durable objects and append-only files. See the module for the promises.
pub trait Storage: Send + Sync + 'static {
    /// Makes an object that must not exist yet.
    fn put_new(&self, path: &str, bytes: &[u8]) -> Result<(), StorageError>;
    /// Makes or replaces an object.
    fn put(&self, path: &str, bytes: &[u8]) -> Result<(), StorageError>;
    /// Reads a whole object.
    fn get(&self, path: &str) -> Result<Bytes, StorageError>;
    /// Lists a folder, by name. A folder that does not exist is empty.
    fn list(&self, dir: &str) -> Result<Vec<Entry>, StorageError>;
    /// Removes an object; one that is not there is no error.
    fn delete(&self, path: &str) -> Result<(), StorageError>;
    /// Makes an empty file to append to; its name is durable when this returns.
    fn create(&self, path: &str) -> Result<Box<dyn AppendFile>, StorageError>;
    /// Opens a file to append to.
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

/// Refuses paths that could leave the root. Every implementation calls it first.
fn checked(path: &str) -> Result<&str, StorageError> {
    let bad = path.split('/').any(|part| part.is_empty() || part == "." || part == "..")
        || path.contains('\\')
        || path.contains('\0');
    if bad { Err(StorageError::BadPath { path: path.to_owned() }) } else { Ok(path) }
}
