//! Time: instants are `i64` microseconds since 1970, UTC, wherever they stand.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The promise that no row with an earlier event time will count any more.
///
/// A row whose event time *equals* the watermark is not late: a window `[start, end)` closes when the watermark
/// reaches `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Watermark(pub i64);

impl Watermark {
    /// Nothing is known yet; nothing closes.
    pub const UNKNOWN: Watermark = Watermark(i64::MIN);
    /// The input has ended; everything closes.
    pub const END: Watermark = Watermark(i64::MAX);
}

impl fmt::Display for Watermark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Watermark::UNKNOWN => f.write_str("unknown"),
            Watermark::END => f.write_str("end"),
            Watermark(us) => write!(f, "{us}us"),
        }
    }
}

/// Returns a duration in whole microseconds, at most `i64::MAX`.
pub fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// Returns a duration of whole seconds.
pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Returns a duration of whole minutes.
pub const fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}
