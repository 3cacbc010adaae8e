//! Types and aggregates by the names that SQL has for them.

use arrow::datatypes::{DataType, Field};
use tidemill_engine::aggregate::AggregateKind;

/// A column's name and type, for fingerprints.
pub(super) fn shape(field: &Field) -> String {
    format!("{} {}{}", field.name(), type_name(field.data_type()), if field.is_nullable() { "" } else { " not null" })
}

/// The SQL name of a type, as it stands inside a sentence.
pub(super) fn type_name(data_type: &DataType) -> String {
    crate::type_name(data_type).to_lowercase()
}

pub(super) fn cast_hint(data_type: &DataType) -> String {
    match data_type {
        DataType::Interval(_) | DataType::Duration(_) => "subtract seconds instead: date_part('epoch', …)".to_owned(),
        DataType::Map(..) => "take a value out of it: user_properties['site']".to_owned(),
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
