//! MQTT.js at the listener, whose program is killed while it publishes.

use std::time::Duration;

use serde_json::json;

use crate::harness::folder::Folder;
use crate::harness::node::node;
use crate::harness::program::{Serve, free_port};
use crate::harness::wait::eventually;

/// Messages of each client.
const MESSAGES: usize = 1_500;
const KILLS: usize = 6;
/// What a life of the program lasts.
const LIFE: Duration = Duration::from_millis(250);

#[tokio::test(flavor = "multi_thread")]
async fn what_mqtt_js_publishes_is_there_through_kills_and_at_qos_2_once() {
    let (folder, port) = (Folder::new(), free_port());
    let sql = format!(
        "CREATE SOURCE readings (seq BIGINT NOT NULL) WITH (connector = 'mqtt_listener', bind = '127.0.0.1:{port}', \
         topic = 'js/{{version}}/{{qos}}');\n\
         CREATE MATERIALIZED VIEW history AS SELECT version, qos, seq FROM readings;\n"
    );
    let serve = Serve::new(&folder, &sql);
    let mut program = serve.start_ready().await;
    let clients: Vec<_> = [("4", "1"), ("4", "2"), ("5", "1"), ("5", "2")]
        .map(|(version, qos)| {
            let arguments = [port.to_string(), version.to_owned(), qos.to_owned(), MESSAGES.to_string()];
            tokio::task::spawn_blocking(move || node("mqtt/javascript.cjs", &arguments.each_ref().map(String::as_str)))
        })
        .into();
    eventually("the clients publish", Duration::from_secs(60), async || {
        let rows = program.http.query("SELECT count(DISTINCT version || qos) AS n FROM history").await.ok()?;
        (rows.first()?["n"] == 4).then_some(())
    })
    .await;
    for _ in 0..KILLS {
        program.kill9();
        program = serve.start_ready().await;
        tokio::time::sleep(LIFE).await;
    }
    assert!(clients.iter().any(|client| !client.is_finished()), "the kills came too late");
    for client in clients {
        client.await.expect("everything is acknowledged");
    }
    let counts = "SELECT version, qos, count(DISTINCT seq) AS n, count(*) = count(DISTINCT seq) AS once \
                  FROM history GROUP BY 1, 2 ORDER BY 1, 2";
    let mut last = Vec::new();
    let all = eventually("every message is in the table", Duration::from_secs(60), async || {
        last = program.http.query(counts).await.ok()?;
        last.iter().all(|row| row["n"] == MESSAGES).then(|| last.clone())
    })
    .await;
    let once: Vec<_> = all.iter().filter(|row| row["qos"] == "2").collect();
    let expected = |version: &str| json!({"version": version, "qos": "2", "n": MESSAGES, "once": true});
    assert_eq!(once, [&expected("4"), &expected("5")]);
    assert_eq!(all.len(), 4, "{all:?}");
    program.stop().await;
}
