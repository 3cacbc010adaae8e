//! Says what is in a log, for people. Changes nothing, and needs no lock: another process may write the log meanwhile.

use std::collections::BTreeMap;

use serde::Serialize;

use super::LogError;
use super::record::{PartitionId, Record};
use super::scan::Scan;
use super::segment;
use crate::epoch::Epoch;
use crate::storage::Storage;

/// How often a log is read that changes meanwhile: another process may delete its oldest segments.
const ATTEMPTS_MAX: usize = 4;

/// What is in a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Description {
    /// The log's own id, in hexadecimal.
    pub log_id: String,
    /// Whether the beginning of the log is there; otherwise it was shrunk.
    pub whole: bool,
    /// The segments that are there, in order.
    pub segments: Vec<SegmentDescription>,
    /// Partitions that were declared in all of the log's life.
    pub partitions_declared: u32,
    /// The partitions that have records here, by id.
    pub partitions: Vec<PartitionDescription>,
    /// Messages, and rows of ranges.
    pub messages: u64,
    /// Bytes of topics and payloads.
    pub message_bytes: u64,
    /// The offset that the next message gets.
    pub next_offset: u64,
    /// Epochs that are sealed.
    pub epochs: u64,
    /// The first of them.
    pub first_epoch: Option<Epoch>,
    /// The last of them.
    pub last_epoch: Option<Epoch>,
    /// When the first of them was sealed: microseconds since 1970, UTC.
    pub first_sealed_us: Option<i64>,
    /// When the last of them was sealed.
    pub last_sealed_us: Option<i64>,
    /// How many of them are marked for a checkpoint.
    pub checkpoints: u64,
    /// The last one that is.
    pub last_checkpoint: Option<Epoch>,
    /// Records behind the last Seal.
    pub open_records: u64,
    /// How the log ends. Where it is damaged, the counts above end, too.
    pub tail: TailState,
}

/// A segment of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SegmentDescription {
    /// Its number.
    pub number: u64,
    /// Its file.
    pub path: String,
    /// Bytes of the file.
    pub bytes: u64,
    /// How many of them count: the rest was made durable once more in the next segment, or is torn.
    pub counted_bytes: u64,
    /// The offset of its first message.
    pub first_offset: u64,
    /// The epoch that is open where it begins.
    pub first_epoch: Epoch,
    /// Whether there is a next one, so that it never changes again.
    pub sealed: bool,
}

/// A partition of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartitionDescription {
    /// Its number in the log.
    pub id: u32,
    /// The source it belongs to. `None` if it was declared in a segment that was deleted.
    pub source: Option<String>,
    /// Its name within the source; `None` likewise.
    pub name: Option<String>,
    /// Messages, and rows of ranges.
    pub messages: u64,
    /// Bytes of topics and payloads.
    pub message_bytes: u64,
    /// Whether it has ended for good.
    pub ended: bool,
}

/// How a log ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum TailState {
    /// With a whole record.
    Clean,
    /// With a part of what was never acknowledged. The next start cuts it; while a process writes the log, it may just
    /// be what is being written.
    Torn {
        /// The segment.
        path: String,
        /// Where the valid records end.
        at: u64,
        /// Bytes from there on.
        bytes: u64,
    },
    /// Something that was durable is not there any more as it was.
    Damaged {
        /// The segment.
        path: String,
        /// Where in it.
        at: u64,
        /// What was found there.
        why: String,
    },
}

/// Describes the log in `dir`; `None` if there is none. Reads all of it.
///
/// Damage between the headers of segments is an error, since then nobody knows what belongs to the log.
pub fn describe(storage: &dyn Storage, dir: &str) -> Result<Option<Description>, LogError> {
    let mut attempt = 1;
    loop {
        match describe_once(storage, dir) {
            Err(_) if attempt < ATTEMPTS_MAX => attempt += 1,
            result => return result,
        }
    }
}

fn describe_once(storage: &dyn Storage, dir: &str) -> Result<Option<Description>, LogError> {
    let segments = segment::load(storage, dir)?;
    if segments.is_empty() {
        return Ok(None);
    }
    let mut counts = Counts::default();
    let mut scan = Scan::new(storage, segments, 0)?;
    let damage = loop {
        match scan.next(storage) {
            Ok(Some(record)) => counts.add(record),
            Ok(None) => break None,
            Err(LogError::Damaged { path, at, why }) => break Some(TailState::Damaged { path, at, why }),
            Err(error) => return Err(error),
        }
    };
    let tail = damage.unwrap_or_else(|| tail_of(&scan));
    Ok(Some(counts.describe(&scan, tail)))
}

fn tail_of(scan: &Scan) -> TailState {
    let (last, at) = (scan.last_segment(), scan.tail.end());
    match last.size - at {
        0 => TailState::Clean,
        bytes => TailState::Torn { path: last.path.clone(), at, bytes },
    }
}

/// What the records add up to.
#[derive(Default)]
struct Counts {
    partitions: BTreeMap<PartitionId, PartitionDescription>,
    epochs: u64,
    /// Epoch and time of a Seal.
    first_seal: Option<(Epoch, i64)>,
    last_seal: Option<(Epoch, i64)>,
    checkpoints: u64,
    last_checkpoint: Option<Epoch>,
    open_records: u64,
}

impl Counts {
    fn add(&mut self, record: Record) {
        self.open_records += 1;
        match record {
            Record::Open { partition, source, name } => {
                let known = self.partition(partition);
                (known.source, known.name) = (Some(source), Some(name));
            }
            Record::Messages { partition, messages, .. } => {
                let known = self.partition(partition);
                known.messages += messages.len() as u64;
                let bytes = messages.iter().map(|message| message.topic.len() + message.payload.len());
                known.message_bytes += bytes.sum::<usize>() as u64;
            }
            // The offsets were checked, so that their number fits.
            Record::Range { partition, rows, .. } => self.partition(partition).messages += rows,
            Record::End { partition } => self.partition(partition).ended = true,
            Record::Seal { epoch, now_us, checkpoint } => {
                self.open_records = 0;
                self.epochs += 1;
                self.first_seal.get_or_insert((epoch, now_us));
                self.last_seal = Some((epoch, now_us));
                if checkpoint {
                    self.checkpoints += 1;
                    self.last_checkpoint = Some(epoch);
                }
            }
        }
    }

    fn partition(&mut self, id: PartitionId) -> &mut PartitionDescription {
        self.partitions.entry(id).or_insert_with(|| PartitionDescription {
            id: id.0,
            source: None,
            name: None,
            messages: 0,
            message_bytes: 0,
            ended: false,
        })
    }

    fn describe(self, scan: &Scan, tail: TailState) -> Description {
        let first = &scan.segments[0].header;
        let partitions: Vec<PartitionDescription> = self.partitions.into_values().collect();
        Description {
            log_id: format!("{:032x}", first.log_id),
            whole: first.is_beginning(),
            segments: describe_segments(scan),
            partitions_declared: scan.position.partitions,
            messages: partitions.iter().map(|partition| partition.messages).sum(),
            message_bytes: partitions.iter().map(|partition| partition.message_bytes).sum(),
            partitions,
            next_offset: scan.position.next.0,
            epochs: self.epochs,
            first_epoch: self.first_seal.map(|(epoch, _)| epoch),
            last_epoch: self.last_seal.map(|(epoch, _)| epoch),
            first_sealed_us: self.first_seal.map(|(_, now_us)| now_us),
            last_sealed_us: self.last_seal.map(|(_, now_us)| now_us),
            checkpoints: self.checkpoints,
            last_checkpoint: self.last_checkpoint,
            open_records: self.open_records,
            tail,
        }
    }
}

fn describe_segments(scan: &Scan) -> Vec<SegmentDescription> {
    let describe = |(idx, segment): (usize, &segment::Segment)| {
        let successor = scan.segments.get(idx + 1);
        SegmentDescription {
            number: segment.header.number,
            path: segment.path.clone(),
            bytes: segment.size,
            counted_bytes: successor.map_or(scan.tail.end(), |successor| successor.header.previous_end),
            first_offset: segment.header.start.next.0,
            first_epoch: segment.header.start.epoch,
            sealed: successor.is_some(),
        }
    };
    scan.segments.iter().enumerate().map(describe).collect()
}
