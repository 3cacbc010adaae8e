//! Columns of what is known of messages beside their payloads.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Int64Array, MapBuilder, MapFieldNames, StringBuilder, StringViewArray,
    StringViewBuilder, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field};
use tidemill_engine::decode::Place;
use tidemill_engine::plan::text_map_type;
use tidemill_engine::source::Message;

use crate::metadata::Metadata;
use crate::mqtt::Attributes;
use crate::pull::event_id;

/// Where the rows of a chunk come from.
pub(super) struct Origin<'d> {
    place: &'d Place<'d>,
    /// The messages of the chunk; none if it came as columns.
    pub(super) messages: &'d [Message],
    /// The log offset of each message, or row of columns.
    offsets: Vec<i64>,
}

impl<'d> Origin<'d> {
    pub(super) fn new(place: &'d Place<'d>, messages: &'d [Message]) -> Self {
        let offsets = place.offsets().map(|offset| offset.0 as i64).collect();
        Origin { place, messages, offsets }
    }

    /// Looks at some rows of the chunk; `messages_of_rows` are not before each other.
    pub(super) fn rows<'r>(&'r self, messages_of_rows: &'r [usize]) -> Rows<'r> {
        let first = messages_of_rows.first().copied().unwrap_or(0);
        let end = messages_of_rows.last().map_or(first, |last| last + 1);
        let known = self.messages.get(first..end).unwrap_or_default();
        Rows { origin: self, messages_of_rows, first, known }
    }
}

/// Rows that follow each other in a chunk.
pub(super) struct Rows<'r> {
    origin: &'r Origin<'r>,
    messages_of_rows: &'r [usize],
    /// The first of `known`.
    first: usize,
    known: &'r [Message],
}

impl Rows<'_> {
    fn len(&self) -> usize {
        self.messages_of_rows.len()
    }

    /// Returns a value for each row, which is made once for each message; `None` for rows that are of no message.
    fn of_messages<'m, T: Copy + 'm>(
        &'m self,
        value: impl Fn(&'m Message) -> Option<T>,
    ) -> impl Iterator<Item = Option<T>> + 'm {
        let values: Vec<Option<T>> = self.known.iter().map(value).collect();
        self.messages_of_rows.iter().map(move |message| values.get(message - self.first).copied().flatten())
    }

    fn text<'m>(&'m self, value: impl Fn(&'m Message) -> Option<&'m str>) -> ArrayRef {
        Arc::new(self.of_messages(value).collect::<StringViewArray>())
    }

    fn number(&self, value: impl Fn(&Attributes<'_>) -> Option<i64>) -> ArrayRef {
        Arc::new(self.of_messages(|message| value(&Attributes::of(message))).collect::<Int64Array>())
    }

    fn flag(&self, value: impl Fn(&Attributes<'_>) -> Option<bool>) -> ArrayRef {
        Arc::new(self.of_messages(|message| value(&Attributes::of(message))).collect::<BooleanArray>())
    }
}

/// Makes the column of one kind. Numbers are `Int64`, whatever the column was declared as.
pub(super) fn column(metadata: Metadata, rows: &Rows<'_>) -> ArrayRef {
    match metadata {
        Metadata::ArrivalTime => {
            let times = vec![rows.origin.place.arrival_us; rows.len()];
            Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC"))
        }
        Metadata::Position => {
            let offset = |message: &usize| rows.origin.offsets.get(*message).copied().unwrap_or(0);
            Arc::new(Int64Array::from_iter_values(rows.messages_of_rows.iter().map(offset)))
        }
        // A file is a partition, and is named by its path; so is a target, by its URL.
        Metadata::Partition | Metadata::Path | Metadata::Url => {
            let mut names = StringViewBuilder::with_capacity(rows.len()).with_deduplicate_strings();
            (0..rows.len()).for_each(|_| names.append_value(rows.origin.place.partition));
            Arc::new(names.finish())
        }
        Metadata::EventId => rows.text(event_id),
        // The type of an event is kept as its topic.
        Metadata::Topic | Metadata::Event => {
            rows.text(|message| std::str::from_utf8(&message.topic).ok().filter(|topic| !topic.is_empty()))
        }
        Metadata::Qos => rows.number(|attributes| attributes.qos.map(i64::from)),
        Metadata::Retain => rows.flag(|attributes| attributes.retain),
        Metadata::Duplicate => rows.flag(|attributes| attributes.duplicate),
        Metadata::UserProperties => user_properties(rows),
        Metadata::ContentType => rows.text(|message| Attributes::of(message).content_type),
        Metadata::ResponseTopic => rows.text(|message| Attributes::of(message).response_topic),
        Metadata::CorrelationData => {
            let data = rows.of_messages(|message| Attributes::of(message).correlation_data);
            Arc::new(data.collect::<BinaryArray>())
        }
        Metadata::MessageExpiry => rows.number(|attributes| attributes.message_expiry_s.map(i64::from)),
        Metadata::PayloadFormat => rows.number(|attributes| attributes.payload_format.map(i64::from)),
    }
}

/// Makes the column of the files that the rows come from, where a topic says it: `path:line`, or the path alone.
pub(super) fn paths(rows: &Rows<'_>) -> ArrayRef {
    rows.text(|message| {
        let topic = std::str::from_utf8(&message.topic).ok()?;
        let is_line = |line: &str| !line.is_empty() && line.bytes().all(|byte| byte.is_ascii_digit());
        Some(topic.rsplit_once(':').filter(|(_, line)| is_line(line)).map_or(topic, |(path, _)| path))
    })
}

/// Makes a builder of maps of text.
pub(super) fn text_maps() -> MapBuilder<StringBuilder, StringViewBuilder> {
    let DataType::Map(entries, _) = text_map_type() else { unreachable!("a map") };
    let DataType::Struct(fields) = entries.data_type() else { unreachable!("of pairs") };
    let name = |at: usize| fields[at].name().clone();
    let names = MapFieldNames { entry: entries.name().clone(), key: name(0), value: name(1) };
    MapBuilder::new(Some(names), StringBuilder::new(), StringViewBuilder::new())
        .with_keys_field(Arc::clone(&fields[0]))
        .with_values_field(Field::clone(&fields[1]))
}

/// A map for each row, empty where the publisher has added nothing.
fn user_properties(rows: &Rows<'_>) -> ArrayRef {
    let mut maps = text_maps();
    let mut current = None;
    for message in rows.messages_of_rows {
        let pairs = match &current {
            Some((of, pairs)) if *of == message => pairs,
            _ => {
                let known = rows.known.get(message - rows.first);
                let pairs = known.map(|message| Attributes::of(message).user_properties()).unwrap_or_default();
                &current.insert((message, pairs)).1
            }
        };
        for (key, value) in pairs {
            maps.keys().append_value(key);
            maps.values().append_value(value);
        }
        maps.append(true).expect("a value for each key");
    }
    let maps = maps.finish();
    assert_eq!(*maps.data_type(), text_map_type(), "maps have one type everywhere");
    Arc::new(maps)
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, RecordBatch};
    use arrow::datatypes::{Schema, SchemaRef};
    use arrow::util::pretty::pretty_format_batches;
    use bytes::Bytes;
    use tidemill_engine::decode::{Decoded, Format};
    use tidemill_engine::source::{Data, Offset};

    use super::super::{ColumnsFormat, CsvFormat, JsonFormat, Layout};
    use super::*;
    use crate::mqtt::TopicPattern;

    fn column_of(name: &str) -> Field {
        Metadata::named(name).expect("a name of metadata").column(name)
    }

    fn number(name: &str) -> Field {
        Field::new(name, DataType::Float64, false)
    }

    fn schema(columns: impl IntoIterator<Item = Field>) -> SchemaRef {
        Arc::new(Schema::new(columns.into_iter().collect::<Vec<_>>()))
    }

    fn message(topic: &str, payload: &str, attributes: &[u8]) -> Message {
        let attributes = Bytes::copy_from_slice(attributes);
        Message { attributes, ..Message::new(Bytes::copy_from_slice(topic.as_bytes()), payload.to_owned()) }
    }

    const PLACE: Place<'_> =
        Place { partition: "broker", arrival_us: 1_000_000, runs: &[(Offset(7), 2), (Offset(30), 9)] };

    fn shown(decoded: &Decoded) -> String {
        pretty_format_batches(&decoded.batches).expect("printable").to_string()
    }

    #[test]
    fn every_row_tells_of_its_own_message_in_the_order_of_the_declaration() {
        let columns = ["arrival_time", "position", "partition", "topic", "retain", "user_properties", "content_type"];
        let fields = columns.map(column_of).into_iter().chain([number("v"), column_of("qos")]);
        let pattern = TopicPattern::parse("p/{site}").expect("a pattern");
        let format = JsonFormat::new(Layout::new(&schema(fields)).with_topic(pattern).expect("no such column"));
        let decoded = format.decoder().decode(
            &Data::Messages(vec![
                message("p/a", "{\"v\":1}\n{\"v\":2}", b"\x05\x26\0\x01k\0\x01x\x03\0\x04text"),
                message("q/b", "{\"v\":9}", b"\x00"),
                message("p/c", "{\"v\":3}\nwarm\n{\"v\":4}", b"\x02"),
                message("p/d", "{\"v\":5}", b""),
            ]),
            &PLACE,
        );
        assert_eq!(
            shown(&decoded),
            "\
+----------------------+----------+-----------+-------+--------+-----------------+--------------+-----+-----+------+
| arrival_time         | position | partition | topic | retain | user_properties | content_type | v   | qos | site |
+----------------------+----------+-----------+-------+--------+-----------------+--------------+-----+-----+------+
| 1970-01-01T00:00:01Z | 7        | broker    | p/a   | true   | {k: x}          | text         | 1.0 | 1   | a    |
| 1970-01-01T00:00:01Z | 7        | broker    | p/a   | true   | {k: x}          | text         | 2.0 | 1   | a    |
| 1970-01-01T00:00:01Z | 30       | broker    | p/c   | false  | {}              |              | 3.0 | 2   | c    |
| 1970-01-01T00:00:01Z | 30       | broker    | p/c   | false  | {}              |              | 4.0 | 2   | c    |
| 1970-01-01T00:00:01Z | 31       | broker    | p/d   |        | {}              |              | 5.0 |     | d    |
+----------------------+----------+-----------+-------+--------+-----------------+--------------+-----+-----+------+"
        );
        assert_eq!(decoded.dead.len(), 2, "{:?}", decoded.dead);
        assert_eq!(*decoded.batches[0].column(8).data_type(), DataType::Int32, "as it was declared");
    }

    #[test]
    fn a_row_without_what_must_be_there_is_a_dead_letter_and_a_number_that_does_not_fit_is_null() {
        let kind = column_of("content_type").with_nullable(false);
        let narrow = Metadata::MessageExpiry.mark(Field::new("expiry", DataType::Int32, true));
        let format = JsonFormat::new(Layout::new(&schema([number("v"), kind, narrow])));
        let messages = vec![
            message("", "{\"v\":1}", b"\x00\x03\0\x01t\x02\x00\x00\x00\x3c"),
            message("", "{\"v\":2}", b"\x00"),
            message("", "{\"v\":3}", b"\x00\x03\0\x01t\x02\xff\xff\xff\xff"),
        ];
        let decoded = format.decoder().decode(&Data::Messages(messages), &PLACE);
        let reasons: Vec<&str> = decoded.dead.iter().map(|letter| letter.reason.as_str()).collect();
        assert_eq!(reasons, ["column content_type: missing or null, but declared NOT NULL"]);
        assert_eq!((decoded.batches[0].num_rows(), decoded.nulled), (2, 1));
        let expiry = decoded.batches[0].column(2).as_primitive::<arrow::datatypes::Int32Type>();
        assert_eq!(expiry.iter().collect::<Vec<_>>(), [Some(60), None]);
    }

    #[test]
    fn csv_and_columns_have_it_too() {
        let layout = || Layout::new(&schema([column_of("position"), number("v"), column_of("path")]));
        let csv = CsvFormat::new(layout(), b',').decoder();
        let file = message("", "v,other\n1,x\nwarm,x\n2,x\n", b"");
        let text = { csv }.decode(&Data::Messages(vec![file]), &PLACE);
        let values = Arc::new(arrow::array::Float64Array::from(vec![1.0, f64::NAN, 2.0]));
        let batch = RecordBatch::try_from_iter([("v", values as ArrayRef)]).expect("one column");
        let columns = ColumnsFormat::new(layout()).decoder().decode(&Data::Columns(batch), &PLACE);
        let positions = |decoded: &Decoded| -> Vec<i64> {
            let batch = &decoded.batches[0];
            assert_eq!(batch.column(2).as_string_view().value(0), "broker");
            batch.column(0).as_primitive::<arrow::datatypes::Int64Type>().values().to_vec()
        };
        assert_eq!(positions(&text), [7, 7], "the rows of one message share its place");
        assert_eq!(positions(&columns), [7, 8, 30], "a row of columns is a message of its own");
    }

    #[test]
    fn what_a_channel_does_not_know_is_null_or_a_dead_letter() {
        let values: ArrayRef = Arc::new(arrow::array::Float64Array::from(vec![1.0]));
        let batch = RecordBatch::try_from_iter([("v", values)]).expect("one column");
        for (field, is_dead) in [(column_of("qos"), false), (column_of("qos").with_nullable(false), true)] {
            let format = JsonFormat::new(Layout::new(&schema([number("v"), field])));
            let decoded = format.decoder().decode(&Data::Columns(batch.clone()), &Place::default());
            assert_eq!(decoded.dead.len(), usize::from(is_dead), "{:?}", decoded.dead);
        }
    }

    #[test]
    fn a_source_may_have_nothing_but_metadata() {
        let format = JsonFormat::new(Layout::new(&schema([column_of("position"), column_of("arrival_time")])));
        let messages = vec![message("", "{\"v\":1}\n{}", b""), message("", "warm", b""), message("", "{}", b"")];
        let decoded = format.decoder().decode(&Data::Messages(messages), &PLACE);
        assert_eq!((decoded.batches[0].num_rows(), decoded.dead.len()), (3, 1), "{:?}", decoded.dead);
        let positions = decoded.batches[0].column(0).as_primitive::<arrow::datatypes::Int64Type>().values().to_vec();
        assert_eq!(positions, [7, 7, 30]);
    }

    #[test]
    fn an_object_of_the_payload_can_be_a_map() {
        let format = JsonFormat::new(Layout::new(&schema([Field::new("tags", text_map_type(), true)])));
        let payload =
            "{\"tags\":{\"a\":\"x\",\"b\":2}}\n{}\n{\"tags\":{\"c\":null}}\n{\"tags\":7}\n{\"tags\":{\"d\":[1]}}";
        let decoded = format.decoder().decode(&Data::Messages(vec![message("", payload, b"")]), &PLACE);
        let shown: Vec<String> = shown(&decoded).lines().map(|line| line.replace([' ', '|'], "")).collect();
        assert_eq!(shown[3..6], ["{a:x,b:2}", "", "{c:}"]);
        assert_eq!((decoded.dead.len(), decoded.nulled), (0, 2), "{:?}", decoded.dead);
    }
}
