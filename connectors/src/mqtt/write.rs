//! Writing packets, straight into the buffer that is sent. What a peer gives us to send (topics, names) may be too long for
//! a field of MQTT and then is an error; the answers are a few bytes each and cannot fail.

use bytes::{BufMut, BytesMut};

use super::codec::{CONNACK, CONNECT};
use super::packet::{ConnAck, Connect, Publish, QoS, Subscribe, Unsubscribe, Version, Violation, Will, reason};
use super::properties;

/// The longest packet that the length field of MQTT can tell.
const REMAINING_BYTES_MAX: usize = 268_435_455;

/// Writes a CONNECT.
pub(super) fn connect(version: Version, connect: &Connect, out: &mut BytesMut) -> Result<(), Violation> {
    const CLEAN: u8 = 0x02;
    const WILL: u8 = 0x04;
    const WILL_RETAIN: u8 = 0x20;
    const PASSWORD: u8 = 0x40;
    const USERNAME: u8 = 0x80;
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    // 3.1.1 has no password without a username.
    let password = connect.password.as_ref().filter(|_| version == Version::V5 || connect.username.is_some());
    let will_flags =
        connect.will.as_ref().map_or(0, |will| WILL | (will.qos as u8) << 3 | flag(will.retain, WILL_RETAIN));
    let flags = flag(connect.clean, CLEAN)
        | will_flags
        | flag(password.is_some(), PASSWORD)
        | flag(connect.username.is_some(), USERNAME);
    let mut body = BytesMut::new();
    put_field(&mut body, "CONNECT", b"MQTT")?;
    body.put_u8(match version {
        Version::V311 => 4,
        Version::V5 => 5,
    });
    body.put_u8(flags);
    body.put_u16(connect.keep_alive_s);
    if version == Version::V5 {
        let mut block = BytesMut::new();
        put_u32(&mut block, properties::SESSION_EXPIRY, connect.session_expiry_s);
        put_u16(&mut block, properties::RECEIVE_MAXIMUM, connect.receive_maximum);
        put_u32(&mut block, properties::MAXIMUM_PACKET_SIZE, connect.packet_bytes_max);
        put_u16(&mut block, properties::TOPIC_ALIAS_MAXIMUM, connect.topic_alias_max);
        put_block(&mut body, &[&block]);
    }
    put_field(&mut body, "CONNECT", connect.client_id.as_bytes())?;
    if let Some(Will { topic, payload, delay_s, properties, .. }) = &connect.will {
        if version == Version::V5 {
            let mut delay = BytesMut::new();
            put_u32(&mut delay, properties::WILL_DELAY, (*delay_s > 0).then_some(*delay_s));
            put_block(&mut body, &[&delay, properties]);
        }
        put_field(&mut body, "CONNECT", topic)?;
        put_field(&mut body, "CONNECT", payload)?;
    }
    if let Some(username) = &connect.username {
        put_field(&mut body, "CONNECT", username.as_bytes())?;
    }
    if let Some(password) = password {
        put_field(&mut body, "CONNECT", password)?;
    }
    put_packet(out, "CONNECT", CONNECT, &body)
}

/// Writes a CONNACK. In 3.1.1 its code is what it is given, if that is one of 3.1.1, or the nearest of its own.
pub(super) fn connack(version: Version, connack: &ConnAck, out: &mut BytesMut) {
    let present = u8::from(connack.session_present);
    if version == Version::V311 {
        let code = match connack.code {
            code @ 0..=5 => code,
            reason::UNSUPPORTED_VERSION => 1,
            reason::CLIENT_ID_INVALID => 2,
            reason::BAD_CREDENTIALS => 4,
            reason::NOT_AUTHORIZED => 5,
            _ => 3,
        };
        out.put_slice(&[CONNACK, 2, present, code]);
        return;
    }
    let mut block = BytesMut::new();
    let flag = |available: Option<bool>| available.map(u8::from);
    put_u32(&mut block, properties::SESSION_EXPIRY, connack.session_expiry_s);
    put_u16(&mut block, properties::RECEIVE_MAXIMUM, connack.receive_maximum);
    // Said of 0 and 1 only: by the standard nothing is said where 2 is taken.
    let qos_max = connack.qos_max.filter(|qos| *qos != QoS::ExactlyOnce);
    put_u8(&mut block, properties::MAXIMUM_QOS, qos_max.map(|qos| qos as u8));
    put_u8(&mut block, properties::RETAIN_AVAILABLE, flag(connack.retain_available));
    put_u32(&mut block, properties::MAXIMUM_PACKET_SIZE, connack.packet_bytes_max);
    put_text(&mut block, properties::ASSIGNED_CLIENT_ID, connack.assigned_client_id.as_deref());
    put_u16(&mut block, properties::TOPIC_ALIAS_MAXIMUM, connack.topic_alias_max);
    put_text(&mut block, properties::REASON_STRING, connack.reason.as_deref());
    put_u8(&mut block, properties::WILDCARD_AVAILABLE, flag(connack.wildcards_available));
    put_u8(&mut block, properties::SUBSCRIPTION_IDS_AVAILABLE, flag(connack.subscription_ids_available));
    put_u8(&mut block, properties::SHARED_AVAILABLE, flag(connack.shared_available));
    put_u16(&mut block, properties::SERVER_KEEP_ALIVE, connack.server_keep_alive_s);
    put_text(&mut block, properties::SERVER_REFERENCE, connack.server_reference.as_deref());
    put_with_block(out, CONNACK, &[present, connack.code], &block);
}

/// Writes a CONNACK that refuses, with a reason code of version 5; 3.1.1 gets the nearest of its own.
pub(super) fn refuse(version: Version, code: u8, why: &str, out: &mut BytesMut) {
    let reason = (!why.is_empty()).then(|| why.to_owned());
    connack(version, &ConnAck { code, reason, ..ConnAck::default() }, out);
}

/// Writes a PUBLISH. What 3.1.1 does not know (alias, properties) is left out there; nothing is written on an error.
pub(super) fn publish(version: Version, publish: &Publish, out: &mut BytesMut) -> Result<(), Violation> {
    let topic_bytes = field_length("PUBLISH", &publish.topic)?;
    let first = 0x30 | u8::from(publish.duplicate) << 3 | (publish.qos as u8) << 1 | u8::from(publish.retain);
    let has_id = publish.qos != QoS::AtMostOnce;
    let alias = publish.alias.filter(|_| version == Version::V5);
    let block_bytes = publish.properties.len() + if alias.is_some() { 3 } else { 0 };
    let properties_bytes = match version {
        Version::V311 => 0,
        Version::V5 => variable_integer_bytes(block_bytes) + block_bytes,
    };
    let remaining = 2 + publish.topic.len() + if has_id { 2 } else { 0 } + properties_bytes + publish.payload.len();
    check_remaining("PUBLISH", remaining)?;
    out.reserve(5 + remaining);
    out.put_u8(first);
    put_variable_integer(out, remaining);
    out.put_u16(topic_bytes);
    out.put_slice(&publish.topic);
    if has_id {
        out.put_u16(publish.id);
    }
    if version == Version::V5 {
        put_variable_integer(out, block_bytes);
        put_u16(out, properties::TOPIC_ALIAS, alias);
        out.put_slice(&publish.properties);
    }
    out.put_slice(&publish.payload);
    Ok(())
}

/// Writes a PUBACK. 3.1.1 has no reason codes: it says only "mine now".
pub(super) fn puback(version: Version, id: u16, code: u8, out: &mut BytesMut) {
    put_ack(version, 0x40, id, code, out);
}

/// Writes a PUBREC.
pub(super) fn pubrec(version: Version, id: u16, code: u8, out: &mut BytesMut) {
    put_ack(version, 0x50, id, code, out);
}

/// Writes a PUBREL.
pub(super) fn pubrel(version: Version, id: u16, code: u8, out: &mut BytesMut) {
    put_ack(version, 0x62, id, code, out);
}

/// Writes a PUBCOMP.
pub(super) fn pubcomp(version: Version, id: u16, code: u8, out: &mut BytesMut) {
    put_ack(version, 0x70, id, code, out);
}

fn put_ack(version: Version, first: u8, id: u16, code: u8, out: &mut BytesMut) {
    let [high, low] = id.to_be_bytes();
    if version == Version::V311 || code == reason::SUCCESS {
        out.put_slice(&[first, 2, high, low]);
    } else {
        out.put_slice(&[first, 3, high, low, code]);
    }
}

/// Writes a SUBSCRIBE. What 3.1.1 does not know is left out there.
pub(super) fn subscribe(version: Version, subscribe: &Subscribe, out: &mut BytesMut) -> Result<(), Violation> {
    let mut body = BytesMut::new();
    body.put_u16(subscribe.id);
    if version == Version::V5 {
        let mut block = BytesMut::new();
        if let Some(subscription_id) = subscribe.subscription_id {
            block.put_u8(properties::SUBSCRIPTION_ID);
            put_variable_integer(&mut block, usize::try_from(subscription_id).unwrap_or(usize::MAX));
        }
        put_block(&mut body, &[&block]);
    }
    for subscription in &subscribe.subscriptions {
        put_field(&mut body, "SUBSCRIBE", subscription.filter.as_bytes())?;
        let mut options = subscription.qos as u8;
        if version == Version::V5 {
            options |= u8::from(subscription.no_local) << 2
                | u8::from(subscription.retain_as_published) << 3
                | (subscription.retain_handling as u8) << 4;
        }
        body.put_u8(options);
    }
    put_packet(out, "SUBSCRIBE", 0x82, &body)
}

/// Writes an UNSUBSCRIBE.
pub(super) fn unsubscribe(version: Version, unsubscribe: &Unsubscribe, out: &mut BytesMut) -> Result<(), Violation> {
    let mut body = BytesMut::new();
    body.put_u16(unsubscribe.id);
    if version == Version::V5 {
        body.put_u8(0);
    }
    for filter in &unsubscribe.filters {
        put_field(&mut body, "UNSUBSCRIBE", filter.as_bytes())?;
    }
    put_packet(out, "UNSUBSCRIBE", 0xA2, &body)
}

/// Writes a SUBACK with one code for each subscription.
pub(super) fn suback(version: Version, id: u16, codes: &[u8], out: &mut BytesMut) {
    put_filter_ack(version, 0x90, id, codes, out);
}

/// Writes an UNSUBACK with one code for each filter; 3.1.1 has no codes there.
pub(super) fn unsuback(version: Version, id: u16, codes: &[u8], out: &mut BytesMut) {
    let codes = if version == Version::V5 { codes } else { &[] };
    put_filter_ack(version, 0xB0, id, codes, out);
}

fn put_filter_ack(version: Version, first: u8, id: u16, codes: &[u8], out: &mut BytesMut) {
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
        Version::V5 => {
            let mut block = BytesMut::new();
            put_text(&mut block, properties::REASON_STRING, (!why.is_empty()).then_some(why));
            put_with_block(out, 0xE0, &[code], &block);
        }
    }
}

/// Writes a packet that has some fixed bytes and a property block.
fn put_with_block(out: &mut BytesMut, first: u8, fixed: &[u8], block: &[u8]) {
    out.put_u8(first);
    put_variable_integer(out, fixed.len() + variable_integer_bytes(block.len()) + block.len());
    out.put_slice(fixed);
    put_block(out, &[block]);
}

/// Writes a whole packet, or nothing if it is too long.
fn put_packet(out: &mut BytesMut, packet: &'static str, first: u8, body: &[u8]) -> Result<(), Violation> {
    check_remaining(packet, body.len())?;
    out.put_u8(first);
    put_variable_integer(out, body.len());
    out.put_slice(body);
    Ok(())
}

fn check_remaining(packet: &'static str, remaining: usize) -> Result<(), Violation> {
    if remaining <= REMAINING_BYTES_MAX {
        return Ok(());
    }
    let problem = format!("{remaining} bytes are more than the {REMAINING_BYTES_MAX} that MQTT can carry");
    Err(Violation::Malformed { packet, problem })
}

fn field_length(packet: &'static str, field: &[u8]) -> Result<u16, Violation> {
    u16::try_from(field.len()).map_err(|_| {
        let problem = format!("a field of {} bytes is longer than the 65535 that MQTT allows", field.len());
        Violation::Malformed { packet, problem }
    })
}

fn put_field(out: &mut BytesMut, packet: &'static str, field: &[u8]) -> Result<(), Violation> {
    out.put_u16(field_length(packet, field)?);
    out.put_slice(field);
    Ok(())
}

/// Writes a property block of several parts, its length in front.
fn put_block(out: &mut BytesMut, parts: &[&[u8]]) {
    put_variable_integer(out, parts.iter().map(|part| part.len()).sum());
    parts.iter().for_each(|part| out.put_slice(part));
}

fn put_u8(out: &mut BytesMut, id: u8, value: Option<u8>) {
    if let Some(value) = value {
        out.put_slice(&[id, value]);
    }
}

fn put_u16(out: &mut BytesMut, id: u8, value: Option<u16>) {
    if let Some(value) = value {
        out.put_u8(id);
        out.put_u16(value);
    }
}

fn put_u32(out: &mut BytesMut, id: u8, value: Option<u32>) {
    if let Some(value) = value {
        out.put_u8(id);
        out.put_u32(value);
    }
}

fn put_text(out: &mut BytesMut, id: u8, text: Option<&str>) {
    // Whatever echoes the peer's bytes is cut, so that the length always fits and no answer grows with the question.
    const TEXT_BYTES_MAX: usize = 500;
    let Some(text) = text else { return };
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.put_u8(id);
    out.put_u16(u16::try_from(end).unwrap_or(u16::MAX));
    out.put_slice(&text.as_bytes()[..end]);
}

/// Writes a number as MQTT writes lengths.
pub(super) fn put_variable_integer(out: &mut BytesMut, mut value: usize) {
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
