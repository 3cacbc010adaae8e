//! A view's query, planned by DataFusion, becomes nodes of the engine's plan.
//!
//! ```text
//!   Projection ─ [Filter] ─ Aggregate ─ [Filter] ─ TableScan          DataFusion's logical plan
//!       │           │           │           │           │
//!     Project ◄─ Filter ◄──── Window ◄─── Filter ◄──── node           the engine's
//!       └─► Table
//! ```
//!
//! Types are settled here, step by step, from the types that truly come in: DataFusion's own idea of an aggregate's
//! type is not used above the window.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::TreeNode;
use datafusion::common::{DFSchema, DataFusionError, ScalarValue, TableReference};
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::{Aggregate, Expr as LogicalExpr, lit, when};
use datafusion::sql::sqlparser::ast::{Expr, Spanned, Statement as SqlStatement, TableFactor};
use datafusion::sql::sqlparser::tokenizer::Span;
use tidemill_engine::aggregate::{AggregateCall, AggregateKind};
use tidemill_engine::plan::{NodeId, Operator, Plan, WindowNode, timestamp_type, window_schema};

use super::Relation;
use super::expression::{self, Compiled, Scope};
use super::locate::Locator;
use super::logical::Steps;
use super::names::{Functions, Names};
use super::stream::{StreamQuery, WINDOW_END, WINDOW_START, aggregate_kind};
use super::types::{cast_hint, kind_name, shape, type_name};
use super::window::{self, WindowCall, interval_us, time_column};
use crate::diagnostic::{Code, Problem};

/// A view that stands in the plan, before it has its table.
pub(super) struct PlannedView {
    pub(super) relation: Relation,
    /// The columns its rows are sorted by in files.
    pub(super) sort: Vec<String>,
    /// What its window holds back as late, if it has one.
    pub(super) late: Option<LateRows>,
}

/// The rows that come too late for their window: all columns of the window's input.
pub(super) struct LateRows {
    pub(super) canonical: String,
    pub(super) time_column: String,
    pub(super) sort: Vec<String>,
}

/// Plans the query of the view `name` behind what it reads.
pub(super) fn plan_view(
    plan: &mut Plan,
    name: &str,
    query: &StreamQuery,
    input: &Relation,
    functions: &Functions,
) -> Result<PlannedView, Problem> {
    let visible = visible_schema(&input.schema, query.window.is_some());
    let names = Names { functions, relation: &query.relation.value, schema: Arc::clone(&visible) };
    let qualifier = alias_of(query).unwrap_or_else(|| query.relation.value.clone());
    let schema = DFSchema::try_from_qualified_schema(TableReference::bare(qualifier), &visible);
    let schema = Arc::new(schema.map_err(|error| internal(query, &error.to_string()))?);
    let locator = Locator { names: &names, query, schema };
    let statement = SqlStatement::Query(Box::new(query.query.clone()));
    let logical = names.planner().sql_statement_to_plan(statement).map_err(|error| locator.problem(&error))?;

    let steps = Steps::of(&logical).map_err(|found| internal(query, &found))?;
    let mut builder = Builder { plan, locator: &locator, node: input.node, canonical: input.canonical.clone() };
    let base = steps.base.iter().map(|(qualifier, field)| (qualifier, field.name().as_str()));
    let base = Scope::new(base, &visible).map_err(|error| internal(query, &error.to_string()))?;
    for filter in &steps.filters {
        builder.filter(filter, &base, query.select().selection.as_ref())?;
    }
    match (&query.window, steps.aggregate) {
        (Some(call), Some(aggregate)) => builder.windowed(name, call, aggregate, &steps, &base, input),
        _ => builder.plain(&steps, &base, input),
    }
}

/// Makes the columns a query sees. A window's own columns hide those of the input; places stay the same.
fn visible_schema(input: &SchemaRef, windowed: bool) -> SchemaRef {
    if !windowed {
        return Arc::clone(input);
    }
    let mut fields: Vec<Field> = input.fields().iter().map(|field| field.as_ref().clone()).collect();
    for field in &mut fields {
        if field.name() == WINDOW_START || field.name() == WINDOW_END {
            *field = field.clone().with_name(format!("{}$input", field.name()));
        }
    }
    fields.push(Field::new(WINDOW_START, timestamp_type(), false));
    fields.push(Field::new(WINDOW_END, timestamp_type(), false));
    Arc::new(Schema::new(fields))
}

pub(super) fn alias_of(query: &StreamQuery) -> Option<String> {
    match &query.select().from.first()?.relation {
        TableFactor::Table { alias: Some(alias), .. } => Some(crate::statement::normalize(&alias.name).value),
        _ => None,
    }
}

/// A shape that the checks before should have refused.
fn internal(query: &StreamQuery, found: &str) -> Problem {
    let span = query.item_span(usize::MAX);
    let message = format!("this query cannot stream in this version: {}", super::locate::clean(found));
    Problem::new(Code::NotStreamable, span, message)
        .hint("use SELECT … FROM … WHERE …, or TUMBLE and HOP with GROUP BY")
}

struct Builder<'a> {
    plan: &'a mut Plan,
    locator: &'a Locator<'a>,
    /// The last node so far.
    node: NodeId,
    /// Everything so far that decides about the content, as text.
    canonical: String,
}

/// A column of the window node, as DataFusion calls it.
#[derive(Clone)]
struct WindowColumn {
    qualifier: Option<TableReference>,
    name: String,
}

impl Builder<'_> {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.plan.node(self.node).schema)
    }

    fn note(&mut self, step: &str) {
        self.canonical.push('\n');
        self.canonical.push_str(step);
    }

    /// `clause` is what was written: WHERE or HAVING.
    fn filter(&mut self, predicate: &LogicalExpr, scope: &Scope, clause: Option<&Expr>) -> Result<(), Problem> {
        let span = clause.map(Spanned::span);
        let compiled =
            scope.compile_condition(predicate.clone()).map_err(|error| self.locator.problem_at(&error, span))?;
        if compiled.data_type != DataType::Boolean && compiled.data_type != DataType::Null {
            return Err(not_a_condition(span.unwrap_or(Span::empty()), &compiled.data_type));
        }
        self.note(&format!("filter {}", compiled.canonical));
        self.node = self.plan.push(self.schema(), Operator::Filter { input: self.node, predicate: compiled.expr });
        Ok(())
    }

    /// Projects to the columns of SELECT; what leaves unchanged needs no node. Returns the input's column for each that
    /// is nothing but that.
    fn project(&mut self, steps: &Steps<'_>, scope: &Scope) -> Result<Vec<Option<usize>>, Problem> {
        let mut fields: Vec<Field> = Vec::with_capacity(steps.projection.len());
        let mut columns: Vec<Compiled> = Vec::with_capacity(steps.projection.len());
        for (place, expr) in steps.projection.iter().enumerate() {
            let span = self.locator.query.item_span(place);
            let compiled = scope.compile(expr.clone()).map_err(|error| self.locator.problem_at(&error, Some(span)))?;
            let name = steps.output.field(place).name().clone();
            if !expression::is_storable(&compiled.data_type) {
                let message = format!("a table has no column of type {}", type_name(&compiled.data_type));
                return Err(Problem::new(Code::WrongType, span, message).hint(cast_hint(&compiled.data_type)));
            }
            if fields.iter().any(|field| *field.name() == name) {
                let message = format!("there are two columns \"{name}\"");
                return Err(
                    Problem::new(Code::DuplicateName, span, message).hint("give one of them another name: … AS name")
                );
            }
            fields.push(Field::new(name, compiled.data_type.clone(), compiled.nullable));
            columns.push(compiled);
        }
        let passed = columns.iter().map(|column| column.column).collect();
        let text: Vec<String> = columns
            .iter()
            .zip(&fields)
            .map(|(column, field)| format!("{} {}", column.canonical, shape(field)))
            .collect();
        self.note(&format!("project {}", text.join(", ")));
        let input = self.schema();
        let same = columns.len() == input.fields().len()
            && columns.iter().enumerate().all(|(place, column)| {
                column.column == Some(place) && fields[place].name() == input.field(place).name()
            });
        if !same {
            let columns = columns.into_iter().map(|column| column.expr).collect();
            self.node = self.plan.push(Arc::new(Schema::new(fields)), Operator::Project { input: self.node, columns });
        }
        Ok(passed)
    }

    fn plain(mut self, steps: &Steps<'_>, base: &Scope, input: &Relation) -> Result<PlannedView, Problem> {
        let passed = self.project(steps, base)?;
        let is_time = |column: &Option<usize>| column.is_some_and(|column| input.time_columns.contains(&column));
        let time_columns: Vec<usize> = (0..passed.len()).filter(|place| is_time(&passed[*place])).collect();
        let schema = self.schema();
        let sort = sort_columns(&schema, &time_columns, |place| passed[place].is_some());
        let relation = Relation { node: self.node, schema, time_columns, canonical: self.canonical, is_view: true };
        Ok(PlannedView { relation, sort, late: None })
    }

    fn windowed(
        mut self,
        name: &str,
        call: &WindowCall,
        aggregate: &Aggregate,
        steps: &Steps<'_>,
        base: &Scope,
        input: &Relation,
    ) -> Result<PlannedView, Problem> {
        let time_column = time_column(call, input)?;
        let assigner = window::assigner(call, |expr| interval_us(expr, self.locator.names))?;
        let group = self.group_columns(aggregate, base)?;
        let calls = self.aggregate_columns(aggregate, base)?;
        let mut columns: Vec<WindowColumn> = group.keys.iter().map(|(column, _)| column.clone()).collect();
        columns.extend([group.start, group.end]);
        columns.extend(calls.iter().map(|(column, _, _)| column.clone()));
        let key_count = group.keys.len();
        let mut texts: Vec<String> = group.keys.iter().map(|(_, key)| key.canonical.clone()).collect();
        texts.extend([WINDOW_START.to_owned(), WINDOW_END.to_owned()]);
        texts.extend(calls.iter().map(|(_, _, canonical)| canonical.clone()));
        let names = engine_names(&columns, &texts, steps);

        let key_fields: Vec<(String, DataType, bool)> = group
            .keys
            .iter()
            .zip(&names)
            .map(|((_, key), name)| (name.clone(), key.data_type.clone(), key.nullable))
            .collect();
        let step = format!(
            "window {} on {time_column} by {}; {}",
            super::explain::assigner(&assigner),
            texts[..key_count].join(", "),
            texts[key_count + 2..].join(", ")
        );
        let keys = group.keys.iter().map(|(_, key)| Arc::clone(&key.expr)).collect();
        let aggregates: Vec<AggregateCall> = calls
            .into_iter()
            .zip(&names[key_count + 2..])
            .map(|((_, call, _), name)| AggregateCall { name: name.clone(), ..call })
            .collect();

        let before = self.schema();
        let late = LateRows {
            canonical: self.canonical.clone(),
            time_column: before.field(time_column).name().clone(),
            sort: sort_columns(&before, &[time_column], |_| true),
        };
        self.note(&step);
        let schema = window_schema(&key_fields, &aggregates);
        let after = columns.iter().map(|column| (column.qualifier.as_ref(), column.name.as_str()));
        let after = Scope::new(after, &schema).map_err(|error| internal(self.locator.query, &error.to_string()))?;
        let late_table = Some(format!("{name}$late"));
        let identity = super::fingerprint(&self.canonical);
        let node = WindowNode { identity, input: self.node, time_column, assigner, keys, aggregates, late_table };
        self.node = self.plan.push(schema, Operator::Window(node));
        for predicate in &steps.having {
            self.filter(predicate, &after, self.locator.query.select().having.as_ref())?;
        }
        let passed = self.project(steps, &after)?;
        Ok(self.finish_windowed(&passed, key_count, late))
    }

    fn finish_windowed(self, passed: &[Option<usize>], key_count: usize, late: LateRows) -> PlannedView {
        let schema = self.schema();
        let place_of = |column: usize| passed.iter().position(|passed| *passed == Some(column));
        let is_window = |column: &usize| *column == key_count || *column == key_count + 1;
        let time_columns: Vec<usize> =
            (0..passed.len()).filter(|place| passed[*place].as_ref().is_some_and(is_window)).collect();
        let mut sort: Vec<usize> = (0..key_count).filter_map(place_of).collect();
        sort.extend(place_of(key_count).or_else(|| place_of(key_count + 1)));
        let sort = sort.into_iter().map(|place| schema.field(place).name().clone()).collect();
        let relation = Relation { node: self.node, schema, time_columns, canonical: self.canonical, is_view: true };
        PlannedView { relation, sort, late: Some(late) }
    }

    fn group_columns(&self, aggregate: &Aggregate, base: &Scope) -> Result<GroupColumns, Problem> {
        let query = self.locator.query;
        let plain = |name: &str| WindowColumn { qualifier: None, name: name.to_owned() };
        let (mut start, mut end, mut keys) = (None, None, Vec::new());
        for (place, expr) in aggregate.group_expr.iter().enumerate() {
            let (qualifier, field) = aggregate.schema.qualified_field(place);
            let column = WindowColumn { qualifier: qualifier.cloned(), name: field.name().clone() };
            if let LogicalExpr::Column(grouped) = expr {
                let window = match grouped.name.as_str() {
                    WINDOW_START => Some(&mut start),
                    WINDOW_END => Some(&mut end),
                    _ => None,
                };
                if let Some(slot) = window {
                    *slot = Some(column);
                    continue;
                }
            }
            let span = self.group_span(expr, place);
            if expr.exists(|part| Ok(matches!(part, LogicalExpr::AggregateFunction(_)))).unwrap_or(false) {
                let message = "rows cannot be grouped by an aggregate: it is known only once they are grouped";
                return Err(Problem::new(Code::NotGrouped, span, message).hint("leave it out of GROUP BY"));
            }
            let compiled = base.compile(expr.clone()).map_err(|error| self.locator.problem_at(&error, Some(span)))?;
            if !expression::is_groupable(&compiled.data_type) {
                let message = format!("rows cannot be grouped by {}", type_name(&compiled.data_type));
                return Err(Problem::new(Code::WrongType, span, message).hint(cast_hint(&compiled.data_type)));
            }
            keys.push((column, compiled));
        }
        if start.is_none() && end.is_none() {
            let span = query.window.as_ref().map_or(Span::empty(), |window| window.span);
            let message = "GROUP BY leaves the window out, so it would never end";
            return Err(
                Problem::new(Code::WindowNeeded, span, message).hint("add window_start, window_end to GROUP BY")
            );
        }
        Ok(GroupColumns {
            start: start.unwrap_or_else(|| plain(WINDOW_START)),
            end: end.unwrap_or_else(|| plain(WINDOW_END)),
            keys,
        })
    }

    fn group_span(&self, wanted: &LogicalExpr, place: usize) -> Span {
        use datafusion::sql::sqlparser::ast::GroupByExpr;
        let fallback = self.locator.query.item_span(usize::MAX);
        let GroupByExpr::Expressions(exprs, _) = &self.locator.query.select().group_by else { return fallback };
        let made = |expr: &&Expr| self.locator.logical(expr, &self.locator.schema).is_ok_and(|made| made == *wanted);
        exprs.iter().find(made).or(exprs.get(place)).or(exprs.first()).map_or(fallback, Spanned::span)
    }

    fn aggregate_columns(
        &self,
        aggregate: &Aggregate,
        base: &Scope,
    ) -> Result<Vec<(WindowColumn, AggregateCall, String)>, Problem> {
        let group_count = aggregate.group_expr.len();
        let calls = aggregate.aggr_expr.iter().enumerate().map(|(place, expr)| {
            let (qualifier, field) = aggregate.schema.qualified_field(group_count + place);
            let (call, canonical) = self.aggregate_call(expr, base)?;
            Ok((WindowColumn { qualifier: qualifier.cloned(), name: field.name().clone() }, call, canonical))
        });
        calls.collect()
    }

    /// Returns a call that has no name yet, and what it computes as text.
    fn aggregate_call(&self, expr: &LogicalExpr, base: &Scope) -> Result<(AggregateCall, String), Problem> {
        let call = expr.clone().unalias_nested().data;
        let span = self.locator.aggregate_span(&call).unwrap_or_else(|| self.locator.query.item_span(usize::MAX));
        let fail = |error: DataFusionError| self.locator.problem_at(&error, Some(span));
        let LogicalExpr::AggregateFunction(function) = call else {
            return Err(internal(self.locator.query, &format!("unexpected {expr}")));
        };
        let Some(kind) = aggregate_kind(function.func.name()) else {
            return Err(internal(self.locator.query, &format!("unexpected {}", function.func.name())));
        };
        let Some(argument) = argument_of(kind, function).map_err(fail)? else {
            let call = AggregateCall { kind, argument: None, argument_type: DataType::Null, name: String::new() };
            return Ok((call, format!("{}(*)", kind_name(kind))));
        };
        let compiled = base.compile(argument).map_err(fail)?;
        if kind.return_type(&compiled.data_type).is_none() {
            let message = format!("{} does not take {}", kind_name(kind), type_name(&compiled.data_type));
            return Err(Problem::new(Code::WrongType, span, message).hint(cast_hint(&compiled.data_type)));
        }
        let canonical = format!("{}({})", kind_name(kind), compiled.canonical);
        let argument = Some(compiled.expr);
        Ok((AggregateCall { kind, argument, argument_type: compiled.data_type, name: String::new() }, canonical))
    }
}

struct GroupColumns {
    start: WindowColumn,
    end: WindowColumn,
    keys: Vec<(WindowColumn, Compiled)>,
}

/// Returns what an aggregate is computed over; `None` for `count(*)`. A FILTER becomes a CASE, whose other rows are null.
fn argument_of(kind: AggregateKind, function: AggregateFunction) -> Result<Option<LogicalExpr>, DataFusionError> {
    let params = function.params;
    let argument = params.args.into_iter().next().unwrap_or_else(|| lit(1i64));
    let filtered = params.filter.is_some();
    let argument = match params.filter {
        Some(filter) => when(*filter, argument).end()?,
        None => argument,
    };
    let constant =
        matches!(&argument, LogicalExpr::Literal(value, _) if !matches!(value, ScalarValue::Null) && !value.is_null());
    Ok((kind != AggregateKind::Count || filtered || !constant).then_some(argument))
}

/// Names the columns of a window node as SELECT does, where it does; else by what they compute. No two are the same.
fn engine_names(columns: &[WindowColumn], texts: &[String], steps: &Steps<'_>) -> Vec<String> {
    let mut names: Vec<String> = Vec::with_capacity(columns.len());
    for (place, column) in columns.iter().enumerate() {
        let selected = steps.projection.iter().position(|expr| match expr.clone().unalias_nested().data {
            LogicalExpr::Column(found) => found.relation == column.qualifier && found.name == column.name,
            _ => false,
        });
        let is_window = column.name == WINDOW_START || column.name == WINDOW_END;
        let name = match selected {
            // The window node has its own names for these, whatever SELECT calls them.
            _ if is_window => column.name.clone(),
            Some(selected) => steps.output.field(selected).name().clone(),
            None => texts[place].clone(),
        };
        let reserved = !is_window && (name == WINDOW_START || name == WINDOW_END);
        names.push(if reserved || names.contains(&name) { format!("${place}") } else { name });
    }
    names
}

/// Says that WHERE or HAVING is no condition.
pub(super) fn not_a_condition(span: Span, data_type: &DataType) -> Problem {
    let message = format!("a condition is true or false; this is {}", type_name(data_type));
    Problem::new(Code::WrongType, span, message).hint("compare it with something")
}

/// The order of rows in files: what looks like a key, which is text that is always there, then the event time.
pub(super) fn sort_columns(schema: &Schema, time_columns: &[usize], is_key: impl Fn(usize) -> bool) -> Vec<String> {
    let fields = schema.fields().iter().enumerate();
    let is_text = |field: &Field| *field.data_type() == DataType::Utf8View && !field.is_nullable();
    let keys = fields.filter(|(place, field)| is_text(field) && is_key(*place)).map(|(_, field)| field);
    let time = time_columns.first().map(|column| schema.field(*column).name().clone());
    keys.take(SORT_KEYS_MAX).map(|field| field.name().clone()).chain(time).collect()
}

/// More text columns than this say nothing about where a row is found.
const SORT_KEYS_MAX: usize = 3;
