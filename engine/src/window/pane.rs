//! A pane: the groups of one stretch of event time, and their accumulators.

use std::sync::Arc;

use arrow::array::ArrayRef;

use super::key_table::{KeyTable, NO_GROUP};
use crate::aggregate::{Layout, Selection, Texts};

/// Keyed accumulators. A pane has its own keys, so that it goes away whole when its last window closes.
#[derive(Clone, Default)]
pub struct Pane {
    /// Shared with a checkpoint while that is written, and copied only when a new key comes: accumulators change with every
    /// row, keys seldom.
    pub(super) keys: Arc<KeyTable>,
    pub(super) slots: Vec<u64>,
    pub(super) texts: Texts,
}

impl Pane {
    /// Makes an empty pane that holds this many keys without growing.
    pub(super) fn with_capacity(key_count: usize, layout: &Layout) -> Pane {
        Pane {
            keys: Arc::new(KeyTable::with_capacity(key_count)),
            slots: Vec::with_capacity(key_count * layout.width()),
            texts: Texts::default(),
        }
    }

    /// Adds the selected rows. `groups` is scratch space.
    pub(super) fn update(
        &mut self,
        layout: &Layout,
        keys: &ArrayRef,
        hashes: &[u64],
        arguments: &[ArrayRef],
        selection: Selection<'_>,
        groups: &mut Vec<u32>,
    ) {
        self.intern(keys, hashes, selection, groups);
        self.make_room(layout);
        layout.update(&mut self.slots, &mut self.texts, groups, selection, arguments);
    }

    /// Finds or makes the group of each selected key.
    pub(super) fn intern(&mut self, keys: &ArrayRef, hashes: &[u64], selection: Selection<'_>, groups: &mut Vec<u32>) {
        if let Some(own) = Arc::get_mut(&mut self.keys) {
            return own.intern(keys, hashes, selection, groups);
        }
        self.keys.find(keys, hashes, selection, groups);
        if groups.contains(&NO_GROUP) {
            Arc::make_mut(&mut self.keys).intern(keys, hashes, selection, groups);
        }
    }

    /// Adds all groups of another pane.
    pub(super) fn merge(&mut self, layout: &Layout, other: &Pane) {
        let width = layout.width();
        for group in 0..other.keys.group_count() {
            let into = Arc::make_mut(&mut self.keys).adopt(&other.keys, group) as usize;
            self.make_room(layout);
            let from = &other.slots[group * width..(group + 1) * width];
            layout.merge(&mut self.slots[into * width..(into + 1) * width], &mut self.texts, from, &other.texts);
        }
    }

    pub(super) fn make_room(&mut self, layout: &Layout) {
        let wanted = self.keys.group_count() * layout.width();
        let before = self.slots.len();
        self.slots.resize(wanted, 0);
        for slot in self.slots[before..].chunks_exact_mut(layout.width()) {
            slot.copy_from_slice(layout.initial());
        }
    }

    /// Returns the bytes held.
    pub(super) fn bytes(&self) -> usize {
        self.keys.bytes() + self.slots.len() * size_of::<u64>() + self.texts.bytes()
    }
}
