//! Key groups: the unit in which keyed state is spread over workers.

use serde::{Deserialize, Serialize};

/// The number of key groups. Fixed for ever: state is stored by key group.
pub const KEY_GROUP_COUNT: usize = 256;

/// One of the [`KEY_GROUP_COUNT`] shares of all keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyGroup(pub u8);

impl KeyGroup {
    /// Returns the group of a key by the top eight bits of its hash.
    #[inline]
    pub fn of(hash: u64) -> KeyGroup {
        KeyGroup((hash >> 56) as u8)
    }

    /// Returns the worker that owns this group: groups are dealt out in contiguous ranges.
    #[inline]
    pub fn worker(self, worker_count: usize) -> usize {
        usize::from(self.0) * worker_count / KEY_GROUP_COUNT
    }
}

/// Key groups side by side, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyGroups {
    /// The first one.
    pub first: u8,
    /// The last one.
    pub last: u8,
}

impl KeyGroups {
    /// All there are.
    pub const ALL: KeyGroups = KeyGroups { first: 0, last: u8::MAX };

    /// Returns the groups that a worker owns: see [`KeyGroup::worker`].
    pub fn of_worker(worker: usize, worker_count: usize) -> KeyGroups {
        let begin = |worker: usize| (worker * KEY_GROUP_COUNT).div_ceil(worker_count);
        let last = begin(worker + 1).min(KEY_GROUP_COUNT) - 1;
        KeyGroups { first: begin(worker) as u8, last: last as u8 }
    }

    /// Returns the groups that are in both, if there are any.
    pub fn shared_with(self, other: KeyGroups) -> Option<KeyGroups> {
        let (first, last) = (self.first.max(other.first), self.last.min(other.last));
        (first <= last).then_some(KeyGroups { first, last })
    }
}

/// A key as sixteen bytes, in the layout of Arrow's string views: four bytes of length, then up to twelve bytes of
/// the key itself, zero padded. A longer key keeps its first four bytes here, and eight bytes that are its owner's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyView(pub u128);

/// The longest key that lies in its view.
pub const INLINE_KEY_BYTES_MAX: usize = 12;

impl KeyView {
    /// The view of the null key: a length no key has.
    pub const NULL: KeyView = KeyView(u32::MAX as u128);

    /// Makes the view of a key. For a long one the owner's bytes are zero.
    #[inline]
    pub fn of(key: &[u8]) -> KeyView {
        let mut view = [0u8; 16];
        view[..4].copy_from_slice(&(key.len() as u32).to_le_bytes());
        let kept = if key.len() <= INLINE_KEY_BYTES_MAX { key.len() } else { 4 };
        view[4..4 + kept].copy_from_slice(&key[..kept]);
        KeyView(u128::from_le_bytes(view))
    }

    /// Returns the length in bytes; of the null key, `u32::MAX`.
    #[inline]
    pub fn size(self) -> usize {
        self.0 as u32 as usize
    }

    /// Whether the whole key lies in the view.
    #[inline]
    pub fn is_inline(self) -> bool {
        self.size() <= INLINE_KEY_BYTES_MAX
    }

    /// Returns length and first four bytes: what two equal long keys have in common beside their bytes.
    #[inline]
    pub fn prefix(self) -> u64 {
        self.0 as u64
    }

    /// Returns a long key's view with its owner's eight bytes set.
    #[inline]
    pub fn owned_at(self, place: u64) -> KeyView {
        KeyView(u128::from(self.prefix()) | (u128::from(place) << 64))
    }

    /// Returns the owner's eight bytes.
    #[inline]
    pub fn place(self) -> u64 {
        (self.0 >> 64) as u64
    }
}

/// Hashes a key. Version 1, fixed for ever, since key groups follow from it: a short key by two folded
/// multiplications of its view (as in wyhash, Wang Yi 2019), a long one by XXH3-64.
#[inline]
pub fn hash_key(view: KeyView, long: impl FnOnce() -> u64) -> u64 {
    if view.is_inline() || view == KeyView::NULL { hash_view(view) } else { long() }
}

/// Hashes the bytes of a key that is too long for its view.
#[inline]
pub fn hash_long(key: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(key)
}

#[inline]
fn hash_view(view: KeyView) -> u64 {
    const A: u64 = 0x2d35_8dcc_aa6c_78a5;
    const B: u64 = 0x8bb8_4b93_962e_acc9;
    const C: u64 = 0x4b33_a62e_d433_d4a3;
    let folded = fold(view.0 as u64 ^ A, (view.0 >> 64) as u64 ^ B);
    fold(folded ^ C, A)
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_belongs_to_one_worker_and_every_worker_has_groups() {
        for worker_count in 1..=8 {
            let owners: Vec<usize> = (0..=255).map(|group| KeyGroup(group).worker(worker_count)).collect();
            assert!(owners.is_sorted());
            assert_eq!(owners.iter().copied().collect::<std::collections::BTreeSet<_>>().len(), worker_count);
        }
    }

    #[test]
    fn the_hash_of_a_key_never_changes() {
        let hash = |key: &[u8]| hash_key(KeyView::of(key), || hash_long(key));
        let keys: [&[u8]; 3] = [b"", b"freezer-17", b"a key that is longer than twelve bytes"];
        let expected = [5_381_514_869_383_999_174, 2_573_284_066_509_254_566, 9_129_430_620_372_095_433];
        assert_eq!(keys.map(hash), expected);
    }

    #[test]
    fn similar_keys_spread_over_all_groups() {
        let mut seen = [0u32; KEY_GROUP_COUNT];
        for device in 0..25_600 {
            let key = format!("dev-{device:05}");
            seen[usize::from(KeyGroup::of(hash_view(KeyView::of(key.as_bytes()))).0)] += 1;
        }
        assert!(seen.iter().all(|count| (40..200).contains(count)), "{seen:?}");
    }
}
