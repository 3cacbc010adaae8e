//! Decoding: raw messages to columns. What does not decode becomes a dead letter, never an error.

use std::ops::Range;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;

use crate::source::{Data, Offset};

/// A message, or a row of one, that could not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Which message of the chunk.
    pub message: usize,
    /// Its topic.
    pub topic: Bytes,
    /// The bytes that could not be used: the message, or the one row of it.
    pub payload: Bytes,
    /// Why, for people: what was expected and what was found.
    pub reason: String,
}

/// What a chunk decodes to. Every row of the input is in `batches` or in `dead`.
#[derive(Clone, Debug, Default)]
pub struct Decoded {
    /// The rows, in the format's schema.
    pub batches: Vec<RecordBatch>,
    /// The rest.
    pub dead: Vec<DeadLetter>,
    /// How many values of those rows are NULL because they did not fit in their column.
    pub nulled: u64,
    /// How many tags, labels, fields and attributes of those rows are in no column, since none is declared for them.
    pub dropped_attributes: u64,
}

impl Decoded {
    /// Adds what another piece of the same chunk decodes to.
    pub fn extend(&mut self, more: Decoded) {
        self.batches.extend(more.batches);
        self.dead.extend(more.dead);
        self.nulled += more.nulled;
        self.dropped_attributes += more.dropped_attributes;
    }
}

/// Where a chunk stands in the log. It was written down when the chunk was recorded, so a replay finds the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place<'c> {
    /// The partition it came from.
    pub partition: &'c str,
    /// When it arrived, microseconds.
    pub arrival_us: i64,
    /// Which messages it holds, or rows of columns: runs of first offset and count.
    pub runs: &'c [(Offset, usize)],
}

impl Place<'_> {
    /// Returns where a message of the chunk stands; the place of the chunk itself for one that is not in it.
    pub fn offset_of(&self, message: usize) -> Offset {
        let mut before = 0;
        for (first, count) in self.runs {
            if message < before + count {
                return Offset(first.0 + (message - before) as u64);
            }
            before += count;
        }
        self.runs.last().map_or(Offset(0), |(first, _)| *first)
    }

    /// Returns the runs of some of its messages, as if they were a chunk by themselves.
    pub fn runs_of(&self, messages: Range<usize>) -> Vec<(Offset, usize)> {
        let mut runs = Vec::new();
        let mut before = 0;
        for (first, count) in self.runs {
            let start = messages.start.clamp(before, before + count);
            let end = messages.end.clamp(before, before + count);
            if start < end {
                runs.push((Offset(first.0 + (start - before) as u64), end - start));
            }
            before += count;
        }
        runs
    }

    /// Returns where each message stands, in order.
    pub fn offsets(&self) -> impl Iterator<Item = Offset> + '_ {
        self.runs.iter().flat_map(|(first, count)| (0..*count as u64).map(move |at| Offset(first.0 + at)))
    }
}

/// A kind of encoding with its schema: makes decoders, one for each worker.
pub trait Format: Send + Sync + 'static {
    /// The columns that come out: text as `Utf8View`, times as `Timestamp(Microsecond, "UTC")`.
    fn schema(&self) -> SchemaRef;
    /// Makes a decoder.
    fn decoder(&self) -> Box<dyn Decoder>;
}

/// Turns chunks into columns. The result depends on the chunk and its place alone, not on what was decoded before: so a
/// replay gives the same.
pub trait Decoder: Send {
    /// Decodes one chunk; a bad row never takes others with it.
    fn decode(&mut self, data: &Data, place: &Place<'_>) -> Decoded;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_has_its_place_whatever_runs_it_came_in() {
        let runs = [(Offset(7), 2), (Offset(20), 1), (Offset(30), 3)];
        let place = Place { runs: &runs, ..Place::default() };
        let offsets: Vec<u64> = place.offsets().map(|offset| offset.0).collect();
        assert_eq!(offsets, [7, 8, 20, 30, 31, 32]);
        for (message, offset) in offsets.iter().enumerate() {
            assert_eq!(place.offset_of(message), Offset(*offset));
        }
        assert_eq!(Place::default().offset_of(3), Offset(0));
        for start in 0..=6 {
            for end in start..=6 {
                let part = Place { runs: &place.runs_of(start..end), ..place };
                assert!(part.offsets().map(|offset| offset.0).eq(offsets[start..end].iter().copied()));
            }
        }
    }
}
