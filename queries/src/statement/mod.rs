//! The statements of a pipeline file: `CREATE SOURCE`, `CREATE MATERIALIZED VIEW`, `CREATE SINK` and `CREATE SECRET`.
//!
//! A thin parser in front of sqlparser, which reads names, types, expressions and queries. The file is cut into tokens
//! once, so every token knows its place in the file, and so does everything that is made from tokens.
//!
//! ```text
//!   CREATE SOURCE name ( column TYPE [METADATA [FROM 'what']] [NOT NULL], …,
//!                        [WATERMARK FOR column AS column [- INTERVAL '…'],]
//!                        [DEDUP KEY ( column, … ) WITHIN INTERVAL '…'] ) WITH ( key = value, … ) ;
//!   CREATE MATERIALIZED VIEW name [WITH ( key = value, … )] AS SELECT … [EMIT ON WINDOW CLOSE] ;
//!   CREATE SINK name FROM view WITH ( key = value, … ) ;
//!   CREATE SECRET name ( TYPE mqtt, USERNAME '…', PASSWORD ENV '…' ) ;
//! ```

mod data_type;
mod flink;
mod limits;
mod reader;
mod secret;

use std::collections::BTreeMap;

use datafusion::sql::sqlparser::ast::{Expr, Ident, Query};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer};
use tidemill_connectors::Secret;
use tidemill_connectors::options::nearest;

pub(crate) use data_type::TYPE_NAMES;
pub(crate) use flink::refuse_flink_window;
pub(crate) use limits::{check_depth, check_length, parser};

use crate::catalog::DedupInfo;
use crate::diagnostic::{Code, Problem};
use reader::Reader;
pub(crate) use reader::is_name;

/// A statement that defines something.
#[derive(Debug)]
pub(crate) enum Statement {
    Source(Box<CreateSource>),
    View(CreateView),
    Sink(CreateSink),
    Secret(CreateSecret),
}

/// A name or a value, with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) value: String,
    pub(crate) span: Span,
}

#[derive(Debug)]
pub(crate) struct CreateSource {
    pub(crate) name: Name,
    pub(crate) columns: Vec<ColumnDefinition>,
    pub(crate) watermark: Option<WatermarkClause>,
    pub(crate) dedup: Option<DedupClause>,
    pub(crate) options: OptionList,
}

#[derive(Debug)]
pub(crate) struct ColumnDefinition {
    pub(crate) name: Name,
    pub(crate) type_span: Span,
    pub(crate) data_type: arrow::datatypes::DataType,
    pub(crate) nullable: bool,
    /// `METADATA FROM 'what'`: it is not in the payload.
    pub(crate) metadata: Option<Name>,
}

/// `WATERMARK FOR column AS column - delay`.
#[derive(Debug)]
pub(crate) struct WatermarkClause {
    pub(crate) column: Name,
    /// The interval that is subtracted.
    pub(crate) delay: Option<Expr>,
}

/// `DEDUP KEY (column, …) WITHIN interval`.
#[derive(Debug)]
pub(crate) struct DedupClause {
    /// At least one.
    pub(crate) columns: Vec<Name>,
    pub(crate) within: Expr,
    /// The words `DEDUP KEY`.
    pub(crate) span: Span,
}

impl DedupClause {
    /// Returns what it says, without places.
    pub(crate) fn info(&self) -> DedupInfo {
        DedupInfo {
            key: self.columns.iter().map(|column| column.value.clone()).collect(),
            within: self.within.to_string(),
        }
    }
}

/// `WITH ( key = value, … )`; empty if it was not written.
#[derive(Clone, Debug)]
pub(crate) struct OptionList {
    /// The word `WITH`, or the name of the statement where there is none.
    pub(crate) span: Span,
    pub(crate) entries: Vec<OptionEntry>,
}

#[derive(Clone, Debug)]
pub(crate) struct OptionEntry {
    pub(crate) key: Name,
    pub(crate) value: Name,
}

#[derive(Debug)]
pub(crate) struct CreateView {
    pub(crate) name: Name,
    pub(crate) options: OptionList,
    pub(crate) query: Box<Query>,
    /// The tokens of the query, for what the tree does not place.
    pub(crate) tokens: Vec<TokenWithSpan>,
    /// `EMIT ON WINDOW CLOSE`.
    pub(crate) emit: Option<Span>,
    /// The whole statement.
    pub(crate) text: String,
}

/// Rows of a view, or of a source, that leave.
#[derive(Debug)]
pub(crate) struct CreateSink {
    pub(crate) name: Name,
    pub(crate) from: Name,
    pub(crate) options: OptionList,
    /// The whole statement.
    pub(crate) text: String,
}

/// What a connector proves itself with.
#[derive(Debug)]
pub(crate) struct CreateSecret {
    pub(crate) name: Name,
    /// By their keys, in lower case.
    pub(crate) values: BTreeMap<String, Secret>,
}

impl Statement {
    pub(crate) fn name(&self) -> &Name {
        match self {
            Statement::Source(source) => &source.name,
            Statement::View(view) => &view.name,
            Statement::Sink(sink) => &sink.name,
            Statement::Secret(secret) => &secret.name,
        }
    }
}

/// A statement, or what is wrong with it, and the name it would define as far as that could be seen.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) declares: Option<String>,
    pub(crate) statement: Result<Statement, Problem>,
}

/// Reads a file. One broken statement does not keep the others from being read.
pub(crate) fn parse_file(text: &str) -> Vec<Parsed> {
    let (tokens, broken) = tokenize(text);
    let mut statements: Vec<Parsed> = tokens
        .split(|token| token.token == Token::SemiColon)
        .map(trim)
        .filter(|tokens| !tokens.is_empty())
        .map(|tokens| Parsed { declares: declared_name(tokens), statement: parse_statement(text, tokens) })
        .collect();
    if let Some(problem) = broken {
        // The last statement is cut in two by what could not be read; its own complaint would only confuse.
        statements.pop();
        statements.push(Parsed { declares: None, statement: Err(problem) });
    }
    statements
}

/// Cuts a text into tokens; stops at what is none, such as a string without an end.
pub(crate) fn tokenize(text: &str) -> (Vec<TokenWithSpan>, Option<Problem>) {
    let mut tokens = Vec::new();
    let outcome = Tokenizer::new(&GenericDialect {}, text).tokenize_with_location_into_buf(&mut tokens);
    let problem = outcome.err().map(|error| {
        let end = Location::new(error.location.line, error.location.column + 1);
        Problem::new(Code::Syntax, Span::new(error.location, end), lower_first(&error.message))
    });
    (tokens, problem)
}

/// Lower-cases a name as SQL does, unless it was quoted.
pub(crate) fn normalize(ident: &Ident) -> Name {
    let value = if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() };
    Name { value, span: ident.span }
}

/// Returns the first token that is this word, unquoted.
pub(crate) fn find_word(tokens: &[TokenWithSpan], word: &str) -> Option<Span> {
    tokens.iter().find(|token| is_word(token, word)).map(|token| token.span)
}

pub(crate) fn is_word(token: &TokenWithSpan, word: &str) -> bool {
    matches!(&token.token, Token::Word(found) if found.quote_style.is_none() && found.value.eq_ignore_ascii_case(word))
}

/// Returns the part of a text that a span covers.
pub(crate) fn slice(text: &str, span: Span) -> &str {
    let start = byte_offset(text, span.start);
    &text[start..byte_offset(text, span.end).max(start)]
}

fn byte_offset(text: &str, location: Location) -> usize {
    let (line, column) = (location.line.max(1) as usize - 1, location.column.max(1) as usize - 1);
    let line_start: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
    let rest = &text[line_start..];
    line_start + rest.char_indices().nth(column).map_or(rest.len(), |(byte, _)| byte)
}

/// Cuts `EMIT ON WINDOW CLOSE` off the end of a query.
pub(crate) fn split_emit(query: &[TokenWithSpan]) -> Result<(&[TokenWithSpan], Option<Span>), Problem> {
    let query = trim(query);
    // Only a trailing EMIT is the clause: `emit` may be the name of a column.
    let Some(at) = query.iter().rposition(|token| is_word(token, "EMIT")) else { return Ok((query, None)) };
    let clause = head(&query[at..]);
    let span = query[at].span.union(&query[query.len() - 1].span);
    let words: Vec<&str> = clause.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["EMIT", "ON", "WINDOW", "CLOSE"] => Ok((trim(&query[..at]), Some(span))),
        ["EMIT", "ON" | "EARLY" | "CHANGES" | "FINAL" | "EVERY" | "AFTER", ..] => {
            let message = "results leave when their window closes; no other EMIT is in this version";
            Err(Problem::new(Code::NotSupported, span, message).hint("write EMIT ON WINDOW CLOSE, or nothing"))
        }
        _ => Ok((query, None)),
    }
}

/// Makes a problem of what sqlparser says; its place stands at the end of its text.
pub(crate) fn syntax_problem(error: &ParserError, tokens: &[TokenWithSpan]) -> Problem {
    let message = match error {
        ParserError::TokenizerError(message) | ParserError::ParserError(message) => message.as_str(),
        ParserError::RecursionLimitExceeded => "the expression is nested too deeply",
    };
    let end = tokens.last().map_or(Span::empty(), |token| token.span);
    let placed = message.split_once(" at Line: ").and_then(|(message, place)| {
        let (line, column) = place.split_once(", Column: ")?;
        let column = column.split(|letter: char| !letter.is_ascii_digit()).next()?;
        Some((message, Location::new(line.parse().ok()?, column.parse().ok()?)))
    });
    let (message, span) = match placed {
        Some((message, start)) => {
            let token = tokens.iter().find(|token| token.span.start == start);
            let span = token.map_or(Span::new(start, Location::new(start.line, start.column + 1)), |token| token.span);
            (message, span)
        }
        None => (message, Span::new(end.end, Location::new(end.end.line, end.end.column + 1))),
    };
    let message =
        message.replace("found: EOF", "found the end of the statement").replacen("Expected: ", "expected ", 1);
    Problem::new(Code::Syntax, span, lower_first(message.replace("found: ", "found ").trim()))
}

fn lower_first(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_lowercase().chain(letters).collect())
}

fn is_space(token: &TokenWithSpan) -> bool {
    matches!(token.token, Token::Whitespace(_) | Token::EOF)
}

fn trim(tokens: &[TokenWithSpan]) -> &[TokenWithSpan] {
    let start = tokens.iter().position(|token| !is_space(token)).unwrap_or(tokens.len());
    let end = tokens.iter().rposition(|token| !is_space(token)).map_or(start, |last| last + 1);
    &tokens[start..end]
}

/// Returns the significant words of a statement's head, upper-cased.
fn head(tokens: &[TokenWithSpan]) -> Vec<String> {
    tokens.iter().filter(|token| !is_space(token)).take(8).map(|token| token.token.to_string().to_uppercase()).collect()
}

/// Returns the name that a statement seems to define, even if the rest of it is broken.
fn declared_name(tokens: &[TokenWithSpan]) -> Option<String> {
    let kinds = ["SOURCE", "VIEW", "SINK", "SECRET"];
    let kind = tokens.iter().position(|token| kinds.iter().any(|kind| is_word(token, kind)))?;
    if !is_word(tokens.first()?, "CREATE") {
        return None;
    }
    tokens[kind + 1..].iter().find_map(|token| match &token.token {
        Token::Word(word) if ["IF", "NOT", "EXISTS"].contains(&word.value.to_uppercase().as_str()) => None,
        Token::Word(word) => {
            Some(if word.quote_style.is_some() { word.value.clone() } else { word.value.to_lowercase() })
        }
        _ => None,
    })
}

fn parse_statement(text: &str, tokens: &[TokenWithSpan]) -> Result<Statement, Problem> {
    let words = head(tokens);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let kind = match words.as_slice() {
        ["CREATE", "OR", "REPLACE", rest @ ..] | ["CREATE", rest @ ..] => rest,
        _ => return Err(not_a_definition(&words, tokens)),
    };
    check_length(tokens)?;
    let mut reader = Reader::new(text, tokens);
    match kind {
        ["SOURCE", ..] => reader.create_source().map(|source| Statement::Source(Box::new(source))),
        ["MATERIALIZED", "VIEW", ..] => reader.create_view().map(Statement::View),
        ["SINK", ..] => reader.create_sink().map(Statement::Sink),
        ["SECRET", ..] => reader.create_secret().map(Statement::Secret),
        _ => Err(not_created(kind, tokens)),
    }
}

fn not_a_definition(words: &[&str], tokens: &[TokenWithSpan]) -> Problem {
    let span = tokens[0].span;
    let first = words.first().copied().unwrap_or("");
    match first {
        "SELECT" | "WITH" | "FROM" | "SHOW" | "DESCRIBE" | "EXPLAIN" => {
            Problem::new(Code::NotSupported, span, "a pipeline file defines sources and views; it asks no questions")
                .hint(format!("write CREATE MATERIALIZED VIEW … AS {first} …, or ask with: tidemill sql \"{first} …\""))
        }
        "INSERT" => Problem::new(Code::NotSupported, span, "INSERT is not in this version")
            .hint("write CREATE MATERIALIZED VIEW name AS SELECT …; rows enter through a source"),
        "DROP" | "ALTER" | "UPDATE" | "DELETE" | "TRUNCATE" | "SET" | "COPY" | "PAUSE" | "RESUME" | "REPLAY" => {
            Problem::new(Code::NotSupported, span, format!("{first} is not in this version"))
                .hint("change the definition in the file, and start it again")
        }
        _ => {
            let found = format!("expected CREATE SOURCE or CREATE MATERIALIZED VIEW, found {}", tokens[0].token);
            let problem = Problem::new(Code::Syntax, span, found);
            match nearest(first, ["CREATE"]) {
                Some(_) => problem.did_you_mean(first, ["CREATE"]),
                None => problem.hint("every statement begins with CREATE"),
            }
        }
    }
}

fn not_created(kind: &[&str], tokens: &[TokenWithSpan]) -> Problem {
    let significant: Vec<&TokenWithSpan> = tokens.iter().filter(|token| !is_space(token)).collect();
    let word = kind.first().copied().unwrap_or("");
    let token = significant.iter().find(|token| token.token.to_string().eq_ignore_ascii_case(word));
    let span = token.map_or(tokens[0].span, |token| token.span);
    let refused = |message: &str, hint: &str| Problem::new(Code::NotSupported, span, message).hint(hint);
    match word {
        "TABLE" | "STREAM" | "EXTERNAL" | "UNBOUNDED" => refused(
            &format!("there is no CREATE {word}"),
            "write CREATE SOURCE for input, CREATE MATERIALIZED VIEW for a stored result",
        ),
        "VIEW" => refused("a view is always stored", "write CREATE MATERIALIZED VIEW"),
        "ALERT" | "NOTIFIER" => refused(
            &format!("CREATE {word} is not in this version"),
            "write a view whose HAVING keeps the rows to be alerted on, and CREATE SINK name FROM it",
        ),
        "MATERIALIZED" => Problem::new(Code::Syntax, span, "expected VIEW after MATERIALIZED")
            .hint("write CREATE MATERIALIZED VIEW name AS SELECT …"),
        "" => Problem::new(Code::Syntax, span, "the statement ends after CREATE")
            .hint("write CREATE SOURCE, CREATE MATERIALIZED VIEW or CREATE SINK"),
        _ => Problem::new(Code::Syntax, span, format!("there is no CREATE {word}"))
            .did_you_mean(word, ["SOURCE", "SINK", "MATERIALIZED VIEW", "MATERIALIZED"]),
    }
}
