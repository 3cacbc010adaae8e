//! Storage that is not sure: now and then an object is made and the maker hears of an error, or of an error and nothing
//! is made. As a network does it, where an answer is lost.

use std::io;

use bytes::Bytes;
use tidemill_engine::clock::{Dice, SeededDice};
use tidemill_engine::storage::{AppendFile, Entry, LocalStorage, Storage, StorageError};

/// One of so many answers to a commit is lost.
const ANSWERS_PER_LOSS: u64 = 24;

/// See the module.
pub(crate) struct Unsure {
    inner: LocalStorage,
    dice: SeededDice,
}

impl Unsure {
    /// Makes storage unsure, by a seed.
    pub(crate) fn new(inner: LocalStorage, seed: u64) -> Unsure {
        Unsure { inner, dice: SeededDice::new(seed) }
    }
}

fn lost(path: &str) -> StorageError {
    StorageError::Io { action: "put", path: path.to_owned(), source: io::Error::other("the answer is lost") }
}

impl Storage for Unsure {
    fn put_new(&self, path: &str, bytes: &[u8]) -> Result<(), StorageError> {
        // Only where it is tried again: elsewhere an error ends the process, which happens often enough.
        let roll = if path.contains("_delta_log") { self.dice.roll() % ANSWERS_PER_LOSS } else { 2 };
        match roll {
            0 => Err(lost(path)),
            1 => self.inner.put_new(path, bytes).and(Err(lost(path))),
            _ => self.inner.put_new(path, bytes),
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
