//! `CREATE SOURCE`: columns, watermark and options become a source of the plan.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use datafusion::sql::sqlparser::ast::Spanned;
use datafusion::sql::sqlparser::tokenizer::Span;
use tidemill_connectors::options::nearest;
use tidemill_connectors::{Connected, Context, Metadata, OptionError, Options, connect};
use tidemill_engine::dedup::WITHIN_US_MIN;
use tidemill_engine::plan::{DedupNode, EventTimeNode, NodeId, Operator, Plan, SourceNode};

use super::Relation;
use super::expression::is_groupable;
use super::names::{Functions, Names};
use super::types::{cast_hint, shape, type_name};
use super::window::any_interval_us;
use crate::diagnostic::{Code, Problem};
use crate::statement::{ColumnDefinition, CreateSource, DedupClause, Name, OptionList, WatermarkClause};

/// Options that say how to reach the data, and nothing about how it is read: changing them keeps the tables. What is in
/// a table is decided by the ingest log and by how the log is decoded.
const CONNECTION_OPTIONS: [&str; 26] = [
    "url",
    "bind",
    "qos",
    "client_id",
    "username",
    "password",
    "keep_alive",
    "session_expiry",
    "version",
    "max_connections",
    "retained",
    "secret",
    "username_env",
    "username_file",
    "password_env",
    "password_file",
    "tls.ca",
    "tls.cert",
    "tls.key",
    "tls.server_name",
    "connections",
    "receive_maximum",
    "allow_qos_downgrade",
    "on_foreign_session",
    "on_session_loss",
    "watch_drops",
];

/// The same for sources that fetch. What is asked, and how often, decides what comes, and not how it is read.
const FETCHING_CONNECTORS: [&str; 3] = ["http_poll", "sse", "websocket"];
const FETCHING_OPTIONS: [&str; 12] = [
    "interval",
    "timeout",
    "emit",
    "event",
    "silence",
    "subscribe",
    "subscribe_env",
    "subscribe_file",
    "token",
    "token_env",
    "token_file",
    "token_header",
];
const FETCHING_PREFIXES: [&str; 2] = ["header.", "query."];

/// Whether an option says only how to reach the data.
fn is_about_connection(key: &str, connector: &str) -> bool {
    let is_fetching = || FETCHING_CONNECTORS.contains(&connector);
    CONNECTION_OPTIONS.contains(&key)
        || FETCHING_OPTIONS.contains(&key) && is_fetching()
        || FETCHING_PREFIXES.iter().any(|prefix| key.starts_with(prefix)) && is_fetching()
}

/// A source that stands in the plan.
pub(super) struct PlannedSource {
    /// What views read.
    pub(super) relation: Relation,
    /// Everything that decides about its rows before they are deduplicated, as text.
    pub(super) canonical: String,
    /// Whether rows can be too old to be deduplicated.
    pub(super) has_late: bool,
}

/// Puts a source into the plan, and behind it its deduplication.
pub(super) fn plan_source(
    plan: &mut Plan,
    source: &CreateSource,
    options: Options,
    context: &Context,
    functions: &Functions,
) -> Result<PlannedSource, Problem> {
    let name = source.name.value.as_str();
    let watermark = source.watermark.as_ref();
    let declared: Vec<Field> = source
        .columns
        .iter()
        .map(|column| {
            // A row without an event time is in no window: it is undecodable, and kept with its reason.
            let is_time = watermark.is_some_and(|watermark| watermark.column.value == column.name.value);
            let field = Field::new(&column.name.value, column.data_type.clone(), column.nullable && !is_time);
            match metadata_of(column, source)? {
                Some(metadata) => Ok(metadata.mark(field)),
                None => Ok(field),
            }
        })
        .collect::<Result<_, Problem>>()?;
    let declared = Arc::new(Schema::new(declared));
    if let Some(watermark) = watermark {
        check_watermark_column(watermark, &declared, name)?;
    }

    let connected =
        connect(name, &declared, options, context).map_err(|error| option_problem(&error, &source.options))?;
    let schema = connected.format.schema();
    let event_time = match watermark {
        Some(watermark) => Some(event_time(watermark, &schema, &connected, name, functions)?),
        None => None,
    };
    let canonical = canonical(source, &schema, event_time.as_ref());
    let node = SourceNode {
        name: name.to_owned(),
        identity: super::fingerprint(&canonical),
        source: connected.source,
        format: connected.format,
        event_time,
        dead_table: Some(format!("{name}$dead")),
        quarantine_table: event_time.is_some().then(|| format!("{name}$quarantine")),
    };
    let input = plan.push(Arc::clone(&schema), Operator::Source(node));
    let time_columns = event_time.iter().map(|event_time| event_time.column).collect();
    let mut relation = Relation { node: input, schema, time_columns, canonical: canonical.clone(), is_view: false };
    let mut has_late = false;
    if let Some(dedup) = &source.dedup {
        has_late = event_time.is_some();
        let late_table = has_late.then(|| format!("{name}$late"));
        let node = dedup_node(dedup, input, &relation, late_table, name, functions)?;
        let keys: Vec<&str> = dedup.columns.iter().map(|column| column.value.as_str()).collect();
        relation.canonical = format!("{canonical}\ndedup by {} within {}us", keys.join(", "), node.within_us);
        let node = DedupNode { identity: super::fingerprint(&relation.canonical), ..node };
        relation.node = plan.push(Arc::clone(&relation.schema), Operator::Dedup(node));
    }
    Ok(PlannedSource { relation, canonical, has_late })
}

fn dedup_node(
    dedup: &DedupClause,
    input: NodeId,
    relation: &Relation,
    late_table: Option<String>,
    name: &str,
    functions: &Functions,
) -> Result<DedupNode, Problem> {
    let schema = &relation.schema;
    let mut keys = Vec::with_capacity(dedup.columns.len());
    for column in &dedup.columns {
        let Ok(place) = schema.index_of(&column.value) else {
            let columns = schema.fields().iter().map(|field| field.name().as_str());
            let message = format!("there is no column \"{}\" in {name}", column.value);
            return Err(Problem::new(Code::UnknownColumn, column.span, message).did_you_mean(&column.value, columns));
        };
        let data_type = schema.field(place).data_type();
        if !is_groupable(data_type) {
            let message = format!("events cannot be told apart by {}", type_name(data_type));
            return Err(Problem::new(Code::WrongType, column.span, message).hint(cast_hint(data_type)));
        }
        keys.push(place);
    }
    let names = Names { functions, relation: name, schema: Arc::new(Schema::empty()) };
    let within_us = any_interval_us(&dedup.within, &names)?;
    if within_us < WITHIN_US_MIN {
        let span = if dedup.within.span() == Span::empty() { dedup.span } else { dedup.within.span() };
        return Err(Problem::new(Code::Syntax, span, "keys are remembered for a second at least")
            .hint("write WITHIN INTERVAL '10 minutes'"));
    }
    Ok(DedupNode { identity: String::new(), input, keys, within_us, late_table })
}

/// Returns the name of its connector; empty if there is none.
fn connector_of(source: &CreateSource) -> &str {
    let connector = source.options.entries.iter().find(|entry| entry.key.value == "connector");
    connector.map_or("", |entry| entry.value.value.as_str())
}

/// Returns what a column is if it is not in the payload.
fn metadata_of(column: &ColumnDefinition, source: &CreateSource) -> Result<Option<Metadata>, Problem> {
    let Some(what) = &column.metadata else { return Ok(None) };
    let connector = connector_of(source);
    let known = || Metadata::ALL.into_iter().filter(|metadata| metadata.is_known_to(connector)).map(Metadata::name);
    let Some(metadata) = Metadata::named(&what.value) else {
        let message = format!("there is no metadata \"{}\"", what.value);
        return Err(Problem::new(Code::UnknownColumn, what.span, message).did_you_mean(&what.value, known()));
    };
    if !metadata.is_known_to(connector) {
        let message = format!("messages of connector {connector} have no {}", metadata.name());
        let list = known().collect::<Vec<_>>().join(", ");
        return Err(Problem::new(Code::UnknownColumn, what.span, message).hint(format!("known are {list}")));
    }
    let types = metadata.types();
    if !types.contains(&column.data_type) {
        let right = crate::type_name(&types[0]);
        let message = format!("metadata {} is {right}, not {}", metadata.name(), crate::type_name(&column.data_type));
        return Err(Problem::new(Code::WrongType, column.type_span, message).hint(format!("write {right}")));
    }
    Ok(Some(metadata))
}

fn check_watermark_column(watermark: &WatermarkClause, declared: &Schema, name: &str) -> Result<(), Problem> {
    let column = &watermark.column;
    match declared.field_with_name(&column.value) {
        Ok(field) if matches!(field.data_type(), DataType::Timestamp(..)) => Ok(()),
        Ok(_) => Err(Problem::new(Code::WrongType, column.span, "the event time is a TIMESTAMP")
            .hint(format!("declare {} TIMESTAMP", column.value))),
        Err(_) => {
            let columns = declared.fields().iter().map(|field| field.name().as_str());
            let message = format!("there is no column \"{}\" in {name}", column.value);
            Err(Problem::new(Code::UnknownColumn, column.span, message).did_you_mean(&column.value, columns))
        }
    }
}

fn event_time(
    watermark: &WatermarkClause,
    schema: &Schema,
    connected: &Connected,
    name: &str,
    functions: &Functions,
) -> Result<EventTimeNode, Problem> {
    let column = schema.index_of(&watermark.column.value).map_err(|_| {
        let message = format!("{name} lost its column \"{}\"", watermark.column.value);
        Problem::new(Code::UnknownColumn, watermark.column.span, message)
    })?;
    let names = Names { functions, relation: name, schema: Arc::new(Schema::empty()) };
    let delay_us = match &watermark.delay {
        Some(delay) => any_interval_us(delay, &names)?,
        None => 0,
    };
    if delay_us < 0 {
        let span = watermark.delay.as_ref().map_or(watermark.column.span, Spanned::span);
        return Err(Problem::new(Code::Syntax, span, "a watermark cannot run ahead of its rows")
            .hint("write - INTERVAL '10 seconds'"));
    }
    Ok(EventTimeNode {
        column,
        delay_us,
        idle_after_us: connected.idle_after_us,
        future_limit_us: connected.future_limit_us,
    })
}

/// Finds the option an error is about: its key if nobody knows it, its value if that is bad, `WITH` if it is missing.
pub(super) fn option_problem(error: &OptionError, options: &OptionList) -> Problem {
    let (problem, hint) = match error.problem.split_once("; did you mean ") {
        Some((problem, known)) => {
            (problem, Some(format!("did you mean \"{}\"?", known.trim_end_matches('?').trim_matches('\''))))
        }
        None => (error.problem.as_str(), None),
    };
    let unknown_key = problem.starts_with("is not known");
    let entry = options.entries.iter().find(|entry| entry.key.value == error.key);
    let keys = options.entries.iter().map(|entry| entry.key.value.as_str());
    if problem.starts_with("is missing")
        && let Some(near) = nearest(&error.key, keys)
        && let Some(entry) = options.entries.iter().find(|entry| entry.key.value == near)
    {
        let message = format!("option {near} is not known here, and {} is missing", error.key);
        let problem = Problem::new(Code::BadOption, entry.key.span, message);
        return problem.hint(format!("did you mean \"{}\"?", error.key));
    }
    let span = match entry {
        Some(entry) if unknown_key => entry.key.span,
        Some(entry) => entry.value.span,
        None => options.span,
    };
    let colon = if problem.starts_with("is ") { "" } else { ":" };
    let message = format!("option {}{colon} {problem}", error.key);
    Problem { code: Code::BadOption, span, message, hint }
}

/// Everything about a source that decides what is in its rows.
fn canonical(source: &CreateSource, schema: &Schema, event_time: Option<&EventTimeNode>) -> String {
    // Declared columns come first, in their order.
    let metadata = source.columns.iter().map(|column| column.metadata.as_ref()).chain(std::iter::repeat(None));
    let described = |(field, metadata): (&FieldRef, Option<&Name>)| match metadata {
        Some(metadata) => format!("{} metadata {}", shape(field), metadata.value),
        None => shape(field),
    };
    let columns: Vec<String> = schema.fields().iter().zip(metadata).map(described).collect();
    let connector = connector_of(source);
    let mut options: Vec<String> = source
        .options
        .entries
        .iter()
        .filter(|entry| !is_about_connection(&entry.key.value, connector))
        .map(|entry| format!("{}={}", entry.key.value, entry.value.value))
        .collect();
    options.sort();
    let time = event_time.map_or_else(String::new, |time| format!("{time:?}"));
    format!("source {} ({}) with ({}) {time}", source.name.value, columns.join(", "), options.join(", "))
}
