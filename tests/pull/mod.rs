//! Sources that fetch, against real servers, through kills of either side; and `docs/pull.md`, which is run as it is written.

mod kills;
mod page;
mod server;
mod sniffing;
mod watching;

use serde_json::Value;

use crate::harness::http::Client;

/// What the program says of the targets of a source.
async fn targets(http: &Client, source: &str) -> Vec<Value> {
    let (_, text) = http.get("/api/v1/status").await.expect("an answer");
    let status: Value = serde_json::from_str(&text).expect("JSON");
    let sources = status["sources"].as_array().cloned().unwrap_or_default();
    let found = sources.into_iter().find(|found| found["name"] == source);
    found.and_then(|found| found["targets"].as_array().cloned()).unwrap_or_default()
}

/// Returns the first column of the first row.
async fn number(http: &Client, sql: &str) -> Option<i64> {
    let rows = http.query(sql).await.ok()?;
    rows.first()?.as_object()?.values().next()?.as_i64()
}
