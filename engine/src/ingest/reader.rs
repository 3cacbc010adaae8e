//! Replays a log: one pass that verifies and yields every record.

use std::sync::Arc;

use bytes::Bytes;

use super::frame::{FRAME_BYTES, Frame, Place};
use super::position::Position;
use super::record::Record;
use super::recovery::{Tail, find_later_group};
use super::segment::{HEADER_BYTES, Segment, read_full};
use super::writer::{Current, Draft, LogWriter};
use super::{LogError, LogOptions, damaged};
use crate::epoch::Epoch;
use crate::storage::{AppendFile, Storage, StorageError};

/// Bytes that are read at once, unless a record is longer. Messages are slices of what was read: who keeps one keeps
/// this much.
const READ_BYTES: usize = 1 << 20;

/// A log that is being replayed.
///
/// ```text
///   next() ─► Some(record) ─► … ─► next() ─► None ─► finish() ─► LogWriter
///     └─► Err: nothing was changed; every later next() fails
/// ```
pub struct Replay {
    storage: Arc<dyn Storage>,
    dir: String,
    options: LogOptions,
    segments: Vec<Segment>,
    segment_idx: usize,
    reader: FrameReader,
    position: Position,
    tail: Tail,
    state: State,
}

enum State {
    Reading,
    Done,
    Failed(String),
}

impl Replay {
    /// Starts at the first of the segments, whose chain is checked and not empty.
    pub(super) fn new(
        storage: Arc<dyn Storage>,
        dir: String,
        options: LogOptions,
        segments: Vec<Segment>,
    ) -> Result<Replay, LogError> {
        let last = segments.last().expect("a log has a segment");
        let tail = Tail::new(&last.header);
        let reader = open_segment(&*storage, &segments, 0)?;
        let position = Position::START;
        Ok(Replay { storage, dir, options, segments, segment_idx: 0, reader, position, tail, state: State::Reading })
    }

    /// Returns the log's own id: made once, with the log, and never changed.
    pub fn log_id(&self) -> u128 {
        self.segments[0].header.log_id
    }

    /// Returns the last epoch whose Seal was read and is known to be durable. The last group of a log may be in memory
    /// only until [`Replay::finish`]: a result of it that is made durable before would be ahead of its input.
    pub fn settled_epoch(&self) -> Epoch {
        let is_last = self.segment_idx + 1 == self.segments.len();
        let position = if is_last { self.tail.settled().position } else { self.position };
        Epoch(position.epoch.0.saturating_sub(1))
    }

    /// Returns the next record; `None` at the end. Its messages share the memory that was read.
    #[expect(clippy::should_implement_trait, reason = "an iterator of results invites to skip the errors")]
    pub fn next(&mut self) -> Result<Option<Record>, LogError> {
        let result = match &self.state {
            State::Reading => self.advance(),
            State::Done => Ok(None),
            State::Failed(why) => Err(LogError::Poisoned(why.clone())),
        };
        match &result {
            Ok(Some(_)) => {}
            Ok(None) => self.state = State::Done,
            Err(LogError::Poisoned(_)) => {}
            Err(error) => self.state = State::Failed(error.to_string()),
        }
        result
    }

    /// Makes what was replayed durable once more, without a torn tail, and returns the writer that goes on from there.
    ///
    /// # Panics
    /// If [`Replay::next`] has not returned `None`.
    pub fn finish(self) -> Result<LogWriter, LogError> {
        assert!(matches!(self.state, State::Done), "a log is written on only after all of it was replayed");
        let Replay { storage, dir, options, segments, position, tail, .. } = self;
        let last = segments.last().expect("a log has a segment");
        let mut bytes: u64 = segments.iter().map(|segment| segment.size).sum();
        let current = if tail.is_settled(last.size) {
            Current::open(&*storage, last)?
        } else {
            if tail.end() < last.size {
                let torn_bytes = last.size - tail.end();
                tracing::warn!(
                    path = last.path,
                    at = tail.end(),
                    torn_bytes,
                    "cut a torn tail that was never acknowledged"
                );
            }
            let draft = continue_after(&*storage, last, &tail)?;
            bytes += draft.size();
            draft.make(&*storage, &dir)?
        };
        Ok(LogWriter::new(storage, dir, options, current, position, bytes))
    }

    /// Reads on to the next record, over the borders of segments.
    fn advance(&mut self) -> Result<Option<Record>, LogError> {
        loop {
            let is_last = self.segment_idx + 1 == self.segments.len();
            let segment = &self.segments[self.segment_idx];
            let at = self.reader.at;
            match self.reader.next()? {
                Next::Frame(frame, body) => {
                    // The checksum says that these bytes were written, so what is wrong with them is no torn tail.
                    let record = Record::decode(&body).map_err(|why| damaged(&segment.path, at, why))?;
                    self.position.follow(&record).map_err(|why| damaged(&segment.path, at, why))?;
                    if is_last {
                        let sealed = matches!(record, Record::Seal { .. }).then_some(self.position);
                        self.tail.pass(&frame, self.reader.at, sealed);
                    }
                    return Ok(Some(record));
                }
                Next::End if is_last => return Ok(None),
                Next::End => self.enter_next_segment()?,
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

    fn enter_next_segment(&mut self) -> Result<(), LogError> {
        self.segment_idx += 1;
        let Segment { path, header, .. } = &self.segments[self.segment_idx];
        if header.start != self.position {
            let why =
                format!("the segment starts at {:?}, but the one before leads to {:?}", header.start, self.position);
            return Err(damaged(path, 40, why));
        }
        self.reader = open_segment(&*self.storage, &self.segments, self.segment_idx)?;
        Ok(())
    }
}

/// Opens a segment at its first frame, up to where its successor says that it ends.
fn open_segment(storage: &dyn Storage, segments: &[Segment], idx: usize) -> Result<FrameReader, LogError> {
    let Segment { path, header, size } = &segments[idx];
    let end = segments.get(idx + 1).map_or(*size, |successor| successor.header.previous_end);
    Ok(FrameReader::new(storage.open(path)?, path, header.place(), HEADER_BYTES as u64, end))
}

/// Copies what is not settled of the last segment into a draft of the next one.
fn continue_after(storage: &dyn Storage, last: &Segment, tail: &Tail) -> Result<Draft, LogError> {
    let settled = tail.settled();
    let mut draft = Draft::new(last.header.successor(settled.at, settled.position));
    let mut reader =
        FrameReader::new(storage.open(&last.path)?, &last.path, last.header.place(), settled.at, tail.end());
    loop {
        let at = reader.at;
        match reader.next()? {
            Next::Frame(_, body) => draft.push_body(&body),
            Next::End => return Ok(draft),
            Next::Invalid(why) => {
                return Err(damaged(
                    &last.path,
                    at,
                    format!("{why}, though it was read before: it changes while it is read"),
                ));
            }
        }
    }
}

/// What stands at a position of a segment.
enum Next {
    /// A frame and its body; the reader stands behind it.
    Frame(Frame, Bytes),
    /// The end of what is to be read.
    End,
    /// Something else, and what is wrong with it; the reader does not move.
    Invalid(&'static str),
}

/// Reads the frames of one segment, in windows.
struct FrameReader {
    file: Box<dyn AppendFile>,
    path: String,
    place: Place,
    /// Where the next frame is.
    at: u64,
    /// Where to stop.
    end: u64,
    window: Bytes,
    /// Where the window starts.
    window_at: u64,
}

impl FrameReader {
    fn new(file: Box<dyn AppendFile>, path: &str, place: Place, at: u64, end: u64) -> Self {
        FrameReader { file, path: path.to_owned(), place, at, end, window: Bytes::new(), window_at: at }
    }

    fn next(&mut self) -> Result<Next, LogError> {
        if self.at == self.end {
            return Ok(Next::End);
        }
        let Some(head) = self.peek(FRAME_BYTES)? else {
            return Ok(Next::Invalid("the file ends within the head of a record"));
        };
        let Some(frame) = Frame::decode(std::array::from_fn(|idx| head[idx]), self.place, self.at) else {
            return Ok(Next::Invalid("the checksum of a record's head does not match"));
        };
        let Some(bytes) = self.peek(FRAME_BYTES + frame.body_len)? else {
            return Ok(Next::Invalid("the file ends within a record"));
        };
        let body = bytes.slice(FRAME_BYTES..);
        if !frame.matches(&body) {
            return Ok(Next::Invalid("the checksum of a record does not match"));
        }
        self.at += bytes.len() as u64;
        Ok(Next::Frame(frame, body))
    }

    /// Returns the next `len` bytes, without moving; `None` if there are fewer.
    fn peek(&mut self, len: usize) -> Result<Option<Bytes>, LogError> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        if left < len {
            return Ok(None);
        }
        let mut start = usize::try_from(self.at - self.window_at).expect("the window was read into memory");
        if self.window.len() - start < len {
            // Keeps what is there already: a record that is longer than a window is not read twice.
            let kept = self.window.slice(start..);
            let mut window = Vec::with_capacity(len.max(READ_BYTES).min(left));
            window.extend_from_slice(&kept);
            window.resize(len.max(READ_BYTES).min(left), 0);
            let found = read_full(&*self.file, self.at + kept.len() as u64, &mut window[kept.len()..])?;
            if kept.len() + found < window.len() {
                let source = std::io::ErrorKind::UnexpectedEof.into();
                return Err(StorageError::Io { action: "read to the end of", path: self.path.clone(), source }.into());
            }
            self.window = window.into();
            self.window_at = self.at;
            start = 0;
        }
        Ok(Some(self.window.slice(start..start + len)))
    }
}
