//! Which SQL can stream: the one place that says it, with what to write instead.
//!
//! A view is a SELECT from one source or view. Either it keeps every row that passes its WHERE, or it groups rows by
//! windows. What is accepted here leaves as a [`StreamQuery`], in which the window has become a plain table.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, Ident, ObjectName, ObjectNamePart,
    Query, Select, SelectItem, SetExpr, Spanned, TableFactor, Visit, Visitor, visit_expressions,
};
use datafusion::sql::sqlparser::tokenizer::{Span, TokenWithSpan};
use tidemill_engine::aggregate::AggregateKind;

use super::columns::name_columns;
use super::names::Functions;
use super::window::{self, WindowCall};
use crate::diagnostic::{Code, Problem};
use crate::statement::{CreateView, Name, find_word, is_word, normalize};

/// The columns that a window adds to its rows.
pub(super) const WINDOW_START: &str = "window_start";
/// The end of a window; no row of it is that late.
pub(super) const WINDOW_END: &str = "window_end";

/// A query that can stream.
pub(super) struct StreamQuery {
    /// The query, reading a plain table and naming all its columns.
    pub(super) query: Query,
    /// What it reads.
    pub(super) relation: Name,
    /// Its window, if it groups by one.
    pub(super) window: Option<WindowCall>,
    /// The columns of SELECT with their places; `None` where a `*` stands for several.
    pub(super) items: Vec<Option<Span>>,
}

impl StreamQuery {
    /// The SELECT inside.
    pub(super) fn select(&self) -> &Select {
        match self.query.body.as_ref() {
            SetExpr::Select(select) => select,
            _ => unreachable!("checked when it was made"),
        }
    }

    /// Returns the place of an output column.
    pub(super) fn item_span(&self, column: usize) -> Span {
        let fallback = self.select().select_token.0.span;
        if self.items.iter().any(Option::is_none) {
            return fallback;
        }
        self.items.get(column).copied().flatten().unwrap_or(fallback)
    }
}

/// Returns the aggregate of a name, if it streams.
pub(super) fn aggregate_kind(name: &str) -> Option<AggregateKind> {
    Some(match name {
        "count" => AggregateKind::Count,
        "sum" => AggregateKind::Sum,
        "avg" | "mean" => AggregateKind::Avg,
        "min" => AggregateKind::Min,
        "max" => AggregateKind::Max,
        _ => return None,
    })
}

/// Checks a view's query, or says why it cannot stream.
///
/// `event_times` are those of the sources, for the examples in hints.
pub(super) fn check(
    view: &CreateView,
    functions: &Functions,
    event_times: &BTreeMap<String, String>,
) -> Result<StreamQuery, Problem> {
    let mut query = view.query.as_ref().clone();
    let tokens = view.tokens.as_slice();
    check_query(&query, tokens)?;
    let SetExpr::Select(select) = query.body.as_mut() else {
        return Err(unstreamable_body(&query, tokens));
    };
    check_select(select, tokens)?;
    let (relation, mut window) = take_relation(select)?;
    if let Some(grouped) = window::take_from_group_by(select, &relation)? {
        if window.is_some() {
            return Err(Problem::new(Code::NotStreamable, grouped.span, "a view has one window"));
        }
        window = Some(grouped);
    }
    check_functions(select, functions)?;
    if let Some(span) = select.selection.as_ref().and_then(|condition| find_aggregate(condition, functions)) {
        return Err(refuse(
            span,
            "WHERE chooses single rows, before they are aggregated",
            "put the condition in HAVING",
        ));
    }
    let grouped = is_grouped(select, functions);
    match &window {
        Some(window) => check_windowed(select, window, grouped, functions)?,
        None if grouped => {
            let event_time = event_times.get(&relation.value).map_or("ts", String::as_str);
            return Err(window_needed(select, &relation, event_time, functions));
        }
        None => {
            if let Some(emit) = view.emit {
                return Err(Problem::new(Code::NotStreamable, emit, "EMIT ON WINDOW CLOSE needs a window")
                    .hint("leave it out: without a window every row leaves at once"));
            }
        }
    }
    let items = name_columns(select)?;
    Ok(StreamQuery { query, relation, window, items })
}

fn refuse(span: Span, message: &str, hint: &str) -> Problem {
    Problem::new(Code::NotStreamable, span, message).hint(hint)
}

/// Returns the last token that is this word; clauses at the end of a query are looked for from the end.
fn last_word(tokens: &[TokenWithSpan], word: &str) -> Span {
    let found = tokens.iter().rfind(|token| is_word(token, word));
    found.or(tokens.first()).map_or(Span::empty(), |token| token.span)
}

fn first_word(tokens: &[TokenWithSpan], words: &[&str]) -> Span {
    let found = words.iter().find_map(|word| find_word(tokens, word));
    found.or(tokens.first().map(|token| token.span)).unwrap_or(Span::empty())
}

fn check_query(query: &Query, tokens: &[TokenWithSpan]) -> Result<(), Problem> {
    if let Some(with) = &query.with {
        let hint = "make the inner query a view of its own, and read that";
        return Err(refuse(with.with_token.0.span, "WITH queries are not in this version", hint));
    }
    if query.order_by.is_some() {
        let message = "a stream has no end, so its rows have no order";
        return Err(refuse(
            last_word(tokens, "ORDER"),
            message,
            "leave ORDER BY out; order the answer when you ask the table",
        ));
    }
    if query.limit_clause.is_some() || query.fetch.is_some() {
        let word = ["LIMIT", "OFFSET", "FETCH"].into_iter().find(|word| find_word(tokens, word).is_some());
        let hint = "leave it out; limit the answer when you ask the table";
        return Err(refuse(
            last_word(tokens, word.unwrap_or("LIMIT")),
            "a stream cannot be limited to some rows",
            hint,
        ));
    }
    if !query.locks.is_empty()
        || query.for_clause.is_some()
        || query.settings.is_some()
        || query.format_clause.is_some()
    {
        let span = first_word(tokens, &["FOR", "SETTINGS", "FORMAT"]);
        return Err(refuse(span, "this clause is not in this version", "leave it out"));
    }
    if !query.pipe_operators.is_empty() {
        let span = first_word(tokens, &[]);
        return Err(refuse(span, "pipe operators are not in this version", "write SELECT … FROM …"));
    }
    // More than one SELECT: in a FROM, in an expression.
    struct Nested(usize, Option<Span>);
    impl Visitor for Nested {
        type Break = ();
        fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
            self.0 += 1;
            if self.0 == 1 {
                return ControlFlow::Continue(());
            }
            self.1 = Some(query.span());
            ControlFlow::Break(())
        }
    }
    let mut nested = Nested(0, None);
    let _ = query.visit(&mut nested);
    if let Some(span) = nested.1 {
        let hint = "make the inner query a view of its own, and read that";
        return Err(refuse(span, "subqueries are not in this version", hint));
    }
    Ok(())
}

fn unstreamable_body(query: &Query, tokens: &[TokenWithSpan]) -> Problem {
    match query.body.as_ref() {
        SetExpr::SetOperation { op, .. } => {
            let span = first_word(tokens, &["UNION", "EXCEPT", "INTERSECT", "MINUS"]);
            refuse(span, &format!("{op} is not in this version"), "make each SELECT a view of its own")
        }
        _ => refuse(first_word(tokens, &[]), "a view is a SELECT from a source or a view", "write SELECT … FROM …"),
    }
}

fn check_select(select: &Select, tokens: &[TokenWithSpan]) -> Result<(), Problem> {
    if select.distinct.is_some() {
        let hint = "group by the columns and a window: GROUP BY device, window_start, window_end";
        return Err(refuse(
            first_word(tokens, &["DISTINCT"]),
            "DISTINCT would have to remember every row for ever",
            hint,
        ));
    }
    if let Some(qualify) = &select.qualify {
        return Err(refuse(
            qualify.span(),
            "window functions over rows are not in this version",
            "use TUMBLE or HOP with GROUP BY",
        ));
    }
    let clauses = [
        (select.top.is_some(), "TOP"),
        (select.into.is_some(), "INTO"),
        (select.prewhere.is_some(), "PREWHERE"),
        (!select.lateral_views.is_empty(), "LATERAL"),
        (!select.connect_by.is_empty(), "CONNECT"),
        (!select.cluster_by.is_empty(), "CLUSTER"),
        (!select.distribute_by.is_empty(), "DISTRIBUTE"),
        (!select.sort_by.is_empty(), "SORT"),
        (!select.named_window.is_empty(), "WINDOW"),
    ];
    if let Some((_, word)) = clauses.iter().find(|(present, _)| *present) {
        return Err(refuse(first_word(tokens, &[word]), &format!("{word} is not in this version"), "leave it out"));
    }
    let Some(first) = select.from.first() else {
        return Err(refuse(select.select_token.0.span, "a view reads a source or a view", "write SELECT … FROM …"));
    };
    if let Some(second) = select.from.get(1) {
        return Err(refuse(second.relation.span(), JOIN_MESSAGE, JOIN_HINT));
    }
    if !first.joins.is_empty() {
        let words = ["JOIN", "INNER", "LEFT", "RIGHT", "FULL", "CROSS", "NATURAL", "ASOF"];
        return Err(refuse(first_word(tokens, &words), JOIN_MESSAGE, JOIN_HINT));
    }
    Ok(())
}

const JOIN_MESSAGE: &str = "joins are not in this version";
const JOIN_HINT: &str = "let each view read one source; join the tables when you ask";

/// Finds what is read, and leaves a plain table in its place.
fn take_relation(select: &mut Select) -> Result<(Name, Option<WindowCall>), Problem> {
    let factor = &mut select.from[0].relation;
    let span = factor.span();
    let TableFactor::Table { name, args, sample, version, .. } = factor else {
        return Err(refuse(
            span,
            "a view reads a source or a view",
            "write FROM readings, or FROM TUMBLE(readings, ts, INTERVAL '1 minute')",
        ));
    };
    if sample.is_some() || version.is_some() {
        return Err(refuse(span, "a view reads all rows as they come", "leave TABLESAMPLE and FOR … AS OF out"));
    }
    let (relation, window) = match args.take() {
        Some(args) => {
            let call = window::from_table_function(name, args.args)?;
            (call.relation.clone(), Some(call))
        }
        None => {
            let relation = one_part(name).ok_or_else(|| {
                Problem::new(Code::UnknownRelation, span, "names have one part: there are no schemas")
            })?;
            (relation, None)
        }
    };
    if relation.value.contains('$') {
        return Err(Problem::new(
            Code::NotSupported,
            relation.span,
            "a view cannot read a hidden table in this version",
        )
        .hint(format!("ask it with: tidemill sql \"SELECT … FROM {}\"", relation.value)));
    }
    *name = ObjectName(vec![ObjectNamePart::Identifier(quoted(&relation))]);
    Ok((relation, window))
}

fn one_part(name: &ObjectName) -> Option<Name> {
    match name.0.as_slice() {
        [part] => part.as_ident().map(normalize),
        _ => None,
    }
}

/// An identifier that is not normalized again, at the place of the name.
fn quoted(name: &Name) -> Ident {
    Ident { value: name.value.clone(), quote_style: Some('"'), span: name.span }
}

/// Returns the lower-cased name of a function that has one part.
pub(super) fn function_name(function: &Function) -> String {
    match function.name.0.as_slice() {
        [part] => part.as_ident().map_or_else(String::new, |ident| ident.value.to_lowercase()),
        _ => function.name.to_string().to_lowercase(),
    }
}

/// Checks every function that is called, wherever it is.
fn check_functions(select: &Select, functions: &Functions) -> Result<(), Problem> {
    let outcome = visit_expressions(select, |expr| {
        let problem = match expr {
            Expr::Function(function) => check_function(function, expr.span(), functions).err(),
            Expr::Subquery(_) | Expr::Exists { .. } => {
                Some(refuse(expr.span(), "subqueries are not in this version", "make it a view of its own"))
            }
            _ => None,
        };
        problem.map_or(ControlFlow::Continue(()), ControlFlow::Break)
    });
    match outcome {
        ControlFlow::Break(problem) => Err(problem),
        ControlFlow::Continue(()) => Ok(()),
    }
}

fn check_function(function: &Function, span: Span, functions: &Functions) -> Result<(), Problem> {
    let name = function_name(function);
    if function.over.is_some() {
        return Err(refuse(
            span,
            "window functions over rows are not in this version",
            "use TUMBLE or HOP with GROUP BY",
        ));
    }
    if window::is_function(&name) {
        let message = format!("{name} stands in FROM or in GROUP BY");
        return Err(refuse(span, &message, "select window_start and window_end instead"));
    }
    if functions.is_impure(&name) {
        let message = format!(
            "{name}() gives another value each time: a view is a function of its input alone, so that a replay gives the same rows"
        );
        let problem = Problem::new(Code::NotPure, span, message);
        return Err(match name.as_str() {
            "random" | "uuid" => problem.hint("compute it when you ask the table"),
            _ => problem.hint("use a time that is in the rows, or compute it when you ask the table"),
        });
    }
    if !functions.knows(&name) {
        let problem = Problem::new(Code::UnknownFunction, function.name.span(), format!("there is no function {name}"));
        return Err(problem.did_you_mean(&name, functions.names()));
    }
    if functions.is_aggregate(&name) {
        check_aggregate(function, &name, span, functions)?;
    }
    Ok(())
}

fn check_aggregate(function: &Function, name: &str, span: Span, functions: &Functions) -> Result<(), Problem> {
    if aggregate_kind(name).is_none() {
        let message = format!("{name} does not stream in this version");
        return Err(refuse(span, &message, "streaming aggregates are count, sum, avg, min and max"));
    }
    let mut clauses = !function.within_group.is_empty() || function.null_treatment.is_some();
    if let FunctionArguments::List(list) = &function.args {
        if matches!(list.duplicate_treatment, Some(datafusion::sql::sqlparser::ast::DuplicateTreatment::Distinct)) {
            return Err(refuse(
                span,
                &format!("{name}(DISTINCT …) does not stream in this version"),
                "first group by the column in a view of its own, then count its rows",
            ));
        }
        clauses |= !list.clauses.is_empty();
        let star = matches!(list.args.as_slice(), [FunctionArg::Unnamed(FunctionArgExpr::Wildcard)]);
        if star && name != "count" {
            let message = format!("{name} takes a column, and no *");
            return Err(Problem::new(Code::WrongType, span, message).hint(format!("write {name}(column), or count(*)")));
        }
        if list.args.len() > 1 || (list.args.is_empty() && name != "count") {
            let message = format!("{name} takes one argument");
            return Err(Problem::new(Code::WrongType, span, message).hint(format!("write {name}(column)")));
        }
        if let Some(inner) = list.args.iter().find_map(|argument| find_aggregate(argument, functions)) {
            return Err(refuse(
                inner,
                "an aggregate of an aggregate needs two views",
                "compute the inner one in a view of its own, and read that",
            ));
        }
    }
    if clauses {
        return Err(refuse(
            span,
            &format!("{name} takes one argument and FILTER (WHERE …)"),
            "leave the other clauses out",
        ));
    }
    Ok(())
}

fn is_aggregate_call(expr: &Expr, functions: &Functions) -> bool {
    matches!(expr, Expr::Function(function) if functions.is_aggregate(&function_name(function)))
}

/// Returns the place of the first aggregate in a tree.
fn find_aggregate(tree: &impl Visit, functions: &Functions) -> Option<Span> {
    let found = visit_expressions(tree, |expr| {
        if is_aggregate_call(expr, functions) { ControlFlow::Break(expr.span()) } else { ControlFlow::Continue(()) }
    });
    match found {
        ControlFlow::Break(span) => Some(span),
        ControlFlow::Continue(()) => None,
    }
}

fn is_grouped(select: &Select, functions: &Functions) -> bool {
    let group_by = match &select.group_by {
        GroupByExpr::All(_) => true,
        GroupByExpr::Expressions(exprs, modifiers) => !exprs.is_empty() || !modifiers.is_empty(),
    };
    group_by || select.having.is_some() || find_aggregate(select, functions).is_some()
}

fn window_needed(select: &Select, relation: &Name, event_time: &str, functions: &Functions) -> Problem {
    let mut keys = Vec::new();
    let mut span = None;
    if let GroupByExpr::Expressions(exprs, _) = &select.group_by {
        keys = exprs.iter().map(ToString::to_string).collect();
        span = exprs.first().map(Spanned::span);
    }
    let aggregate = find_aggregate(select, functions);
    let span = span.or(aggregate).or(select.having.as_ref().map(Spanned::span)).unwrap_or(relation.span);
    keys.extend([WINDOW_START.to_owned(), WINDOW_END.to_owned()]);
    let hint = format!(
        "write FROM TUMBLE({}, {event_time}, INTERVAL '1 minute')\n      GROUP BY {}",
        relation.value,
        keys.join(", ")
    );
    Problem::new(Code::WindowNeeded, span, "rows are grouped without a window, and a stream never ends").hint(hint)
}

/// Whether an expression is `window_start` or `window_end`, with or without a qualifier.
pub(super) fn is_window_column(expr: &Expr) -> bool {
    let ident = match expr {
        Expr::Identifier(ident) => ident,
        Expr::CompoundIdentifier(parts) => match parts.last() {
            Some(ident) => ident,
            None => return false,
        },
        _ => return false,
    };
    let name = normalize(ident).value;
    name == WINDOW_START || name == WINDOW_END
}

fn find_window_column(expr: &Expr) -> Option<Span> {
    let found = visit_expressions(expr, |inner| {
        if is_window_column(inner) { ControlFlow::Break(inner.span()) } else { ControlFlow::Continue(()) }
    });
    match found {
        ControlFlow::Break(span) => Some(span),
        ControlFlow::Continue(()) => None,
    }
}

fn check_windowed(select: &Select, window: &WindowCall, grouped: bool, functions: &Functions) -> Result<(), Problem> {
    if !grouped {
        let message = "a window without GROUP BY";
        return Err(Problem::new(Code::WindowNeeded, window.span, message)
            .hint("add GROUP BY window_start, window_end, or read the rows without a window"));
    }
    if let Some(span) = select.selection.as_ref().and_then(find_window_column) {
        let message = "WHERE chooses rows before they are in windows";
        return Err(refuse(span, message, "put the condition in HAVING"));
    }
    for item in &select.projection {
        if let SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..) = item {
            return Err(Problem::new(Code::NotGrouped, item.span(), "* is not grouped")
                .hint("name the columns that are grouped by"));
        }
    }
    if let GroupByExpr::Expressions(exprs, modifiers) = &select.group_by {
        let sets = exprs.iter().find(|expr| matches!(expr, Expr::Rollup(_) | Expr::Cube(_) | Expr::GroupingSets(_)));
        if sets.is_some() || !modifiers.is_empty() {
            let span = sets.map(Spanned::span).filter(|span| *span != Span::empty());
            let span = span.or_else(|| exprs.first().map(Spanned::span)).unwrap_or(window.span);
            return Err(refuse(span, "grouping sets are not in this version", "make each grouping a view of its own"));
        }
        for expr in exprs.iter().filter(|expr| !is_window_column(expr)) {
            if let Some(span) = find_window_column(expr) {
                let message = "a window is grouped by as it is";
                return Err(refuse(span, message, "group by window_start, and compute with it in SELECT"));
            }
        }
    }
    let inside = visit_expressions(select, |expr| {
        let Expr::Function(function) = expr else { return ControlFlow::Continue(()) };
        if !functions.is_aggregate(&function_name(function)) {
            return ControlFlow::Continue(());
        }
        find_window_column(expr).map_or(ControlFlow::Continue(()), ControlFlow::Break)
    });
    if let ControlFlow::Break(span) = inside {
        let message = "all rows of a window have the same start and end";
        return Err(refuse(span, message, "select the column itself, without an aggregate"));
    }
    Ok(())
}
