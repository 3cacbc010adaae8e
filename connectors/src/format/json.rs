//! JSON: an object is a row; a message holds one, several on lines of their own, or an array of them.
//!
//! Flat objects, which most rows are, go [straight to columns](super::plain). All others are read by arrow-json's tape
//! decoder, which takes any bytes as one long stream. Two consequences are dealt with here. It would join a cut-off record with the message behind it: so after every row it must have exactly one
//! record more, and none half read. And it keeps what it choked on, so that all later input fails: so after a failure
//! a new one is made, and [`salvage`](super::salvage) finds the rows to blame.
//!
//! Unknown keys are ignored; of equal keys the last counts. A number or a boolean in a text column becomes its text;
//! text that is a number is one in a number column. Commas may be missing or too many between members. A value of the wrong type
//! is NULL, and counted, unless its column is declared NOT NULL.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{ArrowPrimitiveType, DataType, Field, Float32Type, Float64Type, Schema, SchemaRef};
use tidemill_engine::decode::{Decoded, Decoder, Format, Place};
use tidemill_engine::source::{Data, Message};

use super::BATCH_ROWS;
use super::columns::decode_columns;
use super::convert::{Misfits, convert, expected};
use super::dead::{DeadLetters, joined};
use super::explain::{Explained, explain_json, not_an_object};
use super::layout::Layout;
use super::metadata::Origin;
use super::pieces::Pieces;
use super::plain::PlainReader;
use super::rows::{Span, is_nested_too_deep, split_json};
use super::salvage::{Failure, salvage};

/// Makes decoders of JSON messages.
#[derive(Clone, Debug)]
pub struct JsonFormat {
    layout: Arc<Layout>,
}

impl JsonFormat {
    /// Makes the format of a layout.
    pub fn new(layout: Layout) -> Self {
        JsonFormat { layout: Arc::new(layout) }
    }

    fn new_decoder(&self) -> JsonDecoder {
        let raw = self.layout.payload().fields().iter().map(|field| raw_field(field)).collect::<Vec<_>>();
        JsonDecoder {
            plain: PlainReader::new(self.layout.payload(), self.layout.time_unit()),
            layout: Arc::clone(&self.layout),
            raw: Arc::new(Schema::new(raw)),
            reader: None,
        }
    }
}

impl Format for JsonFormat {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.layout.schema())
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(self.new_decoder())
    }
}

/// Whole numbers and times are read as text: arrow-json would cut 1.5 to 1 and take any number for a time. Nothing is
/// declared NOT NULL: it would fail without saying where.
fn raw_field(field: &Field) -> Field {
    let data_type = match field.data_type() {
        integer if integer.is_integer() => DataType::Utf8View,
        DataType::Timestamp(_, _) => DataType::Utf8View,
        other => other.clone(),
    };
    Field::new(field.name(), data_type, true)
}

struct JsonDecoder {
    layout: Arc<Layout>,
    /// Reads flat objects, if the columns are of simple types.
    plain: Option<PlainReader>,
    raw: SchemaRef,
    /// The reader of the last success, which is empty and sound, with the number of rows it can take.
    reader: Option<(Mode, usize, arrow_json::reader::Decoder)>,
}

/// What a value of the wrong type does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// It fails.
    Strict,
    /// It is NULL.
    Lenient,
}

/// What was read so far.
struct Rows<'m> {
    origin: Origin<'m>,
    spans: Vec<Span>,
    pieces: Pieces,
    dead: DeadLetters<'m>,
    nulled: u64,
}

impl Decoder for JsonDecoder {
    fn decode(&mut self, data: &Data, place: &Place<'_>) -> Decoded {
        match data {
            Data::Messages(messages) => self.decode_messages(messages, place),
            Data::Columns(columns) => decode_columns(&self.layout, columns, place),
        }
    }
}

impl JsonDecoder {
    fn decode_messages(&mut self, messages: &[Message], place: &Place<'_>) -> Decoded {
        let mut dead = DeadLetters::new(messages);
        let spans = self.split(messages, &mut dead);
        let mut rows = Rows { origin: Origin::new(place, messages), spans, pieces: Pieces::default(), dead, nulled: 0 };
        let mut left = self.take_plain(messages, &mut rows);
        left.retain(|row| {
            let bytes = span_bytes(messages, rows.spans[*row]);
            let is_readable = !is_nested_too_deep(bytes);
            if !is_readable {
                rows.dead.push(rows.spans[*row], not_an_object(bytes));
            }
            is_readable
        });
        let left_spans: Vec<Span> = left.iter().map(|row| rows.spans[*row]).collect();
        let salvaged = salvage(left.len(), |part| self.read(messages, &left_spans[part.clone()], part, Mode::Strict));
        for (part, raw) in salvaged.good {
            self.take(&raw, &left[part], &mut rows);
        }
        // What is of the wrong type where nothing has to be is NULL.
        let (mut lenient, mut present) = (Vec::new(), Vec::new());
        for row in salvaged.bad.into_iter().map(|at| left[at]) {
            match explain_json(span_bytes(messages, rows.spans[row]), self.layout.payload()) {
                Explained::Unusable(reason) => rows.dead.push(rows.spans[row], reason),
                Explained::Lenient { values } => {
                    lenient.push(row);
                    present.push(values);
                }
            }
        }
        let left_spans: Vec<Span> = lenient.iter().map(|row| rows.spans[*row]).collect();
        let salvaged =
            salvage(lenient.len(), |part| self.read(messages, &left_spans[part.clone()], part, Mode::Lenient));
        for row in salvaged.bad {
            rows.dead.push(left_spans[row], "cannot be read with the declared columns".to_owned());
        }
        for (part, raw) in salvaged.good {
            let found: usize = raw.columns().iter().map(|column| raw.num_rows() - column.null_count()).sum();
            let values: usize = present[part.clone()].iter().sum();
            // One at least in each row: it may be inside of a map.
            rows.nulled += values.saturating_sub(found).max(raw.num_rows()) as u64;
            self.take(&raw, &lenient[part], &mut rows);
        }
        let Rows { pieces, dead, nulled, .. } = rows;
        let batches = joined(self.layout.schema(), pieces.in_order());
        Decoded { batches, dead: dead.finish(), nulled, ..Decoded::default() }
    }

    /// Takes the rows that are plain; returns the others.
    fn take_plain(&mut self, messages: &[Message], rows: &mut Rows<'_>) -> Vec<usize> {
        let Some(mut plain) = self.plain.take() else { return (0..rows.spans.len()).collect() };
        let mut left = Vec::new();
        for first in (0..rows.spans.len()).step_by(BATCH_ROWS) {
            let part = &rows.spans[first..(first + BATCH_ROWS).min(rows.spans.len())];
            let taken = plain.read(part.iter().map(|span| span_bytes(messages, *span)), first, &mut left);
            if !taken.rows.is_empty() {
                self.convert(taken.columns, &taken.rows, Misfits::default(), rows);
            }
        }
        self.plain = Some(plain);
        left
    }

    /// Takes rows that the general reader has read.
    fn take(&self, raw: &RecordBatch, numbers: &[usize], rows: &mut Rows<'_>) {
        let mut misfits = Misfits::default();
        let columns = raw.columns().iter().zip(self.layout.payload().fields());
        let columns = columns.map(|(column, field)| without_overflow(column, field, &mut misfits)).collect();
        self.convert(columns, numbers, misfits, rows);
    }

    /// Converts columns of the payload, for the rows of these numbers.
    fn convert(&self, columns: Vec<ArrayRef>, numbers: &[usize], misfits: Misfits, rows: &mut Rows<'_>) {
        let messages_of_rows = numbers.iter().map(|row| rows.spans[*row].message as usize);
        let columns = self.layout.complete(columns, &rows.origin, messages_of_rows);
        let fields = self.layout.schema();
        let converted = convert(columns, numbers.len(), fields, self.layout.time_unit(), misfits);
        for (row, reason) in &converted.bad {
            rows.dead.push(rows.spans[numbers[*row]], reason.clone());
        }
        rows.nulled += converted.nulled;
        let is_good = |row: &usize| !converted.bad.contains_key(row);
        let good: Vec<usize> = match converted.bad.is_empty() {
            true => numbers.to_vec(),
            false => (0..numbers.len()).filter(is_good).map(|row| numbers[row]).collect(),
        };
        if !good.is_empty() {
            let batch = converted.into_batch(fields, good.len());
            rows.pieces.push(good, batch);
        }
    }

    /// Finds the rows; those that are no objects by their look alone go to the dead letters at once.
    fn split(&self, messages: &[Message], dead: &mut DeadLetters<'_>) -> Vec<Span> {
        let mut spans = Vec::with_capacity(messages.len());
        for (index, message) in messages.iter().enumerate() {
            let Some(whole) = dead.accept(index, &self.layout) else { continue };
            split_json(&message.payload, |row| {
                let span = Span { start: row.start as u32, end: row.end as u32, ..whole };
                let bytes = &message.payload[row];
                let is_object = bytes.first() == Some(&b'{') && bytes.last() == Some(&b'}');
                if is_object {
                    spans.push(span);
                } else {
                    dead.push(span, not_an_object(bytes));
                }
            });
        }
        spans
    }

    fn read(
        &mut self,
        messages: &[Message],
        spans: &[Span],
        rows: Range<usize>,
        mode: Mode,
    ) -> Result<RecordBatch, Failure> {
        let (capacity, mut reader) = match self.reader.take() {
            Some((of, capacity, reader)) if of == mode && capacity >= spans.len() => (capacity, reader),
            _ => (spans.len(), self.new_reader(spans.len(), mode)),
        };
        for (done, span) in spans.iter().enumerate() {
            let bytes = span_bytes(messages, *span);
            let taken = reader.decode(bytes);
            let is_one_record = taken.is_ok_and(|taken| taken == bytes.len())
                && reader.len() == done + 1
                && !reader.has_partial_record();
            if !is_one_record {
                return Err(Failure::At(rows.start + done));
            }
        }
        let batch = reader.flush().map_err(|_| Failure::Somewhere)?.ok_or(Failure::Somewhere)?;
        self.reader = Some((mode, capacity, reader));
        Ok(batch)
    }

    fn new_reader(&self, row_count: usize, mode: Mode) -> arrow_json::reader::Decoder {
        arrow_json::ReaderBuilder::new(Arc::clone(&self.raw))
            .with_batch_size(row_count)
            .with_coerce_primitive(true)
            .with_ignore_type_conflicts(mode == Mode::Lenient)
            .build_decoder()
            .expect("declared types can be read from JSON: connect has checked it")
    }
}

/// Says whether arrow-json can read a type at all.
pub(crate) fn can_read(field: &Field) -> bool {
    let schema = Arc::new(Schema::new(vec![raw_field(field)]));
    arrow_json::ReaderBuilder::new(schema).with_batch_size(1).build_decoder().is_ok()
}

fn span_bytes(messages: &[Message], span: Span) -> &[u8] {
    &messages[span.message as usize].payload[span.start as usize..span.end as usize]
}

/// Digits that overflow a float become infinite. That is damage, and one infinite value ruins every average.
fn without_overflow(column: &ArrayRef, field: &Field, misfits: &mut Misfits) -> ArrayRef {
    match column.data_type() {
        DataType::Float64 => finite::<Float64Type>(column, field, misfits, |value| value.is_infinite()),
        DataType::Float32 => finite::<Float32Type>(column, field, misfits, |value| value.is_infinite()),
        _ => Arc::clone(column),
    }
}

fn finite<T: ArrowPrimitiveType>(
    column: &ArrayRef,
    field: &Field,
    misfits: &mut Misfits,
    is_infinite: impl Fn(T::Native) -> bool,
) -> ArrayRef {
    let values = column.as_primitive::<T>();
    if !values.values().iter().any(|value| is_infinite(*value)) {
        return Arc::clone(column);
    }
    for row in (0..values.len()).filter(|row| values.is_valid(*row) && is_infinite(values.value(*row))) {
        let expected = expected(field.data_type());
        misfits.refuse(row, field, || {
            format!("column {}: expected {expected}, but the number is too large", field.name())
        });
    }
    Arc::new(values.unary_opt::<_, T>(|value| (!is_infinite(value)).then_some(value)))
}

#[cfg(test)]
mod tests;
