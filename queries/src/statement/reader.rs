//! Reads one `CREATE` statement from its tokens.

use datafusion::sql::sqlparser::ast::{BinaryOperator, DataType as SqlType, Expr, Spanned};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan};

use super::flink::refuse_flink_window;
use super::limits::{check_depth, parser};
use super::{
    ColumnDefinition, CreateSink, CreateSource, CreateView, DedupClause, Name, OptionEntry, OptionList,
    WatermarkClause, data_type, is_word, normalize, slice, split_emit, syntax_problem,
};
use crate::diagnostic::{Code, Problem};

/// Reads one statement.
pub(super) struct Reader<'a> {
    text: &'a str,
    tokens: &'a [TokenWithSpan],
    parser: Parser<'a>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str, tokens: &'a [TokenWithSpan]) -> Self {
        Reader { text, tokens, parser: parser(tokens) }
    }

    fn syntax<T>(&self, outcome: Result<T, ParserError>) -> Result<T, Problem> {
        outcome.map_err(|error| syntax_problem(&error, self.tokens))
    }

    pub(super) fn here(&self) -> Span {
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

    /// Takes a sign if it is there.
    pub(super) fn take(&mut self, token: &Token) -> bool {
        self.parser.consume_token(token)
    }

    /// Takes a bare word, in lower case.
    pub(super) fn word(&mut self) -> Option<Name> {
        let token = self.parser.peek_token_ref();
        let Token::Word(word) = &token.token else { return None };
        let name = Name { value: word.value.to_lowercase(), span: token.span };
        self.parser.advance_token();
        Some(name)
    }

    /// Takes a text in single quotes.
    pub(super) fn single_quoted(&mut self) -> Option<String> {
        let Token::SingleQuotedString(text) = &self.parser.peek_token_ref().token else { return None };
        let text = text.clone();
        self.parser.advance_token();
        Some(text)
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.parser.peek_token_ref().token == Token::EOF
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
    pub(super) fn created_name(&mut self) -> Result<Name, Problem> {
        let _ = self.parser.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
        let name = self.identifier()?;
        if self.parser.peek_token_ref().token == Token::Period {
            return Err(Problem::new(Code::NotSupported, self.here(), "names have one part: there are no schemas")
                .hint("write one name, such as plant_readings"));
        }
        checked_name(name, "name")
    }

    pub(super) fn skip_to_kind(&mut self) {
        while !["SOURCE", "VIEW", "SINK", "SECRET"].iter().any(|kind| self.at_word(0, kind)) {
            self.parser.advance_token();
        }
        self.parser.advance_token();
    }

    pub(super) fn create_source(&mut self) -> Result<CreateSource, Problem> {
        self.skip_to_kind();
        let name = self.created_name()?;
        let mut columns: Vec<ColumnDefinition> = Vec::new();
        let (mut watermark, mut dedup) = (None, None);
        self.expect(&Token::LParen)?;
        loop {
            if self.at_word(0, "WATERMARK") && self.at_word(1, "FOR") {
                let span = self.here();
                if watermark.is_some() {
                    return Err(Problem::new(Code::DuplicateName, span, "a source has one watermark"));
                }
                watermark = Some(self.watermark()?);
            } else if self.at_word(0, "DEDUP") && self.at_word(1, "KEY") {
                let span = self.here();
                if dedup.is_some() {
                    return Err(Problem::new(Code::DuplicateName, span, "a source has one DEDUP KEY")
                        .hint("name all columns in it: DEDUP KEY (site, id) WITHIN INTERVAL '10 minutes'"));
                }
                dedup = Some(self.dedup()?);
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
        Ok(CreateSource { name, columns, watermark, dedup, options })
    }

    fn column(&mut self) -> Result<ColumnDefinition, Problem> {
        let name = checked_name(self.identifier()?, "column")?;
        let type_span = self.here();
        let written = self.column_type()?;
        let data_type = data_type::from_sql(&written, type_span)?;
        let (mut nullable, mut metadata) = (true, None);
        loop {
            let span = self.here();
            if self.parser.parse_keywords(&[Keyword::NOT, Keyword::NULL]) {
                nullable = false;
            } else if self.parser.parse_keyword(Keyword::NULL) {
                nullable = true;
            } else if self.take_word("METADATA") {
                if metadata.is_some() {
                    return Err(Problem::new(Code::Syntax, span, "METADATA stands twice"));
                }
                metadata = Some(self.metadata_name(&name)?);
            } else if let Token::Word(word) = &self.parser.peek_token_ref().token {
                let upper = word.value.to_uppercase();
                if COLUMN_CLAUSES.contains(&upper.as_str()) {
                    let message = format!("{upper} is not in this version");
                    return Err(Problem::new(Code::NotSupported, span, message)
                        .hint("a column has a type, NOT NULL and METADATA"));
                }
                let message = format!("expected , or ) or NOT NULL after the type, found {}", word.value);
                return Err(Problem::new(Code::Syntax, span, message));
            } else {
                return Ok(ColumnDefinition { name, type_span, data_type, nullable, metadata });
            }
        }
    }

    /// The type of a column; sqlparser knows maps with angle brackets in another dialect only.
    fn column_type(&mut self) -> Result<SqlType, Problem> {
        let is_map = self.at_word(0, "MAP") && self.parser.peek_nth_token_ref(1).token == Token::Lt;
        if !is_map {
            let outcome = self.parser.parse_data_type();
            return self.syntax(outcome);
        }
        self.parser.advance_token();
        self.expect(&Token::Lt)?;
        let key = self.parser.parse_data_type();
        let key = self.syntax(key)?;
        self.expect(&Token::Comma)?;
        let value = self.parser.parse_data_type();
        let value = self.syntax(value)?;
        self.expect(&Token::Gt)?;
        Ok(SqlType::Map(Box::new(key), Box::new(value)))
    }

    /// What stands behind `METADATA`: `FROM 'what'`, or nothing where the column's name says it.
    fn metadata_name(&mut self, column: &Name) -> Result<Name, Problem> {
        if !self.take_word("FROM") {
            return Ok(column.clone());
        }
        let token = self.parser.next_token();
        match &token.token {
            Token::SingleQuotedString(text) => Ok(Name { value: text.clone(), span: token.span }),
            other => {
                let word = match other {
                    Token::Word(word) => word.value.to_lowercase(),
                    _ => "arrival_time".to_owned(),
                };
                let message = format!("expected a quoted name behind METADATA FROM, found {}", shown(&token));
                Err(Problem::new(Code::Syntax, self.place_of(&token), message)
                    .hint(format!("write METADATA FROM '{word}'")))
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

    fn dedup(&mut self) -> Result<DedupClause, Problem> {
        let span = self.expect_word("DEDUP")?.union(&self.expect_word("KEY")?);
        let mut columns: Vec<Name> = Vec::new();
        self.expect(&Token::LParen)?;
        loop {
            let column = self.identifier()?;
            if columns.iter().any(|other| other.value == column.value) {
                let message = format!("column \"{}\" is in the key twice", column.value);
                return Err(Problem::new(Code::DuplicateName, column.span, message));
            }
            columns.push(column);
            if !self.parser.consume_token(&Token::Comma) {
                break;
            }
        }
        self.expect(&Token::RParen)?;
        if !self.at_word(0, "WITHIN") {
            let message = format!("expected WITHIN, found {}", shown(&self.parser.peek_token()));
            return Err(Problem::new(Code::Syntax, self.here(), message)
                .hint("say how long keys are remembered: … WITHIN INTERVAL '10 minutes'"));
        }
        self.expect_word("WITHIN")?;
        let outcome = self.parser.parse_expr();
        let within = self.syntax(outcome)?;
        Ok(DedupClause { columns, within, span })
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

    pub(super) fn create_view(&mut self) -> Result<CreateView, Problem> {
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

    pub(super) fn create_sink(&mut self) -> Result<CreateSink, Problem> {
        self.skip_to_kind();
        let name = self.created_name()?;
        if self.at_word(0, "AS") {
            return Err(Problem::new(Code::NotSupported, self.here(), "a sink has no query of its own").hint(format!(
                "write CREATE MATERIALIZED VIEW … AS SELECT …, then CREATE SINK {} FROM it",
                name.value
            )));
        }
        self.expect_word("FROM")?;
        if self.parser.peek_token_ref().token == Token::LParen {
            return Err(Problem::new(Code::NotSupported, self.here(), "a sink delivers a view, not a query")
                .hint("write CREATE MATERIALIZED VIEW … AS SELECT …, and name it here"));
        }
        let from = self.identifier()?;
        let options = self.options(&name)?;
        self.end()?;
        let span = self.tokens[0].span.union(&self.tokens[self.tokens.len() - 1].span);
        Ok(CreateSink { name, from, options, text: slice(self.text, span).to_owned() })
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
    ["PRIMARY", "UNIQUE", "DEFAULT", "CHECK", "REFERENCES", "VIRTUAL", "GENERATED", "COLLATE", "COMMENT"];

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
    // A column may be a field of a field: "position.lat".
    let is_good = match what {
        "column" => name.value.split('.').all(is_name),
        _ => is_name(&name.value),
    };
    if !is_good {
        let message =
            format!("\"{}\" cannot be the name of a {}", name.value, if what == "name" { "table" } else { what });
        return Err(Problem::new(Code::BadName, name.span, message).hint("use letters, digits, _ and -"));
    }
    Ok(name)
}

/// Whether this can be the name of a table or a column.
pub(crate) fn is_name(name: &str) -> bool {
    let fits = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == '-';
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.chars().all(fits)
}

/// A name becomes the name of a folder: with a suffix it must stay below the 255 bytes of a file name.
const NAME_BYTES_MAX: usize = 128;
