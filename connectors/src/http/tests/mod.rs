//! HTTP: every status, and what is appended with it.

use std::io::Write;
use std::sync::atomic::Ordering;

use arrow::datatypes::{DataType, Field, Schema};
use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tidemill_engine::clock::ManualClock;
use tidemill_engine::source::Chunk;
use tower::ServiceExt;

use super::*;
use crate::format::{Layout, PayloadEncoding};
use crate::testing::TestIntake;

mod bodies;
mod once;
mod records;

fn clock() -> Arc<dyn Clock> {
    Arc::new(ManualClock::at(1_000_000))
}

struct Server {
    ingest: HttpIngest,
    intake: Arc<TestIntake>,
    stop: Stop,
    running: tokio::task::JoinHandle<Result<(), SourceError>>,
}

async fn serve(encoding: PayloadEncoding) -> Server {
    serve_on(HttpIngest::new(), encoding).await
}

async fn serve_on(ingest: HttpIngest, encoding: PayloadEncoding) -> Server {
    let columns = Arc::new(Schema::new(vec![
        Field::new("device", DataType::Utf8View, true),
        Field::new("temperature", DataType::Float64, false),
    ]));
    serve_as(ingest, TaggedFormat::new(Layout::new(&columns), encoding)).await
}

async fn serve_as(ingest: HttpIngest, format: TaggedFormat) -> Server {
    let source = HttpSource::new("readings", format, clock(), ingest.clone());
    source.prepare().await.unwrap();
    let (intake, stop) = (Arc::new(TestIntake::default()), Stop::new());
    let running = tokio::spawn({
        let (intake, stop) = (Arc::clone(&intake), stop.clone());
        async move { source.run(intake, Vec::new(), stop).await }
    });
    intake.wait_until_connected().await;
    Server { ingest, intake, stop, running }
}

impl Server {
    async fn send(&self, request: Request<Body>) -> (StatusCode, Value) {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let response = self.ingest.router().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        api::conformance::assert_described(method.as_str(), &path, head.status.as_u16(), &body);
        let body: Value = serde_json::from_slice(&body).unwrap();
        if !head.status.is_success() {
            assert_eq!(head.headers[header::CONTENT_TYPE], "application/problem+json");
            assert_eq!(body["status"], head.status.as_u16());
            let is_to_come_again = matches!(head.status.as_u16(), 429 | 503) || body["code"] == "TM2118";
            assert_eq!(is_to_come_again, head.headers.contains_key(header::RETRY_AFTER), "{body}");
        }
        (head.status, body)
    }

    async fn post(&self, body: impl Into<Body>) -> (StatusCode, Value) {
        self.send(Request::post("/api/v1/ingest/readings").body(body.into()).unwrap()).await
    }

    async fn post_as(&self, name: &str, value: &str, body: impl Into<Body>) -> (StatusCode, Value) {
        self.send(Request::post("/api/v1/ingest/readings").header(name, value).body(body.into()).unwrap()).await
    }

    fn nothing_was_stored(&self) -> bool {
        self.intake.chunks.lock().is_empty()
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

const TWO: &str = "{\"temperature\":1}\n{\"temperature\":2,\"device\":\"b\"}\n";

#[tokio::test]
async fn rows_are_one_chunk_and_the_position_counts_them() {
    let server = serve(PayloadEncoding::Json).await;
    let (status, body) = server.post(TWO).await;
    assert_eq!(status, StatusCode::OK);
    let expected = json!({
        "position": "readings@2", "first_offset": 0, "rows": 2, "rejected": [], "rejected_count": 0,
        "state": "durable", "duplicate": false,
    });
    assert_eq!(body, expected);
    let document = api::Description::default().with(&HttpIngest::api()).finish("1");
    let required = document["components"]["schemas"]["Taken"]["required"].as_array().unwrap();
    let described: std::collections::BTreeSet<&str> = required.iter().filter_map(Value::as_str).collect();
    let told: std::collections::BTreeSet<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(told, described, "the answer is what its description says");
    let (_, body) =
        server.post_as("content-type", "application/json", "[{\"temperature\":3}, {\"temperature\":4}]").await;
    assert_eq!(body["position"], "readings@4");
    let (_, body) = server.post_as("content-type", "application/x-www-form-urlencoded", "{\"temperature\":5}").await;
    assert_eq!(body["position"], "readings@5");
    assert_eq!(server.intake.chunks.lock().len(), 3);
    assert_eq!(server.intake.messages()[3].payload, "{\"temperature\":4}");
}

#[tokio::test]
async fn gzip_is_inflated_and_damage_is_refused() {
    let server = serve(PayloadEncoding::Json).await;
    let packed = gzip(TWO.as_bytes());
    let (status, body) = server.post_as("content-encoding", "gzip", packed.clone()).await;
    assert_eq!((status, &body["rows"]), (StatusCode::OK, &json!(2)));
    for damaged in [&packed[..packed.len() - 3], &packed[..5], b"not gzip at all"] {
        let (status, body) = server.post_as("content-encoding", "gzip", damaged.to_vec()).await;
        assert_eq!((status, body["code"].as_str()), (StatusCode::BAD_REQUEST, Some("TM2108")), "{body}");
    }
    for unknown in ["br", "gzip, zstd"] {
        let (status, _) = server.post_as("content-encoding", unknown, "x").await;
        assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    assert_eq!(server.intake.chunks.lock().len(), 1);
}

#[tokio::test]
async fn zstd_and_snappy_are_undone_and_damage_and_bombs_are_refused() {
    let server = serve(PayloadEncoding::Json).await;
    let zstd = |bytes: &[u8]| zstd::stream::encode_all(bytes, 3).unwrap();
    let snappy = |bytes: &[u8]| snap::raw::Encoder::new().compress_vec(bytes).unwrap();
    let wide = {
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
        encoder.window_log(27).unwrap();
        encoder.write_all(TWO.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    for (name, packed) in [("zstd", zstd(TWO.as_bytes())), ("snappy", snappy(TWO.as_bytes()))] {
        let (status, body) = server.post_as("content-encoding", name, packed.clone()).await;
        assert_eq!((status, &body["rows"]), (StatusCode::OK, &json!(2)), "{body}");
        for damaged in [&packed[..packed.len() - 3], &packed[..1], b"\xff\xff\xff\xff\xff\xff"] {
            let (status, body) = server.post_as("content-encoding", name, damaged.to_vec()).await;
            assert_eq!((status, body["code"].as_str()), (StatusCode::BAD_REQUEST, Some("TM2108")), "{name}: {body}");
            assert!(body["detail"].as_str().unwrap().contains(&format!("not whole {name}")), "{body}");
        }
    }
    let spaces = vec![b' '; 40 << 20];
    for (name, bomb) in [("zstd", zstd(&spaces)), ("snappy", b"\xff\xff\xff\xff\x0f".to_vec())] {
        let (status, body) = server.post_as("content-encoding", name, bomb).await;
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{name}: {body}");
    }
    let (status, body) = server.post_as("content-encoding", "zstd", wide).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "a window of 128 MiB is memory that the sender chooses: {body}");
    assert_eq!(server.intake.chunks.lock().len(), 2);
    assert_eq!(server.ingest.shared.bodies_kib.available_permits(), BODIES_KIB_MAX, "memory was given back");
}

#[tokio::test]
async fn one_bad_row_refuses_the_whole_request() {
    let server = serve(PayloadEncoding::Json).await;
    let (status, body) = server.post(format!("{TWO}{{\"temperature\":\"x\"}}\n{{\"temperature\":3")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(body["errors"][0]["row"], 3);
    assert_eq!(body["errors"][1]["row"], 4);
    assert!(body["errors"][0]["message"].as_str().unwrap().contains("column temperature"), "{body}");
    assert_eq!(body["errors"][0]["column"], "temperature");
    assert_eq!(body["errors"][1].get("column"), None);
    assert!(server.nothing_was_stored());
    assert_eq!(server.intake.errors.lock()["bad_rows"], 1);

    let (_, body) = server.post("nonsense\n".repeat(150)).await;
    assert_eq!(body["errors"].as_array().unwrap().len(), 100);
    assert_eq!(body["detail"], "150 of 150 rows cannot be used; nothing was stored");
}

#[tokio::test]
async fn bad_rows_can_be_kept_as_dead_letters() {
    let server = serve(PayloadEncoding::Json).await;
    let request = Request::post("/api/v1/ingest/readings?on_error=dead_letter");
    let (status, body) = server.send(request.body(Body::from(format!("{TWO}oops"))).unwrap()).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        (&body["rows"], &body["position"], &body["rejected_count"]),
        (&json!(2), &json!("readings@3"), &json!(1))
    );
    assert_eq!(body["rejected"][0]["row"], 3);
    let wrong = Request::post("/api/v1/ingest/readings?on_error=ignore").body(Body::from(TWO)).unwrap();
    assert_eq!(server.send(wrong).await.0, StatusCode::BAD_REQUEST);
    for wrong in ["ack=never", "wait=5s", "ack=committed&wait=soon", "ack=committed&wait=2h", "acks=durable", "a=%ff"] {
        let request = Request::post(format!("/api/v1/ingest/readings?{wrong}")).body(Body::from(TWO)).unwrap();
        let (status, body) = server.send(request).await;
        assert_eq!((status, body["code"].as_str()), (StatusCode::BAD_REQUEST, Some("TM2111")), "{wrong}: {body}");
    }
}

#[tokio::test]
async fn csv_sources_take_csv() {
    let server = serve(PayloadEncoding::Csv { delimiter: b',' }).await;
    let (status, body) = server.post_as("content-type", "text/csv", "device,temperature\na,1\nb,2\n").await;
    assert_eq!((status, &body["rows"]), (StatusCode::OK, &json!(2)));
    let (status, body) = server.post_as("content-type", "text/csv", "device,temperature\na,1\nb,warm\n").await;
    assert_eq!((status, &body["errors"][0]["row"]), (StatusCode::BAD_REQUEST, &json!(2)));
    let (status, body) = server.post_as("content-type", "application/json", "{\"temperature\":3}").await;
    assert_eq!((status, &body["rows"]), (StatusCode::OK, &json!(1)), "and JSON from who says so");
    let messages = server.intake.messages();
    assert_eq!(PayloadEncoding::of(&messages[0]), Ok(None));
    assert_eq!(PayloadEncoding::of(&messages[1]), Ok(Some(PayloadEncoding::Json)));
}

#[tokio::test]
async fn wrong_requests_are_told_what_would_be_right() {
    let server = serve(PayloadEncoding::Json).await;
    let (status, body) = server.send(Request::post("/api/v1/ingest/reading").body(Body::from(TWO)).unwrap()).await;
    assert_eq!((status, &body["hint"]), (StatusCode::NOT_FOUND, &json!("did you mean readings?")));
    let (status, body) = server.send(Request::post("/api/v1/ingest/other").body(Body::from(TWO)).unwrap()).await;
    assert_eq!((status, &body["hint"]), (StatusCode::NOT_FOUND, &json!("known are readings")));
    let get = Request::builder().method(Method::GET).uri("/api/v1/ingest/readings").body(Body::empty()).unwrap();
    assert_eq!(server.send(get).await.0, StatusCode::METHOD_NOT_ALLOWED);
    let (status, _) = server.post_as("content-type", "application/xml", "<a/>").await;
    assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    for empty in ["", " \n"] {
        let (status, body) = server.post(empty).await;
        assert_eq!((status, body["code"].as_str()), (StatusCode::BAD_REQUEST, Some("TM2104")));
    }
    assert!(server.nothing_was_stored());
}

#[tokio::test]
async fn requests_over_a_limit_are_refused_before_they_fill_memory() {
    let server = serve(PayloadEncoding::Json).await;
    // By its head alone: the body would never end.
    let endless = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
    let (status, _) = server.post_as("content-length", "8388609", endless).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    // Without a length: counted while it is read.
    let piece = || Ok::<_, std::io::Error>(Bytes::from(vec![b' '; 1 << 20]));
    let long = Body::from_stream(futures::stream::repeat_with(piece).take(1000));
    assert_eq!(server.post(long).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    // A bomb.
    let bomb = gzip(&vec![b' '; 40 << 20]);
    let (status, body) = server.post_as("content-encoding", "gzip", bomb).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{body}");
    let (status, _) = server.post("{}\n".repeat(100_001)).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    let (status, _) = server.post(format!("{{\"temperature\":1,\"x\":\"{}\"}}", "x".repeat(1 << 20))).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(server.nothing_was_stored());
    assert_eq!(server.ingest.shared.bodies_kib.available_permits(), BODIES_KIB_MAX, "memory was given back");
}

#[tokio::test]
async fn a_slow_body_times_out() {
    let server =
        serve_on(HttpIngest::with_times(Duration::from_millis(20), DURABLE_TIME_MAX), PayloadEncoding::Json).await;
    let first = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"{"))]);
    let slow = Body::from_stream(first.chain(futures::stream::pending()));
    assert_eq!(server.post(slow).await.0, StatusCode::REQUEST_TIMEOUT);
    let broken = futures::stream::iter([Err::<Bytes, _>(std::io::Error::other("reset"))]);
    assert_eq!(server.post(Body::from_stream(broken)).await.0, StatusCode::BAD_REQUEST);
    assert!(server.nothing_was_stored());
}

#[tokio::test]
async fn a_full_or_failed_log_is_never_a_200() {
    let server = serve(PayloadEncoding::Json).await;
    server.intake.full.store(true, Ordering::SeqCst);
    let (status, body) = server.post(TWO).await;
    assert_eq!((status, body["code"].as_str()), (StatusCode::SERVICE_UNAVAILABLE, Some("TM2112")));
    assert!(server.nothing_was_stored());
    server.intake.full.store(false, Ordering::SeqCst);
    server.intake.failed.store(true, Ordering::SeqCst);
    assert_eq!(server.post(TWO).await.0, StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test]
async fn nobody_waits_for_ever_for_a_disk_that_does_not_answer() {
    let server =
        serve_on(HttpIngest::with_times(BODY_TIME_MAX, Duration::from_millis(20)), PayloadEncoding::Json).await;
    server.intake.waits.store(true, Ordering::SeqCst);
    let (status, body) = server.post_as("idempotency-key", "k", TWO).await;
    assert_eq!((status, body["code"].as_str()), (StatusCode::INTERNAL_SERVER_ERROR, Some("TM2114")), "{body}");
    assert!(body["detail"].as_str().unwrap().contains("unknown whether the rows are stored"), "{body}");
    assert_eq!(server.ingest.shared.requests.available_permits(), REQUESTS_MAX, "it holds nothing any more");
    // The disk answers after all: the same request is known.
    let (status, body) = server.post_as("idempotency-key", "k", TWO).await;
    assert_eq!((status, body["code"].as_str()), (StatusCode::CONFLICT, Some("TM2118")), "{body}");
    server.intake.waits.store(false, Ordering::SeqCst);
    while !server.ingest.endpoint("readings").unwrap().requests.is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (status, body) = server.post_as("idempotency-key", "k", TWO).await;
    assert_eq!((status, &body["duplicate"]), (StatusCode::OK, &json!(true)), "{body}");
}

#[tokio::test]
async fn more_requests_than_the_limit_are_sent_away() {
    let server = serve(PayloadEncoding::Json).await;
    let _all = server.ingest.shared.requests.clone().try_acquire_many_owned(REQUESTS_MAX as u32).unwrap();
    assert_eq!(server.post(TWO).await.0, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_source_waits_for_its_requests_and_then_tells_clients_to_come_again() {
    let mut server = serve(PayloadEncoding::Json).await;
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(1);
    let stream = futures::stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) });
    let request = Request::post("/api/v1/ingest/readings").body(Body::from_stream(stream)).unwrap();
    let mut under_way = Box::pin(server.ingest.router().oneshot(request));
    assert!(futures::poll!(&mut under_way).is_pending());
    sender.send(Ok(Bytes::from_static(b"{\"temperature\":1}"))).await.unwrap();

    server.stop.cancel();
    while !matches!(server.ingest.find("readings"), Found::NotRunning("is stopping")) {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.post(TWO).await.0, StatusCode::SERVICE_UNAVAILABLE);
    drop(sender);
    assert_eq!(under_way.await.unwrap().status(), StatusCode::OK);
    (&mut server.running).await.unwrap().unwrap();
    assert_eq!(server.post(TWO).await.0, StatusCode::SERVICE_UNAVAILABLE, "a client gives up on a 404");
    let chunks = server.intake.chunks.lock();
    assert!(matches!(&chunks[0], (partition, Chunk::Messages(rows)) if partition == "http" && rows.len() == 1));
}

#[tokio::test]
async fn it_works_over_a_real_socket() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let server = serve(PayloadEncoding::Json).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(axum::serve(listener, server.ingest.router()).into_future());
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /api/v1/ingest/readings HTTP/1.1\r\nhost: x\r\nconnection: close\r\nexpect: 100-continue\r\n\
         content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n",
        TWO.len()
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut go_on = [0u8; 25];
    socket.read_exact(&mut go_on).await.unwrap();
    assert_eq!(go_on, *b"HTTP/1.1 100 Continue\r\n\r\n");
    socket.write_all(TWO.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.contains("\"position\":\"readings@2\""), "{answer}");
    serving.abort();
}

#[tokio::test]
async fn a_refusal_tells_why_and_when_to_come_again_until_rows_are_taken_again() {
    let server = serve(PayloadEncoding::Json).await;
    server.ingest.refuse("the disk is full");
    let (status, body) = server.post(TWO).await;
    assert_eq!((status, &body["code"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("TM2115")));
    assert_eq!(body["detail"], "the disk is full; nothing was stored");
    assert!(server.nothing_was_stored());
    let unknown = Request::post("/api/v1/ingest/other").body(Body::from(TWO)).unwrap();
    assert_eq!(server.send(unknown).await.0, StatusCode::NOT_FOUND, "a wrong name stays wrong");
    server.ingest.take_again();
    assert_eq!(server.post(TWO).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_source_that_has_ended_runs_again() {
    let columns = Arc::new(Schema::new(vec![Field::new("temperature", DataType::Float64, false)]));
    let (ingest, encoding) = (HttpIngest::new(), PayloadEncoding::Json);
    let source = Arc::new(HttpSource::new(
        "readings",
        TaggedFormat::new(Layout::new(&columns), encoding),
        clock(),
        ingest.clone(),
    ));
    for _ in 0..3 {
        source.prepare().await.unwrap();
        let (intake, stop) = (Arc::new(TestIntake::default()), Stop::new());
        let running = tokio::spawn({
            let (source, intake, stop) = (Arc::clone(&source), Arc::clone(&intake), stop.clone());
            async move { source.run(intake, Vec::new(), stop).await }
        });
        intake.wait_until_connected().await;
        let server = Server { ingest: ingest.clone(), intake, stop, running };
        assert_eq!(server.post("{\"temperature\":1}").await.0, StatusCode::OK);
        assert_eq!(server.intake.messages().len(), 1, "into the intake of this run");
        server.stop.cancel();
        server.running.await.unwrap().unwrap();
    }
}
