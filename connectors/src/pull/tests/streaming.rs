//! Event streams: ids, notes, and coming back.

use std::time::Duration;

use bytes::Bytes;
use tidemill_engine::source::{Chunk, Note};

use super::lab::*;
use crate::pull::sse::EVENT_BYTES_MAX;
use crate::pull::{SseSource, event_id, sse};

fn source(url: &str, more: &[(&str, &str)]) -> SseSource {
    let mut options = options(&[&[("url", url)], more].concat());
    let source = sse("s", &mut options, &context("")).expect("good options");
    options.finish().expect("no other options");
    source
}

#[tokio::test]
async fn events_are_appended_with_the_id_behind_them_and_are_asked_for_behind_it() {
    let first = stream("retry: 10\n\nid: 1\ndata: a\n\nevent: price\nid: 2\ndata: b\n\n: alive\n\nid: 3\ndata: half");
    let server = Server::new([Reply::Whole(first), Reply::Open(stream("id: 3\ndata: c\n\n"))]).await;
    let running = Running::new(source(&server.url, &[]), vec![]);
    assert_eq!(running.until_appended(3).await, ["a", "b", "c"]);
    let asked = server.asked();
    assert!(asked[0].contains("accept: text/event-stream") && !asked[0].contains("last-event-id"), "{}", asked[0]);
    assert!(asked[1].contains("last-event-id: 2\r\n"), "what was cut off is asked for again: {}", asked[1]);
    let known: Vec<(String, Option<String>)> = running
        .intake
        .messages()
        .iter()
        .map(|message| (String::from_utf8_lossy(&message.topic).into_owned(), event_id(message).map(str::to_owned)))
        .collect();
    let expected = [("message", "1"), ("price", "2"), ("message", "3")];
    assert_eq!(known, expected.map(|(kind, id)| (kind.to_owned(), Some(id.to_owned()))));
    let (_, last) = running.intake.chunks.lock().last().cloned().expect("one");
    assert!(matches!(last, Chunk::Noted(events, notes) if events.len() == 1 && notes == [Note::new("id", "3")]));
    assert!(running.is_connected());

    let resume = running.resume(&server.url);
    assert_eq!(resume.notes.get(&Bytes::from_static(b"id")).map(|id| &id[..]), Some(&b"3"[..]));
    running.stop().await;
    let running = Running::new(source(&server.url, &[]), vec![resume]);
    assert!(server.until_asked(3).await[2].contains("last-event-id: 3\r\n"));
    running.stop().await;
}

#[tokio::test]
async fn types_that_are_not_wanted_are_left_out_and_their_ids_count() {
    let events = "id: 1\nevent: price\ndata: a\n\nid: 2\nevent: noise\ndata: b\n\nid: 3\ndata: c\n\nid: 4\n\n";
    let server = Server::new([Reply::Whole(stream(events)), Reply::Open(stream(""))]).await;
    let running = Running::new(source(&server.url, &[("event", "price, message")]), vec![]);
    assert_eq!(running.until_appended(2).await, ["a", "c"]);
    assert!(server.until_asked(2).await[1].contains("last-event-id: 4\r\n"));
    running.stop().await;
}

#[tokio::test]
async fn an_event_that_is_too_big_is_counted_and_what_follows_it_is_not_lost() {
    let events =
        format!("id: 1\ndata: {}\n\nid: 2\ndata: b\n\nid: a\x01\ndata: c\n\n", "x".repeat(EVENT_BYTES_MAX + 1));
    let server = Server::new([Reply::Open(stream(&events))]).await;
    let running = Running::new(source(&server.url, &[]), vec![]);
    assert_eq!(running.until_appended(2).await, ["b", "c"]);
    assert_eq!((running.counted("too_big"), running.counted("bad_id")), (1, 1));
    running.stop().await;
}

#[tokio::test]
async fn a_server_that_is_silent_or_no_stream_is_left_and_asked_again() {
    let whole = |head: &str| Reply::Whole(head.as_bytes().to_vec());
    let cases = [
        ("silence", Reply::Open(stream(": hello\n"))),
        ("timeout", Reply::Hang),
        ("http", Reply::Reset),
        ("status", answer("500 Internal Server Error", &[], b"")),
        ("content", ok("{}")),
        ("content", whole("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\n\r\n")),
        ("disconnected", whole("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\r\n")),
        ("disconnected", whole("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 9\r\n\r\ndata")),
    ];
    let judged = cases.into_iter().map(|(kind, reply)| async move {
        let shown = format!("{reply:?}");
        let server = Server::new([reply]).await;
        let running = Running::new(source(&server.url, &[("timeout", "200 ms"), ("silence", "1 s")]), vec![]);
        running.until_counted(kind, 2).await;
        server.then([Reply::Open(stream("data: x\n\n"))]);
        assert_eq!(running.until_appended(1).await[0], "x", "{shown}");
        // Silent for a second, it is asked again.
        eventually(|| {
            let status = running.source.targets().remove(0);
            (status.breaker == "closed" && status.connected).then_some(())
        })
        .await;
        running.stop().await;
    });
    futures::future::join_all(judged).await;
}

#[tokio::test]
async fn a_server_that_has_nothing_to_stream_is_left_alone() {
    let server = Server::new([answer("204 No Content", &[], b"")]).await;
    let running = Running::new(source(&server.url, &[]), vec![]);
    running.until_counted("status", 1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(server.asked().len(), 1);
    running.stop().await;
}

#[tokio::test]
async fn a_stream_of_many_events_comes_whole_and_in_few_records() {
    let events: String = (1..=20_000).map(|n| format!("id: {n}\ndata: {{\"n\":{n}}}\n\n")).collect();
    let server = Server::new([Reply::Open(stream(&events))]).await;
    let running = Running::new(source(&server.url, &[]), vec![]);
    let payloads = running.until_appended(20_000).await;
    assert!(payloads.iter().enumerate().all(|(at, payload)| *payload == format!("{{\"n\":{}}}", at + 1)));
    let chunks = running.intake.chunks.lock().len();
    assert!(chunks < 2_000, "{chunks} records for 20,000 events");
    running.stop().await;
}
