//! What one connection knows and decides: a state machine without I/O, clock or waiting.
//!
//! ```text
//!   packets ──receive──► batch {messages, acks} ──take_batch──► messages to the log
//!                            │                                       │ receipt
//!                            └─► ack plan (first in, first out) ◄─durable
//!                                     │
//!                                     ▼ out: PUBACKs in the order of their PUBLISHes, and other answers
//! ```
//!
//! A session lives exactly as long as its connection. So an acknowledgement can leave only on the connection that delivered
//! the message: with the connection its plan is gone, and the peer sends again what it has no acknowledgement for. Topic
//! aliases die with it for the same reason.
//!
//! QoS 2 fits in here and nowhere else: a PUBLISH at QoS 2 becomes an ack entry of another kind (PUBREC), `PUBREL` becomes a
//! record of its own whose entry is PUBCOMP, and both wait in the same plan. Until then QoS 2 is refused by name.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use tidemill_engine::source::Message;

use super::packet::{FilterAck, Packet, Publish, QoS, RetainHandling, Version, Violation, reason};
use super::subscribing::{Answer, DROPS_TOPIC, DropCount, Wanted};
use super::topic::TopicPattern;
use super::write;

/// How many unacknowledged messages we let a peer of version 5 have: enough for 100 bytes × one sync of 5 ms at wire speed.
pub(super) const RECEIVE_MAXIMUM: u16 = 16_384;
/// How many topic aliases a peer may define on one connection.
pub(super) const TOPIC_ALIAS_MAX: u16 = 64;
/// A batch is full when it has this many messages, or [`BATCH_BYTES_MAX`]: at most one packet more than that goes into a chunk.
pub(super) const BATCH_MESSAGES_MAX: usize = 8_192;
/// See [`BATCH_MESSAGES_MAX`].
pub(super) const BATCH_BYTES_MAX: usize = 1 << 20;

/// What to do with messages that a broker kept from before we subscribed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retained {
    /// Take them as readings.
    Keep,
    /// Acknowledge and forget them.
    Skip,
}

/// Which end of the connection we are.
#[derive(Debug)]
enum Role {
    Client { retained: Retained, subscribing: Option<Wanted>, drops: Option<DropCount> },
    Server { pattern: TopicPattern, packet_bytes_max: usize },
}

/// What a packet told besides messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Nothing that concerns anybody else.
    Nothing,
    /// The broker granted the subscription.
    Subscribed,
    /// The broker did not grant it, or not as asked.
    Refused(String),
    /// The peer said good-bye.
    Disconnected { code: u8, reason: Option<String> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ack {
    id: u16,
    code: u8,
}

/// One connection after its handshake.
#[derive(Debug)]
pub(super) struct Session {
    version: Version,
    role: Role,
    /// Slot `n` holds alias `n + 1`; an empty topic is an alias that is not defined.
    aliases: Vec<Bytes>,
    messages: Vec<Message>,
    message_bytes: usize,
    acks: Vec<Ack>,
    plan: VecDeque<Vec<Ack>>,
    unacked_count: usize,
    /// What is to be written.
    pub(super) out: BytesMut,
    /// Kinds to be counted by the owner, who empties it.
    pub(super) errors: Vec<&'static str>,
    /// What is to be logged by the owner, who empties it.
    pub(super) told: Vec<String>,
}

impl Session {
    /// Begins a session as the client of a broker.
    pub(super) fn client(version: Version, retained: Retained, drops: Option<DropCount>) -> Self {
        Session::new(version, Role::Client { retained, subscribing: None, drops })
    }

    /// Begins a session with a client of ours. `packet_bytes_max` is the largest packet it takes.
    pub(super) fn server(version: Version, pattern: TopicPattern, packet_bytes_max: Option<u32>) -> Self {
        let packet_bytes_max = packet_bytes_max.and_then(|max| usize::try_from(max).ok()).unwrap_or(usize::MAX);
        Session::new(version, Role::Server { pattern, packet_bytes_max })
    }

    fn new(version: Version, role: Role) -> Self {
        Session {
            version,
            role,
            aliases: Vec::new(),
            messages: Vec::new(),
            message_bytes: 0,
            acks: Vec::new(),
            plan: VecDeque::new(),
            unacked_count: 0,
            out: BytesMut::new(),
            errors: Vec::new(),
            told: Vec::new(),
        }
    }

    /// Returns the version the connection speaks.
    pub(super) fn version(&self) -> Version {
        self.version
    }

    /// Says whether we are the client.
    pub(super) fn is_client(&self) -> bool {
        matches!(self.role, Role::Client { .. })
    }

    /// Asks the broker for a subscription.
    pub(super) fn subscribe(&mut self, wanted: Wanted) -> Result<(), Violation> {
        let Role::Client { retained, subscribing, .. } = &mut self.role else { return Ok(()) };
        let retain_handling = match retained {
            Retained::Keep => RetainHandling::IfNew,
            Retained::Skip => RetainHandling::Never,
        };
        let packet = wanted.packet(retain_handling);
        *subscribing = Some(wanted);
        write::subscribe(self.version, &packet, &mut self.out)
    }

    /// Takes a packet. After an error the connection must end; what was taken before is still good.
    pub(super) fn receive(&mut self, packet: Packet) -> Result<Heard, Violation> {
        match packet {
            Packet::Publish(publish) => return self.publish(publish).map(|()| Heard::Nothing),
            // A release that we know nothing of must be confirmed all the same, or the peer repeats it for ever.
            Packet::PubRel(release) => write::pubcomp(self.version, release.id, reason::SUCCESS, &mut self.out),
            Packet::Disconnect { code, reason } => return Ok(Heard::Disconnected { code, reason }),
            packet if self.is_client() => return self.receive_from_broker(packet),
            packet => self.receive_from_client(packet)?,
        }
        Ok(Heard::Nothing)
    }

    fn receive_from_broker(&mut self, packet: Packet) -> Result<Heard, Violation> {
        match packet {
            Packet::PingResp => Ok(Heard::Nothing),
            Packet::SubAck(ack) => self.suback(&ack),
            other => Err(unexpected(&other)),
        }
    }

    fn receive_from_client(&mut self, packet: Packet) -> Result<(), Violation> {
        match packet {
            Packet::PingReq => write::pingresp(&mut self.out),
            Packet::Subscribe(subscribe) => {
                self.errors.push("subscribe");
                let code = match self.version {
                    Version::V311 => reason::SUBACK_FAILURE,
                    Version::V5 => reason::IMPLEMENTATION_SPECIFIC,
                };
                let codes = vec![code; subscribe.subscriptions.len()];
                write::suback(self.version, subscribe.id, &codes, &mut self.out);
            }
            Packet::Unsubscribe(unsubscribe) => {
                let codes = vec![reason::NO_SUBSCRIPTION_EXISTED; unsubscribe.filters.len()];
                write::unsuback(self.version, unsubscribe.id, &codes, &mut self.out);
            }
            other => return Err(unexpected(&other)),
        }
        Ok(())
    }

    fn publish(&mut self, publish: Publish) -> Result<(), Violation> {
        if publish.qos == QoS::ExactlyOnce {
            return Err(Violation::QosNotSupported);
        }
        let topic = self.resolve(publish.topic, publish.alias)?;
        if topic == DROPS_TOPIC.as_bytes() && publish.qos == QoS::AtMostOnce && self.hear_drops(&publish.payload) {
            return Ok(());
        }
        let mut code = reason::SUCCESS;
        let mut wanted = true;
        match &self.role {
            Role::Client { retained, .. } => wanted = !publish.retain || *retained == Retained::Keep,
            Role::Server { pattern, .. } => {
                // Kept all the same: the decoder makes a dead letter of it, where somebody can find it.
                if !std::str::from_utf8(&topic).is_ok_and(|topic| pattern.accepts(topic)) {
                    self.errors.push("topic");
                    code = reason::NO_MATCHING_SUBSCRIBERS;
                }
            }
        }
        if publish.qos == QoS::AtLeastOnce {
            self.unacked_count += 1;
            let max = usize::from(RECEIVE_MAXIMUM);
            // A broker that exceeds the window is tolerated: closing would bring the same messages again.
            if self.unacked_count > max && self.version == Version::V5 && !self.is_client() {
                return Err(Violation::ReceiveMaximum { max });
            }
            self.acks.push(Ack { id: publish.id, code });
        }
        if wanted {
            self.message_bytes += topic.len() + publish.payload.len();
            self.messages.push(Message::new(topic, publish.payload));
        }
        Ok(())
    }

    fn resolve(&mut self, topic: Bytes, alias: Option<u16>) -> Result<Bytes, Violation> {
        let Some(alias) = alias else {
            if topic.is_empty() {
                return Err(Violation::Protocol("a PUBLISH has neither topic nor alias".to_owned()));
            }
            return Ok(topic);
        };
        let undefined = Violation::Alias { alias, max: TOPIC_ALIAS_MAX };
        if alias == 0 || alias > TOPIC_ALIAS_MAX {
            return Err(undefined);
        }
        let slot = usize::from(alias) - 1;
        if topic.is_empty() {
            return self.aliases.get(slot).filter(|topic| !topic.is_empty()).cloned().ok_or(undefined);
        }
        if self.aliases.len() <= slot {
            self.aliases.resize(slot + 1, Bytes::new());
        }
        // Copied: a slice would keep its whole read buffer for the life of the connection.
        self.aliases[slot] = Bytes::copy_from_slice(&topic);
        Ok(topic)
    }

    fn suback(&mut self, ack: &FilterAck) -> Result<Heard, Violation> {
        let Role::Client { subscribing, .. } = &mut self.role else {
            return Err(Violation::Protocol("a SUBACK from a client".to_owned()));
        };
        match subscribing.as_ref().map_or(Answer::Stray, |wanted| wanted.judge(ack)) {
            Answer::Stray => Err(Violation::Protocol("a SUBACK that answers no SUBSCRIBE of ours".to_owned())),
            Answer::Refused(why) => {
                *subscribing = None;
                Ok(Heard::Refused(why))
            }
            Answer::Granted { downgraded, is_blind } => {
                *subscribing = None;
                for (filter, code) in downgraded {
                    self.errors.push("qos_downgraded");
                    self.told.push(format!("the broker granted only QoS {code} for {filter}"));
                }
                if is_blind {
                    self.told.push(format!("the broker does not let us read {DROPS_TOPIC}: what it drops is not seen"));
                }
                Ok(Heard::Subscribed)
            }
        }
    }

    /// Takes what the broker tells of itself, if that is watched: then it is no message of the source.
    fn hear_drops(&mut self, payload: &[u8]) -> bool {
        let Role::Client { drops: Some(drops), .. } = &mut self.role else { return false };
        let more = drops.hear(payload);
        if more > 0 {
            self.errors.push("broker_drops");
            self.told.push(format!(
                "the broker has dropped {more} messages, for all its subscribers together: some may have been ours. Raise its limits \
                 (Mosquitto: max_queued_messages)"
            ));
        }
        true
    }

    /// Says whether a SUBSCRIBE waits for its answer.
    pub(super) fn is_subscribing(&self) -> bool {
        matches!(self.role, Role::Client { subscribing: Some(_), .. })
    }

    /// Says whether the batch should be handed over before more is read.
    pub(super) fn batch_is_full(&self) -> bool {
        self.messages.len() >= BATCH_MESSAGES_MAX || self.message_bytes >= BATCH_BYTES_MAX
    }

    /// Hands over what was received since the last call; its acknowledgements wait for [`Session::durable`].
    pub(super) fn take_batch(&mut self) -> Option<Vec<Message>> {
        let acks = std::mem::take(&mut self.acks);
        self.message_bytes = 0;
        if !self.messages.is_empty() {
            self.plan.push_back(acks);
            return Some(std::mem::take(&mut self.messages));
        }
        // Nothing to log, but the order of acknowledgements must hold: they leave with those before them.
        match self.plan.back_mut() {
            Some(last) => last.extend(acks),
            None => self.write_acks(acks),
        }
        None
    }

    /// Says that the oldest batch handed over is durable: its acknowledgements are written to `out`.
    pub(super) fn durable(&mut self) {
        let acks = self.plan.pop_front().expect("every receipt belongs to a batch of the plan");
        self.write_acks(acks);
    }

    fn write_acks(&mut self, acks: Vec<Ack>) {
        self.unacked_count -= acks.len();
        self.out.reserve(acks.len() * 4);
        for ack in acks {
            write::puback(self.version, ack.id, ack.code, &mut self.out);
        }
    }

    /// Writes the last packet of the connection, where the version and our role have one.
    pub(super) fn farewell(&mut self, code: u8, why: &str) {
        match &self.role {
            Role::Client { .. } => {
                if self.version == Version::V5 || code == reason::SUCCESS {
                    write::disconnect(self.version, code, why, &mut self.out);
                }
            }
            // In 3.1.1 a server has no DISCONNECT: it closes.
            Role::Server { packet_bytes_max, .. } => {
                if self.version == Version::V5 {
                    let mut packet = BytesMut::new();
                    write::disconnect(self.version, code, why, &mut packet);
                    if packet.len() > *packet_bytes_max {
                        packet.clear();
                        write::disconnect(self.version, code, "", &mut packet);
                    }
                    self.out.extend_from_slice(&packet);
                }
            }
        }
    }
}

fn unexpected(packet: &Packet) -> Violation {
    Violation::Protocol(format!("an unexpected {}", packet.name()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::subscribing::{Drops, OnDowngrade};

    fn message(topic: &str, id: u16, alias: Option<u16>) -> Packet {
        let qos = if id == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
        let topic = Bytes::copy_from_slice(topic.as_bytes());
        Packet::Publish(Publish { topic, payload: Bytes::from_static(b"x"), qos, id, alias, ..Publish::default() })
    }

    fn client() -> Session {
        Session::client(Version::V5, Retained::Skip, None)
    }

    #[test]
    fn acknowledgements_leave_in_receive_order_and_only_when_durable() {
        let mut session = client();
        session.receive(message("a", 7, None)).expect("good");
        session.receive(message("a", 3, None)).expect("good");
        assert_eq!(session.take_batch().map(|batch| batch.len()), Some(2));
        session.receive(message("a", 0, None)).expect("good");
        session.receive(message("a", 5, None)).expect("good");
        assert_eq!(session.take_batch().map(|batch| batch.len()), Some(2));
        assert!(session.out.is_empty());
        session.durable();
        assert_eq!(&session.out[..], [0x40, 2, 0, 7, 0x40, 2, 0, 3]);
        session.durable();
        assert_eq!(&session.out[8..], [0x40, 2, 0, 5]);
    }

    #[test]
    fn a_skipped_retained_message_is_acknowledged_after_those_before_it() {
        let mut session = client();
        let retained = |id| match message("a", id, None) {
            Packet::Publish(publish) => Packet::Publish(Publish { retain: true, ..publish }),
            other => other,
        };
        session.receive(message("a", 1, None)).expect("good");
        assert!(session.take_batch().is_some());
        session.receive(retained(2)).expect("good");
        assert!(session.take_batch().is_none());
        assert!(session.out.is_empty());
        session.durable();
        assert_eq!(&session.out[..], [0x40, 2, 0, 1, 0x40, 2, 0, 2]);
        session.receive(retained(3)).expect("good");
        assert!(session.take_batch().is_none());
        assert_eq!(&session.out[8..], [0x40, 2, 0, 3]);
    }

    #[test]
    fn topic_aliases_are_set_used_redefined_and_checked() {
        let mut session = client();
        for (topic, alias) in [("first", Some(2)), ("", Some(2)), ("second", Some(2)), ("", Some(2)), ("plain", None)] {
            session.receive(message(topic, 0, alias)).expect("good");
        }
        let topics: Vec<Bytes> = session.take_batch().expect("messages").into_iter().map(|m| m.topic).collect();
        assert_eq!(topics, ["first", "first", "second", "second", "plain"]);
        for alias in [1, 3, 64, 65, 0, 9999] {
            let violation = session.receive(message("", 0, Some(alias))).expect_err("undefined");
            assert_eq!(violation.code(), 0x94, "{alias}");
        }
        assert_eq!(session.receive(message("a", 0, Some(65))).expect_err("over the limit").code(), 0x94);
        assert_eq!(session.receive(message("", 0, None)).expect_err("no topic").code(), 0x82);
        assert!(client().receive(message("", 0, Some(2))).is_err(), "a new connection knows no alias");
    }

    #[test]
    fn a_publisher_beyond_the_window_is_told() {
        let pattern = TopicPattern::parse("#").expect("valid");
        let mut server = Session::server(Version::V5, pattern, None);
        for id in 1..=RECEIVE_MAXIMUM {
            server.receive(message("a", id, None)).expect("within the window");
        }
        assert_eq!(server.receive(message("a", 20_000, None)).expect_err("beyond").code(), 0x93);
    }

    #[test]
    fn a_subscription_is_heard_of_once() {
        let wanted = |drops| Wanted {
            filters: vec!["a".to_owned()],
            qos: QoS::AtLeastOnce,
            on_downgrade: OnDowngrade::Refuse,
            drops,
        };
        let ack = |codes: &[u8]| Packet::SubAck(FilterAck { id: 1, codes: codes.to_vec(), reason: None });
        for (codes, expected) in [(&[1], "Subscribed"), (&[0], "QoS 0"), (&[0x87], "0x87"), (&[2], "Subscribed")] {
            let mut session = client();
            session.subscribe(wanted(Drops::Ignore)).expect("short");
            let heard = session.receive(ack(codes)).expect("in order");
            assert!(format!("{heard:?}").contains(expected), "{heard:?}");
            session.receive(ack(codes)).expect_err("answers nothing any more");
        }
        client().receive(ack(&[0])).expect_err("answers nothing");
    }

    #[test]
    fn the_brokers_counter_of_drops_is_no_message_of_the_source() {
        let drops = |count: &str| {
            let payload = Bytes::copy_from_slice(count.as_bytes());
            Packet::Publish(Publish { topic: DROPS_TOPIC.into(), payload, ..Publish::default() })
        };
        let mut session = Session::client(Version::V5, Retained::Skip, Some(DropCount::default()));
        session.receive(drops("3")).expect("good");
        assert!(session.told.is_empty(), "before our time");
        session.receive(drops("5")).expect("good");
        assert!(session.told[0].contains("has dropped 2 messages"), "{:?}", session.told);
        assert_eq!(session.errors, ["broker_drops"]);
        assert!(session.take_batch().is_none());
        // Who does not watch it may read it as a topic.
        let mut session = client();
        session.receive(drops("5")).expect("good");
        assert!(session.take_batch().is_some());
    }
}
