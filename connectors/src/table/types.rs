//! Types: which Arrow types a Delta table can hold, how they are widened, and the schema as the log has it.
//!
//! | rows have | Delta | in the file and in a snapshot's schema |
//! |---|---|---|
//! | Utf8, LargeUtf8, Utf8View, a dictionary of them | string | Utf8View |
//! | Binary, LargeBinary, BinaryView, FixedSizeBinary | binary | Binary |
//! | Int8, 16, 32, 64 | byte, short, integer, long | the same |
//! | UInt8, 16, 32, 64 | short, integer, long, decimal(20,0) | Int16, 32, 64, Decimal128(20,0) |
//! | Float16, 32, 64 | float, float, double | Float32, 32, 64 |
//! | Boolean, Date32, Decimal128 | boolean, date, decimal | the same |
//! | Timestamp of any unit and zone; without a zone it is UTC | timestamp | Timestamp(µs, "UTC") |
//! | List, LargeList, FixedSizeList, Struct, Map of these | array, struct, map | List, Struct, Map |

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, TimeUnit};
use serde::{Deserialize, Serialize};

/// A type as the log has it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum DeltaType {
    Primitive(String),
    Nested(Box<Nested>),
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", rename_all_fields = "camelCase")]
enum Nested {
    Struct { fields: Vec<DeltaField> },
    Array { element_type: DeltaType, contains_null: bool },
    Map { key_type: DeltaType, value_type: DeltaType, value_contains_null: bool },
}

#[derive(Clone, Serialize, Deserialize)]
struct DeltaField {
    name: String,
    #[serde(rename = "type")]
    data_type: DeltaType,
    nullable: bool,
    #[serde(default)]
    metadata: serde_json::Map<String, serde_json::Value>,
}

/// Returns the field that holds a column's values in a table, or says why none does.
pub(super) fn stored_field(field: &Field) -> Result<Field, String> {
    let stored = stored_type(field.data_type()).map_err(|problem| format!("column {}: {problem}", field.name()))?;
    Ok(Field::new(field.name(), stored, field.is_nullable()))
}

fn stored_type(data_type: &DataType) -> Result<DataType, String> {
    Ok(match data_type {
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64
        | DataType::Date32 => data_type.clone(),
        DataType::Decimal128(precision, scale) if *scale >= 0 && scale.unsigned_abs() <= *precision => {
            data_type.clone()
        }
        DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 => DataType::Int64,
        DataType::UInt64 => DataType::Decimal128(20, 0),
        DataType::Float16 => DataType::Float32,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8View,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            DataType::Binary
        }
        DataType::Timestamp(_, _) => utc_micros(),
        DataType::Dictionary(_, values) => stored_type(values)?,
        DataType::List(element) | DataType::LargeList(element) | DataType::FixedSizeList(element, _) => {
            DataType::List(Arc::new(Field::new("element", stored_type(element.data_type())?, element.is_nullable())))
        }
        DataType::Struct(fields) => {
            DataType::Struct(fields.iter().map(|field| stored_field(field)).collect::<Result<Fields, _>>()?)
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(pair) if pair.len() == 2 => map_type(
                stored_key_type(pair[0].data_type())?,
                Field::new("value", stored_type(pair[1].data_type())?, pair[1].is_nullable()),
            ),
            other => return Err(format!("a table cannot hold a map of {other}")),
        },
        DataType::Null => return Err("it has no type: write CAST(NULL AS …) with the type it should have".to_owned()),
        DataType::Duration(_) | DataType::Interval(_) | DataType::Time32(_) | DataType::Time64(_) => {
            return Err(format!("a table cannot hold {data_type}: cast it to BIGINT or TEXT"));
        }
        other => return Err(format!("a table cannot hold {other}: cast it to another type")),
    })
}

/// The keys of a map are compared with text as it is written in a question, which is no view.
fn stored_key_type(data_type: &DataType) -> Result<DataType, String> {
    Ok(match stored_type(data_type)? {
        DataType::Utf8View => DataType::Utf8,
        other => other,
    })
}

/// A map as the Delta protocol and Parquet have it: keys are never null, and in no order.
fn map_type(key: DataType, value: Field) -> DataType {
    let pair = Fields::from(vec![Field::new("key", key, false), value]);
    DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(pair), false)), false)
}

fn utc_micros() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// Writes a schema of stored types as the log has it.
pub(super) fn schema_string(schema: &Schema) -> String {
    let fields = schema.fields().iter().map(|field| delta_field(field)).collect();
    serde_json::to_string(&Nested::Struct { fields }).expect("a schema has text keys and goes to memory")
}

fn delta_field(field: &Field) -> DeltaField {
    DeltaField {
        name: field.name().clone(),
        data_type: delta_type(field.data_type()),
        nullable: field.is_nullable(),
        metadata: serde_json::Map::new(),
    }
}

fn delta_type(stored: &DataType) -> DeltaType {
    let primitive = match stored {
        DataType::Boolean => "boolean",
        DataType::Int8 => "byte",
        DataType::Int16 => "short",
        DataType::Int32 => "integer",
        DataType::Int64 => "long",
        DataType::Float32 => "float",
        DataType::Float64 => "double",
        DataType::Date32 => "date",
        DataType::Utf8View | DataType::Utf8 => "string",
        DataType::Binary => "binary",
        DataType::Timestamp(..) => "timestamp",
        DataType::Decimal128(precision, scale) => return DeltaType::Primitive(format!("decimal({precision},{scale})")),
        DataType::List(element) => {
            let element_type = delta_type(element.data_type());
            return nested(Nested::Array { element_type, contains_null: element.is_nullable() });
        }
        DataType::Struct(fields) => {
            return nested(Nested::Struct { fields: fields.iter().map(|field| delta_field(field)).collect() });
        }
        DataType::Map(entries, _) => {
            let DataType::Struct(pair) = entries.data_type() else { unreachable!("a map has pairs") };
            return nested(Nested::Map {
                key_type: delta_type(pair[0].data_type()),
                value_type: delta_type(pair[1].data_type()),
                value_contains_null: pair[1].is_nullable(),
            });
        }
        other => unreachable!("{other} is not a stored type"),
    };
    DeltaType::Primitive(primitive.to_owned())
}

fn nested(it: Nested) -> DeltaType {
    DeltaType::Nested(Box::new(it))
}

/// Reads a schema as the log has it.
pub(super) fn parse_schema(text: &str) -> Result<Schema, String> {
    match serde_json::from_str(text).map_err(|error| format!("its schema is not a Delta schema: {error}"))? {
        Nested::Struct { fields } => {
            Ok(Schema::new(fields.iter().map(arrow_field).collect::<Result<Vec<Field>, String>>()?))
        }
        Nested::Array { .. } | Nested::Map { .. } => Err("its schema is not a struct".to_owned()),
    }
}

fn arrow_field(field: &DeltaField) -> Result<Field, String> {
    let data_type =
        arrow_type(&field.data_type).map_err(|name| format!("column {} has the type {name}", field.name))?;
    Ok(Field::new(&field.name, data_type, field.nullable))
}

fn arrow_type(delta: &DeltaType) -> Result<DataType, String> {
    let name = match delta {
        DeltaType::Primitive(name) => name.as_str(),
        DeltaType::Nested(nested) => return arrow_nested(nested),
    };
    Ok(match name {
        "boolean" => DataType::Boolean,
        "byte" => DataType::Int8,
        "short" => DataType::Int16,
        "integer" => DataType::Int32,
        "long" => DataType::Int64,
        "float" => DataType::Float32,
        "double" => DataType::Float64,
        "date" => DataType::Date32,
        "string" => DataType::Utf8View,
        "binary" => DataType::Binary,
        "timestamp" => utc_micros(),
        _ => arrow_decimal(name).ok_or_else(|| name.to_owned())?,
    })
}

fn arrow_decimal(name: &str) -> Option<DataType> {
    let (precision, scale) = name.strip_prefix("decimal(")?.strip_suffix(')')?.split_once(',')?;
    let (precision, scale): (u8, i8) = (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
    (precision <= 38 && scale >= 0 && scale.unsigned_abs() <= precision)
        .then_some(DataType::Decimal128(precision, scale))
}

fn arrow_nested(nested: &Nested) -> Result<DataType, String> {
    Ok(match nested {
        Nested::Struct { fields } => {
            DataType::Struct(fields.iter().map(arrow_field).collect::<Result<Fields, String>>()?)
        }
        Nested::Array { element_type, contains_null } => {
            DataType::List(Arc::new(Field::new("element", arrow_type(element_type)?, *contains_null)))
        }
        Nested::Map { key_type, value_type, value_contains_null } => {
            let key = stored_key_type(&arrow_type(key_type)?)?;
            map_type(key, Field::new("value", arrow_type(value_type)?, *value_contains_null))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_survives_the_log() {
        let tags = Field::new("item", DataType::Utf8, true);
        let place = DataType::Struct(Fields::from(vec![Field::new("x", DataType::Float64, false)]));
        let columns = [
            Field::new("ts", DataType::Timestamp(TimeUnit::Nanosecond, None), false),
            Field::new("device", DataType::Utf8, true),
            Field::new("count", DataType::UInt64, false),
            Field::new("level", DataType::Decimal128(10, 2), true),
            Field::new("tags", DataType::List(Arc::new(tags)), true),
            Field::new("place", place, true),
            Field::new("properties", tidemill_engine::plan::text_map_type(), false),
        ];
        let stored = Schema::new(columns.iter().map(|field| stored_field(field).unwrap()).collect::<Vec<_>>());
        assert_eq!(parse_schema(&schema_string(&stored)).unwrap(), stored);
    }

    #[test]
    fn a_schema_is_written_as_the_protocol_has_it() {
        let stored = Schema::new(vec![
            Field::new("ts", utc_micros(), false),
            Field::new("n", DataType::Decimal128(20, 0), true),
        ]);
        assert_eq!(
            schema_string(&stored),
            r#"{"type":"struct","fields":[{"name":"ts","type":"timestamp","nullable":false,"metadata":{}},{"name":"n","type":"decimal(20,0)","nullable":true,"metadata":{}}]}"#
        );
    }

    #[test]
    fn unsigned_integers_are_widened() {
        for (from, to) in [
            (DataType::UInt8, DataType::Int16),
            (DataType::UInt16, DataType::Int32),
            (DataType::UInt32, DataType::Int64),
            (DataType::UInt64, DataType::Decimal128(20, 0)),
        ] {
            assert_eq!(stored_type(&from).unwrap(), to);
        }
    }

    #[test]
    fn what_a_table_cannot_hold_names_the_column() {
        let error = stored_field(&Field::new("gap", DataType::Duration(TimeUnit::Second), true)).unwrap_err();
        assert_eq!(error, "column gap: a table cannot hold Duration(s): cast it to BIGINT or TEXT");
    }
}
