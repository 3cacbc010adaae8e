//! What programs already send elsewhere: real clients, as `docs/protocols.md` configures them, and kills in the middle.
//!
//! The page's blocks are what is run here: the pipeline, the snippets of Python and shell, the configuration of a real
//! Prometheus. Only their port is replaced.

mod clients;
mod kills;
mod limits;
mod npm;
mod prometheus;

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::harness::folder::Folder;
use crate::harness::program::{Program, Serve};
use crate::harness::python::interpreter;
use crate::harness::wait::while_it_moves;

/// How long a client waits for an answer, in seconds.
const PATIENCE_S: &str = "60";
const PAGE: &str = include_str!("../../docs/protocols.md");

/// Returns the block of the page with this mark.
fn block(mark: &str) -> String {
    let rest = PAGE.split(&format!("<!-- test: {mark} -->\n")).nth(1).unwrap_or_else(|| panic!("no block {mark}"));
    let body = rest.split_once('\n').expect("a fence").1;
    body.split("```").next().expect("a closing fence").to_owned()
}

/// Starts the pipeline of the page.
async fn start(folder: &Folder) -> (Serve, Program) {
    let serve = Serve::new(folder, &block("file protocols.sql"));
    let program = serve.start_ready().await;
    (serve, program)
}

/// Returns a block with the port of a program in place of the usual one.
fn block_for(mark: &str, serve: &Serve) -> String {
    let text = block(mark);
    assert!(text.contains("8433"), "{text}");
    text.replace("8433", &serve.http.to_string())
}

/// Runs Python in the environment of the tests and returns what it printed.
fn python(script: &str, arguments: &[&str]) -> String {
    // The clients are told to wait for nothing outside of this machine.
    let mut command = Command::new(interpreter());
    command.arg("-c").arg(script).args(arguments).env("no_proxy", "*");
    // The SDK of OpenTelemetry waits for ten seconds, which is not much beside other tests.
    let output = command.env("OTEL_EXPORTER_OTLP_TIMEOUT", PATIENCE_S).output();
    let output = output.expect("Python starts");
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}\ngives {}\n{complained}", output.status);
    assert!(!complained.contains("Failed to export"), "{complained}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until a question has these rows.
async fn rows_are(program: &Program, sql: &str, expected: Value) {
    let wanted = expected.as_array().expect("rows");
    while_it_moves(&format!("{sql} gives {expected}"), Duration::from_secs(60), async || {
        let rows = program.http.query(sql).await;
        if rows.as_ref() == Ok(wanted) {
            return Ok(());
        }
        eprintln!("{sql} gives {rows:?}");
        Err(rows)
    })
    .await;
}
