//! The clock and the dice: the only module that asks the system what time it is or for random bits.
//!
//! Everything else takes a [`Clock`] or a [`Dice`], so that simulation and tests own time and chance.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::RngCore;

/// Tells the time of day.
pub trait Clock: Send + Sync + 'static {
    /// Returns microseconds since 1970, UTC. May jump; nothing that is computed depends on it, only what is recorded.
    fn now_us(&self) -> i64;

    /// Returns microseconds since some fixed point; never jumps. For intervals only.
    fn monotonic_us(&self) -> i64;
}

/// The clock of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that may ask")]
    fn now_us(&self) -> i64 {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => crate::time::micros(since),
            Err(before) => -crate::time::micros(before.duration()),
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that may ask")]
    fn monotonic_us(&self) -> i64 {
        static START: OnceLock<Instant> = OnceLock::new();
        crate::time::micros(START.get_or_init(Instant::now).elapsed())
    }
}

/// A clock that stands still until it is told to move.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// Makes a clock that shows `now_us`.
    pub fn at(now_us: i64) -> Self {
        ManualClock(AtomicI64::new(now_us))
    }

    /// Sets the clock.
    pub fn set(&self, now_us: i64) {
        self.0.store(now_us, Ordering::SeqCst);
    }

    /// Moves the clock forwards.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(crate::time::micros(by), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_us(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }

    fn monotonic_us(&self) -> i64 {
        self.now_us()
    }
}

/// Gives random bits where uniqueness is needed (file names, incarnations), never where a result depends on them.
pub trait Dice: Send + Sync + 'static {
    /// Returns 64 random bits.
    fn roll(&self) -> u64;
}

/// The dice of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemDice;

impl Dice for SystemDice {
    #[expect(clippy::disallowed_methods, reason = "the one place that may ask")]
    fn roll(&self) -> u64 {
        rand::rng().next_u64()
    }
}

/// Dice whose throws follow from a seed (splitmix64, Steele, Lea and Flood 2014).
#[derive(Debug)]
pub struct SeededDice(AtomicU64);

impl SeededDice {
    /// Makes dice that always throw the same sequence for one seed.
    pub fn new(seed: u64) -> Self {
        SeededDice(AtomicU64::new(seed))
    }
}

impl Dice for SeededDice {
    fn roll(&self) -> u64 {
        const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
        let mut z = self.0.fetch_add(STEP, Ordering::SeqCst).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}
