//! The plan: the small graph that SQL and the builder both produce, and that the dataflow builder alone reads.
//!
//! A plan is a list of nodes; each names its input by index and stands after it. Every node's schema is fixed here, so
//! that the dataflow has nothing left to decide.
//!
//! ```text
//!   Source ─► Filter ─► Window ─► Filter (HAVING) ─► Project ─► Sink
//!      ├────► Project ─► Sink                          └──────► Window ─► …      a view that reads a view
//!      └────► Dedup ─► …                                                        a source with DEDUP KEY
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use crate::aggregate::AggregateCall;
use crate::decode::Format;
use crate::expr::ExprRef;
use crate::source::Source;
use crate::window::WindowAssigner;

/// The place of a node in its plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub usize);

/// A whole job: sources, what is computed, and where it goes.
#[derive(Clone, Default)]
pub struct Plan {
    /// Inputs before their readers.
    pub nodes: Vec<Node>,
}

/// One step, with the columns that leave it.
#[derive(Clone)]
pub struct Node {
    /// The columns that leave this node.
    pub schema: SchemaRef,
    /// What it does.
    pub operator: Operator,
}

/// What a node does. A closed set: the dataflow builder matches on it.
#[derive(Clone)]
pub enum Operator {
    /// Rows from outside.
    Source(SourceNode),
    /// Lets each event of a source through once.
    Dedup(DedupNode),
    /// Keeps the rows for which the predicate is true (not false, not null).
    Filter {
        /// Whose rows.
        input: NodeId,
        /// A boolean expression.
        predicate: ExprRef,
    },
    /// Computes new columns from old ones.
    Project {
        /// Whose rows.
        input: NodeId,
        /// One for each column that leaves.
        columns: Vec<ExprRef>,
    },
    /// Aggregates rows by key and window; a row leaves for each when its window closes.
    Window(WindowNode),
    /// Writes rows to a table.
    Table {
        /// Whose rows.
        input: NodeId,
        /// The table's name, as a person would say it: `room_1m`, `room_1m$late`, `readings$dead`.
        name: String,
    },
}

impl Operator {
    /// Returns whose rows it takes; `None` for a source.
    pub fn input(&self) -> Option<NodeId> {
        match self {
            Operator::Source(_) => None,
            Operator::Dedup(dedup) => Some(dedup.input),
            Operator::Window(window) => Some(window.input),
            Operator::Filter { input, .. } | Operator::Project { input, .. } | Operator::Table { input, .. } => {
                Some(*input)
            }
        }
    }
}

/// A source with all that decides about its time.
#[derive(Clone)]
pub struct SourceNode {
    /// Its name.
    pub name: String,
    /// Everything that decides about its rows, in short: a checkpoint's state belongs to a node of this identity.
    pub identity: String,
    /// Where the data comes from.
    pub source: Arc<dyn Source>,
    /// How it is decoded; its schema is the node's schema.
    pub format: Arc<dyn Format>,
    /// Its event time, if it has one. Without, only filters and projections can follow.
    pub event_time: Option<EventTimeNode>,
    /// Fills the table of undecodable rows; columns as [`dead_letter_schema`].
    pub dead_table: Option<String>,
    /// Fills the table of rows from the future; columns of the source.
    pub quarantine_table: Option<String>,
}

/// Which column is the event time, and how it moves the watermark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventTimeNode {
    /// A column of type `Timestamp(Microsecond, _)`.
    pub column: usize,
    /// The watermark stays this far behind the greatest event time.
    pub delay_us: i64,
    /// A partition without input for longer holds the watermark back no more; `None`: it always does.
    pub idle_after_us: Option<i64>,
    /// A row stamped further ahead of its arrival is quarantined; `None`: no row is.
    pub future_limit_us: Option<i64>,
}

/// Lets each event of a source through once: see [`dedup`](crate::dedup). Columns out: those of the source.
#[derive(Clone)]
pub struct DedupNode {
    /// Everything that decides about its results, in short: a checkpoint's state belongs to a node of this identity.
    pub identity: String,
    /// Whose rows: always a source itself, whose rows stand in the order of the log.
    pub input: NodeId,
    /// The columns that tell one event from another.
    pub keys: Vec<usize>,
    /// Rows with equal keys are one event if their times are at most so far apart; at least
    /// [`WITHIN_US_MIN`](crate::dedup::WITHIN_US_MIN).
    pub within_us: i64,
    /// Fills the table of rows that are too old to tell; columns of the source. There are none without an event time.
    pub late_table: Option<String>,
}

/// A windowed aggregate. Columns out: keys, `window_start`, `window_end`, aggregates.
#[derive(Clone)]
pub struct WindowNode {
    /// Everything that decides about its results, in short: a checkpoint's state belongs to a node of this identity.
    pub identity: String,
    /// Whose rows.
    pub input: NodeId,
    /// The input's event time column.
    pub time_column: usize,
    /// Which windows a row belongs to.
    pub assigner: WindowAssigner,
    /// What rows are grouped by, beside the window.
    pub keys: Vec<ExprRef>,
    /// What is computed for each group.
    pub aggregates: Vec<AggregateCall>,
    /// Fills the table of late rows; columns of the input.
    pub late_table: Option<String>,
}

impl Plan {
    /// Adds a node and returns its place.
    pub fn push(&mut self, schema: SchemaRef, operator: Operator) -> NodeId {
        self.nodes.push(Node { schema, operator });
        NodeId(self.nodes.len() - 1)
    }

    /// Returns a node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    /// Returns the key of each stateful node's state in a checkpoint: its identity, numbered where several
    /// nodes compute the same.
    pub fn state_keys(&self) -> BTreeMap<NodeId, String> {
        let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
        let mut keys = BTreeMap::new();
        for (at, node) in self.nodes.iter().enumerate() {
            let identity = match &node.operator {
                Operator::Source(source) => &source.identity,
                Operator::Dedup(dedup) => &dedup.identity,
                Operator::Window(window) => &window.identity,
                Operator::Filter { .. } | Operator::Project { .. } | Operator::Table { .. } => continue,
            };
            let count = seen.entry(identity).or_default();
            *count += 1;
            keys.insert(NodeId(at), if *count == 1 { identity.clone() } else { format!("{identity}#{count}") });
        }
        keys
    }

    /// Returns the windows that a table's rows come through, nearest first.
    pub fn windows_of(&self, table: &str) -> Vec<NodeId> {
        let mut path = self.path_of(table);
        path.retain(|id| matches!(self.node(*id).operator, Operator::Window(_)));
        path
    }

    /// Returns the nodes whose state decides about a table's rows, beside the sources: nearest first.
    pub fn states_of(&self, table: &str) -> Vec<NodeId> {
        let mut path = self.path_of(table);
        path.retain(|id| matches!(self.node(*id).operator, Operator::Window(_) | Operator::Dedup(_)));
        path
    }

    /// Returns the source that a table's rows come from.
    pub fn source_of(&self, table: &str) -> Option<NodeId> {
        self.path_of(table).pop()
    }

    /// Returns the nodes that a table's rows come through, from the one whose rows they are to its source.
    fn path_of(&self, table: &str) -> Vec<NodeId> {
        let named = |name: &Option<String>| name.as_deref() == Some(table);
        let start = self.nodes.iter().enumerate().find_map(|(at, node)| match &node.operator {
            Operator::Table { input, name } if name == table => Some(*input),
            Operator::Source(source) if named(&source.dead_table) || named(&source.quarantine_table) => {
                Some(NodeId(at))
            }
            Operator::Window(window) if named(&window.late_table) => Some(NodeId(at)),
            Operator::Dedup(dedup) if named(&dedup.late_table) => Some(NodeId(at)),
            _ => None,
        });
        let (mut path, mut next) = (Vec::new(), start);
        while let Some(id) = next {
            path.push(id);
            next = self.node(id).operator.input();
        }
        path
    }

    /// Returns every table the plan fills, with its columns: the sinks that a job must be given.
    pub fn tables(&self) -> Vec<(String, SchemaRef)> {
        let mut tables = Vec::new();
        for node in &self.nodes {
            match &node.operator {
                Operator::Source(source) => {
                    tables.extend(source.dead_table.iter().map(|name| (name.clone(), dead_letter_schema())));
                    tables.extend(source.quarantine_table.iter().map(|name| (name.clone(), Arc::clone(&node.schema))));
                }
                Operator::Window(window) => {
                    let late = Arc::clone(&self.node(window.input).schema);
                    tables.extend(window.late_table.iter().map(|name| (name.clone(), Arc::clone(&late))));
                }
                Operator::Dedup(dedup) => {
                    tables.extend(dedup.late_table.iter().map(|name| (name.clone(), Arc::clone(&node.schema))));
                }
                Operator::Table { name, .. } => tables.push((name.clone(), Arc::clone(&node.schema))),
                Operator::Filter { .. } | Operator::Project { .. } => {}
            }
        }
        tables
    }
}

/// The type of every instant inside the engine.
pub fn timestamp_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// The type of pairs of text inside the engine: keys are never null, and stand once.
pub fn text_map_type() -> DataType {
    // No view, unlike all other text: DataFusion compares a key only with text of the very type of what is looked up.
    let key = Field::new("key", DataType::Utf8, false);
    let value = Field::new("value", DataType::Utf8View, true);
    let entries = Field::new("key_value", DataType::Struct(vec![key, value].into()), false);
    DataType::Map(Arc::new(entries), false)
}

/// The columns of a dead-letter table: when and where it came in, why it could not be used, and the bytes.
pub fn dead_letter_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("arrival", timestamp_type(), false),
        Field::new("partition", DataType::Utf8View, false),
        Field::new("log_offset", DataType::Int64, false),
        Field::new("topic", DataType::Utf8View, true),
        Field::new("reason", DataType::Utf8View, false),
        Field::new("payload", DataType::Binary, false),
    ]))
}

/// The columns that leave a [`WindowNode`].
pub fn window_schema(keys: &[(String, DataType, bool)], aggregates: &[AggregateCall]) -> SchemaRef {
    let mut fields: Vec<Field> =
        keys.iter().map(|(name, kind, nullable)| Field::new(name, kind.clone(), *nullable)).collect();
    fields.push(Field::new("window_start", timestamp_type(), false));
    fields.push(Field::new("window_end", timestamp_type(), false));
    fields.extend(aggregates.iter().map(AggregateCall::field));
    Arc::new(Schema::new(fields))
}
