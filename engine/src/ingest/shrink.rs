//! Deletes the oldest segments, when a checkpoint stands for what is in them.
//!
//! ```text
//!   keep_from = 9     1: epochs 1-3    2: epochs 4-8    3: epochs 9-12    4: epoch 13 …
//!                     └── deleted ──┘└── deleted ──┘  └ begins with 9 ┘
//! ```
//!
//! One at a time, the oldest first, each durably before the next: whenever the process or the power dies, what is left
//! is a log that begins later, and never one with a gap.

use super::LogError;
use super::segment;
use crate::epoch::Epoch;
use crate::storage::Storage;

/// What [`shrink`] deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shrunk {
    /// How many segments.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Deletes the segments that hold nothing of `keep_from` or of a later epoch, and never the last one.
///
/// To replay behind a checkpoint of epoch s, keep from s + 1. May run beside the [`LogWriter`](super::LogWriter) of
/// the same log, and beside a [`Replay`](super::Replay) that was [skipped](super::Replay::skip_to) to `keep_from`; but
/// only once at a time. After an error a part may be deleted: a later call goes on.
pub fn shrink(storage: &dyn Storage, dir: &str, keep_from: Epoch) -> Result<Shrunk, LogError> {
    let numbers = segment::numbers(storage, dir)?;
    // The name of a segment that the writer is just making may be visible and not yet durable: if a power loss took it
    // after the one before was deleted, both would be gone.
    storage.sync_dir(dir)?;
    let mut shrunk = Shrunk::default();
    let Some((first, later)) = numbers.split_first() else { return Ok(shrunk) };
    let mut oldest = segment::read(storage, dir, *first)?;
    for number in later {
        let successor = segment::read_successor(storage, dir, &oldest, *number)?;
        if successor.header.start.epoch > keep_from {
            break;
        }
        storage.delete(&oldest.path)?;
        storage.sync_dir(dir)?;
        shrunk.segments += 1;
        shrunk.bytes += oldest.size;
        oldest = successor;
    }
    Ok(shrunk)
}
