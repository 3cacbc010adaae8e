//! What a client must get although it is away, or we are: messages that wait for a session, and wills that wait for their time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tidemill_engine::clock::{Dice, SeededDice};

use super::guests::{connect4_kept, connect5_kept, connected, subscribe4, subscribe5};
use super::listener::{Running, connect5};
use super::*;
use crate::mqtt::{LocalBrokers, LocalMessage, QoS};

const PUBCOMP: u8 = 0x70;

/// A program that dies and comes back: each life has the log that the one before left, and writes one of its own, so that a
/// task of a dead one changes nothing.
struct Lives {
    running: Running,
    clock: Arc<ManualClock>,
    brokers: LocalBrokers,
    lived: u64,
}

impl Lives {
    async fn begin() -> Lives {
        let (log, clock, brokers) = (HandIntake::by_itself(), Arc::new(ManualClock::at(0)), LocalBrokers::default());
        let running = Lives::live(log, &clock, &brokers, 0).await;
        Lives { running, clock, brokers, lived: 0 }
    }

    async fn live(log: Arc<HandIntake>, clock: &Arc<ManualClock>, brokers: &LocalBrokers, lived: u64) -> Running {
        let (dice, local_brokers) = (Arc::new(SeededDice::new(lived)), brokers.clone());
        let context = Context { clock: Arc::clone(clock) as _, dice, local_brokers, ..context() };
        let running = Running::start_in(log, &[], &context).await;
        running.intake.until_connected().await;
        running
    }

    async fn crash(&mut self) {
        let log = HandIntake::by_itself();
        log.inner.lock().notes = self.running.intake.inner.lock().notes.clone();
        self.lived += 1;
        let next = Lives::live(log, &self.clock, &self.brokers, self.lived).await;
        std::mem::replace(&mut self.running, next).crash();
    }

    /// Publishes payloads at QoS 1, and waits until they are acknowledged.
    async fn publish(&self, payloads: &[&str]) {
        let mut device = self.running.device4("device").await;
        for payload in payloads {
            device.send(&publish4("plant/a/b", 1, payload)).await;
            device.expect(&puback(1)).await;
        }
    }

    /// Publishes at QoS 2.
    async fn publish_twice_as_well(&self, payload: &str) {
        let mut device = self.running.device4("device").await;
        device.send(&packet(0x34, &[&field(b"plant/a/b"), &[0, 9], payload.as_bytes()])).await;
        device.expect(&[0x50, 2, 0, 9]).await;
        device.send(&[0x62, 2, 0, 9]).await;
        device.expect(&[PUBCOMP, 2, 0, 9]).await;
    }

    /// Returns how many messages for sessions the log has.
    fn saved(&self) -> usize {
        self.keys(b'w')
    }

    fn keys(&self, kind: u8) -> usize {
        self.running.intake.inner.lock().notes.keys().filter(|key| key.first() == Some(&kind)).count()
    }

    async fn until_saved(&self, count: usize) {
        let is_saved = |inner: &Inner| inner.notes.keys().filter(|key| key.first() == Some(&b'w')).count() == count;
        self.running.intake.until("the notes", is_saved).await;
    }
}

/// Reads a PUBLISH of 3.1.1 with QoS 1 or 2: its first byte, id and payload.
async fn publish_of(peer: &mut Peer) -> (u8, [u8; 2], String) {
    let packet = peer.packet().await.expect("a message");
    assert_eq!(packet[0] >> 4, 3, "{packet:02x?}");
    let topic_end = 4 + usize::from(packet[3]);
    let payload = String::from_utf8_lossy(&packet[topic_end + 2..]).into_owned();
    (packet[0], [packet[topic_end], packet[topic_end + 1]], payload)
}

#[tokio::test]
async fn what_waits_for_an_absent_subscriber_is_there_after_a_crash() {
    let mut lives = Lives::begin().await;
    for (id, qos) in [("one", 1), ("two", 2)] {
        let (mut reader, _) = connected(&lives.running, &connect4_kept(id)).await;
        reader.send(&subscribe4(1, "plant/#", qos)).await;
        reader.expect(&[0x90, 3, 0, 1, qos]).await;
    }
    lives.publish(&["a", "b"]).await;
    lives.publish_twice_as_well("c").await;
    assert_eq!(lives.saved(), 6);
    lives.crash().await;
    lives.publish(&["d"]).await;
    lives.crash().await;
    for (id, qos) in [("one", 1), ("two", 2)] {
        let (mut reader, present) = connected(&lives.running, &connect4_kept(id)).await;
        assert!(present);
        let mut released = None;
        for expected in ["a", "b", "c", "d"] {
            let (first, id, payload) = publish_of(&mut reader).await;
            assert_eq!(payload, expected);
            if (first >> 1 & 3) == 1 {
                reader.send(&[&[0x40, 2][..], &id].concat()).await;
            } else {
                assert_eq!((qos, expected), (2, "c"), "the QoS of the publisher is the most");
                reader.send(&[&[0x50, 2][..], &id].concat()).await;
                released = Some(id);
            }
        }
        if let Some(id) = released {
            reader.expect(&[&[0x62, 2][..], &id].concat()).await;
            reader.send(&[&[PUBCOMP, 2][..], &id].concat()).await;
        }
        reader.send(PINGREQ).await;
        reader.expect(PINGRESP).await;
    }
    lives.until_saved(0).await;
    lives.crash().await;
    let (mut reader, _) = connected(&lives.running, &connect4_kept("two")).await;
    reader.send(PINGREQ).await;
    reader.expect(PINGRESP).await;
}

#[tokio::test]
async fn a_message_of_qos_2_keeps_its_id_through_a_crash_at_any_point() {
    let mut lives = Lives::begin().await;
    let (mut reader, _) = connected(&lives.running, &connect4_kept("reader")).await;
    reader.send(&subscribe4(1, "plant/#", 2)).await;
    reader.expect(&[0x90, 3, 0, 1, 2]).await;
    lives.publish_twice_as_well("once").await;
    let (first, id, _) = publish_of(&mut reader).await;
    assert_eq!(first, 0x34);
    lives.crash().await;

    let (mut reader, _) = connected(&lives.running, &connect4_kept("reader")).await;
    let again = publish_of(&mut reader).await;
    assert_eq!(again, (0x3C, id, "once".to_owned()), "a duplicate, under the same id");
    reader.send(&[&[0x50, 2][..], &id].concat()).await;
    reader.expect(&[&[0x62, 2][..], &id].concat()).await;
    lives.crash().await;

    // A PUBLISH would be a second message now: the client may have taken the PUBREL.
    let (mut reader, _) = connected(&lives.running, &connect4_kept("reader")).await;
    reader.expect(&[&[0x62, 2][..], &id].concat()).await;
    reader.send(&[&[PUBCOMP, 2][..], &id].concat()).await;
    lives.until_saved(0).await;
    lives.crash().await;

    let (mut reader, _) = connected(&lives.running, &connect4_kept("reader")).await;
    reader.send(PINGREQ).await;
    reader.expect(PINGRESP).await;
}

#[tokio::test]
async fn a_release_to_a_subscriber_waits_until_the_log_knows_that_it_has_the_message() {
    let running = Running::start(HandIntake::by_hand(), &[]).await;
    let log = Arc::clone(&running.intake);
    let release_next = async |chunks: usize| {
        log.until_chunks(chunks).await;
        log.release(1);
    };
    let mut reader = running.peer().await;
    reader.send(&connect4_kept("reader")).await;
    release_next(1).await;
    reader.expect(&[0x20, 2, 0, 0]).await;
    reader.send(&subscribe4(1, "plant/#", 2)).await;
    release_next(2).await;
    reader.expect(&[0x90, 3, 0, 1, 2]).await;
    let mut device = running.device4("device").await;
    device.send(&packet(0x34, &[&field(b"plant/a/b"), &[0, 9], b"x"])).await;
    release_next(3).await;
    let (_, id, _) = publish_of(&mut reader).await;
    reader.send(&[&[0x50, 2][..], &id].concat()).await;
    log.until_chunks(4).await;
    reader.send(PINGREQ).await;
    reader.expect(PINGRESP).await;
    log.release(1);
    reader.expect(&[&[0x62, 2][..], &id].concat()).await;
}

#[tokio::test]
async fn nothing_is_noted_where_no_session_outlives_its_connection() {
    let lives = Lives::begin().await;
    let mut reader = lives.running.device4("reader").await;
    reader.send(&subscribe4(1, "plant/#", 2)).await;
    reader.expect(&[0x90, 3, 0, 1, 2]).await;
    // And one that lasts, but takes what may be lost.
    let (mut careless, _) = connected(&lives.running, &connect4_kept("careless")).await;
    careless.send(&subscribe4(1, "plant/#", 0)).await;
    careless.expect(&[0x90, 3, 0, 1, 0]).await;
    lives.publish(&["a", "b"]).await;
    publish_of(&mut reader).await;
    careless.expect(&packet(0x30, &[&field(b"plant/a/b"), b"a"])).await;
    assert_eq!(lives.saved(), 0);
}

#[tokio::test]
async fn what_waited_for_an_older_session_is_not_for_the_next() {
    let mut lives = Lives::begin().await;
    let subscribed = async |lives: &Lives| {
        let (mut reader, _) = connected(&lives.running, &connect5_kept("reader")).await;
        reader.send(&subscribe5(1, "plant/#", 1)).await;
        reader.expect(&[0x90, 4, 0, 1, 0, 1]).await;
        reader
    };
    drop(subscribed(&lives).await);
    lives.publish(&["old"]).await;
    let old = lives.running.intake.inner.lock().notes.clone();
    assert_eq!(lives.saved(), 1);
    // It begins anew.
    drop(connected(&lives.running, &connect5("reader", 60)).await);
    lives.until_saved(0).await;
    drop(subscribed(&lives).await);
    // As if the record of a device had come behind the end of the session.
    let is_message = |(key, _): &(Bytes, Bytes)| key.first() == Some(&b'w');
    lives.running.intake.inner.lock().notes.extend(old.into_iter().filter(is_message));
    lives.publish(&["new"]).await;
    assert_eq!(lives.saved(), 2);
    lives.crash().await;
    lives.until_saved(1).await;
    let (mut reader, _) = connected(&lives.running, &connect5_kept("reader")).await;
    let heard = reader.packet().await.expect("a message");
    assert!(heard.ends_with(b"new"), "{heard:02x?}");
}

#[tokio::test]
async fn a_retained_copy_of_qos_2_that_is_on_its_way_keeps_its_id_too() {
    let mut lives = Lives::begin().await;
    let mut device = lives.running.device4("device").await;
    device.send(&packet(0x35, &[&field(b"plant/a/b"), &[0, 9], b"kept"])).await;
    device.expect(&[0x50, 2, 0, 9]).await;
    let (mut reader, _) = connected(&lives.running, &connect4_kept("reader")).await;
    reader.send(&subscribe4(1, "plant/#", 2)).await;
    reader.expect(&[0x90, 3, 0, 1, 2]).await;
    let (first, id, _) = publish_of(&mut reader).await;
    assert_eq!(first, 0x35);
    lives.crash().await;
    let (mut reader, _) = connected(&lives.running, &connect4_kept("reader")).await;
    assert_eq!(publish_of(&mut reader).await, (0x3D, id, "kept".to_owned()));
}

#[tokio::test]
async fn rows_of_a_sink_that_come_again_after_a_crash_are_known_by_their_numbers() {
    let mut lives = Lives::begin().await;
    drop({
        let (mut reader, _) = connected(&lives.running, &connect4_kept("reader")).await;
        reader.send(&subscribe4(1, "alerts/#", 2)).await;
        reader.expect(&[0x90, 3, 0, 1, 2]).await;
        reader
    });
    let publish = async |lives: &Lives, outbox: &str, numbers: std::ops::Range<u64>| {
        let (topic, qos) = (Bytes::from_static(b"alerts/a"), QoS::ExactlyOnce);
        let payload = |number| format!("{outbox} {number}").into();
        let row = |number| LocalMessage { number, topic: topic.clone(), payload: payload(number), qos, retain: false };
        let broker = lives.brokers.get("devices").expect("it runs");
        broker.publish(outbox.to_owned(), numbers.map(row).collect()).await.expect("the log is good");
    };
    publish(&lives, "listener-1", 5..8).await;
    lives.crash().await;
    // The sink died before its own cursor was on the disk; another one begins.
    publish(&lives, "listener-1", 5..8).await;
    publish(&lives, "listener-1", 6..9).await;
    publish(&lives, "listener-2", 0..1).await;
    let (mut reader, _) = connected(&lives.running, &connect4_kept("reader")).await;
    for expected in ["listener-1 5", "listener-1 6", "listener-1 7", "listener-1 8", "listener-2 0"] {
        assert_eq!(publish_of(&mut reader).await.2, expected);
    }
    reader.send(PINGREQ).await;
    reader.expect(PINGRESP).await;
}

#[tokio::test]
async fn a_log_from_before_there_were_tags_is_read_and_its_sessions_are_kept_from_then_on() {
    let mut lives = Lives::begin().await;
    let value = [&[1][..], &[0, 0, 14, 16], &[1, 0, 0, 0, 0], &field(b"plant/#")].concat();
    lives.running.intake.inner.lock().notes.insert(Bytes::from_static(b"sreader"), value.into());
    lives.crash().await;
    lives.publish(&["a"]).await;
    lives.crash().await;
    let (mut reader, present) = connected(&lives.running, &connect4_kept("reader")).await;
    assert!(present);
    assert_eq!(publish_of(&mut reader).await.2, "a");
}

/// So many pings are answered at the most, a millisecond apart, until everything must have come.
const PINGS_MAX: usize = 5_000;

/// A subscriber that dies at any moment, a program that does, and messages all the while: at QoS 2 each arrives once.
#[tokio::test]
async fn crashes_at_any_moment_bring_each_message_once_at_qos_2() {
    let seed = std::env::var("TIDEMILL_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(11);
    println!("TIDEMILL_SEED={seed}");
    let dice = SeededDice::new(seed);
    let mut lives = Lives::begin().await;
    let (mut held, mut got, mut sent) = (BTreeSet::new(), Vec::new(), 0);
    drop({
        let (mut reader, _) = connected(&lives.running, &connect4_kept("reader")).await;
        reader.send(&subscribe4(1, "plant/#", 2)).await;
        reader.expect(&[0x90, 3, 0, 1, 2]).await;
        reader
    });
    let (mut is_last, mut pings) = (false, 0);
    for round in 0.. {
        is_last |= round == 60;
        if !is_last {
            for _ in 0..dice.roll() % 5 {
                lives.publish_twice_as_well(&sent.to_string()).await;
                sent += 1;
            }
        }
        let (mut reader, present) = connected(&lives.running, &connect4_kept("reader")).await;
        assert!(present, "round {round}");
        // What a subscriber does before it dies, or the program does.
        let patience = if is_last { u64::MAX } else { dice.roll() % 12 };
        reader.send(PINGREQ).await;
        for _ in 0..patience {
            let packet = reader.packet().await.expect("a packet");
            let id = |at: usize| [packet[at], packet[at + 1]];
            let answer = match packet[0] {
                0x34 | 0x3C => {
                    let id = id(4 + usize::from(packet[3]));
                    if held.insert(id) {
                        got.push(String::from_utf8_lossy(&packet[6 + usize::from(packet[3])..]).into_owned());
                    } else {
                        assert_eq!(packet[0], 0x3C, "a new message under an id that is held");
                    }
                    [0x50, 2, id[0], id[1]]
                }
                0x62 => {
                    held.remove(&id(2));
                    [PUBCOMP, 2, packet[2], packet[3]]
                }
                0xD0 if is_last && got.len() >= sent && held.is_empty() => break,
                0xD0 if is_last => {
                    pings += 1;
                    assert!(pings < PINGS_MAX, "{} of {sent} came, {held:?} held, last {:?}", got.len(), got.last());
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    reader.send(PINGREQ).await;
                    continue;
                }
                // Nothing waits, and nothing will come.
                0xD0 if reader.is_quiet().await => break,
                0xD0 => continue,
                other => panic!("{other:02x}"),
            };
            // Its answer may be lost, with its connection.
            if !is_last && dice.roll().is_multiple_of(8) {
                break;
            }
            reader.send(&answer).await;
            if !is_last && reader.is_quiet().await {
                break;
            }
        }
        if is_last {
            break;
        }
        if dice.roll().is_multiple_of(2) {
            lives.crash().await;
        }
    }
    let expected: Vec<String> = (0..sent).map(|n| n.to_string()).collect();
    assert!(sent > 60, "{sent}");
    assert_eq!(got, expected, "each once, in order");
    lives.until_saved(0).await;
}

/// A session of an hour, and a will with a delay.
fn with_will(id: &str, delay_s: u8) -> Vec<u8> {
    let will = [&[5, 24, 0, 0, 0, delay_s][..], &field(b"plant/a/status"), &field(id.as_bytes())].concat();
    packet(0x10, &[&field(b"MQTT"), &[5, 4, 0, 60, 5, 17, 0, 0, 14, 16], &field(id.as_bytes()), &will])
}

#[tokio::test]
async fn a_will_that_is_delayed_outlives_a_crash_and_is_taken_back_by_a_return() {
    let mut lives = Lives::begin().await;
    for id in ["gone", "back", "late"] {
        let (client, _) = connected(&lives.running, &with_will(id, if id == "late" { 90 } else { 50 })).await;
        drop(client);
    }
    let has_wills = |inner: &Inner| inner.notes.keys().filter(|key| key.first() == Some(&b'l')).count() == 3;
    lives.running.intake.until("the notes of the wills", has_wills).await;
    lives.clock.advance(Duration::from_secs(20));
    lives.crash().await;
    drop(connected(&lives.running, &connect5_kept("back")).await);
    assert_eq!((lives.keys(b'l'), lives.running.intake.messages().len()), (2, 0), "it is not their time");
    lives.clock.advance(Duration::from_secs(40));
    lives.crash().await;
    lives.running.intake.until_messages(1).await;
    assert_eq!(lives.running.intake.payloads(), ["gone"], "and not that of who came back, nor the later one");
    assert_eq!(lives.keys(b'l'), 1, "what is published is not published again");
    lives.crash().await;
    // A clean start ends the session, and the delay with it.
    drop(connected(&lives.running, &connect5("late", 60)).await);
    assert_eq!((lives.running.intake.payloads(), lives.keys(b'l')), (vec!["late".to_owned()], 0));
}
