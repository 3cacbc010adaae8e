//! What is known of a message beside its payload, and can be a column of its rows: `name TYPE METADATA FROM 'what'`.
//!
//! | what | type | |
//! |---|---|---|
//! | `arrival_time` | TIMESTAMP | when the message reached the ingest log |
//! | `position` | BIGINT | how many messages came before it; the rows of one message share it |
//! | `partition` | TEXT | the part of the source it came from |
//! | `path` | TEXT | files: which one |
//! | `url` | TEXT | what is fetched: the target it came from, as the options name it |
//! | `event`, `event_id` | TEXT | server-sent events: type and id |
//! | `topic` | TEXT | MQTT: as it was published |
//! | `qos` | INTEGER | MQTT: 0, 1 or 2, of its last hop |
//! | `retain` | BOOLEAN | MQTT: whether it is a copy that the broker kept, or was published with the flag |
//! | `duplicate` | BOOLEAN | MQTT: whether the sender believes that it has sent it before |
//! | `user_properties` | MAP<TEXT, TEXT> | MQTT 5: of equal names the last counts |
//! | `content_type`, `response_topic` | TEXT | MQTT 5 |
//! | `correlation_data` | BYTES | MQTT 5 |
//! | `message_expiry` | BIGINT | MQTT 5: seconds it had left |
//! | `payload_format` | INTEGER | MQTT 5: 1 if the publisher calls the payload UTF-8 |
//!
//! All of it was recorded with the message or follows from its place in the log, so a replay gives the same.
//!
//! A column is an Arrow [`Field`] that is marked: [`Metadata::column`] marks, [`Metadata::of`] reads the mark, and the
//! schema of a source's rows has no marks any more.

use arrow::datatypes::{DataType, Field};
use tidemill_engine::plan::{text_map_type, timestamp_type};

/// The key of the mark in a field's own metadata.
const MARK: &str = "tidemill.metadata";

/// What a column can hold that is not in the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Metadata {
    /// When the message reached the ingest log.
    ArrivalTime,
    /// Its place in the log.
    Position,
    /// The partition of the source.
    Partition,
    /// The file.
    Path,
    /// The target that was asked.
    Url,
    /// The type of an event.
    Event,
    /// The id of an event.
    EventId,
    /// The topic.
    Topic,
    /// The quality of service of its last hop.
    Qos,
    /// The RETAIN flag.
    Retain,
    /// The DUP flag.
    Duplicate,
    /// Pairs that the publisher has added.
    UserProperties,
    /// What the publisher says that the payload is.
    ContentType,
    /// Where an answer is expected.
    ResponseTopic,
    /// What an answer must bring along.
    CorrelationData,
    /// Seconds until a broker would have dropped it.
    MessageExpiry,
    /// Whether the publisher calls the payload UTF-8.
    PayloadFormat,
}

impl Metadata {
    /// All of them, in the order in which they are listed for people.
    pub const ALL: [Metadata; 17] = [
        Metadata::ArrivalTime,
        Metadata::Position,
        Metadata::Partition,
        Metadata::Path,
        Metadata::Url,
        Metadata::Event,
        Metadata::EventId,
        Metadata::Topic,
        Metadata::Qos,
        Metadata::Retain,
        Metadata::Duplicate,
        Metadata::UserProperties,
        Metadata::ContentType,
        Metadata::ResponseTopic,
        Metadata::CorrelationData,
        Metadata::MessageExpiry,
        Metadata::PayloadFormat,
    ];

    /// Returns its name in SQL.
    pub fn name(self) -> &'static str {
        match self {
            Metadata::ArrivalTime => "arrival_time",
            Metadata::Position => "position",
            Metadata::Partition => "partition",
            Metadata::Path => "path",
            Metadata::Url => "url",
            Metadata::Event => "event",
            Metadata::EventId => "event_id",
            Metadata::Topic => "topic",
            Metadata::Qos => "qos",
            Metadata::Retain => "retain",
            Metadata::Duplicate => "duplicate",
            Metadata::UserProperties => "user_properties",
            Metadata::ContentType => "content_type",
            Metadata::ResponseTopic => "response_topic",
            Metadata::CorrelationData => "correlation_data",
            Metadata::MessageExpiry => "message_expiry",
            Metadata::PayloadFormat => "payload_format",
        }
    }

    /// Finds it by its name.
    pub fn named(name: &str) -> Option<Metadata> {
        Metadata::ALL.into_iter().find(|metadata| metadata.name() == name)
    }

    /// Returns the types that a column of it may have; the first is the one to recommend.
    pub fn types(self) -> Vec<DataType> {
        use DataType::{Binary, Boolean, Int8, Int16, Int32, Int64, Utf8View};
        match self {
            Metadata::ArrivalTime => vec![timestamp_type()],
            Metadata::Position => vec![Int64],
            Metadata::Partition
            | Metadata::Path
            | Metadata::Url
            | Metadata::Event
            | Metadata::EventId
            | Metadata::Topic
            | Metadata::ContentType
            | Metadata::ResponseTopic => vec![Utf8View],
            Metadata::Qos | Metadata::PayloadFormat => vec![Int32, Int64, Int16, Int8],
            Metadata::Retain | Metadata::Duplicate => vec![Boolean],
            Metadata::UserProperties => vec![text_map_type()],
            Metadata::CorrelationData => vec![Binary],
            // A 32-bit number without a sign: all of them fit only here, and the usual ones into an INTEGER too.
            Metadata::MessageExpiry => vec![Int64, Int32],
        }
    }

    /// Whether every message has it, whatever connector brought it.
    pub fn is_always_there(self) -> bool {
        matches!(
            self,
            Metadata::ArrivalTime | Metadata::Position | Metadata::Partition | Metadata::Path | Metadata::Url
        )
    }

    /// Whether a connector knows it; nothing is said against connectors that do not exist.
    pub fn is_known_to(self, connector: &str) -> bool {
        match self {
            Metadata::ArrivalTime | Metadata::Position | Metadata::Partition => true,
            Metadata::Path => connector == "file" || is_unknown(connector),
            Metadata::Url => FETCHING.contains(&connector) || is_unknown(connector),
            Metadata::Event | Metadata::EventId => connector == "sse" || is_unknown(connector),
            _ => matches!(connector, "mqtt" | "mqtt_listener") || is_unknown(connector),
        }
    }

    /// Makes a column of it, of the recommended type.
    pub fn column(self, name: &str) -> Field {
        let data_type = self.types().swap_remove(0);
        self.mark(Field::new(name, data_type, true))
    }

    /// Marks a column as one of it. What is always there is NOT NULL, whether that was declared or not.
    pub fn mark(self, field: Field) -> Field {
        let nullable = field.is_nullable() && !self.is_always_there();
        field.with_nullable(nullable).with_metadata([(MARK.to_owned(), self.name().to_owned())].into())
    }

    /// Returns what a column was marked with.
    pub fn of(field: &Field) -> Option<Metadata> {
        Metadata::named(field.metadata().get(MARK)?)
    }
}

/// Connectors that fetch from URLs.
const FETCHING: [&str; 3] = ["http_poll", "sse", "websocket"];

fn is_unknown(connector: &str) -> bool {
    !["mqtt", "mqtt_listener", "http", "file", "generate"].contains(&connector) && !FETCHING.contains(&connector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_remembers_what_it_is_of() {
        for metadata in Metadata::ALL {
            assert_eq!(Metadata::named(metadata.name()), Some(metadata));
            let column = metadata.column("x");
            assert_eq!(Metadata::of(&column), Some(metadata));
            assert_eq!(column.is_nullable(), !metadata.is_always_there());
        }
        assert_eq!(Metadata::of(&Field::new("topic", DataType::Utf8View, true)), None);
    }

    #[test]
    fn each_connector_knows_what_its_messages_have() {
        let known = |connector: &str| -> Vec<&str> {
            Metadata::ALL.into_iter().filter(|it| it.is_known_to(connector)).map(Metadata::name).collect()
        };
        assert_eq!(known("http"), ["arrival_time", "position", "partition"]);
        assert_eq!(known("generate"), known("http"));
        assert_eq!(known("file"), ["arrival_time", "position", "partition", "path"]);
        assert_eq!(known("mqtt"), known("mqtt_listener"));
        assert_eq!(known("mqtt").len(), Metadata::ALL.len() - 4);
        assert_eq!(known("http_poll"), ["arrival_time", "position", "partition", "url"]);
        assert_eq!(known("sse"), ["arrival_time", "position", "partition", "url", "event", "event_id"]);
        assert_eq!(known("websocket"), known("http_poll"));
    }
}
