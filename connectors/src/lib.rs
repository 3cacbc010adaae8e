//! Where data enters and leaves tidemill: sources by kind, formats, and the tables.
//!
//! [`connect()`] turns a `WITH (connector = …)` list into a [`Source`] and its [`Format`]; [`table::TableSink`] is where
//! results stay, and [`connect_sink()`] makes an [`outbox`] through which they leave. Modules in reading order: what every
//! connector needs, the sources, the sinks, the tables.

mod backoff;
pub mod breaker;
pub mod connect;
pub mod descriptors;
pub mod metadata;
pub mod options;
pub mod outgoing;
pub mod secret;
pub mod stall;
pub mod tls;

pub mod format;
mod receipts;

pub mod channel;
pub mod file;
pub mod generate;
pub mod http;
pub mod mqtt;
pub mod pull;

pub mod outbox;
pub mod sink;
mod sinks;

pub mod table;

#[cfg(test)]
mod testing;

use std::path::PathBuf;
use std::sync::Arc;

use tidemill_engine::clock::{Clock, Dice};
use tidemill_engine::decode::Format;
use tidemill_engine::source::Source;
use tidemill_engine::storage::Storage;

pub use connect::connect;
pub use http::HttpIngest;
pub use metadata::Metadata;
pub use options::{OptionError, Options};
pub use outgoing::AddressPolicy;
pub use secret::{NamedSecret, Secret};
pub use sink::{ConnectedSink, connect_sink};

/// What every connector may need from the program.
#[derive(Clone)]
pub struct Context {
    /// The data folder: stable client ids live here.
    pub storage: Arc<dyn Storage>,
    /// Relative paths of files begin here.
    pub base_dir: PathBuf,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The dice.
    pub dice: Arc<dyn Dice>,
    /// Where HTTP sources meet the server.
    pub http: HttpIngest,
    /// Where sinks meet the MQTT listeners of this process.
    pub local_brokers: mqtt::LocalBrokers,
    /// Which addresses may be connected to.
    pub network: AddressPolicy,
}

/// A source that is ready to be planned.
pub struct Connected {
    /// Where the data comes from.
    pub source: Arc<dyn Source>,
    /// How it is decoded; its schema has the declared columns (also those of metadata), then those the connector adds (topic levels).
    pub format: Arc<dyn Format>,
    /// From option `idle_after`, microseconds.
    pub idle_after_us: Option<i64>,
    /// From option `future_limit`, microseconds.
    pub future_limit_us: Option<i64>,
}
