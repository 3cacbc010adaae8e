//! SUBSCRIBE, UNSUBSCRIBE and their answers.

use bytes::Bytes;
use rumqttc_v4::mqttbytes::v4;
use rumqttc_v5::mqttbytes::v5;

use super::{Header, body, fixed4, fixed5, malformed, qos4, qos5, read_properties};
use crate::mqtt::packet::{
    FilterAck, Packet, RetainHandling, Subscribe, Subscription, Unsubscribe, Version, Violation,
};
use crate::mqtt::properties;

/// Reads a SUBSCRIBE.
pub(super) fn read_subscribe(version: Version, header: Header, frame: Bytes) -> Result<Packet, Violation> {
    match version {
        Version::V311 => read_subscribe_311(header, frame),
        Version::V5 => read_subscribe_5(header, frame),
    }
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

/// Reads an UNSUBSCRIBE.
pub(super) fn read_unsubscribe(version: Version, header: Header, frame: Bytes) -> Result<Packet, Violation> {
    let (id, filters) = match version {
        Version::V311 => {
            let read = v4::Unsubscribe::read(fixed4(header), frame).map_err(|error| malformed("UNSUBSCRIBE", error))?;
            (read.pkid, read.topics)
        }
        Version::V5 => {
            read_properties("UNSUBSCRIBE", header, &frame, properties::IN_UNSUBSCRIBE, |_, _| ())?;
            let read = v5::Unsubscribe::read(fixed5(header), frame).map_err(|error| malformed("UNSUBSCRIBE", error))?;
            (read.pkid, read.filters)
        }
    };
    if filters.is_empty() {
        return Err(Violation::Protocol("an UNSUBSCRIBE without a topic".to_owned()));
    }
    if id == 0 {
        return Err(Violation::Protocol("an UNSUBSCRIBE has packet id 0".to_owned()));
    }
    Ok(Packet::Unsubscribe(Unsubscribe { id, filters }))
}

/// Reads a SUBACK or an UNSUBACK.
pub(super) fn read_ack(
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
