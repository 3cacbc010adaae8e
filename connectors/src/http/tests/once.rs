//! Requests that say who they are, and how long an answer waits.

use tidemill_engine::source::Stage;

use super::*;
use crate::http::once::{ContentHash, KEYS_MAX, Once, PRODUCERS_MAX};

/// The next run on the same log.
async fn restarted(server: Server) -> Server {
    server.stop.cancel();
    server.running.await.unwrap().unwrap();
    let columns = Arc::new(Schema::new(vec![Field::new("temperature", DataType::Float64, false)]));
    let format = TaggedFormat::new(Layout::new(&columns), PayloadEncoding::Json);
    let source = HttpSource::new("readings", format, clock(), server.ingest.clone());
    let (intake, stop) = (Arc::new(server.intake.begin_again()), Stop::new());
    let resume = vec![server.intake.resume(PARTITION)];
    let running = tokio::spawn({
        let (intake, stop) = (Arc::clone(&intake), stop.clone());
        async move { source.run(intake, resume, stop).await }
    });
    intake.wait_until_connected().await;
    Server { ingest: server.ingest, intake, stop, running }
}

fn by_producer(sequence: u64, body: &'static str) -> Request<Body> {
    let request = Request::post("/api/v1/ingest/readings").header("producer-id", "meter").header("producer-epoch", 0);
    request.header("producer-seq", sequence).body(Body::from(body)).unwrap()
}

fn by_key(key: &str, body: &'static str) -> Request<Body> {
    Request::post("/api/v1/ingest/readings").header("idempotency-key", key).body(Body::from(body)).unwrap()
}

#[tokio::test]
async fn what_comes_again_is_stored_once_and_answered_the_same_also_after_a_restart() {
    let mut server = serve(PayloadEncoding::Json).await;
    let (_, first) = server.send(by_producer(0, TWO)).await;
    let (_, second) = server.send(by_key("k", TWO)).await;
    assert_eq!((&first["position"], &second["position"]), (&json!("readings@2"), &json!("readings@4")));
    assert_eq!((&first["duplicate"], &second["duplicate"]), (&json!(false), &json!(false)));
    for _ in 0..2 {
        let before = server.intake.chunks.lock().len();
        for (request, answer) in [(by_producer(0, TWO), &first), (by_key("k", TWO), &second)] {
            let (status, again) = server.send(request).await;
            let mut expected = answer.clone();
            expected["duplicate"] = json!(true);
            assert_eq!((status, again), (StatusCode::OK, expected));
        }
        for (request, status, code) in [
            (by_producer(0, "{\"temperature\":1}"), 422, "TM2121"),
            (by_key("k", "{\"temperature\":1}"), 422, "TM2121"),
            (by_producer(2, TWO), 409, "TM2119"),
        ] {
            let (found, body) = server.send(request).await;
            assert_eq!((found.as_u16(), body["code"].as_str()), (status, Some(code)), "{body}");
            assert_eq!(body.get("expected_seq"), (code == "TM2119").then_some(&json!(1)));
        }
        assert_eq!(server.intake.chunks.lock().len(), before, "nothing was appended");
        server = restarted(server).await;
    }
    assert_eq!(server.send(by_producer(1, TWO)).await.1["position"], "readings@6");
}

#[tokio::test]
async fn a_request_in_flight_sends_its_twin_away_also_when_its_client_has_gone() {
    let server = serve(PayloadEncoding::Json).await;
    for (number, request) in [(1, by_key as fn(&str, &'static str) -> _), (2, |_, body| by_producer(0, body))] {
        server.intake.waits.store(true, Ordering::SeqCst);
        let mut under_way = Box::pin(server.ingest.router().oneshot(request("k", TWO)));
        while server.intake.chunks.lock().len() < number {
            assert!(futures::poll!(&mut under_way).is_pending());
            tokio::task::yield_now().await;
        }
        let (status, body) = server.send(request("k", TWO)).await;
        assert_eq!((status, &body["code"]), (StatusCode::CONFLICT, &json!("TM2118")));
        drop(under_way);
        server.intake.waits.store(false, Ordering::SeqCst);
        let again = loop {
            let (status, body) = server.send(request("k", TWO)).await;
            if status != StatusCode::CONFLICT {
                break body;
            }
            tokio::task::yield_now().await;
        };
        assert_eq!((&again["duplicate"], &again["rows"]), (&json!(true), &json!(2)));
        assert_eq!(server.intake.chunks.lock().len(), number);
    }
}

#[tokio::test]
async fn a_request_that_found_no_room_may_come_again_as_if_it_had_never_come() {
    let server = serve(PayloadEncoding::Json).await;
    server.intake.full.store(true, Ordering::SeqCst);
    for request in [by_key("k", TWO), by_producer(0, TWO)] {
        assert_eq!(server.send(request).await.0, StatusCode::SERVICE_UNAVAILABLE);
    }
    assert!(server.nothing_was_stored());
    server.intake.full.store(false, Ordering::SeqCst);
    for request in [by_key("k", TWO), by_producer(0, TWO)] {
        let (status, body) = server.send(request).await;
        assert_eq!((status, &body["duplicate"]), (StatusCode::OK, &json!(false)));
    }
}

#[tokio::test]
async fn an_answer_waits_for_as_much_as_the_request_asks() {
    let server = serve(PayloadEncoding::Json).await;
    let post = |query: &str| Request::post(format!("/api/v1/ingest/readings?{query}")).body(Body::from(TWO)).unwrap();
    server.intake.waits.store(true, Ordering::SeqCst);
    let (status, body) = server.send(post("ack=accepted")).await;
    assert_eq!((status, &body["state"], &body["position"]), (StatusCode::ACCEPTED, &json!("accepted"), &Value::Null));
    server.intake.waits.store(false, Ordering::SeqCst);

    let (status, body) = server.send(post("ack=committed&wait=20ms")).await;
    assert_eq!((status, &body["state"]), (StatusCode::ACCEPTED, &json!("durable")), "the wait is over");
    let position = format!("/api/v1/positions/{}", body["position"].as_str().unwrap());
    let ask = |path: &str| Request::get(path).body(Body::empty()).unwrap();
    let (status, body) = server.send(ask(&format!("{position}?wait=20ms"))).await;
    assert_eq!((status, body), (StatusCode::OK, json!({"position": "readings@4", "state": "durable"})));

    let mut waiting = Box::pin(server.send(post("ack=committed")));
    assert!(futures::poll!(&mut waiting).is_pending());
    *server.intake.stage.lock() = Some(Stage::Committed);
    let (status, body) = waiting.await;
    assert_eq!((status, &body["state"]), (StatusCode::OK, &json!("committed")));
    assert_eq!(server.send(ask(&position)).await.1["state"], "committed");
    for (path, expected) in [
        ("/api/v1/positions/readings@99", 404),
        ("/api/v1/positions/readings", 404),
        ("/api/v1/positions/reading@1", 404),
        ("/api/v1/positions/readings@1?wait=soon", 400),
        ("/api/v1/positions/readings@1?wait=61s", 400),
        ("/api/v1/positions/readings@1?waits=1s", 400),
        ("/api/v1/positions/%ff@1", 404),
    ] {
        assert_eq!(server.send(ask(path)).await.0.as_u16(), expected, "{path}");
    }
}

#[tokio::test]
async fn who_waits_for_a_commit_holds_nothing_and_is_told_when_the_source_stops() {
    let mut server = serve(PayloadEncoding::Json).await;
    let request = Request::post("/api/v1/ingest/readings?ack=committed").body(Body::from(TWO)).unwrap();
    let waiting = tokio::spawn(server.ingest.router().oneshot(request));
    while server.intake.chunks.lock().is_empty() || server.ingest.shared.requests.available_permits() < REQUESTS_MAX {
        tokio::task::yield_now().await;
    }
    server.stop.cancel();
    (&mut server.running).await.unwrap().unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().status(), StatusCode::ACCEPTED);
}

/// What cannot be remembered is refused, with a time to come again; who needs no memory is served.
#[tokio::test]
async fn what_cannot_be_remembered_is_sent_away_and_nothing_is_appended() {
    let server = serve(PayloadEncoding::Json).await;
    let Found::Running(endpoint, _) = server.ingest.find("readings") else { panic!("it runs") };
    let hash = ContentHash::of(TWO.as_bytes(), PayloadEncoding::Json, OnError::Reject);
    let remember =
        |once: Once| drop(endpoint.ledger.lock().begin(&once, hash, clock().now_us()).expect("there is room"));
    (0..KEYS_MAX).for_each(|number| remember(Once::Key(number.to_string())));
    (0..PRODUCERS_MAX).for_each(|number| remember(Once::Producer { id: number.to_string(), epoch: 0, sequence: 0 }));
    for (request, status, code) in [(by_key("one more", TWO), 503, "TM2123"), (by_producer(0, TWO), 429, "TM2122")] {
        let (found, body) = server.send(request).await;
        assert_eq!((found.as_u16(), body["code"].as_str()), (status, Some(code)), "{body}");
        assert!(body["detail"].as_str().unwrap().ends_with("nothing was stored"), "{body}");
    }
    assert!(server.nothing_was_stored());
    assert_eq!(server.post(TWO).await.0, StatusCode::OK);
}
