//! The statements of a pipeline file: `CREATE SOURCE` and `CREATE MATERIALIZED VIEW`.
//!
//! A thin parser in front of sqlparser, which reads names, types, expressions and queries. The file is cut into tokens
//! once, so every token knows its place in the file, and so does everything that is made from tokens.
//!
//! ```text
//!   CREATE SOURCE name ( column TYPE [NOT NULL], …, WATERMARK FOR column AS column [- INTERVAL '…'] ) WITH ( key = value, … ) ;
//!   CREATE MATERIALIZED VIEW name [WITH ( key = value, … )] AS SELECT … [EMIT ON WINDOW CLOSE] ;
//! ```

mod data_type;

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Ident, Query, Spanned, Visit, Visitor};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer};

use crate::diagnostic::{Code, Problem};

/// A statement that defines something.
#[derive(Debug)]
pub(crate) enum Statement {
    Source(Box<CreateSource>),
    View(CreateView),
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
    pub(crate) options: OptionList,
}

#[derive(Debug)]
pub(crate) struct ColumnDefinition {
    pub(crate) name: Name,
    pub(crate) data_type: arrow::datatypes::DataType,
    pub(crate) nullable: bool,
}

/// `WATERMARK FOR column AS column - delay`.
#[derive(Debug)]
pub(crate) struct WatermarkClause {
    pub(crate) column: Name,
    /// The interval that is subtracted.
    pub(crate) delay: Option<Expr>,
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

impl Statement {
    pub(crate) fn name(&self) -> &Name {
        match self {
            Statement::Source(source) => &source.name,
            Statement::View(view) => &view.name,
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
    let kind = tokens.iter().position(|token| is_word(token, "SOURCE") || is_word(token, "VIEW"))?;
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
        _ => Problem::new(
            Code::Syntax,
            span,
            format!("expected CREATE SOURCE or CREATE MATERIALIZED VIEW, found {}", tokens[0].token),
        )
        .did_you_mean(first, ["CREATE"]),
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
        "SINK" => refused(
            "CREATE SINK is not in this version",
            "a view is its own table: CREATE MATERIALIZED VIEW … WITH (location = '…')",
        ),
        "ALERT" | "NOTIFIER" => refused(
            &format!("CREATE {word} is not in this version"),
            "write a view whose HAVING keeps the rows to be alerted on",
        ),
        "SECRET" => refused("CREATE SECRET is not in this version", "give the value as an option of the source"),
        "MATERIALIZED" => Problem::new(Code::Syntax, span, "expected VIEW after MATERIALIZED")
            .hint("write CREATE MATERIALIZED VIEW name AS SELECT …"),
        "" => Problem::new(Code::Syntax, span, "the statement ends after CREATE")
            .hint("write CREATE SOURCE or CREATE MATERIALIZED VIEW"),
        _ => Problem::new(Code::Syntax, span, format!("there is no CREATE {word}"))
            .did_you_mean(word, ["SOURCE", "MATERIALIZED VIEW", "MATERIALIZED"]),
    }
}

/// Reads one statement.
struct Reader<'a> {
    text: &'a str,
    tokens: &'a [TokenWithSpan],
    parser: Parser<'a>,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str, tokens: &'a [TokenWithSpan]) -> Self {
        Reader { text, tokens, parser: parser(tokens) }
    }

    fn syntax<T>(&self, outcome: Result<T, ParserError>) -> Result<T, Problem> {
        outcome.map_err(|error| syntax_problem(&error, self.tokens))
    }

    fn here(&self) -> Span {
        let span = self.parser.peek_token_ref().span;
        if span == Span::empty() { self.tokens.last().map_or(span, |token| token.span) } else { span }
    }

    fn at_word(&self, nth: usize, word: &str) -> bool {
        is_word(self.parser.peek_nth_token_ref(nth), word)
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = self.at_word(0, word);
        if found {
            self.parser.advance_token();
        }
        found
    }

    fn expect_word(&mut self, word: &str) -> Result<Span, Problem> {
        let span = self.here();
        if self.take_word(word) {
            return Ok(span);
        }
        let found = self.parser.peek_token_ref();
        Err(Problem::new(Code::Syntax, span, format!("expected {word}, found {}", shown(found))))
    }

    fn expect(&mut self, token: &Token) -> Result<(), Problem> {
        let outcome = self.parser.expect_token(token).map(|_| ());
        self.syntax(outcome)
    }

    fn identifier(&mut self) -> Result<Name, Problem> {
        let outcome = self.parser.parse_identifier();
        self.syntax(outcome).map(|ident| normalize(&ident))
    }

    /// The name of what is created, after an optional `IF NOT EXISTS`.
    fn created_name(&mut self) -> Result<Name, Problem> {
        let _ = self.parser.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
        let name = self.identifier()?;
        if self.parser.peek_token_ref().token == Token::Period {
            return Err(Problem::new(Code::NotSupported, self.here(), "names have one part: there are no schemas")
                .hint("write one name, such as plant_readings"));
        }
        checked_name(name, "name")
    }

    fn skip_to_kind(&mut self) {
        while !(self.at_word(0, "SOURCE") || self.at_word(0, "VIEW")) {
            self.parser.advance_token();
        }
        self.parser.advance_token();
    }

    fn create_source(&mut self) -> Result<CreateSource, Problem> {
        self.skip_to_kind();
        let name = self.created_name()?;
        let mut columns: Vec<ColumnDefinition> = Vec::new();
        let mut watermark = None;
        self.expect(&Token::LParen)?;
        loop {
            if self.at_word(0, "WATERMARK") && self.at_word(1, "FOR") {
                let span = self.here();
                if watermark.is_some() {
                    return Err(Problem::new(Code::DuplicateName, span, "a source has one watermark"));
                }
                watermark = Some(self.watermark()?);
            } else {
                let column = self.column()?;
                if columns.iter().any(|other| other.name.value == column.name.value) {
                    let message = format!("column \"{}\" is declared twice", column.name.value);
                    return Err(Problem::new(Code::DuplicateName, column.name.span, message));
                }
                columns.push(column);
            }
            let comma = self.parser.consume_token(&Token::Comma);
            if !comma || self.parser.peek_token_ref().token == Token::RParen {
                break;
            }
        }
        self.expect(&Token::RParen)?;
        let options = self.options(&name)?;
        self.end()?;
        Ok(CreateSource { name, columns, watermark, options })
    }

    fn column(&mut self) -> Result<ColumnDefinition, Problem> {
        let name = checked_name(self.identifier()?, "column")?;
        let span = self.here();
        let outcome = self.parser.parse_data_type();
        let written = self.syntax(outcome)?;
        let data_type = data_type::from_sql(&written, span)?;
        let mut nullable = true;
        loop {
            let span = self.here();
            if self.parser.parse_keywords(&[Keyword::NOT, Keyword::NULL]) {
                nullable = false;
            } else if self.parser.parse_keyword(Keyword::NULL) {
                nullable = true;
            } else if let Token::Word(word) = &self.parser.peek_token_ref().token {
                let upper = word.value.to_uppercase();
                if COLUMN_CLAUSES.contains(&upper.as_str()) {
                    let message = format!("{upper} is not in this version");
                    return Err(
                        Problem::new(Code::NotSupported, span, message).hint("a column has a type and NOT NULL")
                    );
                }
                let message = format!("expected , or ) or NOT NULL after the type, found {}", word.value);
                return Err(Problem::new(Code::Syntax, span, message));
            } else {
                return Ok(ColumnDefinition { name, data_type, nullable });
            }
        }
    }

    fn watermark(&mut self) -> Result<WatermarkClause, Problem> {
        self.expect_word("WATERMARK")?;
        self.expect_word("FOR")?;
        let column = self.identifier()?;
        self.expect_word("AS")?;
        let start = self.here();
        let outcome = self.parser.parse_expr();
        let written = self.syntax(outcome)?;
        let is_column = |expr: &Expr| matches!(expr, Expr::Identifier(ident) if normalize(ident).value == column.value);
        match written {
            expr if is_column(&expr) => Ok(WatermarkClause { column, delay: None }),
            Expr::BinaryOp { left, op: BinaryOperator::Minus, right } if is_column(&left) => {
                Ok(WatermarkClause { column, delay: Some(*right) })
            }
            other => {
                let span = if other.span() == Span::empty() { start } else { other.span() };
                let message = "a watermark is its column, less an interval";
                let hint = format!("write WATERMARK FOR {0} AS {0} - INTERVAL '10 seconds'", column.value);
                Err(Problem::new(Code::Syntax, span, message).hint(hint))
            }
        }
    }

    fn options(&mut self, name: &Name) -> Result<OptionList, Problem> {
        let mut list = OptionList { span: name.span, entries: Vec::new() };
        if !self.at_word(0, "WITH") {
            return Ok(list);
        }
        list.span = self.expect_word("WITH")?;
        self.expect(&Token::LParen)?;
        while self.parser.peek_token_ref().token != Token::RParen {
            let key = self.option_key()?;
            self.expect(&Token::Eq)?;
            let value = self.option_value(&key)?;
            if list.entries.iter().any(|entry| entry.key.value == key.value) {
                return Err(Problem::new(Code::BadOption, key.span, format!("option {} is given twice", key.value)));
            }
            list.entries.push(OptionEntry { key, value });
            if !self.parser.consume_token(&Token::Comma) {
                break;
            }
        }
        self.expect(&Token::RParen)?;
        Ok(list)
    }

    /// A word, words with dots between them, or a quoted text.
    fn option_key(&mut self) -> Result<Name, Problem> {
        let first = self.parser.next_token();
        let mut key = match &first.token {
            Token::Word(word) => Name { value: word.value.to_lowercase(), span: first.span },
            Token::SingleQuotedString(text) => return Ok(Name { value: text.to_lowercase(), span: first.span }),
            _ => {
                let message = format!("expected the name of an option, found {}", shown(&first));
                return Err(Problem::new(Code::Syntax, self.place_of(&first), message));
            }
        };
        while self.parser.consume_token(&Token::Period) {
            let part = self.identifier()?;
            key.value = format!("{}.{}", key.value, part.value);
            key.span = key.span.union(&part.span);
        }
        Ok(key)
    }

    fn option_value(&mut self, key: &Name) -> Result<Name, Problem> {
        let token = self.parser.next_token();
        let value = match &token.token {
            Token::SingleQuotedString(text) => text.clone(),
            Token::Number(digits, _) => digits.clone(),
            Token::Minus | Token::Plus => {
                let number = self.option_value(key)?;
                let sign = if token.token == Token::Minus { "-" } else { "" };
                return Ok(Name { value: format!("{sign}{}", number.value), span: token.span.union(&number.span) });
            }
            Token::Word(word) if word.value.eq_ignore_ascii_case("true") => "true".to_owned(),
            Token::Word(word) if word.value.eq_ignore_ascii_case("false") => "false".to_owned(),
            other => {
                let message = format!("the value of option {} must be a text, a number or true or false", key.value);
                let hint = match other {
                    Token::Word(word) => format!("write {} = '{}'", key.value, word.value),
                    _ => format!("write {} = '…'", key.value),
                };
                return Err(Problem::new(Code::Syntax, self.place_of(&token), message).hint(hint));
            }
        };
        Ok(Name { value, span: token.span })
    }

    fn create_view(&mut self) -> Result<CreateView, Problem> {
        self.skip_to_kind();
        let name = self.created_name()?;
        if self.parser.peek_token_ref().token == Token::LParen {
            return Err(Problem::new(Code::NotSupported, self.here(), "a list of columns is not in this version")
                .hint("name the columns in the SELECT: … AS name"));
        }
        let options = self.options(&name)?;
        self.expect_word("AS")?;

        let (tokens, emit) = split_emit(&self.tokens[self.parser.get_current_index() + 1..])?;
        refuse_flink_window(self.text, tokens)?;
        let mut parser = parser(tokens);
        let query = parser.parse_query().map_err(|error| syntax_problem(&error, tokens))?;
        check_depth(query.as_ref(), tokens)?;
        let rest = parser.peek_token();
        if rest.token != Token::EOF {
            let message = format!("expected the end of the statement, found {}", shown(&rest));
            return Err(Problem::new(Code::Syntax, rest.span, message));
        }
        let span = self.tokens[0].span.union(&self.tokens[self.tokens.len() - 1].span);
        let text = slice(self.text, span).to_owned();
        Ok(CreateView { name, options, query, tokens: tokens.to_vec(), emit, text })
    }

    fn end(&mut self) -> Result<(), Problem> {
        let token = self.parser.peek_token();
        if token.token == Token::EOF {
            return Ok(());
        }
        let message = format!("expected the end of the statement, found {}", shown(&token));
        Err(Problem::new(Code::Syntax, token.span, message).hint("statements end with ;"))
    }

    fn place_of(&self, token: &TokenWithSpan) -> Span {
        if token.token == Token::EOF { self.here() } else { token.span }
    }
}

/// What other systems allow after the type of a column.
const COLUMN_CLAUSES: [&str; 9] =
    ["PRIMARY", "UNIQUE", "DEFAULT", "CHECK", "REFERENCES", "METADATA", "GENERATED", "COLLATE", "COMMENT"];

/// Nesting of expressions and queries that is still read: recursion must end before the stack does.
const NESTING_MAX: usize = 50;

/// Words and signs of one statement. The tree of a statement is at most as deep as it is long.
pub(crate) const TOKENS_MAX: usize = 20_000;

/// Depth of an expression. What evaluates it recurses, on the stack of a worker.
const DEPTH_MAX: usize = 250;

/// Refuses a statement that is too long to be read safely.
pub(crate) fn check_length(tokens: &[TokenWithSpan]) -> Result<(), Problem> {
    let meant: Vec<&TokenWithSpan> = tokens.iter().filter(|token| !is_space(token)).take(TOKENS_MAX + 1).collect();
    match meant.get(TOKENS_MAX) {
        None => Ok(()),
        Some(token) => {
            let message = format!("a statement has at most {TOKENS_MAX} words and signs");
            Err(Problem::new(Code::NotSupported, token.span, message).hint("split it into several views"))
        }
    }
}

/// Refuses a tree that is too deep to be worked on safely, such as a sum of a thousand columns.
pub(crate) fn check_depth(tree: &impl Visit, tokens: &[TokenWithSpan]) -> Result<(), Problem> {
    struct Depth(usize);
    impl Visitor for Depth {
        type Break = Span;
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Span> {
            self.0 += 1;
            if self.0 > DEPTH_MAX { ControlFlow::Break(expr.span()) } else { ControlFlow::Continue(()) }
        }
        fn post_visit_expr(&mut self, _: &Expr) -> ControlFlow<Span> {
            self.0 -= 1;
            ControlFlow::Continue(())
        }
    }
    match tree.visit(&mut Depth(0)) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(span) => {
            let span = if span == Span::empty() { tokens.first().map_or(span, |token| token.span) } else { span };
            let message = format!("the expression is nested more than {DEPTH_MAX} deep");
            Err(Problem::new(Code::NotSupported, span, message).hint("split it into several views"))
        }
    }
}

/// Makes a parser of ours: its dialect, its limits.
pub(crate) fn parser(tokens: &[TokenWithSpan]) -> Parser<'static> {
    const DIALECT: GenericDialect = GenericDialect {};
    Parser::new(&DIALECT).with_recursion_limit(NESTING_MAX).with_tokens_with_locations(tokens.to_vec())
}

fn shown(token: &TokenWithSpan) -> String {
    if token.token == Token::EOF { "the end of the statement".to_owned() } else { token.token.to_string() }
}

/// Refuses names that could not be the name of a folder, of a column in Parquet, or that are ours.
fn checked_name(name: Name, what: &str) -> Result<Name, Problem> {
    if name.value.contains('$') {
        let message = format!("a {what} has no $ in it: \"{}\"", name.value);
        return Err(
            Problem::new(Code::BadName, name.span, message).hint("$ is for hidden tables, such as readings$dead")
        );
    }
    let fits = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == '-';
    if name.value.is_empty() || name.value.len() > NAME_BYTES_MAX || !name.value.chars().all(fits) {
        let message =
            format!("\"{}\" cannot be the name of a {}", name.value, if what == "name" { "table" } else { what });
        return Err(Problem::new(Code::BadName, name.span, message).hint("use letters, digits, _ and -"));
    }
    Ok(name)
}

/// A name becomes the name of a folder: with a suffix it must stay below the 255 bytes of a file name.
const NAME_BYTES_MAX: usize = 128;

/// Recognises Flink's `TUMBLE(TABLE t, DESCRIPTOR(ts), …)`, and answers with the same in our words.
pub(crate) fn refuse_flink_window(text: &str, tokens: &[TokenWithSpan]) -> Result<(), Problem> {
    let significant: Vec<&TokenWithSpan> = tokens.iter().filter(|token| !is_space(token)).collect();
    let Some(at) = significant.windows(3).position(|three| {
        ["TUMBLE", "HOP", "SESSION", "CUMULATE"].iter().any(|name| is_word(three[0], name))
            && three[1].token == Token::LParen
            && is_word(three[2], "TABLE")
    }) else {
        return Ok(());
    };
    let mut depth = 0usize;
    let close = significant[at..].iter().position(|token| {
        match token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            _ => return false,
        }
        depth == 0
    });
    let call = &significant[at..close.map_or(significant.len(), |close| at + close + 1)];
    let span = call[0].span.union(&call[call.len() - 1].span);
    let (mut rewritten, mut open, mut end): (String, bool, Option<Span>) = (String::new(), false, None);
    for token in call {
        if is_word(token, "TABLE") || is_word(token, "DESCRIPTOR") {
            open |= is_word(token, "DESCRIPTOR");
            end = None;
            if !rewritten.ends_with('(') {
                rewritten.push(' ');
            }
            continue;
        }
        if open && token.token == Token::LParen {
            continue;
        }
        if open && token.token == Token::RParen {
            open = false;
            continue;
        }
        let spaced = end.is_some_and(|end: Span| end.end != token.span.start);
        if spaced && !rewritten.ends_with([' ', '(']) && !matches!(token.token, Token::Comma | Token::RParen) {
            rewritten.push(' ');
        }
        rewritten.push_str(slice(text, token.span));
        end = Some(token.span);
    }
    Err(Problem::new(Code::Syntax, span, "this is how Flink writes a window").hint(format!("write FROM {rewritten}")))
}
