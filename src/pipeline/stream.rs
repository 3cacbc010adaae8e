//! Streams of the builder: each step adds a node to the plan.
//!
//! A step that cannot be (a column that is not there, an aggregate that does not take a type) is remembered, and told
//! by [`Pipeline::start`](super::Pipeline::start): so steps chain without a `?` after each. The first mistake counts.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidemill_connectors::options::nearest;
use tidemill_engine::aggregate::AggregateCall;
use tidemill_engine::dedup::{WITHIN_US_MAX, WITHIN_US_MIN};
use tidemill_engine::expr::{Column, ExprRef};
use tidemill_engine::plan::{DedupNode, EventTimeNode, NodeId, Operator, WindowNode, timestamp_type, window_schema};
use tidemill_engine::time::micros;
use tidemill_engine::window::WindowAssigner;

use super::aggregate::Aggregate;
use super::draft::{Shared, TableDraft};
use super::live::LiveRows;
use crate::{Error, Result};

/// Rows with named columns. Cheap to clone; several streams may go on from one.
#[derive(Clone)]
pub struct Stream {
    draft: Shared,
    node: NodeId,
    /// What the rows are, in words: two streams with the same words hold the same rows.
    description: String,
    time_column: Option<usize>,
    /// The columns that say which thing a row is about; tables are sorted by them.
    keys: Vec<String>,
}

/// A stream whose rows belong to keys: windows come next.
#[derive(Clone)]
pub struct Keyed {
    stream: Stream,
    keys: Vec<String>,
}

/// A keyed stream in windows: aggregates come next.
#[derive(Clone)]
pub struct Windowed {
    keyed: Keyed,
    assigner: WindowAssigner,
}

impl Stream {
    pub(super) fn of_source(draft: Shared, node: NodeId, description: String) -> Self {
        Stream { draft, node, description, time_column: None, keys: Vec::new() }
    }

    /// Returns the columns.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.draft.lock().plan.node(self.node).schema)
    }

    /// Says which column of a source holds the event time. Only then windows can follow.
    ///
    /// The watermark follows the greatest event time; [`Stream::lateness`] keeps it behind.
    pub fn event_time(mut self, column: &str) -> Self {
        let place = self.column(column).and_then(|(idx, field)| match field.data_type() {
            kind if *kind == timestamp_type() => Ok(idx),
            kind => Err(Error::Input(format!("event_time({column:?}): the column is {kind}, not a timestamp"))),
        });
        let time = place
            .map(|column| (column, EventTimeNode { column, delay_us: 0, idle_after_us: None, future_limit_us: None }));
        match time {
            Ok((column, time)) => {
                self.time_column = Some(column);
                self.change_source("event_time", |source| source.event_time = Some(time));
            }
            Err(error) => self.draft.fail(error),
        }
        self
    }

    /// Keeps the watermark of a source this far behind its greatest event time, so that rows may come out of order.
    /// Rows that are later still are counted, and kept in the table `<table>$late`.
    pub fn lateness(self, delay: Duration) -> Self {
        self.change_time("lateness", |time| time.delay_us = micros(delay));
        self
    }

    /// Lets a partition of a source that is silent for so long hold the watermark back no more.
    pub fn idle_after(self, silence: Duration) -> Self {
        self.change_time("idle_after", |time| time.idle_after_us = Some(micros(silence)));
        self
    }

    /// Sets rows of a source aside that are stamped further ahead of their arrival, in the table
    /// `<source>$quarantine`: a wrong clock then closes no windows.
    pub fn future_limit(self, ahead: Duration) -> Self {
        self.change_time("future_limit", |time| time.future_limit_us = Some(micros(ahead)));
        self.change_source("future_limit", |source| {
            source.quarantine_table = Some(format!("{}$quarantine", source.name))
        });
        self
    }

    /// Lets each event of a source through once, however often it was delivered: rows with equal columns, whose event
    /// times are at most so far apart, are one event, and the first of them counts. Say it behind everything about the
    /// source's time; without an event time the time of arrival decides.
    ///
    /// A row that is further behind the watermark than this is too old to tell, and goes to the table `<source>$late`.
    pub fn dedup<const N: usize>(self, key: [&str; N], within: Duration) -> Self {
        let within_us = micros(within);
        if !(WITHIN_US_MIN..=WITHIN_US_MAX).contains(&within_us) || N == 0 {
            return self.refuse(format!(
                "dedup({key:?}, {within:?}): it needs a column, and from a second to a hundred years"
            ));
        }
        let (mut keys, schema) = (Vec::with_capacity(N), self.schema());
        for column in key {
            match self.column(column) {
                Ok((place, _)) => keys.push(place),
                Err(error) => return self.refuse(format!("dedup({column:?}): {error}")),
            }
        }
        let source = match &self.draft.lock().plan.node(self.node).operator {
            Operator::Source(source) => Some((source.name.clone(), source.event_time)),
            _ => None,
        };
        let Some((name, event_time)) = source else {
            return self.refuse("dedup: only a source has repeats; say it before all other steps".to_owned());
        };
        let step = format!("dedup by {} within {within_us}us by {event_time:?}", key.join(", "));
        let node = DedupNode {
            identity: format!("{} | {step}", self.description),
            input: self.node,
            keys,
            within_us,
            late_table: event_time.map(|_| format!("{name}$late")),
        };
        self.then(schema, Operator::Dedup(node), &step)
    }

    /// Keeps the rows for which a SQL condition is true: `.filter("temperature < 60 AND site <> 'lab'")`.
    pub fn filter(self, condition: &str) -> Self {
        let schema = self.schema();
        match tidemill_queries::compile_expression(condition, &schema) {
            Ok(compiled) if *compiled.field.data_type() == DataType::Boolean => {
                let input = self.node;
                let step = format!("where {condition}");
                self.then(schema, Operator::Filter { input, predicate: compiled.expr }, &step)
            }
            Ok(compiled) => self.refuse(format!(
                "filter({condition:?}): a condition is true or false, this is {}",
                compiled.field.data_type()
            )),
            Err(problem) => self.refuse(format!("filter({condition:?}): {problem}")),
        }
    }

    /// Computes new columns, each a name and a SQL expression: `.select([("device", "device"), ("f", "c * 1.8 + 32")])`.
    /// The event time goes on if it is among them as it is.
    pub fn select<const N: usize>(self, columns: [(&str, &str); N]) -> Self {
        let schema = self.schema();
        let (mut fields, mut exprs, mut time_column, mut names): (Vec<Field>, Vec<ExprRef>, _, Vec<String>) =
            (Vec::new(), Vec::new(), None, Vec::new());
        for (idx, (name, text)) in columns.into_iter().enumerate() {
            match tidemill_queries::compile_expression(text, &schema) {
                Ok(compiled) => {
                    if compiled.column.is_some() && compiled.column == self.time_column {
                        time_column = Some(idx);
                    }
                    fields.push(compiled.field.with_name(name));
                    exprs.push(compiled.expr);
                    names.push(format!("{text} as {name}"));
                }
                Err(problem) => return self.refuse(format!("select({name:?}, {text:?}): {problem}")),
            }
        }
        let input = self.node;
        let step = format!("select {}", names.join(", "));
        let keys = self.keys.iter().filter(|key| fields.iter().any(|field| field.name() == *key)).cloned().collect();
        let next = self.then(Arc::new(Schema::new(fields)), Operator::Project { input, columns: exprs }, &step);
        Stream { time_column, keys, ..next }
    }

    /// Groups rows by columns.
    pub fn key_by<const N: usize>(&self, columns: [&str; N]) -> Keyed {
        for column in columns {
            if let Err(error) = self.column(column) {
                self.draft.fail(error);
            }
        }
        Keyed { stream: self.clone(), keys: columns.iter().map(|column| (*column).to_owned()).collect() }
    }

    /// Writes the rows to a Delta table in the pipeline's folder: `<folder>/tables/<name>`.
    pub fn to_table(&self, name: &str) -> &Self {
        let table = TableDraft {
            node: self.node,
            description: self.description.clone(),
            sort: self.keys.clone(),
            time_column: self.time_column.map(|column| self.schema().field(column).name().clone()),
        };
        self.draft.add_table(name, table);
        self
    }

    /// Returns the rows as they leave, before their commit.
    ///
    /// Of a stream with a table, rows that are committed already do not come again after a restart. Without a table,
    /// the whole log is replayed to the subscriber.
    pub fn subscribe(&self) -> LiveRows {
        self.draft.subscribe(self.node)
    }

    /// Finds a column, or names the nearest.
    fn column(&self, name: &str) -> Result<(usize, Field)> {
        let schema = self.schema();
        if let Some((idx, field)) = schema.column_with_name(name) {
            return Ok((idx, field.clone()));
        }
        let names = schema.fields().iter().map(|field| field.name().as_str());
        let hint = match nearest(name, names.clone()) {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!("there are {}", names.collect::<Vec<_>>().join(", ")),
        };
        Err(Error::Input(format!("there is no column {name:?}; {hint}")))
    }

    fn then(self, schema: SchemaRef, operator: Operator, step: &str) -> Self {
        let node = self.draft.lock().plan.push(schema, operator);
        Stream { node, description: format!("{} | {step}", self.description), ..self }
    }

    fn refuse(self, problem: String) -> Self {
        self.draft.fail(Error::Input(problem));
        self
    }

    fn change_source(&self, word: &str, change: impl FnOnce(&mut tidemill_engine::plan::SourceNode)) {
        let changed = match &mut self.draft.lock().plan.nodes[self.node.0].operator {
            Operator::Source(source) => {
                change(source);
                true
            }
            _ => false,
        };
        if !changed {
            self.draft.fail(Error::Input(format!("{word}: only a source has one; say it directly after `columns`")));
        }
    }

    fn change_time(&self, word: &str, change: impl FnOnce(&mut EventTimeNode)) {
        let mut missing = false;
        self.change_source(word, |source| match &mut source.event_time {
            Some(time) => change(time),
            None => missing = true,
        });
        if missing {
            self.draft.fail(Error::Input(format!("{word}: say event_time(\"…\") before")));
        }
    }
}

impl Keyed {
    /// Cuts event time into windows: [`tumbling`](super::tumbling) or [`hopping`](super::hopping).
    pub fn window(self, assigner: WindowAssigner) -> Windowed {
        let (size_us, slide_us) = match assigner {
            WindowAssigner::Tumbling { size_us } => (size_us, size_us),
            WindowAssigner::Hopping { size_us, slide_us } => (size_us, slide_us),
        };
        if size_us <= 0 || slide_us <= 0 {
            self.stream.draft.fail(Error::Input("window: its size and its slide must be longer than nothing".into()));
        }
        Windowed { keyed: self, assigner }
    }
}

impl Windowed {
    /// Computes aggregates for each key and window; a row leaves for each when its window closes. Columns: the keys,
    /// `window_start`, `window_end`, the aggregates.
    pub fn aggregate<const N: usize>(self, aggregates: [Aggregate; N]) -> Stream {
        let stream = self.keyed.stream.clone();
        match self.node(&aggregates) {
            Ok((schema, mut node)) => {
                let words: Vec<String> = aggregates
                    .iter()
                    .map(|a| format!("{:?}({}) as {}", a.kind, a.column.as_deref().unwrap_or("*"), a.name))
                    .collect();
                let step = format!("{:?} by {} {}", self.assigner, self.keyed.keys.join(", "), words.join(", "));
                node.identity = format!("{}; {step}", stream.description);
                // A window's result belongs to its start, as in a view that reads a view.
                let time_column = schema.column_with_name("window_start").map(|(idx, _)| idx);
                let next = stream.then(schema, Operator::Window(node), &step);
                Stream { time_column, keys: self.keyed.keys, ..next }
            }
            Err(error) => {
                stream.draft.fail(error);
                stream
            }
        }
    }

    fn node(&self, aggregates: &[Aggregate]) -> Result<(SchemaRef, WindowNode)> {
        let stream = &self.keyed.stream;
        let time_column = stream
            .time_column
            .ok_or_else(|| Error::Input("window: the stream has no event time; say event_time(\"…\") before".into()))?;
        let (mut keys, mut key_fields) = (Vec::new(), Vec::new());
        for key in &self.keyed.keys {
            let (index, field) = stream.column(key)?;
            keys.push(column_expr(index, key));
            key_fields.push((key.clone(), field.data_type().clone(), field.is_nullable()));
        }
        let calls = aggregates.iter().map(|aggregate| call(stream, aggregate)).collect::<Result<Vec<_>>>()?;
        let schema = window_schema(&key_fields, &calls);
        let mut names: Vec<&String> = schema.fields().iter().map(|field| field.name()).collect();
        names.sort();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::Input(format!("aggregate: two columns are called {:?}; say named(\"…\")", twice[0])));
        }
        let node = WindowNode {
            identity: String::new(),
            input: stream.node,
            time_column,
            assigner: self.assigner,
            keys,
            aggregates: calls,
            late_table: None,
        };
        Ok((schema, node))
    }
}

fn call(stream: &Stream, aggregate: &Aggregate) -> Result<AggregateCall> {
    let (argument, argument_type) = match &aggregate.column {
        Some(column) => {
            let (index, field) = stream.column(column)?;
            (Some(column_expr(index, column)), field.data_type().clone())
        }
        None => (None, DataType::Null),
    };
    if aggregate.kind.return_type(&argument_type).is_none() {
        let (kind, column) = (format!("{:?}", aggregate.kind).to_lowercase(), aggregate.column.as_deref());
        return Err(Error::Input(format!("{kind}({:?}) does not take {argument_type}", column.unwrap_or("*"))));
    }
    Ok(AggregateCall { kind: aggregate.kind, argument, argument_type, name: aggregate.name.clone() })
}

fn column_expr(index: usize, name: &str) -> ExprRef {
    Arc::new(Column { index, name: name.to_owned() })
}
