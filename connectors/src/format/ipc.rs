//! Arrow: a message is an IPC stream, of a schema and batches of rows. Columns are matched by name and cast, as those of files.
//!
//! A message is read as a whole: what is damaged in it may concern any of its rows, so all of them are one dead letter. What a
//! message says of lengths is believed only as far as it has the bytes: see [`ROWS_MAX`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use tidemill_engine::decode::{Decoded, Decoder, Format, Place};
use tidemill_engine::source::{Data, Message};

use super::columns::{Rows, decode_columns, decode_rows};
use super::dead::{DeadLetters, joined};
use super::layout::Layout;
use super::metadata::Origin;

/// Rows of one message: a column may say that it repeats a value, and then takes no bytes for each.
const ROWS_MAX: usize = 1 << 20;
/// Bytes of one message that is written.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Makes decoders of Arrow IPC streams, and of columns.
#[derive(Clone, Debug)]
pub struct ArrowFormat {
    layout: Arc<Layout>,
}

impl ArrowFormat {
    /// Makes the format of a layout.
    pub fn new(layout: Layout) -> Self {
        ArrowFormat { layout: Arc::new(layout) }
    }
}

impl Format for ArrowFormat {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.layout.schema())
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(ArrowDecoder { layout: Arc::clone(&self.layout) })
    }
}

struct ArrowDecoder {
    layout: Arc<Layout>,
}

impl Decoder for ArrowDecoder {
    fn decode(&mut self, data: &Data, place: &Place<'_>) -> Decoded {
        let messages = match data {
            Data::Messages(messages) => messages,
            Data::Columns(columns) => return decode_columns(&self.layout, columns, place),
        };
        let origin = Origin::new(place, messages);
        let mut dead = DeadLetters::new(messages);
        let mut rows = Rows::default();
        for index in 0..messages.len() {
            let Some(whole) = dead.accept(index, &self.layout) else { continue };
            match read(&messages[index]) {
                Err(reason) => dead.push(whole, reason),
                Ok(batches) => {
                    batches.iter().for_each(|batch| decode_rows(&self.layout, batch, &origin, index, &mut rows))
                }
            }
        }
        let mut letters = dead.finish();
        letters.extend(rows.dead);
        letters.sort_by_key(|letter| letter.message);
        Decoded { batches: joined(self.layout.schema(), rows.batches), dead: letters, nulled: rows.nulled }
    }
}

/// Reads a stream to its end. The reader panics on some bytes that only mean mischief: for it the message is damaged.
fn read(message: &Message) -> Result<Vec<RecordBatch>, String> {
    let read = catch_unwind(AssertUnwindSafe(|| batches_of(message)));
    read.unwrap_or_else(|_| Err("not an Arrow IPC stream: it contradicts itself".to_owned()))
}

fn batches_of(message: &Message) -> Result<Vec<RecordBatch>, String> {
    // A copy: the buffers of Arrow begin at multiples of eight bytes, those of a message anywhere.
    let mut rest = Buffer::from(message.payload.as_ref());
    let mut decoder = StreamDecoder::new();
    let mut batches = Vec::new();
    let mut row_count = 0usize;
    let problem = |error: arrow::error::ArrowError| format!("not an Arrow IPC stream: {error}");
    while !rest.is_empty() {
        let Some(batch) = decoder.decode(&mut rest).map_err(problem)? else { continue };
        row_count = row_count.saturating_add(batch.num_rows());
        if row_count > ROWS_MAX {
            return Err(format!("the message has more than {ROWS_MAX} rows"));
        }
        batches.push(batch);
    }
    decoder.finish().map_err(problem)?;
    if decoder.schema().is_none() {
        return Err("not an Arrow IPC stream: the message is empty".to_owned());
    }
    Ok(batches)
}

/// Writes rows as messages, each a stream of its own, with the number of their rows.
pub(crate) fn ipc_messages(rows: &RecordBatch) -> Result<Vec<(usize, Bytes)>, String> {
    let mut writer = StreamWriter::try_new(Vec::new(), rows.schema_ref()).map_err(|error| error.to_string())?;
    writer.write(rows).and_then(|()| writer.finish()).map_err(|error| error.to_string())?;
    let bytes = writer.into_inner().map_err(|error| error.to_string())?;
    if bytes.len() <= MESSAGE_BYTES_MAX {
        return Ok(vec![(rows.num_rows(), Bytes::from(bytes))]);
    }
    let half = rows.num_rows() / 2;
    if half == 0 {
        return Err(format!("a row of {} bytes is too large for the log", bytes.len()));
    }
    let mut messages = ipc_messages(&rows.slice(0, half))?;
    messages.extend(ipc_messages(&rows.slice(half, rows.num_rows() - half))?);
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray, Float64Array, Int32Array, StringArray};
    use arrow::datatypes::{DataType, Field, Float64Type, Schema};
    use tidemill_engine::source::Offset;

    use super::*;
    use crate::Metadata;

    fn format() -> ArrowFormat {
        let columns = Schema::new(vec![
            Metadata::Position.column("place"),
            Field::new("device", DataType::Utf8View, true),
            Field::new("temperature", DataType::Float64, false),
        ]);
        ArrowFormat::new(Layout::new(&Arc::new(columns)))
    }

    fn rows(temperatures: &[Option<i32>]) -> RecordBatch {
        let devices = StringArray::from_iter_values((0..temperatures.len()).map(|n| format!("d{n}")));
        let temperatures = Int32Array::from(temperatures.to_vec());
        RecordBatch::try_from_iter([("temperature", Arc::new(temperatures) as _), ("device", Arc::new(devices) as _)])
            .unwrap()
    }

    #[test]
    fn a_stream_gives_its_rows_and_a_damaged_one_is_dead_as_a_whole() {
        let payload = ipc_messages(&rows(&[Some(1), None, Some(3)])).unwrap().remove(0).1;
        let cut = payload.slice(..payload.len() - 40);
        let twice: Bytes = [&payload[..], &payload[..]].concat().into();
        let messages = [payload, cut, Bytes::from("nonsense"), Bytes::new(), twice];
        let messages = messages.map(|payload| Message::new("t", payload)).to_vec();
        let place = Place { runs: &[(Offset(7), 5)], ..Place::default() };
        let decoded = format().decoder().decode(&Data::Messages(messages), &place);
        let batch = &decoded.batches[0];
        assert_eq!(batch.column(2).as_primitive::<Float64Type>().values().as_ref(), [1.0, 3.0]);
        assert_eq!(batch.column(0).as_primitive::<arrow::datatypes::Int64Type>().values().as_ref(), [7, 7]);
        let dead: Vec<(usize, &str)> =
            decoded.dead.iter().map(|letter| (letter.message, letter.reason.as_str())).collect();
        assert_eq!(dead[0], (0, "column temperature: missing or null, but declared NOT NULL"));
        assert_eq!(decoded.dead[0].payload, r#"{"device":"d1"}"#);
        assert_eq!(dead.iter().map(|(message, _)| *message).collect::<Vec<_>>(), [0, 1, 2, 3, 4], "{dead:?}");
        assert_eq!(dead[3].1, "not an Arrow IPC stream: the message is empty");
    }

    #[test]
    fn rows_are_written_in_messages_that_the_log_takes() {
        let long = "x".repeat(100_000);
        let texts = StringArray::from_iter_values((0..500).map(|n| format!("{n}{long}")));
        let numbers = Float64Array::from_iter_values((0..500).map(f64::from));
        let rows =
            RecordBatch::try_from_iter([("device", Arc::new(texts) as _), ("temperature", Arc::new(numbers) as _)])
                .unwrap();
        let messages = ipc_messages(&rows).unwrap();
        assert!(messages.len() > 2 && messages.iter().all(|(_, bytes)| bytes.len() <= MESSAGE_BYTES_MAX));
        assert_eq!(messages.iter().map(|(rows, _)| rows).sum::<usize>(), 500);
        let messages = messages.into_iter().map(|(_, payload)| Message::new("", payload)).collect();
        let decoded = format().decoder().decode(&Data::Messages(messages), &Place::default());
        let found: Vec<f64> = decoded
            .batches
            .iter()
            .flat_map(|batch| batch.column(2).as_primitive::<Float64Type>().values().to_vec())
            .collect();
        assert_eq!(found, (0..500).map(f64::from).collect::<Vec<_>>());
        assert!(decoded.dead.is_empty() && decoded.batches[0].column(1).null_count() == 0);
    }
}
