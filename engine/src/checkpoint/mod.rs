//! Checkpoints: what bounds a replay, and where a commit is decided.
//!
//! ```text
//!   # │ a checkpoint of epoch e                                        │ if the process dies just after
//!   ──┼────────────────────────────────────────────────────────────────┼─────────────────────────────────────────────
//!   1 │ Seal(e) in the log is marked, and durable                      │ the checkpoint before, and the log behind it
//!   2 │ each operator's gate closes e, hands its state over, goes on   │ the same
//!   3 │ phase one: tables write and sync files that nobody names       │ the same; the files are garbage
//!   4 │ the state is written to packs, in the background               │ the same; the packs are garbage
//!   5 │ the manifest is written, once and at once                      │ the checkpoint exists, the commit is decided:
//!     │                                                                │ recovery rolls it forward
//!   6 │ phase two: each table commits, by the epoch in its own log     │ rolling forward finds what is done
//!   7 │ older checkpoints and the log behind them are removed          │ removed next time
//! ```
//! Between two checkpoints tables may commit more often: such a manifest holds no state, only the decision, and names the
//! manifest whose checkpoint it builds on. What was committed behind that checkpoint is computed again by the replay, and
//! dropped by the table, which knows its last epoch.
//!
//! # Taking charge
//!
//! The first thing that a start decides is that it is in charge: when it has rolled the newest manifest forward, it writes
//! one of its own that decides nothing else. A process that was written off, and is not dead, finds that number taken, and
//! stops. What it has decided just before is found in the same way, and rolled forward too. Without this it could still
//! decide the next manifest, and commit rows that its successor has in a commit of its own.
//!
//! # Files
//!
//! ```text
//!   checkpoint/manifest/00000000000000000042.json     each number written once, only if absent
//!   checkpoint/state/000000000812-00000000000000000007-0000.pack
//!                    └ epoch      └ incarnation        └ number within the checkpoint
//! ```
//! A pack holds *parts*: panes, keys that a deduplicated source remembers, and rows that no table file has yet. A later
//! manifest may name parts of an earlier pack again: what has not changed is not written again, unless the rest of its
//! pack is garbage. A pack lives as long as a manifest that names it.

mod manifest;
mod pack;
mod recovery;
mod sparse;
mod store;

pub use manifest::{
    BufferState, Checkpoint, DedupSaved, Holds, Manifest, PaneState, PartitionState, SourceState, TableState,
    WindowSaved,
};
pub use pack::{PackWriter, Part};
pub use recovery::{
    Decision, FoundCheckpoint, FoundLog, FoundManifest, FoundTable, From, Start, decide, line_of_descent,
    possible_starts, rolls_forward,
};
pub use sparse::leave_sparse_packs;
pub(crate) use store::STEPS_MAX;
pub use store::{Attempt, Collected, MANIFEST_FOLDER, STATE_FOLDER, Store};

use crate::storage::StorageError;

/// How many checkpoints are kept: the newest, the one that replaces it if it is damaged, and one to go back to.
pub const CHECKPOINTS_KEPT: usize = 3;

/// What can go wrong with the files of checkpoints.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file is not what was written.
    #[error("{path} is damaged at byte {at}: {why}")]
    Damaged {
        /// The file.
        path: String,
        /// Where in it.
        at: u64,
        /// What was found there.
        why: String,
    },
    /// A newer version of the program wrote it.
    #[error(
        "{path} has format version {version}, and this program reads versions up to {}. Nothing was changed. Start the \
         newer version of the program that wrote it",
        manifest::VERSION
    )]
    Newer {
        /// The file.
        path: String,
        /// Its version.
        version: u64,
    },
    /// Another process has written where this one was to write.
    #[error(
        "{path} was written by another process, which has taken over the data folder: this one commits nothing more"
    )]
    Overtaken {
        /// The manifest.
        path: String,
    },
    /// Rows cannot be written as a part.
    #[error("cannot encode state: {0}")]
    Encode(#[from] arrow::error::ArrowError),
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}
