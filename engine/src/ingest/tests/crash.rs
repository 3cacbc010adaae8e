//! Crashes: the process is killed or the power is lost at every call that changes the disk, again and again.
//!
//! The model of the disk is harsher than most: of what was not synced any selection of sectors may vanish, also after
//! a later process has read it, and a sync makes nothing durable that an earlier process wrote.

use std::collections::BTreeMap;
use std::io;

use parking_lot::Mutex;

use super::*;
use crate::storage::{AppendFile, Entry, StorageError};

const SECTOR_BYTES: usize = 512;

/// A disk that fails at the n-th change, and loses things then.
#[derive(Clone)]
struct CrashDisk {
    inner: MemoryStorage,
    state: Arc<Mutex<State>>,
}

struct State {
    random: SmallRng,
    /// Changes until the crash; `None` once it has happened.
    changes_left: Option<usize>,
    changes: usize,
    /// For each file, how much of it is durable.
    durable: BTreeMap<String, usize>,
}

enum Step {
    Whole,
    /// The last thing that happens: any part of it may.
    Partly,
}

impl CrashDisk {
    fn new(seed: u64, changes_left: usize) -> CrashDisk {
        let random = SmallRng::seed_from_u64(seed);
        let state = State { random, changes_left: Some(changes_left), changes: 0, durable: BTreeMap::new() };
        CrashDisk { inner: MemoryStorage::default(), state: Arc::new(Mutex::new(state)) }
    }

    /// Starts the next process; the power was lost before, or only the process was killed.
    fn restart(&self, power_lost: bool, changes_left: usize) {
        let mut state = self.state.lock();
        state.changes_left = Some(changes_left);
        if !power_lost {
            return;
        }
        for (path, bytes) in files(&self.inner) {
            let durable = *state.durable.get(&path).unwrap_or(&0);
            let mut left = bytes.to_vec();
            left.truncate(state.random.random_range(durable..=bytes.len()));
            for start in (0..left.len()).step_by(SECTOR_BYTES) {
                let end = (start + SECTOR_BYTES).min(left.len());
                if end > durable && state.random.random_range(0..3) == 0 {
                    left[start.max(durable)..end].fill(0);
                }
            }
            // What is left is on the medium now.
            state.durable.insert(path.clone(), left.len());
            self.inner.put(&path, &left).unwrap();
        }
    }
}

impl State {
    fn step(&mut self) -> Result<Step, StorageError> {
        self.changes += 1;
        match self.changes_left {
            None => Err(crashed()),
            Some(0) => {
                self.changes_left = None;
                Ok(Step::Partly)
            }
            Some(left) => {
                self.changes_left = Some(left - 1);
                Ok(Step::Whole)
            }
        }
    }
}

fn crashed() -> StorageError {
    StorageError::Io { action: "use", path: "the disk".to_owned(), source: io::Error::other("crashed") }
}

impl Storage for CrashDisk {
    fn put_new(&self, path: &str, bytes: &[u8]) -> Result<(), StorageError> {
        let mut state = self.state.lock();
        let step = state.step()?;
        if matches!(step, Step::Whole) || state.random.random() {
            self.inner.put_new(path, bytes)?;
            state.durable.insert(path.to_owned(), bytes.len());
        }
        if matches!(step, Step::Whole) { Ok(()) } else { Err(crashed()) }
    }

    fn get(&self, path: &str) -> Result<Bytes, StorageError> {
        self.inner.get(path)
    }

    fn list(&self, dir: &str) -> Result<Vec<Entry>, StorageError> {
        self.inner.list(dir)
    }

    fn open(&self, path: &str) -> Result<Box<dyn AppendFile>, StorageError> {
        let file = self.inner.open(path)?;
        Ok(Box::new(CrashFile { path: path.to_owned(), found_len: file.size(), file, state: self.state.clone() }))
    }

    fn sync_dir(&self, dir: &str) -> Result<(), StorageError> {
        self.inner.sync_dir(dir)
    }

    fn put(&self, _: &str, _: &[u8]) -> Result<(), StorageError> {
        panic!("the log replaces no file")
    }

    fn delete(&self, _: &str) -> Result<(), StorageError> {
        panic!("the log deletes no file")
    }

    fn create(&self, _: &str) -> Result<Box<dyn AppendFile>, StorageError> {
        panic!("a segment is never without its header")
    }
}

struct CrashFile {
    path: String,
    file: Box<dyn AppendFile>,
    /// The length that this process found.
    found_len: u64,
    state: Arc<Mutex<State>>,
}

impl AppendFile for CrashFile {
    fn append(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        let mut state = self.state.lock();
        let durable = state.durable.get(&self.path).copied().unwrap_or(0);
        assert!(durable as u64 >= self.found_len, "appended behind bytes of another process that may vanish");
        match state.step()? {
            Step::Whole => self.file.append(bytes),
            Step::Partly => {
                self.file.append(&bytes[..state.random.random_range(0..=bytes.len())])?;
                Err(crashed())
            }
        }
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        let mut state = self.state.lock();
        match state.step()? {
            Step::Whole => {
                state.durable.insert(self.path.clone(), self.file.size() as usize);
                Ok(())
            }
            Step::Partly => Err(crashed()),
        }
    }

    fn truncate(&mut self, _: u64) -> Result<(), StorageError> {
        panic!("the log truncates no file")
    }

    fn size(&self) -> u64 {
        self.file.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, StorageError> {
        self.file.read_at(offset, buf)
    }
}

/// One process: recovers, writes until it crashes or has enough. Updates what was tried and how much of it is durable.
fn live(disk: &CrashDisk, feed: &mut Feed, tried: &mut Vec<Record>, durable_count: &mut usize, context: &str) {
    let options = options(1_500);
    let (records, mut writer) = match recover(disk, options) {
        Ok(recovered) => recovered,
        Err(LogError::Storage(_)) => return,
        Err(error) => panic!("{context}: {error}"),
    };
    assert!(records.len() >= *durable_count, "{context}: {} of {durable_count} records are left", records.len());
    assert_eq!(records[..], tried[..records.len()], "{context}");
    // The writer exists, so what it goes on from is durable; what was lost was never promised, and is forgotten.
    tried.truncate(records.len());
    *durable_count = records.len();
    feed.rewind(tried);

    for _ in 0..12 {
        let group = feed.group();
        append_all(&mut writer, &group);
        tried.extend(group);
        if writer.sync().is_err() {
            assert!(writer.poisoned());
            return;
        }
        *durable_count = tried.len();
    }
}

#[test]
fn what_was_synced_survives_crashes_at_every_change_and_recovery_may_crash_too() {
    for seed in 0..300 {
        let mut feed = Feed::new(seed);
        // The first crash comes at each of the first changes in turn, the others anywhere.
        let disk = CrashDisk::new(seed, seed as usize % 40);
        let (mut tried, mut durable_count) = (Vec::new(), 0);
        for life in 0..8 {
            live(&disk, &mut feed, &mut tried, &mut durable_count, &format!("seed {seed}, life {life}"));
            let power_lost = feed.random.random();
            disk.restart(power_lost, feed.random.random_range(0..40));
        }
        disk.restart(true, usize::MAX);
        let (records, _) = recover(&disk, options(1_500)).unwrap();
        assert!(records.len() >= durable_count && records[..] == tried[..records.len()], "seed {seed}");
    }
}

#[test]
fn a_torn_tail_keeps_all_earlier_records_wherever_it_was_torn() {
    let storage = MemoryStorage::default();
    let mut feed = Feed::new(4);
    let (_, mut writer) = recover(&storage, LogOptions::default()).unwrap();
    let synced = feed.records(25);
    append_all(&mut writer, &synced);
    writer.sync().unwrap();
    let durable_len = writer.bytes() as usize;
    let last_group = feed.records(6);
    append_all(&mut writer, &last_group);
    writer.sync().unwrap();
    let path = segment::path(DIR, 1);
    let whole = storage.get(&path).unwrap();
    let all = [&synced[..], &last_group[..]].concat();

    for len in durable_len..=whole.len() {
        let torn = MemoryStorage::default();
        torn.put(&path, &whole[..len]).unwrap();
        let (records, mut writer) = recover(&torn, LogOptions::default()).unwrap();
        assert!(records.len() >= synced.len(), "cut at {len}");
        assert_eq!(records[..], all[..records.len()], "cut at {len}");
        assert_eq!(records.len() == all.len(), len == whole.len(), "cut at {len}");

        let mut feed = Feed::new(len as u64);
        feed.rewind(&records);
        let more = feed.records(5);
        append_all(&mut writer, &more);
        writer.sync().unwrap();
        assert_eq!(recover(&torn, LogOptions::default()).unwrap().0, [records, more].concat(), "cut at {len}");
    }
}

#[test]
fn a_failed_write_or_sync_poisons_the_writer_for_good() {
    // Changes: 1 makes the segment; 2 and 3 are the first group's append and sync.
    for changes_left in [1, 2, 3, 4] {
        let disk = CrashDisk::new(5, changes_left);
        let (_, mut writer) = recover(&disk, LogOptions::default()).unwrap();
        let mut feed = Feed::new(5);
        let error = loop {
            writer.append(&feed.record());
            assert!(!writer.poisoned());
            if let Err(error) = writer.sync() {
                break error;
            }
        };
        assert!(matches!(error, LogError::Storage(_)), "{error}");
        assert!(writer.poisoned());

        let (changes, bytes) = (disk.state.lock().changes, writer.bytes());
        for _ in 0..3 {
            assert_eq!(writer.append(&feed.record()), 0);
            let error = writer.sync().unwrap_err();
            assert!(matches!(&error, LogError::Poisoned(why) if why.contains("crashed")), "{error}");
        }
        assert_eq!(disk.state.lock().changes, changes, "nothing is tried again");
        assert_eq!(writer.bytes(), bytes);
    }
}

#[test]
fn a_failed_roll_poisons_the_writer_and_keeps_what_was_synced() {
    let disk = CrashDisk::new(6, 3);
    let (_, mut writer) = recover(&disk, options(0)).unwrap();
    let seal = |epoch| Record::Seal { epoch: Epoch(epoch), now_us: 0, checkpoint: false };
    writer.append(&seal(1));
    writer.sync().unwrap();
    writer.append(&seal(2));
    writer.sync().unwrap_err();
    assert!(writer.poisoned());
    disk.restart(true, usize::MAX);
    let (records, _) = recover(&disk, options(0)).unwrap();
    assert_eq!(records[0], seal(1));
}
