//! Writes batches in one format.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use arrow::util::display::FormatOptions;
use arrow::util::pretty::pretty_format_batches_with_options;
use arrow_json::writer::{LineDelimited, WriterBuilder};
use bytes::Bytes;

use super::AnswerFormat;
use super::printable::{Nested, printable, printable_schema};
use crate::type_name::type_name;

/// Rows that a printed table measures together: more are printed as several tables.
const TABLE_ROWS_MAX: usize = 10_000;

/// Writes batches in one format into a buffer.
pub(super) struct Encoder {
    state: EncoderState,
    schema: SchemaRef,
    buffer: Vec<u8>,
    row_count: u64,
}

enum EncoderState {
    Table(Vec<RecordBatch>),
    Json,
    Ndjson,
    Csv { header: bool },
    Arrow(Box<StreamWriter<Vec<u8>>>),
}

impl Encoder {
    pub(super) fn new(format: AnswerFormat, schema: &SchemaRef) -> Result<Self, ArrowError> {
        let shown = match format {
            AnswerFormat::Arrow => Arc::clone(schema),
            AnswerFormat::Json | AnswerFormat::Ndjson => printable_schema(schema, Nested::Kept),
            AnswerFormat::Table | AnswerFormat::Csv => printable_schema(schema, Nested::AsText),
        };
        let mut buffer = Vec::new();
        let state = match format {
            AnswerFormat::Table => EncoderState::Table(Vec::new()),
            AnswerFormat::Json => {
                let columns: Vec<serde_json::Value> = (shown.fields().iter().zip(schema.fields()))
                    .map(|(shown, field)| {
                        serde_json::json!({"name": shown.name(), "type": type_name(field.data_type())})
                    })
                    .collect();
                buffer.extend_from_slice(b"{\"columns\":");
                buffer.extend_from_slice(serde_json::Value::Array(columns).to_string().as_bytes());
                buffer.extend_from_slice(b",\"rows\":[");
                EncoderState::Json
            }
            AnswerFormat::Ndjson => EncoderState::Ndjson,
            AnswerFormat::Csv => EncoderState::Csv { header: true },
            AnswerFormat::Arrow => EncoderState::Arrow(Box::new(StreamWriter::try_new(Vec::new(), schema)?)),
        };
        Ok(Encoder { state, schema: shown, buffer, row_count: 0 })
    }

    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        if let EncoderState::Arrow(writer) = &mut self.state {
            writer.write(batch)?;
            self.buffer.append(writer.get_mut());
            self.row_count += batch.num_rows() as u64;
            return Ok(());
        }
        let batch = printable(batch, &self.schema)?;
        match &mut self.state {
            EncoderState::Table(held) => {
                held.push(batch.clone());
                if held.iter().map(RecordBatch::num_rows).sum::<usize>() >= TABLE_ROWS_MAX {
                    self.print_table()?;
                }
            }
            EncoderState::Json => write_json_rows(&mut self.buffer, &batch, self.row_count == 0)?,
            EncoderState::Ndjson => write_json_lines(&mut self.buffer, &batch)?,
            EncoderState::Csv { header } => {
                let with_header = std::mem::replace(header, false);
                write_csv(&mut self.buffer, &batch, with_header)?;
            }
            EncoderState::Arrow(_) => {}
        }
        self.row_count += batch.num_rows() as u64;
        Ok(())
    }

    pub(super) fn take(&mut self) -> Bytes {
        Bytes::from(std::mem::take(&mut self.buffer))
    }

    pub(super) fn finish(mut self) -> Result<Bytes, ArrowError> {
        match &mut self.state {
            EncoderState::Table(held) => {
                if !held.is_empty() || self.row_count == 0 {
                    self.print_table()?;
                }
                let rows = if self.row_count == 1 { "row" } else { "rows" };
                self.buffer.extend_from_slice(format!("({} {rows})\n", self.row_count).as_bytes());
            }
            EncoderState::Json => {
                let close = if self.row_count == 0 { "" } else { "\n" };
                self.buffer.extend_from_slice(format!("{close}],\"row_count\":{}}}\n", self.row_count).as_bytes());
            }
            EncoderState::Csv { header: true } => {
                write_csv(&mut self.buffer, &RecordBatch::new_empty(Arc::clone(&self.schema)), true)?;
            }
            EncoderState::Ndjson | EncoderState::Csv { header: false } => {}
            EncoderState::Arrow(writer) => {
                writer.finish()?;
                self.buffer.append(writer.get_mut());
            }
        }
        Ok(Bytes::from(self.buffer))
    }

    fn print_table(&mut self) -> Result<(), ArrowError> {
        let EncoderState::Table(held) = &mut self.state else { return Ok(()) };
        let mut batches = std::mem::take(held);
        if batches.is_empty() {
            batches.push(RecordBatch::new_empty(Arc::clone(&self.schema)));
        }
        let table = pretty_format_batches_with_options(&batches, &FormatOptions::default().with_display_error(true))?;
        self.buffer.extend_from_slice(table.to_string().as_bytes());
        self.buffer.push(b'\n');
        Ok(())
    }
}

fn write_json_lines(buffer: &mut Vec<u8>, batch: &RecordBatch) -> Result<(), ArrowError> {
    let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(buffer);
    writer.write(batch)?;
    writer.finish()
}

/// Writes rows as elements of an array, one a line.
fn write_json_rows(buffer: &mut Vec<u8>, batch: &RecordBatch, first: bool) -> Result<(), ArrowError> {
    let mut lines = Vec::new();
    write_json_lines(&mut lines, batch)?;
    let mut separator: &[u8] = if first { b"\n" } else { b",\n" };
    // A line break inside a JSON string is written as \n, so lines are rows.
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        buffer.extend_from_slice(separator);
        buffer.extend_from_slice(line);
        separator = b",\n";
    }
    Ok(())
}

fn write_csv(buffer: &mut Vec<u8>, batch: &RecordBatch, header: bool) -> Result<(), ArrowError> {
    let mut writer = arrow_csv::WriterBuilder::new().with_header(header).build(buffer);
    writer.write(batch)
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        Array, ArrayRef, Float64Array, Int64Array, ListArray, StringArray, TimestampMicrosecondArray,
        TimestampNanosecondArray,
    };
    use arrow::datatypes::{Field, Int32Type, Schema};
    use arrow::ipc::reader::StreamReader;

    use super::*;

    fn sample() -> RecordBatch {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("ts", Arc::new(TimestampMicrosecondArray::from(vec![Some(250_000), None]).with_timezone("UTC"))),
            ("naive", Arc::new(TimestampNanosecondArray::from(vec![1_000_000_000, 2_000_000_000]))),
            ("n", Arc::new(Int64Array::from(vec![i64::MAX, 1]))),
            ("n", Arc::new(Float64Array::from(vec![f64::NAN, -0.5]))),
            ("text", Arc::new(StringArray::from(vec![Some("a,\"b\"\nc"), None]))),
            ("list", Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None]), None]))),
        ];
        let fields: Vec<Field> =
            columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), true)).collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.into_iter().map(|(_, column)| column).collect())
            .expect("a batch")
    }

    fn encoded(format: AnswerFormat, batches: &[RecordBatch]) -> Vec<u8> {
        let mut encoder = Encoder::new(format, &sample().schema()).expect("encoder");
        let mut bytes = Vec::new();
        for batch in batches {
            encoder.write(batch).expect("write");
            bytes.extend_from_slice(&encoder.take());
        }
        bytes.extend_from_slice(&encoder.finish().expect("finish"));
        bytes
    }

    #[test]
    fn json_has_columns_rows_and_their_number() {
        let bytes = encoded(AnswerFormat::Json, &[sample(), sample()]);
        let document: serde_json::Value = serde_json::from_slice(&bytes).expect("one JSON document");
        assert_eq!(document["row_count"], 4);
        assert_eq!(document["columns"][0], serde_json::json!({"name": "ts", "type": "TIMESTAMP"}));
        assert_eq!(
            document["rows"][0],
            serde_json::json!({
                "ts": "1970-01-01T00:00:00.250Z", "naive": "1970-01-01T00:00:01Z", "n": i64::MAX, "n_2": null,
                "text": "a,\"b\"\nc", "list": [1, null],
            })
        );
        assert_eq!(document["rows"][3]["text"], serde_json::Value::Null);
        assert_eq!(document["rows"][3]["n_2"], -0.5);
    }

    #[test]
    fn an_empty_answer_is_whole_in_every_format() {
        let json: serde_json::Value = serde_json::from_slice(&encoded(AnswerFormat::Json, &[])).expect("JSON");
        assert_eq!(json["rows"], serde_json::json!([]));
        assert_eq!(json["columns"].as_array().map(Vec::len), Some(6));
        assert_eq!(encoded(AnswerFormat::Ndjson, &[]), b"");
        assert_eq!(encoded(AnswerFormat::Csv, &[]), b"ts,naive,n,n_2,text,list\n");
        let table = String::from_utf8(encoded(AnswerFormat::Table, &[])).expect("text");
        assert!(table.contains("| ts |") && table.ends_with("(0 rows)\n"), "{table}");
        let arrow = encoded(AnswerFormat::Arrow, &[]);
        let reader = StreamReader::try_new(arrow.as_slice(), None).expect("stream");
        assert_eq!(reader.schema(), sample().schema());
        assert_eq!(reader.count(), 0);
    }

    #[test]
    fn ndjson_is_one_object_a_line_also_with_line_breaks_in_text() {
        let text = String::from_utf8(encoded(AnswerFormat::Ndjson, &[sample(), sample()])).expect("text");
        let rows: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
        assert_eq!(rows.len(), 4);
        assert_eq!(rows[2]["text"], "a,\"b\"\nc");
    }

    #[test]
    fn csv_quotes_what_needs_it_and_writes_its_header_once() {
        let text = String::from_utf8(encoded(AnswerFormat::Csv, &[sample(), sample()])).expect("text");
        let first =
            "1970-01-01T00:00:00.250Z,1970-01-01T00:00:01Z,9223372036854775807,NaN,\"a,\"\"b\"\"\nc\",\"[1, null]\"\n";
        let second = ",1970-01-01T00:00:02Z,1,-0.5,,\n";
        assert_eq!(text, format!("ts,naive,n,n_2,text,list\n{first}{second}{first}{second}"));
    }

    #[test]
    fn arrow_gives_the_same_batches_back() {
        let bytes = encoded(AnswerFormat::Arrow, &[sample(), sample()]);
        let batches: Vec<RecordBatch> =
            StreamReader::try_new(bytes.as_slice(), None).expect("stream").collect::<Result<_, _>>().expect("batches");
        assert_eq!(batches.len(), 2);
        assert_eq!(batches[0].schema(), sample().schema());
        assert_eq!(batches[1].column(2), sample().column(2));
    }

    #[test]
    fn a_table_counts_its_rows() {
        let text = String::from_utf8(encoded(AnswerFormat::Table, &[sample()])).expect("text");
        assert!(text.contains("| 1970-01-01T00:00:00.250Z |"), "{text}");
        assert!(text.ends_with("(2 rows)\n"), "{text}");
    }
}
