//! From the text of a pipeline file to a [`Plan`].
//!
//! ```text
//!   text ─► tokens ─► statements ─► in order of who reads whom
//!                                        │
//!                       source.rs  CREATE SOURCE            ─► Source
//!                       stream.rs  which SQL can stream, or what to write instead
//!                       window.rs  TUMBLE, HOP
//!                       view.rs    DataFusion's logical plan ─► Filter, Window, Project, Table
//!                       sink.rs    CREATE SINK              ─► Table, with an outbox behind it
//!                       locate.rs  its errors, at their places
//! ```
//! Nothing here does I/O: `tidemill check` needs no network.

mod columns;
mod explain;
mod expression;
mod history;
mod locate;
mod logical;
mod names;
mod options;
mod sink;
mod source;
mod stream;
mod text;
mod types;
mod view;
mod window;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::sql::sqlparser::tokenizer::Location;
use tidemill_connectors::options::nearest;
use tidemill_connectors::{Context, NamedSecret, Options};
use tidemill_engine::plan::{NodeId, Operator, Plan};

pub use explain::explain;
pub use history::rewrite_windows_for_history;
pub use text::{CompiledExpression, compile_expression};

use crate::catalog::{Partitioning, Pipeline, SinkInfo, SourceInfo, Storage, TableInfo, ViewInfo};
use crate::diagnostic::{Code, Diagnostic, Problem};
use crate::statement::{CreateSecret, CreateSource, CreateView, DedupClause, Name, OptionList, Statement, parse_file};
use names::Functions;
use options::TableOptions;
use source::PlannedSource;
use stream::StreamQuery;

/// Understands a pipeline file, or says everything that is wrong with it: of each statement its first mistake, in the
/// order of the file.
///
/// `file` is the name that mistakes are reported under. The order of statements does not matter.
pub fn compile(file: &str, text: &str, context: &Context) -> Result<Pipeline, Vec<Diagnostic>> {
    // Editors on Windows put a byte order mark before the first letter. It has no width, so places stay right.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut compiler = Compiler::new(context);
    on_deep_stack(|| compiler.compile(text));
    if compiler.problems.is_empty() {
        return Ok(compiler.into_pipeline());
    }
    let mut problems = compiler.problems;
    problems.sort_by_key(|(at, _)| (at.line, at.column));
    Err(problems.into_iter().map(|(_, problem)| problem.into_diagnostic(file, text)).collect())
}

/// Does what recurses over a syntax tree that was not measured yet: the tree of the longest statement fits.
fn on_deep_stack<T>(work: impl FnOnce() -> T) -> T {
    /// At most some 5 KiB for each token of [`crate::statement::TOKENS_MAX`]. Only what is used is ever mapped.
    const STACK_BYTES: usize = 128 << 20;
    stacker::grow(STACK_BYTES, work)
}

/// What can be read: a source or a view that stands in the plan.
#[derive(Clone)]
struct Relation {
    node: NodeId,
    schema: SchemaRef,
    /// The columns that carry the event time, as far as windows may use them.
    time_columns: Vec<usize>,
    /// Everything that decides about the content, as text.
    canonical: String,
    is_view: bool,
}

struct Compiler<'a> {
    context: &'a Context,
    functions: Functions,
    plan: Plan,
    relations: BTreeMap<String, Relation>,
    secrets: BTreeMap<String, NamedSecret>,
    /// Names whose statement is broken: who reads them is not to blame.
    broken: BTreeSet<String>,
    /// The event time of each source that has one, for examples in hints.
    event_times: BTreeMap<String, String>,
    sources: Vec<SourceInfo>,
    views: Vec<ViewInfo>,
    tables: BTreeMap<String, TableInfo>,
    sinks: Vec<SinkInfo>,
    problems: Vec<(Location, Problem)>,
}

/// Why the secret of some options cannot be had.
enum Unresolved {
    /// Its statement is wrong, which is told already.
    Broken,
    /// Nobody defines it.
    Missing(Problem),
}

/// A view that waits for what it reads.
struct Waiting {
    view: CreateView,
    query: StreamQuery,
}

impl<'a> Compiler<'a> {
    fn new(context: &'a Context) -> Self {
        Compiler {
            context,
            functions: Functions::new(),
            plan: Plan::default(),
            relations: BTreeMap::new(),
            secrets: BTreeMap::new(),
            broken: BTreeSet::new(),
            event_times: BTreeMap::new(),
            sources: Vec::new(),
            views: Vec::new(),
            tables: BTreeMap::new(),
            sinks: Vec::new(),
            problems: Vec::new(),
        }
    }

    fn report(&mut self, name: Option<&str>, problem: Problem) {
        self.broken.extend(name.map(str::to_owned));
        self.problems.push((problem.span.start, problem));
    }

    fn compile(&mut self, text: &str) {
        let mut seen: BTreeMap<String, u64> = BTreeMap::new();
        let (mut sources, mut waiting, mut sinks) = (Vec::new(), Vec::new(), Vec::new());
        for parsed in parse_file(text) {
            let statement = match parsed.statement {
                Ok(statement) => statement,
                Err(problem) => {
                    self.report(parsed.declares.as_deref(), problem);
                    continue;
                }
            };
            let name = statement.name().clone();
            if let Some(line) = seen.insert(name.value.clone(), name.span.start.line) {
                let message = format!("\"{}\" is defined twice; first in line {line}", name.value);
                self.report(
                    None,
                    Problem::new(Code::DuplicateName, name.span, message)
                        .hint("names are shared by sources, views and sinks"),
                );
                continue;
            }
            match statement {
                Statement::Source(source) => sources.push(source),
                Statement::View(view) => waiting.push(view),
                Statement::Sink(sink) => sinks.push(sink),
                Statement::Secret(secret) => {
                    let CreateSecret { name: Name { value: name, .. }, values } = secret;
                    self.secrets.insert(name.clone(), NamedSecret { name, values });
                }
            }
        }
        for source in &sources {
            if let Some(watermark) = &source.watermark {
                self.event_times.insert(source.name.value.clone(), watermark.column.value.clone());
            }
            self.add_source(source);
        }
        let waiting = self.checked(waiting);
        self.add_views(waiting);
        for sink in sinks {
            self.add_sink(sink);
        }
    }

    fn add_source(&mut self, source: &CreateSource) {
        let name = source.name.value.as_str();
        let options = match self.with_secret(&source.options) {
            Ok(options) => options,
            Err(Unresolved::Broken) => {
                self.broken.insert(name.to_owned());
                return;
            }
            Err(Unresolved::Missing(problem)) => return self.report(Some(name), problem),
        };
        let planned = match source::plan_source(&mut self.plan, source, options, self.context, &self.functions) {
            Ok(planned) => planned,
            Err(problem) => return self.report(Some(name), problem),
        };
        let PlannedSource { relation, canonical, has_late } = planned;
        let connector = source.options.entries.iter().find(|entry| entry.key.value == "connector");
        self.sources.push(SourceInfo {
            name: name.to_owned(),
            connector: connector.map_or_else(String::new, |entry| entry.value.value.clone()),
            dedup: source.dedup.as_ref().map(DedupClause::info),
            schema: Arc::clone(&relation.schema),
        });
        let time_column = relation.time_columns.first().map(|column| relation.schema.field(*column).name().clone());
        let hidden = |role: &str, canonical: &str, sort: Vec<String>, time_column: Option<String>| TableInfo {
            name: format!("{name}${role}"),
            schema: Arc::clone(&relation.schema),
            location: None,
            storage: Storage::Delta,
            partition_by: Partitioning::None,
            sort,
            time_column,
            fingerprint: fingerprint(&format!("{canonical}\n{role}")),
            of: name.to_owned(),
        };
        let arrival = "arrival".to_owned();
        self.add_table(hidden("dead", &canonical, vec![arrival.clone()], Some(arrival)));
        let sort = view::sort_columns(&relation.schema, &relation.time_columns, |_| true);
        self.add_table(hidden("quarantine", &canonical, sort.clone(), time_column.clone()));
        if has_late {
            self.add_table(hidden("late", &relation.canonical, sort, time_column));
        }
        self.relations.insert(name.to_owned(), relation);
    }

    /// Makes the options of a connector, with what their `secret` names.
    fn with_secret(&self, list: &OptionList) -> Result<Options, Unresolved> {
        let pairs = list.entries.iter().map(|entry| (entry.key.value.clone(), entry.value.value.clone()));
        let options = Options::new(pairs);
        let Some(entry) = list.entries.iter().find(|entry| entry.key.value == "secret") else { return Ok(options) };
        let name = &entry.value;
        match self.secrets.get(&name.value) {
            Some(secret) => Ok(options.with_secret(secret.clone())),
            None if self.broken.contains(&name.value) => Err(Unresolved::Broken),
            None => {
                let message = format!("there is no secret \"{}\"", name.value);
                let problem = Problem::new(Code::BadOption, name.span, message);
                Err(Unresolved::Missing(match nearest(&name.value, self.secrets.keys().map(String::as_str)) {
                    Some(near) => problem.hint(format!("did you mean \"{near}\"?")),
                    None => problem.hint(format!(
                        "write CREATE SECRET {} (TYPE mqtt, USERNAME 'x', PASSWORD ENV 'VARIABLE');",
                        name.value
                    )),
                }))
            }
        }
    }

    fn add_table(&mut self, table: TableInfo) {
        self.tables.insert(table.name.clone(), table);
    }

    /// Checks each view by itself, before it is known what it reads.
    fn checked(&mut self, views: Vec<CreateView>) -> Vec<Waiting> {
        let mut waiting = Vec::with_capacity(views.len());
        for view in views {
            match stream::check(&view, &self.functions, &self.event_times) {
                Ok(query) => waiting.push(Waiting { view, query }),
                Err(problem) => {
                    let name = view.name.value.clone();
                    self.report(Some(&name), problem);
                }
            }
        }
        waiting
    }

    /// Plans each view once what it reads is planned, in rounds, until no view moves any more.
    fn add_views(&mut self, mut waiting: Vec<Waiting>) {
        loop {
            let (ready, rest): (Vec<Waiting>, Vec<Waiting>) =
                waiting.into_iter().partition(|waiting| self.relations.contains_key(&waiting.query.relation.value));
            let moved = !ready.is_empty();
            for ready in ready {
                let name = ready.view.name.value.clone();
                if let Err(problem) = self.add_view(ready) {
                    self.report(Some(&name), problem);
                }
            }
            waiting = rest;
            if !moved {
                break;
            }
        }
        self.report_unreadable(&waiting);
    }

    fn add_view(&mut self, waiting: Waiting) -> Result<(), Problem> {
        let Waiting { view, query } = waiting;
        let name = view.name.value.clone();
        let input = self.relations[&query.relation.value].clone();
        let planned = view::plan_view(&mut self.plan, &name, &query, &input, &self.functions)?;
        let relation = planned.relation;
        let options = TableOptions::read(&view.options, &relation.schema)?;
        let node = Operator::Table { input: relation.node, name: name.clone() };
        self.plan.push(Arc::clone(&relation.schema), node);

        let table = TableInfo {
            name: name.clone(),
            schema: Arc::clone(&relation.schema),
            location: options.location,
            storage: options.storage,
            partition_by: options.partition_by,
            sort: planned.sort,
            time_column: relation.time_columns.first().map(|column| relation.schema.field(*column).name().clone()),
            fingerprint: fingerprint(&relation.canonical),
            of: name.clone(),
        };
        if let Some(late) = planned.late {
            self.add_table(TableInfo {
                name: format!("{name}$late"),
                location: None,
                partition_by: Partitioning::None,
                sort: late.sort,
                time_column: Some(late.time_column),
                fingerprint: fingerprint(&format!("{}\nlate", late.canonical)),
                ..table.clone()
            });
        }
        self.add_table(table);
        self.views.push(ViewInfo { name: name.clone(), sql: view.text, schema: Arc::clone(&relation.schema) });
        self.relations.insert(name, relation);
        Ok(())
    }

    /// Says why views could not be planned: they read what nobody defines, or each other in a circle.
    fn report_unreadable(&mut self, waiting: &[Waiting]) {
        let reads: BTreeMap<&str, &str> = waiting
            .iter()
            .map(|waiting| (waiting.view.name.value.as_str(), waiting.query.relation.value.as_str()))
            .collect();
        let mut told: BTreeSet<&str> = BTreeSet::new();
        for waiting in waiting {
            let name = waiting.view.name.value.as_str();
            let relation = &waiting.query.relation;
            if told.contains(name) {
                continue;
            }
            let mut path = vec![name];
            let mut next = reads.get(name).copied();
            while let Some(at) = next
                && !path.contains(&at)
            {
                path.push(at);
                next = reads.get(at).copied();
            }
            match next {
                // The circle goes through this view itself, not only through one that it reads.
                Some(back) if back == name => {
                    told.extend(&path);
                    let circle = format!("{} → {name}", path.join(" → "));
                    let message = format!("views read each other in a circle: {circle}");
                    let problem =
                        Problem::new(Code::Cycle, relation.span, message).hint("let one of them read a source");
                    self.report(None, problem);
                }
                Some(_) => {}
                None if reads.contains_key(relation.value.as_str()) || self.broken.contains(&relation.value) => {}
                None => {
                    let message = format!("there is no source or view \"{}\"", relation.value);
                    let known: Vec<&str> = self.relations.keys().map(String::as_str).collect();
                    let problem = Problem::new(Code::UnknownRelation, relation.span, message);
                    let problem = problem.did_you_mean(&relation.value, known);
                    self.report(None, problem);
                }
            }
        }
        // The mistake is told: a sink of such a view has none of its own.
        self.broken.extend(waiting.iter().map(|waiting| waiting.view.name.value.clone()));
    }

    fn into_pipeline(self) -> Pipeline {
        let mut known = self.tables;
        let is_sink = |name: &str| self.sinks.iter().any(|sink| sink.name == name);
        let tables = self.plan.tables().into_iter().filter(|(name, _)| !is_sink(name)).map(|(name, schema)| {
            let table = known.remove(&name).expect("every node with a table was described when it was made");
            TableInfo { schema, ..table }
        });
        let tables = tables.collect();
        Pipeline { plan: self.plan, sources: self.sources, views: self.views, tables, sinks: self.sinks }
    }
}

/// A hash over the text of all that decides about a table's content.
fn fingerprint(canonical: &str) -> String {
    format!("{:032x}", xxhash_rust::xxh3::xxh3_128(canonical.as_bytes()))
}
