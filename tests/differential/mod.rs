//! Random pipelines over random files, judged by DuckDB: the whole path from bytes to tables, in three languages of
//! input, with windows over views over windows. What is made and what is compared stands in the scripts beside this.
//!
//! A longer run by hand: `~/.cache/tidemill/venv/bin/python tests/differential/differential.py PROGRAM --seconds 600`.

use std::process::Command;

use crate::harness::program::program;
use crate::harness::python::{interpreter, script};

/// Some ten seconds of a debug build on two idle cores.
const ROUNDS: u32 = 16;

#[test]
fn random_pipelines_give_the_tables_that_duckdb_computes_at_once() {
    let output = Command::new(interpreter())
        .arg(script("differential/differential.py"))
        .arg(program())
        .args(["--seed", "1", "--rounds", &ROUNDS.to_string()])
        .output()
        .expect("Python starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.starts_with(&format!("{ROUNDS} rounds, ")), "{said}");
}
