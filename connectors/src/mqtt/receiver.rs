//! Receiving, in both roles: which messages and notes go to the log, and which answers leave when. No I/O, no clock.
//!
//! ```text
//!   PUBLISH, PUBREL ──► batch {messages, notes, answers} ──take_batch──► one record of the log
//!                                                 │                           │ receipt
//!                                                 └──► plan (in order) ◄───durable
//!                                                        │
//!                                                        ▼ PUBACK, PUBREC, PUBCOMP, in the order of what they answer
//! ```
//!
//! Exactly once, at QoS 2, is this: the id of a message is held from the record that has the message to the record that
//! has its release, and PUBCOMP leaves when that is durable. Then, wherever the power fails, the sender repeats what is
//! missing, and what it repeats is known:
//!
//! | the last that was durable, or reached the sender | it sends again | and we |
//! |---|---|---|
//! | nothing | PUBLISH | take it |
//! | the message | PUBLISH | know it: PUBREC |
//! | PUBREC | PUBREL | release it: PUBCOMP when durable |
//! | the release | PUBREL | know nothing of it: PUBCOMP |
//! | PUBCOMP | nothing; the id is free | have it free too |
//!
//! With PUBCOMP before the release is durable, the last row would break: a new message under the same id would be taken for
//! the old one.
//!
//! A receiver lives exactly as long as its connection. So an answer can leave only on the connection that delivered what it
//! answers: with the connection its plan is gone, and the peer sends again. Topic aliases die with it for the same reason.
//! What lives longer is [`Remembered`]. It may be ahead of the log, so it is handed on only when every receipt is there.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};
use tidemill_engine::source::{Chunk, Message, Note};

use super::attributes;
use super::held::ContentHash;
use super::packet::{Publish, QoS, Version, Violation, reason};
use super::remembered::{Arena, Copy, Lasts, Remembered};
use super::write;

/// How many unacknowledged messages we let a peer of version 5 have: enough for 100 bytes × one sync of 5 ms at wire speed.
pub(super) const RECEIVE_MAXIMUM: u16 = 16_384;
/// How many topic aliases a peer may define on one connection.
pub(super) const TOPIC_ALIAS_MAX: u16 = 64;
/// A batch is full when it has this many messages, or notes, or [`BATCH_BYTES_MAX`]: at most one packet more than that goes
/// into a chunk.
pub(super) const BATCH_MESSAGES_MAX: usize = 8_192;
/// See [`BATCH_MESSAGES_MAX`].
pub(super) const BATCH_BYTES_MAX: usize = 1 << 20;
/// How many answers may wait for the log before no more is read: those to all packet ids there are, twice.
const ANSWERS_MAX: usize = 1 << 17;

/// What becomes of a message, as the role decides it; the code is what version 5 tells its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is logged.
    Take(u8),
    /// It is answered and forgotten.
    Drop(u8),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    PubAck { id: u16, code: u8 },
    PubRec { id: u16, code: u8 },
    PubComp { id: u16 },
    Packet(Box<[u8]>),
}

/// An answer that waits for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Due {
    answer: Answer,
    /// Whether it ends one of the messages that the peer has in flight.
    ends_one: bool,
}

/// The receiving half of one connection.
#[derive(Debug)]
pub(super) struct Receiver {
    version: Version,
    remembered: Remembered,
    /// Slot `n` holds alias `n + 1`; an empty topic is an alias that is not defined.
    aliases: Vec<Bytes>,
    messages: Vec<Message>,
    message_bytes: usize,
    notes: Vec<Note>,
    arena: Arena,
    dues: Vec<Due>,
    plan: VecDeque<Vec<Due>>,
    due_count: usize,
    in_flight: usize,
}

impl Receiver {
    /// Begins a connection of a session.
    pub(super) fn new(version: Version, mut remembered: Remembered) -> Self {
        remembered.held.begin_connection();
        Receiver {
            version,
            remembered,
            aliases: Vec::new(),
            messages: Vec::new(),
            message_bytes: 0,
            notes: Vec::new(),
            arena: Arena::default(),
            dues: Vec::new(),
            plan: VecDeque::new(),
            due_count: 0,
            in_flight: 0,
        }
    }

    /// Returns the session.
    pub(super) fn remembered(&self) -> &Remembered {
        &self.remembered
    }

    /// Ends the connection, and gives the session back. Every batch must be durable.
    pub(super) fn take_remembered(&mut self) -> Remembered {
        std::mem::replace(&mut self.remembered, Remembered::new("", Lasts::Connection))
    }

    /// Says that the peer has lost the session, before anything is received.
    pub(super) fn lose_session(&mut self) {
        let notes = self.remembered.lose();
        self.notes.extend(notes);
    }

    /// Puts something more into the record of this batch.
    pub(super) fn note(&mut self, note: Note) {
        self.notes.push(note);
    }

    /// Answers with a packet when this batch, and so all before it, is durable.
    pub(super) fn answer(&mut self, packet: impl Into<Box<[u8]>>) {
        self.due(Answer::Packet(packet.into()), false);
    }

    /// Finds the topic behind an alias, or defines one.
    pub(super) fn resolve(&mut self, publish: &mut Publish) -> Result<(), Violation> {
        let Some(alias) = publish.alias else {
            if publish.topic.is_empty() {
                return Err(Violation::Protocol("a PUBLISH has neither topic nor alias".to_owned()));
            }
            return Ok(());
        };
        let undefined = Violation::Alias { alias, max: TOPIC_ALIAS_MAX };
        if alias == 0 || alias > TOPIC_ALIAS_MAX {
            return Err(undefined);
        }
        let slot = usize::from(alias) - 1;
        if publish.topic.is_empty() {
            let topic = self.aliases.get(slot).filter(|topic| !topic.is_empty()).ok_or(undefined)?;
            publish.topic = topic.clone();
            return Ok(());
        }
        if self.aliases.len() <= slot {
            self.aliases.resize(slot + 1, Bytes::new());
        }
        // Copied: a slice would keep its whole read buffer for the life of the connection.
        self.aliases[slot] = Bytes::copy_from_slice(&publish.topic);
        Ok(())
    }

    /// Takes a message whose topic is resolved. Returns what is to be counted, if anything is. After an error the connection
    /// must end; what was taken before is still good.
    pub(super) fn publish(&mut self, publish: Publish, fate: Fate) -> Result<Option<&'static str>, Violation> {
        let id = publish.id;
        match (publish.qos, fate) {
            (QoS::AtMostOnce, Fate::Take(_)) => self.append(publish),
            (QoS::AtMostOnce, Fate::Drop(_)) => {}
            (QoS::AtLeastOnce, Fate::Take(code) | Fate::Drop(code)) => {
                self.count_in_flight();
                self.due(Answer::PubAck { id, code }, true);
                if matches!(fate, Fate::Take(_)) {
                    self.append(publish);
                }
            }
            // Nothing is held: a PUBREL that follows is one for an unknown id, and answered all the same.
            (QoS::ExactlyOnce, Fate::Drop(code)) => {
                self.count_in_flight();
                self.due(Answer::PubRec { id, code }, true);
            }
            (QoS::ExactlyOnce, Fate::Take(code)) => return self.publish_exactly_once(publish, code),
        }
        Ok(None)
    }

    fn publish_exactly_once(&mut self, publish: Publish, code: u8) -> Result<Option<&'static str>, Violation> {
        let id = publish.id;
        let hash = ContentHash::of(&publish.topic, &publish.payload, &publish.properties);
        let arrival = self.remembered.held.publish(id, hash)?;
        if arrival.is_counted {
            self.count_in_flight();
        }
        if arrival.has_changed {
            self.notes.extend(self.remembered.note_of_held(id, &mut self.arena));
        }
        if arrival.is_new {
            self.append(publish);
        }
        if !arrival.waits {
            self.due(Answer::PubRec { id, code }, false);
        }
        Ok(match arrival {
            // A broker without its state, or with an old one. The message is kept.
            _ if arrival.is_reuse => Some("broker_id_reuse"),
            _ if !arrival.is_new => Some("duplicate"),
            _ => None,
        })
    }

    /// Takes a PUBREL. One that we know nothing of is confirmed like any other, or its sender would repeat it for ever.
    pub(super) fn release(&mut self, id: u16) {
        let released = self.remembered.held.release(id);
        if released.is_some() {
            self.notes.extend(self.remembered.note_of_held(id, &mut self.arena));
        }
        self.due(Answer::PubComp { id }, released.is_some_and(|released| released.was_counted));
        if released.is_some_and(|released| released.next_waits) {
            self.due(Answer::PubRec { id, code: reason::SUCCESS }, false);
        }
    }

    /// Decides about a retained copy of a broker where copies are readings: one that was taken before is dropped.
    pub(super) fn retained_copy(&mut self, publish: &Publish) -> Copy {
        let hash = ContentHash::of(&publish.topic, &publish.payload, &publish.properties);
        let copy = self.remembered.retained_copy(&publish.topic, hash);
        if copy == Copy::Fresh {
            self.notes.extend(self.remembered.took_retained(&publish.topic, hash, &mut self.arena));
        }
        copy
    }

    /// Hears a live message where retained copies are readings: it may be the next retained copy of its topic.
    pub(super) fn may_be_retained(&mut self, publish: &Publish) {
        if self.remembered.has_retained(&publish.topic) {
            let hash = ContentHash::of(&publish.topic, &publish.payload, &publish.properties);
            self.notes.extend(self.remembered.took_retained(&publish.topic, hash, &mut self.arena));
        }
    }

    fn append(&mut self, publish: Publish) {
        let attributes = attributes::encode(&publish, &mut self.arena);
        let message = Message { topic: publish.topic, payload: publish.payload, attributes };
        self.message_bytes += message.byte_count();
        self.messages.push(message);
    }

    /// Counts one more message of QoS 1 or 2 that the peer has not heard the last of.
    fn count_in_flight(&mut self) {
        self.in_flight += 1;
    }

    /// Returns how many messages of QoS 1 and 2 the peer has in flight on this connection.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn due(&mut self, answer: Answer, ends_one: bool) {
        self.due_count += 1;
        self.dues.push(Due { answer, ends_one });
    }

    /// Says whether the batch should be handed over before more is received.
    pub(super) fn batch_is_full(&self) -> bool {
        self.messages.len() >= BATCH_MESSAGES_MAX
            || self.notes.len() >= BATCH_MESSAGES_MAX
            || self.message_bytes >= BATCH_BYTES_MAX
            || self.due_count >= ANSWERS_MAX
    }

    /// Says whether too many answers wait for the log.
    pub(super) fn is_behind(&self) -> bool {
        self.due_count >= ANSWERS_MAX
    }

    /// Hands over what was received since the last call, to be one record; its answers wait for [`Receiver::durable`].
    pub(super) fn take_batch(&mut self, out: &mut BytesMut) -> Option<Chunk> {
        let dues = std::mem::take(&mut self.dues);
        self.message_bytes = 0;
        self.arena = Arena::default();
        if self.messages.is_empty() && self.notes.is_empty() {
            // Nothing to log, but the order of answers must hold: they leave with those before them.
            match self.plan.back_mut() {
                Some(last) => last.extend(dues),
                None => self.write(dues, out),
            }
            return None;
        }
        self.plan.push_back(dues);
        let messages = std::mem::take(&mut self.messages);
        if self.notes.is_empty() {
            return Some(Chunk::Messages(messages));
        }
        Some(Chunk::Noted(messages, std::mem::take(&mut self.notes)))
    }

    /// Says that the oldest batch handed over is durable: its answers are written to `out`.
    pub(super) fn durable(&mut self, out: &mut BytesMut) {
        let dues = self.plan.pop_front().expect("every receipt belongs to a batch of the plan");
        self.write(dues, out);
    }

    fn write(&mut self, dues: Vec<Due>, out: &mut BytesMut) {
        self.due_count -= dues.len();
        out.reserve(dues.len() * 4);
        for Due { answer, ends_one } in dues {
            self.in_flight -= usize::from(ends_one);
            match answer {
                Answer::PubAck { id, code } => write::puback(self.version, id, code, out),
                Answer::PubRec { id, code } => write::pubrec(self.version, id, code, out),
                Answer::PubComp { id } => write::pubcomp(self.version, id, reason::SUCCESS, out),
                Answer::Packet(packet) => out.put_slice(&packet),
            }
        }
    }
}
