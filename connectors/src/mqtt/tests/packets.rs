//! Both ways: what is written is read as it was meant, in both versions.

use ::bytes::{Bytes, BytesMut};

use crate::mqtt::codec::{self, Header};
use crate::mqtt::packet::{
    Ack, ConnAck, Connect, FilterAck, Packet, Publish, QoS, RetainHandling, Subscribe, Subscription, Unsubscribe,
    Version, Violation, Will,
};
use crate::mqtt::write;

const BOTH: [Version; 2] = [Version::V311, Version::V5];

fn header(bytes: &[u8]) -> Header {
    let header = Header::read(bytes).expect("a header").expect("a whole header");
    assert_eq!(header.frame_bytes(), bytes.len(), "one whole packet: {bytes:02x?}");
    header
}

fn written(write: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut out = BytesMut::new();
    write(&mut out);
    out.freeze()
}

fn read(version: Version, bytes: Bytes) -> Packet {
    codec::read(version, header(&bytes), bytes).expect("what we write is legal")
}

/// A user property `k: v`, and a message expiry of nine seconds.
const PROPERTIES: &[u8] = &[38, 0, 1, b'k', 0, 1, b'v', 2, 0, 0, 0, 9];

#[test]
fn a_connect_is_read_as_written() {
    let will = Will {
        topic: Bytes::from_static(b"gone/device"),
        payload: Bytes::from_static(b"bye"),
        qos: QoS::ExactlyOnce,
        retain: true,
        delay_s: 7,
        properties: Bytes::from_static(PROPERTIES),
    };
    let full = Connect {
        client_id: "device".to_owned(),
        clean: true,
        keep_alive_s: 30,
        username: Some("user".to_owned()),
        password: Some(Bytes::from_static(b"word")),
        will: Some(will.clone()),
        session_expiry_s: Some(60),
        packet_bytes_max: Some(1000),
        receive_maximum: Some(20),
        topic_alias_max: Some(64),
        auth_method: None,
    };
    let bytes = written(|out| write::connect(Version::V5, &full, out).expect("short"));
    assert_eq!(codec::read_connect(header(&bytes), bytes.clone()), Ok((Version::V5, full.clone())));
    let bytes = written(|out| write::connect(Version::V311, &full, out).expect("short"));
    let older = Connect {
        will: Some(Will { delay_s: 0, properties: Bytes::new(), ..will }),
        session_expiry_s: None,
        packet_bytes_max: None,
        receive_maximum: None,
        topic_alias_max: None,
        ..full
    };
    assert_eq!(codec::read_connect(header(&bytes), bytes.clone()), Ok((Version::V311, older)));
    for version in BOTH {
        let plain = Connect { client_id: "x".to_owned(), ..Connect::default() };
        let bytes = written(|out| write::connect(version, &plain, out).expect("short"));
        assert_eq!(codec::read_connect(header(&bytes), bytes.clone()), Ok((version, plain)));
    }
}

#[test]
fn a_connack_is_read_as_written() {
    let full = ConnAck {
        session_present: true,
        code: 0,
        session_expiry_s: Some(3600),
        receive_maximum: Some(20),
        qos_max: Some(QoS::AtLeastOnce),
        retain_available: Some(false),
        packet_bytes_max: Some(1 << 20),
        assigned_client_id: Some("made-up".to_owned()),
        topic_alias_max: Some(10),
        reason: Some("fine".to_owned()),
        wildcards_available: Some(true),
        subscription_ids_available: Some(false),
        shared_available: Some(false),
        server_keep_alive_s: Some(45),
        server_reference: Some("other:1883".to_owned()),
    };
    let bytes = written(|out| write::connack(Version::V5, &full, out));
    assert_eq!(read(Version::V5, bytes), Packet::ConnAck(Box::new(full.clone())));
    let bytes = written(|out| write::connack(Version::V311, &full, out));
    assert_eq!(&bytes[..], [0x20, 2, 1, 0]);
    let refusal = ConnAck { code: 0x86, ..ConnAck::default() };
    assert_eq!(&written(|out| write::connack(Version::V311, &refusal, out))[..], [0x20, 2, 0, 4]);
    // Of QoS 2 nothing is said: a value of 2 is a protocol error.
    let all = ConnAck { qos_max: Some(QoS::ExactlyOnce), ..ConnAck::default() };
    assert_eq!(&written(|out| write::connack(Version::V5, &all, out))[..], [0x20, 3, 0, 0, 0]);
}

#[test]
fn a_publish_is_read_as_written() {
    for version in BOTH {
        for (qos, id, duplicate, retain) in [
            (QoS::AtMostOnce, 0, false, true),
            (QoS::AtLeastOnce, 7, true, false),
            (QoS::ExactlyOnce, 65_535, true, true),
        ] {
            let topic = Bytes::from_static("plant/köln".as_bytes());
            let payload = Bytes::from(vec![9; 300]);
            let properties = if version == Version::V5 { Bytes::from_static(PROPERTIES) } else { Bytes::new() };
            let publish =
                Publish { topic, payload, qos, retain, duplicate, id, alias: None, properties, is_oversize: false };
            let bytes = written(|out| write::publish(version, &publish, out).expect("short"));
            assert_eq!(read(version, bytes), Packet::Publish(publish));
        }
    }
    let aliased = Publish { alias: Some(3), topic: Bytes::from_static(b"a"), ..Publish::default() };
    let bytes = written(|out| write::publish(Version::V5, &aliased, out).expect("short"));
    assert_eq!(read(Version::V5, bytes), Packet::Publish(aliased.clone()));
    let long = Publish { topic: Bytes::from(vec![b'a'; 65_536]), ..Publish::default() };
    let mut out = BytesMut::new();
    assert!(matches!(write::publish(Version::V5, &long, &mut out), Err(Violation::Malformed { .. })));
    assert!(out.is_empty(), "half a packet would break the connection");
}

#[test]
fn a_publish_keeps_its_properties_but_those_of_the_hop() {
    // Alias 1, a user property, subscription ids 5 and 300, and an expiry.
    let block = [&[35, 0, 1][..], &PROPERTIES[..7], &[11, 5], &[11, 0xAC, 2], &PROPERTIES[7..]].concat();
    let body = [&[0, 1, b'a'][..], &[u8::try_from(block.len()).expect("short")], &block, b"payload"].concat();
    let frame = [&[0x30, u8::try_from(body.len()).expect("short")][..], &body].concat();
    let Packet::Publish(publish) = read(Version::V5, Bytes::from(frame)) else { panic!("a PUBLISH") };
    assert_eq!((&publish.properties[..], &publish.payload[..], publish.alias), (PROPERTIES, &b"payload"[..], Some(1)));
}

#[test]
fn acknowledgements_are_read_as_written() {
    type Write = fn(Version, u16, u8, &mut BytesMut);
    type Kind = fn(Ack) -> Packet;
    let kinds: [(Write, Kind); 4] = [
        (write::puback, Packet::PubAck),
        (write::pubrec, Packet::PubRec),
        (write::pubrel, Packet::PubRel),
        (write::pubcomp, Packet::PubComp),
    ];
    for (write, kind) in kinds {
        for (version, code, understood) in [(Version::V311, 0x92, 0), (Version::V5, 0, 0), (Version::V5, 0x92, 0x92)] {
            let bytes = written(|out| write(version, 513, code, out));
            assert_eq!(read(version, bytes), kind(Ack { id: 513, code: understood, reason: None }));
        }
    }
    let reasoned = Bytes::from_static(&[0x62, 8, 0, 1, 0x92, 4, 31, 0, 1, b'?']);
    let expected = Ack { id: 1, code: 0x92, reason: Some("?".to_owned()) };
    assert_eq!(read(Version::V5, reasoned.clone()), Packet::PubRel(expected));
    assert!(codec::read(Version::V311, header(&reasoned), reasoned).is_err(), "3.1.1 knows only the id");
}

#[test]
fn subscriptions_and_their_answers_are_read_as_written() {
    let plain = |filter: &str, qos| Subscription { filter: filter.to_owned(), qos, ..Subscription::default() };
    let rich = Subscription {
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::Never,
        ..plain("$share/g/b/#", QoS::ExactlyOnce)
    };
    let subscribe =
        Subscribe { id: 9, subscriptions: vec![plain("a/+", QoS::AtMostOnce), rich], subscription_id: Some(300) };
    let bytes = written(|out| write::subscribe(Version::V5, &subscribe, out).expect("short"));
    assert_eq!(read(Version::V5, bytes), Packet::Subscribe(subscribe.clone()));
    let bytes = written(|out| write::subscribe(Version::V311, &subscribe, out).expect("short"));
    let older = vec![plain("a/+", QoS::AtMostOnce), plain("$share/g/b/#", QoS::ExactlyOnce)];
    let older = Subscribe { id: 9, subscriptions: older, subscription_id: None };
    assert_eq!(read(Version::V311, bytes), Packet::Subscribe(older));
    for version in BOTH {
        let unsubscribe = Unsubscribe { id: 3, filters: vec!["a/+".to_owned(), "b".to_owned()] };
        let bytes = written(|out| write::unsubscribe(version, &unsubscribe, out).expect("short"));
        assert_eq!(read(version, bytes), Packet::Unsubscribe(unsubscribe));
        let bytes = written(|out| write::suback(version, 4, &[0, 1, 2, 0x80], out));
        let answer = FilterAck { id: 4, codes: vec![0, 1, 2, 0x80], reason: None };
        assert_eq!(read(version, bytes), Packet::SubAck(answer));
        let bytes = written(|out| write::unsuback(version, 4, &[0, 0x11], out));
        let codes = if version == Version::V5 { vec![0, 0x11] } else { Vec::new() };
        assert_eq!(read(version, bytes), Packet::UnsubAck(FilterAck { id: 4, codes, reason: None }));
    }
    let twice = Bytes::from_static(&[0x82, 10, 0, 1, 4, 11, 1, 11, 2, 0, 0, 0]);
    assert_eq!(codec::read(Version::V5, header(&twice), twice.clone()).expect_err("twice").code(), 0x82);
}
