//! Room that is kept for the day the disk is full.
//!
//! The file `reserve` in the data folder holds nothing of worth. When the disk is full it is deleted, which makes room
//! for the last checkpoint; making it again is also how a process finds out that there is space again:
//!
//! ```text
//!   reserve is there ── a write fails, the disk is full ──► release ──► last checkpoint, read only
//!          ▲                                                                    │
//!          └──────────────── ensure returns Ok ◄── ensure fails, still full ◄───┘
//! ```

use super::{Storage, StorageError};
use crate::clock::{Dice, SeededDice};

/// Default size of the reserve: a manifest, and the state of a small pipeline.
pub const RESERVE_BYTES: u64 = 16 * 1024 * 1024;

/// Where the reserve lies in the data folder.
const RESERVE_PATH: &str = "reserve";

/// The reserve of a data folder.
#[derive(Clone, Copy, Debug)]
pub struct Reserve {
    size_bytes: u64,
}

impl Default for Reserve {
    fn default() -> Self {
        Reserve::of(RESERVE_BYTES)
    }
}

impl Reserve {
    /// Makes a reserve of another size than the default. It is built in memory once before it is written.
    pub fn of(size_bytes: u64) -> Self {
        Reserve { size_bytes }
    }

    /// Returns the room that is kept.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Makes the file if it is missing or has another size, durably; returns whether it had to.
    ///
    /// An error with [`StorageError::is_disk_full`] says that there is no room for it; it takes none then.
    pub fn ensure(&self, storage: &dyn Storage) -> Result<bool, StorageError> {
        match storage.open(RESERVE_PATH) {
            Ok(file) if file.size() == self.size_bytes => {
                // It may stem from a process that died before its name was durable.
                return storage.sync_dir("").map(|()| false);
            }
            // Two reserves at once might not fit.
            Ok(_) => self.release(storage)?,
            Err(StorageError::Missing { .. }) => {}
            Err(error) => return Err(error),
        }
        storage.put(RESERVE_PATH, &self.filling()).map(|()| true)
    }

    /// Deletes the file, which makes room for as many bytes.
    pub fn release(&self, storage: &dyn Storage) -> Result<(), StorageError> {
        storage.delete(RESERVE_PATH)
    }

    /// Bytes that no file system stores in less space than they have.
    fn filling(&self) -> Vec<u8> {
        let dice = SeededDice::new(self.size_bytes);
        let word_count = self.size_bytes.div_ceil(8);
        let mut bytes: Vec<u8> = (0..word_count).flat_map(|_| dice.roll().to_le_bytes()).collect();
        bytes.truncate(self.size_bytes as usize);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::sync::Arc;

    use super::*;
    use crate::storage::{LocalStorage, SimulatedDisk};

    #[test]
    fn the_reserve_takes_its_space_and_gives_it_back_when_the_disk_is_full() {
        let disk = SimulatedDisk::new(1);
        let storage = LocalStorage::on(Arc::new(disk.clone()), "data").unwrap();
        disk.set_capacity(Some(100_000));
        let reserve = Reserve::of(40_000);
        assert!(reserve.ensure(&storage).unwrap());
        assert!(!reserve.ensure(&storage).unwrap(), "once is enough");
        assert_eq!(disk.used_bytes(), 40_000);

        storage.put("rows", &[1; 50_000]).unwrap();
        let error = storage.put("checkpoint", &[2; 20_000]).unwrap_err();
        assert!(error.is_disk_full(), "{error}");
        reserve.release(&storage).unwrap();
        storage.put("checkpoint", &[2; 20_000]).unwrap();

        for _ in 0..2 {
            let error = reserve.ensure(&storage).unwrap_err();
            assert!(error.is_disk_full(), "{error}");
            assert_eq!(disk.used_bytes(), 70_000, "a failed probe leaves nothing behind");
        }
        storage.delete("rows").unwrap();
        assert!(reserve.ensure(&storage).unwrap(), "there is space again");
    }

    #[test]
    fn the_reserve_survives_power_loss() {
        let disk = SimulatedDisk::new(2);
        let storage = LocalStorage::on(Arc::new(disk.clone()), "data").unwrap();
        Reserve::of(5_000).ensure(&storage).unwrap();
        for seed in 0..20 {
            let storage = LocalStorage::on(Arc::new(disk.crash(seed)), "data").unwrap();
            assert!(!Reserve::of(5_000).ensure(&storage).unwrap());
        }
    }

    #[test]
    fn another_size_replaces_the_reserve() {
        let storage = LocalStorage::on(Arc::new(SimulatedDisk::new(3)), "data").unwrap();
        Reserve::of(5_000).ensure(&storage).unwrap();
        assert!(Reserve::of(100).ensure(&storage).unwrap());
        assert_eq!(storage.get("reserve").unwrap().len(), 100);
    }

    #[test]
    fn the_default_reserve_is_allocated_on_a_real_disk() {
        let folder = tempfile::tempdir().unwrap();
        let storage = LocalStorage::open(folder.path()).unwrap();
        Reserve::default().ensure(&storage).unwrap();
        let found = std::fs::metadata(folder.path().join("reserve")).unwrap();
        assert_eq!(found.len(), RESERVE_BYTES);
        assert!(found.blocks() * 512 >= RESERVE_BYTES, "{} blocks", found.blocks());
    }
}
