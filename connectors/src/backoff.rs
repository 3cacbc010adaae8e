//! How long to wait before the next attempt to connect.

use std::time::Duration;

use tidemill_engine::clock::Dice;

const WAIT_MIN: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Waits that double from attempt to attempt, half of each by chance, so that many clients do not come back together.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    attempt: u32,
}

impl Backoff {
    /// Returns the next wait.
    pub(crate) fn next(&mut self, dice: &dyn Dice) -> Duration {
        let longest = WAIT_MIN.saturating_mul(1 << self.attempt.min(16)).min(WAIT_MAX);
        self.attempt += 1;
        let half_us = u64::try_from(longest.as_micros() / 2).unwrap_or(u64::MAX).max(1);
        Duration::from_micros(half_us + dice.roll() % half_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_engine::clock::SeededDice;

    #[test]
    fn waits_grow_from_a_tenth_of_a_second_to_half_a_minute() {
        let dice = SeededDice::new(1);
        let mut backoff = Backoff::default();
        let waits: Vec<Duration> = (0..40).map(|_| backoff.next(&dice)).collect();
        assert!(waits[0] >= WAIT_MIN / 2 && waits[0] <= WAIT_MIN, "{:?}", waits[0]);
        for wait in &waits[10..] {
            assert!(*wait >= WAIT_MAX / 2 && *wait <= WAIT_MAX, "{wait:?}");
        }
    }
}
