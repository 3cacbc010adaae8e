//! What an outbox does when it is full, and what `run` and `check` say of it.

use serde_json::Value;

use super::subscriber::Subscriber;
use super::{lines, pipeline, sink_until};
use crate::harness::broker::Broker;
use crate::harness::folder::Folder;
use crate::harness::program::{Serve, free_port, tidemill};

#[tokio::test(flavor = "multi_thread")]
async fn a_full_outbox_leaves_rows_out_counts_them_and_holds_nothing_up() {
    for on_full in ["drop_oldest", "drop_newest"] {
        let folder = Folder::new();
        let mut broker = Broker::patient(&folder, 1_000).await;
        let subscriber = Subscriber::start(&folder, broker.port, "alerts/#").await;
        broker.stop().await;
        let options = format!("url = '{}', qos = 2, outbox_bytes = '1 MiB', on_full = '{on_full}'", broker.url());
        let serve = Serve::new(&folder, &pipeline(&options));
        let program = serve.start_ready().await;
        const ROWS: u64 = 40_000;
        for from in (0..ROWS).step_by(1_000) {
            program.http.ingest_durably("readings", &lines(from, from + 1_000)).await;
        }
        program.http.query_until("SELECT count(*) AS n FROM hot", 40_000).await;
        let all = |sink: &Value| {
            sink["outbox_rows"].as_u64().zip(sink["dropped"].as_u64()).is_some_and(|(a, b)| a + b == ROWS)
        };
        let sink = sink_until(&program.http, "all rows are in the outbox or left out", all).await;
        let number = |key: &str| sink[key].as_u64().expect("a number");
        assert!(number("dropped") > 10_000, "{sink}");
        // What may be in flight comes on top, and one file.
        assert!(number("outbox_bytes") < (1 << 20) + (256 << 10), "{sink}");
        broker.resume().await;
        subscriber.saw(usize::try_from(number("outbox_rows")).expect("few")).await;
        let mut seen = subscriber.numbers();
        seen.sort_unstable();
        assert_eq!(seen.len() as u64, number("outbox_rows"), "each of them once");
        assert_eq!(seen.contains(&(ROWS - 1)), on_full == "drop_oldest");
        assert!(on_full == "drop_oldest" || seen.contains(&0), "the first row is not among the newest");
        program.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn run_delivers_before_it_ends_and_says_what_waits() {
    let folder = Folder::new();
    folder.write("readings.ndjson", &lines(0, 2_000));
    let file = folder.join("readings.ndjson");
    let sql = |port: u16| {
        pipeline(&format!("url = 'mqtt://127.0.0.1:{port}', qos = 1"))
            .replace("connector = 'http'", &format!("connector = 'file', path = '{}', format = 'json'", file.display()))
    };
    let run = |path: &std::path::Path| {
        let data = folder.join("data");
        let output = tidemill(["run".as_ref(), "--data".as_ref(), data.as_os_str(), path.as_os_str()]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let nobody = run(&folder.write("nobody.sql", &sql(free_port())));
    assert!(
        nobody.contains("sink alerts  0 rows delivered, 2,000 wait in the outbox for the next run: cannot connect"),
        "{nobody}"
    );

    let broker = Broker::patient(&folder, 1_000).await;
    let subscriber = Subscriber::start(&folder, broker.port, "alerts/#").await;
    let somebody = run(&folder.write("somebody.sql", &sql(broker.port)));
    assert!(somebody.contains("sink alerts  2,000 rows delivered\n"), "{somebody}");
    subscriber.saw(2_000).await;
    let again = run(&folder.join("somebody.sql"));
    assert!(again.contains("sink alerts  0 rows delivered\n"), "{again}");
    assert_eq!(subscriber.numbers().len(), 2_000);
}

#[test]
fn check_shows_a_sink_and_its_mistakes() {
    let folder = Folder::new();
    let check = |sql: &str| {
        let output = tidemill(["check".as_ref(), folder.write("p.sql", sql).as_os_str()]);
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (is_good, text) = check(&pipeline("url = 'mqtt://localhost'"));
    assert!(is_good && text.contains("sink alerts of hot (mqtt)\n  n "), "{text}");
    assert!(text.contains("ok: 1 source, 1 view, 2 tables, 1 sink"), "{text}");
    let (is_good, text) = check(&pipeline("url = 'mqtt://localhost', retian = true"));
    assert!(!is_good && text.contains("did you mean \"retain\"?"), "{text}");
}
