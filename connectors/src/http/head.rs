//! What the head of a request says: its parameters, its content type, and who it is.

use std::collections::BTreeMap;

use axum::http::HeaderMap;

use super::admission::{Ack, OnError};
use super::api::Parameter;
use super::api::parameter::{self, NumberHeader, TextHeader, Wait, Words, wrong_header};
use super::media_type::MediaType;
use super::once::{IDEMPOTENCY_KEY_BYTES_MAX, Once, PRODUCER_ID_BYTES_MAX};
use super::problem::Problem;
use super::{COMMIT_WAIT, WAIT_MAX};
use crate::format::PayloadEncoding;

const ON_ERROR: Words<OnError> = Words {
    name: "on_error",
    description: "what becomes of rows that cannot be used",
    words: &[("reject", OnError::Reject), ("dead_letter", OnError::DeadLetter)],
};
const ACK: Words<Ack> = Words {
    name: "ack",
    description: "what the answer waits for",
    words: &[("durable", Ack::Durable), ("accepted", Ack::Accepted), ("committed", Ack::Committed(COMMIT_WAIT))],
};
const WAIT: Wait =
    Wait { name: "wait", description: "with ack=committed: how long the answer waits for it", max: WAIT_MAX };
const PRODUCER_ID: TextHeader = TextHeader {
    name: "producer-id",
    description: "who sends; with producer-epoch and producer-seq",
    bytes_max: PRODUCER_ID_BYTES_MAX,
};
const PRODUCER_EPOCH: NumberHeader = NumberHeader { name: "producer-epoch", description: "which life of the producer" };
const PRODUCER_SEQ: NumberHeader =
    NumberHeader { name: "producer-seq", description: "which request of that life, from 0" };
const IDEMPOTENCY_KEY: TextHeader = TextHeader {
    name: "idempotency-key",
    description: "another way to name a request",
    bytes_max: IDEMPOTENCY_KEY_BYTES_MAX,
};

/// The query parameters of a request that brings rows.
const PARAMETERS: &[&dyn Parameter] = &[&ON_ERROR, &ACK, &WAIT];

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
    /// All that it reads beside the type of the body.
    pub(super) const PARAMETERS: &[&dyn Parameter] =
        &[&ON_ERROR, &ACK, &WAIT, &PRODUCER_ID, &PRODUCER_EPOCH, &PRODUCER_SEQ, &IDEMPOTENCY_KEY];

    pub(super) fn read(
        parameters: &BTreeMap<String, String>,
        headers: &HeaderMap,
        own: PayloadEncoding,
    ) -> Result<Head, Problem> {
        let (on_error, ack) = read_parameters(parameters)?;
        Ok(Head { on_error, ack, encoding: MediaType::encoding(headers, own)?, once: once(headers)? })
    }
}

fn read_parameters(given: &BTreeMap<String, String>) -> Result<(OnError, Ack), Problem> {
    parameter::check_known(given, PARAMETERS)?;
    let value = |parameter: &dyn Parameter| given.get(parameter.name());
    let on_error = value(&ON_ERROR).map(|value| ON_ERROR.read(value)).transpose()?.unwrap_or_default();
    // A level that is not kept must not be accepted silently.
    let mut ack = value(&ACK).map(|value| ACK.read(value)).transpose()?.unwrap_or_default();
    let wait = value(&WAIT).map(|value| WAIT.read(value)).transpose()?;
    match (&mut ack, wait) {
        (_, None) => {}
        (Ack::Committed(longest), Some(wait)) => *longest = wait,
        (_, Some(_)) => return Err(parameter::unknown("wait", "it belongs to ack=committed")),
    }
    Ok((on_error, ack))
}

/// Reads who a request is.
fn once(headers: &HeaderMap) -> Result<Option<Once>, Problem> {
    let id = PRODUCER_ID.read(headers)?;
    let (epoch, sequence) = (PRODUCER_EPOCH.read(headers)?, PRODUCER_SEQ.read(headers)?);
    let key = IDEMPOTENCY_KEY.read(headers)?;
    match (id, epoch, sequence, key) {
        (None, None, None, None) => Ok(None),
        (None, None, None, Some(key)) => Ok(Some(Once::Key(key))),
        (Some(id), Some(epoch), Some(sequence), None) => Ok(Some(Once::Producer { id, epoch, sequence })),
        (_, _, _, Some(_)) => Err(wrong_header("a request has Producer- headers or an Idempotency-Key, not both")
            .hint("number the requests, or give each a key")),
        _ => Err(wrong_header("Producer-Id, Producer-Epoch and Producer-Seq stand together, and one is missing")
            .hint("Producer-Id: who you are; Producer-Epoch: 0; Producer-Seq: 0, 1, 2, …")),
    }
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
