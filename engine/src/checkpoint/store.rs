//! The store: the folder of manifests and packs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::RecordBatch;

use super::manifest::Manifest;
use super::pack::{PackReader, PackWriter, Part};
use super::recovery::{FoundManifest, line_of_descent};
use super::{CHECKPOINTS_KEPT, CheckpointError};
use crate::epoch::Epoch;
use crate::seeded_bugs::{SeededBug, is_planted};
use crate::storage::{Storage, StorageError};

/// The folder of the manifests.
pub const MANIFEST_FOLDER: &str = "checkpoint/manifest";

/// The folder of the packs.
pub const STATE_FOLDER: &str = "checkpoint/state";

/// How many numbers taken by processes of before a manifest steps over.
pub(crate) const STEPS_MAX: usize = 100;

/// Manifests and packs of one data folder.
#[derive(Clone)]
pub struct Store {
    storage: Arc<dyn Storage>,
}

/// What came of writing a manifest.
#[derive(Clone, Debug, PartialEq)]
pub enum Attempt {
    /// It is there.
    Written,
    /// An earlier process was faster; what it decided, if that can be read.
    Taken(Option<Box<Manifest>>),
}

/// What a clean-up removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Manifests.
    pub manifests: u64,
    /// Packs.
    pub packs: u64,
    /// The oldest epoch that a kept checkpoint starts from: the log is needed behind it. None while the beginning of the
    /// log may still be needed.
    pub oldest: Option<Epoch>,
}

impl Store {
    /// Looks into a data folder; reads and makes nothing.
    pub fn new(storage: Arc<dyn Storage>) -> Store {
        Store { storage }
    }

    /// Makes what is visible durable, before a decision is based on it.
    pub fn sync(&self) -> Result<(), StorageError> {
        self.storage.sync_dir(MANIFEST_FOLDER)?;
        self.storage.sync_dir(STATE_FOLDER)
    }

    /// Returns the numbers of the manifests that are there, ascending. Files with other names are not ours.
    pub fn numbers(&self) -> Result<Vec<u64>, StorageError> {
        let mut numbers: Vec<u64> = self
            .storage
            .list(MANIFEST_FOLDER)?
            .iter()
            .filter_map(|entry| {
                let number = entry.name.strip_suffix(".json")?.parse().ok()?;
                (manifest_path(number) == format!("{MANIFEST_FOLDER}/{}", entry.name)).then_some(number)
            })
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Reads a manifest.
    pub fn read(&self, number: u64) -> Result<Manifest, CheckpointError> {
        let path = manifest_path(number);
        let manifest = Manifest::decode(&path, &self.storage.get(&path)?)?;
        if manifest.number != number {
            let why = format!("this is manifest {} under another name", manifest.number);
            return Err(CheckpointError::Damaged { path, at: 0, why });
        }
        Ok(manifest)
    }

    /// Reads all manifests, as far as they can be read. One that another process removes meanwhile is not there.
    pub fn read_all(&self) -> Result<BTreeMap<u64, FoundManifest>, CheckpointError> {
        let mut manifests = BTreeMap::new();
        for number in self.numbers()? {
            let found = match self.read(number) {
                Ok(manifest) => FoundManifest::Whole(Box::new(manifest)),
                Err(CheckpointError::Storage(StorageError::Missing { .. })) => continue,
                Err(error @ CheckpointError::Damaged { .. }) => FoundManifest::Damaged(error.to_string()),
                Err(error @ CheckpointError::Newer { .. }) => FoundManifest::Newer(error.to_string()),
                Err(error) => return Err(error),
            };
            manifests.insert(number, found);
        }
        Ok(manifests)
    }

    /// Writes a manifest, once and at once. Its number may become a later one: numbers that an earlier process has taken
    /// at the last moment are stepped over; one of a later process ends this one.
    pub fn write(&self, mut manifest: Manifest) -> Result<Manifest, CheckpointError> {
        for _ in 0..STEPS_MAX {
            match self.try_write(&manifest)? {
                Attempt::Written => return Ok(manifest),
                Attempt::Taken(_) => manifest.number += 1,
            }
        }
        Err(CheckpointError::Overtaken { path: manifest_path(manifest.number) })
    }

    /// Removes a manifest that only decided commits, when they are made and a later manifest is there.
    pub fn forget(&self, number: u64) -> Result<(), StorageError> {
        self.storage.delete(&manifest_path(number))
    }

    /// Writes a manifest under its number, or returns what an earlier process has left there. One of a later process ends
    /// this one.
    pub fn try_write(&self, manifest: &Manifest) -> Result<Attempt, CheckpointError> {
        let path = manifest_path(manifest.number);
        let outcome = match is_planted(SeededBug::ManifestWrittenOver) {
            true => self.storage.put(&path, &manifest.encode()),
            false => self.storage.put_new(&path, &manifest.encode()),
        };
        match outcome {
            Ok(()) => Ok(Attempt::Written),
            Err(StorageError::Exists { .. }) => match self.read(manifest.number) {
                Ok(found) if found == *manifest => Ok(Attempt::Written),
                Ok(found) if found.incarnation > manifest.incarnation => Err(CheckpointError::Overtaken { path }),
                Ok(found) => Ok(Attempt::Taken(Some(Box::new(found)))),
                Err(CheckpointError::Damaged { .. }) => Ok(Attempt::Taken(None)),
                Err(error) => Err(error),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// Begins the packs of a checkpoint.
    pub fn packs(&self, epoch: Epoch, incarnation: u64) -> PackWriter<'_> {
        PackWriter::new(&*self.storage, move |number| pack_name(epoch, incarnation, number))
    }

    /// Reads parts, in the order given, and checks each.
    pub fn read_parts<'p>(
        &self,
        parts: impl IntoIterator<Item = &'p Part>,
    ) -> Result<Vec<RecordBatch>, CheckpointError> {
        let mut reader = PackReader::new(&*self.storage);
        parts.into_iter().map(|part| reader.read(part)).collect()
    }

    /// Returns the packs that are there, with their bytes.
    pub(super) fn pack_sizes(&self) -> Result<BTreeMap<String, u64>, StorageError> {
        Ok(self.storage.list(STATE_FOLDER)?.into_iter().map(|entry| (entry.name, entry.size)).collect())
    }

    pub(super) fn storage(&self) -> &dyn Storage {
        &*self.storage
    }

    /// Removes manifests and packs that nothing will start from: all but the newest [`CHECKPOINTS_KEPT`] checkpoints, and
    /// the newest manifest. `incarnation` is this process's: what a later one has made is not touched.
    ///
    /// Manifests go before the packs they name, so that a manifest that is there can be used.
    pub fn collect(&self, incarnation: u64) -> Result<Collected, CheckpointError> {
        let (readable, unreadable) = self.sort_out()?;
        let line = line_of_descent(readable.values());
        let is_start = |manifest: &&Manifest| manifest.checkpoint().is_some() && line.contains(&manifest.number);
        let with_state = readable.values().rev().filter(is_start);
        let mut keep: BTreeSet<u64> = with_state.map(|manifest| manifest.number).take(CHECKPOINTS_KEPT).collect();
        let mut collected = Collected::default();
        // Fewer than that: the beginning of the log is the one before.
        if keep.len() == CHECKPOINTS_KEPT {
            // Not that of the lowest number: a job that fills a table again makes checkpoints of earlier epochs.
            collected.oldest =
                keep.iter().filter_map(|number| readable.get(number)).map(|manifest| manifest.epoch).min();
        }
        keep.extend(readable.last_key_value().map(|(number, _)| *number));
        let newest_kept = keep.last().copied().unwrap_or(0);
        let old = |number: &&u64| **number < newest_kept && !keep.contains(*number);
        let mut removed = BTreeSet::new();
        for number in readable.keys().chain(&unreadable).filter(old) {
            if readable.get(number).is_some_and(|manifest| manifest.incarnation > incarnation) {
                continue;
            }
            self.storage.delete(&manifest_path(*number))?;
            removed.insert(*number);
        }
        collected.manifests = removed.len() as u64;
        self.storage.sync_dir(MANIFEST_FOLDER)?;
        // A manifest that cannot be read may name any pack: nothing is removed while one is left.
        if unreadable.iter().all(|number| removed.contains(number)) {
            let is_left_out = |number: u64| is_planted(SeededBug::NamedPackRemoved) && number < newest_kept;
            let kept = readable
                .iter()
                .filter(|(number, _)| !removed.contains(number) && !is_left_out(**number))
                .map(|(_, manifest)| manifest);
            collected.packs = self.remove_unnamed_packs(kept, incarnation)?;
        }
        Ok(collected)
    }

    /// Removes packs of checkpoints that no manifest came of; returns how many. At a start: a process that dies again and
    /// again before its checkpoint is made, such as on a full disk, would leave more each time.
    pub fn sweep(&self, incarnation: u64) -> Result<u64, CheckpointError> {
        let (readable, unreadable) = self.sort_out()?;
        // One that cannot be read may name any pack.
        if unreadable.is_empty() { self.remove_unnamed_packs(readable.values(), incarnation) } else { Ok(0) }
    }

    /// Reads all manifests; returns those that can be read, and the numbers of the damaged ones.
    fn sort_out(&self) -> Result<(BTreeMap<u64, Manifest>, Vec<u64>), CheckpointError> {
        let (mut readable, mut unreadable) = (BTreeMap::new(), Vec::new());
        for number in self.numbers()? {
            match self.read(number) {
                Ok(manifest) => drop(readable.insert(number, manifest)),
                Err(CheckpointError::Damaged { .. }) => unreadable.push(number),
                Err(error) => return Err(error),
            }
        }
        Ok((readable, unreadable))
    }

    fn remove_unnamed_packs<'m>(
        &self,
        manifests: impl Iterator<Item = &'m Manifest>,
        incarnation: u64,
    ) -> Result<u64, CheckpointError> {
        let checkpoints = manifests.filter_map(Manifest::checkpoint);
        let named: BTreeSet<&str> = checkpoints.flat_map(|checkpoint| checkpoint.packs()).collect();
        let mut removed = 0;
        for entry in self.storage.list(STATE_FOLDER)? {
            if !named.contains(entry.name.as_str()) && pack_incarnation(&entry.name).is_some_and(|of| of <= incarnation)
            {
                self.storage.delete(&pack_path(&entry.name))?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

pub(super) fn manifest_path(number: u64) -> String {
    format!("{MANIFEST_FOLDER}/{number:020}.json")
}

pub(super) fn pack_path(name: &str) -> String {
    format!("{STATE_FOLDER}/{name}")
}

fn pack_name(epoch: Epoch, incarnation: u64, number: u32) -> String {
    format!("{:012}-{incarnation:020}-{number:04}.pack", epoch.0)
}

/// Returns the process that made a pack; `None` for a name that is not ours.
fn pack_incarnation(name: &str) -> Option<u64> {
    let mut words = name.strip_suffix(".pack")?.split('-');
    let (_, incarnation) = (words.next()?.parse::<u64>().ok()?, words.next()?.parse().ok()?);
    words.next()?.parse::<u32>().ok().filter(|_| words.next().is_none()).map(|_| incarnation)
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;

    use super::*;
    use crate::checkpoint::{BufferState, Checkpoint, Holds};
    use crate::storage::MemoryStorage;

    fn batch(values: std::ops::Range<i64>) -> RecordBatch {
        RecordBatch::try_from_iter([("x", Arc::new(Int64Array::from_iter_values(values)) as _)]).expect("a batch")
    }

    fn manifest(number: u64, holds: Holds) -> Manifest {
        Manifest {
            version: 1,
            number,
            incarnation: 1,
            parent: None,
            log_id: String::new(),
            made_us: 0,
            epoch: Epoch(number * 10),
            holds,
            tables: BTreeMap::new(),
            rewound_to: None,
        }
    }

    fn holding(epoch: u64, parts: Vec<Part>) -> Holds {
        let buffers = parts.into_iter().map(|part| BufferState { epoch: Epoch(epoch), part }).collect();
        Holds::Checkpoint(Box::new(Checkpoint {
            epoch: Epoch(epoch),
            sealed_us: 0,
            next_offset: 0,
            partitions: Vec::new(),
            sources: BTreeMap::new(),
            windows: BTreeMap::new(),
            dedups: BTreeMap::new(),
            buffers: BTreeMap::from([("t".to_owned(), buffers)]),
        }))
    }

    fn pack(store: &Store, epoch: u64, values: std::ops::Range<i64>) -> Part {
        let mut packs = store.packs(Epoch(epoch), 1);
        let part = packs.add(&batch(values)).expect("encodes");
        packs.finish().expect("written");
        part
    }

    #[test]
    fn a_flipped_bit_of_a_pack_is_found_and_named() {
        let storage = Arc::new(MemoryStorage::default());
        let store = Store::new(Arc::<MemoryStorage>::clone(&storage));
        let mut packs = store.packs(Epoch(1), 1);
        let parts = [packs.add(&batch(0..10)).expect("encodes"), packs.add(&batch(5..100)).expect("encodes")];
        packs.finish().expect("written");
        assert_eq!(store.read_parts(&parts).expect("whole"), [batch(0..10), batch(5..100)]);
        let path = pack_path(&parts[0].file);
        let whole = storage.get(&path).expect("there");
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            storage.put(&path, &flipped).expect("memory");
            let error = store.read_parts(&parts).expect_err("damaged").to_string();
            assert!(error.contains(&path), "{error}");
        }
    }

    #[test]
    fn what_a_kept_checkpoint_names_stays_and_everything_else_goes() {
        let storage = Arc::new(MemoryStorage::default());
        let store = Store::new(Arc::<MemoryStorage>::clone(&storage));
        let first = pack(&store, 10, 0..3);
        store.write(manifest(1, holding(10, vec![first.clone()]))).expect("written");
        assert_eq!(store.collect(1).expect("works"), Collected::default(), "the beginning may still be needed");
        for number in 2..=6 {
            let holds = match number {
                3 => Holds::Refers(2),
                // The first part has not changed since, and is named again and again.
                _ => holding(number * 10, vec![first.clone(), pack(&store, number * 10, 0..3)]),
            };
            store.write(manifest(number, holds)).expect("written");
        }
        let orphan = pack(&store, 55, 0..1);
        let later = {
            let mut packs = store.packs(Epoch(70), 2);
            let part = packs.add(&batch(0..1)).expect("encodes");
            packs.finish().expect("written");
            part
        };
        let collected = store.collect(1).expect("works");
        assert_eq!(collected.oldest, Some(Epoch(40)));
        assert_eq!((collected.manifests, collected.packs), (3, 2), "1, 2 and 3; the packs of 2 and the orphan");
        assert_eq!(store.numbers().expect("listed"), [4, 5, 6]);
        for number in 4..=6 {
            store
                .read_parts(store.read(number).expect("there").checkpoint().expect("a checkpoint").parts())
                .expect("whole");
        }
        assert!(store.read_parts([&orphan]).is_err());
        store.read_parts([&later]).expect("of a later process");
    }

    #[test]
    fn what_a_process_left_that_died_before_its_checkpoint_goes_with_the_next_start() {
        let storage = Arc::new(MemoryStorage::default());
        let store = Store::new(Arc::<MemoryStorage>::clone(&storage));
        let named = pack(&store, 10, 0..3);
        store.write(manifest(1, holding(10, vec![named.clone()]))).expect("written");
        let orphan = pack(&store, 11, 0..3);
        assert_eq!(store.sweep(0).expect("works"), 0, "of a later process");
        assert_eq!(store.sweep(2).expect("works"), 1);
        store.read_parts([&named]).expect("whole");
        store.read_parts([&orphan]).expect_err("removed");
        pack(&store, 12, 0..3);
        storage.put(&manifest_path(2), b"").expect("memory");
        assert_eq!(store.sweep(2).expect("works"), 0, "a manifest that cannot be read may name it");
    }

    #[test]
    fn the_log_is_kept_behind_the_earliest_epoch_of_the_kept_checkpoints() {
        let store = Store::new(Arc::new(MemoryStorage::default()));
        for (number, epoch) in [(1, 10), (2, 20), (3, 30), (4, 12)] {
            let manifest = Manifest { epoch: Epoch(epoch), ..manifest(number, holding(epoch, Vec::new())) };
            store.write(manifest).expect("written");
        }
        // The job went back to 10 to fill a table again, and has come to 12: a restart replays 13.
        assert_eq!(store.collect(1).expect("works").oldest, Some(Epoch(12)));
    }

    #[test]
    fn a_number_is_written_once_and_a_later_process_ends_an_earlier_one() {
        let store = Store::new(Arc::new(MemoryStorage::default()));
        let own = store.write(manifest(1, Holds::Refers(0))).expect("written");
        assert_eq!(store.write(own.clone()).expect("the same again"), own);
        let later = Manifest { incarnation: 2, ..manifest(1, Holds::Refers(0)) };
        let later = store.write(later).expect("steps over");
        assert_eq!(later.number, 2);
        let zombie = Manifest { made_us: 9, ..manifest(2, Holds::Refers(0)) };
        assert!(matches!(store.write(zombie), Err(CheckpointError::Overtaken { .. })));
    }
}
