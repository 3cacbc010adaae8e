//! Columns that grow by the values of messages.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, BooleanBuilder, Float64Builder, Int64Builder, MapBuilder, MapFieldNames, StringBuilder,
    StringViewBuilder, TimestampMicrosecondBuilder, UInt64Builder,
};
use arrow::datatypes::{DataType, Field};
use prost_reflect::{FieldDescriptor, Kind, MapKey, Value};

use super::FieldPath;

/// A column that grows, of one of the types that fields are read as.
pub(super) enum Builder {
    Boolean(BooleanBuilder),
    Int(Int64Builder),
    Unsigned(UInt64Builder),
    Float(Float64Builder),
    Text(StringViewBuilder, Option<prost_reflect::EnumDescriptor>),
    Bytes(BinaryBuilder),
    Time(TimestampMicrosecondBuilder),
    Map(Box<MapBuilder<StringBuilder, StringViewBuilder>>),
}

impl Builder {
    pub(super) fn new(path: &FieldPath) -> Builder {
        match &path.raw {
            DataType::Boolean => Builder::Boolean(BooleanBuilder::new()),
            DataType::Int64 => Builder::Int(Int64Builder::new()),
            DataType::UInt64 => Builder::Unsigned(UInt64Builder::new()),
            DataType::Float64 => Builder::Float(Float64Builder::new()),
            DataType::Binary => Builder::Bytes(BinaryBuilder::new()),
            DataType::Timestamp(..) => Builder::Time(TimestampMicrosecondBuilder::new().with_timezone("UTC")),
            DataType::Map(entries, _) => {
                let DataType::Struct(fields) = entries.data_type() else { unreachable!("of pairs") };
                let name = |at: usize| fields[at].name().clone();
                let names = MapFieldNames { entry: entries.name().clone(), key: name(0), value: name(1) };
                let maps = MapBuilder::new(Some(names), StringBuilder::new(), StringViewBuilder::new());
                let maps = maps.with_keys_field(Arc::clone(&fields[0])).with_values_field(Field::clone(&fields[1]));
                Builder::Map(Box::new(maps))
            }
            _ => {
                let names = match path.fields.last().map(FieldDescriptor::kind) {
                    Some(Kind::Enum(names)) => Some(names),
                    _ => None,
                };
                Builder::Text(StringViewBuilder::new(), names)
            }
        }
    }

    pub(super) fn append(&mut self, value: Option<&Value>) {
        // The value of a wrapper.
        let inner = match (value, &self) {
            (Some(Value::Message(wrapper)), this) if !matches!(this, Builder::Time(_)) => {
                wrapper.get_field_by_name("value")
            }
            _ => None,
        };
        let value = inner.as_deref().or(value);
        match self {
            Builder::Boolean(values) => values.append_option(value.and_then(Value::as_bool)),
            Builder::Int(values) => values.append_option(value.and_then(whole)),
            Builder::Unsigned(values) => values.append_option(value.and_then(Value::as_u64)),
            Builder::Float(values) => {
                values.append_option(value.and_then(|value| value.as_f64().or_else(|| value.as_f32().map(f64::from))));
            }
            Builder::Text(values, None) => values.append_option(value.and_then(Value::as_str)),
            Builder::Text(values, Some(names)) => {
                let number = value.and_then(Value::as_enum_number);
                values.append_option(number.map(|number| match names.get_value(number) {
                    Some(named) => named.name().to_owned(),
                    None => number.to_string(),
                }));
            }
            Builder::Bytes(values) => values.append_option(value.and_then(Value::as_bytes)),
            Builder::Time(values) => values.append_option(value.and_then(instant)),
            Builder::Map(maps) => {
                let pairs = value.and_then(Value::as_map);
                let mut pairs: Vec<_> =
                    pairs.into_iter().flatten().map(|(key, value)| (key_text(key), value)).collect();
                // The order of a hash map is none.
                pairs.sort_by(|a, b| a.0.cmp(&b.0));
                for (key, value) in &pairs {
                    maps.keys().append_value(key);
                    maps.values().append_value(value_text(value));
                }
                maps.append(true).expect("a value for each key");
            }
        }
    }

    pub(super) fn finish(&mut self) -> ArrayRef {
        match self {
            Builder::Boolean(values) => Arc::new(values.finish()),
            Builder::Int(values) => Arc::new(values.finish()),
            Builder::Unsigned(values) => Arc::new(values.finish()),
            Builder::Float(values) => Arc::new(values.finish()),
            Builder::Text(values, _) => Arc::new(values.finish()),
            Builder::Bytes(values) => Arc::new(values.finish()),
            Builder::Time(values) => Arc::new(values.finish()),
            Builder::Map(maps) => Arc::new(maps.finish()),
        }
    }
}

fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::I32(number) | Value::EnumNumber(number) => Some(i64::from(*number)),
        Value::U32(number) => Some(i64::from(*number)),
        Value::I64(number) => Some(*number),
        _ => None,
    }
}

/// A `google.protobuf.Timestamp` in microseconds, rounded down; NULL if it is none that microseconds can hold.
fn instant(value: &Value) -> Option<i64> {
    let time = value.as_message()?;
    let seconds = time.get_field_by_name("seconds")?.as_i64()?;
    let nanos = time.get_field_by_name("nanos")?.as_i32()?;
    seconds.checked_mul(1_000_000)?.checked_add(i64::from(nanos.div_euclid(1_000)))
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

fn value_text(value: &Value) -> String {
    match value {
        Value::Bool(value) => value.to_string(),
        Value::I32(value) | Value::EnumNumber(value) => value.to_string(),
        Value::I64(value) => value.to_string(),
        Value::U32(value) => value.to_string(),
        Value::U64(value) => value.to_string(),
        Value::F32(value) => value.to_string(),
        Value::F64(value) => value.to_string(),
        Value::String(value) => value.clone(),
        Value::Bytes(_) | Value::Message(_) | Value::List(_) | Value::Map(_) => unreachable!("the values are simple"),
    }
}
