//! Reading packets: bytes on one side, [`Packet`] on the other, nothing in between waits. The other way is in `write.rs`.
//!
//! ```text
//!          7 6 5 4   3 2 1 0
//! byte 1   type    │ flags        PUBLISH: DUP, QoS, QoS, RETAIN; others: fixed
//! 1..4     remaining length, 7 bits a byte, low first: at most 268,435,455
//! …        the packet
//! ```
//!
//! The packets with many fields (CONNECT, SUBSCRIBE, UNSUBSCRIBE) go through the codecs of the rumqttc family. Read by own code
//! are those where that codec is wrong for us: it takes no DISCONNECT of one byte, lets properties run out of their block
//! into the payload, answers a cut property length with "more bytes needed", and allocates each property of a PUBLISH.
//!
//! No bytes make this panic, and none are read past the packet's own end.

mod connection;
mod publish;
mod subscription;

use bytes::Bytes;
use rumqttc_v4::mqttbytes as bytes4;
use rumqttc_v5::mqttbytes as bytes5;

use super::packet::{Ack, Packet, QoS, Version, Violation};
use super::properties::{self, Reader};

pub(super) use connection::{ConnectError, read_connect};

/// The largest packet we take, header included. A payload is one allocation of this size at most.
pub(super) const PACKET_BYTES_MAX: usize = 16 << 20;

/// The first byte of a CONNECT.
pub(super) const CONNECT: u8 = 0x10;
/// The first byte of an AUTH.
pub(super) const AUTH: u8 = 0xF0;
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
        (2, _) => connection::read_connack(version, header, &frame),
        (3, _) => publish::read(version, header, frame),
        (4, _) => read_ack(name, version, header, &frame).map(Packet::PubAck),
        (5, _) => read_ack(name, version, header, &frame).map(Packet::PubRec),
        (6, _) => read_ack(name, version, header, &frame).map(Packet::PubRel),
        (7, _) => read_ack(name, version, header, &frame).map(Packet::PubComp),
        (8, _) => subscription::read_subscribe(version, header, frame),
        (9, _) => subscription::read_ack(name, version, header, &frame).map(Packet::SubAck),
        (10, _) => subscription::read_unsubscribe(version, header, frame),
        (11, _) => subscription::read_ack(name, version, header, &frame).map(Packet::UnsubAck),
        (12, _) if header.remaining == 0 => Ok(Packet::PingReq),
        (13, _) if header.remaining == 0 => Ok(Packet::PingResp),
        (12 | 13, _) => Err(Violation::Malformed { packet: name, problem: "it has a body".to_owned() }),
        (14, _) => connection::read_disconnect(version, header, &frame),
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
