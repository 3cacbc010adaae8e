//! `rows_at = 'data.items'`: the rows are not the answer, but stand somewhere in it.
//!
//! ```text
//!   {"status": "ok", "data": {"items": [{"v": 1}, {"v": 2}]}}      rows_at = 'data.items' ─► two rows
//! ```
//!
//! A path is names of members with points between; a name with a point in it cannot be reached. The log keeps the answer as it
//! was: the path belongs to reading it. An answer without such a place is a dead letter.
//!
//! An empty array has no rows, with a path or without: that there are no alerts is a good answer, and no bad row.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use serde::de::IgnoredAny;
use tidemill_engine::decode::{DeadLetter, Decoded, Decoder, Format, Place};
use tidemill_engine::source::{Data, Message};

use crate::format::value_length;
use crate::options::{OptionError, Options};

/// Names of one path.
const LEVELS_MAX: usize = 16;

/// Decodes what stands at a path of each message.
pub struct RowsAt {
    path: Arc<[String]>,
    inner: Arc<dyn Format>,
}

impl RowsAt {
    /// Takes option `rows_at`, and puts it before a format that reads JSON; without it the rows are the whole message.
    pub fn take(options: &mut Options, inner: Arc<dyn Format>) -> Result<Arc<dyn Format>, OptionError> {
        let Some(text) = options.take("rows_at") else { return Ok(Arc::new(RowsAt { path: Arc::default(), inner })) };
        let path: Vec<String> = text.split('.').map(str::to_owned).collect();
        if path.len() > LEVELS_MAX || path.iter().any(String::is_empty) {
            let problem = format!("{text:?} is not a path of {LEVELS_MAX} names at most, such as 'data.items'");
            return Err(OptionError::new("rows_at", problem));
        }
        Ok(Arc::new(RowsAt { path: path.into(), inner }))
    }
}

impl Format for RowsAt {
    fn schema(&self) -> SchemaRef {
        self.inner.schema()
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(RowsAtDecoder { path: Arc::clone(&self.path), inner: self.inner.decoder() })
    }
}

struct RowsAtDecoder {
    path: Arc<[String]>,
    inner: Box<dyn Decoder>,
}

impl Decoder for RowsAtDecoder {
    fn decode(&mut self, data: &Data, place: &Place<'_>) -> Decoded {
        let Data::Messages(messages) = data else { return self.inner.decode(data, place) };
        let mut failed: Vec<DeadLetter> = Vec::new();
        // Messages without rows: they keep their places, and what the format says of them is left out.
        let mut is_empty = vec![false; messages.len()];
        let mut found = Vec::with_capacity(messages.len());
        for (index, message) in messages.iter().enumerate() {
            let payload = rows_at(&message.payload, &self.path).unwrap_or_else(|reason| {
                let (topic, payload) = (message.topic.clone(), message.payload.clone());
                failed.push(DeadLetter { message: index, topic, payload, reason });
                EMPTY
            });
            is_empty[index] = has_no_rows(&payload);
            found.push(Message { payload, ..message.clone() });
        }
        let mut decoded = self.inner.decode(&Data::Messages(found), place);
        decoded.dead.retain(|dead| !is_empty[dead.message]);
        decoded.dead.extend(failed);
        decoded.dead.sort_by_key(|dead| dead.message);
        decoded
    }
}

/// What stands in place of an answer that has no rows.
const EMPTY: Bytes = Bytes::from_static(b"[]");

/// Whether it is an empty array.
fn has_no_rows(payload: &[u8]) -> bool {
    let inside = payload.trim_ascii().strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]"));
    inside.is_some_and(|inside| inside.trim_ascii().is_empty())
}

/// Finds the rows: a part of the payload.
fn rows_at(payload: &Bytes, path: &[String]) -> Result<Bytes, String> {
    if path.is_empty() {
        return Ok(payload.clone());
    }
    let shown = path.join(".");
    // Whoever looks into it below relies on it being JSON.
    serde_json::from_slice::<IgnoredAny>(payload)
        .map_err(|error| format!("cannot look for {shown} (rows_at): {error}"))?;
    let mut place = trimmed(payload, 0..payload.len());
    for name in path {
        if payload[place.start] != b'{' {
            return Err(format!("cannot look for {shown} (rows_at): expected an object with the member {name:?}"));
        }
        place = member(payload, place, name).ok_or_else(|| format!("there is nothing at {shown} (rows_at)"))?;
    }
    Ok(payload.slice(place))
}

/// Finds the value of a member in an object that is JSON; of equal names the last counts, as elsewhere.
fn member(text: &[u8], object: Range<usize>, name: &str) -> Option<Range<usize>> {
    let (mut at, mut found) = (object.start + 1, None);
    loop {
        at = skip(text, at, b',');
        if text[at] != b'"' {
            return found;
        }
        let key = at..at + value_length(&text[at..object.end]);
        at = skip(text, key.end, b':');
        let value = at..at + value_length(&text[at..object.end]);
        at = value.end;
        // A name may be written with escapes.
        if serde_json::from_slice::<Cow<'_, str>>(&text[key]).is_ok_and(|known| known == name) {
            found = Some(value);
        }
    }
}

/// Returns where the next thing begins behind white space and a sign.
fn skip(text: &[u8], at: usize, sign: u8) -> usize {
    let is_between = |byte: &&u8| byte.is_ascii_whitespace() || **byte == sign;
    at + text[at..].iter().take_while(is_between).count()
}

fn trimmed(text: &[u8], range: Range<usize>) -> Range<usize> {
    let inside = &text[range.clone()];
    let start = range.start + inside.len() - inside.trim_ascii_start().len();
    start..start + inside.trim_ascii().len()
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::{DataType, Field, Float64Type, Schema};

    use super::*;
    use crate::format::{JsonFormat, Layout};

    fn decode(path: &str, messages: &[&'static str]) -> (Vec<f64>, Vec<(usize, String)>) {
        let columns = Arc::new(Schema::new(vec![Field::new("v", DataType::Float64, true)]));
        let mut options = Options::new((!path.is_empty()).then(|| ("rows_at".to_owned(), path.to_owned())));
        let format = RowsAt::take(&mut options, Arc::new(JsonFormat::new(Layout::new(&columns)))).expect("a path");
        let messages = messages.iter().map(|text| Message::new("", *text)).collect();
        let decoded = format.decoder().decode(&Data::Messages(messages), &Place::default());
        let values = decoded.batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Float64Type>().values());
        (values.copied().collect(), decoded.dead.into_iter().map(|dead| (dead.message, dead.reason)).collect())
    }

    #[test]
    fn an_answer_without_the_place_is_a_dead_letter_and_an_empty_array_is_no_row() {
        let (values, dead) = decode(
            "data.items",
            &[
                r#"{"data":{"items":[{"v":1},{"v":2}]}}"#,
                r#"{"error":"x"}"#,
                r#"{"data":{"items":[]}}"#,
                r#"{"data":{"items":{"v":3}}}"#,
            ],
        );
        assert_eq!((values, dead.len()), (vec![1.0, 2.0, 3.0], 1), "{dead:?}");
        assert_eq!(dead[0], (1, "there is nothing at data.items (rows_at)".to_owned()));
        let (values, dead) = decode("", &["[]", "{\"v\":1}\n{\"v\":2}", " [ ] ", "[1]"]);
        assert_eq!((values, dead.len()), (vec![1.0, 2.0], 1), "{dead:?}");
        assert_eq!(dead[0].0, 3);
    }

    #[test]
    fn rows_are_found_where_the_path_leads() {
        let at = |text: &'static str, path: &str| {
            let path: Vec<String> = path.split('.').map(str::to_owned).collect();
            rows_at(&Bytes::from_static(text.as_bytes()), &path).map(|rows| String::from_utf8_lossy(&rows).into_owned())
        };
        assert_eq!(at(r#"{"data":{"items":[{"v":1},{"v":2}]}}"#, "data.items").unwrap(), r#"[{"v":1},{"v":2}]"#);
        assert_eq!(at(r#" {"x":[1,{"a":2}],"da\u0074a": {"v":1.50} } "#, "data").unwrap(), r#"{"v":1.50}"#);
        assert_eq!(at(r#"{"a":1,"a":2}"#, "a").unwrap(), "2");
        assert_eq!(at(r#"{ "x" : "a,b}\"" , "a" : { "b" : null } }"#, "a.b").unwrap(), "null");
        for (text, path, words) in [
            (r#"{"data":{}}"#, "data.items", "there is nothing at data.items"),
            (r#"{}"#, "a", "there is nothing at a"),
            (r#"{"data":[1]}"#, "data.items", "an object with the member \"items\""),
            ("[1]", "a", "an object with the member \"a\""),
            (r#"{"a":[1}"#, "a", "cannot look for a (rows_at)"),
            (r#"{"a":[1]} x"#, "a", "trailing characters"),
            ("", "a", "EOF"),
        ] {
            let problem = at(text, path).expect_err(text);
            assert!(problem.contains(words), "{text}: {problem}");
        }
    }

    /// Whatever an answer holds, what is found in it is JSON, or it is said why not.
    #[test]
    fn fuzz_rows_at() {
        let path = ["data".to_owned(), "items".to_owned()];
        tidemill_engine::testing::fuzz::fuzz(concat!(env!("CARGO_MANIFEST_DIR"), "/src/pull/corpus/answer"), |input| {
            let Ok(rows) = rows_at(&Bytes::copy_from_slice(input), &path) else { return false };
            // What is beside it may be no UTF-8, and is nobody's business here.
            let Ok(whole) = serde_json::from_slice::<serde_json::Value>(input) else { return false };
            let found: serde_json::Value = serde_json::from_slice(&rows).expect("a part of JSON");
            assert_eq!(found, whole["data"]["items"]);
            true
        });
    }
}
