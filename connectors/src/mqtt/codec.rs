//! Reading packets: bytes on one side, [`Packet`] on the other, nothing in between waits. The other way is in `write.rs`.
//!
//! ```text
//!          7 6 5 4   3 2 1 0
//! byte 1   type    │ flags        PUBLISH: DUP, QoS, QoS, RETAIN; others: fixed
//! 1..4     remaining length, 7 bits a byte, low first: at most 268,435,455
//! …        the packet
//! ```
//!
//! The packets with many fields (CONNECT, SUBSCRIBE, UNSUBSCRIBE, and PUBLISH of 3.1.1) go through the codecs of the rumqttc
//! family. Read by own code are those where that codec is wrong for us: it takes no DISCONNECT of one byte, lets properties
//! run out of their block into the payload, answers a cut property length with "more bytes needed", and allocates each
//! property of a PUBLISH.
//!
//! No bytes make this panic, and none are read past the packet's own end.

use bytes::{Buf, Bytes, BytesMut};
use rumqttc_v4::mqttbytes::{self as bytes4, v4};
use rumqttc_v5::mqttbytes::{self as bytes5, v5};

use super::packet::{
    Ack, ConnAck, Connect, FilterAck, Packet, Publish, QoS, RetainHandling, Subscribe, Subscription, Unsubscribe,
    Version, Violation, Will, reason,
};
use super::properties::{self, Reader};

/// The largest packet we take, header included. A payload is one allocation of this size at most.
pub(super) const PACKET_BYTES_MAX: usize = 16 << 20;

/// The first byte of a CONNECT.
pub(super) const CONNECT: u8 = 0x10;
/// The first byte of a CONNACK.
pub(super) const CONNACK: u8 = 0x20;

/// The first bytes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) first: u8,
    pub(super) header_bytes: usize,
    pub(super) remaining: usize,
}

impl Header {
    /// Reads the header at the beginning of `bytes`; `None` if it is not all there.
    pub(super) fn read(bytes: &[u8]) -> Result<Option<Header>, Violation> {
        let Some((&first, rest)) = bytes.split_first() else { return Ok(None) };
        let mut remaining = 0usize;
        for (idx, byte) in rest.iter().take(4).enumerate() {
            remaining |= usize::from(byte & 0x7F) << (7 * idx);
            if byte & 0x80 == 0 {
                return Ok(Some(Header { first, header_bytes: idx + 2, remaining }));
            }
        }
        if rest.len() < 4 {
            return Ok(None);
        }
        let problem = "the remaining length has more than four bytes".to_owned();
        Err(Violation::Malformed { packet: "packet", problem })
    }

    /// Returns the length of the whole packet.
    pub(super) fn frame_bytes(self) -> usize {
        self.header_bytes + self.remaining
    }

    pub(super) fn is_publish(self) -> bool {
        self.first >> 4 == 3
    }
}

/// Returns how many bytes at the beginning of `bytes` are whole packets within the limit, and what stops it there.
pub(super) fn whole_packets(bytes: &[u8]) -> (usize, Stopped) {
    let mut at = 0;
    loop {
        match Header::read(&bytes[at..]) {
            Err(violation) => return (at, Stopped::Violation(violation)),
            Ok(None) => return (at, Stopped::NeedsMore(bytes.len() + 1)),
            Ok(Some(header)) if header.frame_bytes() > PACKET_BYTES_MAX => return (at, Stopped::Oversize(header)),
            Ok(Some(header)) if at + header.frame_bytes() > bytes.len() => {
                return (at, Stopped::NeedsMore(at + header.frame_bytes()));
            }
            Ok(Some(header)) => at += header.frame_bytes(),
        }
    }
}

/// Why [`whole_packets`] went no further.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// The bytes end within a packet; the buffer must grow to this length at least.
    NeedsMore(usize),
    /// The next packet is over the limit.
    Oversize(Header),
    /// The next bytes are no header.
    Violation(Violation),
}

/// Reads one packet; `frame` is exactly the packet, header included.
pub(super) fn read(version: Version, header: Header, frame: Bytes) -> Result<Packet, Violation> {
    let kind = header.first >> 4;
    let flags = header.first & 0x0F;
    let flags_expected = match kind {
        3 => flags,
        6 | 8 | 10 => 0b0010,
        _ => 0,
    };
    let name = kind_name(kind);
    if flags != flags_expected {
        return Err(Violation::Malformed { packet: name, problem: format!("flags {flags:#06b}") });
    }
    match (kind, version) {
        (1, _) => Err(Violation::Protocol("a second CONNECT".to_owned())),
        (2, _) => read_connack(version, header, &frame),
        (3, Version::V311) => read_publish_311(header, frame),
        (3, Version::V5) => read_publish_5(header, frame),
        (4, _) => read_ack(name, version, header, &frame).map(Packet::PubAck),
        (5, _) => read_ack(name, version, header, &frame).map(Packet::PubRec),
        (6, _) => read_ack(name, version, header, &frame).map(Packet::PubRel),
        (7, _) => read_ack(name, version, header, &frame).map(Packet::PubComp),
        (8, Version::V311) => read_subscribe_311(header, frame),
        (8, Version::V5) => read_subscribe_5(header, frame),
        (9, _) => read_filter_ack(name, version, header, &frame).map(Packet::SubAck),
        (10, Version::V311) => {
            let read = v4::Unsubscribe::read(fixed4(header), frame).map_err(|error| malformed("UNSUBSCRIBE", error))?;
            unsubscribe(read.pkid, read.topics)
        }
        (10, Version::V5) => {
            read_properties("UNSUBSCRIBE", header, &frame, properties::IN_UNSUBSCRIBE, |_, _| ())?;
            let read = v5::Unsubscribe::read(fixed5(header), frame).map_err(|error| malformed("UNSUBSCRIBE", error))?;
            unsubscribe(read.pkid, read.filters)
        }
        (11, _) => read_filter_ack(name, version, header, &frame).map(Packet::UnsubAck),
        (12, _) if header.remaining == 0 => Ok(Packet::PingReq),
        (13, _) if header.remaining == 0 => Ok(Packet::PingResp),
        (12 | 13, _) => Err(Violation::Malformed { packet: name, problem: "it has a body".to_owned() }),
        (14, _) => read_disconnect(version, header, &frame),
        (0, _) | (15, Version::V311) => {
            Err(Violation::Malformed { packet: name, problem: format!("packet type {kind} is reserved") })
        }
        _ => Ok(Packet::Other(name)),
    }
}

fn kind_name(kind: u8) -> &'static str {
    const NAMES: [&str; 16] = [
        "packet",
        "CONNECT",
        "CONNACK",
        "PUBLISH",
        "PUBACK",
        "PUBREC",
        "PUBREL",
        "PUBCOMP",
        "SUBSCRIBE",
        "SUBACK",
        "UNSUBSCRIBE",
        "UNSUBACK",
        "PINGREQ",
        "PINGRESP",
        "DISCONNECT",
        "AUTH",
    ];
    NAMES[usize::from(kind & 0x0F)]
}

fn unsubscribe(id: u16, filters: Vec<String>) -> Result<Packet, Violation> {
    if filters.is_empty() {
        return Err(Violation::Protocol("an UNSUBSCRIBE without a topic".to_owned()));
    }
    if id == 0 {
        return Err(Violation::Protocol("an UNSUBSCRIBE has packet id 0".to_owned()));
    }
    Ok(Packet::Unsubscribe(Unsubscribe { id, filters }))
}

fn body<'p>(packet: &'static str, header: Header, frame: &'p [u8]) -> Reader<'p> {
    Reader { packet, bytes: &frame[header.header_bytes..] }
}

fn fixed4(header: Header) -> bytes4::FixedHeader {
    bytes4::FixedHeader::new(header.first, header.header_bytes - 1, header.remaining)
}

fn fixed5(header: Header) -> bytes5::FixedHeader {
    bytes5::FixedHeader::new(header.first, header.header_bytes - 1, header.remaining)
}

pub(super) fn malformed(packet: &'static str, error: impl std::fmt::Display) -> Violation {
    Violation::Malformed { packet, problem: error.to_string() }
}

/// Reads the property block that follows a packet id.
fn read_properties<'p>(
    packet: &'static str,
    header: Header,
    frame: &'p [u8],
    allowed: &[u8],
    each: impl FnMut(u8, properties::Value<'p>),
) -> Result<(), Violation> {
    let mut reader = body(packet, header, frame);
    reader.id()?;
    properties::read(packet, reader.bytes, allowed, each).map(|_| ())
}

/// Why a CONNECT was not read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ConnectError {
    /// MQTT, but neither 3.1.1 nor 5: the level it asks for.
    Version(u8),
    /// Not a CONNECT at all, or a broken one; the version if it was legible.
    Violation(Option<Version>, Violation),
}

/// Reads the packet that must come first from a client; it decides the version.
pub(super) fn read_connect(header: Header, frame: Bytes) -> Result<(Version, Connect), ConnectError> {
    let unversioned = |violation| ConnectError::Violation(None, violation);
    if header.first != 0x10 {
        let name = kind_name(header.first >> 4);
        return Err(unversioned(Violation::Protocol(format!("{name} before CONNECT"))));
    }
    let mut reader = body("CONNECT", header, &frame);
    let name = reader.binary().map_err(unversioned)?;
    let level = reader.u8().map_err(unversioned)?;
    match (name, level) {
        (b"MQTT", 4) => read_connect_311(header, frame).map(|connect| (Version::V311, connect)),
        (b"MQTT", 5) => read_connect_5(header, frame).map(|connect| (Version::V5, connect)),
        (b"MQTT" | b"MQIsdp", level) => return Err(ConnectError::Version(level)),
        _ => return Err(unversioned(Violation::Protocol("the protocol name is not MQTT".to_owned()))),
    }
    .map_err(|violation| {
        let version = if level == 5 { Version::V5 } else { Version::V311 };
        ConnectError::Violation(Some(version), violation)
    })
}

fn read_connect_311(header: Header, frame: Bytes) -> Result<Connect, Violation> {
    let read = v4::Connect::read(fixed4(header), frame).map_err(|error| malformed("CONNECT", error))?;
    let (username, password) = match read.auth {
        v4::ConnectAuth::None => (None, None),
        v4::ConnectAuth::Username { username } => (Some(username), None),
        v4::ConnectAuth::UsernamePassword { username, password } => (Some(username), Some(password)),
    };
    let will = read.last_will.map(|will| Will {
        topic: Bytes::from(will.topic),
        payload: will.message,
        qos: qos4(will.qos),
        retain: will.retain,
        ..Will::default()
    });
    Ok(Connect {
        client_id: read.client_id,
        clean: read.clean_session,
        keep_alive_s: read.keep_alive,
        username,
        password,
        will,
        session_expiry_s: None,
        packet_bytes_max: None,
        receive_maximum: None,
        topic_alias_max: None,
        auth_method: None,
    })
}

fn read_connect_5(header: Header, frame: Bytes) -> Result<Connect, Violation> {
    // The block begins after name (6), level (1), flags (1) and keep-alive (2).
    let mut reader = body("CONNECT", header, &frame);
    reader.take(7, "the protocol name")?;
    let has_will = reader.u8()? & 0b100 != 0;
    reader.u16()?;
    let taken = properties::read("CONNECT", reader.bytes, properties::IN_CONNECT, |_, _| ())?;
    reader.take(taken, "properties")?;
    reader.text()?;
    let mut delay_s = 0;
    let mut will_properties = BytesMut::new();
    if has_will {
        properties::read_raw("will", reader.bytes, properties::IN_WILL, |id, value, raw| match id {
            properties::WILL_DELAY => delay_s = value.number(),
            _ => will_properties.extend_from_slice(raw),
        })?;
    }
    let (read, will, auth) = v5::Connect::read(fixed5(header), frame).map_err(|error| malformed("CONNECT", error))?;
    let (username, password) = match auth {
        v5::ConnectAuth::None => (None, None),
        v5::ConnectAuth::Username { username } => (Some(username), None),
        v5::ConnectAuth::Password { password } => (None, Some(password)),
        v5::ConnectAuth::UsernamePassword { username, password } => (Some(username), Some(password)),
    };
    let properties = read.properties;
    let of = |get: fn(&v5::ConnectProperties) -> Option<u32>| properties.as_ref().and_then(get);
    Ok(Connect {
        client_id: read.client_id,
        clean: read.clean_start,
        keep_alive_s: read.keep_alive,
        username,
        password,
        will: will.map(|will| Will {
            topic: will.topic,
            payload: will.message,
            qos: qos5(will.qos),
            retain: will.retain,
            delay_s,
            properties: will_properties.freeze(),
        }),
        session_expiry_s: of(|p| p.session_expiry_interval),
        packet_bytes_max: of(|p| p.max_packet_size),
        receive_maximum: properties.as_ref().and_then(|p| p.receive_maximum),
        topic_alias_max: properties.as_ref().and_then(|p| p.topic_alias_max),
        auth_method: properties.as_ref().and_then(|p| p.authentication_method.clone()),
    })
}

fn read_connack(version: Version, header: Header, frame: &[u8]) -> Result<Packet, Violation> {
    let mut reader = body("CONNACK", header, frame);
    let flags = reader.u8()?;
    if flags > 1 {
        return Err(reader.malformed(format_args!("flags {flags:#010b}")));
    }
    let mut connack = ConnAck { session_present: flags == 1, code: reader.u8()?, ..ConnAck::default() };
    // A broker of 3.1.1 answers a CONNECT of version 5 in its own format, of two bytes.
    if version == Version::V5 && !reader.bytes.is_empty() {
        let taken = properties::read("CONNACK", reader.bytes, properties::IN_CONNACK, |id, value| match id {
            properties::SESSION_EXPIRY => connack.session_expiry_s = Some(value.number()),
            properties::RECEIVE_MAXIMUM => connack.receive_maximum = value.number16(),
            properties::MAXIMUM_QOS => {
                connack.qos_max = if value.flag() { Some(QoS::AtLeastOnce) } else { Some(QoS::AtMostOnce) }
            }
            properties::RETAIN_AVAILABLE => connack.retain_available = Some(value.flag()),
            properties::MAXIMUM_PACKET_SIZE => connack.packet_bytes_max = Some(value.number()),
            properties::ASSIGNED_CLIENT_ID => connack.assigned_client_id = Some(value.text().to_owned()),
            properties::TOPIC_ALIAS_MAXIMUM => connack.topic_alias_max = value.number16(),
            properties::REASON_STRING => connack.reason = Some(value.text().to_owned()),
            properties::WILDCARD_AVAILABLE => connack.wildcards_available = Some(value.flag()),
            properties::SUBSCRIPTION_IDS_AVAILABLE => connack.subscription_ids_available = Some(value.flag()),
            properties::SHARED_AVAILABLE => connack.shared_available = Some(value.flag()),
            properties::SERVER_KEEP_ALIVE => connack.server_keep_alive_s = value.number16(),
            properties::SERVER_REFERENCE => connack.server_reference = Some(value.text().to_owned()),
            _ => {}
        })?;
        reader.take(taken, "properties")?;
    }
    if !reader.bytes.is_empty() {
        return Err(reader.malformed("bytes after its end"));
    }
    Ok(Packet::ConnAck(Box::new(connack)))
}

fn read_publish_311(header: Header, frame: Bytes) -> Result<Packet, Violation> {
    let read = v4::Publish::read(fixed4(header), frame).map_err(|error| match error {
        bytes4::Error::PacketIdZero => Violation::Protocol("a PUBLISH has packet id 0".to_owned()),
        error => malformed("PUBLISH", error),
    })?;
    Ok(Packet::Publish(Publish {
        topic: read.topic,
        payload: read.payload,
        qos: qos4(read.qos),
        retain: read.retain,
        duplicate: read.dup,
        id: read.pkid,
        alias: None,
        properties: Bytes::new(),
    }))
}

fn qos4(qos: bytes4::QoS) -> QoS {
    match qos {
        bytes4::QoS::AtMostOnce => QoS::AtMostOnce,
        bytes4::QoS::AtLeastOnce => QoS::AtLeastOnce,
        bytes4::QoS::ExactlyOnce => QoS::ExactlyOnce,
    }
}

fn qos5(qos: bytes5::QoS) -> QoS {
    match qos {
        bytes5::QoS::AtMostOnce => QoS::AtMostOnce,
        bytes5::QoS::AtLeastOnce => QoS::AtLeastOnce,
        bytes5::QoS::ExactlyOnce => QoS::ExactlyOnce,
    }
}

fn read_publish_5(header: Header, mut frame: Bytes) -> Result<Packet, Violation> {
    let mut reader = body("PUBLISH", header, &frame);
    let Some(qos) = QoS::from_bits((header.first >> 1) & 0b11) else { return Err(reader.malformed("QoS 3")) };
    let duplicate = header.first & 0b1000 != 0;
    if duplicate && qos == QoS::AtMostOnce {
        return Err(reader.malformed("DUP at QoS 0"));
    }
    let topic = reader.text()?;
    if topic.contains(['+', '#']) {
        return Err(reader.malformed("the topic holds a wildcard"));
    }
    let topic_bytes = topic.len();
    let id = if qos == QoS::AtMostOnce { 0 } else { reader.id()? };
    let mut alias = None;
    // How many bytes of the block are the receiver's business only.
    let mut hop_bytes = 0;
    let mut property_bytes = 0;
    let taken = properties::read_raw("PUBLISH", reader.bytes, properties::IN_PUBLISH, |id, value, raw| {
        property_bytes += raw.len();
        match id {
            properties::TOPIC_ALIAS => {
                alias = value.number16();
                hop_bytes += raw.len();
            }
            properties::SUBSCRIPTION_ID => hop_bytes += raw.len(),
            _ => {}
        }
    })?;
    if alias == Some(0) {
        return Err(Violation::Alias { alias: 0, max: super::receiver::TOPIC_ALIAS_MAX });
    }
    let block_end = frame.len() - reader.bytes.len() + taken;
    let properties = match property_bytes - hop_bytes {
        0 => Bytes::new(),
        _ if hop_bytes == 0 => frame.slice(block_end - property_bytes..block_end),
        kept => without_hop_properties(reader.bytes, kept)?,
    };
    let topic_start = header.header_bytes + 2;
    let topic = frame.slice(topic_start..topic_start + topic_bytes);
    frame.advance(block_end);
    let retain = header.first & 1 != 0;
    Ok(Packet::Publish(Publish { topic, payload: frame, qos, retain, duplicate, id, alias, properties }))
}

/// Copies what a message keeps of its property block: neither alias nor subscription ids mean anything beyond the connection.
fn without_hop_properties(block: &[u8], kept_bytes: usize) -> Result<Bytes, Violation> {
    let mut kept = BytesMut::with_capacity(kept_bytes);
    properties::read_raw("PUBLISH", block, properties::IN_PUBLISH, |id, _, raw| {
        if !matches!(id, properties::TOPIC_ALIAS | properties::SUBSCRIPTION_ID) {
            kept.extend_from_slice(raw);
        }
    })?;
    Ok(kept.freeze())
}

fn read_ack(packet: &'static str, version: Version, header: Header, frame: &[u8]) -> Result<Ack, Violation> {
    let mut reader = body(packet, header, frame);
    let mut ack = Ack { id: reader.id()?, ..Ack::default() };
    if version == Version::V5 && !reader.bytes.is_empty() {
        ack.code = reader.u8()?;
        // With fewer than four bytes there is no property length either.
        if !reader.bytes.is_empty() {
            let taken = properties::read(packet, reader.bytes, properties::IN_ACK, |id, value| {
                if id == properties::REASON_STRING {
                    ack.reason = Some(value.text().to_owned());
                }
            })?;
            reader.take(taken, "properties")?;
        }
    }
    if reader.bytes.is_empty() { Ok(ack) } else { Err(reader.malformed("bytes after its end")) }
}

fn read_subscribe_311(header: Header, frame: Bytes) -> Result<Packet, Violation> {
    let read = v4::Subscribe::read(fixed4(header), frame).map_err(|error| malformed("SUBSCRIBE", error))?;
    let subscriptions = read.filters.into_iter().map(|filter| Subscription {
        filter: filter.path,
        qos: qos4(filter.qos),
        ..Subscription::default()
    });
    Ok(Packet::Subscribe(Subscribe { id: read.pkid, subscriptions: subscriptions.collect(), subscription_id: None }))
}

fn read_subscribe_5(header: Header, frame: Bytes) -> Result<Packet, Violation> {
    let mut subscription_id = None;
    let mut stands_twice = false;
    read_properties("SUBSCRIBE", header, &frame, properties::IN_SUBSCRIBE, |id, value| {
        if id == properties::SUBSCRIPTION_ID {
            stands_twice |= subscription_id.is_some();
            subscription_id = Some(value.number());
        }
    })?;
    if stands_twice {
        return Err(Violation::Protocol("a SUBSCRIBE has two subscription ids".to_owned()));
    }
    let read = v5::Subscribe::read(fixed5(header), frame).map_err(|error| malformed("SUBSCRIBE", error))?;
    let subscriptions = read.filters.into_iter().map(|filter| Subscription {
        filter: filter.path,
        qos: qos5(filter.qos),
        no_local: filter.nolocal,
        retain_as_published: filter.preserve_retain,
        retain_handling: match filter.retain_forward_rule {
            v5::RetainForwardRule::OnEverySubscribe => RetainHandling::Always,
            v5::RetainForwardRule::OnNewSubscribe => RetainHandling::IfNew,
            v5::RetainForwardRule::Never => RetainHandling::Never,
        },
    });
    Ok(Packet::Subscribe(Subscribe { id: read.pkid, subscriptions: subscriptions.collect(), subscription_id }))
}

fn read_filter_ack(
    packet: &'static str,
    version: Version,
    header: Header,
    frame: &[u8],
) -> Result<FilterAck, Violation> {
    let mut reader = body(packet, header, frame);
    let mut ack = FilterAck { id: reader.id()?, ..FilterAck::default() };
    if version == Version::V5 {
        let taken = properties::read(packet, reader.bytes, properties::IN_ACK, |id, value| {
            if id == properties::REASON_STRING {
                ack.reason = Some(value.text().to_owned());
            }
        })?;
        reader.take(taken, "properties")?;
    }
    // An UNSUBACK of 3.1.1 is its id.
    let has_codes = packet == "SUBACK" || version == Version::V5;
    if reader.bytes.is_empty() == has_codes {
        return Err(reader.malformed(if has_codes { "it answers nothing" } else { "bytes after its end" }));
    }
    ack.codes = reader.bytes.to_vec();
    Ok(ack)
}

fn read_disconnect(version: Version, header: Header, frame: &[u8]) -> Result<Packet, Violation> {
    let mut reader = body("DISCONNECT", header, frame);
    if reader.bytes.is_empty() {
        return Ok(Packet::Disconnect { code: reason::SUCCESS, reason: None, session_expiry_s: None });
    }
    if version == Version::V311 {
        return Err(reader.malformed("it has a body"));
    }
    let code = reader.u8()?;
    let mut text = None;
    let mut session_expiry_s = None;
    // With fewer than two bytes there is no property length either.
    if !reader.bytes.is_empty() {
        let taken = properties::read("DISCONNECT", reader.bytes, properties::IN_DISCONNECT, |id, value| match id {
            properties::REASON_STRING => text = Some(value.text().to_owned()),
            properties::SESSION_EXPIRY => session_expiry_s = Some(value.number()),
            _ => {}
        })?;
        reader.take(taken, "properties")?;
    }
    if !reader.bytes.is_empty() {
        return Err(reader.malformed("bytes after its end"));
    }
    Ok(Packet::Disconnect { code, reason: text, session_expiry_s })
}
