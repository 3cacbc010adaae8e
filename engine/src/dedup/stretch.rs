//! A stretch of time: the keys that are remembered in it, and their times.

use arrow::array::ArrayRef;

use crate::aggregate::Selection;
use crate::window::{KeyTable, KeysSince};

/// A part of so many rows is written once, and never joined with another.
const PART_ROWS_MAX: usize = 1 << 18;

/// Keys of one stretch of time, numbered in the order in which they came.
///
/// A checkpoint has them in *parts*, each a run of numbers:
///
/// ```text
///   keys    0 ─────────────── 4000 ──── 6000 ── 7000 ┄┄┄ 7400
///   parts   │      first       │ second │ third │  not saved yet
/// ```
/// The next checkpoint writes the keys that no part has. With them go the parts before that are not longer, in one new part:
/// so there are few of them, and each key is written a few times only.
#[derive(Default)]
pub struct Stretch {
    keys: KeyTable,
    times_us: Vec<i64>,
    /// How many keys each part has, in order.
    parts: Vec<usize>,
}

/// The keys of a stretch that a checkpoint is to write, copied.
pub struct NewKeys {
    pub(super) keys: KeysSince,
    pub(super) times_us: Vec<i64>,
}

impl Stretch {
    /// Makes an empty stretch that holds this many keys without growing.
    pub(super) fn with_capacity(key_count: usize) -> Stretch {
        let times_us = Vec::with_capacity(key_count);
        Stretch { keys: KeyTable::with_capacity(key_count), times_us, parts: Vec::new() }
    }

    pub(super) fn key_count(&self) -> usize {
        self.times_us.len()
    }

    /// Returns the time at which a key is remembered.
    pub(super) fn time_us(&self, number: u32) -> i64 {
        self.times_us[number as usize]
    }

    /// Finds the number of each selected key; see [`KeyTable::find`].
    pub(super) fn find(&self, keys: &ArrayRef, hashes: &[u64], selection: Selection<'_>, numbers: &mut Vec<u32>) {
        self.keys.find(keys, hashes, selection, numbers);
    }

    /// Finds or makes the number of each selected key. A new one has to be given its time at once, by
    /// [`Stretch::remember`], in this order.
    pub(super) fn intern(&mut self, keys: &ArrayRef, hashes: &[u64], selection: Selection<'_>, numbers: &mut Vec<u32>) {
        self.keys.intern(keys, hashes, selection, numbers);
    }

    /// Whether a number was made by [`Stretch::intern`] and has no time yet.
    pub(super) fn is_new(&self, number: u32) -> bool {
        number as usize == self.times_us.len()
    }

    /// Sets the time at which a key is remembered.
    pub(super) fn remember(&mut self, number: u32, time_us: i64) {
        let number = number as usize;
        if number == self.times_us.len() {
            self.times_us.push(time_us);
            return;
        }
        self.times_us[number] = time_us;
        // What has the old time is written again.
        while self.saved() > number {
            self.parts.pop();
        }
    }

    /// How many keys the parts have.
    fn saved(&self) -> usize {
        self.parts.iter().sum()
    }

    /// Hands over what a checkpoint has to write, and counts it as written. Returns how many of the parts before stay.
    pub(super) fn save(&mut self) -> (usize, Option<NewKeys>) {
        let mut start = self.saved();
        if start == self.key_count() {
            return (self.parts.len(), None);
        }
        while let Some(part) = self.parts.pop_if(|part| *part <= self.times_us.len() - start && *part < PART_ROWS_MAX) {
            start -= part;
        }
        let kept = self.parts.len();
        self.parts.push(self.key_count() - start);
        (kept, Some(NewKeys { keys: self.keys.since(start), times_us: self.times_us[start..].to_vec() }))
    }

    /// Counts everything behind `before` keys as a part that a checkpoint has.
    pub(super) fn restored(&mut self, before: usize) {
        self.parts.push(self.key_count() - before);
    }

    pub(super) fn bytes(&self) -> usize {
        self.keys.bytes() + self.times_us.len() * size_of::<i64>()
    }
}
