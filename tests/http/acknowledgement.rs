//! How long an answer waits, and what a position tells afterwards.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{INGEST, NDJSON, PIPELINE, post, state_of};
use crate::harness::folder::Folder;
use crate::harness::program::Serve;
use crate::harness::wait::eventually;

/// As long as an answer may wait.
const COMMITTED_MAX: Duration = Duration::from_secs(50);
const COMMITTED: &str = "/api/v1/ingest/readings?ack=committed";

#[tokio::test(flavor = "multi_thread")]
async fn committed_means_that_the_tables_show_it() {
    let folder = Folder::new();
    // Rows of the other source wait for ever, and are nobody's business here.
    let sql = format!(
        "{PIPELINE}CREATE SOURCE other (v BIGINT NOT NULL) WITH (connector = 'http');\n\
         CREATE MATERIALIZED VIEW others AS SELECT v FROM other;\n"
    );
    let program = Serve::new(&folder, &sql).start_ready().await;
    for round in 1..=3 {
        let (status, answer) = post(&program, COMMITTED, &[NDJSON], format!("{{\"v\":{round}}}")).await;
        assert_eq!((status, &answer["state"]), (200, &json!("committed")), "{answer}");
        let rows = program.http.query("SELECT count(*) AS n FROM history").await.expect("rows");
        assert_eq!(rows[0]["n"], round, "at once");
        assert_eq!(state_of(&program, &answer["position"], Duration::ZERO).await, "committed");
    }
    // A dead letter is committed in the table of the dead.
    let (status, answer) =
        post(&program, &format!("{COMMITTED}&on_error=dead_letter"), &[NDJSON], "{\"v\":\"x\"}").await;
    assert_eq!((status, &answer["rejected_count"]), (200, &json!(1)), "{answer}");
    let rows = program.http.query("SELECT count(*) AS n FROM \"readings$dead\"").await.expect("rows");
    assert_eq!(rows[0]["n"], 1);
    program.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_is_over_says_so_and_a_position_is_known_after_a_kill() {
    let folder = Folder::new();
    let mut serve = Serve::new(&folder, PIPELINE);
    serve.commit = Duration::from_secs(3_600);
    let program = serve.start_ready().await;
    let (status, answer) = post(&program, INGEST, &[NDJSON], "{\"v\":1}\n{\"v\":2}").await;
    assert_eq!((status, &answer["state"]), (200, &json!("durable")), "{answer}");
    let begin = Instant::now();
    let (status, answer) = post(&program, &format!("{COMMITTED}&wait=300ms"), &[NDJSON], "{\"v\":3}").await;
    assert_eq!((status, &answer["state"], &answer["position"]), (202, &json!("durable"), &json!("readings@3")));
    assert!(begin.elapsed() >= Duration::from_millis(300));
    assert_eq!(state_of(&program, &json!("readings@2"), Duration::ZERO).await, "durable");
    assert_eq!(program.http.get("/api/v1/positions/readings@4").await.expect("an answer").0, 404);
    program.kill9();

    // Behind the last checkpoint, and then before it.
    serve.commit = Duration::from_millis(50);
    for _ in 0..2 {
        let program = serve.start_ready().await;
        for position in ["readings@1", "readings@3"] {
            assert_eq!(state_of(&program, &json!(position), COMMITTED_MAX).await, "committed");
        }
        assert_eq!(program.http.get("/api/v1/positions/readings@4").await.expect("an answer").0, 404);
        program.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn accepted_is_answered_before_the_log_has_synced() {
    let folder = Folder::new();
    let mut serve = Serve::new(&folder, PIPELINE);
    const SYNC: Duration = Duration::from_millis(500);
    serve.delay_syncs(SYNC);
    let program = serve.start_ready().await;
    // Once is enough: with a sync in it, it never could be so soon.
    eventually("an answer comes before a sync could be over", Duration::from_secs(60), async || {
        let begin = Instant::now();
        let (status, answer) = post(&program, &format!("{INGEST}?ack=accepted"), &[NDJSON], "{\"v\":1}").await;
        assert_eq!((status, &answer["state"], &answer["position"]), (202, &json!("accepted"), &json!(null)));
        (begin.elapsed() < SYNC).then_some(())
    })
    .await;
    eventually("it is durable in the end", Duration::from_secs(60), async || {
        (program.http.get("/api/v1/positions/readings@1").await.ok()?.0 == 200).then_some(())
    })
    .await;
    program.stop().await;
}
