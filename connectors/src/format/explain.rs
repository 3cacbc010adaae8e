//! Why a JSON row could not be used, in words for the person who reads the dead letters.

use arrow::datatypes::{DataType, Field, SchemaRef};
use serde_json::Value;

use super::convert::{expected, missing, quoted};
use super::rows::{JSON_LEVELS_MAX, is_nested_too_deep};

/// What is to be done with a row that was not read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Explained {
    /// It is a dead letter, for this reason.
    Unusable(String),
    /// It can be read if what is of the wrong type is NULL: so many declared columns have a value in it.
    Lenient {
        /// Values that are not null.
        values: usize,
    },
}

/// Looks at a row again, by itself: bad rows are few, and people read the reason.
pub(super) fn explain_json(row: &[u8], declared: &SchemaRef) -> Explained {
    let members = match object(row) {
        Ok(members) => members,
        Err(reason) => return Explained::Unusable(reason),
    };
    let mut must_fit = declared.fields().iter().filter(|field| !field.is_nullable());
    if let Some(reason) = must_fit.find_map(|field| explain_member(field, members.get(field.name()))) {
        return Explained::Unusable(reason);
    }
    let is_there = |name: &String| members.get(name).is_some_and(|value| !value.is_null());
    Explained::Lenient { values: declared.fields().iter().filter(|field| is_there(field.name())).count() }
}

/// Says why something is not a row at all.
pub(super) fn not_an_object(row: &[u8]) -> String {
    object(row).err().unwrap_or_else(|| "cannot be read with the declared columns".to_owned())
}

fn object(row: &[u8]) -> Result<serde_json::Map<String, Value>, String> {
    if row.is_empty() {
        return Err("not JSON: the message is empty".to_owned());
    }
    if let Err(error) = std::str::from_utf8(row) {
        return Err(format!("not JSON: not UTF-8 at byte {}", error.valid_up_to()));
    }
    if is_nested_too_deep(row) {
        return Err(format!("nested more than {JSON_LEVELS_MAX} levels deep"));
    }
    match serde_json::from_slice::<Value>(row) {
        Err(error) => Err(not_json(row, &error)),
        Ok(Value::Object(members)) => Ok(members),
        Ok(Value::Array(elements)) if elements.is_empty() => Err("an array without rows".to_owned()),
        Ok(other) => Err(format!("expected a JSON object, found {}", described(&other))),
    }
}

fn explain_member(field: &Field, value: Option<&Value>) -> Option<String> {
    let value = match value {
        None | Some(Value::Null) => return (!field.is_nullable()).then(|| missing(field.name())),
        Some(value) => value,
    };
    let fits = match (field.data_type(), value) {
        (DataType::Struct(_) | DataType::Map(_, _), value) => value.is_object(),
        (DataType::List(_) | DataType::ListView(_) | DataType::FixedSizeList(_, _), value) => value.is_array(),
        (_, Value::Object(_) | Value::Array(_)) => false,
        (DataType::Boolean, value) => value.is_boolean(),
        (data_type, Value::Bool(_)) => !data_type.is_numeric(),
        (DataType::Float64 | DataType::Float32, Value::String(text)) => text.parse::<f64>().is_ok(),
        _ => true,
    };
    (!fits).then(|| {
        format!("column {}: expected {}, found {}", field.name(), expected(field.data_type()), described(value))
    })
}

fn described(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("the text {}", quoted(text)),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

fn not_json(row: &[u8], error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or(&text);
    let line_start =
        row.split_inclusive(|byte| *byte == b'\n').take(error.line().saturating_sub(1)).map(<[u8]>::len).sum::<usize>();
    format!("not JSON: {what} at byte {}", line_start + error.column().saturating_sub(1))
}
