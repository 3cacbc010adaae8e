//! The client against a scripted broker, byte by byte.

use std::sync::Arc;
use std::time::Duration;

use tidemill_engine::source::{Source, SourceError, Stop};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;
use crate::mqtt::client;

/// A broker that does what the test says, and the source that talks to it.
pub(super) struct Script {
    pub(super) listener: TcpListener,
    pub(super) context: Context,
    extra: Vec<(&'static str, String)>,
}

pub(super) struct Running {
    task: JoinHandle<Result<(), SourceError>>,
    pub(super) stop: Stop,
    pub(super) intake: Arc<HandIntake>,
}

impl Running {
    pub(super) async fn end(self) -> Result<(), SourceError> {
        soon("the end of the source", self.task).await.expect("no panic")
    }
}

impl Script {
    pub(super) async fn new(extra: &[(&'static str, &str)]) -> Script {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let extra = extra.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        Script { listener, context: context(), extra }
    }

    pub(super) fn start(&self, intake: Arc<HandIntake>) -> Running {
        let url = format!("mqtt://{}", self.listener.local_addr().expect("bound"));
        let given = |key: &str| self.extra.iter().any(|(other, _)| *other == key);
        let mut pairs = vec![("url", url.as_str()), ("topic", "plant/{site}/+")];
        pairs.retain(|(key, _)| !given(key));
        pairs.extend(self.extra.iter().map(|(key, value)| (*key, value.as_str())));
        let mut options = options(&pairs);
        let (source, _) = client("readings", &mut options, &self.context).expect("good options");
        options.finish().expect("every option is taken");
        let stop = Stop::new();
        let task = tokio::spawn({
            let (intake, stop) = (Arc::clone(&intake), stop.clone());
            async move {
                source.prepare().await?;
                source.run(intake, Vec::new(), stop).await
            }
        });
        Running { task, stop, intake }
    }

    /// Accepts the next connection and reads its CONNECT.
    pub(super) async fn accept(&self) -> (Peer, Vec<u8>) {
        let (stream, _) = soon("a connection", self.listener.accept()).await.expect("accept");
        let mut peer = Peer(stream);
        let connect = peer.packet().await.expect("CONNECT");
        assert_eq!(connect[0], 0x10);
        (peer, connect)
    }

    /// Accepts, answers CONNECT, and grants the subscription that must follow in version 5.
    pub(super) async fn accept5(&self, session_present: bool) -> Peer {
        let (mut peer, _) = self.accept().await;
        peer.send(&packet(0x20, &[&[u8::from(session_present), 0, 0]])).await;
        assert_eq!(peer.packet().await.expect("SUBSCRIBE")[0], 0x82);
        peer.send(&packet(0x90, &[&[0, 1, 0, 1]])).await;
        peer
    }
}

#[tokio::test]
async fn connects_with_a_persistent_session_and_subscribes_by_pattern() {
    let script = Script::new(&[("client_id", "me"), ("username", "u"), ("password", "p"), ("keep_alive", "30s")]).await;
    let running = script.start(HandIntake::by_itself());
    let (mut peer, connect) = script.accept().await;
    let expected = packet(
        0x10,
        &[
            &field(b"MQTT"),
            // Level 5; user name, password, no clean start; 30 s; 7 days, 16,384 in flight, 64 aliases.
            &[5, 0xC0, 0, 30, 11, 17, 0, 0x09, 0x3A, 0x80, 33, 0x40, 0, 34, 0, 64],
            &field(b"me"),
            &field(b"u"),
            &field(b"p"),
        ],
    );
    assert_eq!(connect, expected, "{connect:02x?}");
    peer.send(&packet(0x20, &[&[0, 0, 0]])).await;
    // QoS 1, and no retained messages: they are skipped by default.
    peer.expect(&packet(0x82, &[&[0, 1, 0], &field(b"plant/+/+"), &[0x21]])).await;
    assert!(!running.intake.inner.lock().connected, "not before the subscription is granted");
    peer.send(&packet(0x90, &[&[0, 1, 0, 1]])).await;
    running.intake.until_connected().await;
    assert_eq!(running.intake.inner.lock().partitions, ["broker"]);
    running.stop.cancel();
    peer.expect(&[0xE0, 0]).await;
    peer.expect_end().await;
    running.end().await.expect("a clean stop");
}

#[tokio::test]
async fn puback_waits_for_the_receipt_while_pings_go_on() {
    let script = Script::new(&[("keep_alive", "1s")]).await;
    let running = script.start(HandIntake::by_hand());
    let mut peer = script.accept5(false).await;
    peer.send(&publish5("plant/a/b", 7, NO_PROPERTIES, "one")).await;
    running.intake.until_messages(1).await;
    for _ in 0..2 {
        peer.expect(PINGREQ).await;
        peer.send(PINGRESP).await;
    }
    running.intake.release(1);
    peer.expect(&puback(7)).await;
    assert_eq!(running.intake.messages(), [("plant/a/b".to_owned(), "one".to_owned())]);
}

#[tokio::test]
async fn pubacks_leave_in_receive_order() {
    let script = Script::new(&[]).await;
    let running = script.start(HandIntake::by_hand());
    let mut peer = script.accept5(false).await;
    peer.send(&[publish5("plant/a/b", 9, NO_PROPERTIES, "1"), publish5("plant/a/b", 2, NO_PROPERTIES, "2")].concat())
        .await;
    running.intake.until_messages(2).await;
    peer.send(&publish5("plant/a/b", 5, NO_PROPERTIES, "3")).await;
    running.intake.until_messages(3).await;
    // The log answers the younger chunks first: their acknowledgements wait for the oldest.
    let oldest = running.intake.inner.lock().open.pop_front().expect("open");
    let younger = running.intake.inner.lock().open.len();
    running.intake.release(younger);
    oldest.send(Ok(appended())).expect("awaited");
    for id in [9, 2, 5] {
        peer.expect(&puback(id)).await;
    }
    assert_eq!(running.intake.payloads(), ["1", "2", "3"]);
}

#[tokio::test]
async fn nothing_of_an_old_connection_is_acknowledged_on_a_new_one() {
    let script = Script::new(&[]).await;
    let running = script.start(HandIntake::by_hand());
    let mut peer = script.accept5(false).await;
    let five: Vec<u8> = (1..=5).flat_map(|id| publish5("plant/a/b", id, NO_PROPERTIES, "old")).collect();
    peer.send(&five).await;
    running.intake.until_messages(5).await;
    let chunks = running.intake.inner.lock().open.len();
    drop(peer);
    // The old connection waits for its receipts to acknowledge what it can; nobody listens any more.
    running.intake.release(chunks);
    let mut peer = script.accept5(true).await;
    peer.send(&publish5("plant/a/b", 6, NO_PROPERTIES, "new")).await;
    running.intake.until_messages(6).await;
    running.intake.release(1);
    peer.expect(&puback(6)).await;
    assert_eq!(running.intake.payloads().len(), 6);
}

#[tokio::test]
async fn a_malformed_packet_ends_the_connection_but_not_what_came_before() {
    let script = Script::new(&[]).await;
    let running = script.start(HandIntake::by_itself());
    let mut peer = script.accept5(false).await;
    let bytes = [publish5("plant/a/b", 1, NO_PROPERTIES, "kept"), packet(0x36, &[&field(b"a"), &[0, 1, 0]])].concat();
    peer.send(&bytes).await;
    peer.expect(&puback(1)).await;
    peer.expect_disconnect(0x81).await;
    running.intake.until_error("protocol").await;
    let mut peer = script.accept5(true).await;
    peer.send(&publish5("plant/a/b", 1, NO_PROPERTIES, "again")).await;
    peer.expect(&puback(1)).await;
    assert_eq!(running.intake.payloads(), ["kept", "again"]);
    assert_eq!(running.intake.inner.lock().errors, ["protocol"]);
}

#[tokio::test]
async fn topic_aliases_are_resolved_and_gone_after_a_reconnect() {
    let script = Script::new(&[]).await;
    let running = script.start(HandIntake::by_itself());
    let mut peer = script.accept5(false).await;
    peer.send(&publish5("plant/a/b", 1, &[3, 35, 0, 64], "set")).await;
    peer.send(&publish5("", 2, &[3, 35, 0, 64], "used")).await;
    peer.send(&publish5("plant/c/d", 3, &[3, 35, 0, 64], "set anew")).await;
    peer.send(&publish5("", 4, &[3, 35, 0, 64], "used anew")).await;
    for id in 1..=4 {
        peer.expect(&puback(id)).await;
    }
    drop(peer);
    let mut peer = script.accept5(true).await;
    peer.send(&publish5("", 5, &[3, 35, 0, 64], "unknown")).await;
    peer.expect_disconnect(0x94).await;
    let expected = [("plant/a/b", "set"), ("plant/a/b", "used"), ("plant/c/d", "set anew"), ("plant/c/d", "used anew")];
    let expected = expected.map(|(topic, payload)| (topic.to_owned(), payload.to_owned()));
    assert_eq!(running.intake.messages(), expected);
}

#[tokio::test]
async fn a_lost_session_is_counted_and_subscribed_again() {
    let script = Script::new(&[("version", "3.1.1")]).await;
    let running = script.start(HandIntake::by_itself());
    let subscribe = packet(0x82, &[&[0, 1], &field(b"plant/+/+"), &[1]]);
    let suback = packet(0x90, &[&[0, 1, 1]]);

    let (mut peer, connect) = script.accept().await;
    assert_eq!(connect[8..10], [4, 0x00], "3.1.1, clean session 0");
    peer.send(&[0x20, 2, 0, 0]).await;
    peer.expect(&subscribe).await;
    peer.send(&suback).await;
    running.intake.until_connected().await;
    drop(peer);

    // The session is there: in 3.1.1 no SUBSCRIBE, for it would bring the retained messages again.
    let (mut peer, _) = script.accept().await;
    peer.send(&[&[0x20, 2, 1, 0][..], &publish4("plant/a/b", 4, "x")].concat()).await;
    peer.expect(&puback(4)).await;
    drop(peer);
    assert!(running.intake.inner.lock().errors.is_empty());

    let (mut peer, _) = script.accept().await;
    peer.send(&[0x20, 2, 0, 0]).await;
    peer.expect(&subscribe).await;
    running.intake.until_error("session_lost").await;
}

#[tokio::test]
async fn the_client_id_and_the_subscription_survive_a_restart() {
    let script = Script::new(&[("version", "3.1.1")]).await;
    let first = script.start(HandIntake::by_itself());
    let (mut peer, connect) = script.accept().await;
    let id = connect[14..].to_vec();
    assert_eq!(id.len(), 23, "what every broker accepts");
    assert!(id.iter().all(u8::is_ascii_alphanumeric));
    peer.send(&[0x20, 2, 0, 0]).await;
    peer.packet().await.expect("SUBSCRIBE");
    peer.send(&packet(0x90, &[&[0, 1, 1]])).await;
    first.intake.until_connected().await;
    first.stop.cancel();
    peer.expect(&[0xE0, 0]).await;
    drop(peer);
    first.end().await.expect("a clean stop");
    // The note is written in the background; the next start must not race it.
    soon("the note", async {
        while script.context.storage.get("sources/readings/subscribed").is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;

    let second = script.start(HandIntake::by_itself());
    let (mut peer, connect) = script.accept().await;
    assert_eq!(connect[14..], id);
    peer.send(&[&[0x20, 2, 1, 0][..], &publish4("plant/a/b", 1, "x")].concat()).await;
    peer.expect(&puback(1)).await;
    assert!(second.intake.inner.lock().errors.is_empty());
}

#[tokio::test]
async fn a_refused_or_downgraded_subscription_stops_the_source() {
    for (code, words) in [
        (
            0x87,
            "refused the subscription to plant/+/+ (the user may not read this topic: ask for the right to it, code 0x87)",
        ),
        (0, "granted QoS 0 for plant/+/+ where QoS 1 was asked"),
    ] {
        let script = Script::new(&[]).await;
        let running = script.start(HandIntake::by_itself());
        let (mut peer, _) = script.accept().await;
        peer.send(&packet(0x20, &[&[0, 0, 0]])).await;
        peer.packet().await.expect("SUBSCRIBE");
        peer.send(&packet(0x90, &[&[0, 1, 0, code]])).await;
        peer.expect(&[0xE0, 0]).await;
        drop(peer);
        let error = running.end().await.expect_err("stopped").to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[tokio::test]
async fn a_session_taken_over_stops_the_source_and_other_goodbyes_reconnect() {
    let script = Script::new(&[("client_id", "twin")]).await;
    let running = script.start(HandIntake::by_itself());
    script.accept5(false).await.send(&[0xE0, 0]).await;
    for goodbye in [&[0xE0u8, 1, 0x8B][..], &[0xE0, 2, 0x8B, 0]] {
        script.accept5(true).await.send(goodbye).await;
    }
    script.accept5(true).await.send(&[0xE0, 1, 0x8E]).await;
    let error = running.end().await.expect_err("stopped").to_string();
    assert!(error.contains("two programs use the client id \"twin\""), "{error}");
}

#[tokio::test]
async fn the_brokers_keep_alive_counts_and_silence_reconnects() {
    let script = Script::new(&[("keep_alive", "1 hour")]).await;
    let _running = script.start(HandIntake::by_itself());
    let (mut peer, _) = script.accept().await;
    // Server Keep Alive: 1 s.
    peer.send(&packet(0x20, &[&[0, 0, 3, 19, 0, 1]])).await;
    peer.packet().await.expect("SUBSCRIBE");
    peer.send(&packet(0x90, &[&[0, 1, 0, 1]])).await;
    peer.expect(PINGREQ).await;
    // Not answered: given up half an interval later. By our own interval this would last for half an hour.
    peer.expect_end().await;
    let _ = script.accept5(true).await;
}

#[tokio::test]
async fn a_broker_without_version_5_is_asked_again_with_3_1_1() {
    for refusal in [packet(0x20, &[&[0, 0x84, 0]]), vec![0x20, 2, 0, 1]] {
        let script = Script::new(&[]).await;
        let running = script.start(HandIntake::by_itself());
        let (mut peer, connect) = script.accept().await;
        assert_eq!(connect[8], 5);
        peer.send(&refusal).await;
        let (mut peer, connect) = script.accept().await;
        assert_eq!(connect[8], 4);
        peer.send(&[0x20, 2, 0, 0]).await;
        peer.expect(&packet(0x82, &[&[0, 1], &field(b"plant/+/+"), &[1]])).await;
        running.stop.cancel();
        peer.expect(&[0xE0, 0]).await;
        drop(peer);
        running.end().await.expect("a clean stop");
    }
}

#[tokio::test]
async fn bad_credentials_are_tried_again() {
    let script = Script::new(&[("username", "u"), ("password", "wrong")]).await;
    let running = script.start(HandIntake::by_itself());
    for _ in 0..2 {
        let (mut peer, _) = script.accept().await;
        peer.send(&packet(0x20, &[&[0, 0x86, 0]])).await;
    }
    let _peer = script.accept5(false).await;
    running.intake.until_connected().await;
}

#[tokio::test]
async fn a_stop_acknowledges_what_is_in_hand_and_never_unsubscribes() {
    let script = Script::new(&[]).await;
    let running = script.start(HandIntake::by_hand());
    let mut peer = script.accept5(false).await;
    peer.send(&publish5("plant/a/b", 3, NO_PROPERTIES, "x")).await;
    running.intake.until_messages(1).await;
    running.stop.cancel();
    let mut byte = [0u8];
    let early = timeout(Duration::from_millis(100), peer.0.peek(&mut byte)).await;
    assert!(early.is_err(), "nothing before the receipt");
    running.intake.release(1);
    peer.expect(&puback(3)).await;
    peer.expect(&[0xE0, 0]).await;
    peer.expect_end().await;
    drop(peer);
    running.end().await.expect("a clean stop");
}

#[tokio::test]
async fn a_failed_log_stops_the_source_without_an_acknowledgement() {
    let script = Script::new(&[]).await;
    let running = script.start(HandIntake::by_hand());
    let mut peer = script.accept5(false).await;
    peer.send(&publish5("plant/a/b", 3, NO_PROPERTIES, "x")).await;
    running.intake.until_messages(1).await;
    running.intake.fail();
    peer.expect_end().await;
    let error = running.end().await.expect_err("stopped").to_string();
    assert!(error.contains("no space"), "{error}");
}

#[tokio::test]
async fn while_the_log_is_full_the_socket_is_not_read_but_pings_and_acknowledgements_go_on() {
    let script = Script::new(&[("keep_alive", "1s")]).await;
    let running = script.start(HandIntake::by_hand());
    let mut peer = script.accept5(false).await;
    peer.send(&publish5("plant/a/b", 1, NO_PROPERTIES, "1")).await;
    running.intake.until_messages(1).await;
    running.intake.block(true);
    peer.send(&publish5("plant/a/b", 2, NO_PROPERTIES, "2")).await;
    // More than sockets hold, so that it can only arrive if it is read.
    let flood = publish5("plant/a/b", 0, NO_PROPERTIES, &"x".repeat(8 << 20)).repeat(5);
    let (mut reads, mut writes) = peer.0.into_split();
    let flooding = tokio::spawn(async move { writes.write_all(&flood).await.map(|()| writes) });
    let mut two = [0u8; 2];
    soon("a ping", reads.read_exact(&mut two)).await.expect("alive");
    assert_eq!(two, PINGREQ);
    running.intake.release(1);
    let mut four = [0u8; 4];
    soon("an acknowledgement", reads.read_exact(&mut four)).await.expect("alive");
    assert_eq!(four[..], puback(1));
    assert!(!flooding.is_finished(), "the socket is not read");
    running.intake.block(false);
    running.intake.until_messages(7).await;
    soon("the flood", flooding).await.expect("no panic").expect("written");
}

#[tokio::test]
async fn retained_messages_are_skipped_and_acknowledged_unless_used() {
    for (retained, expected) in [("skip", vec!["live"]), ("use", vec!["old", "live"])] {
        let script = Script::new(&[("retained", retained)]).await;
        let running = script.start(HandIntake::by_itself());
        let mut peer = script.accept5(false).await;
        let old = packet(0x33, &[&field(b"plant/a/b"), &[0, 1], NO_PROPERTIES, b"old"]);
        peer.send(&[old, publish5("plant/a/b", 2, NO_PROPERTIES, "live")].concat()).await;
        peer.expect(&puback(1)).await;
        peer.expect(&puback(2)).await;
        assert_eq!(running.intake.payloads(), expected);
    }
}

#[tokio::test]
async fn an_oversize_message_becomes_a_note_and_does_not_come_back() {
    let script = Script::new(&[]).await;
    let running = script.start(HandIntake::by_itself());
    let mut peer = script.accept5(false).await;
    let big = publish5("plant/a/b", 1, NO_PROPERTIES, &"x".repeat(17 << 20));
    peer.send(&big).await;
    peer.send(&publish5("plant/a/b", 2, NO_PROPERTIES, "next")).await;
    peer.expect(&puback(1)).await;
    peer.expect(&puback(2)).await;
    let payloads = running.intake.payloads();
    assert!(payloads[0].contains("over the limit of 16777216 bytes"), "{payloads:?}");
    assert_eq!(payloads[1..], ["next"]);
    assert_eq!(running.intake.inner.lock().errors, ["oversize"]);
    let marked: Vec<bool> = running.intake.inner.lock().chunks.iter().flatten().map(crate::mqtt::is_oversize).collect();
    assert_eq!(marked, [true, false], "and no format takes it for a row");
}

#[tokio::test]
async fn a_message_larger_than_any_buffer_arrives_whole() {
    let script = Script::new(&[]).await;
    let running = script.start(HandIntake::by_itself());
    let mut peer = script.accept5(false).await;
    let payload = "0123456789abcdef".repeat(512 << 10);
    peer.send(&publish5("plant/a/b", 1, NO_PROPERTIES, &payload)).await;
    peer.expect(&puback(1)).await;
    assert!(running.intake.payloads() == [payload]);
}

#[tokio::test]
async fn qos_2_and_bad_urls_and_bad_patterns_are_refused_by_the_options() {
    for (pairs, words) in [
        (&[("url", "ssl://x"), ("topic", "a")][..], "option url: write mqtts:// in place of ssl://"),
        (&[("url", "mqtt://x"), ("topic", "a"), ("tls.ca", "ca.pem")], "option tls.ca: has no meaning without TLS"),
        (&[("url", "mqtts://x"), ("topic", "a"), ("tls.cert", "a.pem")], "option tls.cert: needs its private key"),
        (&[("url", "mqtt://x"), ("topic", "a"), ("qos", "3")], "option qos: \"3\" is not one of '0', '1', '2'"),
        (&[("url", "mqtt://x"), ("topic", "a/#/b")], "option topic: # takes all levels"),
        (&[("url", "mqtt://x")], "option topic: is missing"),
        (&[("url", "mqtt://x"), ("topic", "a"), ("password", "p")], "needs a username"),
        (&[("url", "mqtt://x"), ("topic", "a"), ("keep_alive", "100 ms")], "option keep_alive: must be whole seconds"),
        (&[("url", "mqtt://x"), ("topic", "a"), ("client_id", "")], "option client_id: is empty"),
    ] {
        let Err(error) = client("s", &mut options(pairs), &context()) else { panic!("{words}") };
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[tokio::test]
async fn it_connects_again_with_its_session_after_its_log_has_failed() {
    let script = Script::new(&[]).await;
    let url = format!("mqtt://{}", script.listener.local_addr().expect("bound"));
    let (source, _) = client("readings", &mut options(&[("url", &url), ("topic", "plant/{site}/+")]), &script.context)
        .expect("good options");
    let source = Arc::new(source);
    let mut ids = Vec::new();
    for run in 0..2 {
        source.prepare().await.expect("a client id");
        ids.push(source.client_id());
        let (intake, stop) = (HandIntake::by_hand(), Stop::new());
        let task = tokio::spawn({
            let (source, intake, stop) = (Arc::clone(&source), Arc::clone(&intake), stop.clone());
            async move { source.run(intake, Vec::new(), stop).await }
        });
        let mut peer = script.accept5(run > 0).await;
        peer.send(&publish5("plant/a/b", 7, NO_PROPERTIES, "1")).await;
        intake.until_messages(1).await;
        if run == 0 {
            intake.fail();
            let ended = soon("the end of the source", task).await.expect("no panic");
            assert!(matches!(ended, Err(SourceError::Intake(IntakeError::LogFailed(_)))), "{ended:?}");
        } else {
            intake.release(1);
            peer.expect(&puback(7)).await;
            stop.cancel();
            soon("the end of the source", task).await.expect("no panic").expect("a good end");
        }
    }
    assert_eq!(ids[0], ids[1]);
}
