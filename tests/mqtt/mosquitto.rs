//! The `mqtt` source against a real broker: nothing that the broker has accepted and kept is lost, and at QoS 2 nothing is
//! doubled, whoever restarts; what the broker itself loses is said aloud.

use std::time::Duration;

use crate::harness::broker::{Broker, VERSIONS, mosquitto_pub, mosquitto_pub_lines};
use crate::harness::folder::Folder;
use crate::harness::mqtt_script::sender::Ids;
use crate::harness::mqtt_script::words::Version;
use crate::harness::peer::{Peer, Plan, Role};
use crate::harness::program::{Program, Serve, signal};
use crate::harness::tables::Judge;
use crate::harness::wait::{eventually, while_it_moves};

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

/// A debug build on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
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
    let status =
        eventually("the program answers", PATIENCE, async || Some(program.http.get("/readyz").await.ok()?.0)).await;
    assert_ne!(status, 200, "ready without a broker");
    broker.resume().await;
    program.ready().await;
    mosquitto_pub(broker.port, "5", 1, TOPIC, "{\"v\":1}");
    program.http.query_until(COUNT, 1).await;
    program.stop().await;
}

/// A pipeline at a QoS, with more options of the source.
fn pipeline_at(url: &str, qos: u8, options: &str) -> String {
    pipeline(url).replace("qos = '1'", &format!("qos = '{qos}'{options}"))
}

/// A device that publishes numbers through a broker, whatever happens to the broker.
pub(super) fn device(broker: &Broker, folder: &Folder, qos: u8) -> Peer {
    let plan = Plan {
        who: "steady".to_owned(),
        role: Role::Device { port: broker.port },
        version: Version::V5,
        qos,
        topic: TOPIC.to_owned(),
        window: 100,
        ids: Ids::Upwards,
    };
    Peer::begin(plan, &folder.join("ledgers"))
}

pub(super) async fn acknowledged(device: &Peer, messages: i64) {
    let what = format!("{messages} messages are acknowledged by the broker");
    while_it_moves(&what, PATIENCE, async || {
        let so_far = device.done();
        if so_far >= messages { Ok(()) } else { Err(so_far) }
    })
    .await;
}

/// A pipeline that keeps the numbers of a [`device`].
pub(super) fn numbers(url: &str, qos: u8, options: &str) -> String {
    pipeline_at(url, qos, options)
        .replace("(v BIGINT NOT NULL)", "(seq BIGINT NOT NULL)")
        .replace("device, v", "device, seq")
}

/// Rows and different numbers in the table, as DuckDB counts them.
pub(super) fn rows_and_numbers(serve: &Serve) -> (i64, i64) {
    let mut judge = Judge::new();
    judge.table("history", &serve.data.join("tables/history"));
    (judge.number("SELECT count(*) FROM history"), judge.number("SELECT count(DISTINCT seq) FROM history"))
}

pub(super) const NUMBERS: &str = "SELECT count(DISTINCT seq) AS n FROM history";

/// Waits until a source has counted an error of a kind.
async fn counted(program: &Program, kind: &str) {
    eventually(&format!("{kind} is counted"), PATIENCE, async || is_counted(program, kind).await.then_some(())).await;
}

async fn is_counted(program: &Program, kind: &str) -> bool {
    let (_, text) = program.http.get("/metrics").await.expect("an answer");
    let beginning = format!("tidemill_source_errors_total{{source=\"readings\",kind=\"{kind}\"}}");
    text.lines().any(|line| line.starts_with(&beginning) && !line.ends_with(" 0"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_restarts_under_load_is_exactly_once_at_qos_2() {
    let folder = Folder::new();
    // Restarted, Mosquitto 2.0.11 publishes again what it had released, beyond this number: it is to be more than we announce.
    let mut broker = Broker::patient(&folder, 20_000).await;
    let serve = Serve::new(&folder, &numbers(&broker.url(), 2, ""));
    let program = serve.start_ready().await;
    let device = device(&broker, &folder, 2);
    for restart in 1..=3 {
        device.send_until(restart * 2_000);
        acknowledged(&device, restart * 2_000 - 1_000).await;
        broker.stop().await;
        broker.resume().await;
    }
    acknowledged(&device, 6_000).await;
    program.http.query_until(NUMBERS, 6_000).await;
    program.stop().await;
    assert_eq!(rows_and_numbers(&serve), (6_000, 6_000));
    device.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_comes_back_from_an_old_copy_of_its_state_takes_nothing_back() {
    const IN_FLIGHT: i64 = 20;
    let folder = Folder::new();
    let mut broker = Broker::patient(&folder, 100).await;
    let serve = Serve::new(&folder, &numbers(&broker.url(), 2, ""));
    let program = serve.start_ready().await;
    let number = |seq: i64| format!("{{\"seq\":{seq}}}");
    let publish = |from: i64, to: i64| (from..to).map(|seq| number(seq) + "\n").collect::<String>();
    mosquitto_pub_lines(broker.port, "5", 2, TOPIC, &publish(0, 100));
    program.http.query_until(NUMBERS, 100).await;
    // The copy is made while messages are in flight, and is the last one.
    signal("STOP", program.pid());
    mosquitto_pub_lines(broker.port, "5", 2, TOPIC, &publish(100, 100 + IN_FLIGHT));
    broker.save().await;
    signal("CONT", program.pid());
    program.http.query_until(NUMBERS, 100 + IN_FLIGHT).await;
    broker.kill9();
    broker.resume().await;
    // They come again, although they were finished; ids that we believe to be free are used for others.
    mosquitto_pub_lines(broker.port, "5", 2, TOPIC, &publish(200, 300));
    program.http.query_until(NUMBERS, 200 + IN_FLIGHT).await;
    program.stop().await;
    let (rows, numbers) = rows_and_numbers(&serve);
    assert_eq!(numbers, 200 + IN_FLIGHT, "nothing that was acknowledged, and nothing new, is gone");
    assert!(rows <= numbers + IN_FLIGHT, "{} duplicates, where {IN_FLIGHT} were in flight in the copy", rows - numbers);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_forgets_our_session_is_reported_as_a_lost_session() {
    let folder = Folder::new();
    let mut broker = Broker::with(&folder, "persistence false\n").await;
    let serve = Serve::new(&folder, &pipeline_at(&broker.url(), 2, ""));
    let program = serve.start_ready().await;
    mosquitto_pub(broker.port, "5", 2, TOPIC, "{\"v\":1}");
    program.http.query_until(COUNT, 1).await;
    broker.stop().await;
    broker.resume().await;
    counted(&program, "session_lost").await;
    eventually("the log says so, too", PATIENCE, async || program.log().contains("lost our session").then_some(()))
        .await;
    mosquitto_pub(broker.port, "5", 2, TOPIC, "{\"v\":2}");
    program.http.query_until(COUNT, 2).await;
    program.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stops_and_starts_under_a_steady_stream_lose_nothing_and_at_qos_2_double_nothing() {
    for qos in [1, 2] {
        let folder = Folder::new();
        let broker = Broker::patient(&folder, 100).await;
        let serve = Serve::new(&folder, &numbers(&broker.url(), qos, ""));
        serve.start_ready().await.stop().await;
        let device = device(&broker, &folder, qos);
        for stop in 1..=6 {
            device.send_until(stop * 500 - 250);
            let program = serve.start_ready().await;
            device.send_until(stop * 500);
            program.stop().await;
        }
        acknowledged(&device, 3_000).await;
        let program = serve.start_ready().await;
        program.http.query_until(NUMBERS, 3_000).await;
        program.stop().await;
        // A stop acknowledges what it has taken: so there is no duplicate at QoS 1 either.
        assert_eq!(rows_and_numbers(&serve), (3_000, 3_000), "QoS {qos}");
        device.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_full_queue_of_the_broker_drops_is_seen_and_said() {
    let folder = Folder::new();
    let lines_of_broker = "persistence true\nmax_queued_messages 10\nmax_inflight_messages 10\nsys_interval 1\n";
    let broker = Broker::with(&folder, lines_of_broker).await;
    let serve = Serve::new(&folder, &pipeline_at(&broker.url(), 1, ", version = '3.1.1', watch_drops = 'true'"));
    let program = serve.start_ready().await;
    mosquitto_pub(broker.port, "311", 1, TOPIC, "{\"v\":0}");
    program.http.query_until(COUNT, 1).await;
    // The broker tells its count every second; what it was when the program heard it first is not ours, so drops go on.
    eventually("drops are counted", PATIENCE, async || {
        signal("STOP", program.pid());
        mosquitto_pub_lines(broker.port, "311", 1, TOPIC, &lines(1, 500));
        signal("CONT", program.pid());
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        is_counted(&program, "broker_drops").await.then_some(())
    })
    .await;
    program.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_data_folder_takes_from_the_broker_what_waits_for_its_client_id() {
    for (qos, version, waits) in [(0, "311", 0), (1, "5", 30), (2, "311", 30), (2, "5", 30)] {
        let folder = Folder::new();
        let broker = Broker::patient(&folder, 100).await;
        let serve = Serve::new(&folder, &pipeline_at(&broker.url(), qos, ", client_id = 'stays'"));
        let program = serve.start_ready().await;
        mosquitto_pub_lines(broker.port, version, qos, TOPIC, &lines(0, 50));
        program.http.query_until(COUNT, 50).await;
        program.stop().await;
        mosquitto_pub_lines(broker.port, version, qos, TOPIC, &lines(50, 80));
        std::fs::remove_dir_all(&serve.data).expect("a folder to lose");
        let program = serve.start_ready().await;
        mosquitto_pub(broker.port, version, qos, TOPIC, "{\"v\":1000}");
        program.http.query_until(COUNT, waits + 1).await;
        program.http.query_until("SELECT count(*) AS n FROM history WHERE v BETWEEN 50 AND 79", waits).await;
        program.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_data_folder_whose_source_forgets_begins_with_what_comes_next() {
    for version in ["311", "5"] {
        let folder = Folder::new();
        let broker = Broker::patient(&folder, 100).await;
        let options = ", client_id = 'stays', on_foreign_session = 'forget'";
        let serve = Serve::new(&folder, &pipeline_at(&broker.url(), 2, options));
        serve.start_ready().await.stop().await;
        mosquitto_pub_lines(broker.port, version, 2, TOPIC, &lines(50, 80));
        std::fs::remove_dir_all(&serve.data).expect("a folder to lose");
        let program = serve.start_ready().await;
        mosquitto_pub(broker.port, version, 2, TOPIC, "{\"v\":1000}");
        program.http.query_until(COUNT, 1).await;
        program.http.query_until("SELECT count(*) AS n FROM history WHERE v < 1000", 0).await;
        program.stop().await;
    }
}
