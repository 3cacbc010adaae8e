//! Where data enters and leaves tidemill: sources by kind, formats, and the tables.
//!
//! [`connect`] turns a `WITH (connector = …)` list into a [`Source`](tidemill_engine::source::Source) and its
//! [`Format`](tidemill_engine::decode::Format).

pub mod mqtt;
pub mod options;

use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use tidemill_engine::clock::{Clock, Dice};
use tidemill_engine::decode::Format;
use tidemill_engine::source::Source;
use tidemill_engine::storage::Storage;

pub use options::{OptionError, Options};

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
}

/// A source that is ready to be planned.
pub struct Connected {
    /// Where the data comes from.
    pub source: Arc<dyn Source>,
    /// How it is decoded; its schema has the declared columns, then those the connector adds (topic levels).
    pub format: Arc<dyn Format>,
    /// From option `idle_after`, microseconds.
    pub idle_after_us: Option<i64>,
    /// From option `future_limit`, microseconds.
    pub future_limit_us: Option<i64>,
}

/// Makes a source from its declared columns and its options. Does no I/O: `tidemill check` calls it too.
pub fn connect(
    name: &str,
    columns: &SchemaRef,
    mut options: Options,
    context: &Context,
) -> Result<Connected, OptionError> {
    let _ = (name, columns, context);
    let kind = options.require("connector")?;
    Err(OptionError::new("connector", format!("there is no connector {kind:?}")))
}
