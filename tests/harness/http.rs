//! The program's HTTP side, as a client sees it.

use std::time::Duration;

use serde_json::{Value, json};

use super::wait::while_it_moves;

/// Longer than anything the program should need for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// How long a question may have the same answer that is not yet the expected one.
const QUERY_STILL_MAX: Duration = Duration::from_secs(60);
/// How long a source may get no further.
const SETTLE_STILL_MAX: Duration = Duration::from_secs(60);

/// A client of one server.
#[derive(Clone)]
pub(crate) struct Client {
    client: reqwest::Client,
    base: String,
}

impl Client {
    /// Makes a client for a port of this machine.
    pub(crate) fn new(port: u16) -> Client {
        let client = reqwest::Client::builder().timeout(ANSWER_MAX).no_proxy().build().expect("a client");
        Client { client, base: format!("http://127.0.0.1:{port}") }
    }

    /// Gets a path: status and body.
    pub(crate) async fn get(&self, path: &str) -> reqwest::Result<(u16, String)> {
        let answer = self.client.get(format!("{}{path}", self.base)).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    /// Posts a body: status and body of the answer.
    pub(crate) async fn post(
        &self,
        path: &str,
        kind: &str,
        body: impl Into<reqwest::Body>,
    ) -> reqwest::Result<(u16, String)> {
        let request = self.client.post(format!("{}{path}", self.base)).header("content-type", kind);
        let answer = request.body(body).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    /// Posts a body with headers: status and body of the answer.
    pub(crate) async fn post_with(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> reqwest::Result<(u16, String)> {
        let answer = self.answer(path, headers, body).await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    /// Posts gzipped NDJSON: status and body of the answer.
    pub(crate) async fn post_gzip(&self, path: &str, body: Vec<u8>) -> reqwest::Result<(u16, String)> {
        let request = self.client.post(format!("{}{path}", self.base)).header("content-type", "application/x-ndjson");
        let answer = request.header("content-encoding", "gzip").body(body).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    /// Posts NDJSON rows to a source.
    pub(crate) async fn ingest(&self, source: &str, lines: String) -> reqwest::Result<(u16, String)> {
        self.post(&format!("/api/v1/ingest/{source}"), "application/x-ndjson", lines).await
    }

    /// Posts a row that is to be refused: status, `Retry-After` and body of the answer.
    pub(crate) async fn ingest_refused(&self, source: &str, row: &str) -> (u16, Option<String>, String) {
        let path = format!("/api/v1/ingest/{source}");
        let answer = self.answer(&path, &[("content-type", "application/json")], row).await.expect("an answer");
        let retry_after = answer.headers().get("retry-after").map(|value| value.to_str().expect("text").to_owned());
        (answer.status().as_u16(), retry_after, answer.text().await.expect("a body"))
    }

    /// Posts a body with headers: the answer as it is.
    pub(crate) async fn answer(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Vec<u8>>,
    ) -> reqwest::Result<reqwest::Response> {
        let request = self.client.post(format!("{}{path}", self.base));
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        request.body(body.into()).send().await
    }

    /// Posts NDJSON rows that must be acknowledged; what does not decode becomes a dead letter.
    pub(crate) async fn ingest_durably(&self, source: &str, lines: &str) {
        let path = format!("/api/v1/ingest/{source}?on_error=dead_letter");
        let (status, body) = self.post(&path, "application/x-ndjson", lines.to_owned()).await.expect("an answer");
        assert_eq!(status, 200, "{body}");
    }

    /// Asks a question in SQL; an object for each row.
    pub(crate) async fn query(&self, sql: &str) -> Result<Vec<Value>, String> {
        let body = json!({ "sql": sql }).to_string();
        let answer = self.post("/api/v1/query", "application/json", body).await.map_err(|error| error.to_string())?;
        match answer {
            (200, text) => rows_of(&text),
            (status, text) => Err(format!("{status}: {text}")),
        }
    }

    /// Asks again and again until the first column of the first row equals a number, as long as the answers change.
    pub(crate) async fn query_until(&self, sql: &str, expected: i64) {
        while_it_moves(&format!("{sql} gives {expected}"), QUERY_STILL_MAX, async || {
            let answer = self.query(sql).await;
            let number = |rows: &Vec<Value>| rows.first()?.as_object()?.values().next()?.as_i64();
            match answer.as_ref().ok().and_then(number) {
                Some(first) if first == expected => Ok(()),
                _ => Err(answer),
            }
        })
        .await;
    }

    /// Waits until a source has dealt with this many rows since the log's beginning, and nothing is in flight: what
    /// is sent after it falls into a later epoch.
    pub(crate) async fn settled(&self, source: &str, rows: u64) {
        let what = format!("{source} has dealt with {rows} rows");
        while_it_moves(&what, SETTLE_STILL_MAX, async || {
            let (dealt, is_quiet) = self.dealt(source).await.unwrap_or_default();
            if dealt >= rows && is_quiet { Ok(()) } else { Err((dealt, is_quiet)) }
        })
        .await;
    }

    /// Waits until nothing is in flight: each epoch that has rows is complete.
    pub(crate) async fn quiet(&self) {
        while_it_moves("nothing is in flight", SETTLE_STILL_MAX, async || {
            let status = self.status().await.unwrap_or_default();
            if is_quiet(&status) { Ok(()) } else { Err(status["completed_epoch"].clone()) }
        })
        .await;
    }

    async fn status(&self) -> Option<Value> {
        let (_, text) = self.get("/api/v1/status").await.ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Returns how many rows a source has dealt with, and whether nothing is in flight.
    async fn dealt(&self, source: &str) -> Option<(u64, bool)> {
        let status = self.status().await?;
        let found = status["sources"].as_array()?.iter().find(|entry| entry["name"] == source)?;
        let dealt = ["rows", "dead", "quarantined"].iter().filter_map(|key| found[*key].as_u64()).sum::<u64>();
        Some((dealt, is_quiet(&status)))
    }
}

fn is_quiet(status: &Value) -> bool {
    status["rows_in_flight"] == 0 && status["sealed_epoch"] == status["completed_epoch"]
}

/// Reads rows from an answer: a JSON array of objects, or an object that holds one as `rows`.
pub(crate) fn rows_of(text: &str) -> Result<Vec<Value>, String> {
    match serde_json::from_str(text).map_err(|error| format!("{error} in {text}"))? {
        Value::Array(rows) => Ok(rows),
        Value::Object(mut answer) => match answer.remove("rows") {
            Some(Value::Array(rows)) => Ok(rows),
            _ => Err(format!("no rows in {text}")),
        },
        _ => Err(format!("no rows in {text}")),
    }
}
