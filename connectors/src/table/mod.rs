//! Tables: Parquet files beside a Delta log, so that every engine reads them from a bare folder, always whole epochs.
//!
//! ```text
//!   readings/_delta_log/00000000000000000000.json     protocol, schema, whose table it is
//!                       00000000000000000001.json     txn{app id, epoch} + one add for each file
//!                       00000000000000000100.checkpoint.parquet, _last_checkpoint     so that opening stays fast
//!   readings/date=2026-11-20/e000000000042-9f2c61d0a4b8e357-w00000-0000.parquet
//!                             └ epoch       └ incarnation    └ worker └ sequence
//!
//!             prepare(e)                    commit(e)
//!   rows ─► files, durable,      ─► version v = last + 1, written once if absent:
//!           named by nobody         readers see all files of e at once, and e itself in `txn`
//! ```
//! The log itself says what is committed: the epoch in `txn` is read before anything is written, and a commit whose
//! outcome is unknown is read back before anything else happens. A file's name is unique for each attempt and never
//! used again, so a file that no version names is garbage, whatever is in it: once the table has passed its epoch, it
//! is deleted.
//!
//! A table is opened in two steps. The first one tells what is there, the second makes it what the job decides: a new
//! table, the same one, or the same one with its content replaced, in one version. A restore takes files out the same
//! way. Each such step counts the table's *generation* up, and the epochs of the log keep their numbers.
//!
//! Reader protocol 1, writer protocol 2, no table features. What that leaves out: deletion vectors, column mapping,
//! timestamps without a zone (every instant is UTC here), unsigned integers (widened). What this module does not do
//! yet: compaction, and retention of rows.
//!
//! Modules from the sink down to the bytes, then the reader's side.

mod sink;

mod opening;
mod rewind;

mod committer;
mod encode;
mod identity;
mod layout;
mod order;
mod path;
mod settle;
mod stats;
mod types;
mod value;
mod writer;

mod actions;
mod log;

mod checkpoint;
mod clean;
mod replay;
mod snapshot;

mod describe;

#[cfg(test)]
mod tests;

pub use describe::{
    CheckpointDescription, Checksums, FileDescription, FileState, LogDescription, OrphanFile, OrphanKind, RemovedFile,
    TableDescription, describe,
};
pub use layout::{Partitioning, TableSpec};
pub use opening::{Begun, Found};
pub use rewind::{Rewind, Rewound, rewind};
pub use sink::TableSink;
pub use snapshot::{ColumnBounds, DataFile, RunningChecksum, Snapshot};
pub use value::Value;

use tidemill_engine::sink::SinkError;
use tidemill_engine::storage::StorageError;

/// Why a table could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// Storage refused.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A file of the log is not what was written there.
    #[error("{path} is damaged: {problem}; restore it from a copy, or move the table's folder away to rebuild it")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong with it, and where.
        problem: String,
    },
    /// The table uses what this version does not know.
    #[error("table {dir} cannot be read: {problem}")]
    Unsupported {
        /// The table's folder.
        dir: String,
        /// What it uses.
        problem: String,
    },
}

impl TableError {
    /// The same problem, as a sink tells it.
    fn into_sink_error(self, table: &str) -> SinkError {
        let table = table.to_owned();
        match self {
            TableError::Storage(source) => SinkError::Storage { table, source },
            damaged_or_unsupported => refused(&table, damaged_or_unsupported.to_string()),
        }
    }
}

/// The error of a sink that must not go on.
fn refused(table: &str, problem: String) -> SinkError {
    SinkError::Refused { table: table.to_owned(), problem }
}
