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
        // A file is a partition, and is named by its path.
        Metadata::Partition | Metadata::Path => {
            let mut names = StringViewBuilder::with_capacity(rows.len()).with_deduplicate_strings();
            (0..rows.len()).for_each(|_| names.append_value(rows.origin.place.partition));
            Arc::new(names.finish())
        }
        Metadata::Topic => {
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

/// A map for each row, empty where the publisher has added nothing.
fn user_properties(rows: &Rows<'_>) -> ArrayRef {
    let DataType::Map(entries, _) = text_map_type() else { unreachable!("a map") };
    let DataType::Struct(fields) = entries.data_type() else { unreachable!("of pairs") };
    let name = |at: usize| fields[at].name().clone();
    let names = MapFieldNames { entry: entries.name().clone(), key: name(0), value: name(1) };
    let mut maps = MapBuilder::new(Some(names), StringBuilder::new(), StringViewBuilder::new())
        .with_keys_field(Arc::clone(&fields[0]))
        .with_values_field(Field::clone(&fields[1]));
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
