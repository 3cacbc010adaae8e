//! What an answer means for the rows of a request.
//!
//! | answer | means | then |
//! |---|---|---|
//! | 2xx | taken | delivered |
//! | 408, 409, 425, 429, 5xx; no answer | not now | the same request again, after a wait; `Retry-After` is honoured up to five minutes |
//! | 400, 413, 415, 422; also 404 and 410 where columns stand in the URL | these rows, never | as `on_refused` says; 413 is tried with half of the rows first |
//! | everything else, redirects that are not followed included | the url or the credentials are wrong | waits, as for 5xx: it is mended in the pipeline, and no row is given up for it |

use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{HeaderMap, RETRY_AFTER};

use crate::breaker::ASKED_MAX;

/// What becomes of rows that the receiver will never take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnRefused {
    /// They are kept in the sink's folder, and counted.
    Keep,
    /// They are counted.
    Drop,
    /// They hold up those behind them until the receiver takes them.
    Wait,
}

impl OnRefused {
    pub(super) const WORDS: [(&str, OnRefused); 3] =
        [("keep", OnRefused::Keep), ("drop", OnRefused::Drop), ("wait", OnRefused::Wait)];
}

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Taken,
    NotNow { asked: Option<Duration> },
    TooLarge,
    Refused,
    Misdirected,
}

/// Whether the URL of a request depends on its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UrlIs {
    TheSameForAll,
    OfItsRows,
}

/// Judges an answer; `now_us` is the time of day.
pub(super) fn judge(status: StatusCode, headers: &HeaderMap, url: UrlIs, now_us: i64) -> Verdict {
    match status.as_u16() {
        200..300 => Verdict::Taken,
        408 | 409 | 425 | 429 | 500..600 => Verdict::NotNow { asked: retry_after(headers, now_us) },
        413 => Verdict::TooLarge,
        400 | 415 | 422 => Verdict::Refused,
        404 | 410 if url == UrlIs::OfItsRows => Verdict::Refused,
        _ => Verdict::Misdirected,
    }
}

/// Reads how long the receiver asks us to wait: seconds, or a date.
fn retry_after(headers: &HeaderMap, now_us: i64) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        // More than fits is more than we wait.
        return Some(text.parse().map_or(ASKED_MAX, Duration::from_secs).min(ASKED_MAX));
    }
    let then = httpdate::parse_http_date(text).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    let now = Duration::from_micros(u64::try_from(now_us).ok()?);
    Some(then.saturating_sub(now).min(ASKED_MAX))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn every_status_has_one_meaning() {
        let not_now = Verdict::NotNow { asked: None };
        for (codes, expected) in [
            (vec![200, 201, 202, 204, 299], Verdict::Taken),
            (vec![408, 409, 425, 429, 500, 502, 503, 504, 599], not_now),
            (vec![400, 415, 422], Verdict::Refused),
            (vec![413], Verdict::TooLarge),
            (
                vec![301, 302, 303, 304, 401, 402, 403, 404, 405, 406, 407, 410, 411, 414, 451, 600],
                Verdict::Misdirected,
            ),
        ] {
            for code in codes {
                let status = StatusCode::from_u16(code).expect("a code");
                assert_eq!(judge(status, &HeaderMap::new(), UrlIs::TheSameForAll, 0), expected, "{code}");
            }
        }
        for code in [StatusCode::NOT_FOUND, StatusCode::GONE] {
            assert_eq!(judge(code, &HeaderMap::new(), UrlIs::OfItsRows, 0), Verdict::Refused);
        }
        assert_eq!(judge(StatusCode::UNAUTHORIZED, &HeaderMap::new(), UrlIs::OfItsRows, 0), Verdict::Misdirected);
    }

    #[test]
    fn a_wish_to_wait_is_seconds_or_a_date_and_has_an_end() {
        // Sun, 06 Nov 1994 08:49:37 GMT.
        let now_us = 784_111_777 * 1_000_000;
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
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_str(text).expect("a value"))]);
            let verdict = judge(StatusCode::SERVICE_UNAVAILABLE, &headers, UrlIs::TheSameForAll, now_us);
            assert_eq!(verdict, Verdict::NotNow { asked: expected.map(Duration::from_secs) }, "{text}");
        }
    }
}
