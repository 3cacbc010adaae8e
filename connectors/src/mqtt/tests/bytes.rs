//! Arbitrary bytes: none panic, none are accepted that MQTT forbids, none are read past their packet.

use ::bytes::Bytes;
use tidemill_engine::clock::{Dice, SeededDice};

use super::{NO_PROPERTIES, field, packet, publish4, publish5};
use crate::mqtt::codec::{self, Header, Stopped};
use crate::mqtt::packet::{Packet, Version, Violation};
use crate::mqtt::remembered::{Lasts, Remembered};
use crate::mqtt::session::{Heard, Retained, Session};
use crate::mqtt::topic::TopicPattern;

fn read(version: Version, bytes: &[u8]) -> Result<Packet, Violation> {
    let header = Header::read(bytes)?.expect("a whole header");
    assert_eq!(header.frame_bytes(), bytes.len(), "the test gives one whole packet");
    codec::read(version, header, Bytes::copy_from_slice(bytes))
}

fn connect(level: u8, flags: u8, rest: &[&[u8]]) -> Vec<u8> {
    let head = [&field(b"MQTT")[..], &[level, flags, 0, 60]].concat();
    packet(0x10, &[&[&head[..]], rest].concat())
}

fn corpus() -> Vec<Vec<u8>> {
    vec![
        connect(4, 0x02, &[&field(b"device")]),
        connect(4, 0xC6, &[&field(b"device"), &field(b"will"), &field(b"gone"), &field(b"user"), &field(b"word")]),
        connect(5, 0x02, &[NO_PROPERTIES, &field(b"device")]),
        connect(
            5,
            0xC6,
            &[
                &[5, 17, 0, 0, 0, 60],
                &field(b"device"),
                &[5, 24, 0, 0, 0, 1],
                &field(b"will"),
                &field(b"gone"),
                &field(b"user"),
                &field(b"word"),
            ],
        ),
        publish4("plant/lab/web/telemetry", 0, "{}"),
        publish4("plant/lab/web/telemetry", 7, "{\"temperature\": 4.2}"),
        publish5("plant/lab/web/telemetry", 7, &[3, 35, 0, 1], "{}"),
        publish5("", 8, &[3, 35, 0, 1], "{}"),
        packet(0x34, &[&field(b"plant/lab"), &[0, 9], b"{}"]),
        packet(0x3D, &[&field(b"plant/lab"), &[0, 9, 5, 2, 0, 0, 0, 9], b"{}"]),
        publish5("a", 0, &[17, 38, 0, 1, b'k', 0, 1, b'v', 3, 0, 1, b'j', 11, 5, 2, 0, 0, 9], "x"),
        packet(0x20, &[&[1, 0]]),
        packet(0x20, &[&[0, 0, 6, 19, 0, 60, 33, 0, 20]]),
        packet(0x40, &[&[0, 1]]),
        packet(0x50, &[&[0, 1, 0x10]]),
        packet(0x62, &[&[0, 1]]),
        packet(0x62, &[&[0, 1, 0x92, 4, 31, 0, 1, b'?']]),
        packet(0x70, &[&[0, 1]]),
        packet(0xB0, &[&[0, 1, 0, 0x11]]),
        packet(0x82, &[&[0, 1], &field(b"a/+"), &[1]]),
        packet(0x82, &[&[0, 1, 2, 11, 5], &field(b"a/+"), &[1]]),
        packet(0x90, &[&[0, 1, 0, 1]]),
        packet(0xA2, &[&[0, 1], &field(b"a/+")]),
        packet(0xA2, &[&[0, 1, 0], &field(b"a/+")]),
        vec![0xC0, 0],
        vec![0xD0, 0],
        vec![0xE0, 0],
        vec![0xE0, 1, 0x8E],
        vec![0xE0, 2, 0x8E, 0],
        packet(0xE0, &[&[0x8B, 5, 31, 0, 2, b'o', b'k']]),
        vec![0xF0, 0],
    ]
}

/// Feeds bytes through everything that reads from a network.
fn feed(bytes: &[u8]) {
    if let Ok(Some(header)) = Header::read(bytes)
        && header.frame_bytes() <= bytes.len()
    {
        let frame = Bytes::copy_from_slice(&bytes[..header.frame_bytes()]);
        let _ = codec::read_connect(header, frame);
    }
    for version in [Version::V311, Version::V5] {
        let pattern = TopicPattern::parse("plant/{site}/#").expect("valid");
        for mut session in [
            Session::client(version, Retained::Use, Remembered::new("a", Lasts::InLog)),
            Session::server(version, pattern.clone(), Some(64), Remembered::new("a", Lasts::InLog)),
        ] {
            let (whole, stopped) = codec::whole_packets(bytes);
            let mut run = Bytes::copy_from_slice(&bytes[..whole]);
            while let Ok(Some(header)) = Header::read(&run) {
                let frame = run.split_to(header.frame_bytes());
                match codec::read(version, header, frame).and_then(|packet| session.receive(packet)) {
                    Ok(Heard::Nothing | Heard::Subscribed) => {}
                    Ok(_) => break,
                    Err(violation) => {
                        session.farewell(violation.code(), &violation.to_string());
                        break;
                    }
                }
            }
            if session.take_batch().is_some() {
                session.durable();
            }
            if let Stopped::NeedsMore(wanted) = stopped {
                assert!(wanted > bytes.len(), "waiting for {wanted} of {}", bytes.len());
            }
        }
    }
}

#[test]
fn no_bytes_panic() {
    let dice = SeededDice::new(7);
    let pick = |bound: usize| usize::try_from(dice.roll() % bound as u64).expect("small");
    let corpus = corpus();
    for packet in &corpus {
        for end in 0..=packet.len() {
            feed(&packet[..end]);
        }
    }
    for _ in 0..60_000 {
        let mut bytes = corpus[pick(corpus.len())].clone();
        for _ in 0..=pick(3) {
            let at = pick(bytes.len());
            match pick(4) {
                0 => bytes[at] = u8::try_from(pick(256)).expect("a byte"),
                1 => bytes[at] ^= 1 << pick(8),
                2 => bytes.insert(at, u8::try_from(pick(256)).expect("a byte")),
                _ if bytes.len() > 2 => {
                    bytes.remove(at);
                }
                _ => {}
            }
        }
        // Also with a length that fits again, so that the damage reaches the packet's own fields.
        let body = bytes[2.min(bytes.len())..].to_vec();
        feed(&packet(bytes[0], &[&body]));
        if pick(2) == 0 {
            bytes.extend_from_slice(&corpus[pick(corpus.len())]);
        }
        feed(&bytes);
    }
    for _ in 0..20_000 {
        let bytes: Vec<u8> = (0..pick(40)).map(|_| u8::try_from(pick(256)).expect("a byte")).collect();
        feed(&bytes);
    }
}

#[test]
fn what_mqtt_forbids_is_refused_with_its_reason() {
    let v5 = [
        ("QoS 3", packet(0x36, &[&field(b"a"), &[0, 1], NO_PROPERTIES]), 0x81),
        ("DUP at QoS 0", packet(0x38, &[&field(b"a"), NO_PROPERTIES]), 0x81),
        ("packet id 0", packet(0x32, &[&field(b"a"), &[0, 0], NO_PROPERTIES]), 0x82),
        ("wildcard", publish5("a/+", 0, NO_PROPERTIES, ""), 0x81),
        ("bad UTF-8", packet(0x30, &[&field(&[0xFF]), NO_PROPERTIES]), 0x81),
        ("NUL", publish5("a\0", 0, NO_PROPERTIES, ""), 0x81),
        ("unknown property", publish5("a", 0, &[1, 99], ""), 0x81),
        ("truncated property", publish5("a", 0, &[3, 35, 0], ""), 0x81),
        ("properties beyond their block", publish5("a", 0, &[1, 35], "\0\u{1}payload"), 0x81),
        ("alias 0", publish5("a", 0, &[3, 35, 0, 0], ""), 0x94),
        ("alias twice", publish5("a", 0, &[6, 35, 0, 1, 35, 0, 2], ""), 0x82),
        ("topic cut short", packet(0x30, &[&[0, 9, b'a']]), 0x81),
        ("flags of SUBSCRIBE", packet(0x80, &[&[0, 1, 0], &field(b"a"), &[0]]), 0x81),
        ("SUBSCRIBE for nothing", packet(0x82, &[&[0, 1, 0]]), 0x81),
        ("PINGREQ with a body", packet(0xC0, &[&[0]]), 0x81),
        ("DISCONNECT with a tail", packet(0xE0, &[&[0, 0, 0]]), 0x81),
        ("type 0", packet(0x00, &[&[0]]), 0x81),
        ("a second CONNECT", connect(5, 2, &[NO_PROPERTIES, &field(b"x")]), 0x82),
    ];
    for (what, bytes, code) in v5 {
        let violation = read(Version::V5, &bytes).expect_err(what);
        assert_eq!(violation.code(), code, "{what}: {violation}");
    }
    for (what, bytes) in [
        ("QoS 3", packet(0x36, &[&field(b"a"), &[0, 1]])),
        ("empty topic", publish4("", 0, "")),
        ("wildcard", publish4("#", 0, "")),
        ("packet id 0", packet(0x32, &[&field(b"a"), &[0, 0]])),
        ("AUTH", vec![0xF0, 0]),
        ("DISCONNECT with a reason", vec![0xE0, 1, 0]),
    ] {
        assert!(read(Version::V311, &bytes).is_err(), "{what}");
    }
}

#[test]
fn a_short_disconnect_is_understood() {
    for (bytes, code) in [(vec![0xE0, 0], 0), (vec![0xE0, 1, 0x8E], 0x8E), (vec![0xE0, 2, 0x8B, 0], 0x8B)] {
        assert_eq!(read(Version::V5, &bytes), Ok(Packet::Disconnect { code, reason: None, session_expiry_s: None }));
    }
}

#[test]
fn an_oversize_or_endless_length_is_seen_before_the_body() {
    let announced = [0x30, 0xFF, 0xFF, 0xFF, 0x7F];
    assert!(matches!(codec::whole_packets(&announced), (0, Stopped::Oversize(_))));
    let endless = [0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F];
    assert!(matches!(codec::whole_packets(&endless), (0, Stopped::Violation(_))));
    let good_then_endless = [&[0xC0, 0][..], &endless].concat();
    assert!(matches!(codec::whole_packets(&good_then_endless), (2, Stopped::Violation(_))));
}

#[test]
fn a_long_topic_and_an_empty_payload_are_fine() {
    let topic = "t".repeat(65_535);
    for (version, bytes) in
        [(Version::V311, publish4(&topic, 1, "")), (Version::V5, publish5(&topic, 1, NO_PROPERTIES, ""))]
    {
        let Ok(Packet::Publish(publish)) = read(version, &bytes) else { panic!("not read") };
        assert_eq!((publish.topic.len(), publish.payload.len(), publish.id), (65_535, 0, 1));
    }
}
