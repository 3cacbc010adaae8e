//! `docs/pull.md`: its blocks are run as they are written, with the servers of the tests in place of those it names.

use std::time::Duration;

use super::number;
use super::server::Server;
use crate::harness::folder::Folder;
use crate::harness::program::{Serve, command};
use crate::harness::wait::eventually;

const PAGE: &str = include_str!("../../docs/pull.md");

/// Returns the blocks of SQL, in their order.
fn blocks() -> Vec<&'static str> {
    PAGE.split("```sql\n").skip(1).map(|rest| rest.split("```").next().expect("a closing fence")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_pipeline_of_the_page_is_accepted_and_has_rows() {
    let (folder, server) = (Folder::new(), Server::start());
    let blocks = blocks();
    assert!(blocks.len() >= 4, "{}", blocks.len());
    let mut sql = blocks.join("\n");
    let checked = folder.write("page.sql", &sql);
    let checked = command(["check", checked.to_str().expect("a path")], folder.path()).output().expect("it starts");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    for (written, here) in [
        ("http://pump-1:9100/metrics, http://pump-2:9100/metrics", server.url("/metrics")),
        ("https://api.example.com/v1/stations", server.url("/stations")),
        ("https://feed.example.com/events", server.url("/events?rate=50")),
        ("wss://feed.example.com/live", server.websocket_url()),
    ] {
        assert!(sql.contains(written), "{written} is not in the page");
        sql = sql.replace(written, &here);
    }
    let mut serve = Serve::new(&folder, &sql);
    serve.environment.push(("API_KEY".to_owned(), "k".to_owned()));
    let program = serve.start_ready().await;
    for view in ["is_up", "stations_seen", "prices", "heard"] {
        let sql = format!("SELECT count(*) AS n FROM {view}");
        let has_rows = async || (number(&program.http, &sql).await? > 0).then_some(());
        eventually(&sql, Duration::from_secs(60), has_rows).await;
    }
    program.stop().await;
}
