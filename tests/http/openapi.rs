//! The description of the API, held against the service by schemathesis: what it says, and only that, is answered.

use std::process::Command;

use super::PIPELINE;
use crate::harness::folder::Folder;
use crate::harness::program::Serve;
use crate::harness::python::{interpreter, script};

/// What schemathesis may take for all that its configuration asks for; half a minute is usual.
const SECONDS_MAX: &str = "600";

/// What the protocols need beside what the others do.
const POINTS: &str = "CREATE SOURCE points (measurement TEXT, value DOUBLE) WITH (connector = 'http', format = 'line_protocol');\n\
                      CREATE MATERIALIZED VIEW point_history AS SELECT measurement, value FROM points;\n\
                      CREATE SOURCE otel (severity TEXT, body TEXT) WITH (connector = 'http', format = 'otlp_logs');\n\
                      CREATE MATERIALIZED VIEW log_history AS SELECT severity, body FROM otel;\n";

#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_nothing_that_the_description_does_not_say() {
    let folder = Folder::new();
    let serve = Serve::new(&folder, &[PIPELINE, POINTS].concat());
    let program = serve.start_ready().await;
    let (status, text) = program.http.get("/api/v1/openapi.json").await.expect("an answer");
    assert_eq!(status, 200, "{text}");
    let document: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(document["paths"].as_object().expect("paths").len(), 17);

    let tool = interpreter().with_file_name("schemathesis");
    let url = format!("http://127.0.0.1:{}/api/v1/openapi.json", serve.http);
    let tried = tokio::task::spawn_blocking(move || {
        let mut command = Command::new("timeout");
        command.arg(SECONDS_MAX).arg(tool).arg("--config-file").arg(script("http/schemathesis.toml"));
        command.args(["run", &url]).current_dir(std::env::temp_dir());
        command.output().expect("schemathesis is installed: ./check tools")
    });
    let tried = tried.await.expect("no panic");
    let told = String::from_utf8_lossy(&tried.stdout);
    assert!(tried.status.success(), "{told}\n{}", String::from_utf8_lossy(&tried.stderr));
    assert!(told.contains("ingest"), "it has tried what it should: {told}");
    program.stop().await;
}
