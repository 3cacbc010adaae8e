//! Input that is columns already: matched by name, cast to the declared types, and held to the same rules as text.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, make_array, new_null_array};
use arrow::buffer::NullBuffer;
use arrow::compute::can_cast_types;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use tidemill_engine::decode::{DeadLetter, Decoded, Decoder, Format, Place};
use tidemill_engine::source::Data;

use super::convert::expected;
use super::layout::Layout;
use super::metadata::Origin;
use crate::options::nearest;

/// Makes decoders of columns. Messages are dead letters here: no text format is declared.
#[derive(Clone, Debug)]
pub struct ColumnsFormat {
    layout: Arc<Layout>,
}

impl ColumnsFormat {
    /// Makes the format of a layout.
    pub fn new(layout: Layout) -> Self {
        ColumnsFormat { layout: Arc::new(layout) }
    }
}

impl Format for ColumnsFormat {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.layout.schema())
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(ColumnsDecoder { layout: Arc::clone(&self.layout) })
    }
}

struct ColumnsDecoder {
    layout: Arc<Layout>,
}

impl Decoder for ColumnsDecoder {
    fn decode(&mut self, data: &Data, place: &Place<'_>) -> Decoded {
        match data {
            Data::Columns(columns) => decode_columns(&self.layout, columns, place),
            Data::Messages(messages) => {
                let dead = messages.iter().enumerate().map(|(message, found)| DeadLetter {
                    message,
                    topic: found.topic.clone(),
                    payload: found.payload.clone(),
                    reason: "expected columns, found a message".to_owned(),
                });
                Decoded { dead: dead.collect(), ..Decoded::default() }
            }
        }
    }
}

/// Brings columns to the layout. Rows that do not fit become dead letters, written as JSON.
pub(super) fn decode_columns(layout: &Layout, batch: &RecordBatch, place: &Place<'_>) -> Decoded {
    let row_as_message = |row: usize, reason: &str| (row, reason.to_owned());
    // A row is a message of its own.
    decode(layout, batch, &Origin::new(place, &[]), |row| row, row_as_message)
}

/// The same for columns that one message holds: all rows have its place, and a reason says which row it is about, behind
/// `rows_before` others of the message.
pub(super) fn decode_columns_of(
    layout: &Layout,
    batch: &RecordBatch,
    origin: &Origin<'_>,
    message: usize,
    rows_before: usize,
) -> Decoded {
    let numbered = |row: usize, reason: &str| (message, format!("row {}: {reason}", rows_before + row + 1));
    decode(layout, batch, origin, |_| message, numbered)
}

fn decode(
    layout: &Layout,
    batch: &RecordBatch,
    origin: &Origin<'_>,
    message_of_row: impl Fn(usize) -> usize,
    letter: impl Fn(usize, &str) -> (usize, String),
) -> Decoded {
    if batch.num_rows() == 0 {
        return Decoded::default();
    }
    if batch.schema_ref() == layout.schema() && !layout.has_metadata() && origin.messages.is_empty() {
        return Decoded { batches: vec![batch.clone()], ..Decoded::default() };
    }
    let columns = layout.complete_columns(batch, origin, message_of_row);
    let converted = layout.convert(columns, batch.num_rows());
    let row_count = batch.num_rows() - converted.bad.len();
    let dead = converted.bad.iter().map(|(row, reason)| {
        let (message, reason) = letter(*row, reason);
        let topic = origin.messages.get(message).map_or_else(Bytes::new, |message| message.topic.clone());
        DeadLetter { message, topic, payload: row_as_json(batch, *row), reason }
    });
    let dead = dead.collect();
    let nulled = converted.nulled;
    let batches = match row_count {
        0 => Vec::new(),
        _ => vec![converted.into_batch(layout.schema(), row_count)],
    };
    Decoded { batches, dead, nulled, ..Decoded::default() }
}

/// Finds the column of a field, by its name; a dot leads into a column of columns. NULL where there is none.
pub(super) fn column_of(batch: &RecordBatch, field: &Field) -> ArrayRef {
    let null = || new_null_array(field.data_type(), batch.num_rows());
    if let Some(found) = batch.column_by_name(field.name()) {
        return Arc::clone(found);
    }
    let mut names = field.name().split('.');
    let Some(mut found) = names.next().and_then(|name| batch.column_by_name(name)).cloned() else { return null() };
    for name in names {
        let Some(parent) = found.as_struct_opt() else { return null() };
        let Some(child) = parent.column_by_name(name) else { return null() };
        found = match parent.nulls() {
            None => Arc::clone(child),
            // What belongs to nothing is nothing.
            Some(nulls) => {
                let nulls = NullBuffer::union(Some(nulls), child.nulls());
                let data = child.to_data().into_builder().nulls(nulls).build();
                make_array(data.expect("only fewer values are valid"))
            }
        };
    }
    found
}

/// Returns the field that [`column_of`] finds.
fn field_of<'s>(schema: &'s Schema, name: &str) -> Option<&'s Field> {
    if let Some((_, found)) = schema.column_with_name(name) {
        return Some(found);
    }
    let mut names = name.split('.');
    let mut found = schema.column_with_name(names.next()?)?.1;
    for name in names {
        let DataType::Struct(fields) = found.data_type() else { return None };
        found = fields.find(name)?.1;
    }
    Some(found)
}

/// Says why columns cannot become those of a layout; `Ok` if they can.
pub(super) fn check_columns(found: &Schema, layout: &Layout) -> Result<(), String> {
    let mut is_any_there = false;
    for field in layout.payload().fields() {
        let Some(column) = field_of(found, field.name()) else {
            if field.is_nullable() {
                continue;
            }
            let names = found.fields().iter().map(|field| field.name().as_str());
            let near = nearest(field.name(), names).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
            return Err(format!("has no column {}, which is declared NOT NULL{near}", field.name()));
        };
        is_any_there = true;
        let (from, to) = (column.data_type(), field.data_type());
        let is_count = from.is_integer() && matches!(to, DataType::Timestamp(_, _));
        if is_count && layout.time_unit().is_none() {
            return Err(format!(
                "column {} is a number: say what it counts with the option time_unit = 's', 'ms', 'us' or 'ns'",
                field.name()
            ));
        }
        if from != to && !is_count && !can_cast_types(from, to) {
            let (name, is) = (field.name(), expected(to));
            return Err(format!("column {name} has type {from}, which cannot become {is}"));
        }
    }
    if !is_any_there && !layout.payload().fields().is_empty() {
        let names: Vec<&str> = found.fields().iter().map(|field| field.name().as_str()).collect();
        return Err(format!("has none of the declared columns, but {}", names.join(", ")));
    }
    Ok(())
}

fn row_as_json(batch: &RecordBatch, row: usize) -> Bytes {
    let mut writer = arrow_json::LineDelimitedWriter::new(Vec::new());
    // A type that JSON cannot show leaves the letter without its payload; the reason is there all the same.
    if writer.write(&batch.slice(row, 1)).and_then(|()| writer.finish()).is_err() {
        return Bytes::new();
    }
    Bytes::from(writer.into_inner().trim_ascii_end().to_vec())
}
