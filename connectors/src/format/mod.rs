//! Formats: what the bytes of a message mean.
//!
//! A text format works in four steps, whole chunks at a time; a row that fails in one of them becomes a dead letter
//! with its reason and takes no other row with it:
//!
//! ```text
//!   messages ─► split ─────► rows ─► read ──────► raw columns ─► complete ───► all columns ─► convert ─────► typed columns
//!               topic fits?          JSON, CSV                   metadata,                    whole numbers,
//!               nesting?             salvage: a chunk            topic levels                 times, NOT NULL
//!                                    that fails is halved
//! ```
//!
//! Columns that are columns already (Parquet, Arrow, generators) enter at `convert`, and so do the records of Avro and Protobuf when
//! they are read.
//!
//! A value that does not fit in its column is NULL, and counted; where NULL must not be, the row is a dead letter.

mod avro;
mod columns;
mod convert;
mod csv;
mod dead;
mod delimited;
mod enclosed;
mod explain;
mod ipc;
mod json;
mod json_rows;
mod layout;
mod messages;
mod metadata;
mod payload;
mod pieces;
mod plain;
mod protobuf;
mod rows;
mod salvage;
mod schema_file;
mod tagged;
mod telemetry;
mod text;
mod time;

pub use avro::AvroFormat;
pub use csv::CsvFormat;
pub use enclosed::{ENCLOSED_BYTES_MAX, ENCLOSED_ROWS_MAX, ENCLOSED_VALUES_MAX};
pub use json::JsonFormat;
pub use layout::Layout;
pub use payload::PayloadEncoding;
pub use protobuf::ProtobufFormat;
pub use tagged::TaggedFormat;
pub use telemetry::{Precision, Protocol, TelemetryFormat};
pub use text::{TextFormat, Unit};
pub use time::{TimeUnit, parse_text as parse_time};

pub use columns::ColumnsFormat;
pub(crate) use delimited::{CutOff, split_delimited};
#[cfg(test)]
pub(crate) use enclosed::tests as enclosed_bytes;
pub(crate) use enclosed::{ArrowFile, AvroContainer, Unreadable, Within};
pub(crate) use ipc::ipc_messages;
pub(crate) use json_rows::JsonRows;
pub(crate) use rows::{csv_record_end, offset_in, split_csv, split_json, split_lines, value_length};
pub(crate) use telemetry::Tally;

use std::path::Path;
use std::sync::Arc;

use tidemill_engine::decode::Format;

use self::enclosed::Enclosed;
use crate::options::{OptionError, Options};

/// What some programs write in front of UTF-8 text.
pub(crate) const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Rows of one output batch, and of one step of the readers: enough to be vectorised, few enough to stay in cache.
pub(crate) const BATCH_ROWS: usize = 8192;

/// The closed set of encodings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// `format = 'json'`: an object, several on lines of their own, or an array of objects.
    Json,
    /// `format = 'csv'`: a header row, then rows; columns are matched by name.
    Csv {
        /// Between two fields.
        delimiter: u8,
    },
    /// `format = 'parquet'`: files only.
    Parquet,
    /// `format = 'text'`: each line is a row.
    Text,
    /// `format = 'raw'`: each message is a row.
    Raw,
    /// `format = 'avro'`: messages are records, files are object containers.
    Avro,
    /// `format = 'protobuf'`: messages only.
    Protobuf,
    /// `format = 'arrow'`: IPC streams; a file may also be of Arrow's file format.
    Arrow,
    /// What programs already send elsewhere: points of Influx, Prometheus and OpenTelemetry.
    Telemetry(Protocol),
}

impl Encoding {
    /// Takes option `format`; `None` when it is not there.
    pub fn take(options: &mut Options) -> Result<Option<Encoding>, OptionError> {
        let mut words = vec![
            ("json", Encoding::Json),
            ("csv", Encoding::Csv { delimiter: b',' }),
            ("text", Encoding::Text),
            ("raw", Encoding::Raw),
            ("avro", Encoding::Avro),
            ("protobuf", Encoding::Protobuf),
            ("arrow", Encoding::Arrow),
            ("parquet", Encoding::Parquet),
        ];
        words.extend(Protocol::WORDS.map(|(word, protocol)| (word, Encoding::Telemetry(protocol))));
        options.choice("format", &words)
    }

    /// Takes option `delimiter`, which only CSV has.
    pub fn with_delimiter(self, options: &mut Options) -> Result<Encoding, OptionError> {
        let Encoding::Csv { .. } = self else { return Ok(self) };
        let Some(text) = options.take("delimiter") else { return Ok(self) };
        match text.as_bytes() {
            b"\\t" => Ok(Encoding::Csv { delimiter: b'\t' }),
            [delimiter] if !b"\"\r\n".contains(delimiter) => Ok(Encoding::Csv { delimiter: *delimiter }),
            _ => Err(OptionError::new("delimiter", format!("{text:?} is not one character such as ',', ';' or '\\t'"))),
        }
    }

    /// Makes the format that decodes this encoding to the layout's columns.
    pub fn format(self, layout: Layout) -> Arc<dyn Format> {
        match self {
            Encoding::Json => Arc::new(JsonFormat::new(layout)),
            Encoding::Csv { delimiter } => Arc::new(CsvFormat::new(layout, delimiter)),
            Encoding::Telemetry(protocol) => Arc::new(TelemetryFormat::new(protocol, layout)),
            Encoding::Text => Arc::new(TextFormat::new(layout, Unit::Line)),
            Encoding::Raw => Arc::new(TextFormat::new(layout, Unit::Message)),
            // Of Avro and Protobuf: rows that are columns already. Messages need a schema.
            Encoding::Parquet | Encoding::Arrow | Encoding::Avro | Encoding::Protobuf => {
                Enclosed::ArrowStream.format(layout)
            }
        }
    }

    /// Makes the format that decodes messages of this encoding, with the options that belong to it.
    ///
    /// # Errors
    /// If the columns cannot be read from it, or an option is wrong.
    pub fn take_format(
        self,
        layout: Layout,
        options: &mut Options,
        base_dir: &Path,
    ) -> Result<Arc<dyn Format>, OptionError> {
        Ok(match self {
            Encoding::Avro => Arc::new(AvroFormat::take(layout, options, base_dir)?),
            Encoding::Protobuf => Arc::new(ProtobufFormat::take(layout, options, base_dir)?),
            _ => self.format(layout),
        })
    }

    /// Says whether a file of it holds columns, and is read by row.
    pub(crate) fn is_columns(self) -> bool {
        matches!(self, Encoding::Parquet | Encoding::Arrow | Encoding::Avro)
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field, Schema};
    use bytes::Bytes;
    use tidemill_engine::decode::Place;
    use tidemill_engine::source::{Data, Message};
    use tidemill_engine::testing::fuzz::fuzz;

    use super::*;

    /// Whatever a message holds, its rows come out or are dead letters, and it takes no others with it.
    fn decodes_anything(encoding: Encoding, name: &str, good: &'static str) {
        let time = DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some("UTC".into()));
        let columns = Arc::new(Schema::new(vec![
            Field::new("device", DataType::Utf8View, true),
            Field::new("temperature", DataType::Float64, false),
            Field::new("n", DataType::Int64, true),
            Field::new("ts", time, true),
            Field::new("ok", DataType::Boolean, true),
        ]));
        let format = encoding.format(Layout::new(&columns).with_time_unit(Some(TimeUnit::Seconds)));
        let mut decoder = format.decoder();
        fuzz(format!("{}/src/format/corpus/{name}", env!("CARGO_MANIFEST_DIR")), |input| {
            let messages = vec![Message::new("", good), Message::new("", Bytes::copy_from_slice(input))];
            let decoded = decoder.decode(&Data::Messages(messages), &Place::default());
            let rows: usize = decoded.batches.iter().map(arrow::array::RecordBatch::num_rows).sum();
            assert!(rows > 0 && decoded.dead.iter().all(|dead| dead.message == 1), "the good message has come out");
            rows > 1
        });
    }

    #[test]
    fn fuzz_json() {
        decodes_anything(Encoding::Json, "json", "{\"temperature\":1}");
    }

    #[test]
    fn fuzz_text() {
        let columns = Arc::new(Schema::new(vec![Field::new("line", DataType::Utf8View, false)]));
        let mut decoder = Encoding::Text.format(Layout::new(&columns)).decoder();
        fuzz(format!("{}/src/format/corpus/text", env!("CARGO_MANIFEST_DIR")), |input| {
            let messages = vec![Message::new("", "good"), Message::new("", Bytes::copy_from_slice(input))];
            let decoded = decoder.decode(&Data::Messages(messages), &Place::default());
            let rows: usize = decoded.batches.iter().map(arrow::array::RecordBatch::num_rows).sum();
            let lines = input.split_inclusive(|byte| *byte == b'\n').count();
            assert_eq!(rows + decoded.dead.len(), 1 + lines);
            decoded.dead.is_empty()
        });
    }

    #[test]
    fn fuzz_csv() {
        decodes_anything(Encoding::Csv { delimiter: b',' }, "csv", "temperature\n1\n");
    }
}
