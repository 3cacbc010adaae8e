//! `CREATE SINK` against real receivers: what a view gives arrives, whoever dies.

mod degradation;
mod files;
mod http;
mod mqtt;
mod outbox;
mod page;
mod receiver;
mod scripted;
pub(crate) mod subscriber;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::harness::http::Client;
use crate::harness::program::{Program, Serve};
use crate::harness::wait::while_it_moves;

/// Longer than a debug build on a busy machine needs until it gets on with what it has to deliver.
const DELIVERY_MAX: Duration = Duration::from_secs(60);
/// Rows that are taken while a program is killed again and again: fewer prove little.
const ROWS_MIN: u64 = 600;

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

/// Whether everything is delivered, and the next row would be.
fn all_is_well(sink: &Value) -> bool {
    sink["outbox_rows"] == 0 && sink["breaker"] == "closed" && sink["connected"] == true
}

/// Waits until the sink looks as it should.
async fn sink_until(http: &Client, what: &str, mut is_so: impl FnMut(&Value) -> bool) -> Value {
    while_it_moves(what, DELIVERY_MAX, async || match sink(http).await {
        Some(sink) if is_so(&sink) => Ok(sink),
        sink => Err(sink),
    })
    .await
}

/// Kills the program again and again while rows come, fifty and then a pause; `live` is how long it may live each time. Returns
/// the row that comes next.
async fn kill_while_rows_come(serve: &Serve, kills: usize, pause: Duration, mut live: impl AsyncFnMut()) -> u64 {
    let (mut next, taken) = (0, Arc::<AtomicU64>::default());
    let mut life = 0;
    // On a busy machine a life may be over before a row has come: then there are more.
    while life < kills || taken.load(Ordering::SeqCst) < ROWS_MIN {
        life += 1;
        let program = serve.start_ready().await;
        let http = program.http.clone();
        let (from, taken) = (next, Arc::clone(&taken));
        let sending = tokio::spawn(async move {
            let mut at = from;
            // Each row is sent once: whether it was taken is told by the table.
            while let Ok((status, _)) = http.ingest("readings", lines(at, at + 50)).await {
                taken.fetch_add(if status == 200 { 50 } else { 0 }, Ordering::SeqCst);
                at += 50;
                tokio::time::sleep(pause).await;
            }
            at + 50
        });
        live().await;
        program.kill9();
        next = sending.await.expect("it sends until it cannot");
    }
    next
}

/// Lets the program deliver everything, with a few rows more, from `next` on. Returns it, and what the view's table has.
async fn deliver_all(serve: &Serve, next: u64) -> (Program, Vec<u64>) {
    let program = serve.start_ready().await;
    program.http.ingest_durably("readings", &lines(next, next + 10)).await;
    program.http.query_until(&format!("SELECT count(*) AS n FROM hot WHERE n >= {next}"), 10).await;
    sink_until(&program.http, "everything is delivered", |sink| sink["outbox_rows"] == 0).await;
    let rows = program.http.query("SELECT n FROM hot ORDER BY n").await.expect("rows");
    let stored = rows.iter().filter_map(|row| row["n"].as_u64()).collect();
    (program, stored)
}
