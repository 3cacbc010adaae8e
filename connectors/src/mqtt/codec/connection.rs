//! The packets that begin and end a connection: CONNECT, CONNACK, DISCONNECT.

use bytes::{Bytes, BytesMut};
use rumqttc_v4::mqttbytes::v4;
use rumqttc_v5::mqttbytes::v5;

use super::{Header, body, fixed4, fixed5, kind_name, malformed, qos4, qos5};
use crate::mqtt::packet::{ConnAck, Connect, Packet, QoS, Version, Violation, Will, reason};
use crate::mqtt::properties;

/// Why a CONNECT was not read.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::mqtt) enum ConnectError {
    /// MQTT, but neither 3.1.1 nor 5: the level it asks for.
    Version(u8),
    /// Not a CONNECT at all, or a broken one; the version if it was legible.
    Violation(Option<Version>, Violation),
}

/// Reads the packet that must come first from a client; it decides the version.
pub(in crate::mqtt) fn read_connect(header: Header, frame: Bytes) -> Result<(Version, Connect), ConnectError> {
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

pub(super) fn read_connack(version: Version, header: Header, frame: &[u8]) -> Result<Packet, Violation> {
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

pub(super) fn read_disconnect(version: Version, header: Header, frame: &[u8]) -> Result<Packet, Violation> {
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
