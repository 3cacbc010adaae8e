//! HTTP ingest with the real program: requests that come again after a kill, how long an answer waits, bodies of every
//! kind, and what is refused without a trace.
//!
//! - [`once`]: a request that says who it is, is stored once
//! - [`acknowledgement`]: accepted, durable, committed
//! - [`openapi`]: what the API says of itself
//! - [`bodies`]: what is taken in which shape, and what is damaged
//! - [`refusals`]: what is refused leaves the log as it was, on every route

mod acknowledgement;
mod bodies;
mod once;
mod openapi;
mod refusals;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::harness::program::Program;
use crate::harness::wait::eventually;

const PIPELINE: &str = "CREATE SOURCE readings (v BIGINT NOT NULL, note TEXT) WITH (connector = 'http');\n\
                        CREATE MATERIALIZED VIEW history AS SELECT v, note FROM readings;\n";
const INGEST: &str = "/api/v1/ingest/readings";
const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");

/// Posts a body: status and the answer, which is JSON whatever it says.
async fn post(program: &Program, path: &str, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> (u16, Value) {
    let answer = program.http.post_with(path, headers, body.into()).await.expect("an answer");
    (answer.0, serde_json::from_str(&answer.1).unwrap_or_else(|error| panic!("{error} in {}", answer.1)))
}

/// Asks how far a position is, and waits for its commit.
async fn state_of(program: &Program, position: &Value, wait: Duration) -> String {
    let path = format!("/api/v1/positions/{}?wait={}ms", position.as_str().expect("a position"), wait.as_millis());
    let (status, text) = program.http.get(&path).await.expect("an answer");
    assert_eq!(status, 200, "{text}");
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    answer["state"].as_str().expect("a state").to_owned()
}

/// Returns the bytes of the log, by file, as soon as nothing is written to it any more. A program that has nothing to do, which
/// it says itself, writes nothing.
async fn log_at_rest(program: &Program, data: &Path) -> BTreeMap<String, Vec<u8>> {
    program.http.quiet().await;
    let read = || {
        let files = std::fs::read_dir(data.join("log")).expect("a log").flatten();
        let file = |file: std::fs::DirEntry| {
            let name = file.file_name().into_string().expect("a plain name");
            (name, std::fs::read(file.path()).unwrap_or_default())
        };
        files.map(file).collect::<BTreeMap<_, _>>()
    };
    eventually("the log is at rest", Duration::from_secs(60), async || {
        let before = read();
        tokio::time::sleep(Duration::from_millis(400)).await;
        (read() == before).then_some(before)
    })
    .await
}

/// Whether the log has these bytes anywhere.
fn log_holds(data: &Path, marker: &str) -> bool {
    let files = std::fs::read_dir(data.join("log")).into_iter().flatten().flatten();
    files.into_iter().any(|file| {
        let bytes = std::fs::read(file.path()).unwrap_or_default();
        bytes.windows(marker.len()).any(|window| window == marker.as_bytes())
    })
}
