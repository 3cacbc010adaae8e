//! Writing packets. CONNECT and SUBSCRIBE go through the rumqttc codecs; the answers, a few bytes each, are written by hand.

use bytes::{BufMut, BytesMut};
use rumqttc_v4::mqttbytes::{self as bytes4, v4};
use rumqttc_v5::mqttbytes::{self as bytes5, v5};

use super::codec::{CONNACK, PACKET_BYTES_MAX, malformed};
use super::packet::{Connect, QoS, Version, Violation, reason};
use super::properties;
use super::session::{RECEIVE_MAXIMUM, TOPIC_ALIAS_MAX};

/// Writes a CONNECT.
pub(super) fn connect(version: Version, connect: &Connect, out: &mut BytesMut) -> Result<(), Violation> {
    match version {
        Version::V311 => {
            let auth = match (&connect.username, &connect.password) {
                (None, _) => v4::ConnectAuth::None,
                (Some(username), None) => v4::ConnectAuth::Username { username: username.clone() },
                (Some(username), Some(password)) => {
                    v4::ConnectAuth::UsernamePassword { username: username.clone(), password: password.clone() }
                }
            };
            let packet = v4::Connect {
                keep_alive: connect.keep_alive_s,
                client_id: connect.client_id.clone(),
                clean_session: connect.clean,
                last_will: None,
                auth,
            };
            packet.write(out).map_err(|error| malformed("CONNECT", error))?;
        }
        Version::V5 => {
            let auth = match (&connect.username, &connect.password) {
                (None, None) => v5::ConnectAuth::None,
                (None, Some(password)) => v5::ConnectAuth::Password { password: password.clone() },
                (Some(username), None) => v5::ConnectAuth::Username { username: username.clone() },
                (Some(username), Some(password)) => {
                    v5::ConnectAuth::UsernamePassword { username: username.clone(), password: password.clone() }
                }
            };
            let mut properties = v5::ConnectProperties::new();
            properties.session_expiry_interval = connect.session_expiry_s;
            properties.receive_maximum = connect.receive_maximum;
            properties.topic_alias_max = connect.topic_alias_max;
            let packet = v5::Connect {
                keep_alive: connect.keep_alive_s,
                client_id: connect.client_id.clone(),
                clean_start: connect.clean,
                properties: Some(properties),
            };
            packet.write(&None, &auth, out).map_err(|error| malformed("CONNECT", error))?;
        }
    }
    Ok(())
}

/// When a subscription sends what the broker has retained (version 5; 3.1.1 always does).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RetainHandling {
    /// Only if the subscription is new.
    IfNew,
    /// Never.
    Never,
}

/// Writes a SUBSCRIBE for one filter.
pub(super) fn subscribe(
    version: Version,
    id: u16,
    filter: &str,
    qos: QoS,
    retain_handling: RetainHandling,
    out: &mut BytesMut,
) -> Result<(), Violation> {
    let at_least_once = qos != QoS::AtMostOnce;
    match version {
        Version::V311 => {
            let qos = if at_least_once { bytes4::QoS::AtLeastOnce } else { bytes4::QoS::AtMostOnce };
            let mut packet = v4::Subscribe::new(filter, qos);
            packet.pkid = id;
            packet.write(out).map_err(|error| malformed("SUBSCRIBE", error))?;
        }
        Version::V5 => {
            let qos = if at_least_once { bytes5::QoS::AtLeastOnce } else { bytes5::QoS::AtMostOnce };
            let mut filter = v5::SubscribeFilter::new(filter, qos);
            filter.retain_forward_rule = match retain_handling {
                RetainHandling::IfNew => v5::RetainForwardRule::OnNewSubscribe,
                RetainHandling::Never => v5::RetainForwardRule::Never,
            };
            let mut packet = v5::Subscribe::new(filter, None);
            packet.pkid = id;
            packet.write(out).map_err(|error| malformed("SUBSCRIBE", error))?;
        }
    }
    Ok(())
}

/// Writes a CONNACK that accepts; `assigned` names the client if it came without an id (version 5).
pub(super) fn accept(version: Version, connect: &Connect, assigned: Option<&str>, out: &mut BytesMut) {
    if version == Version::V311 {
        out.put_slice(&[CONNACK, 2, 0, 0]);
        return;
    }
    let mut block = BytesMut::new();
    let mut number16 = |id: u8, value: u16| {
        block.put_u8(id);
        block.put_u16(value);
    };
    number16(properties::RECEIVE_MAXIMUM, RECEIVE_MAXIMUM);
    number16(properties::TOPIC_ALIAS_MAXIMUM, TOPIC_ALIAS_MAX);
    block.put_slice(&[properties::MAXIMUM_QOS, 1]);
    block.put_slice(&[properties::SUBSCRIPTION_IDS_AVAILABLE, 0, properties::SHARED_AVAILABLE, 0]);
    block.put_u8(properties::MAXIMUM_PACKET_SIZE);
    block.put_u32(u32::try_from(PACKET_BYTES_MAX).unwrap_or(u32::MAX));
    if connect.session_expiry_s.is_some_and(|seconds| seconds > 0) {
        // There is nothing to keep for a publisher of QoS 0 and 1, so its session ends with the connection.
        block.put_slice(&[properties::SESSION_EXPIRY, 0, 0, 0, 0]);
    }
    if let Some(name) = assigned {
        put_text(&mut block, properties::ASSIGNED_CLIENT_ID, name);
    }
    out.put_u8(CONNACK);
    put_variable_integer(out, 2 + variable_integer_bytes(block.len()) + block.len());
    out.put_slice(&[0, reason::SUCCESS]);
    put_variable_integer(out, block.len());
    out.put_slice(&block);
}

/// Writes a CONNACK that refuses, with a reason code of version 5; 3.1.1 gets the nearest of its own.
pub(super) fn refuse(version: Version, code: u8, why: &str, out: &mut BytesMut) {
    if version == Version::V311 {
        let code = match code {
            reason::UNSUPPORTED_VERSION => 1,
            reason::CLIENT_ID_INVALID => 2,
            reason::BAD_CREDENTIALS => 4,
            reason::NOT_AUTHORIZED => 5,
            _ => 3,
        };
        out.put_slice(&[CONNACK, 2, 0, code]);
        return;
    }
    put_with_reason(out, CONNACK, &[0, code], why);
}

/// Writes a PUBACK. 3.1.1 has no reason codes: it says only "mine now".
pub(super) fn puback(version: Version, id: u16, code: u8, out: &mut BytesMut) {
    let [high, low] = id.to_be_bytes();
    if version == Version::V311 || code == reason::SUCCESS {
        out.put_slice(&[0x40, 2, high, low]);
    } else {
        out.put_slice(&[0x40, 3, high, low, code]);
    }
}

/// Writes a PUBCOMP.
pub(super) fn pubcomp(id: u16, out: &mut BytesMut) {
    let [high, low] = id.to_be_bytes();
    out.put_slice(&[0x70, 2, high, low]);
}

/// Writes a SUBACK or an UNSUBACK with one code for each filter.
pub(super) fn subscription_ack(version: Version, first: u8, id: u16, codes: &[u8], out: &mut BytesMut) {
    let properties: &[u8] = if version == Version::V5 { &[0] } else { &[] };
    out.put_u8(first);
    put_variable_integer(out, 2 + properties.len() + codes.len());
    out.put_u16(id);
    out.put_slice(properties);
    out.put_slice(codes);
}

/// Writes a PINGREQ.
pub(super) fn pingreq(out: &mut BytesMut) {
    out.put_slice(&[0xC0, 0]);
}

/// Writes a PINGRESP.
pub(super) fn pingresp(out: &mut BytesMut) {
    out.put_slice(&[0xD0, 0]);
}

/// Writes a DISCONNECT; 3.1.1 has only the client's, without a reason.
pub(super) fn disconnect(version: Version, code: u8, why: &str, out: &mut BytesMut) {
    match version {
        Version::V311 => out.put_slice(&[0xE0, 0]),
        Version::V5 if code == reason::SUCCESS => out.put_slice(&[0xE0, 0]),
        Version::V5 => put_with_reason(out, 0xE0, &[code], why),
    }
}

fn put_with_reason(out: &mut BytesMut, first: u8, fixed: &[u8], why: &str) {
    let mut block = BytesMut::new();
    if !why.is_empty() {
        put_text(&mut block, properties::REASON_STRING, why);
    }
    out.put_u8(first);
    put_variable_integer(out, fixed.len() + variable_integer_bytes(block.len()) + block.len());
    out.put_slice(fixed);
    put_variable_integer(out, block.len());
    out.put_slice(&block);
}

fn put_text(out: &mut BytesMut, id: u8, text: &str) {
    // Whatever echoes the peer's bytes is cut, so that the length always fits and no answer grows with the question.
    const TEXT_BYTES_MAX: usize = 500;
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.put_u8(id);
    out.put_u16(u16::try_from(end).unwrap_or(u16::MAX));
    out.put_slice(&text.as_bytes()[..end]);
}

fn put_variable_integer(out: &mut BytesMut, mut value: usize) {
    loop {
        let low = u8::try_from(value & 0x7F).unwrap_or(0x7F);
        value >>= 7;
        if value == 0 {
            out.put_u8(low);
            return;
        }
        out.put_u8(low | 0x80);
    }
}

fn variable_integer_bytes(value: usize) -> usize {
    match value {
        0..128 => 1,
        128..16_384 => 2,
        16_384..2_097_152 => 3,
        _ => 4,
    }
}
