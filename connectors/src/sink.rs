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

/// In the data folder, a folder for each sink.
pub const SINKS_FOLDER: &str = "sinks";

/// How long rows wait for a commit to the outbox, unless the options say otherwise: a result shall be somewhere soon.
const COMMIT_INTERVAL_DEFAULT: Duration = Duration::from_millis(250);

/// Less than this is no outbox: a commit that is larger would be left out at once.
const BYTES_MIN: u64 = 1 << 20;

/// The closed set of connectors.
const NAMES: [&str; 1] = ["mqtt"];

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
    let commit_interval = options.duration("commit_interval")?.unwrap_or(COMMIT_INTERVAL_DEFAULT);
    let dir = format!("{SINKS_FOLDER}/{name}");
    let destination = mqtt::destination(&dir, columns, &mut options, context)?;
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
