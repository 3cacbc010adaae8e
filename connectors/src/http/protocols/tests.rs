//! The routes of other protocols: every status, what its body says in the words of the protocol, and what is appended.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::datatypes::{DataType, Field, Schema};
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request};
use http_body_util::BodyExt;
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use prost::Message as _;
use serde_json::{Value, json};
use tidemill_engine::source::{Source, Stop};
use tower::ServiceExt;

use super::super::HttpSource;
use super::*;
use crate::format::{Layout, Precision, TaggedFormat};
use crate::testing::TestIntake;

struct Server {
    ingest: HttpIngest,
    intake: Arc<TestIntake>,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }
}

/// Serves a source of each name; all of them append to one intake.
async fn serve(sources: &[(&str, PayloadEncoding)]) -> Server {
    let columns =
        Schema::new(vec![Field::new("host", DataType::Utf8View, true), Field::new("value", DataType::Float64, false)]);
    let (columns, ingest, intake) = (Arc::new(columns), HttpIngest::new(), Arc::new(TestIntake::default()));
    for (name, own) in sources {
        let source = HttpSource::new(
            name,
            TaggedFormat::new(Layout::new(&columns), *own),
            Arc::new(tidemill_engine::clock::ManualClock::default()),
            ingest.clone(),
        );
        intake.connected.store(false, Ordering::SeqCst);
        let running = Arc::clone(&intake);
        tokio::spawn(async move { source.run(running, Vec::new(), Stop::new()).await });
        intake.wait_until_connected().await;
    }
    Server { ingest, intake }
}

const fn telemetry(protocol: Protocol) -> PayloadEncoding {
    PayloadEncoding::Telemetry(protocol)
}

impl Server {
    async fn send(&self, method: Method, uri: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
        let mut request = Request::builder().method(method.clone()).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.ingest.router().oneshot(request.body(body.into()).unwrap()).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let path = uri.split('?').next().unwrap_or(uri);
        crate::http::api::conformance::assert_described(method.as_str(), path, head.status.as_u16(), &body);
        Answer { status: head.status, headers: head.headers, body }
    }

    async fn post(&self, uri: &str, body: impl Into<Body>) -> Answer {
        self.send(Method::POST, uri, &[], body).await
    }

    fn chunks(&self) -> usize {
        self.intake.chunks.lock().len()
    }
}

mod influx {
    use super::*;

    #[tokio::test]
    async fn points_are_stored_as_they_were_sent_and_answered_with_204() {
        // A source of any format takes them: its columns are found by name.
        let server = serve(&[("cpu", PayloadEncoding::Json), ("plant_week", telemetry(Protocol::LINE_PROTOCOL))]).await;
        let body = "cpu,host=a value=1 1000\ncpu,host=b value=2 2000\n";
        let answer = server.post("/influx/api/v2/write?org=o&bucket=cpu&precision=ms", body).await;
        assert_eq!((answer.status, answer.body.len()), (StatusCode::NO_CONTENT, 0));
        assert!(answer.headers.contains_key("x-influxdb-version"));
        assert_eq!(server.post("/influx/write?db=cpu&rp=none&u=a&p=b", body).await.status, StatusCode::NO_CONTENT);
        assert_eq!(
            server.post("/influx/write?db=plant&rp=week&precision=h", body).await.status,
            StatusCode::NO_CONTENT
        );
        let messages = server.intake.messages();
        let precisions = messages.iter().map(|message| PayloadEncoding::of(message).expect("known"));
        let expected = [Precision::Milliseconds, Precision::Nanoseconds, Precision::Hours];
        let expected = expected.map(|unit| Some(telemetry(Protocol::LineProtocol { precision: Some(unit) })));
        assert_eq!(precisions.collect::<Vec<_>>(), expected);
        assert!(messages.iter().all(|message| message.payload == body));
        assert_eq!(server.post("/influx/write?db=cpu", "# only a comment\n").await.status, StatusCode::NO_CONTENT);
        assert_eq!(server.chunks(), 3, "a comment is not stored");
    }

    #[tokio::test]
    async fn a_bad_line_is_named_and_stored_with_the_good_ones() {
        let server = serve(&[("cpu", telemetry(Protocol::LINE_PROTOCOL))]).await;
        let body = "cpu value=1\n\ncpu value=\ncpu value=\"x\"\n";
        let answer = server.post("/influx/api/v2/write?bucket=cpu", body).await;
        let message = "partial write: 2 of 3 lines cannot be used and are dead letters of cpu, the others are stored; \
                       line 3: not line protocol: a field has no value, at byte 10; \
                       line 4: column value: expected a number (DOUBLE), but \"x\" is not a number";
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        assert_eq!(answer.json(), json!({"code": "invalid", "message": message}));
        assert_eq!(server.intake.messages()[0].payload, body);
        let answer = server.post("/influx/write?db=cpu", body).await;
        assert_eq!((answer.status, answer.json()), (StatusCode::BAD_REQUEST, json!({"error": message})));
        assert!(answer.headers.contains_key("x-influxdb-error"));
    }

    #[tokio::test]
    async fn refusals_are_in_the_words_of_each_version_and_store_nothing() {
        let server = serve(&[("cpu", telemetry(Protocol::LINE_PROTOCOL))]).await;
        let many = "cpu value=1\n".repeat(100_001);
        let (blank, comments) = ("\n".repeat(400_001), "#\n".repeat(400_001));
        for (uri, body, status, code, message) in [
            ("bucket=gpu", "x v=1", 404, "not found", "there is no HTTP source \"gpu\": did you mean cpu?"),
            ("org=x", "x v=1", 400, "invalid", "the parameter bucket is missing"),
            (
                "bucket=cpu&precision=d",
                "x v=1",
                400,
                "invalid",
                "precision=d is not known; nothing was stored: precision=ns (the default)",
            ),
            ("bucket=cpu", "", 400, "invalid", "the body is empty"),
            ("bucket=cpu", many.as_str(), 413, "request too large", "a request may have 100000 rows"),
            ("bucket=cpu", blank.as_str(), 400, "invalid", "the body is empty"),
            ("bucket=cpu", comments.as_str(), 413, "request too large", "this one has 400002"),
        ] {
            let answer = server.post(&format!("/influx/api/v2/write?{uri}"), body.to_owned()).await;
            assert_eq!((answer.status.as_u16(), answer.json()["code"].as_str()), (status, Some(code)), "{uri}");
            let said = answer.json()["message"].as_str().expect("text").to_owned();
            assert!(said.contains(message), "{said}");
            let answer = server.post(&format!("/influx/write?{}", uri.replace("bucket", "db")), body.to_owned()).await;
            assert!(answer.status.as_u16() == status && answer.json()["error"].is_string(), "{uri}");
        }
        server.intake.full.store(true, Ordering::SeqCst);
        let answer = server.post("/influx/api/v2/write?bucket=cpu", "cpu value=1").await;
        assert_eq!((answer.status.as_u16(), &answer.json()["code"]), (503, &json!("unavailable")));
        assert_eq!(answer.headers["retry-after"], "1");
        let answer = server.send(Method::GET, "/influx/api/v2/write?bucket=cpu", &[], "").await;
        assert_eq!((answer.status.as_u16(), answer.headers["allow"].to_str().unwrap()), (405, "POST"));
        assert_eq!(server.chunks(), 0);
        server.intake.full.store(false, Ordering::SeqCst);
        server.intake.failed.store(true, Ordering::SeqCst);
        let answer = server.post("/influx/write?db=cpu", "cpu value=1").await;
        assert!(answer.status.as_u16() == 500 && answer.text().contains("unknown whether"), "{}", answer.text());
    }

    #[tokio::test]
    async fn clients_find_out_that_there_is_somebody() {
        let server = serve(&[]).await;
        for method in [Method::GET, Method::HEAD] {
            let answer = server.send(method, "/influx/ping", &[], "").await;
            assert!(answer.status == StatusCode::NO_CONTENT && answer.headers.contains_key("x-influxdb-version"));
        }
        let answer = server.send(Method::GET, "/influx/health", &[], "").await;
        assert_eq!((answer.status, &answer.json()["status"]), (StatusCode::OK, &json!("pass")));
    }
}

mod prometheus {
    use super::*;

    const URI: &str = "/prom/api/v1/write";
    const SNAPPY: [(&str, &str); 2] = [("content-encoding", "snappy"), ("content-type", "application/x-protobuf")];
    const VERSION_2: [(&str, &str); 2] = [
        ("content-encoding", "snappy"),
        ("content-type", "application/x-protobuf;proto=io.prometheus.write.v2.Request"),
    ];

    /// The inputs that the parser is tested with.
    const ONE: &[u8] = include_bytes!("../../format/corpus/remote_write/version_1");
    const TWO: &[u8] = include_bytes!("../../format/corpus/remote_write/version_2");
    const MISTAKES: &[u8] = include_bytes!("../../format/corpus/remote_write/mistakes");

    fn snappy(bytes: &[u8]) -> Vec<u8> {
        snap::raw::Encoder::new().compress_vec(bytes).expect("snappy")
    }

    #[tokio::test]
    async fn both_versions_are_taken_by_the_one_source_of_the_format() {
        let server = serve(&[("samples", telemetry(Protocol::RemoteWrite)), ("cpu", PayloadEncoding::Json)]).await;
        let answer = server.send(Method::POST, URI, &SNAPPY, snappy(ONE)).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (204, ""));
        assert!(!answer.headers.contains_key("x-prometheus-remote-write-samples-written"));
        let answer = server.send(Method::POST, URI, &VERSION_2, snappy(TWO)).await;
        assert_eq!(answer.status.as_u16(), 204);
        let written = ["samples", "histograms", "exemplars"].map(|kind| {
            answer.headers[format!("x-prometheus-remote-write-{kind}-written")].to_str().unwrap().to_owned()
        });
        assert_eq!(written, ["1", "1", "0"]);
        assert_eq!(server.chunks(), 2);
        // What is said to be nothing else is snappy.
        assert_eq!(server.send(Method::POST, URI, &SNAPPY[1..], snappy(ONE)).await.status.as_u16(), 204);
        let plain = [("content-encoding", "identity")];
        assert_eq!(server.send(Method::POST, URI, &plain, ONE.to_vec()).await.status.as_u16(), 204);
        assert_eq!(server.chunks(), 4);
        // Metadata alone, and nothing at all.
        for nothing in [&b"\x1a\x02\x08\x01"[..], b""] {
            let body = snappy(nothing);
            assert_eq!(server.send(Method::POST, URI, &SNAPPY, body).await.status.as_u16(), 204);
        }
        assert_eq!(server.chunks(), 4, "there was nothing to store");
    }

    #[tokio::test]
    async fn what_cannot_be_used_is_named_and_not_written() {
        let server = serve(&[("samples", telemetry(Protocol::RemoteWrite))]).await;
        let answer = server.send(Method::POST, URI, &VERSION_2, snappy(MISTAKES)).await;
        assert_eq!(answer.status.as_u16(), 400);
        assert!(
            answer.text().starts_with("partial write: 2 of 3 samples cannot be used and are dead letters of samples")
        );
        assert!(answer.text().contains("not remote write: series 2: "), "{}", answer.text());
        assert_eq!(server.chunks(), 1, "the good one is stored");
        for (headers, body, status, message) in [
            (&SNAPPY[..], b"\x03\x08abc".to_vec(), 400, "not remote write"),
            (&SNAPPY[..], b"no snappy".to_vec(), 400, "snappy"),
            (&SNAPPY[1..], ONE.to_vec(), 400, "Content-Encoding: identity"),
            (&[("content-type", "application/json")][..], b"{}".to_vec(), 415, "application/x-protobuf"),
            (&[("content-type", "application/x-protobuf;proto=x.Y")][..], b"".to_vec(), 415, "write.v2.Request"),
        ] {
            let answer = server.send(Method::POST, URI, headers, body).await;
            assert!(answer.status.as_u16() == status && answer.text().contains(message), "{}", answer.text());
        }
        server.intake.full.store(true, Ordering::SeqCst);
        let answer = server.send(Method::POST, URI, &VERSION_2, snappy(TWO)).await;
        assert_eq!((answer.status.as_u16(), answer.headers["retry-after"].to_str().unwrap()), (503, "1"));
        assert_eq!(answer.headers["x-prometheus-remote-write-samples-written"], "0");
        assert_eq!(server.chunks(), 1);
    }

    #[tokio::test]
    async fn a_request_says_which_source_where_there_are_none_or_several() {
        let none = serve(&[("cpu", PayloadEncoding::Json)]).await;
        let answer = none.send(Method::POST, URI, &SNAPPY, snappy(ONE)).await;
        assert!(answer.status.as_u16() == 404 && answer.text().contains("?source=NAME"), "{}", answer.text());
        let uri = format!("{URI}?source=cpu");
        assert_eq!(none.send(Method::POST, &uri, &SNAPPY, snappy(ONE)).await.status.as_u16(), 204);
        let two = serve(&[("a", telemetry(Protocol::RemoteWrite)), ("b", telemetry(Protocol::RemoteWrite))]).await;
        let answer = two.send(Method::POST, URI, &SNAPPY, snappy(ONE)).await;
        assert!(answer.status.as_u16() == 400 && answer.text().contains("one of a, b"), "{}", answer.text());
    }
}

mod otlp {
    use super::*;

    const URI: &str = "/otlp/v1/metrics";
    const PROTOBUF: [(&str, &str); 1] = [("content-type", "application/x-protobuf")];
    const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

    fn metrics(values: &[Value]) -> Value {
        let points: Vec<Value> = values.iter().map(|value| json!({"asDouble": value})).collect();
        json!({"resourceMetrics": [{"scopeMetrics": [{"metrics": [{"name": "m", "gauge": {"dataPoints": points}}]}]}]})
    }

    fn encoded(request: &Value) -> Vec<u8> {
        serde_json::from_value::<ExportMetricsServiceRequest>(request.clone()).expect("OTLP").encode_to_vec()
    }

    #[tokio::test]
    async fn the_answer_is_in_the_form_of_the_request() {
        let server = serve(&[("m", telemetry(Protocol::OtlpMetrics)), ("l", telemetry(Protocol::OtlpLogs))]).await;
        let good = metrics(&[json!(1.5), json!(2)]);
        let answer = server.send(Method::POST, URI, &PROTOBUF, encoded(&good)).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.headers["content-type"], answer.body.len()),
            (200, &"application/x-protobuf".parse().unwrap(), 0)
        );
        let answer = server.send(Method::POST, URI, &JSON, good.to_string()).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.headers["content-type"]),
            (200, &"application/json".parse().unwrap())
        );
        assert!(answer.json().get("partialSuccess").is_none_or(Value::is_null), "{}", answer.text());
        let messages = server.intake.messages();
        assert_eq!(
            (messages[0].payload.to_vec(), messages[1].payload.to_vec()),
            (encoded(&good), good.to_string().into_bytes())
        );
        // A heartbeat without points.
        assert_eq!(server.send(Method::POST, URI, &PROTOBUF, "").await.status.as_u16(), 200);
        assert_eq!(server.chunks(), 2);
    }

    #[tokio::test]
    async fn points_that_cannot_be_used_are_a_partial_success() {
        let server = serve(&[("m", telemetry(Protocol::OtlpMetrics)), ("l", telemetry(Protocol::OtlpLogs))]).await;
        let some = metrics(&[json!(1.5), Value::Null, json!(2), Value::Null]);
        let text = some.to_string().replace("{\"asDouble\":null}", "{}");
        let answer = server.send(Method::POST, URI, &JSON, text.clone()).await;
        let partial = &answer.json()["partialSuccess"];
        assert_eq!((answer.status.as_u16(), &partial["rejectedDataPoints"]), (200, &json!(2)));
        let said = partial["errorMessage"].as_str().expect("text");
        assert!(
            said.contains("2 of 4") && said.contains("column value: missing or null, but declared NOT NULL"),
            "{said}"
        );
        let protobuf = encoded(&serde_json::from_str(&text).expect("JSON"));
        let answer = server.send(Method::POST, URI, &PROTOBUF, protobuf).await;
        let response = ExportMetricsServiceResponse::decode(answer.body).expect("OTLP");
        assert_eq!(response.partial_success.expect("partial").rejected_data_points, 2);
        assert_eq!(server.chunks(), 2);
        let records = "{\"resourceLogs\":[{\"scopeLogs\":[{\"logRecords\":[{}]}]}]}";
        let answer = server.send(Method::POST, "/otlp/v1/logs", &JSON, records).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["partialSuccess"]["rejectedLogRecords"]), (200, &json!(1)));
    }

    #[tokio::test]
    async fn a_refusal_is_a_status_and_stores_nothing() {
        let server = serve(&[("m", telemetry(Protocol::OtlpMetrics))]).await;
        for (uri, headers, body, status, code, message) in [
            (URI, &JSON[..], b"{\"resourceMetrics\":7}".to_vec(), 400, 3, "not OTLP in JSON"),
            (URI, &PROTOBUF[..], b"\x0a\x05a".to_vec(), 400, 3, "not OTLP in protobuf"),
            (URI, &[("content-type", "text/plain")][..], b"".to_vec(), 415, 3, "send application/x-protobuf"),
            (URI, &PROTOBUF[..], vec![b'{'; (8 << 20) - 1], 400, 3, "not OTLP in JSON"),
            ("/otlp/v1/logs", &JSON[..], b"{}".to_vec(), 404, 5, "no source has format = 'otlp_logs'"),
            ("/otlp/v1/traces", &JSON[..], b"{}".to_vec(), 404, 5, "traces are not taken"),
            ("/otlp/v1/traces", &PROTOBUF[..], b"".to_vec(), 404, 5, "traces are not taken"),
        ] {
            let answer = server.send(Method::POST, uri, headers, body).await;
            assert_eq!(answer.status.as_u16(), status, "{message}");
            let is_json = headers == JSON;
            let said = String::from_utf8_lossy(&answer.body).into_owned();
            assert!(said.contains(message), "{said}");
            if is_json {
                assert_eq!(answer.json()["code"], code);
            } else {
                assert_eq!(answer.body[..2], [0x08, code as u8], "field 1 is the code");
            }
        }
        server.intake.full.store(true, Ordering::SeqCst);
        let answer = server.send(Method::POST, URI, &JSON, metrics(&[json!(1)]).to_string()).await;
        assert_eq!((answer.status.as_u16(), &answer.headers["retry-after"]), (503, &"1".parse().unwrap()));
        assert_eq!(answer.json()["code"], 14);
        assert_eq!(server.chunks(), 0);
        server.intake.full.store(false, Ordering::SeqCst);
        server.intake.failed.store(true, Ordering::SeqCst);
        let answer = server.send(Method::POST, URI, &JSON, metrics(&[json!(1)]).to_string()).await;
        assert_eq!(answer.status.as_u16(), 503, "clients drop what they have after a 500");
    }
}
