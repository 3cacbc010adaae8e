//! Recorded time: what the recorder writes as time of arrival and of a Seal.
//!
//! It is the wall clock's, as long as that goes forward. A clock that is put back is not followed: the idleness of a
//! partition is a difference of recorded times, and a day back would keep an idle partition from being found idle for a
//! day, with every window behind it. Recorded time then goes on at half speed until the clock has caught up:
//!
//! ```text
//!   clock     ────────────╮                 ╱──────
//!   recorded  ────────────────── ─ ─ ─ ─ ─ ╱───────
//!                         put back           caught up
//! ```

use crate::clock::Clock;

/// Time as it is recorded: it never falls, and never stands still.
#[derive(Debug, Default)]
pub(super) struct RecordedTime {
    /// A recorded time and when, by the monotonic clock, it was recorded; the last one that no clock was behind.
    anchor: Option<(i64, i64)>,
}

impl RecordedTime {
    /// Notes the time of a Seal in the log.
    pub(super) fn replayed(&mut self, time_us: i64, clock: &dyn Clock) {
        if self.anchor.is_none_or(|(anchor_us, _)| anchor_us < time_us) {
            self.anchor = Some((time_us, clock.monotonic_us()));
        }
    }

    /// Returns the time to record now.
    pub(super) fn now_us(&mut self, clock: &dyn Clock) -> i64 {
        let (wall_us, monotonic_us) = (clock.now_us(), clock.monotonic_us());
        if let Some((anchor_us, since_us)) = self.anchor {
            let slow_us = anchor_us.saturating_add(monotonic_us.saturating_sub(since_us).max(0) / 2);
            if slow_us > wall_us {
                return slow_us;
            }
        }
        self.anchor = Some((wall_us, monotonic_us));
        wall_us
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;

    #[derive(Default)]
    struct TwoClocks {
        wall_us: AtomicI64,
        monotonic_us: AtomicI64,
    }

    impl Clock for TwoClocks {
        fn now_us(&self) -> i64 {
            self.wall_us.load(Ordering::SeqCst)
        }

        fn monotonic_us(&self) -> i64 {
            self.monotonic_us.load(Ordering::SeqCst)
        }
    }

    impl TwoClocks {
        fn at(&self, wall_us: i64, monotonic_us: i64) -> &TwoClocks {
            self.wall_us.store(wall_us, Ordering::SeqCst);
            self.monotonic_us.store(monotonic_us, Ordering::SeqCst);
            self
        }
    }

    #[test]
    fn a_clock_that_is_put_back_is_caught_up_with_at_half_speed() {
        let (clock, mut time) = (TwoClocks::default(), RecordedTime::default());
        assert_eq!(time.now_us(clock.at(1_000, 0)), 1_000);
        assert_eq!(time.now_us(clock.at(1_010, 10)), 1_010);
        assert_eq!(time.now_us(clock.at(920, 20)), 1_015, "100 back");
        assert_eq!(time.now_us(clock.at(1_000, 100)), 1_055);
        assert_eq!(time.now_us(clock.at(1_130, 230)), 1_130, "caught up");
        assert_eq!(time.now_us(clock.at(1_131, 231)), 1_131);
        assert_eq!(time.now_us(clock.at(9_000, 232)), 9_000, "forward is followed at once");
    }

    #[test]
    fn time_goes_on_from_the_log_when_the_clock_was_put_back_between_two_runs() {
        let (clock, mut time) = (TwoClocks::default(), RecordedTime::default());
        time.replayed(500, clock.at(100, 7));
        time.replayed(400, &clock);
        assert_eq!(time.now_us(&clock), 500);
        assert_eq!(time.now_us(clock.at(110, 17)), 505);
    }
}
