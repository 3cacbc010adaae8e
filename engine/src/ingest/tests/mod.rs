//! Whole logs: written, closed, opened again. Each file beside this one holds claims about one thing.

mod crash;
mod damage;
mod describe;
mod fence;
mod golden;
mod shrink;
mod skip;

use std::sync::Arc;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::clock::SeededDice;
use crate::epoch::Epoch;
use crate::source::{Message, Note, Offset};
use crate::storage::{LocalStorage, MemoryStorage};

const DIR: &str = "log";

fn options(segment_bytes_max: u64) -> LogOptions {
    LogOptions { segment_bytes_max, checkpoint_segment_bytes_min: segment_bytes_max / 3 }
}

fn open(storage: &(impl Storage + Clone), options: LogOptions) -> Result<Replay, LogError> {
    Log::open(Arc::new(storage.clone()), DIR, &SeededDice::new(42), options)
}

/// Reads all records, then makes the writer.
fn recover(storage: &(impl Storage + Clone), options: LogOptions) -> Result<(Vec<Record>, LogWriter), LogError> {
    let mut replay = open(storage, options)?;
    Ok((read_all(&mut replay)?, replay.finish()?))
}

fn read_all(replay: &mut Replay) -> Result<Vec<Record>, LogError> {
    let mut records = Vec::new();
    while let Some(record) = replay.next()? {
        records.push(record);
    }
    Ok(records)
}

/// Reads the records behind the Seal of `epoch`.
fn read_behind(storage: &(impl Storage + Clone), epoch: Epoch) -> Result<Vec<Record>, LogError> {
    let mut replay = open(storage, LogOptions::default())?;
    replay.skip_to(epoch)?;
    read_all(&mut replay)
}

/// Returns how many of the records stand before those behind the Seal of `epoch`.
fn count_before(records: &[Record], epoch: Epoch) -> usize {
    let is_it = |record: &Record| matches!(record, Record::Seal { epoch: sealed, .. } if *sealed == epoch);
    if epoch == Epoch::NONE { 0 } else { records.iter().position(is_it).expect("the epoch is sealed") + 1 }
}

/// Returns the last epoch that is sealed.
fn last_sealed(records: &[Record]) -> Epoch {
    let sealed = |record: &Record| if let Record::Seal { epoch, .. } = record { Some(*epoch) } else { None };
    records.iter().rev().find_map(sealed).unwrap_or(Epoch::NONE)
}

fn seal(epoch: u64, checkpoint: bool) -> Record {
    Record::Seal { epoch: Epoch(epoch), now_us: epoch as i64 * 1_000, checkpoint }
}

/// Writes a log of several segments, lives and epochs; returns its records.
fn write_example(storage: &MemoryStorage, seed: u64, segment_bytes_max: u64) -> Vec<Record> {
    let mut feed = Feed::new(seed);
    let mut written = Vec::new();
    for _ in 0..3 {
        let (_, mut writer) = recover(storage, options(segment_bytes_max)).unwrap();
        for _ in 0..12 {
            let group = feed.group();
            append_all(&mut writer, &group);
            writer.sync().unwrap();
            written.extend(group);
        }
    }
    written
}

fn append_all(writer: &mut LogWriter, records: &[Record]) {
    for record in records {
        writer.append(record);
    }
}

/// Returns every file of the log, by path.
fn files(storage: &dyn Storage) -> Vec<(String, Bytes)> {
    let paths = storage.list(DIR).unwrap().into_iter().map(|entry| format!("{DIR}/{}", entry.name));
    paths.map(|path| (path.clone(), storage.get(&path).unwrap())).collect()
}

/// Returns a copy of a storage, of its own.
fn copy(storage: &dyn Storage) -> MemoryStorage {
    let copy = MemoryStorage::default();
    for (path, bytes) in files(storage) {
        copy.put(&path, &bytes).unwrap();
    }
    copy
}

fn random_bytes(random: &mut SmallRng, len_max: usize) -> Bytes {
    let len = random.random_range(0..=len_max);
    (0..len).map(|_| random.random::<u8>()).collect()
}

fn random_messages(random: &mut SmallRng) -> Vec<Message> {
    let count = random.random_range(0..6);
    let with_attributes = random.random_ratio(1, 3);
    let message = |random: &mut SmallRng| Message {
        topic: random_bytes(random, 12),
        payload: random_bytes(random, 60),
        attributes: if with_attributes { random_bytes(random, 9) } else { Bytes::new() },
    };
    (0..count).map(|_| message(random)).collect()
}

fn random_notes(random: &mut SmallRng) -> Vec<Note> {
    let count = if random.random_ratio(1, 3) { random.random_range(1..5) } else { 0 };
    (0..count).map(|_| Note { key: random_bytes(random, 8), value: random_bytes(random, 12) }).collect()
}

fn random_text(random: &mut SmallRng) -> String {
    String::from_utf8_lossy(&random_bytes(random, 10)).into_owned()
}

/// Returns any record, whether or not it can follow another.
pub(super) fn random_record(random: &mut SmallRng) -> Record {
    let partition = PartitionId(random.random());
    let first = Offset(random.random());
    match random.random_range(0..5) {
        0 => Record::Open { partition, source: random_text(random), name: random_text(random) },
        1 => Record::Messages {
            partition,
            arrival_us: random.random(),
            first,
            messages: random_messages(random),
            notes: random_notes(random),
        },
        2 => Record::Range {
            partition,
            arrival_us: random.random(),
            first,
            rows: random.random(),
            start: random.random(),
            end: random.random(),
            checksum: random.random(),
        },
        3 => Record::End { partition },
        _ => Record::Seal { epoch: Epoch(random.random()), now_us: random.random(), checkpoint: random.random() },
    }
}

/// Makes records that follow each other, from wherever a log stands.
struct Feed {
    random: SmallRng,
    position: position::Position,
}

impl Feed {
    fn new(seed: u64) -> Feed {
        Feed { random: SmallRng::seed_from_u64(seed), position: position::Position::START }
    }

    /// Moves to where `records` lead.
    fn rewind(&mut self, records: &[Record]) {
        self.position = position::Position::START;
        for record in records {
            self.position.follow(record).unwrap();
        }
    }

    fn record(&mut self) -> Record {
        let mut record = random_record(&mut self.random);
        let declared = self.position.partitions;
        match &mut record {
            Record::Open { partition, .. } => *partition = PartitionId(declared),
            Record::Seal { epoch, .. } => *epoch = self.position.epoch,
            _ if declared == 0 => return self.record(),
            Record::Messages { partition, first, .. } => {
                *partition = PartitionId(self.random.random_range(0..declared));
                *first = self.position.next;
            }
            Record::Range { partition, first, rows, .. } => {
                *partition = PartitionId(self.random.random_range(0..declared));
                *first = self.position.next;
                *rows %= 1_000;
            }
            Record::End { partition } => *partition = PartitionId(self.random.random_range(0..declared)),
        }
        self.position.follow(&record).unwrap();
        record
    }

    fn records(&mut self, count: usize) -> Vec<Record> {
        (0..count).map(|_| self.record()).collect()
    }

    fn group(&mut self) -> Vec<Record> {
        let count = self.random.random_range(1..8);
        self.records(count)
    }
}

#[test]
fn random_logs_are_replayed_as_they_were_written() {
    for seed in 0..60 {
        let storage = MemoryStorage::default();
        let mut feed = Feed::new(seed);
        let options = options(feed.random.random_range(0..3_000));
        let mut written = Vec::new();
        for _ in 0..4 {
            let (records, mut writer) = recover(&storage, options).unwrap();
            assert_eq!(records, written, "seed {seed}");
            for _ in 0..feed.random.random_range(0..15) {
                let group = feed.group();
                append_all(&mut writer, &group);
                writer.sync().unwrap();
                written.extend(group);
            }
            assert_eq!(writer.next_offset(), feed.position.next);
            assert_eq!(writer.open_epoch(), feed.position.epoch);
            let size: usize = files(&storage).iter().map(|(_, bytes)| bytes.len()).sum();
            assert_eq!(writer.bytes(), size as u64, "seed {seed}");
        }
    }
}

#[test]
fn a_log_on_disk_goes_on_over_rolls_and_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Arc::new(LocalStorage::open(folder.path()).unwrap());
    let mut feed = Feed::new(3);
    let mut written = Vec::new();
    for _ in 0..3 {
        let mut replay = Log::open(storage.clone(), DIR, &SeededDice::new(1), options(500)).unwrap();
        let mut records = Vec::new();
        while let Some(record) = replay.next().unwrap() {
            records.push(record);
        }
        assert_eq!(records, written);
        let mut writer = replay.finish().unwrap();
        for _ in 0..10 {
            let group = feed.group();
            append_all(&mut writer, &group);
            writer.sync().unwrap();
            written.extend(group);
        }
    }
    assert!(files(&*storage).len() > 5, "the test wants several segments");
}

#[test]
fn a_segment_is_left_at_the_first_seal_that_fills_it_though_no_group_ends_there() {
    let storage = MemoryStorage::default();
    let (_, mut writer) = recover(&storage, options(200)).unwrap();
    let mut feed = Feed::new(9);
    let open = Record::Open { partition: PartitionId(0), source: "s".to_owned(), name: "p".to_owned() };
    feed.position.follow(&open).unwrap();
    let mut written = vec![open.clone()];
    writer.append(&open);
    for epoch in 1..=20 {
        let seal = Record::Seal { epoch: Epoch(epoch), now_us: 0, checkpoint: false };
        let end = Record::End { partition: PartitionId(0) };
        for record in [seal, end.clone(), end] {
            writer.append(&record);
            written.push(record);
        }
        writer.sync().unwrap();
    }
    let files = files(&storage);
    assert!(files.len() > 3, "{} segments", files.len());
    assert!(files.iter().all(|(_, bytes)| bytes.len() < 400));
    assert_eq!(recover(&storage, options(200)).unwrap().0, written);
}

#[test]
fn restarts_without_input_make_no_files() {
    let storage = MemoryStorage::default();
    let (_, mut writer) = recover(&storage, LogOptions::default()).unwrap();
    append_all(&mut writer, &Feed::new(1).records(20));
    writer.sync().unwrap();
    drop(writer);
    recover(&storage, LogOptions::default()).unwrap();
    let after_one = files(&storage);
    for _ in 0..5 {
        recover(&storage, LogOptions::default()).unwrap();
    }
    assert_eq!(files(&storage), after_one);
}

#[test]
fn the_log_id_is_durable_at_once_and_stays() {
    let storage = MemoryStorage::default();
    let log_id = open(&storage, LogOptions::default()).unwrap().log_id();
    let other_dice = Log::open(Arc::new(storage.clone()), DIR, &SeededDice::new(7), LogOptions::default()).unwrap();
    assert_eq!(other_dice.log_id(), log_id);

    let other = MemoryStorage::default();
    let other_log = Log::open(Arc::new(other.clone()), DIR, &SeededDice::new(7), LogOptions::default()).unwrap();
    assert_ne!(other_log.log_id(), log_id);
}

#[test]
fn records_of_the_greatest_size_are_taken_and_greater_ones_are_not() {
    let storage = MemoryStorage::default();
    let (_, mut writer) = recover(&storage, LogOptions::default()).unwrap();
    let partition = PartitionId(0);
    let record = |len: usize| {
        let messages = vec![Message::new("", vec![7; len])];
        Record::Messages { partition, arrival_us: 0, first: Offset(0), messages, notes: Vec::new() }
    };
    let overhead = record(0).encoded_len();
    writer.append(&Record::Open { partition, source: String::new(), name: String::new() });
    writer.append(&record(RECORD_BYTES_MAX - overhead));
    writer.sync().unwrap();
    let (records, mut writer) = recover(&storage, LogOptions::default()).unwrap();
    assert_eq!(records[1], record(RECORD_BYTES_MAX - overhead));

    let Record::Messages { messages, .. } = record(RECORD_BYTES_MAX - overhead + 1) else { panic!("not messages") };
    let too_big = Record::Messages { partition, arrival_us: 0, first: Offset(1), messages, notes: Vec::new() };
    let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| writer.append(&too_big)));
    assert!(refused.is_err());
}
