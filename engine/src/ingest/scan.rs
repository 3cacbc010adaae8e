//! One pass over the segments of a log: verifies every frame, and decides what its end is.

use super::frame::Frame;
use super::frames::{FrameReader, Next};
use super::position::Position;
use super::record::Record;
use super::recovery::{Tail, find_later_group};
use super::segment::{HEADER_BYTES, Segment};
use super::{LogError, damaged};
use crate::storage::Storage;

/// The segments of a log, and how far they were read.
///
/// Whoever reads them passes the storage in, so that a scan can be kept with or without one.
pub(super) struct Scan {
    /// Not empty; their chain was checked when they were loaded.
    pub(super) segments: Vec<Segment>,
    pub(super) segment_idx: usize,
    /// Where the log stands behind the last record that was read.
    pub(super) position: Position,
    /// Where the frames of the last segment end, and how much of them is known to be durable.
    pub(super) tail: Tail,
    reader: FrameReader,
}

impl Scan {
    /// Starts at the first frame of the segment at `segment_idx`.
    pub(super) fn new(storage: &dyn Storage, segments: Vec<Segment>, segment_idx: usize) -> Result<Scan, LogError> {
        let last = segments.last().expect("a log has a segment");
        let tail = Tail::new(&last.header);
        let position = segments[segment_idx].header.start;
        let reader = open_segment(storage, &segments, segment_idx)?;
        Ok(Scan { segments, segment_idx, position, tail, reader })
    }

    /// Returns the segment that is being read.
    pub(super) fn segment(&self) -> &Segment {
        &self.segments[self.segment_idx]
    }

    pub(super) fn last_segment(&self) -> &Segment {
        self.segments.last().expect("a log has a segment")
    }

    pub(super) fn is_in_last_segment(&self) -> bool {
        self.segment_idx + 1 == self.segments.len()
    }

    /// Reads on to the next record, over the borders of segments; `None` at the end of the log, torn or not.
    pub(super) fn next(&mut self, storage: &dyn Storage) -> Result<Option<Record>, LogError> {
        loop {
            let is_last = self.is_in_last_segment();
            let segment = &self.segments[self.segment_idx];
            let at = self.reader.at;
            match self.reader.next()? {
                Next::Frame(frame, body) => {
                    // The checksum says that these bytes were written, so what is wrong with them is no torn tail.
                    let record = Record::decode(&body).map_err(|why| damaged(&segment.path, at, why))?;
                    self.position.follow(&record).map_err(|why| damaged(&segment.path, at, why))?;
                    self.pass(&frame, &record);
                    return Ok(Some(record));
                }
                Next::End if is_last => return Ok(None),
                Next::End => self.enter_next_segment(storage)?,
                Next::Invalid(why) if is_last => {
                    let proof = find_later_group(&*self.reader.file, self.reader.place, at, segment.size)?;
                    return match self.tail.damage_at(at, proof) {
                        None => Ok(None),
                        Some(evidence) => Err(damaged(&segment.path, at, format!("{why}, and {evidence}"))),
                    };
                }
                Next::Invalid(why) => {
                    let why = format!("{why}, and later segments show that it was durable");
                    return Err(damaged(&segment.path, at, why));
                }
            }
        }
    }

    /// Tells the tail of a frame that was read in the last segment.
    fn pass(&mut self, frame: &Frame, record: &Record) {
        if self.is_in_last_segment() {
            let sealed = matches!(record, Record::Seal { .. }).then_some(self.position);
            self.tail.pass(frame, self.reader.at, sealed);
        }
    }

    fn enter_next_segment(&mut self, storage: &dyn Storage) -> Result<(), LogError> {
        self.segment_idx += 1;
        let Segment { path, header, .. } = self.segment();
        if header.start != self.position {
            let why =
                format!("the segment starts at {:?}, but the one before leads to {:?}", header.start, self.position);
            return Err(damaged(path, 40, why));
        }
        self.reader = open_segment(storage, &self.segments, self.segment_idx)?;
        Ok(())
    }
}

/// Opens a segment at its first frame, up to where its successor says that it ends.
fn open_segment(storage: &dyn Storage, segments: &[Segment], idx: usize) -> Result<FrameReader, LogError> {
    let Segment { path, header, size } = &segments[idx];
    let end = segments.get(idx + 1).map_or(*size, |successor| successor.header.previous_end);
    Ok(FrameReader::new(storage.open(path)?, path, header.place(), HEADER_BYTES as u64, end))
}
