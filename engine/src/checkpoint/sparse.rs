//! Sparse packs: those of which the next checkpoint names so little that keeping them wastes the disk.
//!
//! A pack lives as long as one of its parts is named. A pane that does not change is named again and again, and may lie in
//! a pack whose other parts nobody needs any more:
//!
//! ```text
//!   pack of epoch 10   │ a │ b │ c │ d │      b alone is still named: less than a quarter
//!   pack of epoch 70   │ x │ y │ b'│          so b moves; the old pack goes with the last checkpoint that names it
//! ```
//! Hence the packs of panes and notes that one checkpoint names are never larger than four times what it names in them, and
//! to move a byte frees three. Rows of tables stay: they are named only until the next commit.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::pack::PackReader;
use super::{CheckpointError, PackWriter, Part, Store};
use crate::seeded_bugs::{SeededBug, is_planted};

/// A pack of which less than this fraction is named is left by what is named of it: one in so many bytes.
const NAMED_ONE_IN: u64 = 4;

/// Writes parts anew that lie in sparse packs; returns for each of those where it is now. `named` are all parts that the
/// next checkpoint names so far; those that are in `packs` themselves stay.
///
/// A part that turns out to be damaged stays where it is: what can be done about it, the next start does.
pub fn leave_sparse_packs<'p>(
    store: &Store,
    named: impl Iterator<Item = &'p Part>,
    packs: &mut PackWriter<'_>,
) -> Result<HashMap<Part, Part>, CheckpointError> {
    // In an order of its own, so that the same state is the same files.
    let mut by_pack: BTreeMap<&str, Vec<&Part>> = BTreeMap::new();
    let mut known = HashSet::new();
    for part in named.filter(|part| !packs.is_own(part)) {
        if known.insert(part) {
            by_pack.entry(&part.file).or_default().push(part);
        }
    }
    if by_pack.is_empty() {
        return Ok(HashMap::new());
    }
    let sizes = store.pack_sizes()?;
    let mut moved = HashMap::new();
    for (pack, parts) in by_pack {
        let named_bytes = parts.iter().map(|part| part.length).sum();
        if !sizes.get(pack).is_some_and(|pack_bytes| is_sparse(named_bytes, *pack_bytes)) {
            continue;
        }
        // One for each pack: it keeps what it has read.
        let mut reader = PackReader::new(store.storage());
        for part in parts {
            match reader.encoded(part) {
                Ok(bytes) => drop(moved.insert(part.clone(), packs.add_encoded(&bytes, part.rows)?)),
                Err(error @ CheckpointError::Damaged { .. }) => tracing::warn!("{error}"),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(moved)
}

fn is_sparse(named_bytes: u64, pack_bytes: u64) -> bool {
    named_bytes.saturating_mul(NAMED_ONE_IN) < pack_bytes && !is_planted(SeededBug::SparsePacksKept)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, RecordBatch};

    use super::*;
    use crate::checkpoint::STATE_FOLDER;
    use crate::epoch::Epoch;
    use crate::storage::{MemoryStorage, Storage};

    /// Rows that do not compress well.
    fn rows(count: i64) -> RecordBatch {
        let values = (0..count).map(|value| value.wrapping_mul(0x9E37_79B9_7F4A_7C15_u64.cast_signed()));
        RecordBatch::try_from_iter([("x", Arc::new(Int64Array::from_iter_values(values)) as _)]).expect("a batch")
    }

    #[test]
    fn what_is_named_leaves_a_pack_that_is_mostly_garbage_and_no_other() {
        let storage = Arc::new(MemoryStorage::default());
        let store = Store::new(Arc::<MemoryStorage>::clone(&storage));
        let mut packs = store.packs(Epoch(1), 1);
        let (small, large) = (packs.add(&rows(10)).expect("encodes"), packs.add(&rows(1_000)).expect("encodes"));
        packs.finish().expect("written");
        let mut packs = store.packs(Epoch(2), 1);
        let own = packs.add(&rows(5)).expect("encodes");
        let none = leave_sparse_packs(&store, [&small, &large, &own].into_iter(), &mut packs).expect("works");
        assert!(none.is_empty(), "all of it is named: {none:?}");
        let moved = leave_sparse_packs(&store, [&small, &own, &small].into_iter(), &mut packs).expect("works");
        assert_eq!(moved.keys().collect::<Vec<_>>(), [&small]);
        let there = &moved[&small];
        packs.finish().expect("written");
        assert_ne!(there.file, small.file);
        assert_eq!(store.read_parts([there, &own]).expect("whole"), [rows(10), rows(5)]);
    }

    #[test]
    fn a_damaged_part_stays_where_it_is() {
        let storage = Arc::new(MemoryStorage::default());
        let store = Store::new(Arc::<MemoryStorage>::clone(&storage));
        let mut packs = store.packs(Epoch(1), 1);
        let small = packs.add(&rows(10)).expect("encodes");
        packs.add(&rows(1_000)).expect("encodes");
        packs.finish().expect("written");
        let path = format!("{STATE_FOLDER}/{}", small.file);
        let mut bytes = storage.get(&path).expect("there").to_vec();
        bytes[small.offset as usize + 3] ^= 1;
        storage.put(&path, &bytes).expect("memory");
        let mut packs = store.packs(Epoch(2), 1);
        let moved = leave_sparse_packs(&store, std::iter::once(&small), &mut packs).expect("works");
        assert!(moved.is_empty());
    }
}
