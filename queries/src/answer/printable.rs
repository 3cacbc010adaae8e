//! What an answer looks like in text: each name once, times in UTC.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};

/// What becomes of lists, structs and maps.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Nested {
    Kept,
    AsText,
}

/// The schema an answer is written with: each name once, times in UTC, and nested columns as text where need be.
pub(super) fn printable_schema(schema: &Schema, nested: Nested) -> SchemaRef {
    let mut names = HashSet::new();
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .map(|field| {
            let data_type = match field.data_type() {
                DataType::Timestamp(unit, _) => DataType::Timestamp(*unit, Some("UTC".into())),
                other if other.is_nested() && nested == Nested::AsText => DataType::Utf8,
                other => other.clone(),
            };
            let name = (1..)
                .map(|n| if n == 1 { field.name().clone() } else { format!("{}_{n}", field.name()) })
                .find(|name| names.insert(name.clone()))
                .unwrap_or_else(|| field.name().clone());
            Field::new(name, data_type, true)
        })
        .collect();
    Arc::new(Schema::new(fields))
}

/// Brings a batch to the schema that [`printable_schema`] has made.
pub(super) fn printable(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = (batch.columns().iter().zip(schema.fields()))
        .map(|(column, field)| match (column.data_type(), field.data_type()) {
            (from, to) if from == to => Ok(Arc::clone(column)),
            (from, DataType::Utf8) if from.is_nested() => nested_as_text(column),
            (_, to) => cast(column, to),
        })
        .collect::<Result<Vec<ArrayRef>, ArrowError>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}

fn nested_as_text(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let options = FormatOptions::default().with_display_error(true).with_null("null");
    let formatter = ArrayFormatter::try_new(column, &options)?;
    let text = (0..column.len()).map(|row| column.is_valid(row).then(|| formatter.value(row).to_string()));
    Ok(Arc::new(text.collect::<StringArray>()))
}
