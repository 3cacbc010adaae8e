//! Tidemill: stream processing for sensors. MQTT and HTTP in, windows on timely dataflow, Delta tables out, SQL over
//! history; as a program, and inside yours.
//!
//! - [`pipeline`]: a job in Rust. [`Pipeline::open`], sources, windows, [`Pipeline::start`].
//! - [`assemble`]: a job from SQL files, as `tidemill serve` runs them.
//! - The crates underneath: [`engine`], [`connectors`], [`queries`].
//!
//! What was acknowledged is in the ingest log of the job's folder, and the tables are a function of that log: after a
//! stop, a `kill -9` or a power loss, start again and nothing is lost or counted twice.

pub mod assemble;
pub mod pipeline;

mod error;

pub use error::{Error, Result};
pub use pipeline::{Pipeline, Running};

pub use tidemill_connectors as connectors;
pub use tidemill_engine as engine;
pub use tidemill_queries as queries;

/// What a program that embeds tidemill needs, in one line: `use tidemill::prelude::*`.
pub mod prelude {
    pub use crate::pipeline::{
        Aggregate, Keyed, LiveRows, Pipeline, Running, Stream, Windowed, avg, boolean, count, count_of, double,
        hopping, integer, max, metadata, min, sum, text, timestamp, tumbling,
    };
    pub use tidemill_connectors::Metadata;
    pub use tidemill_connectors::channel::Channel;
    pub use tidemill_engine::time::{minutes, secs};
}
