//! A real Prometheus writes to us, and version 2 of its protocol comes from Google's own encoder.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::{block_for, python, rows_are, start};
use crate::harness::folder::Folder;
use crate::harness::http::Client;
use crate::harness::program::{Program, free_port, installed};
use crate::harness::python::script;
use crate::harness::wait::eventually;

/// A Prometheus of the system's package. Dropping it kills it.
struct Prometheus {
    child: Child,
    http: Client,
}

impl Prometheus {
    fn start(folder: &Folder, config: &str) -> Prometheus {
        let config = folder.write("prometheus.yml", config);
        let port = free_port();
        let log = std::fs::File::create(folder.join("prometheus.log")).expect("a writable file");
        let child = Command::new(installed("prometheus"))
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("prometheus-data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("Prometheus starts");
        Prometheus { child, http: Client::new(port) }
    }

    /// Returns what it has measured itself: time in milliseconds and value.
    async fn ups(&self) -> Option<BTreeMap<i64, i64>> {
        let (status, text) = self.http.get("/api/v1/query?query=up%5B1h%5D").await.ok()?;
        assert_eq!(status, 200, "{text}");
        let answer: Value = serde_json::from_str(&text).ok()?;
        let values = answer["data"]["result"].get(0)?["values"].as_array()?;
        let pair = |pair: &Value| {
            let seconds = pair[0].as_f64().expect("seconds");
            ((seconds * 1e3).round() as i64, pair[1].as_str().expect("text").parse().expect("0 or 1"))
        };
        Some(values.iter().map(pair).collect())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What has come to us, each row of the table.
async fn arrived(program: &Program) -> Option<Vec<(i64, i64)>> {
    let sql = "SELECT CAST(EXTRACT(EPOCH FROM ts) * 1000 AS BIGINT) AS ms, CAST(value AS BIGINT) AS v FROM up \
               WHERE value IS NOT NULL ORDER BY ts";
    let rows = program.http.query(sql).await.ok()?;
    Some(rows.iter().map(|row| (row["ms"].as_i64().expect("a time"), row["v"].as_i64().expect("a value"))).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_real_prometheus_has_measured_is_here_once_through_kills() {
    let folder = Folder::new();
    let (serve, mut program) = start(&folder).await;
    let prometheus = Prometheus::start(&folder, &block_for("prometheus", &serve));
    for kill in 1..=3usize {
        eventually("samples arrive", Duration::from_secs(120), async || {
            (arrived(&program).await?.len() >= 4 * kill).then_some(())
        })
        .await;
        program.kill9();
        // Prometheus notices that nobody is there, and keeps what it cannot send.
        eventually("Prometheus sees us gone", Duration::from_secs(90), async || {
            let zeros = prometheus.ups().await?.values().filter(|up| **up == 0).count();
            (zeros >= kill).then_some(())
        })
        .await;
        program = serve.start_ready().await;
    }
    let measured = prometheus.ups().await.expect("an answer");
    assert!(measured.len() >= 12 && measured.values().any(|up| *up == 0), "{measured:?}");
    // All that it had measured by now has come, also what it measured of our absence, and nothing has come twice.
    let here = eventually("all samples are here", Duration::from_secs(180), async || {
        let here = arrived(&program).await?;
        let found: BTreeMap<i64, i64> = here.iter().copied().collect();
        measured.iter().all(|(ms, up)| found.get(ms) == Some(up)).then_some(here)
    })
    .await;
    let times: BTreeMap<i64, i64> = here.iter().copied().collect();
    assert_eq!(times.len(), here.len(), "a sample came twice: {here:?}");
    program.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn version_2_is_written_and_counted() {
    let folder = Folder::new();
    let (serve, program) = start(&folder).await;
    let encoder = std::fs::read_to_string(script("protocols/remote_write_2.py")).expect("a script");
    let printed = python(&encoder, &[&format!("http://127.0.0.1:{}/prom/api/v1/write", serve.http)]);
    assert_eq!(printed, "204 samples 3 histograms 1 exemplars 0\n");
    let expected = json!([{"job": "v2", "value": 1.0}, {"job": "v2", "value": 0.0}]);
    rows_are(&program, "SELECT job, value FROM up WHERE instance = 'google' ORDER BY ts", expected).await;
    program.stop().await;
}
