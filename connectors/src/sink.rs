//! From the `WITH (connector = …)` list of a sink to an outbox and its destination.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use tidemill_engine::clock::Dice;
use tidemill_engine::sink::{Sink, SinkError};
use tidemill_engine::storage::Storage;

use crate::Context;
use crate::mqtt;
use crate::options::{OptionError, Options, nearest};
use crate::outbox::{Destination, Gauges, Limits, OnFull, OutboxSink, OutboxSpec, OutboxStatus};
use crate::sinks;

/// In the data folder, a folder for each sink.
pub const SINKS_FOLDER: &str = "sinks";

/// How long rows wait for a commit to the outbox, unless the options say otherwise: a result shall be somewhere soon.
const COMMIT_INTERVAL_DEFAULT: Duration = Duration::from_millis(250);

/// Less than this is no outbox: a commit that is larger would be left out at once.
const BYTES_MIN: u64 = 1 << 20;

/// The closed set of connectors.
const NAMES: [&str; 4] = ["mqtt", "http", "file", "stdout"];

/// A file is not needed within the second, and each commit has some bytes of its own.
const COMMIT_INTERVAL_FILE: Duration = Duration::from_secs(1);

/// A sink that is ready to be planned. Clones show the same numbers.
#[derive(Clone)]
pub struct ConnectedSink {
    /// Where it delivers to.
    pub connector: &'static str,
    name: String,
    limits: Limits,
    commit_interval: Duration,
    destination: Arc<dyn Destination>,
    gauges: Arc<Gauges>,
    patience_ms: Arc<AtomicU64>,
}

/// Makes a sink from the columns of its view and its options. Does no I/O: `tidemill check` calls it too.
///
/// Options of every connector: `outbox_bytes`, `outbox_rows`, `on_full` (`'drop_oldest'`, `'drop_newest'`) and
/// `commit_interval`.
///
/// # Errors
/// Names the option that is missing, unknown or wrong, and what would be right.
pub fn connect_sink(
    name: &str,
    columns: &SchemaRef,
    mut options: Options,
    context: &Context,
) -> Result<ConnectedSink, OptionError> {
    let connector = connector(&mut options)?;
    let default = Limits::default();
    let on_full = [("drop_oldest", OnFull::DropOldest), ("drop_newest", OnFull::DropNewest)];
    let limits = Limits {
        bytes_max: options.bytes("outbox_bytes")?.unwrap_or(default.bytes_max),
        rows_max: options.parse("outbox_rows", "a number of rows")?.unwrap_or(default.rows_max),
        on_full: options.choice("on_full", &on_full)?.unwrap_or(default.on_full),
    };
    if limits.bytes_max < BYTES_MIN {
        return Err(OptionError::new("outbox_bytes", "must be at least '1 MiB'"));
    }
    if limits.rows_max == 0 {
        return Err(OptionError::new("outbox_rows", "must be at least 1"));
    }
    let commit_interval = options.duration("commit_interval")?.unwrap_or(match connector {
        "file" => COMMIT_INTERVAL_FILE,
        _ => COMMIT_INTERVAL_DEFAULT,
    });
    let dir = format!("{SINKS_FOLDER}/{name}");
    let destination = match connector {
        "http" => sinks::http(&dir, columns, &mut options, context)?,
        "file" => sinks::file(columns, &mut options, context)?,
        "stdout" => sinks::stdout(columns, &mut options)?,
        _ => mqtt::destination(&dir, columns, &mut options, context)?,
    };
    options.finish()?;
    Ok(ConnectedSink {
        connector,
        name: name.to_owned(),
        limits,
        commit_interval,
        destination,
        gauges: Arc::default(),
        patience_ms: Arc::default(),
    })
}

fn connector(options: &mut Options) -> Result<&'static str, OptionError> {
    let name = options.require("connector")?;
    if let Some(known) = NAMES.iter().find(|known| **known == name) {
        return Ok(known);
    }
    let problem = match nearest(&name, NAMES) {
        Some(near) => format!("there is no sink with the connector {name:?}; did you mean '{near}'?"),
        None => format!("there is no sink with the connector {name:?}; known are {}", NAMES.join(", ")),
    };
    Err(OptionError::new("connector", problem))
}

impl ConnectedSink {
    /// Opens its outbox in a data folder; `job` is the id of the log, `fingerprint` that of the view. Blocking.
    pub fn open(
        &self,
        storage: Arc<dyn Storage>,
        job: String,
        fingerprint: String,
        dice: Arc<dyn Dice>,
    ) -> Result<Box<dyn Sink>, SinkError> {
        let spec = OutboxSpec {
            name: self.name.clone(),
            job,
            fingerprint,
            limits: self.limits,
            commit_interval: self.commit_interval,
        };
        let dir = format!("{SINKS_FOLDER}/{}", self.name);
        let (gauges, patience) = (Arc::clone(&self.gauges), Arc::clone(&self.patience_ms));
        let sink = OutboxSink::open(storage, &dir, spec, Arc::clone(&self.destination), gauges, patience, dice)?;
        Ok(Box::new(sink))
    }

    /// Returns what its outbox says of itself; `of` is the view it delivers.
    pub fn status(&self, of: &str) -> OutboxStatus {
        self.gauges.status(&self.name, self.connector, of)
    }

    /// Sets how long a closing sink goes on delivering what it has, as long as the other side takes it. Without: a few
    /// seconds.
    pub fn set_patience(&self, longest: Duration) {
        self.patience_ms.store(longest.as_millis().try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringViewArray};
    use parking_lot::Mutex;
    use tidemill_engine::clock::{ManualClock, SeededDice};
    use tidemill_engine::epoch::Epoch;
    use tidemill_engine::source::BoxFuture;
    use tidemill_engine::storage::MemoryStorage;

    use super::*;
    use crate::HttpIngest;
    use crate::mqtt::{LocalBroker, LocalMessage, QoS};

    /// A listener that fails at first.
    #[derive(Default)]
    struct Subscribers {
        calls: AtomicU64,
        got: Mutex<Vec<LocalMessage>>,
    }

    impl LocalBroker for Subscribers {
        fn publish(&self, outbox: String, messages: Vec<LocalMessage>) -> BoxFuture<'_, Result<(), String>> {
            Box::pin(async move {
                if self.calls.fetch_add(1, Ordering::SeqCst) == 0 {
                    return Err("the log is busy".to_owned());
                }
                assert!(outbox.starts_with("listener-"), "{outbox}");
                self.got.lock().extend(messages);
                Ok(())
            })
        }
    }

    fn context() -> Context {
        Context {
            storage: Arc::new(MemoryStorage::default()),
            base_dir: "/nowhere".into(),
            clock: Arc::new(ManualClock::default()),
            dice: Arc::new(SeededDice::new(1)),
            http: HttpIngest::new(),
            local_brokers: Default::default(),
            network: Default::default(),
        }
    }

    fn rows() -> RecordBatch {
        let devices = Arc::new(StringViewArray::from(vec![Some("a"), Some("b/c"), None])) as ArrayRef;
        let numbers = Arc::new(Int64Array::from(vec![1, 2, 3])) as ArrayRef;
        RecordBatch::try_from_iter([("device", devices), ("n", numbers)]).expect("columns fit")
    }

    fn connected(options: &[(&str, &str)], context: &Context) -> Result<ConnectedSink, OptionError> {
        let options = Options::new(options.iter().map(|(key, value)| (key.to_string(), value.to_string())));
        connect_sink("alerts", &rows().schema(), options, context)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn subscribers_of_a_listener_in_this_process_get_the_rows_once_it_runs() {
        let context = context();
        let options = [
            ("connector", "mqtt"),
            ("url", "listener:readings"),
            ("topic", "alerts/{device}"),
            ("columns", "n"),
            ("qos", "2"),
            ("retain", "true"),
        ];
        let sink = connected(&options, &context).expect("good options");
        let (storage, dice) = (Arc::clone(&context.storage), Arc::clone(&context.dice));
        let mut outbox = sink.open(storage, "log".to_owned(), "view".to_owned(), dice).expect("it opens");
        outbox.begin(Epoch::NONE).expect("it begins");
        let prepared = outbox.writer(0).prepare(Epoch(1), &[(Epoch(1), rows())]).expect("memory");
        outbox.commit(Epoch(1), &prepared).expect("memory");
        let until = async |what: &str, is_so: &dyn Fn(&OutboxStatus) -> bool| {
            for _ in 0..1_000 {
                if is_so(&sink.status("hot")) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            panic!("not within 10 s: {what}: {:?}", sink.status("hot"));
        };
        until("it is told that the listener does not run", &|status| {
            status.error.as_deref() == Some("the listener of source readings does not run")
        })
        .await;
        let subscribers = Arc::new(Subscribers::default());
        let listed = context.local_brokers.add("readings", Arc::clone(&subscribers) as Arc<dyn LocalBroker>);
        until("all are delivered", &|status| status.delivered == 3 && status.rows == 0).await;
        let message = |number, topic: &'static str, payload: &'static str| LocalMessage {
            number,
            topic: topic.into(),
            payload: payload.into(),
            qos: QoS::ExactlyOnce,
            retain: true,
        };
        let expected = [
            message(0, "alerts/a", "{\"n\":1}"),
            message(1, "alerts/b%2Fc", "{\"n\":2}"),
            message(2, "alerts/_", "{\"n\":3}"),
        ];
        assert_eq!(*subscribers.got.lock(), expected);
        drop(listed);
        assert!(context.local_brokers.get("readings").is_none(), "it is gone with its listener");
    }

    #[test]
    fn mistakes_name_the_option_and_the_remedy() {
        let good = [("connector", "mqtt"), ("url", "mqtt://b"), ("topic", "x/{device}")];
        assert!(connected(&good, &context()).is_ok());
        for (key, value, expected) in [
            ("connector", "mqqt", "did you mean 'mqtt'?"),
            ("connector", "kafka", "known are mqtt, http, file, stdout"),
            ("url", "b:1883", "is not a URL"),
            ("url", "listener:", "names no source"),
            ("topic", "x/#", "holds #"),
            ("qos", "3", "is not one of '0', '1', '2'"),
            ("columns", "m", "did you mean n?"),
            ("outbox_bytes", "10", "is not a size"),
            ("outbox_bytes", "10 B", "must be at least '1 MiB'"),
            ("outbox_rows", "0", "must be at least 1"),
            ("outbox_rows", "many", "is not a number of rows"),
            ("on_full", "pause", "'drop_oldest', 'drop_newest'"),
            ("commit_interval", "now", "is not a duration"),
            ("password", "x", "needs a username"),
            ("password_env", "X", "needs a username"),
            ("secret", "broker", "there is no secret \"broker\": write CREATE SECRET"),
            ("client_id", "", "is empty"),
            ("tls.ca", "x", "say mqtts://"),
            ("retian", "true", "did you mean retain?"),
        ] {
            let options: Vec<(&str, &str)> =
                good.into_iter().filter(|(known, _)| *known != key).chain([(key, value)]).collect();
            let problem = connected(&options, &context()).err().expect("refused").to_string();
            assert!(
                problem.contains(&format!("option {}: ", key.trim_end_matches("_env"))) && problem.contains(expected),
                "{key}: {problem}"
            );
        }
    }
}
