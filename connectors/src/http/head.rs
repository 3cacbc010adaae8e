//! What the head of a request says: its parameters, its content type, and who it is.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::HeaderMap;

use super::admission::{Ack, OnError};
use super::once::{IDEMPOTENCY_KEY_BYTES_MAX, Once, PRODUCER_ID_BYTES_MAX};
use super::problem::{Kind, Problem};
use super::media_type::MediaType;
use super::{COMMIT_WAIT, WAIT_MAX, parameter};
use crate::format::PayloadEncoding;

/// Who sends: text of at most [`PRODUCER_ID_BYTES_MAX`] bytes.
pub const PRODUCER_ID: &str = "producer-id";
/// Which life of the sender: a number.
pub const PRODUCER_EPOCH: &str = "producer-epoch";
/// Which request of that life: a number, from 0.
pub const PRODUCER_SEQ: &str = "producer-seq";
/// Another way to name a request: text of at most [`IDEMPOTENCY_KEY_BYTES_MAX`] bytes.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// All that the head of a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) on_error: OnError,
    pub(super) ack: Ack,
    /// `None`: the client does not say, and it is what the source declares.
    pub(super) encoding: Option<PayloadEncoding>,
    pub(super) once: Option<Once>,
}

impl Head {
    pub(super) fn read(
        parameters: &BTreeMap<String, String>,
        headers: &HeaderMap,
        own: PayloadEncoding,
    ) -> Result<Head, Problem> {
        let (on_error, ack) = read_parameters(parameters)?;
        Ok(Head { on_error, ack, encoding: MediaType::encoding(headers, own)?, once: once(headers)? })
    }
}

fn read_parameters(parameters: &BTreeMap<String, String>) -> Result<(OnError, Ack), Problem> {
    let (mut on_error, mut ack, mut wait) = (OnError::Reject, Ack::Durable, None::<Duration>);
    for (key, value) in parameters {
        match (key.as_str(), value.as_str()) {
            ("on_error", "reject") => on_error = OnError::Reject,
            ("on_error", "dead_letter") => on_error = OnError::DeadLetter,
            ("on_error", _) => {
                let hint = "on_error=reject (the default) or on_error=dead_letter";
                return Err(parameter::wrong(key, value).hint(hint));
            }
            ("ack", "accepted") => ack = Ack::Accepted,
            ("ack", "durable") => ack = Ack::Durable,
            ("ack", "committed") => ack = Ack::Committed(COMMIT_WAIT),
            // A level that is not kept must not be accepted silently.
            ("ack", _) => {
                return Err(
                    parameter::wrong(key, value).hint("ack=accepted, ack=durable (the default) or ack=committed")
                );
            }
            ("wait", _) => wait = Some(parameter::wait(value, WAIT_MAX)?),
            _ => return Err(parameter::unknown(key, "known are on_error, ack and, with ack=committed, wait")),
        }
    }
    match (&mut ack, wait) {
        (_, None) => {}
        (Ack::Committed(longest), Some(wait)) => *longest = wait,
        (_, Some(_)) => return Err(parameter::unknown("wait", "it belongs to ack=committed")),
    }
    Ok((on_error, ack))
}

/// Reads who a request is.
fn once(headers: &HeaderMap) -> Result<Option<Once>, Problem> {
    let id = text(headers, PRODUCER_ID, PRODUCER_ID_BYTES_MAX)?;
    let (epoch, sequence) = (number(headers, PRODUCER_EPOCH)?, number(headers, PRODUCER_SEQ)?);
    let key = text(headers, IDEMPOTENCY_KEY, IDEMPOTENCY_KEY_BYTES_MAX)?;
    match (id, epoch, sequence, key) {
        (None, None, None, None) => Ok(None),
        (None, None, None, Some(key)) => Ok(Some(Once::Key(key))),
        (Some(id), Some(epoch), Some(sequence), None) => Ok(Some(Once::Producer { id, epoch, sequence })),
        (_, _, _, Some(_)) => Err(wrong("a request has Producer- headers or an Idempotency-Key, not both")
            .hint("number the requests, or give each a key")),
        _ => Err(wrong("Producer-Id, Producer-Epoch and Producer-Seq stand together, and one is missing")
            .hint("Producer-Id: who you are; Producer-Epoch: 0; Producer-Seq: 0, 1, 2, …")),
    }
}

/// The only value of a header.
fn single<'h>(headers: &'h HeaderMap, name: &'static str) -> Result<Option<&'h str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(wrong(&format!("the header {name} stands twice")));
    }
    let text = value.to_str().map_err(|_| wrong(&format!("the header {name} is not plain ASCII")))?;
    Ok(Some(text.trim()))
}

fn text(headers: &HeaderMap, name: &'static str, bytes_max: usize) -> Result<Option<String>, Problem> {
    match single(headers, name)? {
        None => Ok(None),
        Some(text) if (1..=bytes_max).contains(&text.len()) => Ok(Some(text.to_owned())),
        Some(text) => Err(wrong(&format!("the header {name} has {} bytes, and may have 1 to {bytes_max}", text.len()))),
    }
}

fn number(headers: &HeaderMap, name: &'static str) -> Result<Option<u64>, Problem> {
    let Some(text) = single(headers, name)? else { return Ok(None) };
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<u64>() {
        // One below the greatest: the next must have a number too.
        Ok(number) if is_number && number < u64::MAX => Ok(Some(number)),
        _ => Err(wrong(&format!("the header {name} is not a whole number from 0 on"))),
    }
}

fn wrong(what: &str) -> Problem {
    Problem::new(Kind::Header, format!("{what}; nothing was stored"))
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};
    use tidemill_engine::testing::fuzz::fuzz;

    use super::*;

    /// Lines `name: value`, as far as they can be headers at all.
    fn headers(lines: &[u8]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines.split(|byte| *byte == b'\n').take(32) {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
            let (name, value) = (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(&line[colon + 1..]));
            if let (Ok(name), Ok(value)) = (name, value) {
                headers.append(name, value);
            }
        }
        headers
    }

    #[test]
    fn a_request_says_who_it_is_or_what_is_wrong() {
        let read = |lines: &str| once(&headers(lines.as_bytes()));
        assert_eq!(read("host: x").expect("nothing to read"), None);
        assert_eq!(read("Idempotency-Key: k 1 ").expect("a key"), Some(Once::Key("k 1".to_owned())));
        let producer = Once::Producer { id: "meter".to_owned(), epoch: 2, sequence: 7 };
        let all = "Producer-Id: meter\nProducer-Epoch: 2\nProducer-Seq: 7";
        assert_eq!(read(all).expect("a producer"), Some(producer));
        let long = format!("Idempotency-Key: {}", "k".repeat(129));
        for (lines, expected) in [
            ("Producer-Id: meter\nProducer-Epoch: 2", "one is missing"),
            ("Producer-Seq: 2", "one is missing"),
            (&format!("{all}\nIdempotency-Key: k"), "not both"),
            ("Producer-Id: m\nProducer-Epoch: 0\nProducer-Seq: -1", "producer-seq is not a whole number"),
            ("Producer-Id: m\nProducer-Epoch: 0\nProducer-Seq: 18446744073709551615", "producer-seq is not a whole"),
            ("Idempotency-Key: a\nIdempotency-Key: b", "stands twice"),
            ("Idempotency-Key: \u{e9}", "not plain ASCII"),
            ("Idempotency-Key:", "has 0 bytes"),
            (&long, "has 129 bytes, and may have 1 to 128"),
        ] {
            let problem = read(lines).expect_err("refused");
            assert!(problem.detail.contains(expected), "{lines:?}: {}", problem.detail);
        }
    }

    #[test]
    fn fuzz_head() {
        fuzz(format!("{}/src/http/corpus/head", env!("CARGO_MANIFEST_DIR")), |input| {
            let headers = headers(input);
            let own = [PayloadEncoding::Json, PayloadEncoding::Avro, PayloadEncoding::Protobuf, PayloadEncoding::Raw];
            match Head::read(&BTreeMap::new(), &headers, own[input.len() % own.len()]) {
                Ok(head) => {
                    let id = match &head.once {
                        Some(Once::Producer { id, .. }) => id,
                        Some(Once::Key(key)) => key,
                        None => return true,
                    };
                    assert!((1..=128).contains(&id.len()));
                    true
                }
                Err(problem) => {
                    assert!(problem.kind.status().is_client_error());
                    false
                }
            }
        });
    }
}
