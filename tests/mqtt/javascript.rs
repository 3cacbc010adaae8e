//! MQTT.js at the listener, whose program is killed while it publishes.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::folder::Folder;
use crate::harness::node::node;
use crate::harness::program::{Serve, free_port};
use crate::harness::wait::{eventually, while_it_moves};

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
    let enough = folder.path().join("enough");
    let clients = [("4", "1"), ("4", "2"), ("5", "1"), ("5", "2")].map(|(version, qos)| {
        let (port, enough) = (port.to_string(), enough.clone());
        let publish = move || node("mqtt/javascript.cjs", &[&port, version, qos, enough.to_str().expect("UTF-8")]);
        (version, qos, tokio::task::spawn_blocking(publish))
    });
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
    std::fs::write(&enough, "").expect("the folder takes a file");
    let mut expected = Vec::new();
    for (version, qos, client) in clients {
        let printed = client.await.expect("everything is acknowledged");
        let published: u64 = printed.trim().parse().expect("the client prints a number");
        expected.push(json!({"version": version, "qos": qos, "n": published, "highest": published - 1}));
    }
    let counts =
        "SELECT version, qos, count(DISTINCT seq) AS n, max(seq) AS highest FROM history GROUP BY 1, 2 ORDER BY 1, 2";
    while_it_moves(&format!("{counts} gives {expected:?}"), Duration::from_secs(60), async || {
        let rows = program.http.query(counts).await;
        if rows.as_ref() == Ok(&expected) { Ok(()) } else { Err(rows) }
    })
    .await;
    let doubled = "SELECT version, seq, count(*) AS n FROM history WHERE qos = '2' GROUP BY 1, 2 HAVING count(*) > 1";
    assert_eq!(program.http.query(doubled).await.expect("the program answers"), Vec::<Value>::new());
    program.stop().await;
}
