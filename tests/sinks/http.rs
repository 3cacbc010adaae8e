//! An `http` sink of the real program, and a receiver that misbehaves.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use serde_json::Value;

use super::receiver::{Mood, Receiver};
use super::{DELIVERY_MAX, all_is_well, deliver_all, kill_while_rows_come, lines, sink_until};
use crate::harness::folder::Folder;
use crate::harness::program::{Serve, tidemill};
use crate::harness::wait::eventually;

/// What lets a sink reach a receiver on this machine.
pub(super) const ALLOW: (&str, &str) = ("TIDEMILL__NETWORK__ALLOW", "127.0.0.0/8");

/// A pipeline whose sink posts every row, and a view beside it.
pub(super) fn pipeline(url: &str, options: &str) -> String {
    format!(
        "CREATE SOURCE readings (n BIGINT NOT NULL, site TEXT, device TEXT) WITH (connector = 'http');\n\
         CREATE MATERIALIZED VIEW hot AS SELECT n, site, device FROM readings WHERE n >= 0;\n\
         CREATE MATERIALIZED VIEW beside AS SELECT n FROM readings;\n\
         CREATE SINK alerts FROM hot WITH (connector = 'http', url = '{url}'{options});\n"
    )
}

fn serve(folder: &Folder, url: &str, options: &str) -> Serve {
    let mut serve = Serve::new(folder, &pipeline(url, options));
    serve.environment.push((ALLOW.0.to_owned(), ALLOW.1.to_owned()));
    serve
}

/// Says whether the rows of each device came in their order: within an epoch a worker's rows stay in theirs.
fn in_order_for_each_device(numbers: &[u64]) -> bool {
    (0..3).all(|device| numbers.iter().filter(|n| *n % 3 == device).is_sorted())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_result_arrives_once_at_a_receiver_that_remembers_keys_through_kills() {
    const KILLS: usize = 12;
    let (folder, receiver) = (Folder::new(), Receiver::start().await);
    let options = ", commit_interval = '20 ms', batch_rows = '40', timeout = '1 s'";
    let serve = serve(&folder, &receiver.url(), options);
    let mut random = rand::rngs::StdRng::seed_from_u64(5);
    let next = kill_while_rows_come(&serve, KILLS, Duration::ZERO, async || {
        for _ in 0..3 {
            receiver.becomes(match random.random_range(0..10) {
                0 => Mood::Answers(503),
                1 => Mood::TakesAndFails,
                2 => Mood::TakesAndResets,
                3 => Mood::Hangs,
                4 => Mood::Resets,
                _ => Mood::Takes,
            });
            tokio::time::sleep(Duration::from_millis(random.random_range(20..250))).await;
        }
        if receiver.requests() == receiver.keys() {
            receiver.becomes(Mood::TakesAndFails);
            let comes_again = async || (receiver.requests() > receiver.keys()).then_some(());
            eventually("a request comes again", DELIVERY_MAX, comes_again).await;
        }
    })
    .await;
    receiver.becomes(Mood::Takes);
    let (program, stored) = deliver_all(&serve, next).await;
    receiver.saw(stored.len()).await;
    program.stop().await;
    let mut numbers = receiver.numbers();
    numbers.sort_unstable();
    eprintln!(
        "http sink: {} rows, {} keys, {} requests, {KILLS} kills",
        stored.len(),
        receiver.keys(),
        receiver.requests()
    );
    assert!(stored.len() > 500, "{}", stored.len());
    assert!(receiver.requests() > receiver.keys(), "nothing came twice, so nothing was proven");
    assert_eq!(numbers, stored);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_fails_hangs_resets_or_sends_us_inward_holds_nothing_up_and_gets_everything_in_order() {
    let inner = Receiver::start().await;
    for (mood, words) in [
        (Mood::Answers(500), "answers 500"),
        (Mood::Answers(403), "the url or the credentials are wrong"),
        (Mood::Hangs, "no answer within the timeout"),
        (Mood::Resets, "the connection broke off"),
        (Mood::Redirects(inner.url()), "another place"),
        (Mood::Redirects("http://169.254.169.254/latest/meta-data".to_owned()), "another place"),
    ] {
        let (folder, receiver) = (Folder::new(), Receiver::start().await);
        let mut serve = serve(&folder, &receiver.url(), ", timeout = '200 ms'");
        // One, so that rows of one request stay in order too.
        serve.workers = 1;
        let program = serve.start_ready().await;
        program.http.ingest_durably("readings", &lines(0, 100)).await;
        receiver.saw(100).await;
        // The answer has arrived, too: otherwise they would come again.
        sink_until(&program.http, "the first rows are delivered", |sink| sink["outbox_rows"] == 0).await;
        receiver.becomes(mood.clone());
        for from in (100..600).step_by(100) {
            program.http.ingest_durably("readings", &lines(from, from + 100)).await;
        }
        program.http.query_until("SELECT count(*) AS n FROM hot", 600).await;
        program.http.query_until("SELECT count(*) AS n FROM beside", 600).await;
        // On a busy machine an attempt may fail otherwise once in a while.
        let says = |sink: &Value| sink["error"].as_str().is_some_and(|error| error.contains(words));
        let what = format!("the breaker opens, and says {words:?}");
        let is_so = |sink: &Value| sink["breaker"] == "open" && sink["outbox_rows"] == 500 && says(sink);
        sink_until(&program.http, &what, is_so).await;
        eventually("the gauge shows it", DELIVERY_MAX, async || {
            let (_, text) = program.http.get("/metrics").await.ok()?;
            text.contains("tidemill_circuit_breaker_state{sink=\"alerts\"} 2\n").then_some(())
        })
        .await;
        // Rows wait on the disk: a restart changes nothing.
        program.kill9();
        let program = serve.start_ready().await;
        program.http.ingest_durably("readings", &lines(600, 700)).await;
        receiver.becomes(Mood::Takes);
        receiver.saw(700).await;
        let numbers = receiver.numbers();
        assert!(in_order_for_each_device(&numbers), "{mood:?}: {numbers:?}");
        assert_eq!(numbers.iter().copied().collect::<BTreeSet<_>>(), (0..700).collect(), "{mood:?}");
        sink_until(&program.http, "the outbox is empty, and the breaker closed", all_is_well).await;
        let (_, text) = program.http.get("/metrics").await.expect("an answer");
        assert!(text.contains("tidemill_circuit_breaker_state{sink=\"alerts\"} 0\n"), "{text}");
        program.stop().await;
    }
    assert_eq!(inner.connections(), 0, "nobody is sent inward");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_inward_is_refused_by_check_and_at_the_connection_until_the_configuration_allows_it() {
    let (folder, receiver) = (Folder::new(), Receiver::start().await);
    for url in
        [receiver.url(), "http://localhost:9/".to_owned(), "http://[::1]/".to_owned(), "http://0x7f.1/".to_owned()]
    {
        let file = folder.write("p.sql", &pipeline(&url, ""));
        let output = tidemill(["check".as_ref(), file.as_os_str()]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{url}: {text}");
        assert!(text.contains("is a loopback address") && text.contains("network.allow"), "{url}: {text}");
    }
    let config = folder.write("tidemill.toml", "[network]\nallow = [\"127.0.0.0/8\", \"::1\"]\n");
    let file = folder.write("p.sql", &pipeline(&receiver.url(), ""));
    let output = tidemill(["--config".as_ref(), config.as_os_str(), "check".as_ref(), file.as_os_str()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // A name is judged when it is connected to: the name of this machine leads inward.
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("Linux's /proc");
    let mut serve = Serve::new(&folder, &pipeline(&format!("http://{}:{}/", name.trim(), receiver.address.port()), ""));
    let program = serve.start_ready().await;
    program.http.ingest_durably("readings", &lines(0, 10)).await;
    let sink = sink_until(&program.http, "the refusal is told", |sink| !sink["error"].is_null()).await;
    let error = sink["error"].as_str().unwrap_or_default();
    assert!(error.contains("network.allow") || error.contains("cannot find the address"), "{sink}");
    assert_eq!((sink["outbox_rows"].as_u64(), receiver.connections()), (Some(10), 0), "{sink}");
    program.stop().await;
    serve.pipeline = folder.write("pipeline.sql", &pipeline(&receiver.url(), ""));
    serve.environment.push((ALLOW.0.to_owned(), ALLOW.1.to_owned()));
    let program = serve.start_ready().await;
    receiver.saw(10).await;
    program.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_kept_and_the_rest_is_delivered() {
    let (folder, receiver) = (Folder::new(), Receiver::start().await);
    let serve = serve(&folder, &receiver.url(), "");
    let program = serve.start_ready().await;
    receiver.becomes(Mood::Answers(422));
    program.http.ingest_durably("readings", &lines(0, 10)).await;
    sink_until(&program.http, "they are refused", |sink| sink["rejected"] == 10 && sink["outbox_rows"] == 0).await;
    receiver.becomes(Mood::Takes);
    program.http.ingest_durably("readings", &lines(10, 20)).await;
    receiver.saw(10).await;
    assert_eq!(receiver.numbers().into_iter().collect::<BTreeSet<_>>(), (10..20).collect());
    let refused: Vec<_> = std::fs::read_dir(serve.data.join("sinks/alerts/refused")).expect("a folder").collect();
    let text: String = refused
        .iter()
        .map(|entry| std::fs::read_to_string(entry.as_ref().expect("an entry").path()).expect("a file"))
        .collect();
    let rows = text.lines().filter(|line| line.contains("\"device\"")).count();
    assert_eq!(rows, 10, "{text}");
    assert!(text.contains("\"status\":422"), "{text}");
    let (_, metrics) = program.http.get("/metrics").await.expect("an answer");
    assert!(metrics.contains("tidemill_sink_rejected_rows_total{sink=\"alerts\"} 10"), "{metrics}");
    program.stop().await;
}
