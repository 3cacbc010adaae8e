//! What DataFusion says is wrong, said in our words and at its place in the file.
//!
//! DataFusion knows the place of some mistakes. For the others the smallest part of the query is looked for that fails
//! by itself.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion::common::{Column, DFSchema, DFSchemaRef, DataFusionError, SchemaError};
use datafusion::logical_expr::Expr as LogicalExpr;
use datafusion::sql::planner::PlannerContext;
use datafusion::sql::sqlparser::ast::{
    DataType as SqlType, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, SelectItem, Spanned,
    Visit, Visitor, visit_expressions,
};
use datafusion::sql::sqlparser::tokenizer::{Location, Span};

use super::expression;
use super::names::Names;
use super::stream::{StreamQuery, WINDOW_END, WINDOW_START, function_name};
use super::types::type_name;
use super::view::{alias_of, not_a_condition};
use crate::diagnostic::{Code, Problem};
use crate::statement::{TYPE_NAMES, normalize};

/// A query and what it is planned against: all that is needed to find a mistake in it.
pub(super) struct Locator<'a> {
    pub(super) names: &'a Names<'a>,
    pub(super) query: &'a StreamQuery,
    pub(super) schema: DFSchemaRef,
}

impl Locator<'_> {
    /// Makes a problem of an error that came from somewhere in the query.
    pub(super) fn problem(&self, error: &DataFusionError) -> Problem {
        self.problem_at(error, None)
    }

    /// Makes a problem of an error; `fallback` is where it must be if no better place is found.
    pub(super) fn problem_at(&self, error: &DataFusionError, fallback: Option<Span>) -> Problem {
        let told = error.diagnostic().and_then(|diagnostic| diagnostic.span).map(from_datafusion);
        let root = innermost(error);
        if let DataFusionError::SchemaError(schema_error, _) = root
            && let SchemaError::FieldNotFound { field, .. } = schema_error.as_ref()
        {
            return self.unknown_column(field, told);
        }
        if let DataFusionError::SchemaError(schema_error, _) = root
            && let Some(name) = duplicate(schema_error)
        {
            return self.two_columns(&name);
        }
        let message = root.strip_backtrace();
        if message.contains("non-boolean predicate") {
            return self.not_a_condition(&clean(&message));
        }
        if message.contains("must be in GROUP BY or an aggregate") || message.contains("must appear in the GROUP BY") {
            return self.not_grouped(error, told);
        }
        if let Some(problem) = self.unknown_type(&message) {
            return problem;
        }
        if (told.is_none() || message.contains("coerce"))
            && let Some((span, message)) = self.smallest_failing()
        {
            return Problem::new(Code::WrongType, span, message);
        }
        let told = told.or_else(|| self.ordinal(&message));
        let span = told.or(fallback).unwrap_or_else(|| self.query.item_span(usize::MAX));
        Problem::new(Code::WrongType, span, clean(&message))
    }

    /// Returns the place of an aggregate in the text.
    pub(super) fn aggregate_span(&self, wanted: &LogicalExpr) -> Option<Span> {
        let mut found = None;
        let _ = visit_expressions(self.query.select(), |expr: &Expr| {
            if matches!(expr, Expr::Function(_)) && self.logical(expr, &self.schema).is_ok_and(|made| made == *wanted) {
                found = Some(expr.span());
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        found
    }

    /// Plans one expression by itself.
    pub(super) fn logical(&self, expr: &Expr, schema: &DFSchema) -> Result<LogicalExpr, DataFusionError> {
        self.names.planner().sql_to_expr(expr.clone(), schema, &mut PlannerContext::new())
    }

    /// The columns that can be named.
    fn columns(&self) -> Vec<&str> {
        let fields = self.names.schema.fields().iter();
        fields.map(|field| field.name().as_str()).filter(|name| !name.contains('$')).collect()
    }

    fn unknown_column(&self, field: &Column, told: Option<Span>) -> Problem {
        let columns = self.columns();
        let told = told.or_else(|| field.spans().first().map(from_datafusion));
        let span = told.or_else(|| self.identifier(&field.name)).unwrap_or_else(|| self.query.item_span(usize::MAX));
        if let Some(qualifier) = &field.relation
            && columns.contains(&field.name.as_str())
        {
            let message = format!("there is no \"{qualifier}\" here to have a column \"{}\"", field.name);
            let qualifier = alias_of(self.query).unwrap_or_else(|| self.names.relation.to_owned());
            let hint = format!("write {qualifier}.{}", field.name);
            return Problem::new(Code::UnknownColumn, span, message).hint(hint);
        }
        let message = format!("there is no column \"{}\" in {}", field.name, self.names.relation);
        let problem = Problem::new(Code::UnknownColumn, span, message);
        if field.name == WINDOW_START || field.name == WINDOW_END {
            return problem.hint(format!("it comes with FROM TUMBLE({}, …)", self.names.relation));
        }
        problem.did_you_mean(&field.name, columns)
    }

    fn not_grouped(&self, error: &DataFusionError, told: Option<Span>) -> Problem {
        let told_name = error.diagnostic().and_then(|diagnostic| diagnostic.message.split('\'').nth(1)).unwrap_or("it");
        let name = told_name.rsplit('.').next().unwrap_or(told_name).trim_matches('"');
        let span = told.or_else(|| self.identifier(name)).unwrap_or_else(|| self.query.item_span(usize::MAX));
        let message = format!("column \"{name}\" is neither grouped by nor aggregated");
        let problem = Problem::new(Code::NotGrouped, span, message);
        if name == WINDOW_START || name == WINDOW_END {
            return problem.hint("add it to GROUP BY");
        }
        problem.hint(format!("add it to GROUP BY, or write max({name})"))
    }

    /// Finds a name in the text.
    fn identifier(&self, name: &str) -> Option<Span> {
        let mut found = None;
        let _ = visit_expressions(self.query.select(), |expr: &Expr| {
            let ident = match expr {
                Expr::Identifier(ident) => Some(ident),
                Expr::CompoundIdentifier(parts) => parts.last(),
                _ => None,
            };
            match ident {
                Some(ident) if normalize(ident).value == name => {
                    found = Some(ident.span);
                    ControlFlow::Break(())
                }
                _ => ControlFlow::Continue(()),
            }
        });
        found
    }

    /// Finds the type in a CAST that nobody knows.
    fn unknown_type(&self, message: &str) -> Option<Problem> {
        let name = message.split_once("Unsupported SQL type ")?.1.trim();
        let mut span = None;
        let _ = visit_expressions(self.query.select(), |expr: &Expr| match expr {
            Expr::Cast { data_type: SqlType::Custom(custom, _), .. } if custom.to_string() == name => {
                span = custom.0.first().and_then(|part| part.as_ident()).map(|ident| ident.span);
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        });
        let problem = Problem::new(Code::WrongType, span?, format!("there is no type {name}"));
        Some(problem.did_you_mean(name, TYPE_NAMES))
    }

    /// Finds the number in GROUP BY that stands for no column of SELECT.
    fn ordinal(&self, message: &str) -> Option<Span> {
        let number = message.split_once("column with position ")?.1.split(' ').next()?;
        let GroupByExpr::Expressions(exprs, _) = &self.query.select().group_by else { return None };
        exprs.iter().find(|expr| expr.to_string() == number).map(Spanned::span)
    }

    fn two_columns(&self, name: &str) -> Problem {
        let alias = self.query.select().projection.iter().find_map(|item| match item {
            SelectItem::ExprWithAlias { alias, .. } if normalize(alias).value == name => Some(alias.span),
            _ => None,
        });
        let span = alias.unwrap_or_else(|| self.query.item_span(usize::MAX));
        Problem::new(Code::DuplicateName, span, format!("there are two columns \"{name}\""))
            .hint("give one of them another name: … AS name")
    }

    fn not_a_condition(&self, message: &str) -> Problem {
        let select = self.query.select();
        let conditions = [select.selection.as_ref(), select.having.as_ref()];
        for condition in conditions.into_iter().flatten() {
            let made = self.logical(condition, &self.with_aliases());
            if let Ok(data_type) = made.and_then(|made| expression::type_of(made, &self.with_aliases()))
                && data_type != DataType::Boolean
            {
                return not_a_condition(condition.span(), &data_type);
            }
        }
        Problem::new(Code::WrongType, self.query.item_span(usize::MAX), message)
    }

    /// Finds the smallest part that fails by itself, and says which types do not go together there.
    fn smallest_failing(&self) -> Option<(Span, String)> {
        struct Failing<'a, 'b> {
            locator: &'a Locator<'b>,
            schema: DFSchemaRef,
        }
        impl Visitor for Failing<'_, '_> {
            type Break = (Span, String);
            // After its parts: the first that fails has none that does.
            fn post_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Self::Break> {
                let made = self.locator.logical(expr, &self.schema);
                // What has a type fails by its values, such as a text that is no time.
                let typed = made.as_ref().is_ok_and(|made| expression::type_of(made.clone(), &self.schema).is_ok());
                let outcome = made.and_then(|made| expression::check(made, &self.schema));
                match outcome {
                    Err(error) if expr.span() != Span::empty() => {
                        let types = if typed { None } else { self.locator.types_of(expr, &self.schema) };
                        let message = types.unwrap_or_else(|| clean(&innermost(&error).strip_backtrace()));
                        ControlFlow::Break((expr.span(), message))
                    }
                    _ => ControlFlow::Continue(()),
                }
            }
        }
        let mut failing = Failing { locator: self, schema: self.with_aliases() };
        match self.query.select().visit(&mut failing) {
            ControlFlow::Break(found) => Some(found),
            ControlFlow::Continue(()) => None,
        }
    }

    /// Says which types an operator or a function does not take.
    fn types_of(&self, expr: &Expr, schema: &DFSchemaRef) -> Option<String> {
        let type_of = |expr: &Expr| {
            let made = self.logical(expr, schema).and_then(|made| expression::type_of(made, schema));
            made.map(|data_type| type_name(&data_type)).ok()
        };
        match expr {
            Expr::BinaryOp { left, op, right } => {
                let (left, right) = (type_of(left)?, type_of(right)?);
                (left != right || !left.starts_with("double")).then(|| format!("{op} does not take {left} and {right}"))
            }
            Expr::Function(function) => {
                let FunctionArguments::List(list) = &function.args else { return None };
                let types = list.args.iter().map(|argument| match argument {
                    FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => type_of(expr),
                    _ => None,
                });
                let types = types.collect::<Option<Vec<String>>>()?.join(", ");
                let types = if types.is_empty() { "nothing" } else { types.as_str() };
                Some(format!("{} does not take {types}", function_name(function)))
            }
            _ => None,
        }
    }

    /// The columns, and beside them the names that SELECT gives, which GROUP BY and HAVING may use.
    fn with_aliases(&self) -> DFSchemaRef {
        let mut fields: Vec<_> =
            self.schema.iter().map(|(qualifier, field)| (qualifier.cloned(), Arc::clone(field))).collect();
        for item in &self.query.select().projection {
            let SelectItem::ExprWithAlias { expr, alias } = item else { continue };
            let name = normalize(alias).value;
            if fields.iter().any(|(_, field)| *field.name() == name) {
                continue;
            }
            let data_type = self.logical(expr, &self.schema).and_then(|made| expression::type_of(made, &self.schema));
            fields.push((None, Arc::new(Field::new(name, data_type.unwrap_or(DataType::Null), true))));
        }
        DFSchema::new_with_metadata(fields, std::collections::HashMap::new())
            .map_or_else(|_| Arc::clone(&self.schema), Arc::new)
    }
}

/// DataFusion's places are those of its parser, which reads our tokens: they are places in the file.
fn from_datafusion(span: datafusion::common::Span) -> Span {
    Span::new(Location::new(span.start.line, span.start.column), Location::new(span.end.line, span.end.column))
}

/// Returns the name that two columns have.
fn duplicate(error: &SchemaError) -> Option<String> {
    match error {
        SchemaError::AmbiguousReference { field } => Some(field.name.clone()),
        SchemaError::DuplicateQualifiedField { name, .. } | SchemaError::DuplicateUnqualifiedField { name } => {
            Some(name.clone())
        }
        SchemaError::FieldNotFound { .. } => None,
    }
}

fn innermost(error: &DataFusionError) -> &DataFusionError {
    match error {
        DataFusionError::Diagnostic(_, inner) | DataFusionError::Context(_, inner) => innermost(inner),
        DataFusionError::Collection(errors) => errors.first().map_or(error, innermost),
        other => other,
    }
}

/// Takes off what only a developer of DataFusion wants to read.
pub(super) fn clean(message: &str) -> String {
    let mut message = message.trim();
    let prefixes = [
        "Error during planning: ",
        "Execution error: ",
        "Schema error: ",
        "Arrow error: ",
        "SQL error: ",
        "Internal error: ",
        "This feature is not implemented: ",
        "Optimizer rule",
        "Invalid argument error: ",
        "Cast error: ",
        "Parser error: ",
        "parser error: ",
        "External error: ",
        "[return_type] ",
        "type_coercion",
        "caused by",
    ];
    while let Some(rest) = prefixes.iter().find_map(|prefix| message.strip_prefix(prefix)) {
        message = rest.trim();
    }
    let first = message.lines().next().unwrap_or("");
    // A regular expression is shown over several lines; what is wrong with it stands in the last.
    let joined = match message.lines().next_back() {
        Some(last) if first.ends_with("parse error:") => format!("{first} {}", last.trim_start_matches("error: ")),
        _ => first.to_owned(),
    };
    let message = joined.split(" No function matches").next().unwrap_or("");
    let message =
        message.split("This issue was likely caused by a bug").next().unwrap_or("").trim().trim_end_matches('.');
    let message = ARROW_TYPES.iter().fold(message.to_owned(), |text, (ours, name)| text.replace(ours, name));
    let mut letters = message.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

/// Types as Arrow prints them, and as SQL calls them.
const ARROW_TYPES: [(&str, &str); 10] = [
    ("Utf8View", "text"),
    ("LargeUtf8", "text"),
    ("Utf8", "text"),
    ("Float64", "double"),
    ("Int64", "bigint"),
    ("Int32", "integer"),
    ("Boolean", "boolean"),
    ("Date32", "date"),
    ("Timestamp(µs, \"UTC\")", "timestamp"),
    ("Timestamp(ns)", "timestamp"),
];
