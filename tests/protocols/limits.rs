//! Limits of other protocols: what is too large is refused in the words of each, by a code that makes its clients drop it and
//! not repeat it, and nothing of it is stored. What is too much for the declared columns is counted.

use std::io::Write;
use std::time::Duration;

use serde_json::{Value, json};

use super::rows_are;
use crate::harness::folder::Folder;
use crate::harness::program::{Program, Serve};
use crate::harness::wait::eventually;

/// Two sources with columns of their own: `le` makes a row of each bucket.
const PIPELINE: &str = "\
    CREATE SOURCE samples (metric TEXT, value DOUBLE) WITH (connector = 'http', format = 'prometheus_remote_write');\n\
    CREATE SOURCE otel (metric TEXT NOT NULL, value DOUBLE, le DOUBLE) WITH (connector = 'http', format = 'otlp_metrics');\n\
    CREATE SOURCE logs (body TEXT) WITH (connector = 'http', format = 'otlp_logs');\n\
    CREATE SOURCE cpu (host TEXT, usage DOUBLE) WITH (connector = 'http', format = 'line_protocol');\n\
    CREATE MATERIALIZED VIEW sampled AS SELECT metric, value FROM samples;\n\
    CREATE MATERIALIZED VIEW measured AS SELECT metric, value, le FROM otel;\n\
    CREATE MATERIALIZED VIEW logged AS SELECT body FROM logs;\n\
    CREATE MATERIALIZED VIEW cpus AS SELECT host, usage FROM cpu;\n";

const JSON: (&str, &str) = ("content-type", "application/json");
const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");
const GZIP: (&str, &str) = ("content-encoding", "gzip");
const SNAPPY: (&str, &str) = ("content-encoding", "snappy");
const VERSION_2: (&str, &str) = ("content-type", "application/x-protobuf;proto=io.prometheus.write.v2.Request");

/// `RESOURCE_EXHAUSTED`: what 413 is in a `google.rpc.Status`.
const RESOURCE_EXHAUSTED: u64 = 8;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

fn snappy(bytes: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(bytes).expect("snappy")
}

/// Text that does not become a hundredth of itself when it is packed.
fn noise(bytes: usize) -> String {
    let mut state = 1_u64;
    let word = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        format!("{:08x}", state >> 32)
    };
    (0..bytes / 8).map(word).collect()
}

fn varint(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number > 0x7f {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// A field of Protobuf with bytes in it.
fn field(number: usize, bytes: &[u8]) -> Vec<u8> {
    [&varint(number << 3 | 2)[..], &varint(bytes.len()), bytes].concat()
}

fn metrics(metric: &Value) -> Vec<u8> {
    json!({"resourceMetrics": [{"scopeMetrics": [{"metrics": [metric]}]}]}).to_string().into_bytes()
}

/// A histogram with so many buckets: each takes a byte in Protobuf, and is a row here.
fn buckets(count: usize) -> Vec<u8> {
    let positive = field(2, &vec![1; count]);
    let point = field(8, &positive);
    let metric = [field(1, b"h"), field(10, &field(1, &point))].concat();
    field(1, &field(2, &field(2, &metric)))
}

/// A series with so many samples that say nothing but that they are there.
fn samples(count: usize) -> Vec<u8> {
    let label = [field(1, b"__name__"), field(2, b"m")].concat();
    field(1, &[field(1, &label), field(2, b"").repeat(count)].concat())
}

async fn status_of(program: &Program, source: &str) -> Value {
    let (_, text) = program.http.get("/api/v1/status").await.expect("an answer");
    let status: Value = serde_json::from_str(&text).expect("JSON");
    let sources = status["sources"].as_array().expect("sources");
    sources.iter().find(|found| found["name"] == source).expect("this source").clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_opentelemetry_over_a_limit_are_refused_for_good_and_not_stored() {
    let folder = Folder::new();
    let serve = Serve::new(&folder, PIPELINE);
    let program = serve.start_ready().await;
    let long = |bytes| metrics(&json!({"name": noise(bytes), "gauge": {"dataPoints": [{"asInt": 1}]}}));
    let logs = |bytes| {
        let record = json!({"body": {"stringValue": noise(bytes)}});
        json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]}).to_string().into_bytes()
    };
    for (path, headers, body, said) in [
        ("/otlp/v1/metrics", vec![JSON], long(9 << 20), "a body may have 8 MiB as it is sent"),
        ("/otlp/v1/metrics", vec![JSON, GZIP], gzip(&long(9 << 20)), "a request may have 8 MiB"),
        ("/otlp/v1/logs", vec![JSON, GZIP], gzip(&logs(9 << 20)), "a request may have 8 MiB"),
        ("/otlp/v1/logs", vec![JSON, GZIP], gzip(&vec![b' '; 80 << 20]), "inflates to more than"),
        ("/otlp/v1/metrics", vec![PROTOBUF, GZIP], gzip(&vec![0; 20 << 20]), "inflates to more than"),
        ("/otlp/v1/metrics", vec![PROTOBUF], buckets(1_000_001), "1000000 rows"),
    ] {
        let answer = program.http.answer(path, &headers, body).await.expect("an answer");
        let (status, kind) = (answer.status().as_u16(), answer.headers()["content-type"].clone());
        let bytes = answer.bytes().await.expect("a body");
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert_eq!(status, 413, "{path} {headers:?}: {text}");
        assert_eq!(kind, headers[0].1, "the answer is in the form of the request");
        assert!(text.contains(said) && text.contains("nothing was stored"), "{path} {headers:?}: {text}");
        if headers[0] == JSON {
            let told: Value = serde_json::from_str(&text).expect("a Status");
            assert_eq!(told["code"], RESOURCE_EXHAUSTED, "{told}");
        } else {
            assert_eq!(bytes[..3], [0x08, RESOURCE_EXHAUSTED as u8, 0x12], "a Status: 1 code, 2 message");
        }
    }
    assert_eq!(
        (&status_of(&program, "otel").await["messages"], &status_of(&program, "logs").await["messages"]),
        (&json!(0), &json!(0))
    );

    // As much as may be is taken.
    let (status, text) =
        program.http.post_with("/otlp/v1/metrics", &[PROTOBUF], buckets(50_000)).await.expect("an answer");
    assert_eq!(status, 200, "{text}");
    rows_are(&program, "SELECT count(le) AS n FROM measured", json!([{"n": 50_001}])).await;
    program.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn remote_writes_over_a_limit_are_refused_for_good_and_not_stored() {
    let folder = Folder::new();
    let serve = Serve::new(&folder, PIPELINE);
    let program = serve.start_ready().await;
    let claims_too_much = [&varint(65 << 20)[..], b"\0a"].concat();
    let long = field(1, &field(1, &[field(1, b"__name__"), field(2, noise(9 << 20).as_bytes())].concat()));
    for (headers, body, said) in [
        (vec![SNAPPY, PROTOBUF], claims_too_much, "64 MiB"),
        (vec![SNAPPY, PROTOBUF], snappy(&long), "a body may have 8 MiB as it is sent"),
        (vec![SNAPPY, PROTOBUF], snappy(&samples(1_000_001)), "a request may have 1000000 rows, this one has 1000001"),
        (vec![SNAPPY, VERSION_2], snappy(&samples(1_000_001)), "a request may have 1000000 rows, this one has 1000001"),
    ] {
        let answer = program.http.answer("/prom/api/v1/write", &headers, body).await.expect("an answer");
        assert_eq!(answer.status().as_u16(), 413, "{headers:?}");
        assert!(answer.headers()["content-type"].to_str().expect("text").starts_with("text/plain"));
        let written = answer.headers().get("x-prometheus-remote-write-samples-written").cloned();
        assert_eq!(written.map(|count| count == "0"), (headers[1] == VERSION_2).then_some(true));
        let text = answer.text().await.expect("text");
        assert!(text.contains(said) && text.contains("nothing was stored"), "{text}");
        assert_eq!(text.lines().count(), 1, "Prometheus logs the first line: {text}");
    }
    assert_eq!(status_of(&program, "samples").await["messages"], 0);
    let body = snappy(&samples(20_000));
    let (status, text) = program.http.post_with("/prom/api/v1/write", &[SNAPPY], body).await.expect("an answer");
    assert_eq!(status, 204, "{text}");
    rows_are(&program, "SELECT count(value) AS n FROM sampled", json!([{"n": 20_000}])).await;
    program.stop().await;
}

/// Whoever sends more than is kept, or other types, finds it in the status, also after a restart.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_and_not_kept_is_counted_also_after_a_restart() {
    let folder = Folder::new();
    let mut serve = Serve::new(&folder, PIPELINE);
    serve.environment = vec![("TIDEMILL__DURABILITY__CHECKPOINT".to_owned(), "200ms".to_owned())];
    let program = serve.start_ready().await;
    let points = "m,host=a,dc=x usage=1,free=2\nm,host=b usage=\"warm\"\n";
    let (status, text) = program.http.post_with("/influx/write?db=cpu", &[], points.into()).await.expect("an answer");
    assert_eq!(status, 204, "{text}");
    let expected = json!([{"host": "a", "usage": 1.0}, {"host": "b", "usage": null}]);
    rows_are(&program, "SELECT host, usage FROM cpus ORDER BY host", expected).await;
    let counted = async |program: &Program| {
        eventually("both are counted", Duration::from_secs(60), async || {
            let status = status_of(program, "cpu").await;
            (status["dropped_attributes"] == 2 && status["nulled"] == 1).then_some(())
        })
        .await;
        assert_eq!(status_of(program, "cpu").await["dead"], 0);
        let (_, page) = program.http.get("/metrics").await.expect("an answer");
        assert!(page.contains("tidemill_source_dropped_attributes_total{source=\"cpu\"} 2\n"), "{page}");
        assert!(page.contains("tidemill_source_errors_total{source=\"cpu\",kind=\"type\"} 1\n"), "{page}");
    };
    counted(&program).await;
    program.stop().await;
    let program = serve.start_ready().await;
    counted(&program).await;
    program.kill9();
    let program = serve.start_ready().await;
    counted(&program).await;
    program.stop().await;
}
