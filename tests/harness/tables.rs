//! What is on disk, told by foreign readers: the `deltalake` package lists the files, DuckDB answers.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::python::Conversation;

/// DuckDB over tables and ledgers.
pub(crate) struct Judge(Conversation);

impl Judge {
    /// Starts the judge.
    pub(crate) fn new() -> Judge {
        Judge(Conversation::with("harness/judge.py"))
    }

    /// Makes a table known by a name, at its newest version. A table that is not there yet is an error.
    pub(crate) fn table(&mut self, name: &str, path: &Path) {
        self.expect(&json!({ "table": name, "path": path }));
    }

    /// Makes a file of JSON lines known by a name, with the types of its columns.
    pub(crate) fn lines(&mut self, name: &str, path: &Path, columns: &str) {
        self.expect(&json!({ "lines": name, "path": path, "columns": columns }));
    }

    /// Returns the rows of a query as objects. Times are text such as `2026-01-01T00:00:05Z`.
    pub(crate) fn rows(&mut self, sql: &str) -> Vec<Map<String, Value>> {
        self.try_rows(sql).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Like [`Judge::rows`], for a query that may be wrong.
    pub(crate) fn try_rows(&mut self, sql: &str) -> Result<Vec<Map<String, Value>>, String> {
        let Value::Array(rows) = self.ask(&json!({ "sql": sql }))? else { return Err(format!("{sql}: no rows")) };
        Ok(rows.into_iter().map(|row| row.as_object().expect("a row").clone()).collect())
    }

    /// Returns the one number that a query gives.
    pub(crate) fn number(&mut self, sql: &str) -> i64 {
        let rows = self.rows(sql);
        let value = rows.first().and_then(|row| row.values().next()).and_then(Value::as_i64);
        value.unwrap_or_else(|| panic!("{sql} gives {rows:?}"))
    }

    /// Returns the claim with the first offences, if a query that should find nothing finds some.
    pub(crate) fn offences(&mut self, claim: &str, sql: &str) -> Option<String> {
        let rows = self.rows(&format!("SELECT * FROM ({sql}) LIMIT 5"));
        let rows: Vec<Value> = rows.into_iter().map(Value::Object).collect();
        (!rows.is_empty()).then(|| format!("{claim}: {}", Value::Array(rows)))
    }

    fn expect(&mut self, question: &Value) {
        self.ask(question).unwrap_or_else(|error| panic!("{error}"));
    }

    fn ask(&mut self, question: &Value) -> Result<Value, String> {
        let mut answer = self.0.ask(question);
        match answer["error"].as_str() {
            None => Ok(answer["ok"].take()),
            Some(error) => Err(format!("{question}: {error}")),
        }
    }
}
