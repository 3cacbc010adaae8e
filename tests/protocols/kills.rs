//! Line protocol through kills: a client that repeats what was not answered loses nothing, and with a key has nothing twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::harness::folder::Folder;
use crate::harness::http::Client;
use crate::harness::program::Serve;

const PIPELINE: &str = "CREATE SOURCE points (host TEXT, n BIGINT NOT NULL, ts TIMESTAMP NOT NULL, \
    WATERMARK FOR ts AS ts - INTERVAL '1 minute', DEDUP KEY (host, ts) WITHIN INTERVAL '1 hour') \
    WITH (connector = 'http', format = 'line_protocol', future_limit = 'none');\n\
    CREATE SOURCE plain (host TEXT, n BIGINT NOT NULL, ts TIMESTAMP NOT NULL) WITH (connector = 'http', format = 'line_protocol');\n\
    CREATE MATERIALIZED VIEW once AS SELECT host, n, ts FROM points;\n\
    CREATE MATERIALIZED VIEW often AS SELECT host, n, ts FROM plain;\n";
/// Points of one request.
const BATCH: i64 = 50;
/// Requests at least: those that the kills meet come on top.
const BATCHES_MIN: i64 = 60;
const KILLS: usize = 4;

/// Sends batch after batch to both sources, each until it is answered with 204; returns how many points there are.
async fn send(http: Client, enough: Arc<AtomicBool>) -> i64 {
    let mut next = 0;
    while next < BATCHES_MIN * BATCH || !enough.load(Ordering::SeqCst) {
        let line = |n: i64| format!("points,host=h{} n={n}i {}\n", n % 7, 1_700_000_000_000 + n);
        let body: String = (next..next + BATCH).map(line).collect();
        for source in ["points", "plain"] {
            let path = format!("/influx/api/v2/write?bucket={source}&precision=ms");
            loop {
                match http.post(&path, "text/plain", body.clone()).await {
                    Ok((204, _)) => break,
                    Ok((500 | 503, _)) | Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                    Ok((status, text)) => panic!("{status}: {text}"),
                }
            }
        }
        next += BATCH;
    }
    next
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_through_kills_and_a_key_tells_what_was_sent_again() {
    let folder = Folder::new();
    let serve = Serve::new(&folder, PIPELINE);
    let mut program = serve.start_ready().await;
    let enough = Arc::new(AtomicBool::new(false));
    let sender = tokio::spawn(send(program.http.clone(), Arc::clone(&enough)));
    for kill in 0..KILLS {
        tokio::time::sleep(Duration::from_millis(300 + 170 * kill as u64)).await;
        program.kill9();
        program = serve.start_ready().await;
    }
    enough.store(true, Ordering::SeqCst);
    let count = sender.await.expect("the sender ends");
    program.http.query_until("SELECT count(DISTINCT n) AS n FROM once", count).await;
    program.http.query_until("SELECT count(*) AS n FROM once", count).await;
    program.http.query_until("SELECT count(DISTINCT n) AS n FROM often", count).await;
    program.http.query_until("SELECT sum(n) AS n FROM once", count * (count - 1) / 2).await;
    program.stop().await;
}
