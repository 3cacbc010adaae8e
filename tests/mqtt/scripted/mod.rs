//! The program against a broker that is a script: see [`mqtt_script`](crate::harness::mqtt_script) for its lines.
//!
//! Each test ends with [`Scene::holds`]: exactly these records are in the table, read from its files.
//!
//! - [`acknowledgements`]: what leaves before, and after, the disk has synced
//! - [`cuts`]: connections that break after each byte, and kills between two packets
//! - [`ids`]: packet ids that are used again, held, or unknown
//! - [`sessions`]: versions, subscriptions, sessions that are lost or taken over, silence
//! - [`malformed`]: bytes that are no MQTT
//! - [`windows`]: many messages at once

mod acknowledgements;
mod cuts;
mod ids;
mod malformed;
mod sessions;
mod windows;

use std::time::Duration;

use serde_json::Value;

use crate::harness::folder::Folder;
use crate::harness::mqtt_script::ScriptedBroker;
use crate::harness::mqtt_script::words::Version;
use crate::harness::program::{Program, Serve, command};
use crate::harness::wait::eventually;

/// A debug build on a busy machine, with a sync in between.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// A broker that is a script, and how to start the program that reads from it.
struct Scene {
    broker: ScriptedBroker,
    serve: Serve,
    folder: Folder,
}

impl Scene {
    /// Makes a broker, and a pipeline that subscribes at it.
    async fn new(version: Version, qos: u8) -> Scene {
        Scene::with(version, qos, "").await
    }

    /// Like [`Scene::new`], with more options of the source, such as `, keep_alive = '1 s'`.
    async fn with(version: Version, qos: u8, options: &str) -> Scene {
        let folder = Folder::new();
        let broker = ScriptedBroker::start().await;
        let sql = pipeline("readings", &broker.url(), version, qos, options);
        let serve = Serve::new(&folder, &sql);
        Scene { broker, serve, folder }
    }

    /// Waits until the program has said these words in its log.
    async fn said(&self, words: &str) {
        eventually(&format!("the log says {words:?}"), ANSWER_MAX, async || {
            std::fs::read_to_string(&self.serve.log).ok()?.contains(words).then_some(())
        })
        .await;
    }

    /// Waits until so many messages are dealt with, stops the program, and looks for exactly these records.
    async fn holds(&self, program: Program, records: &[i64]) {
        program.http.settled("readings", records.len() as u64).await;
        program.stop().await;
        assert_eq!(self.records("readings"), records, "the records of {}", self.folder.path().display());
    }

    /// Returns the records of a source, sorted, from the files of its table.
    fn records(&self, source: &str) -> Vec<i64> {
        let data = self.serve.data.to_str().expect("a plain name");
        let sql = format!("SELECT v FROM h_{source} ORDER BY v");
        let output = command(["sql", "--data", data, "--format", "json", &sql], self.folder.path()).output();
        let output = output.expect("the program starts");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        let rows = crate::harness::http::rows_of(&text).unwrap_or_else(|_| lines_of(&text));
        rows.iter().map(|row| row["v"].as_i64().expect("a number")).collect()
    }
}

/// Rows as one object a line.
fn lines_of(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// A source that subscribes, and a view `h_<source>` that keeps everything.
fn pipeline(source: &str, url: &str, version: Version, qos: u8, options: &str) -> String {
    let version = version.option();
    format!(
        "CREATE SOURCE {source} (v BIGINT NOT NULL) WITH (connector = 'mqtt', url = '{url}', topic = 'plant/{{device}}', \
         qos = '{qos}', version = '{version}'{options});\n\
         CREATE MATERIALIZED VIEW h_{source} AS SELECT v FROM {source};\n"
    )
}

/// Waits until a source has counted so many errors of a kind, as `/metrics` tells.
async fn counted(program: &Program, kind: &str, count: u64) {
    let line = format!("tidemill_source_errors_total{{source=\"readings\",kind=\"{kind}\"}} {count}");
    eventually(&line, ANSWER_MAX, async || {
        let (_, text) = program.http.get("/metrics").await.ok()?;
        text.lines().any(|told| told == line).then_some(())
    })
    .await;
}
