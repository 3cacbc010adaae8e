//! What a pipeline file defines: its sources, its views, the tables that they fill, and the sinks that deliver them.

use arrow::datatypes::SchemaRef;
use tidemill_connectors::ConnectedSink;
use tidemill_engine::plan::Plan;

pub use tidemill_connectors::table::Partitioning;

/// A pipeline file that was understood: what to run, and what it is called.
#[derive(Clone)]
pub struct Pipeline {
    /// What to run.
    pub plan: Plan,
    /// Its sources, in the order of the file.
    pub sources: Vec<SourceInfo>,
    /// Its views, each after those it reads.
    pub views: Vec<ViewInfo>,
    /// Every table that the plan fills, in the order of [`Plan::tables`], which has the sinks among them.
    pub tables: Vec<TableInfo>,
    /// Its sinks, in the order of the file.
    pub sinks: Vec<SinkInfo>,
}

/// A source, as its statement says.
#[derive(Clone, Debug)]
pub struct SourceInfo {
    /// Its name.
    pub name: String,
    /// Its connector: `mqtt`, `http`, ...
    pub connector: String,
    /// How its repeats are told, if they are.
    pub dedup: Option<DedupInfo>,
    /// Its columns: those declared, then those the connector adds.
    pub schema: SchemaRef,
}

/// `DEDUP KEY (…) WITHIN …`, as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DedupInfo {
    /// The columns of the key.
    pub key: Vec<String>,
    /// How long a key is remembered: an interval.
    pub within: String,
}

/// A view, as its statement says.
#[derive(Clone, Debug)]
pub struct ViewInfo {
    /// Its name.
    pub name: String,
    /// The statement, as it was written.
    pub sql: String,
    /// Its columns.
    pub schema: SchemaRef,
}

/// A sink, as its statement says.
#[derive(Clone)]
pub struct SinkInfo {
    /// Its name: that of a table of the plan.
    pub name: String,
    /// The view or source whose rows it delivers.
    pub of: String,
    /// The statement, as it was written.
    pub sql: String,
    /// The columns of its rows.
    pub schema: SchemaRef,
    /// Where they go.
    pub connected: ConnectedSink,
    /// A hash over all that decides about the rows of its view; not about where and how they are delivered.
    pub fingerprint: String,
}

/// A table that a plan fills.
#[derive(Clone, Debug)]
pub struct TableInfo {
    /// Its name: that of a view, or `readings$dead`, `readings$quarantine`, `readings$late`, `room_1m$late`.
    pub name: String,
    /// Its columns.
    pub schema: SchemaRef,
    /// Where it lies; `None`: in the data folder.
    pub location: Option<String>,
    /// How it is stored.
    pub storage: Storage,
    /// How its files are split.
    pub partition_by: Partitioning,
    /// The columns its files are sorted by.
    pub sort: Vec<String>,
    /// The column with the event time, if it has one.
    pub time_column: Option<String>,
    /// A hash over all that decides about its content. A table of another fingerprint holds something else.
    pub fingerprint: String,
    /// The source or view that it belongs to.
    pub of: String,
}

/// How a table is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Parquet files under a Delta log that other programs may read.
    Delta,
    /// The same without the promise to outside readers.
    Parquet,
}
