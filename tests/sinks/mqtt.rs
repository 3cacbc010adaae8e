//! A sink, Mosquitto, and `mosquitto_sub`.

use std::collections::BTreeSet;
use std::io::Write;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use serde_json::Value;

use super::subscriber::Subscriber;
use super::{DELIVERY_MAX, all_is_well, deliver_all, kill_while_rows_come, lines, pipeline, sink_until};
use crate::harness::broker::Broker;
use crate::harness::folder::Folder;
use crate::harness::program::{Serve, installed};
use crate::harness::wait::while_it_moves;

#[tokio::test(flavor = "multi_thread")]
async fn results_arrive_with_their_topic_in_both_versions() {
    for version in ["5", "3.1.1"] {
        let folder = Folder::new();
        let broker = Broker::patient(&folder, 1_000).await;
        let subscriber = Subscriber::start(&folder, broker.port, "alerts/#").await;
        let options = format!("url = '{}', qos = 2, retain = true, version = '{version}'", broker.url());
        let program = Serve::new(&folder, &pipeline(&options)).start_ready().await;
        program.http.ingest_durably("readings", "{\"n\":1,\"site\":\"a/b+#\",\"device\":null}\n").await;
        subscriber.saw(1).await;
        program.http.ingest_durably("readings", "{\"n\":2,\"site\":\"lab\",\"device\":\"freezer\"}\n").await;
        subscriber.saw(2).await;
        let is_known = |sink: &Value| sink["outbox_rows"] == 0 && sink["delivered"] == 2;
        sink_until(&program.http, "the broker has taken both", is_known).await;
        let messages = subscriber.messages();
        let expected = [
            ("alerts/a%2Fb%2B%23/_", serde_json::json!({"n": 1, "site": "a/b+#", "device": null})),
            ("alerts/lab/freezer", serde_json::json!({"n": 2, "site": "lab", "device": "freezer"})),
        ];
        for ((_, topic, payload), (expected_topic, expected_payload)) in messages.iter().zip(&expected) {
            assert_eq!((topic.as_str(), payload), (*expected_topic, expected_payload));
        }
        // Who comes later gets what was retained.
        let later = Folder::new();
        drop(subscriber);
        let subscriber = Subscriber::start(&later, broker.port, "alerts/lab/freezer").await;
        subscriber.saw(1).await;
        assert!(subscriber.messages()[0].0, "retained");
        let (status, text) = program.http.get("/metrics").await.expect("an answer");
        assert_eq!(status, 200);
        assert!(text.contains("tidemill_sink_delivered_rows_total{sink=\"alerts\"} 2"), "{text}");
        assert!(text.contains("tidemill_sink_outbox_rows{sink=\"alerts\"} 0"), "{text}");
        assert!(text.contains("tidemill_circuit_breaker_state{sink=\"alerts\"} 0"), "{text}");
        program.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_says_who_it_is_by_a_secret_that_is_read_anew_for_each_connection() {
    let folder = Folder::new();
    let users = folder.join("users");
    let made = std::process::Command::new(installed("mosquitto_passwd"))
        .args(["-c", "-b", users.to_str().expect("a plain name"), "tide", "right"])
        .output()
        .expect("mosquitto_passwd starts");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let config = format!("allow_anonymous false\npassword_file {}\n", users.display());
    let broker = Broker::with(&folder, &config).await;
    let password = folder.join("password");
    let write = |text: &str| std::fs::File::create(&password).and_then(|mut file| file.write_all(text.as_bytes()));
    write("wrong\n").expect("a writable file");
    let secret =
        format!("CREATE SECRET broker (TYPE mqtt, USERNAME 'tide', PASSWORD FILE '{}');\n", password.display());
    let sql = secret + &pipeline(&format!("url = '{}', secret = 'broker'", broker.url()));
    let program = Serve::new(&folder, &sql).start_ready().await;
    program.http.ingest_durably("readings", &lines(0, 3)).await;
    let is_refused = |sink: &Value| {
        sink["error"].as_str().is_some_and(|error| error.contains("username") || error.contains("not authorized"))
    };
    let refused = sink_until(&program.http, "the broker refuses it", is_refused).await;
    assert!(!refused.to_string().contains("wrong"), "{refused}");
    write("right\n").expect("a writable file");
    sink_until(&program.http, "all are delivered", |sink| sink["delivered"] == 3).await;
    program.stop().await;
}

/// Kills the program again and again while rows come. Returns what arrived, and what the view's table has.
async fn killed(qos: u8, seed: u64, kills: usize) -> (Vec<u64>, Vec<u64>) {
    let folder = Folder::new();
    let broker = Broker::patient(&folder, 1_000).await;
    let subscriber = Subscriber::start(&folder, broker.port, "alerts/#").await;
    let serve =
        Serve::new(&folder, &pipeline(&format!("url = '{}', qos = {qos}, commit_interval = '20 ms'", broker.url())));
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let next = kill_while_rows_come(&serve, kills, Duration::ZERO, async || {
        tokio::time::sleep(Duration::from_millis(random.random_range(50..600))).await;
    })
    .await;
    arrived(&serve, next, &subscriber).await
}

/// Lets the program deliver everything. Returns what arrived, and what the view's table has.
async fn arrived(serve: &Serve, next: u64, subscriber: &Subscriber) -> (Vec<u64>, Vec<u64>) {
    let (program, stored) = deliver_all(serve, next).await;
    while_it_moves("every result has arrived", DELIVERY_MAX, async || {
        let distinct: BTreeSet<u64> = subscriber.numbers().into_iter().collect();
        if distinct.len() >= stored.len() { Ok(()) } else { Err(distinct.len()) }
    })
    .await;
    program.stop().await;
    (subscriber.numbers(), stored)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_result_arrives_once_at_qos_2_through_kills() {
    let (seen, stored) = killed(2, 7, 8).await;
    once(seen, &stored);
}

/// Asserts that each stored row was seen, and once.
fn once(mut seen: Vec<u64>, stored: &[u64]) {
    seen.sort_unstable();
    assert!(stored.len() > 500, "{}", stored.len());
    let twice: Vec<u64> = seen.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
    assert!(twice.is_empty(), "twice: {twice:?}");
    assert_eq!(seen, stored);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_result_arrives_once_at_qos_2_through_restarts_of_the_broker_and_kills() {
    const ROUNDS: usize = 5;
    // What waits for a subscriber, Mosquitto 2.0.11 may bring again after its restart: so little waits.
    const PAUSE: Duration = Duration::from_millis(25);
    let folder = Folder::new();
    let mut broker = Broker::patient(&folder, 1_000).await;
    let subscriber = Subscriber::start(&folder, broker.port, "alerts/#").await;
    let options = format!("url = '{}', qos = 2, commit_interval = '20 ms'", broker.url());
    let serve = Serve::new(&folder, &pipeline(&options));
    let mut random = rand::rngs::StdRng::seed_from_u64(3);
    let next = kill_while_rows_come(&serve, ROUNDS, PAUSE, async || {
        tokio::time::sleep(Duration::from_millis(random.random_range(1_500..2_100))).await;
        broker.stop().await;
        broker.resume().await;
        tokio::time::sleep(Duration::from_millis(random.random_range(50..600))).await;
    })
    .await;
    let (seen, stored) = arrived(&serve, next, &subscriber).await;
    once(seen, &stored);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_result_arrives_at_qos_1_through_kills_and_few_twice() {
    const KILLS: usize = 5;
    let (seen, stored) = killed(1, 11, KILLS).await;
    let distinct: BTreeSet<u64> = seen.iter().copied().collect();
    assert_eq!(distinct.into_iter().collect::<Vec<_>>(), stored);
    // What was on its way, and what was confirmed while the cursor was written.
    assert!(seen.len() - stored.len() <= KILLS * 1_024, "{} twice", seen.len() - stored.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_holds_nothing_up_and_gets_everything_in_order() {
    let folder = Folder::new();
    let mut broker = Broker::patient(&folder, 1_000).await;
    let subscriber = Subscriber::start(&folder, broker.port, "alerts/#").await;
    let mut serve = Serve::new(&folder, &pipeline(&format!("url = '{}', qos = 2", broker.url())));
    // One, so that rows of one request stay in order too.
    serve.workers = 1;
    let program = serve.start_ready().await;
    program.http.ingest_durably("readings", &lines(0, 100)).await;
    subscriber.saw(100).await;
    // The broker has confirmed them, too: otherwise they would wait for it.
    sink_until(&program.http, "the first rows are delivered", |sink| sink["outbox_rows"] == 0).await;
    broker.stop().await;
    for from in (100..600).step_by(100) {
        program.http.ingest_durably("readings", &lines(from, from + 100)).await;
    }
    program.http.query_until("SELECT count(*) AS n FROM hot", 600).await;
    let says = |sink: &Value| sink["error"].as_str().is_some_and(|error| error.contains("cannot connect to 127.0.0.1"));
    let is_so = |sink: &Value| sink["breaker"] == "open" && sink["outbox_rows"] == 500 && says(sink);
    sink_until(&program.http, "the breaker opens, and says why", is_so).await;
    // Rows wait on the disk: a restart changes nothing.
    program.kill9();
    let program = serve.start_ready().await;
    program.http.ingest_durably("readings", &lines(600, 700)).await;
    broker.resume().await;
    subscriber.saw(700).await;
    assert_eq!(subscriber.numbers(), (0..700).collect::<Vec<_>>());
    sink_until(&program.http, "the outbox is empty, and the breaker closed", all_is_well).await;
    program.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_broker_refuses_wait_and_go_where_the_sink_points_next() {
    let (folder, other) = (Folder::new(), Folder::new());
    let refusing = Broker::start_with(&folder, "allow_anonymous false\n").await;
    let mut serve = Serve::new(&folder, &pipeline(&format!("url = '{}'", refusing.url())));
    let program = serve.start_ready().await;
    program.http.ingest_durably("readings", &lines(0, 50)).await;
    let says = |sink: &Value| sink["error"].as_str().is_some_and(|error| error.contains("not authorized"));
    sink_until(&program.http, "the refusal is told", |sink| sink["outbox_rows"] == 50 && says(sink)).await;
    program.stop().await;

    let broker = Broker::patient(&other, 1_000).await;
    let subscriber = Subscriber::start(&other, broker.port, "alerts/#").await;
    serve.pipeline = folder.write("pipeline.sql", &pipeline(&format!("url = '{}', qos = 2", broker.url())));
    let program = serve.start_ready().await;
    subscriber.saw(50).await;
    let seen: BTreeSet<u64> = subscriber.numbers().into_iter().collect();
    assert_eq!(seen, (0..50).collect());
    program.stop().await;
}
