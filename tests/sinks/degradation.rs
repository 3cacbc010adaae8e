//! What goes on while something beside it does not: the query side here, sinks and targets in the files beside.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::http::{ALLOW, pipeline};
use super::lines;
use super::receiver::Receiver;
use super::subscriber::Subscriber;
use crate::harness::folder::Folder;
use crate::harness::program::{Serve, free_port};

/// Clients that ask for much and read nothing.
const SLOW: usize = 4;
const ROWS: u64 = 200_000;

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_ask_and_do_not_read_hold_up_neither_ingest_nor_views_nor_sinks() {
    let (folder, receiver) = (Folder::new(), Receiver::start().await);
    let mut serve = Serve::new(&folder, &pipeline(&receiver.url(), ""));
    serve.environment.push((ALLOW.0.to_owned(), ALLOW.1.to_owned()));
    let program = serve.start_ready().await;
    for from in (0..ROWS).step_by(20_000) {
        program.http.ingest_durably("readings", &lines(from, from + 20_000)).await;
    }
    program.http.query_until("SELECT count(*) AS n FROM hot", ROWS as i64).await;
    let mut slow = Vec::new();
    for _ in 0..SLOW {
        let mut stream = TcpStream::connect(("127.0.0.1", serve.http)).await.expect("a connection");
        let body = r#"{"sql": "SELECT * FROM hot"}"#;
        let head = format!(
            "POST /api/v1/query HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(format!("{head}{body}").as_bytes()).await.expect("taken");
        let mut first = [0; 12];
        let answered = tokio::time::timeout(Duration::from_secs(60), stream.read_exact(&mut first)).await;
        answered.expect("an answer begins").expect("an answer begins");
        assert_eq!(&first, b"HTTP/1.1 200");
        slow.push(stream);
    }
    let before = program.memory_kib("VmHWM");
    for from in (ROWS..ROWS + 20_000).step_by(1_000) {
        program.http.ingest_durably("readings", &lines(from, from + 1_000)).await;
    }
    program.http.query_until("SELECT count(*) AS n FROM beside", ROWS as i64 + 20_000).await;
    receiver.saw(ROWS as usize + 20_000).await;
    let growth = program.memory_kib("VmHWM").saturating_sub(before);
    assert!(growth < 200 << 10, "{growth} KiB more");
    drop(slow);
    program.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_stands_still_holds_nothing_up_and_gets_everything_when_it_goes_on() {
    let (folder, port) = (Folder::new(), free_port());
    let sql = format!(
        "CREATE SOURCE readings (n BIGINT NOT NULL, site TEXT, device TEXT) WITH (connector = 'http');\n\
         CREATE SOURCE devices (v BIGINT) WITH (connector = 'mqtt_listener', bind = '127.0.0.1:{port}', topic = 'in/{{device}}');\n\
         CREATE MATERIALIZED VIEW hot AS SELECT n, site, device FROM readings WHERE n >= 0;\n\
         CREATE MATERIALIZED VIEW beside AS SELECT n FROM readings;\n\
         CREATE SINK alerts FROM hot WITH (connector = 'mqtt', url = 'listener:devices', topic = 'alerts/{{device}}', qos = 2);\n"
    );
    let program = Serve::new(&folder, &sql).start_ready().await;
    let subscriber = Subscriber::start(&folder, port, "alerts/#").await;
    program.http.ingest_durably("readings", &lines(0, 100)).await;
    subscriber.saw(100).await;
    subscriber.stand_still();
    for from in (100..10_100).step_by(1_000) {
        program.http.ingest_durably("readings", &lines(from, from + 1_000)).await;
    }
    program.http.query_until("SELECT count(*) AS n FROM beside", 10_100).await;
    program.http.query_until("SELECT count(*) AS n FROM hot", 10_100).await;
    subscriber.go_on();
    subscriber.saw(10_100).await;
    let mut numbers = subscriber.numbers();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..10_100).collect::<Vec<_>>(), "each of them once");
    program.stop().await;
}
