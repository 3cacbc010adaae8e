//! Writes a log: records into a group in memory, a group into the segment with one write and one fdatasync.

use std::sync::Arc;

use super::frame::{self, Place};
use super::position::Position;
use super::record::Record;
use super::segment::{self, HEADER_BYTES, Header, Segment};
use super::{LogError, LogOptions, damaged};
use crate::error::with_causes;
use crate::fence::Incarnation;
use crate::seeded_bugs::{SeededBug, is_planted};
use crate::storage::{AppendFile, Storage};

/// The largest group: bytes that may wait for one [`LogWriter::sync`]. Who appends keeps far below it.
pub const GROUP_BYTES_MAX: usize = 1 << 30;

/// Memory that is kept from one group to the next.
const PENDING_BYTES_KEPT: usize = 8 << 20;

/// The end of a log, to append to.
///
/// ```text
///   append ─► … ─► append ─► sync ─► Ok: durable, and    append after a Seal, segment full: goes to the next segment
///                             │      no successor claimed
///                             └─► Err: poisoned; whether the group is durable is unknown until the log is opened again
/// ```
pub struct LogWriter {
    storage: Arc<dyn Storage>,
    dir: String,
    options: LogOptions,
    current: Current,
    /// The group's frames that belong to the current segment.
    pending: Vec<u8>,
    /// The segment after the current one, from the Seal on that filled it. Its file is made by the first sync that has
    /// a frame for it.
    next: Option<Draft>,
    position: Position,
    bytes: u64,
    /// What every sync asks before it reports success.
    fence: Option<Incarnation>,
    /// Why nothing is taken any more.
    poison: Option<String>,
}

impl LogWriter {
    pub(super) fn new(
        storage: Arc<dyn Storage>,
        dir: String,
        options: LogOptions,
        current: Current,
        position: Position,
        bytes: u64,
    ) -> LogWriter {
        let (pending, next, fence, poison) = (Vec::new(), None, None, None);
        LogWriter { storage, dir, options, current, pending, next, position, bytes, fence, poison }
    }

    /// Leaves the current segment as it is, and goes on in the next one.
    pub(super) fn starting_with(self, next: Draft) -> LogWriter {
        LogWriter { next: Some(next), ..self }
    }

    /// Returns the writer so that each [`LogWriter::sync`] also looks whether another process has taken over.
    ///
    /// The incarnation must have been claimed before the log was opened: see [`crate::fence`].
    pub fn fenced_by(self, incarnation: Incarnation) -> LogWriter {
        LogWriter { fence: Some(incarnation), ..self }
    }

    /// Adds a record to the group that the next [`LogWriter::sync`] makes durable. Returns the bytes it takes in the
    /// log; 0 if the writer is poisoned and drops it.
    ///
    /// # Panics
    /// If the record is over [`RECORD_BYTES_MAX`](super::RECORD_BYTES_MAX), the group is over [`GROUP_BYTES_MAX`], or
    /// the record cannot come here: an offset, epoch or partition that is not the next, or an unknown partition.
    pub fn append(&mut self, record: &Record) -> usize {
        if self.poison.is_some() {
            return 0;
        }
        if let Err(why) = self.position.follow(record) {
            panic!("the log cannot take this record: {why}");
        }
        if let Some(next) = &mut self.next {
            let size = next.push(record);
            next.ends_full = self.options.is_full(record, next.size());
            return size;
        }
        let Current { place, len, .. } = self.current;
        let at = len + self.pending.len() as u64;
        let size = frame::push(&mut self.pending, record, place, at, len);
        assert!(self.pending.len() <= GROUP_BYTES_MAX, "a group of more than {GROUP_BYTES_MAX} bytes waits for a sync");
        let end = at + size as u64;
        if self.options.is_full(record, end) {
            self.next = Some(Draft::new(self.current.header.successor(end, self.position)));
        }
        size
    }

    /// Makes everything durable that was appended before. With [`LogWriter::fenced_by`]: `Ok` also says that no
    /// other process had taken over when all of it was durable, so it may be acknowledged.
    ///
    /// After an error the writer is poisoned: this and every later call fails, and nothing is tried again.
    pub fn sync(&mut self) -> Result<(), LogError> {
        if let Some(why) = &self.poison {
            return Err(LogError::Poisoned(why.clone()));
        }
        if is_planted(SeededBug::AcknowledgesBeforeWrite) && self.pending.len() < PENDING_BYTES_KEPT {
            return Ok(());
        }
        // In this order: a successor that claims after the check reads all that was written before it.
        let result = self.write_group().and_then(|()| self.check_fence());
        if let Err(error) = &result {
            self.poison = Some(with_causes(error));
            self.pending = Vec::new();
            self.next = None;
        }
        result
    }

    /// Returns the size of the log in bytes, without what waits for a sync, and with what was
    /// [shrunk](super::shrink()) away since it was opened.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns whether a sync has failed.
    #[cfg(test)]
    pub(super) fn poisoned(&self) -> bool {
        self.poison.is_some()
    }

    /// Returns the offset that the next message gets.
    #[cfg(test)]
    pub(super) fn next_offset(&self) -> crate::source::Offset {
        self.position.next
    }

    /// Returns the epoch that is open: the next Seal ends it.
    #[cfg(test)]
    pub(super) fn open_epoch(&self) -> crate::epoch::Epoch {
        self.position.epoch
    }

    fn check_fence(&self) -> Result<(), LogError> {
        self.fence.as_ref().map_or(Ok(()), Incarnation::check).map_err(LogError::from)
    }

    fn write_group(&mut self) -> Result<(), LogError> {
        if !self.pending.is_empty() {
            self.current.file.append(&self.pending)?;
            if !is_planted(SeededBug::AcknowledgesBeforeSync) {
                self.current.file.sync()?;
            }
            self.current.len += self.pending.len() as u64;
            self.bytes += self.pending.len() as u64;
            self.pending.clear();
            self.pending.shrink_to(PENDING_BYTES_KEPT);
        }
        // Only now: that the next segment exists says that this one is durable up to its end.
        if let Some(draft) = self.next.take_if(|draft| draft.size() > HEADER_BYTES as u64) {
            self.bytes += draft.size();
            let ends_full = draft.ends_full;
            self.current = draft.make(&*self.storage, &self.dir)?;
            if ends_full {
                self.next = Some(Draft::new(self.current.header.successor(self.current.len, self.position)));
            }
        }
        Ok(())
    }
}

/// The segment that is appended to.
pub(super) struct Current {
    header: Header,
    place: Place,
    file: Box<dyn AppendFile>,
    /// Bytes of the file, all of them durable.
    len: u64,
}

impl Current {
    /// Opens a segment that is known to be durable up to its end.
    pub(super) fn open(storage: &dyn Storage, segment: &Segment) -> Result<Current, LogError> {
        let Segment { path, header, size } = segment;
        let file = storage.open(path)?;
        if file.size() != *size {
            return Err(damaged(path, file.size(), "the file changed while it was read: another process writes it"));
        }
        Ok(Current { header: *header, place: header.place(), file, len: *size })
    }
}

/// A segment that is made at once, with its first frames.
pub(super) struct Draft {
    header: Header,
    place: Place,
    /// Room for the header, and the frames.
    bytes: Vec<u8>,
    /// Whether its last frame is a Seal that fills it.
    ends_full: bool,
}

impl Draft {
    pub(super) fn new(header: Header) -> Draft {
        Draft { header, place: header.place(), bytes: vec![0; HEADER_BYTES], ends_full: false }
    }

    pub(super) fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Each frame of a draft is a group of its own: the file appears whole, so all before it is durable if it is.
    fn push(&mut self, record: &Record) -> usize {
        let at = self.size();
        let size = frame::push(&mut self.bytes, record, self.place, at, at);
        assert!(self.bytes.len() <= GROUP_BYTES_MAX, "a group of more than {GROUP_BYTES_MAX} bytes waits for a sync");
        size
    }

    /// Adds a record that is encoded already.
    pub(super) fn push_body(&mut self, body: &[u8]) {
        let at = self.size();
        frame::push_body(&mut self.bytes, body, self.place, at, at);
    }

    /// Makes the file, durably and at once.
    pub(super) fn make(mut self, storage: &dyn Storage, dir: &str) -> Result<Current, LogError> {
        let len = self.size();
        let header = Header { made_bytes: len, ..self.header };
        self.bytes[..HEADER_BYTES].copy_from_slice(&header.encode());
        let path = segment::path(dir, header.number);
        storage.put_new(&path, &self.bytes)?;
        Current::open(storage, &Segment { path, header, size: len })
    }
}
