//! What a publisher says beside the payload arrives in the columns of its rows, and is there after a replay.

use std::process::Command;

use serde_json::{Value, json};

use crate::harness::broker::Broker;
use crate::harness::folder::Folder;
use crate::harness::program::{Serve, installed};
use crate::harness::tables::Judge;

const COLUMNS: &str = "\
    v BIGINT NOT NULL,
    heard TIMESTAMP METADATA FROM 'arrival_time',
    place BIGINT METADATA FROM 'position',
    topic TEXT METADATA,
    qos INTEGER METADATA NOT NULL,
    retain BOOLEAN METADATA,
    user_properties MAP<TEXT, TEXT> METADATA,
    kind TEXT METADATA FROM 'content_type',
    response_topic TEXT METADATA,
    correlation_data BYTES METADATA,
    expiry BIGINT METADATA FROM 'message_expiry',
    format INTEGER METADATA FROM 'payload_format',
    WATERMARK FOR heard AS heard - INTERVAL '1 second'";

/// What is the same in every run.
const QUESTION: &str = "SELECT v, topic, qos, retain, user_properties['line'] AS line, kind, response_topic, \
    encode(correlation_data, 'hex') AS data, expiry BETWEEN 1 AND 100 AS expires, format, \
    heard > TIMESTAMP '2020-01-01' AS is_heard, place FROM history ORDER BY place";

fn publish(port: u16, version: &str, words: &[&str], value: i64) {
    let port = port.to_string();
    let mut command = Command::new(installed("mosquitto_pub"));
    command.args(["-h", "127.0.0.1", "-p", &port, "-V", version, "-m", &format!("{{\"v\":{value}}}")]);
    let status = command.args(words).status().expect("mosquitto_pub starts");
    assert!(status.success(), "mosquitto_pub {words:?}: {status}");
}

async fn rows_after(serve: &Serve, port: u16) -> Vec<Value> {
    let program = serve.start_ready().await;
    publish(port, "311", &["-q", "0", "-t", "plant/a"], 0);
    program.http.query_until("SELECT count(*) AS n FROM history", 1).await;
    let said = ["user-property line north", "content-type text/json", "response-topic r/1", "correlation-data xyz"];
    let numbers = ["message-expiry-interval 100", "payload-format-indicator 1", "user-property line south"];
    let mut words = vec!["-q", "1", "-t", "plant/b", "-r"];
    for property in said.iter().chain(&numbers) {
        words.extend(["-D", "publish"]);
        words.extend(property.split(' '));
    }
    publish(port, "5", &words, 1);
    program.http.query_until("SELECT count(*) AS n FROM history", 2).await;
    // Killed, so that the state of the view comes from the log again.
    program.kill9();
    let program = serve.start_ready().await;
    program.http.query_until("SELECT count(*) AS n FROM history", 2).await;
    let rows = program.http.query(QUESTION).await.expect("an answer");
    program.stop().await;
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_a_publisher_says_is_in_the_columns_of_its_rows_from_a_broker() {
    let folder = Folder::new();
    let broker = Broker::start(&folder).await;
    let sql = format!(
        "CREATE SOURCE readings ({COLUMNS}) WITH (connector = 'mqtt', url = '{}', topic = 'plant/#', qos = '1');\n\
         CREATE MATERIALIZED VIEW history AS SELECT * FROM readings WHERE v >= 0;\n",
        broker.url()
    );
    let serve = Serve::new(&folder, &sql);
    let rows = rows_after(&serve, broker.port).await;
    assert_eq!(
        rows[0],
        json!({"v": 0, "topic": "plant/a", "qos": 0, "retain": false, "line": null, "kind": null, "response_topic": null,
            "data": null, "expires": null, "format": null, "is_heard": true, "place": 0})
    );
    // A broker hands on what was published with RETAIN while we listen without the flag.
    assert_eq!(
        rows[1],
        json!({"v": 1, "topic": "plant/b", "qos": 1, "retain": false, "line": "south", "kind": "text/json",
            "response_topic": "r/1", "data": "78797a", "expires": true, "format": 1, "is_heard": true, "place": 1})
    );
    let mut judge = Judge::new();
    judge.table("history", &serve.data.join("tables/history"));
    let by_duckdb = judge.rows("SELECT user_properties['line'] AS line FROM history WHERE v = 1");
    assert_eq!(by_duckdb[0]["line"], "south", "of equal names the last counts");
}
