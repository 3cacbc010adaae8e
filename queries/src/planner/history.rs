//! The same windows in questions about the past: `TUMBLE` and `HOP` over a stored table become plain SQL.
//!
//! ```text
//!   FROM TUMBLE(raw, ts, size)        FROM (SELECT raw.*, date_bin(size, ts) AS window_start, … FROM raw) AS raw
//!   FROM HOP(raw, ts, slide, size)    the same, once for each window that a row is in
//! ```
//! So a view pasted as a SELECT over the raw history gives the numbers that the stream gave.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::sql::sqlparser::ast::{Expr, Query, Select, SetExpr, TableFactor, VisitMut, VisitorMut};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};
use tidemill_engine::window::WindowAssigner;

use super::names::{Functions, Names};
use super::on_deep_stack;
use super::stream::{WINDOW_END, WINDOW_START};
use super::window::{self, WindowCall, interval_us};
use crate::diagnostic::{Code, Diagnostic, Problem};
use crate::statement::{
    Name, check_depth, check_length, is_word, normalize, parser, refuse_flink_window, split_emit, syntax_problem,
    tokenize,
};

/// Replaces the windows in a question by plain SQL, and leaves `EMIT ON WINDOW CLOSE` out. A text without windows
/// comes back as it is.
///
/// `columns_of` names the columns of a table. It is asked because a window's `window_start` and `window_end` hide those
/// of a table that has windows already; a table it does not know is taken to have none.
pub fn rewrite_windows_for_history(
    sql: &str,
    columns_of: &dyn Fn(&str) -> Option<Vec<String>>,
) -> Result<String, Diagnostic> {
    on_deep_stack(|| rewrite(sql, columns_of)).map_err(|problem| problem.into_diagnostic("query", sql))
}

fn rewrite(sql: &str, columns_of: &dyn Fn(&str) -> Option<Vec<String>>) -> Result<String, Problem> {
    let (tokens, broken) = tokenize(sql);
    let has_windows = tokens.iter().any(|token| ["TUMBLE", "HOP", "EMIT"].iter().any(|word| is_word(token, word)));
    if broken.is_some() || !has_windows {
        // What is no SQL is better explained by who answers it.
        return Ok(sql.to_owned());
    }
    let end = tokens.iter().rposition(is_meant).map_or(0, |last| last + 1);
    let (tokens, _) = split_emit(&tokens[..end])?;
    check_length(tokens)?;
    refuse_flink_window(sql, tokens)?;
    let mut statement = parser(tokens).parse_statement().map_err(|error| syntax_problem(&error, tokens))?;
    check_depth(&statement, tokens)?;
    let mut windows = Windows { functions: Functions::new(), columns_of };
    match statement.visit(&mut windows) {
        ControlFlow::Break(problem) => Err(problem),
        ControlFlow::Continue(()) => Ok(statement.to_string()),
    }
}

/// Whether a token is more than an end: a question may end with any number of `;`.
fn is_meant(token: &TokenWithSpan) -> bool {
    !matches!(token.token, Token::Whitespace(_) | Token::SemiColon | Token::EOF)
}

struct Windows<'a> {
    functions: Functions,
    columns_of: &'a dyn Fn(&str) -> Option<Vec<String>>,
}

impl VisitorMut for Windows<'_> {
    type Break = Problem;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Problem> {
        into_flow(self.rewrite_body(&mut query.body))
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Problem> {
        into_flow(self.rewrite_factor(factor))
    }
}

fn into_flow(outcome: Result<(), Problem>) -> ControlFlow<Problem> {
    match outcome {
        Ok(()) => ControlFlow::Continue(()),
        Err(problem) => ControlFlow::Break(problem),
    }
}

impl Windows<'_> {
    /// Rewrites `GROUP BY …, tumble(ts, …)` in every SELECT of a query.
    fn rewrite_body(&self, body: &mut SetExpr) -> Result<(), Problem> {
        match body {
            SetExpr::Select(select) => self.rewrite_group_by(select),
            SetExpr::SetOperation { left, right, .. } => {
                self.rewrite_body(left)?;
                self.rewrite_body(right)
            }
            _ => Ok(()),
        }
    }

    fn rewrite_group_by(&self, select: &mut Select) -> Result<(), Problem> {
        let Some(TableFactor::Table { name, args: None, .. }) = select.from.first().map(|from| &from.relation) else {
            return Ok(());
        };
        let Some(ident) = name.0.last().and_then(|part| part.as_ident()) else { return Ok(()) };
        let relation = normalize(ident);
        if let Some(call) = window::take_from_group_by(select, &relation)? {
            let factor = &mut select.from[0].relation;
            *factor = self.windowed(&call, factor)?;
        }
        Ok(())
    }

    fn rewrite_factor(&self, factor: &mut TableFactor) -> Result<(), Problem> {
        let TableFactor::Table { name, args: Some(args), .. } = &*factor else { return Ok(()) };
        // Other table functions are none of ours.
        if !window::is_function(&name.to_string().to_lowercase()) {
            return Ok(());
        }
        let call = window::from_table_function(name, args.args.clone())?;
        *factor = self.windowed(&call, factor)?;
        Ok(())
    }

    /// Makes the table that stands for a window over a table.
    fn windowed(&self, call: &WindowCall, factor: &TableFactor) -> Result<TableFactor, Problem> {
        let names = Names { functions: &self.functions, relation: "", schema: Arc::new(Schema::empty()) };
        let assigner = window::assigner(call, |expr: &Expr| interval_us(expr, &names))?;
        let alias = match factor {
            TableFactor::Table { alias: Some(alias), .. } => alias.to_string(),
            _ => format!("AS {}", quoted(&call.relation.value)),
        };
        let select =
            select_text(&call.relation, &quoted(&call.time.value), &assigner, &self.kept_columns(&call.relation));
        let text = format!("SELECT * FROM ({select}) {alias}");
        let wrong = |detail: String| Problem::new(Code::Syntax, call.span, detail);
        let (tokens, _) = tokenize(&text);
        let mut query = parser(&tokens).parse_query().map_err(|error| wrong(error.to_string()))?;
        match query.body.as_mut() {
            SetExpr::Select(select) if !select.from.is_empty() => Ok(select.from.remove(0).relation),
            _ => Err(wrong(format!("cannot read {text}"))),
        }
    }

    /// The columns of a table that its windows do not hide.
    fn kept_columns(&self, relation: &Name) -> String {
        let table = quoted(&relation.value);
        let columns = (self.columns_of)(&relation.value).unwrap_or_default();
        let hidden = |column: &String| column == WINDOW_START || column == WINDOW_END;
        if !columns.iter().any(hidden) {
            return format!("{table}.*");
        }
        let kept = columns.iter().filter(|column| !hidden(column));
        kept.map(|column| format!("{table}.{}", quoted(column))).collect::<Vec<_>>().join(", ")
    }
}

fn select_text(relation: &Name, time: &str, assigner: &WindowAssigner, columns: &str) -> String {
    let table = quoted(&relation.value);
    let time = format!("{table}.{time}");
    let interval = |us: i64| format!("INTERVAL '{us} microseconds'");
    let (size_us, slide_us) = match *assigner {
        WindowAssigner::Tumbling { size_us } => (size_us, size_us),
        WindowAssigner::Hopping { size_us, slide_us } => (size_us, slide_us),
    };
    let (size, slide) = (interval(size_us), interval(slide_us));
    if size_us == slide_us {
        let start = format!("date_bin({size}, {time})");
        return format!(
            "SELECT {columns}, {start} AS {WINDOW_START}, {start} + {size} AS {WINDOW_END} FROM {table} WHERE {time} IS NOT NULL"
        );
    }
    // The last window that a row is in began with its slide; the others began whole slides before.
    let windows = (size_us + slide_us - 1) / slide_us;
    let shifts: Vec<String> = (0..windows).map(|back| format!("({})", interval(back * slide_us))).collect();
    let start = format!("date_bin({slide}, {time}) - \"hop$\".\"back\"");
    format!(
        "SELECT {columns}, {start} AS {WINDOW_START}, {start} + {size} AS {WINDOW_END} \
         FROM {table} CROSS JOIN (VALUES {}) AS \"hop$\" (\"back\") WHERE {start} + {size} > {time}",
        shifts.join(", ")
    )
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringViewArray, TimestampMicrosecondArray};
    use arrow::util::pretty::pretty_format_batches;
    use datafusion::prelude::SessionContext;

    use super::*;

    const SECOND_US: i64 = 1_000_000;

    /// Readings at -1 s, 0 s, 9 s, 10 s and 61 s.
    fn readings() -> RecordBatch {
        let seconds = [-1, 0, 9, 10, 61];
        let times = TimestampMicrosecondArray::from_iter_values(seconds.map(|second| second * SECOND_US));
        let columns: [(&str, ArrayRef); 3] = [
            ("device", Arc::new(StringViewArray::from_iter_values(["a", "a", "b", "a", "a"]))),
            ("t", Arc::new(Float64Array::from(vec![1.0, 2.0, 3.0, 4.0, 5.0]))),
            ("ts", Arc::new(times.with_timezone("UTC"))),
        ];
        RecordBatch::try_from_iter(columns).expect("columns of one length")
    }

    async fn answer(sql: &str) -> String {
        let context = SessionContext::new();
        context.register_batch("readings", readings()).expect("a table");
        let columns = |table: &str| (table == "windows").then(|| vec!["device".to_owned(), "window_start".to_owned()]);
        let windows = "SELECT device, ts AS window_start FROM readings";
        let batches = context.sql(windows).await.expect("a query").collect().await.expect("rows");
        context.register_batch("windows", batches[0].clone()).expect("a table");
        let rewritten = rewrite_windows_for_history(sql, &columns).expect("windows as plain SQL");
        let rows = context.sql(&rewritten).await.expect(&rewritten).collect().await.expect("rows");
        pretty_format_batches(&rows).expect("text").to_string()
    }

    #[tokio::test]
    async fn tumbling_windows_over_history_are_those_of_the_stream() {
        let expected = "\
+--------+----------------------+----------------------+---+-----+
| device | window_start         | window_end           | n | s   |
+--------+----------------------+----------------------+---+-----+
| a      | 1969-12-31T23:59:50Z | 1970-01-01T00:00:00Z | 1 | 1.0 |
| a      | 1970-01-01T00:00:00Z | 1970-01-01T00:00:10Z | 1 | 2.0 |
| b      | 1970-01-01T00:00:00Z | 1970-01-01T00:00:10Z | 1 | 3.0 |
| a      | 1970-01-01T00:00:10Z | 1970-01-01T00:00:20Z | 1 | 4.0 |
| a      | 1970-01-01T00:01:00Z | 1970-01-01T00:01:10Z | 1 | 5.0 |
+--------+----------------------+----------------------+---+-----+";
        let select = "SELECT readings.device, window_start, window_end, count(*) AS n, sum(t) AS s";
        for from in [
            "FROM TUMBLE(readings, ts, INTERVAL '10 seconds') GROUP BY device, window_start, window_end",
            "FROM readings GROUP BY device, tumble(ts, INTERVAL '10' SECOND)",
        ] {
            let sql = format!("SELECT * FROM ({select} {from}) AS x ORDER BY window_start, device;");
            assert_eq!(answer(&sql).await, expected, "{from}");
        }
    }

    #[tokio::test]
    async fn a_row_is_in_every_hopping_window_around_it() {
        let expected = "\
+----------------------+----------------------+---+
| window_start         | window_end           | n |
+----------------------+----------------------+---+
| 1969-12-31T23:59:40Z | 1970-01-01T00:00:05Z | 2 |
| 1970-01-01T00:00:00Z | 1970-01-01T00:00:25Z | 3 |
+----------------------+----------------------+---+";
        // A width that is no multiple of the slide.
        let sql = "SELECT h.window_start, window_end, count(*) AS n FROM HOP(readings, ts, INTERVAL '20 seconds', INTERVAL '25 seconds') h \
                   WHERE ts < TIMESTAMP '1970-01-01T00:00:30Z' GROUP BY h.window_start, window_end ORDER BY 1 EMIT ON WINDOW CLOSE";
        assert_eq!(answer(sql).await, expected);
    }

    #[tokio::test]
    async fn windows_over_windows_hide_those_of_the_table() {
        let sql = "SELECT window_start, count(*) AS n FROM TUMBLE(windows, window_start, INTERVAL '1 minute') GROUP BY window_start ORDER BY 1";
        let expected = "\
+----------------------+---+
| window_start         | n |
+----------------------+---+
| 1969-12-31T23:59:00Z | 1 |
| 1970-01-01T00:00:00Z | 3 |
| 1970-01-01T00:01:00Z | 1 |
+----------------------+---+";
        assert_eq!(answer(sql).await, expected);
    }

    #[test]
    fn what_has_no_windows_comes_back_as_it_is() {
        for sql in ["SELECT 1", "select  'tumble' -- TUMBLE(", "SELECT '", "SHOW TABLES;"] {
            assert_eq!(rewrite_windows_for_history(sql, &|_| None).expect("unchanged"), sql);
        }
    }

    #[test]
    fn mistakes_in_a_window_have_their_place() {
        let error = rewrite_windows_for_history("SELECT *\nFROM TUMBLE(readings, ts, '1 minute')", &|_| None);
        let error = error.expect_err("no interval");
        assert_eq!((error.line, error.column, error.message.as_str()), (2, 27, "expected an interval"));
    }
}
