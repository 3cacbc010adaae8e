//! What a message keeps of its PUBLISH packet beside topic and payload, as the ingest log has it.
//!
//! ```text
//!   ┌ flags u8 ─────────────────────────────────────┬ MQTT 5: properties as on the wire ┐
//!   │ bits 0-1 QoS, bit 2 RETAIN, 3 DUP, 4 oversize │ id │ value │ id │ value │ …        │
//!   └───────────────────────────────────────────────┴───────────────────────────────────┘
//! ```
//!
//! Oversize is a message of which only this is kept: its payload says how large it was. In no format is that a row.
//!
//! Topic Alias and Subscription Identifier are not among them: they mean something on their connection only. A message of a
//! log that was written before there were attributes has none; nothing is known of it then.
//!
//! What is read here was checked when it was received. Reading stops at the first byte that makes no sense all the same: a
//! log that was written by another version must not end the job.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes};
use tidemill_engine::source::Message;

use super::packet::Publish;
use super::properties::{
    CONTENT_TYPE, CORRELATION_DATA, MESSAGE_EXPIRY, PAYLOAD_FORMAT, RESPONSE_TOPIC, Reader, USER_PROPERTY,
};
use super::remembered::Arena;

const QOS_BITS: u8 = 0b0011;
const RETAIN_BIT: u8 = 0b0100;
const DUPLICATE_BIT: u8 = 0b1000;
const OVERSIZE_BIT: u8 = 0b1_0000;

/// All there are without properties.
static FLAGS: [u8; 32] = {
    let mut flags = [0; 32];
    let mut at = 0;
    while at < flags.len() {
        flags[at] = at as u8;
        at += 1;
    }
    flags
};

/// Makes the attributes of a message. Without properties that allocates nothing; with them they are put into the arena.
pub(super) fn encode(publish: &Publish, arena: &mut Arena) -> Bytes {
    let mut flags = publish.qos as u8;
    flags |= if publish.retain { RETAIN_BIT } else { 0 };
    flags |= if publish.duplicate { DUPLICATE_BIT } else { 0 };
    flags |= if publish.is_oversize { OVERSIZE_BIT } else { 0 };
    if publish.properties.is_empty() {
        let place = usize::from(flags);
        return Bytes::from_static(&FLAGS[place..=place]);
    }
    let room = arena.room(1 + publish.properties.len());
    room.put_u8(flags);
    room.put_slice(&publish.properties);
    arena.take()
}

/// Says whether a message is to be retained; cheaper than reading all attributes.
pub(super) fn is_retained(message: &Message) -> bool {
    message.attributes.first().is_some_and(|flags| flags & RETAIN_BIT != 0)
}

/// Says whether a message was larger than we take: its payload is not what its publisher sent.
pub(crate) fn is_oversize(message: &Message) -> bool {
    message.attributes.first().is_some_and(|flags| flags & OVERSIZE_BIT != 0)
}

/// Returns the seconds that a message of these properties has, if they say so.
pub(super) fn expiry_of_properties(properties: &[u8]) -> Option<u32> {
    read(properties).find_map(|property| match property {
        Property::MessageExpiry(seconds) => Some(seconds),
        _ => None,
    })
}

/// What is known of a message; `None` where nothing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes<'m> {
    /// The quality of service of its last hop.
    pub qos: Option<u8>,
    /// Whether a broker sent it as its retained copy, or a client published it with the flag.
    pub retain: Option<bool>,
    /// Whether the sender believes that it has sent it before.
    pub duplicate: Option<bool>,
    /// 1: the publisher calls the payload UTF-8.
    pub payload_format: Option<u8>,
    /// Seconds it had left.
    pub message_expiry_s: Option<u32>,
    /// What the publisher says that the payload is.
    pub content_type: Option<&'m str>,
    /// Where an answer is expected.
    pub response_topic: Option<&'m str>,
    /// What an answer must bring along.
    pub correlation_data: Option<&'m [u8]>,
    properties: &'m [u8],
}

/// One property of a message.
enum Property<'m> {
    PayloadFormat(u8),
    MessageExpiry(u32),
    ContentType(&'m str),
    ResponseTopic(&'m str),
    CorrelationData(&'m [u8]),
    User(&'m str, &'m str),
}

impl<'m> Attributes<'m> {
    /// Reads the attributes of a message.
    pub fn of(message: &'m Message) -> Self {
        let Some((flags, properties)) = message.attributes.split_first() else { return Attributes::default() };
        let mut attributes = Attributes {
            qos: Some(flags & QOS_BITS),
            retain: Some(flags & RETAIN_BIT != 0),
            duplicate: Some(flags & DUPLICATE_BIT != 0),
            properties,
            ..Attributes::default()
        };
        for property in read(properties) {
            match property {
                Property::PayloadFormat(format) => attributes.payload_format = Some(format),
                Property::MessageExpiry(seconds) => attributes.message_expiry_s = Some(seconds),
                Property::ContentType(text) => attributes.content_type = Some(text),
                Property::ResponseTopic(topic) => attributes.response_topic = Some(topic),
                Property::CorrelationData(data) => attributes.correlation_data = Some(data),
                Property::User(..) => {}
            }
        }
        attributes
    }

    /// Returns the pairs that the publisher has added, by name; of equal names the last counts.
    pub fn user_properties(&self) -> BTreeMap<&'m str, &'m str> {
        let pair = |property| match property {
            Property::User(key, value) => Some((key, value)),
            _ => None,
        };
        read(self.properties).filter_map(pair).collect()
    }
}

/// Reads properties up to their end, or to what makes no sense.
fn read<'m>(properties: &'m [u8]) -> impl Iterator<Item = Property<'m>> {
    let mut rest = Reader { packet: "PUBLISH", bytes: properties };
    std::iter::from_fn(move || next(&mut rest))
}

fn next<'m>(rest: &mut Reader<'m>) -> Option<Property<'m>> {
    Some(match rest.u8().ok()? {
        PAYLOAD_FORMAT => Property::PayloadFormat(rest.u8().ok()?),
        MESSAGE_EXPIRY => Property::MessageExpiry(u32::from_be_bytes(rest.take(4, "a number").ok()?.try_into().ok()?)),
        CONTENT_TYPE => Property::ContentType(rest.text().ok()?),
        RESPONSE_TOPIC => Property::ResponseTopic(rest.text().ok()?),
        CORRELATION_DATA => Property::CorrelationData(rest.binary().ok()?),
        USER_PROPERTY => Property::User(rest.text().ok()?, rest.text().ok()?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::mqtt::packet::QoS;
    use crate::mqtt::properties::{self, Value};

    /// What a message keeps.
    const KEPT: [u8; 6] =
        [PAYLOAD_FORMAT, MESSAGE_EXPIRY, CONTENT_TYPE, RESPONSE_TOPIC, CORRELATION_DATA, USER_PROPERTY];

    fn message(attributes: &[u8]) -> Message {
        Message { attributes: Bytes::copy_from_slice(attributes), ..Message::new("t", "{}") }
    }

    /// Everything a PUBLISH can have, in an order of no meaning.
    const WHOLE: &[u8] = b"\x0e\x26\0\x01a\0\x011\x03\0\x09text/json\x02\0\0\x0e\x10\x26\0\x01b\0\x012\x08\0\x03r/1\
        \x09\0\x02\x00\xff\x26\0\x01a\0\x013\x01\x01";

    /// What the receiver lets in is read back whole; of anything else as much as makes sense.
    #[test]
    fn fuzz_attributes() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/src/mqtt/corpus/attributes");
        tidemill_engine::testing::fuzz::fuzz(corpus, |input| {
            let message = message(input);
            let attributes = Attributes::of(&message);
            let user_properties = attributes.user_properties();
            let bytes: usize = user_properties.iter().map(|(key, value)| key.len() + value.len()).sum();
            assert!(bytes <= input.len());
            let Some((flags, properties)) = input.split_first() else { return true };
            let mut pairs = BTreeMap::new();
            let mut others = 0;
            let received = properties::read_block("PUBLISH", properties, &KEPT, |_, value, _| match value {
                Value::Pair(key, value) => drop(pairs.insert(key, value)),
                _ => others += 1,
            });
            if received.is_err() {
                return false;
            }
            let Attributes { payload_format, message_expiry_s, content_type, response_topic, .. } = attributes;
            let read = usize::from(payload_format.is_some())
                + usize::from(message_expiry_s.is_some())
                + usize::from(content_type.is_some())
                + usize::from(response_topic.is_some())
                + usize::from(attributes.correlation_data.is_some());
            assert_eq!((read, &user_properties), (others, &pairs));
            let Some(qos) = QoS::from_bits(flags & QOS_BITS) else { return false };
            let publish = Publish {
                qos,
                retain: flags & RETAIN_BIT != 0,
                duplicate: flags & DUPLICATE_BIT != 0,
                properties: Bytes::copy_from_slice(properties),
                is_oversize: flags & OVERSIZE_BIT != 0,
                ..Publish::default()
            };
            let encoded = encode(&publish, &mut Arena::default());
            assert_eq!((encoded[0], &encoded[1..]), (flags & 0b1_1111, properties));
            true
        });
    }

    #[test]
    fn everything_that_a_publish_can_have_is_read() {
        let message = message(WHOLE);
        let attributes = Attributes::of(&message);
        let expected = Attributes {
            qos: Some(2),
            retain: Some(true),
            duplicate: Some(true),
            payload_format: Some(1),
            message_expiry_s: Some(3600),
            content_type: Some("text/json"),
            response_topic: Some("r/1"),
            correlation_data: Some(&[0, 0xff]),
            properties: &WHOLE[1..],
        };
        assert_eq!(attributes, expected);
        assert_eq!(attributes.user_properties(), BTreeMap::from([("a", "3"), ("b", "2")]), "the last a counts");
    }

    #[test]
    fn flags_alone_and_nothing_at_all_are_told_apart() {
        let message_1 = message(&[0b0001]);
        let flags = Attributes::of(&message_1);
        assert_eq!((flags.qos, flags.retain, flags.duplicate), (Some(1), Some(false), Some(false)));
        assert_eq!((flags.content_type, flags.user_properties().len()), (None, 0));
        assert_eq!(Attributes::of(&message(&[])), Attributes::default());
    }

    #[test]
    fn damaged_attributes_lose_what_stands_behind_the_damage_and_nothing_else() {
        let mut dice = StdRng::seed_from_u64(7);
        let mut read_some = 0;
        for _ in 0..20_000 {
            let mut bytes = WHOLE.to_vec();
            for _ in 0..dice.random_range(0..4) {
                let at = dice.random_range(0..bytes.len());
                bytes[at] = dice.random();
            }
            bytes.truncate(dice.random_range(0..=bytes.len()));
            let message = message(&bytes);
            let attributes = Attributes::of(&message);
            read_some += usize::from(!attributes.user_properties().is_empty());
            assert_eq!(attributes.qos.is_some(), !bytes.is_empty());
        }
        assert!(read_some > 10_000, "{read_some}");
    }
}
