//! What was heard, and the rows in it. The inference knows nothing but this, whatever brought it.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use tidemill_engine::source::Message;

/// Fields of one row that are looked at; more of them are no columns that somebody would declare.
const FIELDS_MAX: usize = 500;

/// One message as it was heard.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    /// Topic and payload.
    pub(super) message: Message,
    /// When it came, microseconds.
    pub(super) arrival_us: i64,
    /// Whether it is an old reading that was kept and sent again.
    pub(super) retained: bool,
}

impl Heard {
    /// Returns its topic.
    pub(super) fn topic(&self) -> String {
        String::from_utf8_lossy(&self.message.topic).into_owned()
    }
}

/// Everything that was heard.
#[derive(Clone, Debug, Default)]
pub(super) struct Listening {
    /// What was kept, in order.
    pub(super) heard: Vec<Heard>,
    /// How long it took, microseconds.
    pub(super) duration_us: i64,
    /// Messages that came when there was no room for more.
    pub(super) not_kept: u64,
}

/// The members of a JSON object in their order; of equal names the last counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Row(pub(super) Vec<(String, Value)>);

impl Row {
    /// Returns the value of a member; `None` if it is not there or null.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value).filter(|value| !value.is_null())
    }
}

/// What a payload holds.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Payload {
    /// JSON objects.
    Rows(Vec<Row>),
    /// Something that no source reads, in words.
    Other(&'static str),
}

impl Payload {
    /// Reads a payload as a source reads JSON: an object, several behind each other, or an array of objects.
    pub(super) fn read(bytes: &[u8]) -> Payload {
        let bytes = bytes.trim_ascii();
        let rows = match bytes.first() {
            None => return Payload::Other("empty"),
            Some(b'{') => serde_json::Deserializer::from_slice(bytes).into_iter::<Row>().collect::<Result<Vec<_>, _>>(),
            Some(b'[') => serde_json::from_slice::<Vec<Row>>(bytes),
            Some(_) => return Payload::Other(what_else(bytes)),
        };
        match rows {
            Ok(rows) if rows.is_empty() => Payload::Other("an empty array"),
            Ok(rows) => Payload::Rows(rows),
            Err(_) => Payload::Other(what_else(bytes)),
        }
    }
}

fn what_else(bytes: &[u8]) -> &'static str {
    match serde_json::from_slice::<Value>(bytes) {
        Ok(Value::Number(_)) => "a plain number",
        Ok(Value::String(_) | Value::Bool(_) | Value::Null) => "a plain value",
        Ok(Value::Array(_)) => "an array of other things than objects",
        Ok(Value::Object(_)) | Err(_) if std::str::from_utf8(bytes).is_ok() => "no JSON",
        Ok(Value::Object(_)) | Err(_) => "binary",
    }
}

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Row;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Row, A::Error> {
                let mut row = Row::default();
                while let Some((name, value)) = members.next_entry::<String, Value>()? {
                    match row.0.iter().position(|(known, _)| *known == name) {
                        Some(at) => row.0[at].1 = value,
                        None if row.0.len() < FIELDS_MAX => row.0.push((name, value)),
                        None => {}
                    }
                }
                Ok(row)
            }
        }
        deserializer.deserialize_map(Members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_read_as_a_source_reads_it() {
        let names = |text: &str| match Payload::read(text.as_bytes()) {
            Payload::Rows(rows) => rows
                .iter()
                .map(|row| row.0.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(","))
                .collect::<Vec<_>>()
                .join(" | "),
            Payload::Other(what) => what.to_owned(),
        };
        for (text, expected) in [
            (r#" {"b":1,"a":2,"b":3} "#, "b,a"),
            ("{\"a\":1}\n{\"b\":1}", "a | b"),
            (r#"[{"a":1},{}]"#, "a | "),
            ("", "empty"),
            ("[]", "an empty array"),
            ("21.5", "a plain number"),
            ("true", "a plain value"),
            ("[1]", "an array of other things than objects"),
            ("on", "no JSON"),
            (r#"{"a":"#, "no JSON"),
        ] {
            assert_eq!(names(text), expected, "{text}");
        }
        assert_eq!(Payload::read(&[0xff, 0x00]), Payload::Other("binary"));
    }
}
