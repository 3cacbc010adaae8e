//! What the builder collects until a job starts: a plan in the making, its tables, its subscribers, the first mistake.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use tidemill_engine::epoch::Epoch;
use tidemill_engine::plan::{NodeId, Operator, Plan};
use tidemill_queries::{Partitioning, Storage, TableInfo};
use tokio::sync::broadcast;

use super::live::{LIVE_BATCHES_MAX, LiveRows};
use crate::{Error, Result};

/// Where rows are shown as they leave.
pub(super) type LiveSender = broadcast::Sender<(Epoch, RecordBatch)>;

/// The draft, shared by a pipeline and its streams.
#[derive(Clone, Default)]
pub(super) struct Shared(Arc<Mutex<Draft>>);

#[derive(Default)]
pub(super) struct Draft {
    pub(super) plan: Plan,
    tables: BTreeMap<String, TableDraft>,
    live: BTreeMap<NodeId, LiveSender>,
    problem: Option<Error>,
}

/// A table that a stream goes into.
#[derive(Clone)]
pub(super) struct TableDraft {
    pub(super) node: NodeId,
    pub(super) description: String,
    pub(super) sort: Vec<String>,
    pub(super) time_column: Option<String>,
}

/// A draft that is ready to run.
pub(super) struct Finished {
    pub(super) plan: Plan,
    /// One for each of [`Plan::tables`], in that order.
    pub(super) outlets: Vec<Outlet>,
}

/// Where the rows of one table of the plan go.
pub(super) enum Outlet {
    /// Into a table, and to subscribers if there are any.
    Table(TableInfo, Option<LiveSender>),
    /// Only to subscribers.
    Live(String, LiveSender),
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Draft> {
        // Each step leaves the draft whole, also one that panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a mistake; the first one counts.
    pub(super) fn fail(&self, error: Error) {
        self.lock().problem.get_or_insert(error);
    }

    pub(super) fn add_table(&self, name: &str, table: TableDraft) {
        if !is_name(name) {
            return self.fail(Error::Input(format!("to_table({name:?}): a name has letters, digits and _ only")));
        }
        if self.lock().tables.insert(name.to_owned(), table).is_some() {
            self.fail(Error::Input(format!("to_table({name:?}): there is such a table already")));
        }
    }

    pub(super) fn subscribe(&self, node: NodeId) -> LiveRows {
        let mut draft = self.lock();
        let sender = draft.live.entry(node).or_insert_with(|| broadcast::channel(LIVE_BATCHES_MAX).0);
        LiveRows::new(sender.subscribe())
    }

    /// Turns the draft into a plan, or tells the first mistake.
    pub(super) fn finish(&self) -> Result<Finished> {
        let mut draft = std::mem::take(&mut *self.lock());
        if let Some(problem) = draft.problem {
            return Err(problem);
        }
        if draft.tables.is_empty() && draft.live.is_empty() {
            return Err(Error::Input("nothing leaves the pipeline: say to_table(\"…\") or subscribe()".into()));
        }
        let mut shown: BTreeMap<String, LiveSender> = BTreeMap::new();
        for (name, table) in &draft.tables {
            name_late_table(&mut draft.plan, table.node, name);
            push_table(&mut draft.plan, table.node, name);
            if let Some(sender) = draft.live.remove(&table.node) {
                shown.insert(name.clone(), sender);
            }
        }
        let mut live_only = BTreeMap::new();
        for (node, sender) in draft.live {
            // No table of a user can have this name: it has a dash.
            let name = format!("live-{}", node.0);
            push_table(&mut draft.plan, node, &name);
            live_only.insert(name, sender);
        }
        for node in &mut draft.plan.nodes {
            if let Operator::Source(source) = &mut node.operator {
                source.identity = format!("{} {:?}", source.identity, source.event_time);
            }
        }
        let mut names = BTreeSet::new();
        if let Some((twice, _)) = draft.plan.tables().into_iter().find(|(name, _)| !names.insert(name.clone())) {
            return Err(Error::Input(format!("two tables would be called {twice:?}: name a table otherwise")));
        }
        let outlets = draft.plan.tables().into_iter().map(|(name, schema)| match live_only.remove(&name) {
            Some(sender) => Outlet::Live(name, sender),
            None => {
                let sender = shown.remove(&name);
                Outlet::Table(table_info(&draft.plan, &draft.tables, name, schema), sender)
            }
        });
        Ok(Finished { outlets: outlets.collect(), plan: draft.plan })
    }
}

/// Whether a name can be that of a source or a table: it becomes a folder, and a word in SQL.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn push_table(plan: &mut Plan, input: NodeId, name: &str) {
    let schema = Arc::clone(&plan.node(input).schema);
    plan.push(schema, Operator::Table { input, name: name.to_owned() });
}

/// Gives the windows that a table shows their table of late rows, unless another table has done so.
fn name_late_table(plan: &mut Plan, mut node: NodeId, table: &str) {
    loop {
        match &mut plan.nodes[node.0].operator {
            Operator::Window(window) => {
                window.late_table.get_or_insert_with(|| format!("{table}$late"));
                return;
            }
            Operator::Filter { input, .. } | Operator::Project { input, .. } => node = *input,
            Operator::Source(_) | Operator::Dedup(_) | Operator::Table { .. } => return,
        }
    }
}

fn table_info(plan: &Plan, tables: &BTreeMap<String, TableDraft>, name: String, schema: SchemaRef) -> TableInfo {
    let of = name.split('$').next().unwrap_or(&name).to_owned();
    let (sort, time_column, description) = match tables.get(&name) {
        Some(table) => (table.sort.clone(), table.time_column.clone(), table.description.clone()),
        None if name.ends_with("$dead") => (vec!["arrival".to_owned()], Some("arrival".to_owned()), name.clone()),
        // Late and quarantined rows are rows of the input, and keep its time.
        None => (Vec::new(), time_of(plan, &name), name.clone()),
    };
    let fields: Vec<String> = schema.fields().iter().map(|f| format!("{} {}", f.name(), f.data_type())).collect();
    TableInfo {
        partition_by: Partitioning::None,
        fingerprint: format!("{description} ({})", fields.join(", ")),
        name,
        schema,
        location: None,
        storage: Storage::Delta,
        sort,
        time_column,
        of,
    }
}

/// Finds the event time of the rows of a side table.
fn time_of(plan: &Plan, name: &str) -> Option<String> {
    plan.nodes.iter().find_map(|node| match &node.operator {
        Operator::Source(source) if source.quarantine_table.as_deref() == Some(name) => {
            source.event_time.map(|time| node.schema.field(time.column).name().clone())
        }
        Operator::Dedup(dedup) if dedup.late_table.as_deref() == Some(name) => {
            let Operator::Source(source) = &plan.node(dedup.input).operator else { return None };
            source.event_time.map(|time| node.schema.field(time.column).name().clone())
        }
        Operator::Window(window) if window.late_table.as_deref() == Some(name) => {
            Some(plan.node(window.input).schema.field(window.time_column).name().clone())
        }
        _ => None,
    })
}
