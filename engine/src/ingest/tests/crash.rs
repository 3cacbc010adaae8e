//! Crashes: the process is killed or the power is lost at every call that changes the disk, again and again.
//!
//! The model of the disk is harsher than most: of what was not synced any selection of sectors may vanish, also after
//! a later process has read it, and a sync makes nothing durable that an earlier process wrote. A file that was made or
//! deleted in the last moment may be there or not, in any selection, until its folder is synced.

use std::collections::{BTreeMap, BTreeSet};
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
    /// Which process made a file.
    makers: BTreeMap<String, usize>,
    /// How many processes there were before this one.
    process: usize,
    /// Files that are visible, and gone after a power loss, perhaps.
    unsynced_names: BTreeSet<String>,
    /// Files that are gone, and there again after a power loss, perhaps: the bytes, and how many of them are durable.
    unsynced_deletes: BTreeMap<String, (Bytes, usize)>,
}

enum Step {
    Whole,
    /// The last thing that happens: any part of it may.
    Partly,
}

impl CrashDisk {
    fn new(seed: u64, changes_left: usize) -> CrashDisk {
        let random = SmallRng::seed_from_u64(seed);
        let state = State {
            random,
            changes_left: Some(changes_left),
            changes: 0,
            durable: BTreeMap::new(),
            makers: BTreeMap::new(),
            process: 0,
            unsynced_names: BTreeSet::new(),
            unsynced_deletes: BTreeMap::new(),
        };
        CrashDisk { inner: MemoryStorage::default(), state: Arc::new(Mutex::new(state)) }
    }

    /// Starts the next process; the power was lost before, or only the process was killed.
    fn restart(&self, power_lost: bool, changes_left: usize) {
        let mut state = self.state.lock();
        state.changes_left = Some(changes_left);
        state.process += 1;
        if !power_lost {
            return;
        }
        for path in std::mem::take(&mut state.unsynced_names) {
            if state.random.random() {
                self.inner.delete(&path).unwrap();
                state.durable.remove(&path);
            }
        }
        for (path, (bytes, durable)) in std::mem::take(&mut state.unsynced_deletes) {
            if state.random.random() {
                self.inner.put(&path, &bytes).unwrap();
                state.durable.insert(path, durable);
            }
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
        let is_whole = matches!(step, Step::Whole);
        if is_whole || state.random.random() {
            self.inner.put_new(path, bytes)?;
            state.durable.insert(path.to_owned(), bytes.len());
            let process = state.process;
            state.makers.insert(path.to_owned(), process);
            if !is_whole && state.random.random() {
                state.unsynced_names.insert(path.to_owned());
            }
        }
        if is_whole { Ok(()) } else { Err(crashed()) }
    }

    fn get(&self, path: &str) -> Result<Bytes, StorageError> {
        self.inner.get(path)
    }

    fn list(&self, dir: &str) -> Result<Vec<Entry>, StorageError> {
        self.inner.list(dir)
    }

    fn open(&self, path: &str) -> Result<Box<dyn AppendFile>, StorageError> {
        let file = self.inner.open(path)?;
        Ok(Box::new(CrashFile { path: path.to_owned(), file, state: self.state.clone() }))
    }

    fn sync_dir(&self, dir: &str) -> Result<(), StorageError> {
        self.inner.sync_dir(dir)?;
        let mut state = self.state.lock();
        if state.unsynced_names.is_empty() && state.unsynced_deletes.is_empty() {
            return Ok(());
        }
        match state.step()? {
            Step::Whole => {
                state.unsynced_names.clear();
                state.unsynced_deletes.clear();
                Ok(())
            }
            Step::Partly => Err(crashed()),
        }
    }

    fn put(&self, _: &str, _: &[u8]) -> Result<(), StorageError> {
        panic!("the log replaces no file")
    }

    fn delete(&self, path: &str) -> Result<(), StorageError> {
        let mut state = self.state.lock();
        assert!(state.unsynced_names.is_empty(), "deleted on the word of a file that may vanish");
        assert!(state.unsynced_deletes.is_empty(), "deleted, though an older file may come back without this one");
        let step = state.step()?;
        if matches!(step, Step::Whole) || state.random.random() {
            let bytes = self.inner.get(path)?;
            self.inner.delete(path)?;
            let durable = state.durable.remove(path).unwrap_or(0);
            state.unsynced_deletes.insert(path.to_owned(), (bytes, durable));
        }
        if matches!(step, Step::Whole) { Ok(()) } else { Err(crashed()) }
    }

    fn create(&self, _: &str) -> Result<Box<dyn AppendFile>, StorageError> {
        panic!("a segment is never without its header")
    }
}

struct CrashFile {
    path: String,
    file: Box<dyn AppendFile>,
    state: Arc<Mutex<State>>,
}

impl AppendFile for CrashFile {
    fn append(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        let mut state = self.state.lock();
        let is_own = state.makers.get(&self.path) == Some(&state.process);
        assert!(is_own, "appended behind bytes of another process, which may vanish, or still be written to");
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

/// What was written to a log in all its lives, and what must still be there.
#[derive(Default)]
struct History {
    /// Every record that may be in the log, also those that it was shrunk by.
    tried: Vec<Record>,
    /// How many of them are durable.
    durable_count: usize,
    /// The epoch of the newest checkpoint, which stands elsewhere: what is behind it is needed.
    checkpoint: Epoch,
    segments_deleted: u64,
}

impl History {
    /// Opens the log and replays it, behind the checkpoint or as far back as it goes; checks what comes.
    fn recover(&mut self, disk: &CrashDisk, skips: bool, context: &str) -> Result<LogWriter, LogError> {
        let mut replay = open(disk, options(1_500))?;
        let Reach { first, whole } = replay.reach();
        assert!(first <= self.checkpoint.next(), "{context}: epoch {first} is too late for {}", self.checkpoint);
        assert_eq!(whole, first == Epoch::FIRST, "{context}");
        let behind = if skips { self.checkpoint } else { Epoch(first.0 - 1) };
        if skips {
            replay.skip_to(behind)?;
        }
        let records = read_all(&mut replay)?;
        let writer = replay.finish()?;
        let before = count_before(&self.tried, behind);
        let count = before + records.len();
        assert!(count >= self.durable_count, "{context}: {count} of {} records are left", self.durable_count);
        assert_eq!(records[..], self.tried[before..count], "{context}");
        // The writer exists, so what it goes on from is durable; what was lost was never promised, and is forgotten.
        self.tried.truncate(count);
        self.durable_count = count;
        Ok(writer)
    }
}

/// One process: recovers, writes, makes checkpoints and shrinks, until it crashes or has enough.
fn live(disk: &CrashDisk, feed: &mut Feed, history: &mut History, context: &str) {
    let mut writer = match history.recover(disk, feed.random.random(), context) {
        Ok(writer) => writer,
        Err(LogError::Storage(_)) => return,
        Err(error) => panic!("{context}: {error}"),
    };
    feed.rewind(&history.tried);

    for _ in 0..12 {
        let group = feed.group();
        append_all(&mut writer, &group);
        history.tried.extend(group);
        if writer.sync().is_err() {
            assert!(writer.poisoned());
            return;
        }
        history.durable_count = history.tried.len();
        if feed.random.random_range(0..3) == 0 {
            history.checkpoint = last_sealed(&history.tried);
            match shrink(disk, DIR, history.checkpoint.next()) {
                Ok(shrunk) => history.segments_deleted += shrunk.segments,
                Err(LogError::Storage(_)) => return,
                Err(error) => panic!("{context}: {error}"),
            }
        }
    }
}

#[test]
fn what_was_synced_behind_a_checkpoint_survives_crashes_at_every_change_and_recovery_may_crash_too() {
    let mut segments_deleted = 0;
    for seed in 0..300 {
        let mut feed = Feed::new(seed);
        // The first crash comes at each of the first changes in turn, the others anywhere.
        let disk = CrashDisk::new(seed, seed as usize % 40);
        let mut history = History::default();
        for life in 0..8 {
            live(&disk, &mut feed, &mut history, &format!("seed {seed}, life {life}"));
            let power_lost = feed.random.random();
            disk.restart(power_lost, feed.random.random_range(0..40));
        }
        for skips in [true, false] {
            disk.restart(true, usize::MAX);
            history.recover(&disk, skips, &format!("seed {seed}, at the end")).unwrap();
        }
        segments_deleted += history.segments_deleted;
    }
    assert!(segments_deleted > 500, "{segments_deleted} segments were deleted: the test tests too little");
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
    writer.append(&seal(1, false));
    writer.sync().unwrap();
    writer.append(&seal(2, false));
    writer.sync().unwrap_err();
    assert!(writer.poisoned());
    disk.restart(true, usize::MAX);
    let (records, _) = recover(&disk, options(0)).unwrap();
    assert_eq!(records[0], seal(1, false));
}

#[test]
fn a_shrink_does_not_rely_on_a_segment_whose_name_is_not_durable_yet() {
    for seed in 0..20 {
        let disk = CrashDisk::new(seed, usize::MAX);
        let (_, mut writer) = recover(&disk, options(0)).unwrap();
        for epoch in 1..=4 {
            writer.append(&seal(epoch, true));
            writer.sync().unwrap();
        }
        // The writer has linked the last segment and waits for the folder's sync, while another thread shrinks.
        disk.state.lock().unsynced_names.insert(segment::path(DIR, 4));
        assert_eq!(shrink(&disk, DIR, Epoch(4)).unwrap().segments, 3);
        disk.restart(true, usize::MAX);
        let mut replay = open(&disk, options(0)).unwrap();
        replay.skip_to(Epoch(3)).unwrap();
        assert_eq!(read_all(&mut replay).unwrap(), [seal(4, true)], "seed {seed}");
    }
}
