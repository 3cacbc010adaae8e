//! The circuit breaker: when to try again at a place that fails.
//!
//! ```text
//!              FAILURES_MAX in a row
//!   closed ──────────────────────────► open ◄──────────────┐
//!     ▲                                 │ the wait is over  │ fails
//!     │            succeeds             ▼                   │
//!     └──────────────────────────── half-open ──────────────┘
//!                                   one attempt
//! ```
//! After each failure it waits: 100 ms, then twice as long each time, up to half a minute, half of it by chance; as long as the other side
//! asks for, if that is longer, up to [`ASKED_MAX`]. An open breaker changes little of that; it says to people and programs
//! that this is no accident any more. Nothing is ever given up here: what waits is kept by whoever asks.
//!
//! A pure state machine: the time is passed in, chance is asked of the dice.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tidemill_engine::clock::Dice;
use tidemill_engine::time::micros;

use crate::backoff::Backoff;

/// After so many failures in a row the breaker is open.
pub const FAILURES_MAX: u32 = 5;

/// No other side may make us wait longer than this by asking for it.
pub const ASKED_MAX: Duration = Duration::from_secs(300);

/// Whether a place is tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BreakerState {
    /// It works, or has failed a few times.
    #[default]
    Closed,
    /// It failed several times in a row, and one attempt is being made.
    HalfOpen,
    /// It failed several times in a row, and is left alone for a while.
    Open,
}

impl BreakerState {
    /// Returns it in a word.
    pub fn word(self) -> &'static str {
        match self {
            BreakerState::Closed => "closed",
            BreakerState::HalfOpen => "half-open",
            BreakerState::Open => "open",
        }
    }

    /// Returns it as a gauge shows it: 0 closed, 1 half-open, 2 open.
    pub fn level(self) -> u8 {
        self as u8
    }
}

/// What may be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// Try.
    Now,
    /// Ask again after so long.
    After(Duration),
}

/// See the module.
#[derive(Debug, Default)]
pub struct Breaker {
    failures_in_a_row: u32,
    backoff: Backoff,
    not_before_us: Option<i64>,
    is_trying: bool,
}

impl Breaker {
    /// Returns how it stands.
    pub fn state(&self) -> BreakerState {
        match self.failures_in_a_row {
            ..FAILURES_MAX => BreakerState::Closed,
            _ if self.is_trying => BreakerState::HalfOpen,
            _ => BreakerState::Open,
        }
    }

    /// Asks whether an attempt may be made; if so, its outcome must be told. `now_us` is time that never jumps.
    pub fn attempt(&mut self, now_us: i64) -> Attempt {
        let wait_us = self.not_before_us.map_or(0, |not_before_us| not_before_us.saturating_sub(now_us));
        match u64::try_from(wait_us) {
            Ok(wait_us) if wait_us > 0 => Attempt::After(Duration::from_micros(wait_us)),
            _ => {
                self.not_before_us = None;
                self.is_trying = true;
                Attempt::Now
            }
        }
    }

    /// Notes that an attempt succeeded.
    pub fn succeeded(&mut self) {
        *self = Breaker::default();
    }

    /// Notes that an attempt failed, and how long the other side asks us to stay away. Returns how long it will be.
    pub fn failed(&mut self, now_us: i64, asked: Option<Duration>, dice: &dyn Dice) -> Duration {
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        self.is_trying = false;
        let wait = self.backoff.next(dice).max(asked.unwrap_or_default().min(ASKED_MAX));
        self.not_before_us = Some(now_us.saturating_add(micros(wait)));
        wait
    }
}

/// How a breaker stands, for those who show it.
#[derive(Debug, Default)]
pub struct BreakerGauge(AtomicU8);

impl BreakerGauge {
    /// Shows a state; returns the one before.
    pub fn show(&self, state: BreakerState) -> BreakerState {
        of_level(self.0.swap(state.level(), Ordering::Relaxed))
    }

    /// Returns what is shown.
    pub fn state(&self) -> BreakerState {
        of_level(self.0.load(Ordering::Relaxed))
    }
}

fn of_level(level: u8) -> BreakerState {
    let states = [BreakerState::Closed, BreakerState::HalfOpen, BreakerState::Open];
    states.into_iter().find(|state| state.level() == level).expect("only levels of states are stored")
}

#[cfg(test)]
mod tests {
    use tidemill_engine::clock::SeededDice;

    use super::*;

    const MS_US: i64 = 1_000;

    #[test]
    fn it_opens_after_five_failures_tries_once_for_each_wait_and_closes_with_a_success() {
        let (dice, mut breaker, mut now_us) = (SeededDice::new(1), Breaker::default(), 0);
        assert_eq!((breaker.attempt(now_us), breaker.state()), (Attempt::Now, BreakerState::Closed));
        for failure in 1..=12 {
            let wait = breaker.failed(now_us, None, &dice);
            let expected = if failure < 5 { BreakerState::Closed } else { BreakerState::Open };
            assert_eq!(breaker.state(), expected, "{failure}");
            assert_eq!(breaker.attempt(now_us), Attempt::After(wait));
            now_us += micros(wait) - 1;
            assert_eq!(breaker.attempt(now_us), Attempt::After(Duration::from_micros(1)));
            assert_eq!(breaker.state(), expected, "asking is no attempt");
            now_us += 1;
            assert_eq!(breaker.attempt(now_us), Attempt::Now);
            let expected = if failure < 5 { BreakerState::Closed } else { BreakerState::HalfOpen };
            assert_eq!(breaker.state(), expected, "{failure}");
        }
        breaker.succeeded();
        assert_eq!((breaker.attempt(now_us), breaker.state()), (Attempt::Now, BreakerState::Closed));
        let wait = breaker.failed(now_us, None, &dice);
        assert!(wait <= Duration::from_millis(100), "it begins anew: {wait:?}");
    }

    #[test]
    fn the_other_side_may_ask_for_a_longer_wait_but_not_for_any() {
        let dice = SeededDice::new(1);
        for (asked, least, most) in [(0, 50, 100), (7_000, 7_000, 7_000), (1 << 40, 300_000, 300_000)] {
            let wait = Breaker::default().failed(0, Some(Duration::from_millis(asked)), &dice);
            assert!((least..=most).contains(&wait.as_millis()), "{asked}: {wait:?}");
        }
        // Nor does a shorter one make us hurry.
        let mut breaker = Breaker::default();
        for _ in 0..20 {
            breaker.failed(0, Some(Duration::ZERO), &dice);
        }
        assert!(matches!(breaker.attempt(14_000 * MS_US), Attempt::After(_)));
        assert_eq!(breaker.attempt(30_000 * MS_US), Attempt::Now);
    }

    #[test]
    fn a_gauge_shows_what_it_was_told() {
        let gauge = BreakerGauge::default();
        assert_eq!(gauge.show(BreakerState::Open), BreakerState::Closed);
        assert_eq!(gauge.show(BreakerState::HalfOpen), BreakerState::Open);
        assert_eq!(
            (gauge.state(), gauge.state().word(), gauge.state().level()),
            (BreakerState::HalfOpen, "half-open", 1)
        );
    }
}
