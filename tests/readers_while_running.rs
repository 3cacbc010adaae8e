//! deltalake, Polars and DuckDB read a table while the program writes it: each sees whole epochs, and never less than before.

use std::collections::{BTreeSet, HashMap};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::harness::folder::Folder;
use crate::harness::program::Serve;
use crate::harness::python::{interpreter, script};
use crate::harness::wait::eventually;

/// Rows of one request: they are one epoch's or none's.
const BATCH: u64 = 50;

#[tokio::test(flavor = "multi_thread")]
async fn three_foreign_readers_see_whole_requests_and_never_less_than_before() {
    let folder = Folder::new();
    let sql = "CREATE SOURCE numbers (seq BIGINT NOT NULL) WITH (connector = 'http');\n\
               CREATE MATERIALIZED VIEW history AS SELECT seq FROM numbers;\n";
    let mut serve = Serve::new(&folder, sql);
    serve.commit = Duration::from_millis(50);
    let program = serve.start_ready().await;
    let table = serve.data.join("tables/history");

    let http = program.http.clone();
    let writer = tokio::spawn(async move {
        for batch in 0u64.. {
            let lines: String =
                (batch * BATCH..(batch + 1) * BATCH).map(|seq| format!("{{\"seq\":{seq}}}\n")).collect();
            http.ingest_durably("numbers", &lines).await;
        }
    });
    eventually("the table has a commit", Duration::from_secs(60), async || {
        table.join("_delta_log/00000000000000000001.json").exists().then_some(())
    })
    .await;
    let looks = tokio::task::spawn_blocking(move || {
        Command::new(interpreter()).arg(script("readers/while_running.py")).arg(&table).arg("10").output()
    });
    let output = looks.await.expect("no panic").expect("Python starts");
    writer.abort();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let mut last: HashMap<String, u64> = HashMap::new();
    let mut grew = BTreeSet::new();
    let text = String::from_utf8_lossy(&output.stdout);
    for line in text.lines() {
        let seen: Value = serde_json::from_str(line).expect("JSON");
        let n = seen["n"].as_u64().expect("a count");
        assert_eq!(seen["distinct"].as_u64(), Some(n), "a row twice: {line}");
        assert!(n == 0 || seen["top"].as_u64() == Some(n - 1), "a hole: {line}");
        assert_eq!(n % BATCH, 0, "part of a request: {line}");
        let before = last.insert(seen["reader"].as_str().expect("a name").to_owned(), n).unwrap_or(0);
        assert!(n >= before, "less than before ({before}): {line}");
        if before > 0 && n > before {
            grew.insert(seen["reader"].to_string());
        }
    }
    assert_eq!(last.len(), 3, "a reader is missing: {text}");
    assert_eq!(grew.len(), 3, "nothing was written while {grew:?} read: {text}");
    program.stop().await;
}
