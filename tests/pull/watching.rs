//! Watching: scrapes of real exporters, and targets that fail.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::json;

use super::server::Server;
use super::{number, targets};
use crate::harness::folder::Folder;
use crate::harness::program::{Serve, free_port, installed};
use crate::harness::wait::eventually;

const PATIENCE: Duration = Duration::from_secs(60);

/// A program that ends with the test.
struct Exporter(Child);

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn pipeline(urls: &str) -> String {
    format!(
        "CREATE SOURCE metrics (metric TEXT NOT NULL, labels MAP<TEXT, TEXT>, value DOUBLE, ts TIMESTAMP, room TEXT,\n\
         type TEXT, target TEXT METADATA FROM 'url')\n\
         WITH (connector = 'http_poll', url = '{urls}', format = 'prometheus', interval = '200 ms');\n\
         CREATE MATERIALIZED VIEW scraped AS SELECT metric, value, room, type, target FROM metrics;\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn real_exporters_are_scraped_and_one_that_is_down_is_a_row_a_gauge_and_a_word() {
    let folder = Folder::new();
    let server = Server::start();
    let port = free_port();
    let _exporter = Exporter(
        Command::new(installed("prometheus-node-exporter"))
            .args([format!("--web.listen-address=127.0.0.1:{port}"), "--collector.disable-defaults".to_owned()])
            .args(["--collector.loadavg", "--collector.uname"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the exporter starts"),
    );
    let (python, node) = (server.url("/metrics"), format!("http://127.0.0.1:{port}/metrics"));
    let serve = Serve::new(&folder, &pipeline(&format!("{python}, {node}")));
    // The program itself is an exporter, too.
    let own = format!("http://127.0.0.1:{}/metrics", serve.http);
    std::fs::write(&serve.pipeline, pipeline(&format!("{python}, {node}, {own}"))).expect("a writable file");
    let program = serve.start_ready().await;
    let http = &program.http;
    for (metric, target, condition) in [
        ("room_temperature_celsius", &python, "room = 'lab' AND value = 21.5 AND type = 'gauge'"),
        ("room_temperature_celsius", &python, "room = 'a \"b\"\\c' AND value = -3"),
        ("latency_seconds_bucket", &python, "type = 'histogram'"),
        ("requests_total", &python, "value >= 2"),
        ("node_load1", &node, "value >= 0"),
        ("node_uname_info", &node, "value = 1"),
        ("tidemill_source_target_up", &own, "value = 1"),
        ("up", &python, "value = 1"),
        ("up", &node, "value = 1"),
        ("scrape_duration_seconds", &own, "value < 10"),
    ] {
        let sql = format!(
            "SELECT count(*) AS n FROM scraped WHERE metric = '{metric}' AND target = '{target}' AND {condition}"
        );
        let found = async || (number(http, &sql).await? > 0).then_some(());
        eventually(&sql, PATIENCE, found).await;
    }
    assert_eq!(number(http, "SELECT count(*) AS n FROM \"metrics$dead\"").await, Some(0), "every line is a sample");

    server.set("status", 500).await;
    let sql = format!("SELECT count(*) AS n FROM scraped WHERE metric = 'up' AND target = '{python}' AND value = 0");
    let is_down = async || (number(http, &sql).await? >= 5).then_some(());
    eventually("it is down with every beat", PATIENCE, is_down).await;
    // On a busy machine an attempt may fail otherwise once in a while, and so may one at another target.
    let is_open = async || {
        let found = targets(http, "metrics").await.into_iter().next()?;
        let is_told = found["error"] == json!("the server answers 500 Internal Server Error");
        (found["breaker"] != "closed" && found["connected"] == false && is_told).then_some(())
    };
    eventually("the breaker is open, and why is told", PATIENCE, is_open).await;
    let others_answer = "tidemill_source_connected{source=\"metrics\"} 1";
    let shown = async || Some(http.get("/metrics").await.ok()?.1).filter(|text| text.contains(others_answer));
    let text = eventually("the others answer", PATIENCE, shown).await;
    let line = |start: &str| text.lines().find(|line| line.starts_with(start)).map(str::to_owned).unwrap_or_default();
    let labels = format!("{{source=\"metrics\",target=\"{python}\"}}");
    assert_eq!(line(&format!("tidemill_source_target_up{labels}")), format!("tidemill_source_target_up{labels} 0"));
    let breaker = line(&format!("tidemill_circuit_breaker_state{labels}"));
    assert!(breaker.ends_with(" 1") || breaker.ends_with(" 2"), "{breaker}");
    assert!(line("tidemill_source_errors_total{source=\"metrics\",kind=\"status\"}").len() > 10, "{text}");

    server.set("status", 200).await;
    let is_closed = async || (targets(http, "metrics").await.first()?["breaker"] == "closed").then_some(());
    eventually("the breaker closes", Duration::from_secs(150), is_closed).await;
    program.stop().await;
}
