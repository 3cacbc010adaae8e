//! How much is tried: `TIDEMILL_BREAKER=gate|soak|campaign`.
//!
//! | size     | for                | kills | power losses | acknowledged rows            | full disks | refusing disks |
//! |----------|--------------------|-------|--------------|------------------------------|------------|----------------|
//! | gate     | every run in CI    |   100 |           50 | 1 million, both together     |          2 |              6 |
//! | soak     | `./check soak`     | 1,000 |          500 | 10 million, both together    |         20 |             60 |
//! | campaign | days               | until `TIDEMILL_HOURS` are over, each of the four                                |
//!
//! `TIDEMILL_BREAKER_PERCENT=5` takes a twentieth of it: to try the machine itself. `TIDEMILL_SEED` is the seed of the
//! first round; each further one has the next.

use std::str::FromStr;
use std::time::{Duration, Instant};

/// What one test must reach before it ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    /// Seed of the first round.
    pub(super) first_seed: u64,
    /// Kills, or losses of power.
    pub(super) faults: u64,
    /// Acknowledged readings.
    pub(super) rows: u64,
    /// Faults of one round, which has a data folder of its own.
    pub(super) faults_in_round: u64,
    /// Instead of the above: when no further round begins.
    until: Option<Instant>,
}

impl Size {
    /// Returns what the environment asks of the test with kills.
    pub(super) fn of_kills() -> Size {
        Size::asked([(100, 700_000, 25), (1_000, 7_000_000, 50)])
    }

    /// Returns what the environment asks of the test with losses of power.
    pub(super) fn of_power_losses() -> Size {
        Size::asked([(50, 350_000, 17), (500, 3_500_000, 50)])
    }

    /// Returns what the environment asks of the test with full disks.
    pub(super) fn of_full_disks() -> Size {
        Size::asked([(2, 20_000, 2), (20, 1_000_000, 4)])
    }

    /// Returns what the environment asks of the test with refused system calls: each of them once at least.
    pub(super) fn of_refusals() -> Size {
        Size::asked([(6, 60_000, 6), (60, 1_000_000, 12)])
    }

    fn asked([gate, soak]: [(u64, u64, u64); 2]) -> Size {
        let begin = Instant::now();
        let word: String = from_environment("TIDEMILL_BREAKER").unwrap_or_else(|| "gate".to_owned());
        let hours: Option<f64> = from_environment("TIDEMILL_HOURS");
        let ((faults, rows, faults_in_round), until) = match (word.as_str(), hours) {
            ("gate", _) => (gate, None),
            ("soak", _) => (soak, None),
            ("campaign", Some(hours)) => (soak, Some(begin + Duration::from_secs_f64(hours * 3_600.0))),
            ("campaign", None) => panic!("a campaign lasts for TIDEMILL_HOURS: say how many"),
            (other, _) => panic!("TIDEMILL_BREAKER is gate, soak or campaign, not {other:?}"),
        };
        let percent: u64 = from_environment("TIDEMILL_BREAKER_PERCENT").unwrap_or(100);
        let part = |whole: u64| (whole * percent).div_ceil(100);
        Size {
            first_seed: from_environment("TIDEMILL_SEED").unwrap_or(1),
            faults: part(faults),
            rows: part(rows),
            faults_in_round: faults_in_round.min(part(faults)),
            until,
        }
    }

    /// Returns whether a test that has done so much may end.
    pub(super) fn is_reached(&self, faults: u64, rows: u64) -> bool {
        match self.until {
            Some(until) => Instant::now() >= until,
            None => faults >= self.faults && rows >= self.rows,
        }
    }

    /// Returns how many rows a round must bring, so that rows and faults are reached together.
    pub(super) fn rows_in_round(&self) -> u64 {
        self.rows * self.faults_in_round / self.faults
    }
}

fn from_environment<T: FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} cannot be {text:?}")))
}
