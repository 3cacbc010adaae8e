//! Ablations: the protocol without one of its safeguards, where that is a step of the job and not of a module. Those in
//! modules are seeded bugs, in `engine/src/seeded_bugs.rs`.
//!
//! Not among them: a restore to a checkpoint of an abandoned branch. Since a restore refuses tables that lack rows, or whose
//! files have rows on both sides, going there is refused or does no harm.

use tidemill_connectors::table::{Checksums, FileState, describe};
use tidemill_engine::checkpoint::Store;
use tidemill_engine::storage::Storage;

use super::table::{TABLES, table_dir, words};

/// What is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ablation {
    /// Tables commit before the manifest is durable.
    CommitBeforeDecision,
    /// The log shrinks to a checkpoint before its manifest is durable.
    LogShrunkEarly,
    /// A restore takes files out, and no manifest says so.
    RestoreWithoutRecord,
    /// Prepared files are judged by the newest checkpoint, not by the table's own epoch.
    GarbageByCheckpoint,
}

/// All of them.
pub(crate) const ALL: [Ablation; 4] = [
    Ablation::CommitBeforeDecision,
    Ablation::LogShrunkEarly,
    Ablation::RestoreWithoutRecord,
    Ablation::GarbageByCheckpoint,
];

/// Deletes prepared files that the newest manifest says nothing of, up to its epoch.
pub(crate) fn clean_by_checkpoint(storage: &dyn Storage, store: &Store) -> Result<(), String> {
    let Some(number) = store.numbers().map_err(words)?.pop() else { return Ok(()) };
    let manifest = store.read(number).map_err(words)?;
    for table in TABLES {
        let Some(found) = describe(storage, &table_dir(table), Checksums::Skip).map_err(words)? else { continue };
        debug_assert!(found.files.iter().all(|file| file.state != FileState::WithoutChecksum));
        let pending = manifest.tables.get(table).map_or(&[][..], |state| &state.pending[..]);
        for orphan in found.orphans {
            let epoch: u64 = orphan.path[1..13].parse().map_err(words)?;
            if epoch <= manifest.epoch.0 && !pending.iter().any(|file| file.body.contains(&orphan.path)) {
                storage.delete(&format!("{}/{}", table_dir(table), orphan.path)).map_err(words)?;
            }
        }
    }
    Ok(())
}
