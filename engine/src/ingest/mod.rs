//! The ingest log: what was acknowledged, in the order that decides every result.
//!
//! Sources that cannot be read again put their raw messages here, the others the ranges they read. A [`Record::Seal`]
//! ends an epoch. The log is the source of truth: the same log gives the same tables, so a decoder's mistake can be
//! repaired by reading it again.
//!
//! # What it guarantees
//!
//! 1. After [`LogWriter::sync`] returned `Ok`, every record appended before it is replayed by every later
//!    [`Log::open`], whole and in order, or opening fails with an error that names file and byte.
//! 2. A record that was not synced is replayed whole or not at all, and only if all records before it are.
//! 3. After the first failure the writer takes nothing more. Nothing is retried: the process recovers from the disk.
//! 4. Recovery changes no file. It ends with at most one new file that appears whole or not at all, so it may die
//!    at any point, any number of times.
//! 5. A replay behind a checkpoint of epoch s ([`Replay::skip_to`]) yields every record behind the Seal of s, whatever
//!    [`shrink()`] deleted that was told to keep from s + 1 on; or says that the log does not reach there.
//! 6. A writer that is [fenced](LogWriter::fenced_by) reports no success once another process has taken over, and
//!    nothing that it still writes gets into the log of the other: see [`crate::fence`].
//!
//! # Files
//!
//! A log is a folder of segments, `0000000001.log` and so on. A new one begins after a Seal once the last is over
//! [`LogOptions::segment_bytes_max`], or over [`LogOptions::checkpoint_segment_bytes_min`] if the Seal is marked for a
//! checkpoint, so each starts with an epoch. All numbers are little-endian.
//!
//! ```text
//!   segment  ┌──────────┬───────┬───────┬─────┬───────┐       group: what one `sync` made durable
//!            │ header   │ frame │ frame │  …  │ frame │       frame: one record
//!            └──────────┴───────┴───────┴─────┴───────┘
//!             80 bytes  └─ group ───────┘└─ group ────┘
//!
//!   header    0  8 magic "tidemill"            40  8 offset of the first message after the header
//!             8  4 format version, 2           48  8 epoch that is open there
//!            12  4 partitions declared before  56  8 end: how many bytes of the segment before count
//!            16 16 log id                      64  8 made: bytes of this file that were made with its header
//!            32  8 number of this segment      72  4 CRC32C of the header of the segment before (0 in the first)
//!                                              76  4 CRC32C of bytes 0..76
//!
//!   frame     0  4 length of the body, 1 to 64 MiB
//!             4  4 since: bytes from the start of its group to this frame
//!             8  4 CRC32C of the body
//!            12  4 CRC32C of log id, segment number, position in the segment and bytes 0..12
//!            16  … body: kind (1 byte) and fields, see `record.rs`
//! ```
//!
//! The checksum of a frame knows its place, so a block that was copied, moved or left over from another log is not
//! taken for a record. The header repeats what the segments before it lead to, so one that is missing, swapped,
//! shortened or foreign is found when the log is opened.
//!
//! # From a checkpoint on
//!
//! A checkpoint of epoch s stands for everything up to the Seal of s. What only it needs can go, in whole segments:
//!
//! ```text
//!    1: epochs 1-3     2: epochs 4-8     3: epochs 9-12      4: epoch 13 …        checkpoint of epoch 10
//!   └────── shrink() deletes ──────┘    └ 9, 10 ┘└ 11, 12 … are replayed ──►      keep from 11, skip to 10
//!                                        verified, not yielded
//! ```
//!
//! So the first segment that is there may have any number and begin at any epoch; a gap behind it is damage. That the
//! oldest segments were lost, and not shrunk, cannot be noticed here: who needs an epoch asks for it, and is told
//! ([`LogError::BeginsLater`], [`Replay::reach`]). A partition may have been declared in a segment that is gone; the
//! checkpoint knows it.
//!
//! # Recovery: torn or damaged
//!
//! Power loss may leave any part of the last, unsynced group, in any order. A later group, however, was written only
//! after the groups before it were durable. So, when the bytes at `bad` are not a valid frame:
//!
//! ```text
//!   in a segment with a successor, before its `end`            ─► damaged
//!   before `made` of the last segment                          ─► damaged
//!   a valid frame header follows whose group starts after bad  ─► damaged: what is at bad was durable once
//!   otherwise                                                  ─► torn: nothing from bad on was ever acknowledged,
//!                                                                 unless the very last group was damaged later,
//!                                                                 which looks the same
//! ```
//!
//! Damage is refused ([`LogError::Damaged`]) and never cut. To continue after a tail, torn or not, the last group
//! must be made durable once more: a dead process may have left it in memory only, or an fsync of it may have failed,
//! which the kernel reports only once. Recovery therefore makes the next segment of everything from the last epoch
//! boundary that is known to be durable, and records that boundary as the `end` of the segment before:
//!
//! ```text
//!   n    │ header │ … Seal 7 │ messages │ Seal 8 │ mess~~~~ torn         (not touched)
//!                            ▲          └─ last group ─
//!                            end of n
//!   n+1                      │ header │ messages │ Seal 8 │              one put_new: whole or not at all
//! ```
//!
//! If everything in the last segment was made with its header, it is durable, and nothing is made yet. Still it is left
//! as it is: the process that made it may be stopped and not dead, and write there once more. The next segment is made
//! by the first sync, in the same way. So *a process appends only to files that it made*, and of two that would make
//! the same one, one fails.
//!
//! # Limits
//!
//! A record: [`RECORD_BYTES_MAX`]. A group: [`GROUP_BYTES_MAX`]. A segment: `segment_bytes_max` and one epoch. Memory
//! while replaying: windows of 1 MiB, or one record, plus what the caller keeps of them; while finishing: the part of
//! the last segment that is made durable once more.
//!
//! # What is assumed
//!
//! 1. What was fsynced stays as it is, up to damage that a checksum of 32 bits finds. What was not may be there in
//!    any selection of its sectors, zeroed or as garbage.
//! 2. [`Storage::put_new`] is durable, and whole or not at all.
//! 3. One process at a time uses the folder: see [`LocalStorage::lock`](crate::storage::LocalStorage::lock); or each
//!    claims it, and its writer is fenced.
//! 4. A last segment that vanishes as a whole, or the last groups with it, cannot be noticed here. Who holds an epoch
//!    from elsewhere (a table, a checkpoint) compares it with the log's last, or skips to it.

mod describe;
mod frame;
mod frames;
mod position;
mod record;
mod recovery;
mod replay;
mod scan;
mod segment;
mod shrink;
mod writer;

#[cfg(test)]
mod tests;

pub use describe::{Description, PartitionDescription, SegmentDescription, TailState, describe};
pub use frame::RECORD_BYTES_MAX;
pub use record::{PartitionId, Record};
pub use replay::{Reach, Replay};
pub use shrink::{Shrunk, shrink};
pub use writer::{GROUP_BYTES_MAX, LogWriter};

use std::sync::Arc;

use crate::clock::Dice;
use crate::epoch::Epoch;
use crate::fence::Fenced;
use crate::storage::{Storage, StorageError};

/// How a log is written. Nothing here changes what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// A segment of at least this size is the last one's predecessor from its next Seal on.
    pub segment_bytes_max: u64,
    /// The same, if that Seal is marked for a checkpoint: what stands before a checkpoint can be deleted only in whole
    /// segments, so one that never gets large must end there, too.
    pub checkpoint_segment_bytes_min: u64,
}

impl Default for LogOptions {
    fn default() -> Self {
        // Large enough that making one (two fsyncs) is nothing beside the fsyncs that fill it.
        // And the smaller ones are still few: 1 MiB of sparse input lasts for many checkpoints.
        LogOptions { segment_bytes_max: 64 << 20, checkpoint_segment_bytes_min: 1 << 20 }
    }
}

impl LogOptions {
    /// Returns whether a segment that ends at `end` with this record is left.
    fn is_full(&self, last: &Record, end: u64) -> bool {
        match last {
            Record::Seal { checkpoint: true, .. } => {
                end >= self.segment_bytes_max.min(self.checkpoint_segment_bytes_min)
            }
            Record::Seal { .. } => end >= self.segment_bytes_max,
            _ => false,
        }
    }
}

/// Why a log cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Something that was durable is not there any more as it was.
    #[error(
        "the ingest log is damaged: {path} at byte {at}: {why}. Nothing was changed. Restore the log's files from a \
         backup, or move the data folder away to start anew"
    )]
    Damaged {
        /// The segment.
        path: String,
        /// Where in it.
        at: u64,
        /// What was found there.
        why: String,
    },
    /// A newer version of the program wrote it.
    #[error(
        "{path} has format version {version}, and this program reads versions up to {}. Nothing was changed. Start \
         the newer version of the program that wrote it",
        segment::VERSION
    )]
    Newer {
        /// The segment.
        path: String,
        /// Its version.
        version: u32,
    },
    /// The log was shrunk past the place where a replay should begin.
    #[error(
        "the ingest log cannot be replayed behind epoch {epoch}: it begins with epoch {first}, in {path}. Nothing was \
         changed. Go on from a checkpoint of epoch {} or later",
        .first.0.saturating_sub(1)
    )]
    BeginsLater {
        /// Its first segment.
        path: String,
        /// The first epoch that is there.
        first: Epoch,
        /// The epoch that was to be passed.
        epoch: Epoch,
    },
    /// The log has lost its end, or belongs to an earlier time than the checkpoint.
    #[error(
        "the ingest log cannot be replayed behind epoch {epoch}: it ends with epoch {last}, in {path} at byte {at}. \
         Nothing was changed. The log has lost its end: restore its files from a backup, or go on from a checkpoint of \
         epoch {last} or earlier"
    )]
    EndsEarlier {
        /// Its last segment.
        path: String,
        /// Where the valid records end.
        at: u64,
        /// The last epoch that is sealed.
        last: Epoch,
        /// The epoch that was to be passed.
        epoch: Epoch,
    },
    /// Another process uses the folder now.
    #[error(transparent)]
    Fenced(#[from] Fenced),
    /// An earlier append or sync failed.
    #[error("the ingest log takes nothing more since it failed: {0}")]
    Poisoned(String),
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// The ingest log of a folder.
#[derive(Clone, Copy, Debug)]
pub struct Log;

impl Log {
    /// Opens the log in `dir` to replay it, then to go on writing it. Makes it if there is none.
    ///
    /// The log's own id ([`Replay::log_id`]) is durable when this returns.
    pub fn open(
        storage: Arc<dyn Storage>,
        dir: &str,
        dice: &dyn Dice,
        options: LogOptions,
    ) -> Result<Replay, LogError> {
        if let Some(replay) = Log::existing(Arc::clone(&storage), dir, options)? {
            return Ok(replay);
        }
        let log_id = u128::from(dice.roll()) << 64 | u128::from(dice.roll());
        let header = segment::Header::first(log_id);
        storage.put_new(&segment::path(dir, header.number), &header.encode())?;
        let segments = segment::load(&*storage, dir)?;
        Replay::new(storage, dir.to_owned(), options, segments, true)
    }

    /// Opens the log in `dir` like [`Log::open`]; makes none, and returns `None` if there is none.
    pub fn existing(storage: Arc<dyn Storage>, dir: &str, options: LogOptions) -> Result<Option<Replay>, LogError> {
        // After a crash the name of a segment may be visible and not yet durable. What follows relies on it.
        storage.sync_dir(dir)?;
        let segments = segment::load(&*storage, dir)?;
        if segments.is_empty() {
            return Ok(None);
        }
        Replay::new(storage, dir.to_owned(), options, segments, false).map(Some)
    }
}

fn damaged(path: &str, at: u64, why: impl Into<String>) -> LogError {
    LogError::Damaged { path: path.to_owned(), at, why: why.into() }
}
