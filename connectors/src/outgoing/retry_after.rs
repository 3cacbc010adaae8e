//! `Retry-After`: how long a server asks us to stay away.

use std::time::{Duration, UNIX_EPOCH};

use hyper::header::{HeaderMap, RETRY_AFTER};

use crate::breaker::ASKED_MAX;

/// Reads it: seconds, or a date; at most [`ASKED_MAX`]. `now_us` is the time of day. What is neither is no wish.
pub fn retry_after(headers: &HeaderMap, now_us: i64) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        // More than fits is more than we wait.
        return Some(text.parse().map_or(ASKED_MAX, Duration::from_secs).min(ASKED_MAX));
    }
    let then = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    let now = Duration::from_micros(u64::try_from(now_us).ok()?);
    Some(then.saturating_sub(now).min(ASKED_MAX))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    /// Sun, 06 Nov 1994 08:49:37 GMT.
    const NOW_US: i64 = 784_111_777 * 1_000_000;

    fn asked(text: &[u8]) -> Option<Duration> {
        let value = HeaderValue::from_bytes(text).ok()?;
        retry_after(&HeaderMap::from_iter([(RETRY_AFTER, value)]), NOW_US)
    }

    #[test]
    fn a_wish_to_wait_is_seconds_or_a_date_and_has_an_end() {
        for (text, expected) in [
            ("7", Some(7)),
            (" 0 ", Some(0)),
            ("99999999999999999999999", Some(300)),
            ("3600", Some(300)),
            ("Sun, 06 Nov 1994 08:50:00 GMT", Some(23)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("Sat, 06 Nov 2094 08:00:00 GMT", Some(300)),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(asked(text.as_bytes()), expected.map(Duration::from_secs), "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), NOW_US), None);
    }

    #[test]
    fn fuzz_retry_after() {
        const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/outgoing/corpus/retry_after");
        tidemill_engine::testing::fuzz::fuzz(CORPUS, |input| {
            let asked = asked(input);
            assert!(asked.is_none_or(|asked| asked <= ASKED_MAX));
            asked.is_some()
        });
    }
}
