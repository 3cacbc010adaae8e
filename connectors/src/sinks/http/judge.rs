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
use hyper::header::HeaderMap;

use crate::outgoing::retry_after;

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

#[cfg(test)]
mod tests {
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
}
