//! A start on a full disk: the tables can be asked, nothing is taken, and it goes on by itself when there is space. The disk
//! that takes the lines of the log may be full at any time.

use std::time::Duration;

use crate::harness::disk::{self, Disk};
use crate::harness::folder::Folder;
use crate::harness::program::{Serve, command};
use crate::harness::wait::eventually;

const PIPELINE: &str = "CREATE SOURCE readings (v BIGINT NOT NULL) WITH (connector = 'http');\n\
                        CREATE MATERIALIZED VIEW history AS SELECT v FROM readings;\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_on_a_full_disk_answers_questions_and_goes_on_when_there_is_space() {
    let folder = Folder::new();
    let Some(disk) = Disk::to_fill(&folder, disk::SMALL) else { return };
    let mut serve = Serve::new(&folder, PIPELINE);
    serve.data = disk.mounted_at.join("data");
    let program = serve.start_ready().await;
    program.http.ingest_durably("readings", "{\"v\": 1}\n{\"v\": 2}").await;
    program.http.query_until("SELECT count(v + 1) AS n FROM history", 2).await;
    program.kill9();

    // Somebody else needs the room: also that of the reserve.
    std::fs::remove_file(serve.data.join("reserve")).expect("a reserve");
    let ballast = disk.fill();
    let program = serve.start();
    eventually("it is read only", Duration::from_secs(60), async || {
        let (_, text) = program.http.get("/api/v1/status").await.ok()?;
        let status: serde_json::Value = serde_json::from_str(&text).ok()?;
        (status["state"] == "read_only").then_some(())
    })
    .await;
    program.http.query_until("SELECT count(v + 1) AS n FROM history", 2).await;
    let (code, retry_after, problem) = program.http.ingest_refused("readings", "{\"v\": 3}").await;
    assert!(code == 503 && retry_after.is_some(), "{code} {problem}");
    assert!(problem.contains("TM2115") && problem.contains("no room for the reserve"), "{problem}");

    drop(ballast);
    eventually("it goes on by itself", Duration::from_secs(60), async || {
        (program.http.get("/readyz").await.ok()?.0 == 200).then_some(())
    })
    .await;
    program.http.ingest_durably("readings", "{\"v\": 3}").await;
    program.http.query_until("SELECT count(v + 1) AS n FROM history", 3).await;
    program.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_of_the_log_that_cannot_be_written_stop_nothing() {
    let folder = Folder::new();
    let mut serve = Serve::new(&folder, PIPELINE);
    serve.under = ["sh", "-c", "\"$0\" \"$@\" 2> /dev/full; exit $?"].map(str::to_owned).to_vec();
    serve.environment.push(("RUST_LOG".to_owned(), "debug".to_owned()));
    let program = serve.start_ready().await;
    program.http.ingest_durably("readings", "{\"v\": 1}").await;
    program.http.query_until("SELECT count(*) AS n FROM history", 1).await;
    program.stop().await;
}

#[test]
fn a_run_on_a_full_disk_ends_with_exit_code_2_and_says_so() {
    let folder = Folder::new();
    let Some(disk) = Disk::to_fill(&folder, disk::SMALL) else { return };
    let rows: String = (0..1_000).map(|v| format!("{{\"v\":{v}}}\n")).collect();
    folder.write("rows.json", &rows);
    folder.write("pipeline.sql", &PIPELINE.replace("'http'", "'file', path = 'rows.json'"));
    let data = disk.mounted_at.join("data");
    let run = || {
        let data = data.to_str().expect("a plain name");
        command(["run", "--data", data, "pipeline.sql"], folder.path()).output().expect("the program starts")
    };
    let ballast = disk.fill();
    let output = run();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("No space left on device"), "{said}");
    drop(ballast);
    let output = run();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
