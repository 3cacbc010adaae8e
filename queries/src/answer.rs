//! Answers: the rows of a question as they come, and the formats they are written in.
//!
//! | format   | `Accept`                              | shape |
//! |----------|---------------------------------------|-------|
//! | `json`   | `application/json`, `*/*`, none       | `{"columns":[{"name":"device","type":"TEXT"}],"rows":[{"device":"a"}],"row_count":1}`: one row a line |
//! | `ndjson` | `application/x-ndjson`                | one object a line, rows only |
//! | `csv`    | `text/csv`                            | a line of names, then rows (RFC 4180, `\n`) |
//! | `arrow`  | `application/vnd.apache.arrow.stream` | Arrow IPC stream, columns as computed |
//! | `table`  | `text/plain`                          | for eyes, then the number of rows |
//!
//! In all text formats: times are RFC 3339 in UTC (`2026-11-20T09:00:00.25Z`), also those without a time zone, since
//! every instant in tidemill is UTC. 64-bit integers are JSON numbers, decimals too; NaN and infinities are `null` in
//! JSON. A null is `null`, an empty CSV field, an empty cell. Columns of one name are numbered: `x`, `x_2`. In CSV and
//! tables, lists and structs are written as text.
//!
//! An answer that breaks off says so: the reader gets a [`Problem`] instead of an end.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use arrow::util::pretty::pretty_format_batches_with_options;
use arrow_json::writer::{LineDelimited, WriterBuilder};
use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::problem::{Problem, ProblemKind};

/// Encoded pieces between an answer and the socket.
const PIECES_IN_FLIGHT_MAX: usize = 4;
/// Rows that a printed table measures together: more are printed as several tables.
const TABLE_ROWS_MAX: usize = 10_000;

/// What comes out of a question that runs.
pub(crate) enum Piece {
    /// Rows, at least one.
    Rows(RecordBatch),
    /// All rows have come.
    End,
    /// No more rows come, and some are missing.
    Failed(Problem),
}

/// Which state of a table an answer was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableVersion {
    /// The table.
    pub table: String,
    /// The number of its last commit that was read; `None` if it has none yet.
    pub version: Option<u64>,
}

/// The answer to a question: its columns, and its rows as they are computed. Dropping it ends the question.
pub struct Answer {
    schema: SchemaRef,
    versions: Vec<TableVersion>,
    pieces: mpsc::Receiver<Piece>,
    threads: Handle,
    ended: bool,
}

impl Answer {
    pub(crate) fn new(
        schema: SchemaRef,
        versions: Vec<TableVersion>,
        pieces: mpsc::Receiver<Piece>,
        threads: Handle,
    ) -> Self {
        Answer { schema, versions, pieces, threads, ended: false }
    }

    /// Returns the columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Returns which states of which tables were read.
    pub fn versions(&self) -> &[TableVersion] {
        &self.versions
    }

    /// Waits for the next rows; `None` after the last.
    pub async fn next(&mut self) -> Option<Result<RecordBatch, Problem>> {
        if self.ended {
            return None;
        }
        let piece = self.pieces.recv().await;
        self.ended = !matches!(piece, Some(Piece::Rows(_)));
        match piece {
            Some(Piece::Rows(rows)) => Some(Ok(rows)),
            Some(Piece::End) => None,
            Some(Piece::Failed(problem)) => Some(Err(problem)),
            None => Some(Err(broken_off())),
        }
    }

    /// Waits for all rows.
    pub async fn collect(mut self) -> Result<Vec<RecordBatch>, Problem> {
        let mut batches = Vec::new();
        while let Some(batch) = self.next().await {
            batches.push(batch?);
        }
        Ok(batches)
    }

    /// Writes the answer in a format, on the threads of questions.
    pub fn encode(mut self, format: AnswerFormat) -> EncodedAnswer {
        let (sender, pieces) = mpsc::channel(PIECES_IN_FLIGHT_MAX);
        let threads = self.threads.clone();
        threads.spawn(async move {
            let last = match encode_all(&mut self, format, &sender).await {
                Ok(last) => Ok(EncodedPiece::End(last)),
                Err(problem) => Err(problem),
            };
            let _ = sender.send(last).await;
        });
        EncodedAnswer { pieces, ended: false }
    }
}

/// The bytes of an answer, as they are computed.
pub struct EncodedAnswer {
    pieces: mpsc::Receiver<Result<EncodedPiece, Problem>>,
    ended: bool,
}

enum EncodedPiece {
    Middle(Bytes),
    End(Bytes),
}

impl EncodedAnswer {
    /// Waits for the next bytes; `None` after the last.
    pub async fn next(&mut self) -> Option<Result<Bytes, Problem>> {
        if self.ended {
            return None;
        }
        match self.pieces.recv().await {
            Some(Ok(EncodedPiece::Middle(bytes))) => Some(Ok(bytes)),
            Some(Ok(EncodedPiece::End(bytes))) => {
                self.ended = true;
                Some(Ok(bytes))
            }
            Some(Err(problem)) => {
                self.ended = true;
                Some(Err(problem))
            }
            None => {
                self.ended = true;
                Some(Err(broken_off()))
            }
        }
    }
}

fn broken_off() -> Problem {
    Problem::new(ProblemKind::NotReady, "the answer broke off: the program is stopping")
}

async fn encode_all(
    answer: &mut Answer,
    format: AnswerFormat,
    sender: &mpsc::Sender<Result<EncodedPiece, Problem>>,
) -> Result<Bytes, Problem> {
    let unwritable = |error: ArrowError| {
        Problem::new(ProblemKind::NotSupported, format!("the answer cannot be written as {format}: {error}"))
            .with_hint("cast the column to TEXT")
    };
    let mut encoder = Encoder::new(format, answer.schema()).map_err(unwritable)?;
    while let Some(batch) = answer.next().await {
        encoder.write(&batch?).map_err(unwritable)?;
        let bytes = encoder.take();
        if !bytes.is_empty() && sender.send(Ok(EncodedPiece::Middle(bytes))).await.is_err() {
            break;
        }
    }
    encoder.finish().map_err(unwritable)
}

/// How an answer is written. See the module for the shapes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AnswerFormat {
    /// For eyes.
    Table,
    /// One document.
    #[default]
    Json,
    /// One object a line.
    Ndjson,
    /// Comma separated.
    Csv,
    /// Arrow IPC stream.
    Arrow,
}

impl AnswerFormat {
    const ALL: [AnswerFormat; 5] =
        [AnswerFormat::Table, AnswerFormat::Json, AnswerFormat::Ndjson, AnswerFormat::Csv, AnswerFormat::Arrow];

    /// Returns the word a person types.
    pub fn name(self) -> &'static str {
        match self {
            AnswerFormat::Table => "table",
            AnswerFormat::Json => "json",
            AnswerFormat::Ndjson => "ndjson",
            AnswerFormat::Csv => "csv",
            AnswerFormat::Arrow => "arrow",
        }
    }

    /// Returns what stands in `Accept`.
    pub fn media_type(self) -> &'static str {
        match self {
            AnswerFormat::Table => "text/plain",
            AnswerFormat::Json => "application/json",
            AnswerFormat::Ndjson => "application/x-ndjson",
            AnswerFormat::Csv => "text/csv",
            AnswerFormat::Arrow => "application/vnd.apache.arrow.stream",
        }
    }

    /// Returns what stands in `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            AnswerFormat::Table => "text/plain; charset=utf-8",
            AnswerFormat::Csv => "text/csv; charset=utf-8; header=present",
            other => other.media_type(),
        }
    }

    /// Returns the first format an `Accept` header names that can be written; JSON if it accepts anything.
    pub fn from_accept(accept: &str) -> Option<AnswerFormat> {
        if accept.trim().is_empty() {
            return Some(AnswerFormat::Json);
        }
        let mut wanted: Vec<(f32, AnswerFormat)> = accept.split(',').filter_map(AnswerFormat::wanted).collect();
        // Stable: of equal wishes the first one counts.
        wanted.sort_by(|a, b| b.0.total_cmp(&a.0));
        wanted.first().map(|(_, format)| *format)
    }

    /// Reads one part of an `Accept` header: its weight and format, `None` if there is no such format or it is not wanted.
    fn wanted(part: &str) -> Option<(f32, AnswerFormat)> {
        let mut pieces = part.split(';').map(|piece| piece.trim().to_ascii_lowercase());
        let media_type = pieces.next().unwrap_or_default();
        let format = match media_type.as_str() {
            "*/*" | "application/*" => AnswerFormat::Json,
            "application/ndjson" | "application/jsonl" => AnswerFormat::Ndjson,
            "text/*" => AnswerFormat::Csv,
            _ => AnswerFormat::ALL.into_iter().find(|format| format.media_type() == media_type)?,
        };
        let weight = pieces.find_map(|piece| piece.strip_prefix("q=")?.parse::<f32>().ok()).unwrap_or(1.0);
        (weight > 0.0).then_some((weight, format))
    }
}

impl fmt::Display for AnswerFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for AnswerFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        AnswerFormat::ALL.into_iter().find(|format| format.name().eq_ignore_ascii_case(text)).ok_or_else(|| {
            let names: Vec<&str> = AnswerFormat::ALL.iter().map(|format| format.name()).collect();
            format!("{text:?} is not a format; there are {}", names.join(", "))
        })
    }
}

/// Writes batches in one format into a buffer.
struct Encoder {
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
    fn new(format: AnswerFormat, schema: &SchemaRef) -> Result<Self, ArrowError> {
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

    fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
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

    fn take(&mut self) -> Bytes {
        Bytes::from(std::mem::take(&mut self.buffer))
    }

    fn finish(mut self) -> Result<Bytes, ArrowError> {
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

/// What becomes of lists, structs and maps.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Nested {
    Kept,
    AsText,
}

/// The schema an answer is written with: each name once, times in UTC, and nested columns as text where need be.
fn printable_schema(schema: &Schema, nested: Nested) -> SchemaRef {
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

fn printable(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
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

/// Returns a type as SQL says it.
pub fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Null => "NULL".to_owned(),
        DataType::Boolean => "BOOLEAN".to_owned(),
        DataType::Int8 => "TINYINT".to_owned(),
        DataType::Int16 => "SMALLINT".to_owned(),
        DataType::Int32 => "INTEGER".to_owned(),
        DataType::Int64 => "BIGINT".to_owned(),
        DataType::UInt8 => "TINYINT UNSIGNED".to_owned(),
        DataType::UInt16 => "SMALLINT UNSIGNED".to_owned(),
        DataType::UInt32 => "INTEGER UNSIGNED".to_owned(),
        DataType::UInt64 => "BIGINT UNSIGNED".to_owned(),
        DataType::Float16 | DataType::Float32 => "REAL".to_owned(),
        DataType::Float64 => "DOUBLE".to_owned(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "TEXT".to_owned(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            "BYTEA".to_owned()
        }
        DataType::Date32 | DataType::Date64 => "DATE".to_owned(),
        DataType::Time32(_) | DataType::Time64(_) => "TIME".to_owned(),
        DataType::Timestamp(TimeUnit::Microsecond, _) => "TIMESTAMP".to_owned(),
        DataType::Timestamp(TimeUnit::Second, _) => "TIMESTAMP(0)".to_owned(),
        DataType::Timestamp(TimeUnit::Millisecond, _) => "TIMESTAMP(3)".to_owned(),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => "TIMESTAMP(9)".to_owned(),
        DataType::Interval(_) | DataType::Duration(_) => "INTERVAL".to_owned(),
        DataType::Decimal32(p, s)
        | DataType::Decimal64(p, s)
        | DataType::Decimal128(p, s)
        | DataType::Decimal256(p, s) => {
            format!("DECIMAL({p}, {s})")
        }
        DataType::Dictionary(_, values) => type_name(values),
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            format!("{}[]", type_name(field.data_type()))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, Int64Array, ListArray, TimestampMicrosecondArray, TimestampNanosecondArray};
    use arrow::datatypes::Int32Type;
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

    #[test]
    fn accept_headers_choose_the_format_that_is_wanted_most() {
        for (accept, format) in [
            ("", Some(AnswerFormat::Json)),
            ("*/*", Some(AnswerFormat::Json)),
            ("text/html, application/x-ndjson;q=0.9", Some(AnswerFormat::Ndjson)),
            ("Text/CSV; charset=utf-8", Some(AnswerFormat::Csv)),
            ("application/vnd.apache.arrow.stream", Some(AnswerFormat::Arrow)),
            ("image/png", None),
            ("text/csv;q=0.5, application/json", Some(AnswerFormat::Json)),
            ("text/csv; q=0.5, application/x-ndjson; q=0.5", Some(AnswerFormat::Csv)),
            ("text/csv;q=0", None),
        ] {
            assert_eq!(AnswerFormat::from_accept(accept), format, "{accept}");
        }
    }
}
