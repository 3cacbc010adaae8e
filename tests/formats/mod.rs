//! Formats as the libraries of others write them (fastavro, protobuf, pyarrow), through the real program: as messages at the MQTT
//! listener, as files, and as bodies of requests ([`posted`]); and the page about them.

mod posted;

use std::path::Path;
use std::process::Command;

use crate::harness::folder::Folder;
use crate::harness::program::{Serve, command, free_port, installed};
use crate::harness::python::{interpreter, script};
use crate::harness::tables::Judge;

const COLUMNS: &str =
    "device TEXT NOT NULL, n BIGINT, temperature DOUBLE, ts TIMESTAMP NOT NULL, state TEXT, \"position.lat\" REAL";

/// Has Python write its messages and files.
fn encoded(folder: &Path) {
    let proto = script("../connectors/src/format/testdata/readings.proto");
    std::fs::copy(proto, folder.join("readings.proto")).expect("a file to copy");
    let output =
        Command::new(interpreter()).arg(script("formats/encode.py")).arg(folder).output().expect("Python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn publish(port: u16, topic: &str, file: &Path) {
    let port = port.to_string();
    let words = ["-h", "127.0.0.1", "-p", &port, "-q", "1", "-t", topic, "-f"];
    let output = Command::new(installed("mosquitto_pub")).args(words).arg(file).output().expect("mosquitto_pub starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Says how the readings of a table differ from those that Python has written.
fn assert_readings(judge: &mut Judge, table: &str, times: i64) {
    let question = format!(
        "SELECT device, n, temperature, epoch_us(ts) AS us, state, lat, count(*) AS times FROM {table} GROUP BY ALL ORDER BY n"
    );
    let found: Vec<String> =
        judge.rows(&question).iter().map(|row| serde_json::to_string(row).expect("a row")).collect();
    let row = |n: i64, temperature: &str, state: &str, lat: &str| {
        let us = (1_700_000_000 + n) * 1_000_000;
        format!(
            "{{\"device\":\"dev-{n}\",\"lat\":{lat},\"n\":{n},\"state\":\"{state}\",\"temperature\":{temperature},\"times\":{times},\"us\":{us}}}"
        )
    };
    let expected = [row(0, "20.5", "OK", "47.5"), row(1, "null", "OK", "null"), row(2, "22.5", "BAD", "47.5")];
    let sorted = |text: &str| -> serde_json::Value { serde_json::from_str(text).expect("JSON") };
    let found: Vec<serde_json::Value> = found.iter().map(|text| sorted(text)).collect();
    let expected: Vec<serde_json::Value> = expected.iter().map(|text| sorted(text)).collect();
    assert_eq!(found, expected, "{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_other_libraries_are_read_and_a_damaged_one_is_a_dead_letter() {
    let folder = Folder::new();
    encoded(folder.path());
    let formats = [
        ("avro", "format = 'avro', schema_file = 'readings.avsc'"),
        ("confluent", "format = 'avro', schema_file = 'readings.avsc', prefix = 'confluent', schema_id = 42"),
        ("single", "format = 'avro', schema_file = 'readings.avsc', prefix = 'single_object'"),
        ("protobuf", "format = 'protobuf', descriptor_file = 'readings.desc', message = 'plant.Reading'"),
        ("arrow", "format = 'arrow'"),
    ];
    let mut sql = String::new();
    let mut ports = Vec::new();
    for (name, options) in formats {
        let here = format!("_file = '{}/", folder.path().display());
        let options = options.replace("_file = '", &here);
        let port = free_port();
        ports.push(port);
        sql += &format!(
            "CREATE SOURCE {name} ({COLUMNS}) WITH (connector = 'mqtt_listener', bind = '127.0.0.1:{port}', topic = 't/{{line}}', {options});\n\
             CREATE MATERIALIZED VIEW t_{name} AS SELECT device, n, temperature, ts, state, \"position.lat\" AS lat, line FROM {name};\n"
        );
    }
    let serve = Serve::new(&folder, &sql);
    let program = serve.start_ready().await;
    for ((name, _), port) in formats.iter().zip(&ports) {
        for n in 0..4 {
            publish(*port, "t/one", &folder.join(&format!("{name}-{n}")));
        }
    }
    for (name, _) in formats {
        program.http.settled(name, 4).await;
    }
    program.stop().await;
    let mut judge = Judge::new();
    for (name, _) in formats {
        judge.table("readings", &serve.data.join(format!("tables/t_{name}")));
        if name == "protobuf" {
            // An enum has the names of its own schema.
            let named = "(SELECT * REPLACE (replace(state, 'STATE_', '') AS state) FROM readings)";
            assert_readings(&mut judge, named, 1);
        } else {
            assert_readings(&mut judge, "readings", 1);
        }
        judge.table("dead", &serve.data.join(format!("tables/{name}$dead")));
        let dead = judge.rows("SELECT topic, octet_length(payload) AS size FROM dead");
        let size = std::fs::metadata(folder.join(&format!("{name}-3"))).expect("a damaged message").len();
        assert_eq!(serde_json::json!(dead), serde_json::json!([{"topic": "t/one", "size": size}]), "{name}");
    }
}

#[test]
fn files_of_other_libraries_are_read_to_their_end() {
    let folder = Folder::new();
    encoded(folder.path());
    let mut sql = String::new();
    let kinds = [("avro", "*.avro", 3), ("arrow", "*.arrow", 6), ("gz", "packed.ndjson.gz", 1)];
    for (name, path, _) in kinds {
        let columns =
            if name == "gz" { COLUMNS.replace("\"position.lat\" REAL", "lat REAL") } else { COLUMNS.to_owned() };
        let lat = if name == "gz" { "lat" } else { "\"position.lat\" AS lat" };
        sql += &format!(
            "CREATE SOURCE {name} ({columns}) WITH (connector = 'file', path = '{path}');\n\
             CREATE MATERIALIZED VIEW t_{name} AS SELECT device, n, temperature, ts, state, {lat} FROM {name};\n"
        );
    }
    let pipeline = folder.write("pipeline.sql", &sql);
    let output = command(["run", "--data", "data"], folder.path()).arg(&pipeline).output().expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut judge = Judge::new();
    for (name, _, times) in kinds {
        judge.table("readings", &folder.join(&format!("data/tables/t_{name}")));
        if name == "gz" {
            assert_eq!(judge.number("SELECT count(DISTINCT n) FROM readings WHERE lat IS NULL"), 3);
        } else {
            assert_readings(&mut judge, "readings", times);
        }
    }
}

/// The blocks of a page that are marked with `check`.
fn examples(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = page.lines();
    let mut is_marked = false;
    while let Some(line) = lines.next() {
        if line.starts_with("```") {
            let text = lines.by_ref().take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect();
            assert!(is_marked, "mark it with <!-- test: check -->: {text}");
            is_marked = false;
            found.push(text);
        } else if line == "<!-- test: check -->" {
            is_marked = true;
        }
    }
    found
}

#[test]
fn every_example_of_the_page_is_accepted() {
    let folder = Folder::new();
    encoded(folder.path());
    let examples = examples(include_str!("../../docs/formats.md"));
    assert!(examples.len() >= 6, "the page has lost its examples");
    for example in examples {
        folder.write("shown.sql", &example);
        let output = command(["check", "shown.sql"], folder.path()).output().expect("the program starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{example}\n{said}");
    }
}

#[test]
fn what_check_says_of_a_wrong_schema_names_the_option_and_the_remedy() {
    let folder = Folder::new();
    encoded(folder.path());
    for (columns, options, expected) in [
        (
            "temprature DOUBLE NOT NULL",
            "format = 'avro', schema_file = 'readings.avsc'",
            "did you mean \"temperature\"?",
        ),
        ("device DOUBLE", "format = 'avro', schema_file = 'none.avsc'", "option schema_file: cannot read"),
        (
            "\"position.lng\" REAL",
            "format = 'protobuf', descriptor_file = 'readings.desc', message = 'plant.Reading'",
            "has no field lng",
        ),
        ("x REAL", "format = 'protobuf'", "--descriptor_set_out"),
        ("x REAL", "format = 'raw'", "declare one of type TEXT or BYTES"),
        (
            "x REAL",
            "format = 'jsn'",
            "is not one of 'json', 'csv', 'text', 'raw', 'avro', 'protobuf', 'arrow', 'parquet'",
        ),
    ] {
        folder.write(
            "shown.sql",
            &format!(
                "CREATE SOURCE s ({columns}) WITH (connector = 'mqtt', url = 'mqtt://localhost', topic = 't', {options});\n\
                 CREATE MATERIALIZED VIEW v AS SELECT * FROM s;\n"
            ),
        );
        let output = command(["check", "shown.sql"], folder.path()).output().expect("the program starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{options}: {said}");
        assert!(said.contains(expected), "{options}: {expected:?} is not in\n{said}");
    }
}
