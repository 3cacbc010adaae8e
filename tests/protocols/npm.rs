//! Libraries of npm write to us, and exactly their rows are in the tables.

use serde_json::json;

use super::{rows_are, start};
use crate::harness::folder::Folder;
use crate::harness::node::node;

#[tokio::test(flavor = "multi_thread")]
async fn libraries_of_npm_write_points_samples_and_metrics() {
    let folder = Folder::new();
    let (serve, program) = start(&folder).await;
    let port = serve.http.to_string();
    tokio::task::spawn_blocking(move || node("protocols/npm.cjs", &[&port])).await.expect("the script succeeds");
    let expected = json!([
        {"host": "a,b", "usage": 1.5, "ts": "2023-11-14T22:13:20Z"},
        {"host": "c", "usage": 2.0, "ts": "2023-11-14T22:13:20.001Z"},
    ]);
    let sql = "SELECT host, usage, ts FROM cpu_history WHERE measurement = 'one' ORDER BY ts";
    rows_are(&program, sql, expected).await;
    let sql =
        "SELECT host, count(*) AS n, sum(usage) AS s FROM cpu_history WHERE measurement = 'two' GROUP BY 1 ORDER BY 1";
    let expected = json!([
        {"host": "h 0", "n": 334, "s": 41_708.25},
        {"host": "h 1", "n": 333, "s": 41_541.75},
        {"host": "h 2", "n": 333, "s": 41_625.0},
    ]);
    rows_are(&program, sql, expected).await;
    let expected = json!([
        {"instance": "x", "value": 1.0, "ts": "2023-11-14T22:13:20Z"},
        {"instance": "x", "value": 0.0, "ts": "2023-11-14T22:13:21Z"},
        {"instance": "y", "value": 1.0, "ts": "2023-11-14T22:13:20Z"},
    ]);
    rows_are(&program, "SELECT instance, value, ts FROM up WHERE job = 'npm' ORDER BY instance, ts", expected).await;
    let expected = json!([
        {"metric": "requests", "value": 3.0, "sum": null, "room": "json"},
        {"metric": "requests", "value": 3.0, "sum": null, "room": "proto"},
        {"metric": "rtt", "value": null, "sum": 0.25, "room": "json"},
        {"metric": "rtt", "value": null, "sum": 0.25, "room": "proto"},
    ]);
    let sql = "SELECT metric, value, sum, room FROM otel_history WHERE service_name = 'npm' ORDER BY metric, room";
    rows_are(&program, sql, expected).await;
    program.stop().await;
}
