//! The description of the API, held against the service by schemathesis: what it says, and only that, is answered.

use std::process::Command;

use super::PIPELINE;
use crate::harness::folder::Folder;
use crate::harness::program::Serve;
use crate::harness::python::{interpreter, script};

/// What schemathesis may take for all its phases.
const SECONDS_MAX: &str = "90";

#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_nothing_that_the_description_does_not_say() {
    let folder = Folder::new();
    let serve = Serve::new(&folder, PIPELINE);
    let program = serve.start_ready().await;
    let (status, text) = program.http.get("/api/v1/openapi.json").await.expect("an answer");
    assert_eq!(status, 200, "{text}");
    let document: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(document["paths"].as_object().expect("paths").len(), 17);

    let tool = interpreter().with_file_name("schemathesis");
    let url = format!("http://127.0.0.1:{}/api/v1/openapi.json", serve.http);
    let tried = tokio::task::spawn_blocking(move || {
        let mut command = Command::new(tool);
        command.arg("--config-file").arg(script("http/schemathesis.toml")).args([
            "run",
            &url,
            "--max-time",
            SECONDS_MAX,
        ]);
        command.current_dir(std::env::temp_dir()).output().expect("schemathesis is installed: ./check tools")
    });
    let tried = tried.await.expect("no panic");
    let told = String::from_utf8_lossy(&tried.stdout);
    assert!(tried.status.success(), "{told}\n{}", String::from_utf8_lossy(&tried.stderr));
    assert!(told.contains("ingest"), "it has tried what it should: {told}");
    program.stop().await;
}
