//! `Content-Type`: what a body is, and with what its source declares, how it is read.
//!
//! | names | a body is |
//! |---|---|
//! | none, what `curl -d` says, `application/octet-stream` | what the source declares |
//! | JSON, CSV, Arrow, Parquet, Avro | that, whatever the source declares; a single record of Avro only where its schema is declared |
//! | Protobuf, text | that, where the source declares it |
//! | any at all, where the source declares `raw` | bytes |
//!
//! Where several messages of Protobuf stand in one body, each stands behind its length, and a parameter says so: `delimited=true`,
//! or `encoding=delimited`, as Prometheus has it.

use axum::http::{HeaderMap, header};
use serde_json::{Value, json};

use super::api::{Components, Media};
use super::problem::{Kind, Problem};
use crate::format::PayloadEncoding;

/// The closed set of types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MediaType {
    Unsaid,
    Json,
    Lines,
    Csv,
    Arrow,
    Parquet,
    Avro,
    Protobuf,
    Text,
}

impl MediaType {
    pub(super) const ALL: [MediaType; 9] = [
        MediaType::Lines,
        MediaType::Json,
        MediaType::Csv,
        MediaType::Arrow,
        MediaType::Parquet,
        MediaType::Avro,
        MediaType::Protobuf,
        MediaType::Text,
        MediaType::Unsaid,
    ];

    /// Returns its names; the first is the one to use.
    pub(super) fn names(self) -> &'static [&'static str] {
        match self {
            // The form type is what `curl -d` says when nobody tells it otherwise.
            MediaType::Unsaid => &["application/octet-stream", "application/x-www-form-urlencoded", ""],
            MediaType::Lines => &["application/x-ndjson", "application/ndjson", "application/jsonl"],
            MediaType::Json => &["application/json"],
            MediaType::Csv => &["text/csv"],
            MediaType::Arrow => &["application/vnd.apache.arrow.stream"],
            MediaType::Parquet => &["application/vnd.apache.parquet"],
            MediaType::Avro => {
                &["application/avro", "avro/binary", "application/vnd.apache.avro", "application/x-avro"]
            }
            MediaType::Protobuf => {
                &["application/x-protobuf", "application/protobuf", "application/vnd.google.protobuf"]
            }
            MediaType::Text => &["text/plain"],
        }
    }

    /// Says what a body of it is.
    pub(super) fn description(self) -> &'static str {
        match self {
            MediaType::Unsaid => "what the source declares",
            MediaType::Lines => "objects, each on a line of its own",
            MediaType::Json => "an object, or an array of objects",
            MediaType::Csv => "a header row, then rows",
            MediaType::Arrow => "a stream of Arrow IPC with its end mark",
            MediaType::Parquet => "a Parquet file",
            MediaType::Avro => "an object container file, or one record where the source declares the schema",
            MediaType::Protobuf => {
                "one message of the type that the source declares; with delimited=true any number, each behind its length"
            }
            MediaType::Text => "lines, for a source with format = 'text'",
        }
    }

    /// Describes a body of it.
    pub(super) fn media(self) -> Media {
        let (name, description) = (self.names()[0], self.description());
        match self {
            MediaType::Json => Media { name, description, shape: rows },
            _ => Media::bytes(name, description),
        }
    }

    /// Reads what a body is; `None`: what the source declares, which is `own`.
    pub(super) fn encoding(headers: &HeaderMap, own: PayloadEncoding) -> Result<Option<PayloadEncoding>, Problem> {
        // All that somebody else sends, as it came: what it says of itself is no matter.
        if own == PayloadEncoding::Raw {
            return Ok(None);
        }
        let given = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?").to_owned());
        let given = given.unwrap_or_default();
        let mut parts = given.split(';').map(|part| part.trim().to_ascii_lowercase());
        let essence = parts.next().unwrap_or_default();
        let Some(found) = MediaType::ALL.into_iter().find(|media_type| media_type.names().contains(&&*essence)) else {
            let known = MediaType::ALL.map(|media_type| media_type.names()[0]).join(", ");
            return Err(refused(&format!("the content type {essence} is not known")).hint(format!("known are {known}")));
        };
        match (found, own) {
            (MediaType::Unsaid, _) => Ok(None),
            (MediaType::Json | MediaType::Lines, _) => Ok(Some(PayloadEncoding::Json)),
            (MediaType::Csv, PayloadEncoding::Csv { .. }) => Ok(None),
            (MediaType::Csv, _) => Ok(Some(PayloadEncoding::Csv { delimiter: b',' })),
            (MediaType::Arrow, _) => Ok(Some(PayloadEncoding::Arrow)),
            (MediaType::Parquet, _) => Ok(Some(PayloadEncoding::Parquet)),
            (MediaType::Avro, PayloadEncoding::Avro) => Ok(None),
            (MediaType::Avro, _) => Ok(Some(PayloadEncoding::AvroContainer)),
            (MediaType::Protobuf, PayloadEncoding::Protobuf) => match is_delimited(parts)? {
                true => Ok(Some(PayloadEncoding::ProtobufDelimited)),
                false => Ok(None),
            },
            (MediaType::Protobuf, _) => Err(not_declared("protobuf", own)
                .hint("declare it: format = 'protobuf', descriptor_file = '…', message = '…'")),
            (MediaType::Text, PayloadEncoding::Text) => Ok(None),
            (MediaType::Text, _) => Err(not_declared("text", own).hint("say in Content-Type what the body is")),
        }
    }
}

/// An object, or several. Which columns it has, its source declares.
fn rows(_: &mut Components) -> Value {
    let row = json!({"type": "object"});
    json!({"anyOf": [row, {"type": "array", "items": row, "minItems": 1}]})
}

/// Reads what the parameters say of several messages.
fn is_delimited(parameters: impl Iterator<Item = String>) -> Result<bool, Problem> {
    let mut is_delimited = false;
    for parameter in parameters {
        let Some((name, value)) = parameter.split_once('=') else { continue };
        match (name.trim(), value.trim().trim_matches('"')) {
            ("delimited", "true") | ("encoding", "delimited") => is_delimited = true,
            ("delimited", "false") | ("encoding", "binary") => {}
            (name @ ("delimited" | "encoding"), value) => {
                return Err(refused(&format!("Protobuf with {name}={value} is not known"))
                    .hint("delimited=true (or encoding=delimited) for messages that each stand behind their length"));
            }
            _ => {}
        }
    }
    Ok(is_delimited)
}

fn not_declared(format: &str, own: PayloadEncoding) -> Problem {
    refused(&format!("this source does not declare format = '{format}'; it takes {}", own.name()))
}

fn refused(what: &str) -> Problem {
    Problem::new(Kind::ContentType, format!("{what}; nothing was stored"))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn read(content_type: &str, own: PayloadEncoding) -> Result<Option<PayloadEncoding>, String> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_str(content_type).unwrap());
        MediaType::encoding(&headers, own).map_err(|problem| problem.detail)
    }

    #[test]
    fn a_body_is_what_its_type_says_as_far_as_its_source_can_know() {
        use PayloadEncoding as P;
        for (content_type, own, expected) in [
            ("", P::Protobuf, None),
            ("application/octet-stream", P::Avro, None),
            ("Application/JSON; charset=utf-8", P::Protobuf, Some(P::Json)),
            ("text/csv", P::Csv { delimiter: b';' }, None),
            ("avro/binary", P::Avro, None),
            ("application/avro", P::Json, Some(P::AvroContainer)),
            ("application/x-protobuf", P::Protobuf, None),
            ("application/x-protobuf; delimited=true", P::Protobuf, Some(P::ProtobufDelimited)),
            (
                "application/vnd.google.protobuf; proto=plant.Reading; encoding=\"delimited\"",
                P::Protobuf,
                Some(P::ProtobufDelimited),
            ),
            ("text/plain; charset=utf-8", P::Text, None),
            ("image/jpeg", P::Raw, None),
            ("application/json", P::Raw, None),
        ] {
            assert_eq!(read(content_type, own), Ok(expected), "{content_type} to {own:?}");
        }
        for (content_type, own, expected) in [
            ("image/jpeg", P::Json, "the content type image/jpeg is not known"),
            ("application/x-protobuf", P::Json, "does not declare format = 'protobuf'; it takes JSON"),
            ("text/plain", P::Json, "does not declare format = 'text'; it takes JSON"),
            ("application/protobuf; encoding=json", P::Protobuf, "Protobuf with encoding=json is not known"),
        ] {
            let problem = read(content_type, own).expect_err("refused");
            assert!(problem.contains(expected), "{problem}");
        }
    }

    #[test]
    fn every_name_stands_for_one_type() {
        let mut names: Vec<&str> = MediaType::ALL.iter().flat_map(|media_type| media_type.names()).copied().collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
