//! The same as bodies of requests: each is stored once, though the program is killed and all of them come again.

use std::io::Write;

use super::{COLUMNS, assert_readings, encoded};
use crate::harness::folder::Folder;
use crate::harness::program::{Program, Serve};
use crate::harness::tables::Judge;

const PROTOBUF: &str = "application/x-protobuf";
const DELIMITED: &str = "application/x-protobuf; delimited=true";
const ARROW: &str = "application/vnd.apache.arrow.stream";

/// A request: the source, the type of its body, the body, and how many rows it has.
struct Request {
    source: &'static str,
    content_type: &'static str,
    body: Vec<u8>,
    rows: u64,
}

fn pipeline(folder: &Folder) -> String {
    let here = folder.path().display();
    let avro = format!("format = 'avro', schema_file = '{here}/readings.avsc'");
    let protobuf = format!("format = 'protobuf', descriptor_file = '{here}/readings.desc', message = 'plant.Reading'");
    let mut sql = String::new();
    for (name, options) in
        [("record", &*avro), ("container", "format = 'avro'"), ("message", &*protobuf), ("arrow", "format = 'arrow'")]
    {
        sql += &format!(
            "CREATE SOURCE {name} ({COLUMNS}) WITH (connector = 'http', {options});\n\
             CREATE MATERIALIZED VIEW t_{name} AS SELECT device, n, temperature, ts, state, \"position.lat\" AS lat FROM {name};\n"
        );
    }
    sql + "CREATE SOURCE lines (line TEXT NOT NULL, heard TIMESTAMP METADATA FROM 'arrival_time') WITH (connector = 'http', format = 'text');\n\
           CREATE MATERIALIZED VIEW t_lines AS SELECT line, heard FROM lines;\n\
           CREATE SOURCE bytes (body BYTES) WITH (connector = 'http', format = 'raw');\n\
           CREATE MATERIALIZED VIEW t_bytes AS SELECT body FROM bytes;\n"
}

fn requests(folder: &Folder) -> Vec<Request> {
    let file = |name: &str| std::fs::read(folder.join(name)).expect("Python has written it");
    let request = |source, content_type, body, rows| Request { source, content_type, body, rows };
    let mut requests = Vec::new();
    for n in 0..3 {
        requests.push(request("record", "avro/binary", file(&format!("avro-{n}")), 1));
        requests.push(request("message", PROTOBUF, file(&format!("protobuf-{n}")), 1));
    }
    requests.push(request("record", "application/avro", file("null.avro"), 3));
    requests.push(request("message", DELIMITED, file("protobuf.delimited"), 3));
    for codec in ["null", "deflate", "snappy"] {
        requests.push(request("container", "application/avro", file(&format!("{codec}.avro")), 3));
    }
    for codec in ["lz4", "zstd"] {
        requests.push(request("arrow", ARROW, file(&format!("{codec}.arrows")), 3));
    }
    requests.push(request("lines", "text/plain; charset=utf-8", b"one\r\n\nthree".to_vec(), 3));
    requests.push(request("bytes", "image/png", b"\x89PNG\r\n\x1a\n".to_vec(), 1));
    requests.push(request("bytes", "application/json", b"{\"kept\": \"as it is\"}".to_vec(), 1));
    requests
}

/// Posts a body under a key; returns whether it had been stored before.
async fn post(program: &Program, key: usize, request: &Request) -> bool {
    let path = format!("/api/v1/ingest/{}", request.source);
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&request.body).expect("packed");
    let packed = packed.finish().expect("packed");
    // Every second one is packed on its way.
    let (encoding, body) = if key % 2 == 0 { ("gzip", packed) } else { ("identity", request.body.clone()) };
    let key = format!("key-{key}");
    let headers = [("content-type", request.content_type), ("content-encoding", encoding), ("idempotency-key", &*key)];
    let (status, text) = program.http.post_with(&path, &headers, body).await.expect("an answer");
    let answer: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((status, answer["rows"].as_u64()), (200, Some(request.rows)), "{key} to {path}: {text}");
    answer["duplicate"].as_bool().expect("said")
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_other_libraries_are_stored_once_through_kills_though_all_of_them_come_again() {
    let folder = Folder::new();
    encoded(folder.path());
    let serve = Serve::new(&folder, &pipeline(&folder));
    let requests = requests(&folder);
    let kills = [requests.len() / 3, 2 * requests.len() / 3, requests.len()];
    let mut stored = 0;
    for until in kills {
        let program = serve.start_ready().await;
        for (key, request) in requests[..until].iter().enumerate() {
            assert_eq!(post(&program, key, request).await, key < stored, "key-{key}");
        }
        stored = until;
        program.kill9();
    }
    let program = serve.start_ready().await;
    // What is damaged is refused without a trace.
    for (path, content_type, file, expected) in [
        ("record", "avro/binary", "avro-3", "not an Avro record of this schema"),
        ("message", PROTOBUF, "protobuf-3", "not a plant.Reading message"),
        ("message", DELIMITED, "protobuf-0", "is not whole"),
        ("arrow", ARROW, "arrow-3", "not a whole Arrow stream"),
    ] {
        let body = std::fs::read(folder.join(file)).expect("Python has written it");
        let (path, headers) = (format!("/api/v1/ingest/{path}"), [("content-type", content_type)]);
        let (status, text) = program.http.post_with(&path, &headers, body).await.expect("an answer");
        assert!(status == 400 && text.contains(expected), "{file}: {status} {text}");
    }
    for (table, rows) in [("record", 6), ("message", 6), ("container", 9), ("arrow", 6), ("lines", 3), ("bytes", 2)] {
        program.http.query_until(&format!("SELECT count(*) AS n FROM t_{table}"), rows).await;
    }
    program.stop().await;
    let mut judge = Judge::new();
    for (table, times) in [("record", 2), ("message", 2), ("container", 3), ("arrow", 2)] {
        judge.table("readings", &serve.data.join(format!("tables/t_{table}")));
        let named = "(SELECT * REPLACE (replace(state, 'STATE_', '') AS state) FROM readings)";
        assert_readings(&mut judge, named, times);
    }
    judge.table("lines", &serve.data.join("tables/t_lines"));
    let lines = judge.rows("SELECT line FROM lines WHERE heard IS NOT NULL ORDER BY line");
    assert_eq!(serde_json::json!(lines), serde_json::json!([{"line": ""}, {"line": "one"}, {"line": "three"}]));
    judge.table("bytes", &serve.data.join("tables/t_bytes"));
    let bodies = judge.rows("SELECT octet_length(body) AS size FROM bytes ORDER BY size");
    assert_eq!(serde_json::json!(bodies), serde_json::json!([{"size": 8}, {"size": 20}]));
}
