//! The `mqtt` source against a real broker: nothing that the broker has accepted at QoS 1 is lost, whoever restarts.

use std::time::Duration;

use crate::harness::broker::{Broker, VERSIONS, mosquitto_pub, mosquitto_pub_lines};
use crate::harness::folder::Folder;
use crate::harness::program::Serve;
use crate::harness::tables::Judge;
use crate::harness::wait::eventually;

fn pipeline(url: &str) -> String {
    format!(
        "CREATE SOURCE readings (v BIGINT NOT NULL) WITH (connector = 'mqtt', url = '{url}', \
         topic = 'plant/{{site}}/{{device}}/telemetry', qos = '1');\n\
         CREATE MATERIALIZED VIEW history AS SELECT site, device, v FROM readings;\n"
    )
}

/// Lines of readings `[from, to)`.
fn lines(from: i64, to: i64) -> String {
    (from..to).map(|v| format!("{{\"v\":{v}}}\n")).collect()
}

const COUNT: &str = "SELECT count(DISTINCT v) AS n FROM history";
const TOPIC: &str = "plant/lab/freezer/telemetry";

#[tokio::test(flavor = "multi_thread")]
async fn every_version_and_qos_arrives_with_its_topic_as_columns() {
    let folder = Folder::new();
    let broker = Broker::start(&folder).await;
    let serve = Serve::new(&folder, &pipeline(&broker.url()));
    let program = serve.start_ready().await;
    for version in VERSIONS {
        for qos in [0, 1] {
            let topic = format!("plant/v{version}/q{qos}/telemetry");
            mosquitto_pub(broker.port, version, qos, &topic, &format!("{{\"v\":{qos}}}"));
        }
    }
    mosquitto_pub(broker.port, "5", 1, "plant/lab/telemetry", "{\"v\":9}");
    mosquitto_pub(broker.port, "5", 1, "plant/lab/freezer/status", "{\"v\":9}");
    program.http.query_until("SELECT count(*) AS n FROM history", 4).await;
    program.stop().await;
    let mut judge = Judge::new();
    judge.table("history", &serve.data.join("tables/history"));
    let rows = judge.rows("SELECT site || ' ' || device || ' ' || v AS row FROM history ORDER BY 1");
    let rows: Vec<&str> = rows.iter().filter_map(|row| row["row"].as_str()).collect();
    assert_eq!(rows, ["v311 q0 0", "v311 q1 1", "v5 q0 0", "v5 q1 1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_restarts_is_found_again_and_nothing_is_lost() {
    let folder = Folder::new();
    let mut broker = Broker::start(&folder).await;
    let program = Serve::new(&folder, &pipeline(&broker.url())).start_ready().await;
    mosquitto_pub_lines(broker.port, "311", 1, TOPIC, &lines(0, 50));
    broker.stop().await;
    broker.resume().await;
    mosquitto_pub_lines(broker.port, "5", 1, TOPIC, &lines(50, 100));
    program.http.query_until(COUNT, 100).await;
    program.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_queue_while_the_program_is_down_are_delivered_after_its_start() {
    let folder = Folder::new();
    let broker = Broker::start(&folder).await;
    let serve = Serve::new(&folder, &pipeline(&broker.url()));
    let program = serve.start_ready().await;
    mosquitto_pub_lines(broker.port, "5", 1, TOPIC, &lines(0, 20));
    program.stop().await;
    mosquitto_pub_lines(broker.port, "311", 1, TOPIC, &lines(20, 200));
    let program = serve.start_ready().await;
    program.http.query_until(COUNT, 200).await;
    // Killed with messages on the wire: the broker keeps what we did not acknowledge.
    mosquitto_pub_lines(broker.port, "5", 1, TOPIC, &lines(200, 400));
    program.kill9();
    mosquitto_pub_lines(broker.port, "5", 1, TOPIC, &lines(400, 500));
    let program = serve.start_ready().await;
    program.http.query_until(COUNT, 500).await;
    program.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_waits_for_a_broker_that_comes_up_later() {
    let folder = Folder::new();
    let mut broker = Broker::start(&folder).await;
    broker.stop().await;
    let mut program = Serve::new(&folder, &pipeline(&broker.url())).start();
    let limit = Duration::from_secs(30);
    let status =
        eventually("the program answers", limit, async || Some(program.http.get("/readyz").await.ok()?.0)).await;
    assert_ne!(status, 200, "ready without a broker");
    broker.resume().await;
    program.ready().await;
    mosquitto_pub(broker.port, "5", 1, TOPIC, "{\"v\":1}");
    program.http.query_until(COUNT, 1).await;
    program.stop().await;
}
