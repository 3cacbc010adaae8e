//! What the times of line protocol count.

use super::super::time::TimeUnit;

/// What a time counts, in the words of both versions of Influx.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Precision {
    /// `ns`, `n`.
    Nanoseconds,
    /// `us`, `u`.
    Microseconds,
    /// `ms`.
    Milliseconds,
    /// `s`.
    Seconds,
    /// `m`.
    Minutes,
    /// `h`.
    Hours,
}

impl From<TimeUnit> for Precision {
    fn from(unit: TimeUnit) -> Self {
        match unit {
            TimeUnit::Seconds => Precision::Seconds,
            TimeUnit::Milliseconds => Precision::Milliseconds,
            TimeUnit::Microseconds => Precision::Microseconds,
            TimeUnit::Nanoseconds => Precision::Nanoseconds,
        }
    }
}

impl Precision {
    /// All of them; the log has their places in this list, from 1.
    const ALL: [Precision; 6] = [
        Precision::Nanoseconds,
        Precision::Microseconds,
        Precision::Milliseconds,
        Precision::Seconds,
        Precision::Minutes,
        Precision::Hours,
    ];

    /// The words for them in requests, that of the default first.
    pub(crate) const WORDS: [(&'static str, Precision); 9] = [
        ("ns", Precision::Nanoseconds),
        ("n", Precision::Nanoseconds),
        ("us", Precision::Microseconds),
        ("u", Precision::Microseconds),
        ("µ", Precision::Microseconds),
        ("ms", Precision::Milliseconds),
        ("s", Precision::Seconds),
        ("m", Precision::Minutes),
        ("h", Precision::Hours),
    ];

    /// Returns the number that stands for it in the log.
    pub(crate) fn code(self) -> u8 {
        let place = Precision::ALL.iter().position(|precision| *precision == self);
        place.expect("all are there") as u8 + 1
    }

    /// Finds what a number in the log stands for.
    pub(crate) fn coded(code: u8) -> Option<Precision> {
        Precision::ALL.get(usize::from(code).checked_sub(1)?).copied()
    }

    /// Converts a time to microseconds.
    pub(super) fn us(self, count: i64) -> Result<i64, String> {
        let us = match self {
            Precision::Nanoseconds => Some(count.div_euclid(1_000)),
            Precision::Microseconds => Some(count),
            Precision::Milliseconds => count.checked_mul(1_000),
            Precision::Seconds => count.checked_mul(1_000_000),
            Precision::Minutes => count.checked_mul(60_000_000),
            Precision::Hours => count.checked_mul(3_600_000_000),
        };
        us.ok_or_else(|| format!("the time {count} is too large for this precision"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_knows_every_precision_by_its_number() {
        for precision in Precision::ALL {
            assert_eq!(Precision::coded(precision.code()), Some(precision));
        }
        assert_eq!([0, 7].map(Precision::coded), [None, None]);
        assert_eq!(Precision::Hours.us(2), Ok(7_200_000_000));
        assert!(Precision::Hours.us(i64::MAX).is_err());
    }
}
