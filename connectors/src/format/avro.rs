//! Avro: a message is one record, written with the schema that the source declares.
//!
//! ```text
//!   prefix = 'none'            │ record
//!   prefix = 'confluent'       │ 0x00 │ schema id: u32, big endian │ record
//!   prefix = 'single_object'   │ 0xC3 0x01 │ fingerprint of the schema: CRC-64-AVRO, little endian │ record
//! ```
//!
//! A record does not say of what its bytes are, so one that was written with another schema would be read as nonsense. The prefix
//! tells them apart: its id or fingerprint must be that of the schema. Columns are matched with the fields of the record by name,
//! `"position.lat"` names a field of a field, and fields that are not declared are left out. Files are object container files,
//! which bring their schema along: see `crate::file`.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_avro::reader::{Decoder as AvroReader, ReaderBuilder};
use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm, SchemaStore};
use tidemill_engine::decode::{Decoded, Decoder, Format, Place};
use tidemill_engine::source::{Data, Message};

use super::columns::{column_of, decode_columns};
use super::dead::{DeadLetters, joined};
use super::layout::Layout;
use super::metadata::Origin;
use super::rows::Span;
use super::salvage::{Failure, salvage};
use super::schema_file::read_text;
use crate::options::{OptionError, Options};

/// What our own readers are given in front of each record.
const SINGLE_OBJECT: [u8; 2] = [0xC3, 0x01];

/// What stands in front of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Prefix {
    None,
    /// With the id that the schema has in a registry.
    Confluent(u32),
    SingleObject,
}

/// Makes decoders of Avro records.
#[derive(Clone)]
pub struct AvroFormat {
    layout: Arc<Layout>,
    schema: AvroSchema,
    /// CRC-64-AVRO of the schema.
    fingerprint: u64,
    prefix: Prefix,
}

impl AvroFormat {
    /// Takes options `schema` (JSON) or `schema_file`, `prefix` and `schema_id`, and checks that the declared columns can be read.
    pub fn take(layout: Layout, options: &mut Options, base_dir: &Path) -> Result<Self, OptionError> {
        let (key, json) = match (options.take("schema"), options.take("schema_file")) {
            (Some(json), None) => ("schema", json),
            (None, Some(path)) => ("schema_file", read_text("schema_file", &base_dir.join(path))?),
            (Some(_), Some(_)) => {
                return Err(OptionError::new("schema", "says what schema_file says already: keep one of them"));
            }
            (None, None) => {
                let problem = "is missing: say schema_file = 'reading.avsc', or schema = '{\"type\": \"record\", …}'";
                return Err(OptionError::new("schema_file", problem));
            }
        };
        let refuse = |problem: String| OptionError::new(key, problem);
        let schema = AvroSchema::new(json);
        let fingerprint = match schema.fingerprint(FingerprintAlgorithm::Rabin) {
            Ok(Fingerprint::Rabin(fingerprint)) => fingerprint,
            Ok(other) => unreachable!("a fingerprint of another kind: {other:?}"),
            Err(error) => return Err(refuse(format!("is not an Avro schema: {error}"))),
        };
        let kinds =
            [("none", Prefix::None), ("confluent", Prefix::Confluent(0)), ("single_object", Prefix::SingleObject)];
        let mut prefix = options.choice("prefix", &kinds)?.unwrap_or(Prefix::None);
        if prefix == Prefix::Confluent(0) {
            let id = options.parse("schema_id", "a number such as '42'")?;
            let problem = "is missing: say schema_id = '42', the id of the schema in the registry, so that records of other schemas are told apart";
            prefix = Prefix::Confluent(id.ok_or_else(|| OptionError::new("schema_id", problem))?);
        }
        let format = AvroFormat { layout: Arc::new(layout), schema, fingerprint, prefix };
        let reader = format.reader(1).map_err(|problem| refuse(format!("cannot be used: {problem}")))?;
        format.layout.check_columns(&reader.schema()).map_err(refuse)?;
        Ok(format)
    }

    fn reader(&self, row_count: usize) -> Result<AvroReader, String> {
        let mut schemas = SchemaStore::new();
        schemas.register(self.schema.clone()).map_err(|error| error.to_string())?;
        let reader = ReaderBuilder::new().with_writer_schema_store(schemas).with_batch_size(row_count);
        reader.build_decoder().map_err(|error| error.to_string())
    }

    /// Returns where the record begins behind its prefix.
    fn record(&self, payload: &[u8]) -> Result<usize, String> {
        match self.prefix {
            Prefix::None => Ok(0),
            Prefix::Confluent(id) => match payload {
                [0, a, b, c, d, ..] => match u32::from_be_bytes([*a, *b, *c, *d]) {
                    found if found == id => Ok(5),
                    found => Err(format!("written with the schema of id {found}, but schema_id = '{id}' is declared")),
                },
                _ => Err("not Avro with the prefix of Confluent, which begins with a byte 0 and four bytes of an id"
                    .to_owned()),
            },
            Prefix::SingleObject => match payload {
                [0xC3, 0x01, rest @ ..] if rest.len() >= 8 => {
                    let found = u64::from_le_bytes(rest[..8].try_into().expect("eight bytes"));
                    match found == self.fingerprint {
                        true => Ok(10),
                        false => Err(format!(
                            "written with another schema: its fingerprint is {found:016x}, that of the declared one {:016x}",
                            self.fingerprint
                        )),
                    }
                }
                _ => Err(
                    "not Avro in single-object encoding, which begins with the bytes C3 01 and eight of a fingerprint"
                        .to_owned(),
                ),
            },
        }
    }
}

impl Format for AvroFormat {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.layout.schema())
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(AvroDecoder { format: self.clone(), reader: None, why: String::new() })
    }
}

struct AvroDecoder {
    format: AvroFormat,
    /// The reader of the last success, which is empty and sound, with the number of rows it can take.
    reader: Option<(usize, AvroReader)>,
    /// Why the last row was not read.
    why: String,
}

impl Decoder for AvroDecoder {
    fn decode(&mut self, data: &Data, place: &Place<'_>) -> Decoded {
        let layout = Arc::clone(&self.format.layout);
        let messages = match data {
            Data::Messages(messages) => messages,
            Data::Columns(columns) => return decode_columns(&layout, columns, place),
        };
        let origin = Origin::new(place, messages);
        let mut dead = DeadLetters::new(messages);
        let mut spans = Vec::with_capacity(messages.len());
        for (index, message) in messages.iter().enumerate() {
            let Some(whole) = dead.accept(index, &layout) else { continue };
            match self.format.record(&message.payload) {
                Ok(start) => spans.push(Span { start: start as u32, ..whole }),
                Err(reason) => dead.push(whole, reason),
            }
        }
        let salvaged = salvage(spans.len(), |rows| self.read(messages, &spans[rows.clone()], rows));
        for row in salvaged.bad {
            // By itself: the reason is that of this row.
            let _ = self.read(messages, &spans[row..=row], 0..1);
            dead.push(Span { start: 0, ..spans[row] }, std::mem::take(&mut self.why));
        }
        let (mut batches, mut nulled) = (Vec::with_capacity(salvaged.good.len()), 0);
        for (rows, raw) in salvaged.good {
            let spans = &spans[rows];
            let columns = layout.payload().fields().iter().map(|field| column_of(&raw, field)).collect();
            let columns = layout.complete(columns, &origin, spans.iter().map(|span| span.message as usize));
            let converted = layout.convert(columns, spans.len());
            nulled += converted.nulled;
            for (row, reason) in &converted.bad {
                dead.push(Span { start: 0, ..spans[*row] }, reason.clone());
            }
            let row_count = spans.len() - converted.bad.len();
            if row_count > 0 {
                batches.push(converted.into_batch(layout.schema(), row_count));
            }
        }
        Decoded { batches: joined(layout.schema(), batches), dead: dead.finish(), nulled, ..Decoded::default() }
    }
}

impl AvroDecoder {
    fn read(&mut self, messages: &[Message], spans: &[Span], rows: Range<usize>) -> Result<RecordBatch, Failure> {
        let (capacity, mut reader) = match self.reader.take() {
            Some((capacity, reader)) if capacity >= spans.len() => (capacity, reader),
            _ => (spans.len(), self.format.reader(spans.len()).expect("made when the options were taken")),
        };
        let mut prefix = [0; 10];
        prefix[..2].copy_from_slice(&SINGLE_OBJECT);
        prefix[2..].copy_from_slice(&self.format.fingerprint.to_le_bytes());
        for (done, span) in spans.iter().enumerate() {
            let record = &messages[span.message as usize].payload[span.start as usize..];
            let taken = reader.decode(&prefix).and_then(|_| reader.decode(record));
            let row_count = capacity - reader.capacity();
            let problem = match taken {
                Ok(taken) if row_count == done + 1 && taken == record.len() => continue,
                // What stands there is taken for another prefix.
                _ if row_count > done => "not an Avro record of this schema: there are bytes behind it".to_owned(),
                Err(error) => format!("not an Avro record of this schema: {error}"),
                Ok(_) => "not an Avro record of this schema: it ends before its last field".to_owned(),
            };
            self.why = problem;
            return Err(Failure::At(rows.start + done));
        }
        match reader.flush() {
            Ok(Some(batch)) => {
                self.reader = Some((capacity, reader));
                Ok(batch)
            }
            Ok(None) => unreachable!("every span gave a row"),
            Err(error) => {
                self.why = format!("not an Avro record of this schema: {error}");
                Err(Failure::Somewhere)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema, TimestampMicrosecondType};
    use bytes::Bytes;
    use tidemill_engine::plan::timestamp_type;
    use tidemill_engine::testing::fuzz::fuzz;

    use super::*;

    const SCHEMA: &str = r#"{"type": "record", "name": "Reading", "namespace": "plant", "fields": [
        {"name": "device", "type": "string"},
        {"name": "temperature", "type": ["null", "double"]},
        {"name": "n", "type": "long"},
        {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["OK", "BAD"]}},
        {"name": "position", "type": {"type": "record", "name": "Position", "fields": [{"name": "lat", "type": "float"}]}},
        {"name": "unused", "type": {"type": "array", "items": "int"}}]}"#;

    fn layout(fields: Vec<Field>) -> Layout {
        Layout::new(&Arc::new(Schema::new(fields)))
    }

    fn columns() -> Layout {
        layout(vec![
            Field::new("n", DataType::Int32, false),
            Field::new("temperature", DataType::Float64, true),
            Field::new("device", DataType::Utf8View, false),
            Field::new("ts", timestamp_type(), false),
            Field::new("state", DataType::Utf8View, true),
            Field::new("position.lat", DataType::Float64, true),
        ])
    }

    fn take(layout: Layout, options: &[(&str, &str)]) -> Result<AvroFormat, OptionError> {
        let mut options = Options::new(options.iter().map(|(key, value)| (key.to_string(), value.to_string())));
        let format = AvroFormat::take(layout, &mut options, Path::new("/nowhere"))?;
        options.finish().map(|()| format)
    }

    fn number(value: i64, bytes: &mut Vec<u8>) {
        let mut rest = ((value << 1) ^ (value >> 63)) as u64;
        while rest >= 0x80 {
            bytes.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        bytes.push(rest as u8);
    }

    fn record(device: &str, temperature: Option<f64>, n: i64) -> Vec<u8> {
        let mut bytes = Vec::new();
        number(device.len() as i64, &mut bytes);
        bytes.extend_from_slice(device.as_bytes());
        number(i64::from(temperature.is_some()), &mut bytes);
        temperature.iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
        number(n, &mut bytes);
        number(1_700_000_000_123, &mut bytes);
        number(1, &mut bytes);
        bytes.extend_from_slice(&47.5f32.to_le_bytes());
        bytes.extend_from_slice(&[2, 14, 0]);
        bytes
    }

    fn decode(format: &AvroFormat, payloads: &[Vec<u8>]) -> Decoded {
        let messages = payloads.iter().map(|payload| Message::new("", Bytes::copy_from_slice(payload))).collect();
        format.decoder().decode(&Data::Messages(messages), &Place::default())
    }

    #[test]
    fn records_give_columns_by_name_and_bad_ones_stand_alone() {
        let format = take(columns(), &[("schema", SCHEMA)]).unwrap();
        let good = record("a", Some(20.5), 1);
        let decoded = decode(
            &format,
            &[
                good.clone(),
                good[..good.len() - 1].to_vec(),
                Vec::new(),
                [&good[..], b"x"].concat(),
                record("b", None, 1 << 40),
                record("c", None, -3),
            ],
        );
        let batch = &decoded.batches[0];
        assert_eq!(batch.column(2).as_string_view().iter().flatten().collect::<Vec<_>>(), ["a", "c"]);
        assert_eq!(batch.column(1).as_primitive::<Float64Type>().iter().collect::<Vec<_>>(), [Some(20.5), None]);
        assert_eq!(batch.column(3).as_primitive::<TimestampMicrosecondType>().value(1), 1_700_000_000_123_000);
        assert_eq!(batch.column(4).as_string_view().value(0), "BAD");
        assert_eq!(batch.column(5).as_primitive::<Float64Type>().value(0), 47.5);
        let dead: Vec<(usize, &str)> =
            decoded.dead.iter().map(|letter| (letter.message, letter.reason.as_str())).collect();
        assert_eq!(dead.iter().map(|(message, _)| *message).collect::<Vec<_>>(), [1, 2, 3, 4], "{dead:?}");
        assert!(
            dead[..2].iter().all(|(_, reason)| reason.starts_with("not an Avro record of this schema: ")),
            "{dead:?}"
        );
        assert_eq!(dead[2].1, "not an Avro record of this schema: there are bytes behind it");
        assert!(dead[3].1.starts_with("column n: expected a whole number (INTEGER)"), "{}", dead[3].1);
    }

    #[test]
    fn the_prefix_must_name_the_schema() {
        let with = |prefix: &[u8]| [prefix, &record("a", None, 1)].concat();
        let format = take(columns(), &[("schema", SCHEMA), ("prefix", "confluent"), ("schema_id", "258")]).unwrap();
        let decoded = decode(&format, &[with(&[0, 0, 0, 1, 2]), with(&[0, 0, 0, 1, 3]), with(&[]), vec![0, 0]]);
        assert_eq!((decoded.batches[0].num_rows(), decoded.dead.len()), (1, 3));
        assert_eq!(decoded.dead[0].reason, "written with the schema of id 259, but schema_id = '258' is declared");
        assert_eq!(decoded.dead[0].payload[..5], [0, 0, 0, 1, 3], "a letter has the whole message");
        let format = take(columns(), &[("schema", SCHEMA), ("prefix", "single_object")]).unwrap();
        let prefix = |fingerprint: u64| with(&[&SINGLE_OBJECT[..], &fingerprint.to_le_bytes()].concat());
        let decoded = decode(&format, &[prefix(format.fingerprint), prefix(7), with(&[])]);
        assert_eq!((decoded.batches[0].num_rows(), decoded.dead.len()), (1, 2));
        assert!(decoded.dead[0].reason.contains("its fingerprint is 0000000000000007"), "{}", decoded.dead[0].reason);
    }

    #[test]
    fn mistakes_are_told_before_anything_runs() {
        let one = |name: &str, data_type| layout(vec![Field::new(name, data_type, false)]);
        for (columns, options, expected) in [
            (columns(), vec![], "option schema_file: is missing"),
            (columns(), vec![("schema_file", "x.avsc")], "option schema_file: cannot read /nowhere/x.avsc"),
            (columns(), vec![("schema", "{")], "option schema: is not an Avro schema"),
            (columns(), vec![("schema", SCHEMA), ("prefix", "confluent")], "option schema_id: is missing"),
            (columns(), vec![("schema", SCHEMA), ("schema_id", "1")], "option schema_id: is not known here"),
            (
                one("temprature", DataType::Float64),
                vec![("schema", SCHEMA)],
                "option schema: has no column temprature, which is declared NOT NULL; did you mean temperature?",
            ),
            (one("unused", DataType::Float64), vec![("schema", SCHEMA)], "option schema: column unused has type List("),
        ] {
            let problem = take(columns, &options).err().expect("refused").to_string();
            assert!(problem.starts_with(expected), "{options:?}: {problem}");
        }
    }

    #[test]
    fn fuzz_avro() {
        let format = take(columns(), &[("schema", SCHEMA)]).unwrap();
        let mut decoder = format.decoder();
        let good = Bytes::from(record("good", Some(1.0), 1));
        fuzz(format!("{}/src/format/corpus/avro", env!("CARGO_MANIFEST_DIR")), |input| {
            let messages = vec![Message::new("", good.clone()), Message::new("", Bytes::copy_from_slice(input))];
            let decoded = decoder.decode(&Data::Messages(messages), &Place::default());
            let rows: usize = decoded.batches.iter().map(RecordBatch::num_rows).sum();
            assert_eq!(rows + decoded.dead.len(), 2, "each message is a row or a dead letter");
            assert!(
                decoded.batches[0].column(0).as_primitive_opt::<Int64Type>().is_none()
                    && decoded.batches[0].column(2).len() == rows
            );
            rows > 1
        });
    }
}
