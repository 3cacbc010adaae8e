//! The readings of one sender: mostly in order, some late, a few from the future, a few that nobody can decode.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::sources::{BEGIN_US, FUTURE_US, SENTINEL_US};
use crate::harness::ledger::{Kind, Reading};

/// Event time between two readings of a source.
const STEP_US: i64 = 1_000;
/// Out of order as any network makes it.
const JITTER_US: i64 = 100_000;
/// Late, but within what the hastiest source waits for.
const LATE_US: i64 = 1_900_000;
/// Later than that.
const TOO_LATE_US: std::ops::Range<i64> = 5_000_000..60_000_000;

/// The event time of a source, shared by its senders: a slow one is not left behind for good.
#[derive(Clone)]
pub(super) struct EventClock(Arc<AtomicI64>);

impl EventClock {
    /// Begins a minute after the begin, so that nothing late is before it.
    pub(super) fn new() -> EventClock {
        EventClock(Arc::new(AtomicI64::new(BEGIN_US + 60_000_000)))
    }

    fn next_us(&self) -> i64 {
        self.0.fetch_add(STEP_US, Ordering::Relaxed)
    }
}

/// The readings of one sender.
pub(super) struct Stream {
    /// The sender.
    pub(super) who: String,
    /// What else is left to chance.
    pub(super) dice: StdRng,
    seq: i64,
    clock: EventClock,
}

impl Stream {
    pub(super) fn new(who: &str, seed: u64, clock: EventClock) -> Stream {
        Stream { who: who.to_owned(), dice: StdRng::seed_from_u64(seed), seq: 0, clock }
    }

    pub(super) fn batch(&mut self, count: usize) -> Vec<Reading> {
        (0..count).map(|_| self.next()).collect()
    }

    fn next(&mut self) -> Reading {
        let (seq, now_us) = (self.seq, self.clock.next_us());
        self.seq += 1;
        let v = self.dice.random_range(-100..=100);
        // Of a thousand: one from the far future, two that do not decode, twenty too late, a hundred late.
        let (kind, ts_us) = match self.dice.random_range(0..1_000) {
            0 => (Kind::Future, FUTURE_US + seq),
            1 => (Kind::Text, now_us),
            2 => (Kind::Cut, now_us),
            3..=22 => (Kind::Plain, now_us - self.dice.random_range(TOO_LATE_US)),
            23..=122 => (Kind::Plain, now_us - self.dice.random_range(0..LATE_US)),
            _ => (Kind::Plain, now_us - self.dice.random_range(0..JITTER_US)),
        };
        Reading { seq, v, ts_us, kind }
    }

    /// Returns the last reading, which closes all windows before it.
    pub(super) fn sentinel(&mut self) -> Reading {
        self.seq += 1;
        Reading { seq: self.seq - 1, v: 0, ts_us: SENTINEL_US, kind: Kind::Plain }
    }
}
