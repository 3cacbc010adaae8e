//! Times in input: text in RFC 3339 and its usual variants, or numbers whose unit the source declares.

use std::str::FromStr;

use arrow::array::timezone::Tz;
use arrow::compute::kernels::cast_utils::string_to_datetime;

/// What a number in a time column counts since 1970, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeUnit {
    /// Seconds; fractions are allowed.
    Seconds,
    /// Milliseconds.
    Milliseconds,
    /// Microseconds.
    Microseconds,
    /// Nanoseconds; rounded down to microseconds.
    Nanoseconds,
}

impl TimeUnit {
    /// The words of option `time_unit`.
    pub const WORDS: [(&'static str, TimeUnit); 4] = [
        ("s", TimeUnit::Seconds),
        ("ms", TimeUnit::Milliseconds),
        ("us", TimeUnit::Microseconds),
        ("ns", TimeUnit::Nanoseconds),
    ];

    /// Converts a whole number of this unit to microseconds.
    pub(super) fn whole_us(self, count: i64) -> Option<i64> {
        match self {
            TimeUnit::Seconds => count.checked_mul(1_000_000),
            TimeUnit::Milliseconds => count.checked_mul(1_000),
            TimeUnit::Microseconds => Some(count),
            TimeUnit::Nanoseconds => Some(count.div_euclid(1_000)),
        }
    }

    fn fraction_us(self, count: f64) -> Option<i64> {
        let us = match self {
            TimeUnit::Seconds => count * 1e6,
            TimeUnit::Milliseconds => count * 1e3,
            TimeUnit::Microseconds => count,
            TimeUnit::Nanoseconds => count / 1e3,
        }
        .round();
        // The bound keeps the conversion exact in range: i64::MAX itself is no f64.
        (us.abs() < 9.2e18).then_some(us as i64)
    }
}

/// Parses a time, in microseconds since 1970, UTC; the error says what is wrong.
pub(super) fn parse(text: &str, unit: Option<TimeUnit>) -> Result<i64, &'static str> {
    if let Some(us) = canonical(text.as_bytes()) {
        return Ok(us);
    }
    if let Some(number) = Number::parse(text) {
        let Some(unit) = unit else {
            return Err("is a number: say what it counts with the option time_unit = 's', 'ms', 'us' or 'ns'");
        };
        let us = match number {
            Number::Whole(count) => unit.whole_us(count),
            Number::Fraction(count) => unit.fraction_us(count),
        };
        return us.ok_or("is a number too large for a time in this time_unit");
    }
    parse_text(text).ok_or("is not a time such as 2026-11-20T09:00:00Z")
}

/// Parses a time that is written out, in microseconds since 1970, UTC: RFC 3339, with a space for the T, without a zone (UTC), or a date alone.
pub fn parse_text(text: &str) -> Option<i64> {
    let utc = Tz::from_str("+00:00").expect("an offset of zero parses");
    string_to_datetime(&utc, text.trim()).ok().map(|time| time.timestamp_micros())
}

enum Number {
    Whole(i64),
    Fraction(f64),
}

impl Number {
    fn parse(text: &str) -> Option<Number> {
        // Words such as "inf" are numbers to Rust, not here.
        let first = text.as_bytes().first()?;
        if !(first.is_ascii_digit() || *first == b'-') {
            return None;
        }
        if let Ok(count) = text.parse() {
            return Some(Number::Whole(count));
        }
        text.parse().ok().filter(|count: &f64| count.is_finite()).map(Number::Fraction)
    }
}

/// The usual form at a tenth of the general parser's cost: `2026-11-20T09:00:00[.fraction]Z`.
pub(super) fn canonical(text: &[u8]) -> Option<i64> {
    let two = |at: usize| -> Option<i64> {
        let (tens, ones) = (text[at].wrapping_sub(b'0'), text[at + 1].wrapping_sub(b'0'));
        (tens < 10 && ones < 10).then_some(i64::from(tens) * 10 + i64::from(ones))
    };
    if text.len() < 20 || text[text.len() - 1] != b'Z' {
        return None;
    }
    if text[4] != b'-' || text[7] != b'-' || text[10] != b'T' || text[13] != b':' || text[16] != b':' {
        return None;
    }
    let year = two(0)? * 100 + two(2)?;
    let (month, day, hour, minute, second) = (two(5)?, two(8)?, two(11)?, two(14)?, two(17)?);
    if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut fraction_us = 0i64;
    if text.len() > 20 {
        let digits = &text[20..text.len() - 1];
        if text[19] != b'.' || digits.is_empty() || digits.len() > 9 {
            return None;
        }
        let mut scale = 100_000;
        for digit in digits {
            let digit = digit.wrapping_sub(b'0');
            if digit > 9 {
                return None;
            }
            fraction_us += i64::from(digit) * scale;
            scale /= 10;
        }
    }
    let days = days_since_1970(year, month, day);
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000_000 + fraction_us)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days of the proleptic Gregorian calendar, counted in eras of 400 years that begin in March.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year - era * 400;
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_cut_agrees_with_the_general_parser() {
        let mut checked = 0;
        for year in [1600, 1899, 1900, 1969, 1970, 1999, 2000, 2026, 2100, 9999] {
            for month in 1..=12 {
                for day in [1, 28, 29, 30, 31] {
                    let text = format!("{year:04}-{month:02}-{day:02}T23:59:58.123456Z");
                    assert_eq!(canonical(text.as_bytes()), parse_text(&text), "{text}");
                    checked += usize::from(canonical(text.as_bytes()).is_some());
                }
            }
        }
        assert!(checked > 500, "{checked}");
    }

    #[test]
    fn written_times_parse_as_utc_with_microseconds() {
        for (text, us) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01T00:00:00.000001Z", 1),
            ("1970-01-01T00:00:00.0000019Z", 1),
            ("1970-01-01 00:00:01", 1_000_000),
            ("1970-01-02", 86_400_000_000),
            ("1970-01-01T01:00:00+01:00", 0),
            ("2026-11-20T09:00:00Z", 1_795_165_200_000_000),
        ] {
            assert_eq!(parse(text, None), Ok(us), "{text}");
            assert_eq!(parse(text, Some(TimeUnit::Nanoseconds)), Ok(us), "{text}");
        }
    }

    #[test]
    fn numbers_need_a_unit() {
        assert!(parse("1700000000", None).expect_err("no unit").contains("time_unit"));
        assert_eq!(parse("1700000000", Some(TimeUnit::Seconds)), Ok(1_700_000_000_000_000));
        assert_eq!(parse("1700000000.25", Some(TimeUnit::Seconds)), Ok(1_700_000_000_250_000));
        assert_eq!(parse("1700000000123", Some(TimeUnit::Milliseconds)), Ok(1_700_000_000_123_000));
        assert_eq!(parse("1999", Some(TimeUnit::Nanoseconds)), Ok(1));
        assert_eq!(parse("-1", Some(TimeUnit::Nanoseconds)), Ok(-1));
        assert!(parse("9223372036854775807", Some(TimeUnit::Seconds)).is_err());
        assert!(parse("1e300", Some(TimeUnit::Seconds)).is_err());
    }

    #[test]
    fn nonsense_is_no_time() {
        for text in [
            "",
            "now",
            "inf",
            "2026-02-30T00:00:00Z",
            "2026-13-01",
            "12:00",
            "2026-11-20T25:00:00Z",
            "é026-11-20T00:00:00Z",
        ] {
            assert!(parse(text, Some(TimeUnit::Seconds)).is_err(), "{text}");
        }
    }
}
