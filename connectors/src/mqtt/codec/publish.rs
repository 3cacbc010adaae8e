//! PUBLISH: topic and payload are slices of the frame, and nothing is allocated.

use bytes::{Buf, Bytes, BytesMut};

use super::{Header, body};
use crate::mqtt::packet::{Packet, Publish, QoS, Version, Violation};
use crate::mqtt::properties;
use crate::mqtt::receiver::TOPIC_ALIAS_MAX;

/// Reads a PUBLISH.
pub(super) fn read(version: Version, header: Header, mut frame: Bytes) -> Result<Packet, Violation> {
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
    // In version 5 an alias may stand for it.
    if version == Version::V311 && topic.is_empty() {
        return Err(reader.malformed("the topic is empty"));
    }
    let topic_bytes = topic.len();
    let id = if qos == QoS::AtMostOnce { 0 } else { reader.id()? };
    let (block_bytes, alias, properties) = match version {
        Version::V311 => (0, None, Bytes::new()),
        Version::V5 => read_properties(&frame, reader.bytes)?,
    };
    let block_end = frame.len() - reader.bytes.len() + block_bytes;
    let topic_start = header.header_bytes + 2;
    let topic = frame.slice(topic_start..topic_start + topic_bytes);
    frame.advance(block_end);
    let retain = header.first & 1 != 0;
    Ok(Packet::Publish(Publish {
        topic,
        payload: frame,
        qos,
        retain,
        duplicate,
        id,
        alias,
        properties,
        is_oversize: false,
    }))
}

/// Reads the property block that `rest`, the end of `frame`, begins with: its length, the topic alias, and what a message
/// keeps.
fn read_properties(frame: &Bytes, rest: &[u8]) -> Result<(usize, Option<u16>, Bytes), Violation> {
    let mut alias = None;
    // How many bytes of the block are the receiver's business only.
    let mut hop_bytes = 0;
    let mut property_bytes = 0;
    let taken = properties::read_raw("PUBLISH", rest, properties::IN_PUBLISH, |id, value, raw| {
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
        return Err(Violation::Alias { alias: 0, max: TOPIC_ALIAS_MAX });
    }
    let block_end = frame.len() - rest.len() + taken;
    let properties = match property_bytes - hop_bytes {
        0 => Bytes::new(),
        _ if hop_bytes == 0 => frame.slice(block_end - property_bytes..block_end),
        kept => without_hop_properties(rest, kept)?,
    };
    Ok((taken, alias, properties))
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
