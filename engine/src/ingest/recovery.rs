//! The decisions about the end of a log: what is torn, what is damaged, and where the next segment begins.

use std::collections::VecDeque;

use super::LogError;
use super::frame::{FRAME_BYTES, Frame, Place};
use super::position::Position;
use super::segment::{HEADER_BYTES, Header, read_full};
use crate::storage::AppendFile;

/// Bytes that the search for later groups reads at once.
const SEARCH_BYTES: usize = 64 << 10;

/// An end of an epoch: where a segment can begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// Where in the last segment.
    pub(super) at: u64,
    /// Where the log stands there.
    pub(super) position: Position,
}

/// What is known of the last segment while its frames are read.
///
/// `settled` ≤ `durable` ≤ `end`: before `durable` everything is known to be on the medium; between `durable` and
/// `end` lies the last group, of which nobody knows it.
#[derive(Debug)]
pub(super) struct Tail {
    durable: u64,
    /// The last mark that is not after `durable`.
    settled: Mark,
    /// The marks after `durable`, all in the last group.
    unsettled: VecDeque<Mark>,
    end: u64,
}

impl Tail {
    pub(super) fn new(header: &Header) -> Tail {
        let start = Mark { at: HEADER_BYTES as u64, position: header.start };
        Tail { durable: header.made_bytes, settled: start, unsettled: VecDeque::new(), end: start.at }
    }

    /// Moves over a valid frame that ends at `end`; `sealed` says where the log stands if it was a Seal.
    pub(super) fn pass(&mut self, frame: &Frame, end: u64, sealed: Option<Position>) {
        // A group was written only after the one before it was durable.
        self.durable = self.durable.max(frame.group_start);
        self.end = end;
        if let Some(position) = sealed {
            self.unsettled.push_back(Mark { at: end, position });
        }
        while let Some(mark) = self.unsettled.pop_front_if(|mark| mark.at <= self.durable) {
            self.settled = mark;
        }
    }

    /// Decides about bytes at `bad` that are no valid frame: returns why they are damage, or `None` if they are torn.
    ///
    /// `later_group` is the start of a group that a valid frame after `bad` belongs to.
    pub(super) fn damage_at(&self, bad: u64, later_group: Option<u64>) -> Option<String> {
        if bad < self.durable {
            return Some(format!("the segment was made with its first {} bytes at once", self.durable));
        }
        later_group.map(|start| format!("a record of the later write at byte {start} shows that it was durable"))
    }

    /// Returns whether the whole file is known to be durable, so that it can be continued.
    pub(super) fn is_settled(&self, size: u64) -> bool {
        self.end == size && self.durable >= size
    }

    /// Returns the last end of an epoch that is known to be durable.
    pub(super) fn settled(&self) -> Mark {
        self.settled
    }

    /// Returns where the valid frames end.
    pub(super) fn end(&self) -> u64 {
        self.end
    }
}

/// Searches the bytes after `bad` for the head of a frame whose group starts after `bad`; returns where that group
/// starts. Its existence proves that everything before the group was durable when it was written.
pub(super) fn find_later_group(
    file: &dyn AppendFile,
    place: Place,
    bad: u64,
    size: u64,
) -> Result<Option<u64>, LogError> {
    let mut buf = vec![0; SEARCH_BYTES];
    let mut window_at = bad;
    // A window may be as short as the file is; the next one starts where the last head of this one did not fit.
    while window_at < size {
        let len = read_full(file, window_at, &mut buf)?;
        for (idx, head) in buf[..len].windows(FRAME_BYTES).enumerate() {
            let head = std::array::from_fn(|byte| head[byte]);
            match Frame::decode(head, place, window_at + idx as u64) {
                Some(frame) if frame.group_start > bad => return Ok(Some(frame.group_start)),
                _ => {}
            }
        }
        match len.checked_sub(FRAME_BYTES - 1) {
            Some(moved) if moved > 0 => window_at += moved as u64,
            _ => break,
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::super::frame;
    use super::super::record::{PartitionId, Record};
    use super::*;
    use crate::epoch::Epoch;
    use crate::storage::{MemoryStorage, Storage};

    const START: u64 = HEADER_BYTES as u64;

    fn group(start: u64) -> Frame {
        let mut bytes = Vec::new();
        let place = Place::new(0, 1);
        frame::push(&mut bytes, &Record::End { partition: PartitionId(0) }, place, start, start);
        Frame::decode(std::array::from_fn(|idx| bytes[idx]), place, start).unwrap()
    }

    fn at_epoch(epoch: u64) -> Position {
        Position { epoch: Epoch(epoch), ..Position::START }
    }

    #[test]
    fn the_next_segment_begins_at_an_epoch_that_was_durable_before_the_last_group() {
        let mut tail = Tail::new(&Header::first(0));
        assert!(tail.is_settled(START), "an empty log is continued");
        tail.pass(&group(START), 100, Some(at_epoch(2)));
        assert_eq!(tail.settled(), Mark { at: START, position: Position::START });
        tail.pass(&group(100), 120, None);
        assert_eq!(tail.settled(), Mark { at: 100, position: at_epoch(2) });
        tail.pass(&group(100), 140, Some(at_epoch(3)));
        tail.pass(&group(100), 160, Some(at_epoch(4)));
        assert_eq!(tail.settled(), Mark { at: 100, position: at_epoch(2) });
        tail.pass(&group(160), 180, None);
        assert_eq!(tail.settled(), Mark { at: 160, position: at_epoch(4) });
        assert_eq!(tail.end(), 180);
        assert!(!tail.is_settled(180), "the last group may be in memory only");
    }

    #[test]
    fn a_segment_that_was_made_at_once_is_continued() {
        let header = Header { made_bytes: 140, ..Header::first(0) };
        let mut tail = Tail::new(&header);
        assert!(tail.damage_at(START, None).is_some(), "what was made at once cannot be torn");
        tail.pass(&group(START), 140, None);
        assert!(tail.is_settled(140));
        assert!(!tail.is_settled(141), "nothing is written behind garbage");
        assert!(tail.damage_at(140, None).is_none());
        assert!(tail.damage_at(140, Some(150)).is_some());
    }

    #[test]
    fn a_later_group_is_found_wherever_it_starts_and_the_same_group_is_not() {
        let (place, bad) = (Place::new(5, 2), START + 7);
        let storage = MemoryStorage::default();
        for distance in [1, 16, SEARCH_BYTES as u64 - 16, SEARCH_BYTES as u64 - 15, SEARCH_BYTES as u64, 200_000] {
            let at = bad + distance;
            for (group_start, found) in [(at, Some(at)), (bad + 1, Some(bad + 1)), (bad, None), (START, None)] {
                let mut bytes = vec![0; at as usize];
                frame::push(&mut bytes, &Record::End { partition: PartitionId(0) }, place, at, group_start);
                storage.put("segment", &bytes).unwrap();
                let file = storage.open("segment").unwrap();
                assert_eq!(find_later_group(&*file, place, bad, file.size()).unwrap(), found);
            }
        }
    }
}
