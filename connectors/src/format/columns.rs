//! Input that is columns already: matched by name, cast to the declared types, and held to the same rules as text.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use tidemill_engine::decode::{DeadLetter, Decoded, Decoder, Format, Place};
use tidemill_engine::source::Data;

use super::convert::convert;
use super::layout::Layout;
use super::metadata::Origin;

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
                Decoded { batches: Vec::new(), dead: dead.collect() }
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
    if batch.schema_ref() == layout.schema() && !layout.has_metadata() {
        return Decoded { batches: vec![batch.clone()], dead: Vec::new() };
    }
    let columns = layout.complete_columns(batch, origin, message_of_row);
    let converted = convert(columns, batch.num_rows(), layout.schema(), layout.time_unit(), Default::default());
    let row_count = batch.num_rows() - converted.bad.len();
    let dead = converted.bad.iter().map(|(row, reason)| {
        let (message, reason) = letter(*row, reason);
        DeadLetter { message, topic: Bytes::new(), payload: row_as_json(batch, *row), reason }
    });
    let dead = dead.collect();
    let batches = match row_count {
        0 => Vec::new(),
        _ => vec![converted.into_batch(layout.schema(), row_count)],
    };
    Decoded { batches, dead }
}

fn row_as_json(batch: &RecordBatch, row: usize) -> Bytes {
    let mut writer = arrow_json::LineDelimitedWriter::new(Vec::new());
    // A type that JSON cannot show leaves the letter without its payload; the reason is there all the same.
    if writer.write(&batch.slice(row, 1)).and_then(|()| writer.finish()).is_err() {
        return Bytes::new();
    }
    Bytes::from(writer.into_inner().trim_ascii_end().to_vec())
}
