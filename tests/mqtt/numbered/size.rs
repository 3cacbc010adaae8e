//! How much is tried: `TIDEMILL_BREAKER=gate|soak|campaign`, as for the tests that break the program under load.
//!
//! | size           | messages of each input | kills | backlog of each input | kills |
//! |----------------|------------------------|-------|-----------------------|-------|
//! | gate           |                 20,000 |    30 |                60,000 |     8 |
//! | soak, campaign |                200,000 | 1,000 |                60,000 |   100 |
//!
//! `TIDEMILL_BREAKER_PERCENT=5` takes a twentieth of it; `TIDEMILL_SEED` chooses the times of the kills.

use std::str::FromStr;

/// What one test does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    /// Messages of each input.
    pub(super) messages: i64,
    /// Kills of the program.
    pub(super) kills: u64,
    /// Whether all messages wait before the program comes, or they come while it is killed.
    pub(super) waiting: bool,
    /// Chooses when the program is killed.
    pub(super) seed: u64,
}

impl Size {
    /// Messages that come while the program is killed.
    pub(super) fn of_kills() -> Size {
        Size::asked([(20_000, 30), (200_000, 1_000)], false)
    }

    /// Messages that have all waited.
    pub(super) fn of_backlogs() -> Size {
        Size::asked([(60_000, 8), (60_000, 100)], true)
    }

    fn asked([gate, soak]: [(i64, u64); 2], waiting: bool) -> Size {
        let word: String = from_environment("TIDEMILL_BREAKER").unwrap_or_else(|| "gate".to_owned());
        let (messages, kills) = if word == "gate" { gate } else { soak };
        let percent: u64 = from_environment("TIDEMILL_BREAKER_PERCENT").unwrap_or(100);
        Size {
            messages: (messages * i64::try_from(percent).expect("a percentage")).div_euclid(100).max(100),
            kills: (kills * percent).div_ceil(100),
            waiting,
            seed: from_environment("TIDEMILL_SEED").unwrap_or(1),
        }
    }
}

fn from_environment<T: FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} cannot be {text:?}")))
}
