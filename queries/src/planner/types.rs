//! Types and aggregates by the names that SQL has for them.

use arrow::datatypes::{DataType, Field};
use tidemill_engine::aggregate::AggregateKind;

/// A column's name and type, for fingerprints.
pub(super) fn shape(field: &Field) -> String {
    format!("{} {}{}", field.name(), type_name(field.data_type()), if field.is_nullable() { "" } else { " not null" })
}

/// The SQL name of a type.
pub(super) fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8View | DataType::Utf8 | DataType::LargeUtf8 => "text".to_owned(),
        DataType::Float64 => "double".to_owned(),
        DataType::Float32 => "real".to_owned(),
        DataType::Int64 => "bigint".to_owned(),
        DataType::Int32 => "integer".to_owned(),
        DataType::Int16 => "smallint".to_owned(),
        DataType::Int8 => "tinyint".to_owned(),
        DataType::UInt64 => "bigint unsigned".to_owned(),
        DataType::UInt32 => "integer unsigned".to_owned(),
        DataType::UInt16 => "smallint unsigned".to_owned(),
        DataType::UInt8 => "tinyint unsigned".to_owned(),
        DataType::Boolean => "boolean".to_owned(),
        DataType::Date32 => "date".to_owned(),
        DataType::Timestamp(..) => "timestamp".to_owned(),
        DataType::Binary => "bytes".to_owned(),
        DataType::Interval(_) | DataType::Duration(_) => "interval".to_owned(),
        DataType::Decimal128(precision, scale) => format!("decimal({precision}, {scale})"),
        DataType::Null => "null".to_owned(),
        other => other.to_string().to_lowercase(),
    }
}

pub(super) fn cast_hint(data_type: &DataType) -> String {
    match data_type {
        DataType::Interval(_) | DataType::Duration(_) => "subtract seconds instead: date_part('epoch', …)".to_owned(),
        DataType::Null => "say its type: CAST(NULL AS DOUBLE)".to_owned(),
        _ => "write CAST(… AS DOUBLE), or another type that fits".to_owned(),
    }
}

/// The SQL name of an aggregate.
pub(super) fn kind_name(kind: AggregateKind) -> &'static str {
    match kind {
        AggregateKind::Count => "count",
        AggregateKind::Sum => "sum",
        AggregateKind::Avg => "avg",
        AggregateKind::Min => "min",
        AggregateKind::Max => "max",
    }
}
