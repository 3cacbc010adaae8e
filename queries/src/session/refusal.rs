//! From DataFusion's errors to [`Problem`]s: a stable kind, a sentence without its internals, the nearest known name.

use std::collections::BTreeSet;

use arrow::error::ArrowError;
use datafusion::common::{DataFusionError, Diagnostic as PlannerNote, SchemaError};
use tidemill_connectors::options::nearest;
use tidemill_engine::error::panic_text;

use crate::diagnostic::{Code, Diagnostic};
use crate::problem::{Problem, ProblemKind, Span};

/// The names a misspelt one is compared with.
pub(crate) struct KnownNames {
    /// Tables that can be asked.
    pub tables: Vec<String>,
    /// Functions that can be called.
    pub functions: BTreeSet<String>,
}

/// Most names a hint lists.
const LISTED_NAMES_MAX: usize = 12;

/// Says what a DataFusion error means for the one who asked.
pub(crate) fn problem_of(error: &DataFusionError, known: &KnownNames) -> Problem {
    if let Some(problem) = problem_within(error) {
        return problem.clone();
    }
    match error {
        DataFusionError::Diagnostic(diagnostic, inner) => with_diagnostic(problem_of(inner, known), diagnostic),
        DataFusionError::Context(_, inner) => problem_of(inner, known),
        DataFusionError::Shared(inner) => problem_of(inner, known),
        DataFusionError::Collection(errors) => match errors.first() {
            Some(first) => problem_of(first, known),
            None => Problem::new(ProblemKind::Internal, "an empty list of errors"),
        },
        DataFusionError::External(inner) => match inner.downcast_ref::<DataFusionError>() {
            Some(inner) => problem_of(inner, known),
            None => Problem::new(ProblemKind::Failed, inner.to_string()),
        },
        DataFusionError::SQL(parser, _) => syntax(&parser.to_string()),
        DataFusionError::SchemaError(schema, _) => schema_problem(schema),
        DataFusionError::Plan(message) => plan_problem(message, known),
        DataFusionError::NotImplemented(message) if message.contains("single SQL statement") => {
            Problem::new(ProblemKind::NotSupported, "one statement at a time: there is more after the first ;")
        }
        DataFusionError::NotImplemented(message) => Problem::new(ProblemKind::NotSupported, tidy(message)),
        DataFusionError::Execution(message) => Problem::new(ProblemKind::Failed, tidy(message)),
        DataFusionError::ArrowError(arrow, _) => match arrow.as_ref() {
            ArrowError::ExternalError(inner) if inner.downcast_ref::<DataFusionError>().is_some() => inner
                .downcast_ref::<DataFusionError>()
                .map_or_else(|| Problem::new(ProblemKind::Failed, arrow.to_string()), |inner| problem_of(inner, known)),
            // A spill that finds no more room on disk comes as an I/O error of arrow.
            ArrowError::IoError(message, _) if message.contains("spilling") => out_of_memory(message),
            ArrowError::IoError(message, _) => Problem::new(ProblemKind::Unreadable, tidy(message)),
            other => Problem::new(ProblemKind::Failed, tidy(&other.to_string())),
        },
        DataFusionError::ResourcesExhausted(message) => out_of_memory(message),
        DataFusionError::ParquetError(_) | DataFusionError::ObjectStore(_) | DataFusionError::IoError(_) => {
            Problem::new(ProblemKind::Unreadable, tidy(&error.strip_backtrace()))
        }
        DataFusionError::Configuration(message) => Problem::new(ProblemKind::InvalidQuery, tidy(message)),
        other => Problem::new(ProblemKind::Internal, tidy(&other.strip_backtrace())),
    }
}

/// Finds the problem that a part of ours told, below whatever it was wrapped in on its way.
fn problem_within(error: &DataFusionError) -> Option<&Problem> {
    let mut at: &(dyn std::error::Error + 'static) = error;
    loop {
        if let Some(problem) = at.downcast_ref::<Problem>() {
            return Some(problem);
        }
        at = at.source()?;
    }
}

/// Says what a panic means: the statement is refused, the program goes on.
pub(crate) fn panic_problem(payload: &(dyn std::any::Any + Send)) -> Problem {
    let message = first_line(panic_text(payload));
    Problem::new(ProblemKind::Internal, format!("the question made the query engine panic: {message}"))
        .with_hint("the pipeline goes on; please report the statement")
}

/// Says what a mistake in a window means.
pub(super) fn diagnostic_problem(diagnostic: Diagnostic) -> Problem {
    let kind = match diagnostic.code {
        Code::Syntax => ProblemKind::Syntax,
        Code::NotSupported => ProblemKind::NotSupported,
        Code::UnknownRelation => ProblemKind::UnknownTable,
        Code::UnknownColumn => ProblemKind::UnknownColumn,
        Code::UnknownFunction => ProblemKind::UnknownFunction,
        _ => ProblemKind::InvalidQuery,
    };
    let span = Span {
        line: diagnostic.line as u64,
        column: diagnostic.column as u64,
        length: diagnostic.length.max(1) as u64,
    };
    Problem { kind, detail: diagnostic.message, hint: diagnostic.hint, span: Some(span) }
}

fn out_of_memory(message: &str) -> Problem {
    // What follows is advice on settings that nobody here can reach.
    let sentence = first_line(message).split(". Please try").next().unwrap_or_default().to_owned();
    Problem::new(ProblemKind::OutOfMemory, sentence)
        .with_hint("ask for less at once: a narrower time range, fewer columns, fewer groups")
}

fn with_diagnostic(mut problem: Problem, diagnostic: &PlannerNote) -> Problem {
    if problem.span.is_none() {
        problem.span = diagnostic.span.map(span_of);
    }
    if problem.hint.is_none() {
        problem.hint = diagnostic.helps.first().map(|help| tidy(&help.message));
    }
    problem
}

fn span_of(span: datafusion::common::Span) -> Span {
    let length = if span.end.line == span.start.line { span.end.column.saturating_sub(span.start.column) } else { 1 };
    Span { line: span.start.line, column: span.start.column, length: length.max(1) }
}

/// Takes the place out of the parser's sentence: `… at Line: 1, Column: 8`.
fn syntax(message: &str) -> Problem {
    let message = message.trim_start_matches("sql parser error: ").trim_start_matches("ParserError: ");
    let (text, span) = match message.rsplit_once(" at Line: ") {
        Some((text, place)) => {
            let mut numbers = place.split(", Column: ").map(|number| number.trim().parse::<u64>().ok());
            let (line, column) = (numbers.next().flatten(), numbers.next().flatten());
            (text, line.zip(column).map(|(line, column)| Span { line, column, length: 1 }))
        }
        None => (message, None),
    };
    Problem::new(ProblemKind::Syntax, tidy(text)).with_span(span)
}

fn schema_problem(error: &SchemaError) -> Problem {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let names: Vec<&str> = valid_fields.iter().map(|field| field.name()).collect();
            let detail = match &field.relation {
                Some(relation) => format!("there is no column \"{}\" in {relation}", field.name()),
                None => format!("there is no column \"{}\"", field.name()),
            };
            let mut problem = Problem::new(ProblemKind::UnknownColumn, detail);
            problem.hint = name_hint(field.name(), &names, "columns");
            problem
        }
        SchemaError::AmbiguousReference { field } => {
            Problem::new(ProblemKind::AmbiguousColumn, format!("more than one table has a column \"{}\"", field.name()))
                .with_hint("write the table's name before it: table.column")
        }
        SchemaError::DuplicateQualifiedField { name, .. } | SchemaError::DuplicateUnqualifiedField { name } => {
            Problem::new(ProblemKind::InvalidQuery, format!("two columns would be named \"{name}\""))
                .with_hint("give one of them another name with AS")
        }
    }
}

fn plan_problem(message: &str, known: &KnownNames) -> Problem {
    if let Some(name) = between(message, "table '", "' not found") {
        let name = name.rsplit('.').next().unwrap_or(name);
        let tables: Vec<&str> = known.tables.iter().map(String::as_str).collect();
        let mut problem = Problem::new(ProblemKind::UnknownTable, format!("there is no table \"{name}\""));
        problem.hint = name_hint(name, &tables, "tables");
        return problem;
    }
    let function = between(message, "Invalid function '", "'").or_else(|| between(message, "table function '", "'"));
    if let Some(name) = function {
        let mut problem = Problem::new(ProblemKind::UnknownFunction, format!("there is no function \"{name}\""));
        problem.hint = nearest(name, known.functions.iter().map(String::as_str))
            .map(|known| format!("did you mean \"{known}\"?"))
            .or_else(|| Some("SHOW FUNCTIONS lists them all".to_owned()));
        return problem;
    }
    if ["DDL not supported", "DML not supported", "Statement not supported"].iter().any(|text| message.contains(text)) {
        return Problem::new(ProblemKind::ReadOnly, format!("questions only read: {}", tidy(message)));
    }
    Problem::new(ProblemKind::InvalidQuery, tidy(message))
}

/// Returns the nearest name, or the list if it is short.
fn name_hint(name: &str, names: &[&str], what: &str) -> Option<String> {
    if let Some(known) = nearest(name, names.iter().copied()) {
        return Some(format!("did you mean \"{known}\"?"));
    }
    let listed: BTreeSet<&str> = names.iter().copied().collect();
    match listed.len() {
        0 => Some(format!("there are no {what} yet")),
        1..=LISTED_NAMES_MAX => Some(format!("the {what} are {}", listed.into_iter().collect::<Vec<_>>().join(", "))),
        _ => None,
    }
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let rest = &text[text.find(start)? + start.len()..];
    Some(&rest[..rest.find(end)?])
}

fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().trim_end_matches(':').to_owned()
}

/// Removes what DataFusion and arrow put around the sentence: prefixes, backtraces, the wish for a bug report.
fn tidy(message: &str) -> String {
    const PREFIXES: &[&str] = &[
        "Error during planning: ",
        "Execution error: ",
        "Arrow error: ",
        "Optimizer rule ",
        "Invalid argument error: ",
        "Compute error: ",
        "SQL error: ",
        "ParserError: ",
        "This feature is not implemented: ",
    ];
    let mut text = message.split("\n\nbacktrace:").next().unwrap_or(message).trim();
    while let Some(rest) = PREFIXES.iter().find_map(|prefix| text.strip_prefix(prefix)) {
        text = rest;
    }
    let text = text.split("\nThis issue was likely caused by a bug").next().unwrap_or(text);
    text.trim().trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parsers_place_becomes_a_span() {
        let problem = syntax("sql parser error: Expected: end of statement, found: FORM at Line: 1, Column: 10");
        assert_eq!(problem.detail, "Expected: end of statement, found: FORM");
        assert_eq!(problem.span, Some(Span { line: 1, column: 10, length: 1 }));
    }

    #[test]
    fn an_unknown_table_names_the_nearest_one() {
        let known = KnownNames { tables: vec!["room_1m".into(), "readings".into()], functions: BTreeSet::new() };
        let problem = plan_problem("table 'tidemill.public.reading' not found", &known);
        assert_eq!(problem.kind, ProblemKind::UnknownTable);
        assert_eq!(problem.to_string(), "there is no table \"reading\"; did you mean \"readings\"?");
    }
}
