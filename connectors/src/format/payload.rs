//! The encoding of one payload, which may be another than its source's own: a client says with each request what it sends.
//!
//! The log keeps it with the message, so that a replay reads what the client meant. It stands in the message's attributes;
//! a message without attributes is in the encoding that its source declares:
//!
//! ```text
//!   ┌ 0x80 u8 ┬ encoding u8 ┬ parameter u8 ┐     0x80: told from the flags of MQTT, which have four bits
//!   └─────────┴─────────────┴──────────────┘
//!     1 JSON, 2 CSV (parameter: the delimiter), 16 line protocol (parameter: the precision, from 1; 0: as the source says),
//!     17 Prometheus text, 18 remote write, 19 OTLP metrics, 20 OTLP logs,
//!     32 Arrow, 33 Parquet, 34 an Avro container
//! ```
//!
//! Some are only ever what a source declares: records of Avro and messages of Protobuf mean nothing without its schema, and text
//! and bytes say nothing of themselves. Those have no number.

use std::sync::Arc;

use arrow::compute::can_cast_types;
use arrow::datatypes::{DataType, Field};
use bytes::Bytes;
use tidemill_engine::decode::Format;
use tidemill_engine::source::Message;

use super::convert::expected;
use super::enclosed::{AVRO_CONTAINER, Enclosed};
use super::json::can_read as json_can_read;
use super::{ColumnsFormat, CsvFormat, Encoding, JsonFormat, Layout, Protocol, TelemetryFormat, TextFormat, Unit};

/// The first byte of attributes that name an encoding.
const MARK: u8 = 0x80;

/// The closed set of encodings that a payload may be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PayloadEncoding {
    /// An object, several on lines of their own, or an array of objects.
    Json,
    /// A header row, then rows; columns are matched by name.
    Csv {
        /// Between two fields.
        delimiter: u8,
    },
    /// A stream of Arrow IPC with its end mark; columns are matched by name.
    Arrow,
    /// A whole Parquet file; columns are matched by name.
    Parquet,
    /// An Avro object container file; columns are matched by name.
    AvroContainer,
    /// A record of Avro, of the schema that the source declares.
    Avro,
    /// A message of Protobuf, of the type that the source declares.
    Protobuf,
    /// Several of them, each behind its length. In the log each is a message of its own.
    ProtobufDelimited,
    /// Each line is a row.
    Text,
    /// All of it is a row.
    Raw,
    /// Points of Influx, Prometheus or OpenTelemetry.
    Telemetry(Protocol),
}

impl PayloadEncoding {
    /// Returns the attributes of a message in this encoding; none if it can only be what the source declares.
    pub fn attributes(self) -> Bytes {
        let (code, parameter) = match self {
            PayloadEncoding::Avro
            | PayloadEncoding::Protobuf
            | PayloadEncoding::ProtobufDelimited
            | PayloadEncoding::Text
            | PayloadEncoding::Raw => return Bytes::new(),
            PayloadEncoding::Json => (1, 0),
            PayloadEncoding::Csv { delimiter } => (2, delimiter),
            PayloadEncoding::Arrow => (32, 0),
            PayloadEncoding::Parquet => (33, 0),
            PayloadEncoding::AvroContainer => (34, 0),
            PayloadEncoding::Telemetry(protocol) => protocol.code(),
        };
        Bytes::copy_from_slice(&[MARK, code, parameter])
    }

    /// Returns what a message says of its payload; `Ok(None)` if it says nothing.
    ///
    /// # Errors
    /// If it names an encoding that this version does not know.
    pub fn of(message: &Message) -> Result<Option<PayloadEncoding>, String> {
        match *message.attributes {
            [MARK, 1, _] => Ok(Some(PayloadEncoding::Json)),
            [MARK, 2, delimiter] => Ok(Some(PayloadEncoding::Csv { delimiter })),
            [MARK, 32, _] => Ok(Some(PayloadEncoding::Arrow)),
            [MARK, 33, _] => Ok(Some(PayloadEncoding::Parquet)),
            [MARK, 34, _] => Ok(Some(PayloadEncoding::AvroContainer)),
            [MARK, code, parameter] if let Some(protocol) = Protocol::coded(code, parameter) => {
                Ok(Some(PayloadEncoding::Telemetry(protocol)))
            }
            [MARK, ..] => Err(format!(
                "the log says of its encoding {:?}, which this version does not know: read it with the version that wrote it",
                &message.attributes[1..]
            )),
            _ => Ok(None),
        }
    }

    /// Returns its name for people.
    pub fn name(self) -> &'static str {
        match self {
            PayloadEncoding::Json => "JSON",
            PayloadEncoding::Csv { .. } => "CSV",
            PayloadEncoding::Arrow => "an Arrow stream",
            PayloadEncoding::Parquet => "a Parquet file",
            PayloadEncoding::AvroContainer => "an Avro container",
            PayloadEncoding::Avro => "Avro",
            PayloadEncoding::Protobuf | PayloadEncoding::ProtobufDelimited => "Protobuf",
            PayloadEncoding::Text => "text",
            PayloadEncoding::Raw => "bytes",
            PayloadEncoding::Telemetry(Protocol::LineProtocol { .. }) => "line protocol",
            PayloadEncoding::Telemetry(Protocol::Exposition) => "Prometheus text",
            PayloadEncoding::Telemetry(Protocol::RemoteWrite) => "Prometheus remote write",
            PayloadEncoding::Telemetry(Protocol::OtlpMetrics) => "OTLP metrics",
            PayloadEncoding::Telemetry(Protocol::OtlpLogs) => "OTLP logs",
        }
    }

    /// Returns what holds the columns, if a payload in this encoding does.
    pub(crate) fn enclosed(self) -> Option<Enclosed> {
        match self {
            PayloadEncoding::Arrow => Some(Enclosed::ArrowStream),
            PayloadEncoding::Parquet => Some(Enclosed::ParquetFile),
            PayloadEncoding::AvroContainer => Some(Enclosed::AvroContainer),
            _ => None,
        }
    }

    /// Returns what a body in this encoding is: where records of Avro are taken, a whole container is too.
    pub(crate) fn of_body(self, body: &[u8]) -> PayloadEncoding {
        match self {
            PayloadEncoding::Avro if body.starts_with(&AVRO_CONTAINER) => PayloadEncoding::AvroContainer,
            encoding => encoding,
        }
    }

    /// Says whether a body without rows looks like this.
    pub(crate) fn is_empty(self, body: &[u8]) -> bool {
        match self {
            // No bytes are a message without anything in it.
            PayloadEncoding::Protobuf => false,
            PayloadEncoding::Telemetry(protocol) if !protocol.is_text() => false,
            PayloadEncoding::Json | PayloadEncoding::Csv { .. } | PayloadEncoding::Telemetry(_) => {
                body.trim_ascii().is_empty()
            }
            _ => body.is_empty(),
        }
    }

    /// Says whether a row is a message of its own, so that a position counts rows.
    pub(crate) fn is_one_message_a_row(self) -> bool {
        use PayloadEncoding as P;
        matches!(self, P::Json | P::Avro | P::Protobuf | P::ProtobufDelimited | P::Raw)
    }

    /// Makes the format that decodes this encoding to the layout's columns; of what needs a schema, only what is columns already.
    pub fn format(self, layout: Layout) -> Arc<dyn Format> {
        match self {
            PayloadEncoding::Json => Arc::new(JsonFormat::new(layout)),
            PayloadEncoding::Csv { delimiter } => Arc::new(CsvFormat::new(layout, delimiter)),
            PayloadEncoding::Arrow => Enclosed::ArrowStream.format(layout),
            PayloadEncoding::Parquet => Enclosed::ParquetFile.format(layout),
            PayloadEncoding::AvroContainer => Enclosed::AvroContainer.format(layout),
            PayloadEncoding::Text => Arc::new(TextFormat::new(layout, Unit::Line)),
            PayloadEncoding::Raw => Arc::new(TextFormat::new(layout, Unit::Message)),
            // Their sources make it, with the schema: see `TaggedFormat`.
            PayloadEncoding::Avro | PayloadEncoding::Protobuf | PayloadEncoding::ProtobufDelimited => {
                Arc::new(ColumnsFormat::new(layout))
            }
            PayloadEncoding::Telemetry(protocol) => Arc::new(TelemetryFormat::new(protocol, layout)),
        }
    }

    /// Says why the columns that a layout reads from payloads cannot be read from this encoding; `Ok` if they can.
    ///
    /// # Errors
    /// Names the first column that cannot.
    pub fn check(self, layout: &Layout) -> Result<(), String> {
        if let PayloadEncoding::Telemetry(protocol) = self {
            let refused = layout.payload().fields().iter().find_map(|field| protocol.refuses(field));
            return refused.map_or(Ok(()), Err);
        }
        match layout.payload().fields().iter().find(|field| !self.can_read(field)) {
            None => Ok(()),
            Some(field) => {
                let (name, is) = (field.name(), expected(field.data_type()));
                Err(format!("column {name} cannot be read from it: it is {is}"))
            }
        }
    }

    fn can_read(self, field: &Field) -> bool {
        match self {
            // arrow-json would take the text for hexadecimal digits, and a cast for the bytes themselves.
            PayloadEncoding::Json | PayloadEncoding::Csv { .. } if *field.data_type() == DataType::Binary => false,
            PayloadEncoding::Json => json_can_read(field),
            PayloadEncoding::Csv { .. } => can_cast_types(&DataType::Utf8View, field.data_type()),
            // Each payload says what its columns are.
            PayloadEncoding::Arrow | PayloadEncoding::Parquet | PayloadEncoding::AvroContainer => true,
            // Held against the schema when the source was declared.
            PayloadEncoding::Avro | PayloadEncoding::Protobuf | PayloadEncoding::ProtobufDelimited => true,
            PayloadEncoding::Text | PayloadEncoding::Raw => {
                matches!(field.data_type(), DataType::Utf8View | DataType::Binary)
            }
            PayloadEncoding::Telemetry(protocol) => protocol.refuses(field).is_none(),
        }
    }
}

impl Encoding {
    /// Returns the encoding of a message's payload, if messages can be in it and need no more than that to be read.
    pub fn of_payloads(self) -> Option<PayloadEncoding> {
        match self {
            Encoding::Json => Some(PayloadEncoding::Json),
            Encoding::Csv { delimiter } => Some(PayloadEncoding::Csv { delimiter }),
            Encoding::Telemetry(protocol) => Some(PayloadEncoding::Telemetry(protocol)),
            Encoding::Arrow => Some(PayloadEncoding::Arrow),
            Encoding::Text => Some(PayloadEncoding::Text),
            Encoding::Raw => Some(PayloadEncoding::Raw),
            Encoding::Parquet | Encoding::Avro | Encoding::Protobuf => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_tells_its_encoding_and_what_no_version_knows_is_an_error() {
        let message =
            |attributes: &[u8]| Message { attributes: Bytes::copy_from_slice(attributes), ..Message::default() };
        let mut encodings = vec![PayloadEncoding::Json, PayloadEncoding::Csv { delimiter: b';' }];
        encodings.extend([PayloadEncoding::Arrow, PayloadEncoding::Parquet, PayloadEncoding::AvroContainer]);
        encodings.extend(Protocol::WORDS.map(|(_, protocol)| PayloadEncoding::Telemetry(protocol)));
        let precision = Some(crate::format::Precision::Milliseconds);
        encodings.push(PayloadEncoding::Telemetry(Protocol::LineProtocol { precision }));
        for encoding in encodings {
            assert_eq!(PayloadEncoding::of(&message(&encoding.attributes())), Ok(Some(encoding)));
        }
        assert_eq!(PayloadEncoding::of(&message(&[])), Ok(None));
        assert_eq!(PayloadEncoding::of(&message(&[0b1111, 3])), Ok(None), "the flags of MQTT");
        assert!(PayloadEncoding::of(&message(&[MARK, 99, 0])).is_err());
        assert!(PayloadEncoding::of(&message(&[MARK])).is_err());
    }
}
