//! Replays a log: from its beginning or from a checkpoint on, every record verified; then hands over to the writer.

use std::sync::Arc;

use super::frames::{FrameReader, Next};
use super::record::Record;
use super::recovery::Tail;
use super::scan::Scan;
use super::segment::Segment;
use super::writer::{Current, Draft, LogWriter};
use super::{LogError, LogOptions, damaged};
use crate::epoch::Epoch;
use crate::seeded_bugs::{SeededBug, is_planted};
use crate::storage::Storage;

/// How far back a log can be replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// The first epoch that is there as a whole; the open one, if none is sealed.
    pub first: Epoch,
    /// Whether that is the beginning of the log: no record was deleted by [`shrink`](super::shrink()).
    pub whole: bool,
}

/// A log that is being replayed.
///
/// ```text
///   [skip_to()] ─► next() ─► Some(record) ─► … ─► next() ─► None ─► finish() ─► LogWriter
///        └────────────┴─► Err: nothing was changed; every later next() fails
/// ```
pub struct Replay {
    storage: Arc<dyn Storage>,
    dir: String,
    options: LogOptions,
    scan: Scan,
    /// Whether this process made the last segment, so that no other one can have begun to write it.
    owns_last: bool,
    state: State,
}

enum State {
    Opened,
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
        owns_last: bool,
    ) -> Result<Replay, LogError> {
        let scan = Scan::new(&*storage, segments, 0)?;
        Ok(Replay { storage, dir, options, scan, owns_last, state: State::Opened })
    }

    /// Returns the log's own id: made once, with the log, and never changed.
    pub fn log_id(&self) -> u128 {
        self.scan.segments[0].header.log_id
    }

    /// Returns how far back the log can be replayed.
    pub fn reach(&self) -> Reach {
        let header = &self.scan.segments[0].header;
        Reach { first: header.start.epoch, whole: header.is_beginning() }
    }

    /// Returns when the first epoch that is there was sealed, in microseconds since 1970, UTC: people are told that the
    /// log reaches back to then. `None` if no epoch is sealed.
    ///
    /// Reads the log up to there, beside the replay.
    pub fn oldest_sealed_us(&self) -> Result<Option<i64>, LogError> {
        let mut scan = Scan::new(&*self.storage, self.scan.segments.clone(), 0)?;
        while let Some(record) = scan.next(&*self.storage)? {
            if let Record::Seal { now_us, .. } = record {
                return Ok(Some(now_us));
            }
        }
        Ok(None)
    }

    /// Moves just behind the Seal of `epoch`, where a checkpoint of that epoch is replayed from;
    /// behind [`Epoch::NONE`] is the beginning.
    ///
    /// Begins in the segment that holds the place: earlier ones are not read, and need not be there any more. What it
    /// reads of that segment is verified, but not yielded.
    ///
    /// A log that begins later ([`LogError::BeginsLater`]) can still be replayed, or skipped elsewhere. After every
    /// other error, such as [`LogError::EndsEarlier`], the replay has failed.
    ///
    /// # Panics
    /// After [`Replay::next`], or a second time.
    pub fn skip_to(&mut self, epoch: Epoch) -> Result<(), LogError> {
        assert!(matches!(self.state, State::Opened), "a replay skips before it yields anything");
        let (open, segments) = (Epoch(epoch.0.saturating_add(1)), &self.scan.segments);
        // A recovery may have emptied a segment: the last one that begins with an epoch is the one that holds it.
        let Some(segment_idx) = segments.iter().rposition(|segment| segment.header.start.epoch <= open) else {
            let Segment { path, header, .. } = &segments[0];
            return Err(LogError::BeginsLater { path: path.clone(), first: header.start.epoch, epoch });
        };
        let result = self.skip(segment_idx, open);
        self.state = match &result {
            Ok(()) => State::Reading,
            Err(error) => State::Failed(error.to_string()),
        };
        result
    }

    /// Returns the last epoch whose Seal was passed and is known to be durable. The last group of a log may be in
    /// memory only until [`Replay::finish`]: a result of it that is made durable before would be ahead of its input.
    pub fn settled_epoch(&self) -> Epoch {
        let scan = &self.scan;
        let position = if scan.is_in_last_segment() { scan.tail.settled().position } else { scan.position };
        Epoch(position.epoch.0.saturating_sub(1))
    }

    /// Returns the next record; `None` at the end. Its messages share the memory that was read.
    #[expect(clippy::should_implement_trait, reason = "an iterator of results invites to skip the errors")]
    pub fn next(&mut self) -> Result<Option<Record>, LogError> {
        let result = match &self.state {
            State::Opened | State::Reading => self.scan.next(&*self.storage),
            State::Done => return Ok(None),
            State::Failed(why) => return Err(LogError::Poisoned(why.clone())),
        };
        self.state = match &result {
            Ok(Some(_)) => State::Reading,
            Ok(None) => State::Done,
            Err(error) => State::Failed(error.to_string()),
        };
        result
    }

    /// Makes what was replayed durable once more, without a torn tail, and returns the writer that goes on from there.
    ///
    /// # Panics
    /// If [`Replay::next`] has not returned `None`.
    pub fn finish(self) -> Result<LogWriter, LogError> {
        assert!(matches!(self.state, State::Done), "a log is written on only after all of it was replayed");
        let Replay { storage, dir, options, scan, owns_last, .. } = self;
        let (last, tail, position) = (scan.last_segment(), &scan.tail, scan.position);
        let bytes: u64 = scan.segments.iter().map(|segment| segment.size).sum();
        if tail.is_settled(last.size) || is_planted(SeededBug::TornTailAccepted) {
            let current = Current::open(&*storage, last)?;
            let writer = LogWriter::new(Arc::clone(&storage), dir, options, current, position, bytes);
            // Another process may have this file open, stopped for now: what it still writes must hit nothing of ours.
            return Ok(if owns_last { writer } else { writer.starting_with(continue_after(&*storage, last, tail)?) });
        }
        if tail.end() < last.size {
            let torn_bytes = last.size - tail.end();
            tracing::warn!(
                path = last.path,
                at = tail.end(),
                torn_bytes,
                "cut a torn tail that was never acknowledged"
            );
        }
        let draft = continue_after(&*storage, last, tail)?;
        let bytes = bytes + draft.size();
        let current = draft.make(&*storage, &dir)?;
        Ok(LogWriter::new(storage, dir, options, current, position, bytes))
    }

    fn skip(&mut self, segment_idx: usize, open: Epoch) -> Result<(), LogError> {
        if segment_idx > 0 {
            self.scan = Scan::new(&*self.storage, self.scan.segments.clone(), segment_idx)?;
        }
        while self.scan.position.epoch < open {
            if self.scan.next(&*self.storage)?.is_none() {
                let last = Epoch(self.scan.position.epoch.0.saturating_sub(1));
                let (path, at) = (self.scan.segment().path.clone(), self.scan.tail.end());
                return Err(LogError::EndsEarlier { path, at, last, epoch: Epoch(open.0 - 1) });
            }
        }
        Ok(())
    }
}

/// Copies what is not settled of the last segment, and what of it is in no whole epoch, into a draft of the next one.
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
