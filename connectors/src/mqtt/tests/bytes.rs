//! Arbitrary bytes: none panic, none are accepted that MQTT forbids, none are read past their packet.

use ::bytes::Bytes;
use tidemill_engine::clock::{Dice, SeededDice};
use tidemill_engine::source::Chunk;

use super::{NO_PROPERTIES, field, packet, publish4, publish5};
use crate::mqtt::codec::{self, Header, Stopped};
use crate::mqtt::listener::Guest;
use crate::mqtt::packet::{Packet, Version, Violation};
use crate::mqtt::remembered::{Lasts, Remembered};
use crate::mqtt::session::{Heard, Retained, Session};

fn read(version: Version, bytes: &[u8]) -> Result<Packet, Violation> {
    let header = Header::read(bytes)?.expect("a whole header");
    assert_eq!(header.frame_bytes(), bytes.len(), "the test gives one whole packet");
    codec::read(version, header, Bytes::copy_from_slice(bytes))
}

fn connect(level: u8, flags: u8, rest: &[&[u8]]) -> Vec<u8> {
    let head = [&field(b"MQTT")[..], &[level, flags, 0, 60]].concat();
    packet(0x10, &[&[&head[..]], rest].concat())
}

/// The corpus of everything that comes from a network.
const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/mqtt/corpus/packet");

/// Feeds bytes through everything that reads from a network. Says whether anything took all of them.
fn feed(bytes: &[u8]) -> bool {
    let mut is_taken = false;
    if let Ok(Some(header)) = Header::read(bytes)
        && header.frame_bytes() <= bytes.len()
    {
        let frame = Bytes::copy_from_slice(&bytes[..header.frame_bytes()]);
        is_taken |= codec::read_connect(header, frame).is_ok();
    }
    for version in [Version::V311, Version::V5] {
        let remembered = || Remembered::new("a", Lasts::InLog);
        for mut session in [
            Session::client(version, Retained::Use, remembered()),
            Session::server(version, Guest::anybody(version), remembered()),
        ] {
            let (whole, stopped) = codec::whole_packets(bytes);
            let mut run = Bytes::copy_from_slice(&bytes[..whole]);
            let mut is_good = whole == bytes.len();
            while let Ok(Some(header)) = Header::read(&run) {
                let frame = run.split_to(header.frame_bytes());
                match codec::read(version, header, frame).and_then(|packet| session.receive(packet)) {
                    Ok(Heard::Nothing | Heard::Subscribed) => {}
                    Ok(_) => break,
                    Err(violation) => {
                        session.farewell(violation.code(), &violation.to_string());
                        is_good = false;
                        break;
                    }
                }
            }
            is_taken |= is_good;
            is_kept_small(&mut session, bytes.len());
            if let Stopped::NeedsMore(wanted) = stopped {
                assert!(wanted > bytes.len(), "waiting for {wanted} of {}", bytes.len());
            }
        }
    }
    is_taken
}

/// What a session keeps and answers is not larger than what it was sent: a topic alias is worth its topic each time, and
/// nothing else is worth more than itself.
fn is_kept_small(session: &mut Session, bytes: usize) {
    let (messages, notes) = match session.take_batch() {
        None => (Vec::new(), Vec::new()),
        Some(Chunk::Messages(messages)) => (messages, Vec::new()),
        Some(Chunk::Noted(messages, notes)) => (messages, notes),
        Some(Chunk::Range { .. } | Chunk::Decoded { .. }) => panic!("MQTT cannot be read again"),
    };
    let logged: usize = messages.iter().map(|message| message.byte_count() - message.topic.len()).sum();
    let noted: usize = notes.iter().map(|note| note.key.len() + note.value.len()).sum();
    assert!(logged <= bytes && noted <= 64 * bytes, "{logged} and {noted} bytes of {bytes}");
    if !messages.is_empty() || !notes.is_empty() {
        session.durable();
    }
    assert!(session.out.len() <= 1_000 + 2 * bytes, "{} bytes answer {bytes}", session.out.len());
}

#[test]
fn fuzz_packet() {
    tidemill_engine::testing::fuzz::fuzz(CORPUS, feed);
}

#[test]
fn no_cut_of_a_packet_and_no_noise_panics() {
    let dice = SeededDice::new(7);
    let pick = |bound: usize| usize::try_from(dice.roll() % bound as u64).expect("small");
    let files = std::fs::read_dir(CORPUS).expect("the corpus");
    let corpus: Vec<Vec<u8>> =
        files.map(|file| std::fs::read(file.expect("a file").path()).expect("readable")).collect();
    for packet in &corpus {
        for end in 0..=packet.len() {
            feed(&packet[..end]);
        }
    }
    for _ in 0..20_000 {
        let mut bytes = corpus[pick(corpus.len())].clone();
        bytes[0] = u8::try_from(pick(256)).expect("a byte");
        // With a length that fits again, so that the damage reaches the packet's own fields.
        let body: Vec<u8> = bytes[2..].iter().map(|byte| byte ^ u8::from(pick(9) == 0)).collect();
        feed(&packet(bytes[0], &[&body]));
        let noise: Vec<u8> = (0..pick(40)).map(|_| u8::try_from(pick(256)).expect("a byte")).collect();
        feed(&noise);
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
