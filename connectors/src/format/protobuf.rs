//! Protobuf: a message is one message of the declared type, which a descriptor set describes (`protoc --descriptor_set_out`).
//!
//! Columns are matched with fields by name; `"position.lat"` names a field of a field. What a declared column can be read from:
//!
//! | field | column |
//! |---|---|
//! | numbers, `bool`, `string`, `bytes` | what they can become, as in other formats |
//! | an `enum` | TEXT: the name of the value, its number if it has none; or a whole number |
//! | `google.protobuf.Timestamp` | TIMESTAMP |
//! | `google.protobuf.DoubleValue` and its like | as the value in it; NULL if it is not set |
//! | `map<…>` of simple values | MAP<TEXT, TEXT> |
//!
//! A field that is not in the message has its default, as everywhere in Protobuf, unless it is `optional`, of a `oneof`, or a message:
//! then it is NULL. Fields that are repeated have no column that could hold them. Fields that are not known are ignored.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, BooleanBuilder, Float64Builder, Int64Builder, MapBuilder, MapFieldNames, StringBuilder,
    StringViewBuilder, TimestampMicrosecondBuilder, UInt64Builder,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};
use tidemill_engine::decode::{Decoded, Decoder, Format, Place};
use tidemill_engine::plan::{text_map_type, timestamp_type};
use tidemill_engine::source::Data;

use super::BATCH_ROWS;
use super::columns::decode_columns;
use super::dead::{DeadLetters, joined};
use super::layout::Layout;
use super::metadata::Origin;
use super::rows::Span;
use super::schema_file::read_file;
use crate::options::{OptionError, Options, nearest};

/// Makes decoders of Protobuf messages.
#[derive(Clone)]
pub struct ProtobufFormat {
    layout: Arc<Layout>,
    message: MessageDescriptor,
    /// For each column of the payload, where it is found.
    paths: Arc<[FieldPath]>,
}

/// The way to a value: fields of messages, the last of them with the value.
struct FieldPath {
    fields: Vec<FieldDescriptor>,
    /// What it is read as, before it becomes what was declared.
    raw: DataType,
}

impl ProtobufFormat {
    /// Takes options `descriptor_file` and `message`, and checks that the declared columns can be read.
    pub fn take(layout: Layout, options: &mut Options, base_dir: &Path) -> Result<Self, OptionError> {
        let file = options.take("descriptor_file").ok_or_else(|| {
            let problem = "is missing: make one with protoc --include_imports --descriptor_set_out=readings.desc readings.proto, \
                           and say descriptor_file = 'readings.desc'";
            OptionError::new("descriptor_file", problem)
        })?;
        let path = base_dir.join(file);
        let pool = DescriptorPool::decode(read_file("descriptor_file", &path)?.as_slice()).map_err(|error| {
            let remedy = "make it with protoc --include_imports --descriptor_set_out=…";
            let problem = format!("{} is not a descriptor set: {error}; {remedy}", path.display());
            OptionError::new("descriptor_file", problem)
        })?;
        let name = options.require("message")?;
        let message = pool.get_message_by_name(name.trim_start_matches('.')).ok_or_else(|| {
            let own = |message: &MessageDescriptor| !message.full_name().starts_with("google.protobuf.");
            let names: Vec<String> =
                pool.all_messages().filter(own).map(|message| message.full_name().to_owned()).collect();
            let known = || names.iter().map(String::as_str);
            let what = match nearest(&name, known()) {
                Some(near) => format!("did you mean '{near}'?"),
                None => format!("there are {}", known().take(20).collect::<Vec<_>>().join(", ")),
            };
            OptionError::new("message", format!("{name:?} is not in the descriptor set; {what}"))
        })?;
        let refuse = |problem: String| OptionError::new("message", format!("{} {problem}", message.full_name()));
        let mut paths = Vec::new();
        let mut raw = Vec::new();
        for field in layout.payload().fields() {
            let path = FieldPath::find(&message, field).map_err(refuse)?;
            raw.push(Field::new(field.name(), path.raw.clone(), true));
            paths.push(path);
        }
        layout.check_columns(&Schema::new(raw)).map_err(refuse)?;
        Ok(ProtobufFormat { layout: Arc::new(layout), message, paths: paths.into() })
    }
}

impl FieldPath {
    fn find(message: &MessageDescriptor, column: &Field) -> Result<FieldPath, String> {
        let mut fields: Vec<FieldDescriptor> = Vec::new();
        let mut parent = message.clone();
        let mut names = column.name().split('.').peekable();
        while let Some(name) = names.next() {
            let field = parent.get_field_by_name(name).ok_or_else(|| {
                let known: Vec<String> = parent.fields().map(|field| field.name().to_owned()).collect();
                let known = known.iter().map(String::as_str);
                match nearest(name, known.clone()) {
                    Some(near) => format!("has no field {name} for column {}; did you mean {near}?", column.name()),
                    None => format!(
                        "has no field {name} for column {}; there are {}",
                        column.name(),
                        known.collect::<Vec<_>>().join(", ")
                    ),
                }
            })?;
            if field.is_list() {
                return Err(format!(
                    "has a field {name} that is repeated, and no column can hold that: leave out column {}",
                    column.name()
                ));
            }
            fields.push(field.clone());
            if names.peek().is_some() {
                parent = match field.kind() {
                    Kind::Message(inner) if !field.is_map() => inner,
                    _ => {
                        return Err(format!(
                            "has a field {name} without fields of its own: {} cannot be read",
                            column.name()
                        ));
                    }
                };
            }
        }
        let last = fields.last().expect("a name has parts");
        let raw = raw_type(last, column).ok_or_else(|| match last.kind() {
            Kind::Message(inner) if !last.is_map() => {
                let fields = inner.fields().map(|field| format!("\"{}.{}\"", column.name(), field.name())).take(5);
                format!(
                    "has a message in {}: declare its fields instead: {}",
                    column.name(),
                    fields.collect::<Vec<_>>().join(", ")
                )
            }
            kind => format!("has a {kind:?} in {}, which no column can hold", column.name()),
        })?;
        Ok(FieldPath { fields, raw })
    }

    /// Looks a value up; `None` if it is not there.
    fn value<'m>(&self, message: &'m DynamicMessage) -> Option<std::borrow::Cow<'m, Value>> {
        let (last, parents) = self.fields.split_last()?;
        let mut parent = message;
        let mut default = None;
        for field in parents {
            if !parent.has_field(field) {
                default = Some(());
                break;
            }
            parent = match parent.get_field(field) {
                std::borrow::Cow::Borrowed(Value::Message(inner)) => inner,
                _ => return None,
            };
        }
        let is_absent = default.is_some() || last.supports_presence() && !parent.has_field(last);
        (!is_absent).then(|| parent.get_field(last))
    }
}

/// What a field is read as; `None` if no column can hold it.
fn raw_type(field: &FieldDescriptor, column: &Field) -> Option<DataType> {
    Some(match field.kind() {
        _ if field.is_map() => match field.kind() {
            Kind::Message(entry) if is_simple(&entry.map_entry_value_field().kind()) => text_map_type(),
            _ => return None,
        },
        Kind::Bool => DataType::Boolean,
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 | Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => DataType::Int64,
        Kind::Uint32 | Kind::Fixed32 => DataType::Int64,
        Kind::Uint64 | Kind::Fixed64 => DataType::UInt64,
        Kind::Float | Kind::Double => DataType::Float64,
        Kind::String => DataType::Utf8View,
        Kind::Bytes => DataType::Binary,
        Kind::Enum(_) if column.data_type().is_integer() => DataType::Int64,
        Kind::Enum(_) => DataType::Utf8View,
        Kind::Message(inner) => match inner.full_name() {
            "google.protobuf.Timestamp" => timestamp_type(),
            name if is_wrapper(name) => raw_type(&inner.get_field_by_name("value")?, column)?,
            _ => return None,
        },
    })
}

fn is_simple(kind: &Kind) -> bool {
    !matches!(kind, Kind::Message(_) | Kind::Bytes)
}

fn is_wrapper(name: &str) -> bool {
    const KINDS: [&str; 9] = ["Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes"];
    let kind = name.strip_prefix("google.protobuf.").and_then(|name| name.strip_suffix("Value"));
    kind.is_some_and(|kind| KINDS.contains(&kind))
}

impl Format for ProtobufFormat {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.layout.schema())
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(ProtobufDecoder { format: self.clone() })
    }
}

struct ProtobufDecoder {
    format: ProtobufFormat,
}

impl Decoder for ProtobufDecoder {
    fn decode(&mut self, data: &Data, place: &Place<'_>) -> Decoded {
        let layout = &self.format.layout;
        let messages = match data {
            Data::Messages(messages) => messages,
            Data::Columns(columns) => return decode_columns(layout, columns, place),
        };
        let origin = Origin::new(place, messages);
        let mut dead = DeadLetters::new(messages);
        let (mut batches, mut nulled) = (Vec::new(), 0);
        let mut builders: Vec<Builder> = self.format.paths.iter().map(Builder::new).collect();
        let mut spans: Vec<Span> = Vec::with_capacity(messages.len().min(BATCH_ROWS));
        for (index, message) in messages.iter().enumerate() {
            if let Some(whole) = dead.accept(index, layout) {
                match DynamicMessage::decode(self.format.message.clone(), message.payload.clone()) {
                    Ok(decoded) => {
                        let columns = builders.iter_mut().zip(self.format.paths.iter());
                        columns.for_each(|(builder, path)| builder.append(path.value(&decoded).as_deref()));
                        spans.push(whole);
                    }
                    Err(error) => {
                        dead.push(whole, format!("not a {} message: {error}", self.format.message.full_name()))
                    }
                }
            }
            if spans.is_empty() || spans.len() < BATCH_ROWS && index + 1 < messages.len() {
                continue;
            }
            let columns = builders.iter_mut().map(Builder::finish).collect();
            let columns = layout.complete(columns, &origin, spans.iter().map(|span| span.message as usize));
            let converted = layout.convert(columns, spans.len());
            nulled += converted.nulled;
            for (row, reason) in &converted.bad {
                dead.push(spans[*row], reason.clone());
            }
            let row_count = spans.len() - converted.bad.len();
            if row_count > 0 {
                batches.push(converted.into_batch(layout.schema(), row_count));
            }
            spans.clear();
        }
        Decoded { batches: joined(layout.schema(), batches), dead: dead.finish(), nulled, ..Decoded::default() }
    }
}

/// A column that grows, of one of the types that fields are read as.
enum Builder {
    Boolean(BooleanBuilder),
    Int(Int64Builder),
    Unsigned(UInt64Builder),
    Float(Float64Builder),
    Text(StringViewBuilder, Option<prost_reflect::EnumDescriptor>),
    Bytes(BinaryBuilder),
    Time(TimestampMicrosecondBuilder),
    Map(Box<MapBuilder<StringBuilder, StringViewBuilder>>),
}

impl Builder {
    fn new(path: &FieldPath) -> Builder {
        match &path.raw {
            DataType::Boolean => Builder::Boolean(BooleanBuilder::new()),
            DataType::Int64 => Builder::Int(Int64Builder::new()),
            DataType::UInt64 => Builder::Unsigned(UInt64Builder::new()),
            DataType::Float64 => Builder::Float(Float64Builder::new()),
            DataType::Binary => Builder::Bytes(BinaryBuilder::new()),
            DataType::Timestamp(..) => Builder::Time(TimestampMicrosecondBuilder::new().with_timezone("UTC")),
            DataType::Map(entries, _) => {
                let DataType::Struct(fields) = entries.data_type() else { unreachable!("of pairs") };
                let name = |at: usize| fields[at].name().clone();
                let names = MapFieldNames { entry: entries.name().clone(), key: name(0), value: name(1) };
                let maps = MapBuilder::new(Some(names), StringBuilder::new(), StringViewBuilder::new());
                let maps = maps.with_keys_field(Arc::clone(&fields[0])).with_values_field(Field::clone(&fields[1]));
                Builder::Map(Box::new(maps))
            }
            _ => {
                let names = match path.fields.last().map(FieldDescriptor::kind) {
                    Some(Kind::Enum(names)) => Some(names),
                    _ => None,
                };
                Builder::Text(StringViewBuilder::new(), names)
            }
        }
    }

    fn append(&mut self, value: Option<&Value>) {
        // The value of a wrapper.
        let inner = match (value, &self) {
            (Some(Value::Message(wrapper)), this) if !matches!(this, Builder::Time(_)) => {
                wrapper.get_field_by_name("value")
            }
            _ => None,
        };
        let value = inner.as_deref().or(value);
        match self {
            Builder::Boolean(values) => values.append_option(value.and_then(Value::as_bool)),
            Builder::Int(values) => values.append_option(value.and_then(whole)),
            Builder::Unsigned(values) => values.append_option(value.and_then(Value::as_u64)),
            Builder::Float(values) => {
                values.append_option(value.and_then(|value| value.as_f64().or_else(|| value.as_f32().map(f64::from))));
            }
            Builder::Text(values, None) => values.append_option(value.and_then(Value::as_str)),
            Builder::Text(values, Some(names)) => {
                let number = value.and_then(Value::as_enum_number);
                values.append_option(number.map(|number| match names.get_value(number) {
                    Some(named) => named.name().to_owned(),
                    None => number.to_string(),
                }));
            }
            Builder::Bytes(values) => values.append_option(value.and_then(Value::as_bytes)),
            Builder::Time(values) => values.append_option(value.and_then(instant)),
            Builder::Map(maps) => {
                let pairs = value.and_then(Value::as_map);
                let mut pairs: Vec<_> =
                    pairs.into_iter().flatten().map(|(key, value)| (key_text(key), value)).collect();
                // The order of a hash map is none.
                pairs.sort_by(|a, b| a.0.cmp(&b.0));
                for (key, value) in &pairs {
                    maps.keys().append_value(key);
                    maps.values().append_value(value_text(value));
                }
                maps.append(true).expect("a value for each key");
            }
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Builder::Boolean(values) => Arc::new(values.finish()),
            Builder::Int(values) => Arc::new(values.finish()),
            Builder::Unsigned(values) => Arc::new(values.finish()),
            Builder::Float(values) => Arc::new(values.finish()),
            Builder::Text(values, _) => Arc::new(values.finish()),
            Builder::Bytes(values) => Arc::new(values.finish()),
            Builder::Time(values) => Arc::new(values.finish()),
            Builder::Map(maps) => Arc::new(maps.finish()),
        }
    }
}

fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::I32(number) | Value::EnumNumber(number) => Some(i64::from(*number)),
        Value::U32(number) => Some(i64::from(*number)),
        Value::I64(number) => Some(*number),
        _ => None,
    }
}

/// A `google.protobuf.Timestamp` in microseconds, rounded down; NULL if it is none that microseconds can hold.
fn instant(value: &Value) -> Option<i64> {
    let time = value.as_message()?;
    let seconds = time.get_field_by_name("seconds")?.as_i64()?;
    let nanos = time.get_field_by_name("nanos")?.as_i32()?;
    seconds.checked_mul(1_000_000)?.checked_add(i64::from(nanos.div_euclid(1_000)))
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

fn value_text(value: &Value) -> String {
    match value {
        Value::Bool(value) => value.to_string(),
        Value::I32(value) | Value::EnumNumber(value) => value.to_string(),
        Value::I64(value) => value.to_string(),
        Value::U32(value) => value.to_string(),
        Value::U64(value) => value.to_string(),
        Value::F32(value) => value.to_string(),
        Value::F64(value) => value.to_string(),
        Value::String(value) => value.clone(),
        Value::Bytes(_) | Value::Message(_) | Value::List(_) | Value::Map(_) => unreachable!("the values are simple"),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, RecordBatch};
    use arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType};
    use bytes::Bytes;
    use tidemill_engine::source::Message;
    use tidemill_engine::testing::fuzz::fuzz;

    use super::*;

    /// `readings.proto`, and `readings.desc`, which `protoc --include_imports --descriptor_set_out` made of it.
    const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/format/testdata");

    fn layout(columns: &[(&str, DataType)]) -> Layout {
        let fields = columns.iter().map(|(name, data_type)| Field::new(*name, data_type.clone(), true));
        Layout::new(&Arc::new(Schema::new(fields.collect::<Vec<_>>())))
    }

    fn columns() -> Layout {
        layout(&[
            ("device", DataType::Utf8View),
            ("temperature", DataType::Float64),
            ("n", DataType::Int64),
            ("ts", timestamp_type()),
            ("state", DataType::Utf8View),
            ("position.lat", DataType::Float64),
            ("labels", text_map_type()),
            ("humidity", DataType::Float64),
            ("raw", DataType::Binary),
        ])
    }

    fn take(layout: Layout, options: &[(&str, &str)]) -> Result<ProtobufFormat, OptionError> {
        let mut options = Options::new(options.iter().map(|(key, value)| (key.to_string(), value.to_string())));
        let format = ProtobufFormat::take(layout, &mut options, Path::new(FOLDER))?;
        options.finish().map(|()| format)
    }

    const GOOD: [(&str, &str); 2] = [("descriptor_file", "readings.desc"), ("message", "plant.Reading")];

    fn decode(format: &ProtobufFormat, payloads: &[&[u8]]) -> Decoded {
        let messages = payloads.iter().map(|payload| Message::new("", Bytes::copy_from_slice(payload))).collect();
        format.decoder().decode(&Data::Messages(messages), &Place::default())
    }

    #[test]
    fn messages_give_columns_by_name_and_bad_ones_stand_alone() {
        let format = take(columns(), &GOOD).unwrap();
        let whole = std::fs::read(format!("{}/src/format/corpus/protobuf/whole", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let decoded = decode(&format, &[&whole, &whole[..whole.len() - 1], b"", b"\xff\xff"]);
        let batch = &decoded.batches[0];
        assert_eq!((batch.num_rows(), decoded.dead.len()), (2, 2));
        assert_eq!(batch.column(0).as_string_view().iter().collect::<Vec<_>>(), [Some("dev-1"), Some("")]);
        assert_eq!(batch.column(1).as_primitive::<Float64Type>().iter().collect::<Vec<_>>(), [Some(20.5), None]);
        assert_eq!(batch.column(2).as_primitive::<Int64Type>().values().as_ref(), [-7, 0]);
        let times = batch.column(3).as_primitive::<TimestampMicrosecondType>();
        assert_eq!(times.iter().collect::<Vec<_>>(), [Some(1_700_000_000_123_456), None]);
        assert_eq!(
            batch.column(4).as_string_view().iter().collect::<Vec<_>>(),
            [Some("STATE_BAD"), Some("STATE_UNKNOWN")]
        );
        assert_eq!(batch.column(5).as_primitive::<Float64Type>().iter().collect::<Vec<_>>(), [Some(47.5), None]);
        assert_eq!(
            batch.column(6).as_map().value(0).column(0).as_string::<i32>().iter().flatten().collect::<Vec<_>>(),
            ["a", "b"]
        );
        assert_eq!(batch.column(7).as_primitive::<Float64Type>().iter().collect::<Vec<_>>(), [Some(0.25), None]);
        assert_eq!(batch.column(8).as_binary::<i32>().value(0), b"\x00\xff");
        assert!(
            decoded.dead.iter().all(|letter| letter.reason.starts_with("not a plant.Reading message: ")),
            "{:?}",
            decoded.dead
        );
        assert_eq!(decoded.dead.iter().map(|letter| letter.message).collect::<Vec<_>>(), [1, 3]);
    }

    #[test]
    fn mistakes_are_told_before_anything_runs() {
        let column = |name: &str, data_type| layout(&[(name, data_type)]);
        let file = GOOD[0];
        for (columns, options, expected) in [
            (columns(), vec![], "option descriptor_file: is missing: make one with protoc"),
            (columns(), vec![("descriptor_file", "none.desc"), GOOD[1]], "option descriptor_file: cannot read"),
            (columns(), vec![("descriptor_file", "readings.proto"), GOOD[1]], "option descriptor_file: "),
            (columns(), vec![file], "option message: is missing"),
            (
                columns(),
                vec![file, ("message", "plant.Readnig")],
                "option message: \"plant.Readnig\" is not in the descriptor set; did you mean 'plant.Reading'?",
            ),
            (
                column("temprature", DataType::Float64),
                GOOD.to_vec(),
                "option message: plant.Reading has no field temprature for column temprature; did you mean temperature?",
            ),
            (
                column("position", DataType::Utf8View),
                GOOD.to_vec(),
                "option message: plant.Reading has a message in position: declare its fields instead: \"position.lat\"",
            ),
            (
                column("samples", DataType::Float64),
                GOOD.to_vec(),
                "option message: plant.Reading has a field samples that is repeated",
            ),
            (
                column("device.name", DataType::Utf8View),
                GOOD.to_vec(),
                "option message: plant.Reading has a field device without fields",
            ),
            (
                column("labels", DataType::Float64),
                GOOD.to_vec(),
                "option message: plant.Reading column labels has type Map(",
            ),
            (
                column("n", timestamp_type()),
                GOOD.to_vec(),
                "option message: plant.Reading column n is a number: say what it counts",
            ),
        ] {
            let problem = take(columns, &options).err().expect("refused").to_string();
            assert!(problem.starts_with(expected), "{options:?}: {problem}");
        }
    }

    #[test]
    fn fuzz_protobuf() {
        let format = take(columns(), &GOOD).unwrap();
        let mut decoder = format.decoder();
        fuzz(format!("{}/src/format/corpus/protobuf", env!("CARGO_MANIFEST_DIR")), |input| {
            let messages = vec![Message::new("", Bytes::new()), Message::new("", Bytes::copy_from_slice(input))];
            let decoded = decoder.decode(&Data::Messages(messages), &Place::default());
            let rows: usize = decoded.batches.iter().map(RecordBatch::num_rows).sum();
            assert_eq!(rows + decoded.dead.len(), 2, "each message is a row or a dead letter");
            rows > 1
        });
    }
}
