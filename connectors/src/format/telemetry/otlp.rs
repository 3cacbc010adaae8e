//! What metrics and logs of OpenTelemetry have in common: a request in protobuf or JSON, attributes, the resource.
//!
//! ```text
//!   request ─► resources ─► scopes ─► metrics ─► points        protobuf begins with no brace, JSON with one
//!                                └──► log records
//! ```
//!
//! An attribute of a point goes to the column of its name; so does one of its resource or scope, unless the point has the same.

use std::borrow::Cow;
use std::fmt::Write;

use bytes::Bytes;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::super::rows::Span;
use super::cell::{Cell, Text};
use super::rows::{Names, Place, Row, Rows, borrowed};

/// Reads a request, in either of its forms.
pub(super) fn parse<M: Message + Default + DeserializeOwned>(payload: &[u8]) -> Result<M, String> {
    let json = || serde_json::from_slice(payload).map_err(|error| format!("not OTLP in JSON: {error}"));
    if payload.first() == Some(&b'{') {
        return json();
    }
    // A line end in front of JSON is the key of the first field in protobuf.
    match M::decode(payload) {
        Ok(request) => Ok(request),
        Err(_) if payload.trim_ascii_start().first() == Some(&b'{') => json(),
        Err(error) => Err(format!("not OTLP in protobuf: {error}")),
    }
}

/// Where attributes and their like go.
pub(super) struct CommonPlaces {
    attributes: Place,
    resource: Place,
    scope: Place,
}

impl CommonPlaces {
    pub(super) fn new(names: &Names) -> Self {
        CommonPlaces {
            attributes: names.part("attributes"),
            resource: names.part("resource"),
            scope: names.part("scope"),
        }
    }

    /// Fills what a point shares with others, then its own attributes.
    pub(super) fn set<'m>(&self, row: &mut Row<'m>, shared: Shared<'m>, attributes: &'m [KeyValue]) {
        for KeyValue { key, value, .. } in shared.resource.into_iter().flat_map(|resource| &resource.attributes) {
            row.attribute(self.resource, borrowed(key), || cell(value.as_ref()));
        }
        if let Some(scope) = shared.scope {
            for KeyValue { key, value, .. } in &scope.attributes {
                row.attribute(Place::NOWHERE, borrowed(key), || cell(value.as_ref()));
            }
            row.set(self.scope, Cell::text_or_null(&scope.name));
        }
        for KeyValue { key, value, .. } in attributes {
            row.attribute(self.attributes, borrowed(key), || cell(value.as_ref()));
        }
    }
}

/// What points share.
#[derive(Clone, Copy)]
pub(super) struct Shared<'m> {
    pub(super) resource: Option<&'m Resource>,
    pub(super) scope: Option<&'m InstrumentationScope>,
}

/// Makes a time of nanoseconds; 0 says that there is none.
pub(super) fn time(nanoseconds: u64) -> Option<i64> {
    // A 64-bit number of nanoseconds is 54 bits of microseconds.
    (nanoseconds != 0).then_some((nanoseconds / 1_000) as i64)
}

/// Makes a cell of a time that may be missing.
pub(super) fn time_or_null(nanoseconds: u64) -> Cell<'static> {
    time(nanoseconds).map_or(Cell::Null, Cell::Time)
}

/// Makes a cell of a value; what has parts is JSON.
pub(super) fn cell(value: Option<&AnyValue>) -> Cell<'_> {
    match value.and_then(|value| value.value.as_ref()) {
        None => Cell::Null,
        Some(Value::StringValue(text)) => Cell::from(text.as_str()),
        Some(Value::BoolValue(value)) => Cell::Bool(*value),
        Some(Value::IntValue(value)) => Cell::Int(*value),
        Some(Value::DoubleValue(value)) => Cell::Float(*value),
        Some(Value::BytesValue(bytes)) => Cell::Text(hex(bytes)),
        Some(parts) => Cell::Text(Cow::Owned(json(parts).to_string())),
    }
}

fn json(value: &Value) -> serde_json::Value {
    let inner = |value: &AnyValue| value.value.as_ref().map_or(serde_json::Value::Null, json);
    match value {
        Value::StringValue(text) => text.as_str().into(),
        Value::BoolValue(value) => (*value).into(),
        Value::IntValue(value) => (*value).into(),
        Value::DoubleValue(value) => (*value).into(),
        Value::BytesValue(bytes) => hex(bytes).into_owned().into(),
        Value::ArrayValue(array) => array.values.iter().map(inner).collect(),
        Value::KvlistValue(list) => {
            let pair = |pair: &KeyValue| (pair.key.clone(), pair.value.as_ref().map_or(serde_json::Value::Null, inner));
            serde_json::Value::Object(list.values.iter().map(pair).collect())
        }
        // A place in the dictionary of profiles, which metrics and logs do not have.
        Value::StringValueStrindex(_) => serde_json::Value::Null,
    }
}

/// Writes bytes as OTLP does in JSON: as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> Text<'static> {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to memory");
    }
    Cow::Owned(text)
}

/// Appends a row of a point, or makes a dead letter of the point as JSON: where it stands in the request is not known. Says
/// whether it was appended.
pub(super) fn take(rows: &mut Rows<'_>, row: &mut Row<'_>, whole: Span, point: &impl Serialize) -> bool {
    let nowhere = Span { start: 0, end: 0, ..whole };
    let taken = rows.try_take(row, nowhere);
    let is_taken = taken.is_ok();
    if let Err(reason) = taken {
        refuse(rows, whole, point, reason);
    }
    is_taken
}

/// Makes a dead letter of a point.
pub(super) fn refuse(rows: &mut Rows<'_>, whole: Span, point: &impl Serialize, reason: String) {
    let text = serde_json::to_vec(point).unwrap_or_default();
    rows.dead.push_made(whole, Bytes::from(text), reason);
}
