//! The bytes of one file: what was written, what is durable, and what a power loss makes of the difference.

use std::ops::Range;

use crate::clock::{Dice, SeededDice};

/// What a disk writes at once: a sector is old or new, never half of each.
pub(super) const SECTOR_BYTES: usize = 512;

/// The bytes of one file.
///
/// ```text
///   written   ├───── the same ─────┼─ pending: written since the last sync ─┤
///   durable   ├───── the same ─────┼─ cut off since, if it was truncated ─┤
///                                  ▲ settled
/// ```
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    written: Vec<u8>,
    durable: Vec<u8>,
    /// Bytes below are the same in both.
    settled: usize,
    /// What a failed sync dropped: readable until the power is lost, and no later sync brings it to the medium.
    dropped: Vec<Range<usize>>,
    /// How many names lead here.
    pub(super) names: usize,
    /// How many open files lead here.
    pub(super) handles: usize,
    /// Whether one of them holds the lock.
    pub(super) locked: bool,
}

impl Content {
    pub(super) fn written(&self) -> &[u8] {
        &self.written
    }

    /// A file that nobody can reach takes no space.
    pub(super) fn is_gone(&self) -> bool {
        self.names == 0 && self.handles == 0
    }

    pub(super) fn append(&mut self, bytes: &[u8]) {
        self.written.extend_from_slice(bytes);
    }

    pub(super) fn set_len(&mut self, len: usize) {
        self.written.resize(len, 0);
        self.settled = self.settled.min(len);
        self.dropped.retain_mut(|range| {
            range.end = range.end.min(len);
            range.start < range.end
        });
    }

    pub(super) fn sync(&mut self) {
        self.durable.truncate(self.settled);
        self.durable.extend_from_slice(&self.written[self.settled..]);
        self.settled = self.written.len();
    }

    /// As Linux does: the pages are dropped and count as clean, and the next sync reports success.
    pub(super) fn fail_sync(&mut self) {
        if self.settled < self.written.len() {
            self.dropped.push(self.settled..self.written.len());
        }
    }

    /// Flips one bit on the medium and in the cache; returns whether the file is that long.
    pub(super) fn flip(&mut self, bit: u64) -> bool {
        let (at, mask) = ((bit / 8) as usize, 1 << (bit % 8));
        let Some(byte) = self.written.get_mut(at) else { return false };
        *byte ^= mask;
        if let Some(byte) = self.durable.get_mut(at) {
            *byte ^= mask;
        }
        true
    }

    /// Returns the file as the next process finds it after a kill: everything written, durable or not.
    pub(super) fn after_kill(&self) -> Content {
        Content { names: 0, handles: 0, locked: false, ..self.clone() }
    }

    /// Returns the file as it is found after a power loss: what was durable for sure, of the rest what the dice say.
    pub(super) fn after_power_loss(&self, dice: &SeededDice) -> Content {
        let left = self.left(dice);
        Content { settled: left.len(), durable: left.clone(), written: left, ..Content::default() }
    }

    fn left(&self, dice: &SeededDice) -> Vec<u8> {
        let is_clean = self.settled == self.written.len() && self.settled == self.durable.len();
        let mut left = match dice.roll() % 4 {
            _ if is_clean => self.durable.clone(),
            0 => self.durable.clone(),
            1 => self.written.clone(),
            2 => self.written[..between(dice, self.settled, self.written.len())].to_vec(),
            _ => self.torn(dice),
        };
        for range in &self.dropped {
            let range = range.start..range.end.min(left.len());
            if range.is_empty() {
                continue;
            }
            if range.end == left.len() && coin(dice) {
                left.truncate(range.start);
            } else {
                fill(&mut left[range], dice);
            }
        }
        left
    }

    /// Returns any selection of the pending sectors. A lost one holds what was there before, zeros or garbage.
    fn torn(&self, dice: &SeededDice) -> Vec<u8> {
        let end = if coin(dice) { self.written.len() } else { between(dice, self.settled, self.written.len()) };
        let mut left = self.written[..end].to_vec();
        for sector in (self.settled / SECTOR_BYTES * SECTOR_BYTES..end).step_by(SECTOR_BYTES) {
            if coin(dice) {
                continue;
            }
            let lost = sector.max(self.settled)..(sector + SECTOR_BYTES).min(end);
            let old_end = lost.end.min(self.durable.len()).max(lost.start);
            if old_end > lost.start {
                left[lost.start..old_end].copy_from_slice(&self.durable[lost.start..old_end]);
            }
            fill(&mut left[old_end..lost.end], dice);
        }
        left
    }
}

pub(super) fn coin(dice: &SeededDice) -> bool {
    dice.roll().is_multiple_of(2)
}

/// Returns a number in `[from, to]`.
pub(super) fn between(dice: &SeededDice, from: usize, to: usize) -> usize {
    from + (dice.roll() % (to - from + 1) as u64) as usize
}

/// Puts zeros or garbage where bytes were lost.
fn fill(lost: &mut [u8], dice: &SeededDice) {
    if coin(dice) {
        lost.fill(0);
    } else {
        lost.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&dice.roll().to_le_bytes()[..chunk.len()]));
    }
}
