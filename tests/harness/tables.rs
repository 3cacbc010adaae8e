//! What is on disk, told by foreign readers: the `deltalake` package lists the files, DuckDB answers.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::ledger::COLUMNS;
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

    /// Makes a table known as it was at an older version.
    pub(crate) fn table_at(&mut self, name: &str, path: &Path, version: u64) {
        self.expect(&json!({ "table": name, "path": path, "version": version }));
    }

    /// Makes a table known like [`Judge::table`], with one more column: the `version` that brought the row. Beside it
    /// stands `<name>_versions`, with the epoch of each version.
    pub(crate) fn history(&mut self, name: &str, path: &Path) {
        self.expect(&json!({ "history": name, "path": path }));
    }

    /// Makes ledgers (`*` stands for any text in the path) known by a name.
    pub(crate) fn ledger(&mut self, name: &str, path: &Path) {
        self.expect(&json!({ "ledger": name, "path": path, "columns": COLUMNS }));
    }

    /// Reads an ingest log, and asks the model of windows about it: tables `log`, `model_w` and `model_late`.
    pub(crate) fn log(&mut self, folder: &Path, sources: &Value) {
        self.expect(&json!({ "log": folder, "sources": sources }));
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

    /// Returns how many rows a query gives that should give none, and the claim with the first of them.
    pub(crate) fn offences(&mut self, claim: &str, sql: &str) -> Option<(u64, String)> {
        let count = self.number(&format!("SELECT count(*) FROM ({sql})"));
        if count == 0 {
            return None;
        }
        let rows = self.rows(&format!("SELECT * FROM ({sql}) LIMIT 5"));
        let rows: Vec<Value> = rows.into_iter().map(Value::Object).collect();
        Some((count.unsigned_abs(), format!("{claim}: {count}, such as {}", Value::Array(rows))))
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
