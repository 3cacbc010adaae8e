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
use tidemill_engine::source::{Chunk, Message, Note};
use tokio::time::Instant;

use super::packet::{
    FilterAck, Packet, Publish, QoS, RetainHandling, Subscribe, Subscription, Version, Violation, reason,
};
use super::attributes;
use super::listener::{Guest, Verdict};
use super::sender::Answer;
use super::write;

/// How many unacknowledged messages we let a peer of version 5 have: enough for 100 bytes × one sync of 5 ms at wire speed.
pub(super) const RECEIVE_MAXIMUM: u16 = 16_384;
/// How many topic aliases a peer may define on one connection.
pub(super) const TOPIC_ALIAS_MAX: u16 = 64;
/// A batch is full when it has this many messages, or [`BATCH_BYTES_MAX`]: at most one packet more than that goes into a chunk.
pub(super) const BATCH_MESSAGES_MAX: usize = 8_192;
/// See [`BATCH_MESSAGES_MAX`].
pub(super) const BATCH_BYTES_MAX: usize = 1 << 20;
/// The one packet id we ever use: for SUBSCRIBE.
const SUBSCRIBE_ID: u16 = 1;

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
    Client { retained: Retained, subscribing: Option<QoS> },
    Server(Box<Guest>),
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

#[derive(Clone, Debug, PartialEq, Eq)]
enum Ack {
    Puback { id: u16, code: u8 },
    /// An answer to something else than a message.
    Packet(Bytes),
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
    notes: Vec<Note>,
    acks: Vec<Ack>,
    plan: VecDeque<Vec<Ack>>,
    unacked_count: usize,
    /// What is to be written.
    pub(super) out: BytesMut,
    /// Kinds to be counted by the owner, who empties it.
    pub(super) errors: Vec<&'static str>,
}

impl Session {
    /// Begins a session as the client of a broker.
    pub(super) fn client(version: Version, retained: Retained) -> Self {
        Session::new(version, Role::Client { retained, subscribing: None })
    }

    /// Begins a session with a client of ours.
    pub(super) fn server(version: Version, guest: Guest) -> Self {
        Session::new(version, Role::Server(Box::new(guest)))
    }

    /// Returns who is at the other end of a server's session.
    pub(super) fn guest(&mut self) -> Option<&mut Guest> {
        match &mut self.role {
            Role::Server(guest) => Some(guest),
            Role::Client { .. } => None,
        }
    }

    fn new(version: Version, role: Role) -> Self {
        Session {
            version,
            role,
            aliases: Vec::new(),
            messages: Vec::new(),
            message_bytes: 0,
            notes: Vec::new(),
            acks: Vec::new(),
            plan: VecDeque::new(),
            unacked_count: 0,
            out: BytesMut::new(),
            errors: Vec::new(),
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
    pub(super) fn subscribe(&mut self, filter: &str, qos: QoS) -> Result<(), Violation> {
        let Role::Client { retained, subscribing } = &mut self.role else { return Ok(()) };
        *subscribing = Some(qos);
        let retain_handling = match retained {
            Retained::Keep => RetainHandling::IfNew,
            Retained::Skip => RetainHandling::Never,
        };
        let subscription = Subscription { filter: filter.to_owned(), qos, retain_handling, ..Subscription::default() };
        let subscribe = Subscribe { id: SUBSCRIBE_ID, subscriptions: vec![subscription], subscription_id: None };
        write::subscribe(self.version, &subscribe, &mut self.out)
    }

    /// Takes a packet. After an error the connection must end; what was taken before is still good.
    pub(super) fn receive(&mut self, packet: Packet) -> Result<Heard, Violation> {
        match packet {
            Packet::Publish(publish) => return self.publish(publish).map(|()| Heard::Nothing),
            // A release that we know nothing of must be confirmed all the same, or the peer repeats it for ever.
            Packet::PubRel(release) => write::pubcomp(self.version, release.id, reason::SUCCESS, &mut self.out),
            Packet::Disconnect { code, reason, session_expiry_s } => {
                if let (Role::Server(guest), Some(session_expiry_s)) = (&mut self.role, session_expiry_s) {
                    guest.change_expiry(session_expiry_s)?;
                }
                return Ok(Heard::Disconnected { code, reason });
            }
            packet if self.is_client() => return self.receive_from_broker(packet),
            packet => self.receive_from_client(packet)?,
        }
        Ok(Heard::Nothing)
    }

    fn receive_from_broker(&mut self, packet: Packet) -> Result<Heard, Violation> {
        match packet {
            Packet::PingResp => Ok(Heard::Nothing),
            Packet::SubAck(FilterAck { id, codes, reason }) => self.suback(id, &codes, reason),
            other => Err(unexpected(&other)),
        }
    }

    fn receive_from_client(&mut self, packet: Packet) -> Result<(), Violation> {
        let Role::Server(guest) = &mut self.role else { return Err(unexpected(&packet)) };
        match packet {
            Packet::PingReq => write::pingresp(&mut self.out),
            Packet::Subscribe(subscribe) => {
                let answer = guest.subscribe(&subscribe);
                self.answer(answer);
            }
            Packet::Unsubscribe(unsubscribe) => {
                let answer = guest.unsubscribe(&unsubscribe);
                self.answer(answer);
            }
            Packet::PubAck(ack) => guest.answered(Answer::Ack { id: ack.id, code: ack.code })?,
            Packet::PubRec(ack) => guest.answered(Answer::Received { id: ack.id, code: ack.code })?,
            Packet::PubComp(ack) => guest.answered(Answer::Complete { id: ack.id })?,
            other => return Err(unexpected(&other)),
        }
        Ok(())
    }

    /// Plans an answer to a SUBSCRIBE or UNSUBSCRIBE: it leaves when the log knows what has changed.
    fn answer(&mut self, (packet, note): (Bytes, Option<Note>)) {
        self.notes.extend(note);
        self.acks.push(Ack::Packet(packet));
    }

    fn publish(&mut self, mut publish: Publish) -> Result<(), Violation> {
        if publish.qos == QoS::ExactlyOnce {
            return Err(Violation::QosNotSupported);
        }
        publish.topic = self.resolve(std::mem::take(&mut publish.topic), publish.alias)?;
        let mut code = reason::SUCCESS;
        let mut wanted = true;
        match &mut self.role {
            Role::Client { retained, .. } => wanted = !publish.retain || *retained == Retained::Keep,
            Role::Server(guest) => match guest.judge(&publish.topic) {
                Verdict::Taken => {}
                // Kept all the same: the decoder makes a dead letter of it, where somebody can find it.
                Verdict::Unmatched => {
                    self.errors.push("topic");
                    code = reason::NO_MATCHING_SUBSCRIBERS;
                }
                Verdict::Refused => {
                    self.errors.push("acl");
                    code = reason::NOT_AUTHORIZED;
                    wanted = false;
                }
            },
        }
        if publish.qos == QoS::AtLeastOnce {
            self.unacked_count += 1;
            let max = usize::from(RECEIVE_MAXIMUM);
            // A broker that exceeds the window is tolerated: closing would bring the same messages again.
            if self.unacked_count > max && self.version == Version::V5 && !self.is_client() {
                return Err(Violation::ReceiveMaximum { max });
            }
            self.acks.push(Ack::Puback { id: publish.id, code });
        }
        if wanted {
            let message = attributes::message(publish);
            self.message_bytes += message.byte_count();
            if let Role::Server(guest) = &mut self.role {
                guest.taken(&message);
            }
            self.messages.push(message);
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

    fn suback(&mut self, id: u16, codes: &[u8], why: Option<String>) -> Result<Heard, Violation> {
        let Role::Client { subscribing, .. } = &mut self.role else {
            return Err(Violation::Protocol("a SUBACK from a client".to_owned()));
        };
        let (Some(asked), SUBSCRIBE_ID, &[code]) = (*subscribing, id, codes) else {
            return Err(Violation::Protocol("a SUBACK that answers no SUBSCRIBE of ours".to_owned()));
        };
        *subscribing = None;
        let why = why.map(|why| format!(": {why}")).unwrap_or_default();
        if code >= reason::SUBACK_FAILURE {
            return Ok(Heard::Refused(format!("the broker refused the subscription (reason {code:#04x}{why})")));
        }
        if code < asked as u8 {
            return Ok(Heard::Refused(format!(
                "the broker granted QoS {code} where QoS {} was asked{why}; with qos = '{code}' the source accepts that",
                asked as u8
            )));
        }
        Ok(Heard::Subscribed)
    }

    /// Writes what subscribers of ours get next; returns whether there may be more.
    pub(super) fn pump(&mut self, now: Instant) -> Result<bool, Violation> {
        match &mut self.role {
            Role::Server(guest) => guest.pump(now, &mut self.out),
            Role::Client { .. } => Ok(false),
        }
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
    pub(super) fn take_batch(&mut self) -> Option<Chunk> {
        let acks = std::mem::take(&mut self.acks);
        self.message_bytes = 0;
        if !self.messages.is_empty() || !self.notes.is_empty() {
            self.plan.push_back(acks);
            if let Role::Server(guest) = &mut self.role {
                guest.handed_over();
            }
            let (messages, notes) = (std::mem::take(&mut self.messages), std::mem::take(&mut self.notes));
            return Some(if notes.is_empty() { Chunk::Messages(messages) } else { Chunk::Noted(messages, notes) });
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
        if let Role::Server(guest) = &mut self.role {
            guest.durable();
        }
    }

    fn write_acks(&mut self, acks: Vec<Ack>) {
        self.out.reserve(acks.len() * 4);
        for ack in acks {
            match ack {
                Ack::Puback { id, code } => {
                    self.unacked_count -= 1;
                    write::puback(self.version, id, code, &mut self.out);
                }
                Ack::Packet(packet) => self.out.extend_from_slice(&packet),
            }
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
            Role::Server(guest) => {
                if self.version == Version::V5 {
                    let mut packet = BytesMut::new();
                    write::disconnect(self.version, code, why, &mut packet);
                    if packet.len() > guest.packet_bytes_max() {
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

    fn message(topic: &str, id: u16, alias: Option<u16>) -> Packet {
        let qos = if id == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
        let topic = Bytes::copy_from_slice(topic.as_bytes());
        Packet::Publish(Publish { topic, payload: Bytes::from_static(b"x"), qos, id, alias, ..Publish::default() })
    }

    fn batch(session: &mut Session) -> Option<Vec<Message>> {
        session.take_batch().map(|chunk| match chunk {
            Chunk::Messages(messages) | Chunk::Noted(messages, _) => messages,
            Chunk::Range { .. } => panic!("MQTT cannot be read again"),
        })
    }

    fn client() -> Session {
        Session::client(Version::V5, Retained::Skip)
    }

    #[test]
    fn acknowledgements_leave_in_receive_order_and_only_when_durable() {
        let mut session = client();
        session.receive(message("a", 7, None)).expect("good");
        session.receive(message("a", 3, None)).expect("good");
        assert_eq!(batch(&mut session).map(|batch| batch.len()), Some(2));
        session.receive(message("a", 0, None)).expect("good");
        session.receive(message("a", 5, None)).expect("good");
        assert_eq!(batch(&mut session).map(|batch| batch.len()), Some(2));
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
        let topics: Vec<Bytes> = batch(&mut session).expect("messages").into_iter().map(|m| m.topic).collect();
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
        let mut server = Session::server(Version::V5, Guest::anybody(Version::V5));
        for id in 1..=RECEIVE_MAXIMUM {
            server.receive(message("a", id, None)).expect("within the window");
        }
        assert_eq!(server.receive(message("a", 20_000, None)).expect_err("beyond").code(), 0x93);
    }

    #[test]
    fn a_refused_or_downgraded_subscription_is_told_apart_from_a_granted_one() {
        for (codes, expected) in
            [(vec![1], "Subscribed"), (vec![0], "QoS 0"), (vec![0x87], "0x87"), (vec![2], "Subscribed")]
        {
            let mut session = client();
            session.subscribe("a", QoS::AtLeastOnce).expect("short");
            let heard = session.receive(Packet::SubAck(FilterAck { id: 1, codes, reason: None })).expect("in order");
            assert!(format!("{heard:?}").contains(expected), "{heard:?}");
        }
        let stray = Packet::SubAck(FilterAck { id: 1, codes: vec![0], reason: None });
        assert!(client().receive(stray).is_err());
    }
}
