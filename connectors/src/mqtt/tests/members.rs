//! Sessions that are new, lost, somebody else's or shared by several connections, against a scripted broker.

use std::collections::BTreeSet;

use super::client::Script;
use super::*;
use crate::tls::testing::write_file;

const SUBACK: &[u8] = &[0x90, 4, 0, 1, 0, 1];

/// The client id in a CONNECT of 3.1.1 without properties.
fn id_of_v4(connect: &[u8]) -> String {
    id_at(connect, 12)
}

/// The client id in a CONNECT of version 5 with our properties, all of them.
fn id_of_v5(connect: &[u8]) -> String {
    id_at(connect, 13 + usize::from(connect[12]))
}

fn id_at(connect: &[u8], at: usize) -> String {
    let length = usize::from(u16::from_be_bytes([connect[at], connect[at + 1]]));
    String::from_utf8(connect[at + 2..at + 2 + length].to_vec()).expect("UTF-8")
}

#[tokio::test]
async fn a_session_is_resumed_from_the_first_connection_on_though_it_was_cut_before_the_answer() {
    let script = Script::new(&[]).await;
    let mut running = script.start(HandIntake::by_itself());
    for connection in 0..3 {
        let (mut peer, connect) = script.accept().await;
        // Never a clean start: Mosquitto 2.0.11 does not save a session that began so.
        assert_eq!((connect[8], connect[9]), (5, 0), "{connect:02x?}");
        peer.send(&packet(0x20, &[&[u8::from(connection > 0), 0, 0]])).await;
        peer.packet().await.expect("SUBSCRIBE");
        if connection == 0 {
            // Cut before the answer: the session may be subscribed already, and is resumed all the same.
            continue;
        }
        peer.send(SUBACK).await;
        running.intake.until_connected().await;
        running.stop.cancel();
        peer.expect(&[0xE0, 0]).await;
        drop(peer);
        running.end().await.expect("a clean stop");
        running = script.start(HandIntake::by_itself());
    }
    assert!(running.intake.inner.lock().errors.is_empty());
}

#[tokio::test]
async fn a_session_that_the_data_folder_does_not_know_is_taken_with_what_waits_there() {
    let script = Script::new(&[("version", "3.1.1"), ("client_id", "me")]).await;
    for start in 0..2 {
        let running = script.start(HandIntake::by_itself());
        let (mut peer, connect) = script.accept().await;
        assert_eq!((connect[9], id_of_v4(&connect)), (0, "me".to_owned()));
        peer.send(&[&[0x20, 2, 1, 0][..], &publish4("plant/a/b", 4, "waited")].concat()).await;
        if start == 0 {
            // What it is subscribed to is not known.
            peer.expect(&packet(0x82, &[&[0, 1], &field(b"plant/+/+"), &[1]])).await;
            peer.send(&packet(0x90, &[&[0, 1, 1]])).await;
        }
        peer.expect(&puback(4)).await;
        running.intake.until_connected().await;
        running.stop.cancel();
        peer.expect(&[0xE0, 0]).await;
        drop(peer);
        assert_eq!(running.intake.payloads(), ["waited"]);
        assert!(running.intake.inner.lock().errors.is_empty(), "nothing was lost");
        running.end().await.expect("a clean stop");
    }
}

#[tokio::test]
async fn a_session_of_somebody_else_under_our_id_is_thrown_away_once_if_the_options_say_so() {
    let script = Script::new(&[("version", "3.1.1"), ("client_id", "me"), ("on_foreign_session", "forget")]).await;
    let running = script.start(HandIntake::by_itself());
    let (mut old, connect) = script.accept().await;
    assert_eq!((connect[8], connect[9]), (4, 0));
    // It comes with what it kept for the other one.
    old.send(&[&[0x20, 2, 1, 0][..], &publish4("not/ours", 4, "x")].concat()).await;
    let (mut clean, connect) = script.accept().await;
    assert_eq!((connect[9], id_of_v4(&connect)), (0x02, "me".to_owned()));
    clean.send(&[0x20, 2, 0, 0]).await;
    clean.expect(&[0xE0, 0]).await;
    drop(clean);
    old.expect_end().await;
    let (mut peer, connect) = script.accept().await;
    assert_eq!(connect[9], 0);
    peer.send(&[0x20, 2, 0, 0]).await;
    peer.expect(&packet(0x82, &[&[0, 1], &field(b"plant/+/+"), &[1]])).await;
    peer.send(&packet(0x90, &[&[0, 1, 1]])).await;
    running.intake.until_connected().await;
    let inner = running.intake.inner.lock();
    assert!(inner.chunks.is_empty() && inner.errors.is_empty());
}

#[tokio::test]
async fn a_broker_that_moved_keeps_our_session() {
    let script = Script::new(&[("client_id", "me")]).await;
    let before = "127.0.0.1:1 me\n1\nplant/+/+";
    script.context.storage.put("sources/readings/subscribed", before.as_bytes()).expect("in memory");
    let running = script.start(HandIntake::by_itself());
    let (mut peer, connect) = script.accept().await;
    assert_eq!(connect[9], 0, "what waits there is ours");
    peer.send(&packet(0x20, &[&[1, 0, 0]])).await;
    peer.packet().await.expect("SUBSCRIBE");
    peer.send(SUBACK).await;
    running.intake.until_connected().await;
    assert!(running.intake.inner.lock().errors.is_empty());
}

#[tokio::test]
async fn a_lost_session_ends_the_source_once_if_the_options_say_so() {
    let script = Script::new(&[("version", "3.1.1"), ("on_session_loss", "fail")]).await;
    let running = script.start(HandIntake::by_itself());
    let (mut peer, _) = script.accept().await;
    peer.send(&[0x20, 2, 0, 0]).await;
    peer.packet().await.expect("SUBSCRIBE");
    peer.send(&packet(0x90, &[&[0, 1, 1]])).await;
    running.intake.until_connected().await;
    drop(peer);
    let (mut peer, _) = script.accept().await;
    peer.send(&[0x20, 2, 0, 0]).await;
    peer.expect(&[0xE0, 0]).await;
    drop(peer);
    running.intake.until_error("session_lost").await;
    let error = running.end().await.expect_err("stopped").to_string();
    assert!(error.contains("has lost our session") && error.contains("Start again to go on without them"), "{error}");

    // It goes on, and knows that nothing is subscribed although the broker has a session.
    let running = script.start(HandIntake::by_itself());
    let (mut peer, _) = script.accept().await;
    peer.send(&[0x20, 2, 1, 0]).await;
    peer.expect(&packet(0x82, &[&[0, 1], &field(b"plant/+/+"), &[1]])).await;
    peer.send(&packet(0x90, &[&[0, 1, 1]])).await;
    running.intake.until_connected().await;
}

#[tokio::test]
async fn connections_share_one_subscription_and_each_acknowledges_its_own() {
    let script = Script::new(&[("client_id", "me"), ("connections", "3")]).await;
    let running = script.start(HandIntake::by_itself());
    let mut peers = BTreeMap::new();
    for _ in 0..3 {
        let (mut peer, connect) = script.accept().await;
        peer.send(&packet(0x20, &[&[0, 0, 0]])).await;
        peer.expect(&packet(0x82, &[&[0, 1, 0], &field(b"$share/tm-readings-me/plant/+/+"), &[0x21]])).await;
        assert!(!running.intake.inner.lock().connected, "not before all of them are");
        peers.insert(id_of_v5(&connect), peer);
    }
    assert_eq!(peers.keys().collect::<Vec<_>>(), ["me-0", "me-1", "me-2"]);
    for peer in peers.values_mut() {
        peer.send(SUBACK).await;
    }
    running.intake.until_connected().await;
    let partitions: BTreeSet<String> = running.intake.inner.lock().partitions.iter().cloned().collect();
    assert_eq!(partitions.iter().collect::<Vec<_>>(), ["broker-0", "broker-1", "broker-2"]);
    // One packet id on all of them: each connection has its own.
    for (id, peer) in &mut peers {
        peer.send(&publish5("plant/a/b", 7, NO_PROPERTIES, id)).await;
        peer.expect(&puback(7)).await;
    }
    assert_eq!(running.intake.payloads(), ["me-0", "me-1", "me-2"]);

    // One that is lost comes back by itself, and the source cannot receive all that long.
    drop(peers.remove("me-1"));
    running.intake.until("a member to be missed", |inner| !inner.connected).await;
    let (mut peer, connect) = script.accept().await;
    assert_eq!(id_of_v5(&connect), "me-1");
    peer.send(&packet(0x20, &[&[1, 0, 0]])).await;
    peer.packet().await.expect("SUBSCRIBE");
    peer.send(SUBACK).await;
    running.intake.until_connected().await;
    peers.insert("me-1".to_owned(), peer);

    // One that is taken over ends them all, with a good-bye.
    peers.get_mut("me-2").expect("connected").send(&[0xE0, 1, 0x8E]).await;
    for id in ["me-0", "me-1"] {
        peers.get_mut(id).expect("connected").expect(&[0xE0, 0]).await;
    }
    drop(peers);
    let error = running.end().await.expect_err("stopped").to_string();
    assert!(error.contains("two programs use the client id \"me-2\""), "{error}");
}

/// Not every broker keeps retained copies from shared subscriptions: each connection would take the same reading.
#[tokio::test]
async fn of_connections_that_share_one_takes_what_is_retained() {
    let script = Script::new(&[("client_id", "me"), ("connections", "2"), ("retained", "use")]).await;
    let running = script.start(HandIntake::by_itself());
    let mut peers = Vec::new();
    for _ in 0..2 {
        let (mut peer, connect) = script.accept().await;
        peer.send(&packet(0x20, &[&[0, 0, 0]])).await;
        // Retained copies with a new subscription, or never.
        let options = if id_of_v5(&connect) == "me-0" { 0x11 } else { 0x21 };
        peer.expect(&packet(0x82, &[&[0, 1, 0], &field(b"$share/tm-readings-me/plant/+/+"), &[options]])).await;
        peer.send(SUBACK).await;
        peers.push(peer);
    }
    running.intake.until_connected().await;
    for peer in &mut peers {
        peer.send(&packet(0x33, &[&field(b"plant/a/b"), &[0, 7], NO_PROPERTIES, b"kept"])).await;
        peer.expect(&puback(7)).await;
    }
    assert_eq!(running.intake.payloads(), ["kept"]);
}

#[tokio::test]
async fn a_changed_topic_is_subscribed_before_the_old_one_is_given_up() {
    let script = Script::new(&[("client_id", "me"), ("version", "3.1.1")]).await;
    let before = format!("{} me\n1\nold/+\nplant/+/+", script.listener.local_addr().expect("bound"));
    script.context.storage.put("sources/readings/subscribed", before.as_bytes()).expect("in memory");
    let _running = script.start(HandIntake::by_itself());
    let (mut peer, _) = script.accept().await;
    peer.send(&[0x20, 2, 1, 0]).await;
    peer.expect(&packet(0x82, &[&[0, 1], &field(b"plant/+/+"), &[1]])).await;
    peer.expect(&packet(0xA2, &[&[0, 2], &field(b"old/+")])).await;
    peer.send(&[packet(0xB0, &[&[0, 2]]), packet(0x90, &[&[0, 1, 1]]), publish4("plant/a/b", 1, "x")].concat()).await;
    peer.expect(&puback(1)).await;
}

#[tokio::test]
async fn a_session_that_another_number_of_connections_has_left_is_emptied_and_ended() {
    let script = Script::new(&[("client_id", "me"), ("connections", "2")]).await;
    let before = format!("{} me\n1\nplant/+/+", script.listener.local_addr().expect("bound"));
    script.context.storage.put("sources/readings/subscribed", before.as_bytes()).expect("in memory");
    let running = script.start(HandIntake::by_itself());
    let mut kept = Vec::new();
    let mut left = None;
    for _ in 0..3 {
        let (mut peer, connect) = script.accept().await;
        if id_of_v5(&connect) == "me" {
            assert_eq!(connect[9], 0, "with what it holds");
            peer.send(&packet(0x20, &[&[1, 0, 0]])).await;
            peer.expect(&packet(0xA2, &[&[0, 2, 0], &field(b"plant/+/+")])).await;
            left = Some(peer);
        } else {
            peer.send(&packet(0x20, &[&[0, 0, 0]])).await;
            peer.packet().await.expect("SUBSCRIBE");
            peer.send(SUBACK).await;
            kept.push(peer);
        }
    }
    running.intake.until_connected().await;
    let mut left = left.expect("the one before");
    left.send(&packet(0xB0, &[&[0, 2, 0, 0]])).await;
    left.send(&publish5("plant/a/b", 9, NO_PROPERTIES, "queued")).await;
    left.expect(&puback(9)).await;
    left.expect(&[0xE0, 0]).await;
    drop(left);
    let (mut last, connect) = script.accept().await;
    assert_eq!((id_of_v5(&connect).as_str(), connect[9]), ("me", 0x02));
    assert_eq!(connect[13..18], [17, 0, 0, 0, 0], "not to be kept");
    last.send(&packet(0x20, &[&[0, 0, 0]])).await;
    last.expect(&[0xE0, 0]).await;
    drop(last);
    soon("the note to go", async {
        while script.context.storage.get("sources/readings/subscribed").is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(running.intake.payloads(), ["queued"]);
    assert!(running.intake.inner.lock().connected, "the others were not disturbed");
}

#[tokio::test]
async fn a_broker_without_what_we_need_ends_the_source() {
    for (options, properties, words) in [
        (&[("connections", "2")][..], &[42u8, 0][..], "has no shared subscriptions: say connections = '1'"),
        (&[], &[40, 0], "has no wildcards, and plant/+/+ is one"),
    ] {
        let script = Script::new(options).await;
        let running = script.start(HandIntake::by_itself());
        let (mut peer, _) = script.accept().await;
        peer.send(&packet(0x20, &[&[0, 0, 2], properties])).await;
        peer.expect(&[0xE0, 0]).await;
        drop(peer);
        let error = running.end().await.expect_err("stopped").to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[tokio::test]
async fn several_topics_are_one_subscription_and_each_may_be_downgraded_if_allowed() {
    let extra = [("topic", "plant/{site}/+, lab/{site}"), ("allow_qos_downgrade", "true"), ("receive_maximum", "7")];
    let script = Script::new(&extra).await;
    let running = script.start(HandIntake::by_itself());
    let (mut peer, connect) = script.accept().await;
    assert!(connect.windows(3).any(|window| window == [33, 0, 7]), "Receive Maximum: {connect:02x?}");
    peer.send(&packet(0x20, &[&[0, 0, 0]])).await;
    peer.expect(&packet(0x82, &[&[0, 1, 0], &field(b"plant/+/+"), &[0x21], &field(b"lab/+"), &[0x21]])).await;
    peer.send(&packet(0x90, &[&[0, 1, 0, 1, 0]])).await;
    running.intake.until_connected().await;
    running.intake.until_error("qos_downgraded").await;
}

#[tokio::test]
async fn what_the_broker_drops_is_counted_where_it_is_watched() {
    let script = Script::new(&[("watch_drops", "true")]).await;
    let running = script.start(HandIntake::by_itself());
    let topic = "$SYS/broker/publish/messages/dropped";
    let (mut peer, _) = script.accept().await;
    peer.send(&packet(0x20, &[&[0, 0, 0]])).await;
    peer.expect(&packet(0x82, &[&[0, 1, 0], &field(b"plant/+/+"), &[0x21], &field(topic.as_bytes()), &[0]])).await;
    peer.send(&packet(0x90, &[&[0, 1, 0, 1, 0]])).await;
    running.intake.until_connected().await;
    peer.send(&publish5(topic, 0, NO_PROPERTIES, "12")).await;
    drop(peer);
    // What is dropped while we are away counts too.
    let (mut peer, _) = script.accept().await;
    peer.send(&packet(0x20, &[&[1, 0, 0]])).await;
    peer.packet().await.expect("SUBSCRIBE");
    peer.send(&packet(0x90, &[&[0, 1, 0, 1, 0]])).await;
    peer.send(&publish5(topic, 0, NO_PROPERTIES, "15")).await;
    running.intake.until_error("broker_drops").await;
    assert!(running.intake.inner.lock().chunks.is_empty());
}

#[tokio::test]
async fn a_password_is_read_anew_for_each_connection() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("password");
    write_file(&path, "first\n");
    let script = Script::new(&[("username", "u"), ("password_file", path.to_str().unwrap())]).await;
    let running = script.start(HandIntake::by_itself());
    let (mut peer, connect) = script.accept().await;
    assert!(connect.ends_with(&field(b"first")));
    write_file(&path, "second");
    peer.send(&packet(0x20, &[&[0, 0x86, 0]])).await;
    let (mut peer, connect) = script.accept().await;
    assert!(connect.ends_with(&field(b"second")));
    peer.send(&packet(0x20, &[&[0, 0, 0]])).await;
    peer.packet().await.expect("SUBSCRIBE");
    peer.send(SUBACK).await;
    running.intake.until_connected().await;
}

#[tokio::test]
async fn bad_options_are_refused_with_what_would_be_right() {
    let base = [("url", "mqtt://x"), ("topic", "a")];
    for (pairs, words) in [
        (vec![("connections", "0")], "option connections: \"0\" is not a number from 1 to 64"),
        (vec![("connections", "65")], "is not a number from 1 to 64"),
        (vec![("connections", "two")], "is not a number from 1 to 64"),
        (vec![("connections", "2"), ("client_id", "a/b")], "option client_id: names the group of the connections"),
        (vec![("receive_maximum", "0")], "is not a number from 1 to 65535"),
        (vec![("receive_maximum", "65536")], "is not a number from 1 to 65535"),
        (vec![("session_expiry", "0 s")], "option session_expiry: must be whole seconds, from 1 to 4294967295"),
        (vec![("session_expiry", "1500 ms")], "must be whole seconds"),
        (vec![("keep_alive", "1 day")], "option keep_alive: must be whole seconds, from 1 to 65535"),
        (vec![("on_session_loss", "stop")], "\"stop\" is not one of 'continue', 'fail'"),
        (vec![("allow_qos_downgrade", "maybe")], "is not one of 'true', 'false'"),
        (vec![("watch_drops", "true"), ("topic", "$SYS/#")], "option watch_drops: the topic takes $SYS/broker"),
        (vec![("topic", "a/+, a/b")], "option topic: \"a/+\" and \"a/b\" overlap"),
        (vec![("qos", "3")], "option qos: \"3\" is not one of '0', '1'"),
        (vec![("version", "3.1")], "is not one of '5', '3.1.1'"),
        (vec![("password_env", "V")], "option password: needs a username beside it"),
        (
            vec![("username", "u"), ("password", "p"), ("password_env", "V")],
            "option password_env: says what password says",
        ),
        (vec![("username", "u"), ("password_file", "")], "option password_file: must be the path of a file"),
        (vec![("username", "u"), ("password_env", "A=B")], "option password_env: must be the name of a variable"),
        (vec![("secret", "broker")], "option secret: there is no secret \"broker\": write CREATE SECRET"),
        (vec![("url", "mqtts://a_b c")], "is not the name of a host"),
        (vec![("url", "mqtts://-")], "neither a host name nor an address"),
        (vec![("tls.ca", "ca.pem")], "option tls.ca: has no meaning without TLS: say mqtts:// in the url"),
        (vec![("url", "mqtts://x"), ("tls.key", "k.pem")], "option tls.key: needs its certificate beside it"),
    ] {
        let mut all: BTreeMap<&str, &str> = base.into_iter().collect();
        all.extend(pairs.iter().copied());
        let all: Vec<(&str, &str)> = all.into_iter().collect();
        let Err(error) = crate::mqtt::client("s", &mut options(&all), &context()) else { panic!("{words}") };
        assert!(error.to_string().contains(words), "{words}: {error}");
    }
}
