//! From a `WITH (connector = …)` list to a source that is ready to be planned.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use tidemill_engine::decode::Format;
use tidemill_engine::source::Source;
use tidemill_engine::time::{micros, minutes, secs};

use crate::file::{FileSource, Following};
use crate::format::{ColumnsFormat, Encoding, Layout, TaggedFormat, TextFormat, TimeUnit};
use crate::generate::{GenerateOptions, GenerateSource};
use crate::http::HttpSource;
use crate::mqtt::{self, TopicPatterns};
use crate::options::{OptionError, Options, nearest};
use crate::pull::poll::Wanted;
use crate::pull::{self, RowsAt};
use crate::{Connected, Context};

/// A live source that is silent for so long does not hold the watermark back any more.
const IDLE_AFTER_LIVE: Duration = minutes(1);
/// A row may be so far ahead of its arrival; beyond it a clock is wrong.
const FUTURE_LIMIT_LIVE: Duration = secs(24 * 60 * 60);

/// The closed set of connectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Mqtt,
    MqttListener,
    Http,
    HttpPoll,
    Sse,
    Websocket,
    File,
    Generate,
}

impl Kind {
    const NAMES: [(&'static str, Kind); 8] = [
        ("mqtt", Kind::Mqtt),
        ("mqtt_listener", Kind::MqttListener),
        ("http", Kind::Http),
        ("http_poll", Kind::HttpPoll),
        ("sse", Kind::Sse),
        ("websocket", Kind::Websocket),
        ("file", Kind::File),
        ("generate", Kind::Generate),
    ];

    fn take(options: &mut Options) -> Result<Kind, OptionError> {
        let name = options.require("connector")?;
        if let Some((_, kind)) = Kind::NAMES.iter().find(|(known, _)| *known == name) {
            return Ok(*kind);
        }
        let known = Kind::NAMES.map(|(name, _)| name);
        let problem = match nearest(&name, known) {
            Some(near) => format!("there is no connector {name:?}; did you mean '{near}'?"),
            None => format!("there is no connector {name:?}; known are {}", known.join(", ")),
        };
        Err(OptionError::new("connector", problem))
    }

    /// Whether rows arrive as they happen, so that the time of arrival says something about them.
    fn is_live(self) -> bool {
        !matches!(self, Kind::File | Kind::Generate)
    }
}

/// Makes a source from its declared columns and its options. Does no I/O: `tidemill check` calls it too.
///
/// Options of every connector: `idle_after` and `future_limit` (a duration or `'none'`), `bad_data` (`'keep'`).
///
/// # Errors
/// Names the option that is missing, unknown or wrong, and what would be right.
pub fn connect(
    name: &str,
    columns: &SchemaRef,
    mut options: Options,
    context: &Context,
) -> Result<Connected, OptionError> {
    let kind = Kind::take(&mut options)?;
    let is_live = kind.is_live() || options.is("follow", "true");
    let (idle_default, future_default) = match is_live {
        true => (Some(IDLE_AFTER_LIVE), Some(FUTURE_LIMIT_LIVE)),
        false => (None, None),
    };
    let idle_after = options.duration_or_none("idle_after")?.unwrap_or(idle_default);
    let future_limit = options.duration_or_none("future_limit")?.unwrap_or(future_default);
    // Bad rows are always kept as dead letters; the option lets a file say so.
    options.choice("bad_data", &[("keep", ())])?;
    let (source, format) = make(kind, name, columns, &mut options, context)?;
    options.finish()?;
    Ok(Connected { source, format, idle_after_us: idle_after.map(micros), future_limit_us: future_limit.map(micros) })
}

type Made = (Arc<dyn Source>, Arc<dyn Format>);

fn make(
    kind: Kind,
    name: &str,
    columns: &SchemaRef,
    options: &mut Options,
    context: &Context,
) -> Result<Made, OptionError> {
    match kind {
        Kind::Mqtt => {
            let (source, pattern) = mqtt::client(name, options, context)?;
            Ok((Arc::new(source), take_message_format(columns, pattern, options, context)?))
        }
        Kind::MqttListener => {
            let (source, pattern) = mqtt::listener(name, options, context)?;
            Ok((Arc::new(source), take_message_format(columns, pattern.into(), options, context)?))
        }
        Kind::Http => {
            let (encoding, layout) = take_message_layout(columns, options)?;
            let format = TaggedFormat::take(encoding, layout, options, &context.base_dir)?;
            let source = HttpSource::new(name, format.clone(), Arc::clone(&context.clock), context.http.clone());
            Ok((Arc::new(source), Arc::new(format)))
        }
        Kind::HttpPoll => {
            let (encoding, layout) = take_message_layout(columns, options)?;
            let source = pull::http_poll(name, options, Wanted::of(encoding), context)?;
            Ok((Arc::new(source), take_rows_at(encoding, layout, options, context)?))
        }
        Kind::Sse => {
            let (encoding, layout) = take_message_layout(columns, options)?;
            Ok((Arc::new(pull::sse(name, options, context)?), take_rows_at(encoding, layout, options, context)?))
        }
        Kind::Websocket => {
            let (encoding, layout) = take_message_layout(columns, options)?;
            Ok((Arc::new(pull::websocket(name, options, context)?), take_rows_at(encoding, layout, options, context)?))
        }
        Kind::File => {
            let path = options.require("path")?;
            let encoding = FileSource::take_encoding(&path, options)?;
            let following = Following::take(options)?;
            let layout = take_layout(columns, encoding, options)?.with_paths();
            let source = FileSource::new(&path, &context.base_dir, encoding, layout).following(following);
            let format = source.format();
            Ok((Arc::new(source), format))
        }
        Kind::Generate => {
            let layout = Layout::new(columns);
            let source = GenerateSource::new(layout.payload(), GenerateOptions::take(options)?)?;
            Ok((Arc::new(source), Arc::new(ColumnsFormat::new(layout))))
        }
    }
}

/// Takes the options of a source whose messages have a topic.
fn take_message_format(
    columns: &SchemaRef,
    topic: TopicPatterns,
    options: &mut Options,
    context: &Context,
) -> Result<Arc<dyn Format>, OptionError> {
    let (encoding, layout) = take_message_layout(columns, options)?;
    encoding.take_format(layout.with_topic(topic)?, options, &context.base_dir)
}

/// Makes the format of what is fetched: others have decided where in it the rows are.
fn take_rows_at(
    encoding: Encoding,
    layout: Layout,
    options: &mut Options,
    context: &Context,
) -> Result<Arc<dyn Format>, OptionError> {
    let format = encoding.take_format(layout, options, &context.base_dir)?;
    match encoding {
        Encoding::Json => RowsAt::take(options, format),
        _ => Ok(format),
    }
}

fn take_message_layout(columns: &SchemaRef, options: &mut Options) -> Result<(Encoding, Layout), OptionError> {
    let encoding = Encoding::take(options)?.unwrap_or(Encoding::Json).with_delimiter(options)?;
    if encoding == Encoding::Parquet {
        return Err(OptionError::new("format", "'parquet' is for files: say 'json', 'csv' or 'arrow'"));
    }
    Ok((encoding, take_layout(columns, encoding, options)?))
}

fn take_layout(columns: &SchemaRef, encoding: Encoding, options: &mut Options) -> Result<Layout, OptionError> {
    let layout = Layout::new(columns).with_time_unit(options.choice("time_unit", &TimeUnit::WORDS)?);
    if let Encoding::Text | Encoding::Raw = encoding {
        TextFormat::check(&layout).map_err(|problem| OptionError::new("format", problem))?;
    }
    if let Some(encoding) = encoding.of_payloads() {
        encoding.check(&layout).map_err(|problem| OptionError::new("format", problem))?;
    }
    Ok(layout)
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field, Schema};
    use tidemill_engine::clock::{ManualClock, SeededDice};
    use tidemill_engine::storage::Storage;
    use tidemill_engine::storage::{AppendFile, Entry, StorageError};

    use super::*;
    use crate::HttpIngest;

    /// Fails on every call: connecting does no I/O.
    struct NoStorage;

    impl Storage for NoStorage {
        fn put_new(&self, _: &str, _: &[u8]) -> Result<(), StorageError> {
            panic!("no I/O")
        }
        fn put(&self, _: &str, _: &[u8]) -> Result<(), StorageError> {
            panic!("no I/O")
        }
        fn get(&self, _: &str) -> Result<bytes::Bytes, StorageError> {
            panic!("no I/O")
        }
        fn list(&self, _: &str) -> Result<Vec<Entry>, StorageError> {
            panic!("no I/O")
        }
        fn delete(&self, _: &str) -> Result<(), StorageError> {
            panic!("no I/O")
        }
        fn create(&self, _: &str) -> Result<Box<dyn AppendFile>, StorageError> {
            panic!("no I/O")
        }
        fn open(&self, _: &str) -> Result<Box<dyn AppendFile>, StorageError> {
            panic!("no I/O")
        }
        fn sync_dir(&self, _: &str) -> Result<(), StorageError> {
            panic!("no I/O")
        }
    }

    fn try_connect(options: &[(&str, &str)]) -> Result<Connected, OptionError> {
        let columns = Arc::new(Schema::new(vec![
            Field::new("device", DataType::Utf8, true),
            Field::new("ts", DataType::Timestamp(arrow::datatypes::TimeUnit::Nanosecond, None), false),
        ]));
        let context = Context {
            storage: Arc::new(NoStorage),
            base_dir: "/nowhere".into(),
            clock: Arc::new(ManualClock::default()),
            dice: Arc::new(SeededDice::new(1)),
            http: HttpIngest::new(),
            local_brokers: Default::default(),
            network: Default::default(),
        };
        let options = Options::new(options.iter().map(|(key, value)| (key.to_string(), value.to_string())));
        connect("readings", &columns, options, &context)
    }

    fn problem(options: &[(&str, &str)]) -> String {
        try_connect(options).err().expect("refused").to_string()
    }

    #[test]
    fn every_connector_connects_without_io() {
        let topic = ("topic", "plant/{site}/telemetry");
        for (options, live, columns) in [
            (vec![("connector", "mqtt"), ("url", "mqtt://localhost:1883"), topic], true, 3),
            (vec![("connector", "mqtt_listener"), ("bind", "127.0.0.1:1883"), topic], true, 3),
            (vec![("connector", "http"), ("format", "csv"), ("delimiter", ";")], true, 2),
            (vec![("connector", "http_poll"), ("url", "http://localhost/x"), ("rows_at", "data.items")], true, 2),
            (vec![("connector", "http_poll"), ("url", "http://localhost/metrics"), ("format", "prometheus")], true, 2),
            (vec![("connector", "sse"), ("url", "https://h/x"), ("event", "a"), ("format", "csv")], true, 2),
            (vec![("connector", "websocket"), ("url", "wss://h/x"), ("subscribe", "{}")], true, 2),
            (vec![("connector", "file"), ("path", "x/*.parquet"), ("time_unit", "ms")], false, 2),
            (vec![("connector", "file"), ("path", "x/*.ndjson"), ("follow", "true")], true, 2),
            (vec![("connector", "generate"), ("rows", "10"), ("interval", "1 s")], false, 2),
        ] {
            let connected = try_connect(&options).unwrap_or_else(|error| panic!("{options:?}: {error}"));
            let schema = connected.format.schema();
            assert_eq!(schema.fields().len(), columns);
            assert_eq!(*schema.field(0).data_type(), DataType::Utf8View);
            assert_eq!(connected.idle_after_us, live.then_some(60_000_000));
            assert_eq!(connected.future_limit_us, live.then_some(86_400_000_000));
        }
    }

    #[test]
    fn limits_can_be_set_and_switched_off() {
        let options = [("connector", "http"), ("idle_after", "none"), ("future_limit", "5 s"), ("bad_data", "keep")];
        let connected = try_connect(&options).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((connected.idle_after_us, connected.future_limit_us), (None, Some(5_000_000)));
    }

    #[test]
    fn mistakes_name_the_option_and_the_remedy() {
        for (options, expected) in [
            (vec![], "option connector: is missing: say connector = '…'"),
            (vec![("connector", "htp")], "did you mean 'http'?"),
            (
                vec![("connector", "kafka")],
                "known are mqtt, mqtt_listener, http, http_poll, sse, websocket, file, generate",
            ),
            (vec![("connector", "http"), ("fromat", "json")], "option fromat: is not known here; did you mean format?"),
            (vec![("connector", "http"), ("format", "parquet")], "'parquet' is for files"),
            (vec![("connector", "http"), ("format", "avro")], "is not taken over HTTP: say 'json' or 'csv'"),
            (vec![("connector", "http"), ("follow", "true")], "option follow: is not known here"),
            (vec![("connector", "file"), ("path", "x"), ("format", "raw")], "'raw' is for messages: say 'text'"),
            (vec![("connector", "http"), ("delimiter", ",")], "option delimiter: is not known here"),
            (vec![("connector", "http"), ("time_unit", "min")], "'s', 'ms', 'us', 'ns'"),
            (vec![("connector", "file"), ("path", "data/")], "option format: is missing"),
            (vec![("connector", "generate"), ("keys", "0")], "option keys: 0 is not between"),
            (vec![("connector", "http_poll")], "option url: is missing"),
            (vec![("connector", "sse"), ("url", "http://h"), ("rows_at", "a..b")], "is not a path"),
            (vec![("connector", "sse"), ("url", "http://h"), ("interval", "1 s")], "option interval: is not known"),
            (vec![("connector", "websocket"), ("url", "http://h")], "ws:// or wss://"),
            (vec![("connector", "websocket"), ("url", "ws://h"), ("subscribe", " ")], "holds no message"),
            (vec![("connector", "http"), ("idle_after", "soon")], "is not a duration"),
            (vec![("connector", "http"), ("bad_data", "drop")], "'keep'"),
            (
                vec![("connector", "mqtt"), ("url", "mqtt://h"), ("topic", "plant/{device}")],
                "adds a column device, which is declared already",
            ),
        ] {
            let problem = problem(&options);
            assert!(problem.contains(expected), "{options:?}: {problem}");
        }
    }
}
