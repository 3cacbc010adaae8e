//! What one connection knows and decides, whatever the packet: a state machine without I/O, clock or waiting.
//!
//! ```text
//!                   ┌─ PUBLISH, PUBREL ──► Receiver ──► batches to the log, answers when they are durable
//!   packets ─receive┤
//!                   └─ the rest ─────────► answered at once, or told to the owner (Heard)
//! ```
//!
//! Here stands what differs between the two roles: a client asks for its subscription and does not want every retained copy; a
//! server judges topics, and holds its clients to the limits it has announced.

use bytes::{Bytes, BytesMut};
use tidemill_engine::source::{Chunk, Note};
use tokio::time::Instant;

use super::listener::{Guest, Verdict};
use super::packet::{FilterAck, Packet, Publish, QoS, RetainHandling, Unsubscribe, Version, Violation, reason};
use super::receiver::{Fate, RECEIVE_MAXIMUM, Receiver};
use super::remembered::{Copy, Remembered};
use super::sender;
use super::subscribing::{Answer, DROPS_TOPIC, DropCount, UNSUBSCRIBE_ID, Wanted};
use super::write;

/// What to do with messages that a broker kept from before we subscribed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retained {
    /// Take them as readings, each copy once.
    Use,
    /// Acknowledge and forget them.
    Skip,
}

/// Which end of the connection we are.
#[derive(Debug)]
enum Role {
    Client { retained: Retained, subscribing: Option<Wanted>, drops: Option<DropCount> },
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

/// One connection after its handshake.
#[derive(Debug)]
pub(super) struct Session {
    version: Version,
    role: Role,
    receiver: Receiver,
    /// What is to be written.
    pub(super) out: BytesMut,
    /// Kinds to be counted by the owner, who empties it.
    pub(super) errors: Vec<&'static str>,
    /// What is to be logged by the owner, who empties it.
    pub(super) told: Vec<String>,
}

impl Session {
    /// Begins a connection as the client of a broker.
    pub(super) fn client(version: Version, retained: Retained, remembered: Remembered) -> Self {
        Session::new(version, Role::Client { retained, subscribing: None, drops: None }, remembered)
    }

    /// Begins a connection with a client of ours.
    pub(super) fn server(version: Version, guest: Guest, remembered: Remembered) -> Self {
        Session::new(version, Role::Server(Box::new(guest)), remembered)
    }

    /// Returns who is at the other end of a server's connection.
    pub(super) fn guest(&mut self) -> Option<&mut Guest> {
        match &mut self.role {
            Role::Server(guest) => Some(guest),
            Role::Client { .. } => None,
        }
    }

    fn new(version: Version, role: Role, remembered: Remembered) -> Self {
        let receiver = Receiver::new(version, remembered);
        Session { version, role, receiver, out: BytesMut::new(), errors: Vec::new(), told: Vec::new() }
    }

    /// Ends the connection, and gives back what outlives it. Every batch must be durable.
    pub(super) fn take_remembered(&mut self) -> Remembered {
        self.receiver.take_remembered()
    }

    /// Says that the peer has lost the session, before anything is received.
    pub(super) fn lose_session(&mut self) {
        self.receiver.lose_session();
        self.errors.push("session_lost");
    }

    /// Returns how often the peer has lost the session.
    pub(super) fn epoch(&self) -> u64 {
        self.receiver.remembered().epoch()
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
            Retained::Use => RetainHandling::IfNew,
            Retained::Skip => RetainHandling::Never,
        };
        let packet = wanted.packet(retain_handling);
        *subscribing = Some(wanted);
        write::subscribe(self.version, &packet, &mut self.out)
    }

    /// Gives a subscription up; what the broker has queued for it still comes.
    pub(super) fn unsubscribe(&mut self, filters: Vec<String>) -> Result<(), Violation> {
        write::unsubscribe(self.version, &Unsubscribe { id: UNSUBSCRIBE_ID, filters }, &mut self.out)
    }

    /// Takes the broker's counter of dropped messages for what it is, and not for a message of the source.
    pub(super) fn watch_drops(&mut self, count: DropCount) {
        if let Role::Client { drops, .. } = &mut self.role {
            *drops = Some(count);
        }
    }

    /// Takes a packet. After an error the connection must end; what was taken before is still good.
    pub(super) fn receive(&mut self, packet: Packet) -> Result<Heard, Violation> {
        match packet {
            Packet::Publish(publish) => self.publish(publish)?,
            // Whatever its reason code says: it gives up the id.
            Packet::PubRel(release) => self.receiver.release(release.id),
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
            Packet::SubAck(ack) => self.suback(&ack),
            Packet::UnsubAck(ack) if ack.id == UNSUBSCRIBE_ID => Ok(Heard::Nothing),
            other => Err(other.unexpected()),
        }
    }

    fn receive_from_client(&mut self, packet: Packet) -> Result<(), Violation> {
        let Role::Server(guest) = &mut self.role else { return Err(packet.unexpected()) };
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
            Packet::PubAck(ack) => self.answered(sender::Answer::Ack { id: ack.id, code: ack.code })?,
            Packet::PubRec(ack) => self.answered(sender::Answer::Received { id: ack.id, code: ack.code })?,
            Packet::PubComp(ack) => self.answered(sender::Answer::Complete { id: ack.id })?,
            other => return Err(other.unexpected()),
        }
        Ok(())
    }

    /// Takes the answer of a client to a message, and puts what the log must know of it into the next record.
    fn answered(&mut self, answer: sender::Answer) -> Result<(), Violation> {
        let Role::Server(guest) = &mut self.role else { return Ok(()) };
        if let Some(note) = guest.answered(answer)? {
            self.receiver.note(note);
        }
        Ok(())
    }

    /// Plans the answer to a SUBSCRIBE or UNSUBSCRIBE: it leaves when the log knows what has changed.
    fn answer(&mut self, (packet, notes): (Bytes, Vec<Note>)) {
        for note in notes {
            self.receiver.note(note);
        }
        self.receiver.answer(&packet[..]);
    }

    fn publish(&mut self, mut publish: Publish) -> Result<(), Violation> {
        self.receiver.resolve(&mut publish)?;
        if publish.topic == DROPS_TOPIC.as_bytes()
            && publish.qos == QoS::AtMostOnce
            && self.hear_drops(&publish.payload)
        {
            return Ok(());
        }
        let fate = self.judge(&publish);
        self.errors.extend(self.receiver.publish(publish, fate)?);
        // A broker that exceeds the window is tolerated: closing would bring the same messages again.
        let max = usize::from(RECEIVE_MAXIMUM);
        if self.receiver.in_flight() > max && self.version == Version::V5 && !self.is_client() {
            return Err(Violation::ReceiveMaximum { max });
        }
        Ok(())
    }

    fn judge(&mut self, publish: &Publish) -> Fate {
        match &mut self.role {
            Role::Client { retained: Retained::Skip, .. } if publish.retain => Fate::Drop(reason::SUCCESS),
            Role::Client { retained: Retained::Skip, .. } => Fate::Take(reason::SUCCESS),
            Role::Client { retained: Retained::Use, .. } if publish.retain => {
                match self.receiver.retained_copy(publish) {
                    Copy::Fresh => Fate::Take(reason::SUCCESS),
                    Copy::Repeat => Fate::Drop(reason::SUCCESS),
                    Copy::Forgotten => {
                        self.errors.push("retained_topics");
                        Fate::Take(reason::SUCCESS)
                    }
                }
            }
            Role::Client { retained: Retained::Use, .. } => {
                self.receiver.may_be_retained(publish);
                Fate::Take(reason::SUCCESS)
            }
            Role::Server(guest) => match guest.judge(&publish.topic) {
                Verdict::Taken => Fate::Take(reason::SUCCESS),
                // Kept all the same: the decoder makes a dead letter of it, where somebody can find it.
                Verdict::Unmatched => {
                    self.errors.push("topic");
                    Fate::Take(reason::NO_MATCHING_SUBSCRIBERS)
                }
                Verdict::Refused => {
                    self.errors.push("acl");
                    Fate::Drop(reason::NOT_AUTHORIZED)
                }
            },
        }
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
        self.receiver.batch_is_full()
    }

    /// Says whether too many answers wait for the log.
    pub(super) fn is_behind(&self) -> bool {
        self.receiver.is_behind()
    }

    /// Hands over what was received since the last call, to be one record; its answers wait for [`Session::durable`].
    pub(super) fn take_batch(&mut self) -> Option<Chunk> {
        let chunk = self.receiver.take_batch(&mut self.out)?;
        Some(match &mut self.role {
            Role::Server(guest) => guest.hand_over(chunk),
            Role::Client { .. } => chunk,
        })
    }

    /// Says that the oldest batch handed over is durable: its answers are written to `out`.
    pub(super) fn durable(&mut self) {
        self.receiver.durable(&mut self.out);
        if let Role::Server(guest) = &mut self.role {
            guest.durable();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::remembered::Lasts;
    use crate::mqtt::subscribing::{Drops, OnDowngrade};

    fn remembered() -> Remembered {
        Remembered::new("test", Lasts::InLog)
    }

    fn batch(session: &mut Session) -> Option<Vec<tidemill_engine::source::Message>> {
        session.take_batch().map(|chunk| match chunk {
            Chunk::Messages(messages) | Chunk::Noted(messages, _) => messages,
            Chunk::Range { .. } | Chunk::Decoded { .. } => panic!("MQTT sends messages as they come"),
        })
    }

    fn message(topic: &str, id: u16, alias: Option<u16>) -> Packet {
        let qos = if id == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
        let topic = Bytes::copy_from_slice(topic.as_bytes());
        Packet::Publish(Publish { topic, payload: Bytes::from_static(b"x"), qos, id, alias, ..Publish::default() })
    }

    fn client() -> Session {
        Session::client(Version::V5, Retained::Skip, remembered())
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
        let mut server = Session::server(Version::V5, Guest::anybody(Version::V5), remembered());
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
        let mut session = client();
        session.watch_drops(DropCount::default());
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
