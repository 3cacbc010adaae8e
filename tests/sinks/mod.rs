//! `CREATE SINK` against real receivers: what a view gives arrives, whoever dies.

mod degradation;
mod files;
mod http;
mod lives;
mod mqtt;
mod outbox;
mod page;
mod receiver;
mod scripted;
pub(crate) mod subscriber;

use std::time::Duration;

use serde_json::Value;

use crate::harness::http::Client;
use crate::harness::wait::eventually;

/// Longer than a debug build needs to deliver what a test sends.
const DELIVERY_MAX: Duration = Duration::from_secs(60);

/// Rows `[from, to)`, of devices in turn.
fn lines(from: u64, to: u64) -> String {
    (from..to).map(|n| format!("{{\"n\":{n},\"site\":\"lab\",\"device\":\"d{}\"}}\n", n % 3)).collect()
}

/// A pipeline whose sink delivers every row, with these options beside the topic.
fn pipeline(options: &str) -> String {
    format!(
        "CREATE SOURCE readings (n BIGINT NOT NULL, site TEXT, device TEXT) WITH (connector = 'http');\n\
         CREATE MATERIALIZED VIEW hot AS SELECT n, site, device FROM readings WHERE n >= 0;\n\
         CREATE SINK alerts FROM hot WITH (connector = 'mqtt', topic = 'alerts/{{site}}/{{device}}', {options});\n"
    )
}

/// What the program says of the sink.
async fn sink(http: &Client) -> Option<Value> {
    let (_, text) = http.get("/api/v1/status").await.ok()?;
    let status: Value = serde_json::from_str(&text).ok()?;
    status["sinks"].as_array()?.iter().find(|sink| sink["name"] == "alerts").cloned()
}

/// Waits until the sink looks as it should.
async fn sink_until(http: &Client, what: &str, mut is_so: impl FnMut(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let found = eventually(what, DELIVERY_MAX, async || {
        last = sink(http).await?;
        is_so(&last).then(|| last.clone())
    });
    found.await
}
