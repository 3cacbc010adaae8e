//! Key groups: the unit in which keyed state is spread over workers.

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
