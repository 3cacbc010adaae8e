//! `kill -9` in the middle of what is fetched, and servers that go away.

use std::time::Duration;

use super::number;
use super::server::Server;
use crate::harness::folder::Folder;
use crate::harness::program::Serve;
use crate::harness::wait::eventually;

/// Events of the stream.
const EVENTS: i64 = 12_000;
/// Times that the program is killed meanwhile.
const KILLS: u64 = 12;

#[tokio::test(flavor = "multi_thread")]
async fn an_event_stream_is_in_the_table_once_whatever_is_killed() {
    let folder = Folder::new();
    let mut server = Server::start();
    let url = server.url(&format!("/events?end={EVENTS}&rate=1500"));
    let serve = Serve::new(
        &folder,
        &format!(
            "CREATE SOURCE feed (n BIGINT NOT NULL, kind TEXT METADATA FROM 'event', id TEXT METADATA FROM 'event_id')\n\
             WITH (connector = 'sse', url = '{url}');\n\
             CREATE MATERIALIZED VIEW events AS SELECT n, kind, id FROM feed;\n"
        ),
    );
    let mut last = 0;
    for kill in 0..KILLS {
        let program = serve.start_ready().await;
        // Each life gets further than the one before, and ends at another place of a commit.
        let limit = Duration::from_secs(60);
        let mut seen = last;
        eventually("the table grows", limit, async || {
            seen = number(&program.http, "SELECT count(*) AS n FROM events").await?;
            (seen > last || last == EVENTS).then_some(())
        })
        .await;
        last = seen;
        tokio::time::sleep(Duration::from_millis(kill * 37 % 300)).await;
        program.kill9();
        if kill % 4 == 3 {
            server.kill();
            server.resume();
        }
    }
    let program = serve.start_ready().await;
    program.http.query_until("SELECT count(*) AS n FROM events", EVENTS).await;
    let sql = "SELECT count(DISTINCT n) AS n, min(n) AS least, max(n) AS most, \
               sum(CASE WHEN id = CAST(n AS TEXT) AND kind = CASE WHEN n % 2 = 1 THEN 'price' ELSE 'trade' END THEN 1 ELSE 0 END) AS fits \
               FROM events";
    let rows = program.http.query(sql).await.expect("an answer");
    assert_eq!(rows, [serde_json::json!({"n": EVENTS, "least": 1, "most": EVENTS, "fits": EVENTS})]);
    // Nothing comes again afterwards.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(number(&program.http, "SELECT count(*) AS n FROM events").await, Some(EVENTS));
    program.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_not_changed_is_not_appended_again_after_a_kill() {
    let folder = Folder::new();
    let server = Server::start();
    server.set("v", 1).await;
    let serve = Serve::new(
        &folder,
        &format!(
            "CREATE SOURCE polled (v BIGINT NOT NULL, url TEXT METADATA FROM 'url')\n\
             WITH (connector = 'http_poll', url = '{}, {}', interval = '100 ms', emit = 'changed');\n\
             CREATE MATERIALIZED VIEW versions AS SELECT v, url FROM polled;\n",
            server.url("/state"),
            server.url("/state?etag=1")
        ),
    );
    for version in 1..=10 {
        let program = serve.start_ready().await;
        // Both targets have the versions so far, each once.
        program.http.query_until("SELECT count(*) AS n FROM versions", 2 * version).await;
        server.until_seen("not_modified", 2).await;
        server.until_seen("asked", 6).await;
        assert_eq!(number(&program.http, "SELECT count(*) AS n FROM versions").await, Some(2 * version));
        // The next version is seen before the kill, or after it.
        server.set("v", version as u64 + 1).await;
        tokio::time::sleep(Duration::from_millis(version as u64 * 41 % 250)).await;
        program.kill9();
    }
    let program = serve.start_ready().await;
    program.http.query_until("SELECT count(*) AS n FROM versions", 22).await;
    let sql = "SELECT count(*) AS n FROM (SELECT v, url FROM versions GROUP BY v, url HAVING count(*) = 1)";
    assert_eq!(number(&program.http, sql).await, Some(22));
    program.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_is_spoken_to_again_after_either_side_has_gone() {
    let folder = Folder::new();
    let mut server = Server::start();
    let serve = Serve::new(
        &folder,
        &format!(
            "CREATE SOURCE feed (n BIGINT NOT NULL) WITH (connector = 'websocket', url = '{}',\n\
             subscribe = '{{\"op\":\"subscribe\"}}');\n\
             CREATE MATERIALIZED VIEW heard AS SELECT n FROM feed;\n",
            server.websocket_url()
        ),
    );
    // Each connection begins with number 1.
    let begun = "SELECT count(*) AS n FROM heard WHERE n = 1";
    let program = serve.start_ready().await;
    program.http.query_until(begun, 1).await;
    server.kill();
    let broken = async || super::targets(&program.http, "feed").await.first()?["error"].as_str().map(|_| ());
    eventually("it is noticed", Duration::from_secs(60), broken).await;
    server.resume();
    program.http.query_until(begun, 2).await;
    program.kill9();
    let program = serve.start_ready().await;
    program.http.query_until(begun, 3).await;
    program.stop().await;
}
