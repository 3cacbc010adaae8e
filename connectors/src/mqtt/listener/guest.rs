//! One client in the house: what it may publish, what it has subscribed to, and what it is sent.
//!
//! ```text
//!   PUBLISH ──judge──► taken into the batch, or refused by the access file
//!                        │ durable
//!                        ▼
//!                       Hub ──► Mailbox ──pump──► Sender ──► PUBLISH, PUBREL        ◄── PUBACK, PUBREC, PUBCOMP
//!                                  ▲ subscribe
//! ```
//!
//! A session (`../session.rs`) of ours as the server owns one and asks it. Like that it waits for nothing and does no I/O.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tidemill_engine::source::{Chunk, Message, Note};
use tokio::sync::watch;
use tokio::time::Instant;

use super::super::attributes::{self, Attributes};
use super::super::packet::{QoS, RetainHandling, Subscribe, Subscription, Unsubscribe, Version, Violation, reason};
use super::super::sender::{Answer, Outgoing};
use super::super::topic::TopicPattern;
use super::super::write;
use super::acl::{Access, Acl, Permits};
use super::auth::Who;
use super::delivery::{Delivery, Grant};
use super::filter;
use super::hub::{Announced, Hub, Publication, expiry_of};
use super::mailbox::{Mailbox, Reserved, Waits};
use super::note;
use super::outbox::Progress;
use super::saved::Notes;
use super::sessions::{Expiry, Kept, SUBSCRIPTIONS_MAX};

/// So many bytes of packets may wait for the socket before no more are made.
const OUT_BYTES_MAX: usize = 64 << 10;

/// What a client is allowed, as the access file says now.
pub(super) struct Rules {
    file: Option<watch::Receiver<Arc<Acl>>>,
    who: Who,
    client_id: Arc<str>,
    permits: Permits,
}

impl Rules {
    /// Asks the access file, if there is one.
    pub(super) fn new(file: Option<watch::Receiver<Arc<Acl>>>, who: Who, client_id: Arc<str>) -> Rules {
        let mut rules = Rules { file, who, client_id, permits: Permits::everything() };
        if let Some(file) = &mut rules.file {
            file.mark_changed();
        }
        rules
    }

    /// Returns what is allowed now.
    pub(super) fn permits(&mut self) -> &Permits {
        if let Some(file) = &mut self.file
            && file.has_changed().unwrap_or(false)
        {
            self.permits = file.borrow_and_update().permits(self.who.user(), &self.client_id);
        }
        &self.permits
    }
}

/// What becomes of a PUBLISH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mqtt) enum Verdict {
    /// It is logged.
    Taken,
    /// It is logged, and will be a dead letter: the source's topic does not match.
    Unmatched,
    /// The access file does not allow it: it is not logged.
    Refused,
}

/// See the module.
pub(in crate::mqtt) struct Guest {
    version: Version,
    pattern: TopicPattern,
    hub: Arc<Hub>,
    rules: Rules,
    client_id: Arc<str>,
    kept: Kept,
    /// The largest packet it takes.
    packet_bytes_max: usize,
    session_expiry_max_s: u32,
    /// What comes with the batch that is received now.
    next: Batch,
    /// What comes with the batches that are not durable yet.
    handed_over: VecDeque<Batch>,
}

/// What is to be done when a batch of the receiver is durable.
#[derive(Default)]
struct Batch {
    /// For subscribers.
    announced: Vec<Announced>,
    /// Retained copies that this client's subscriptions bring.
    reserved: Vec<Reserved>,
    /// The messages of which this client has said that it has them.
    received: Vec<u64>,
    notes: Notes,
}

impl std::fmt::Debug for Guest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guest").field("client_id", &self.client_id).finish_non_exhaustive()
    }
}

/// What a guest comes with.
pub(super) struct Arrival {
    pub(super) version: Version,
    pub(super) pattern: TopicPattern,
    pub(super) hub: Arc<Hub>,
    pub(super) rules: Rules,
    pub(super) client_id: Arc<str>,
    pub(super) kept: Kept,
    pub(super) session_expiry_max_s: u32,
    pub(super) packet_bytes_max: Option<u32>,
    /// How many unacknowledged messages it takes.
    pub(super) receive_maximum: Option<u16>,
}

impl Guest {
    /// Lets a client in.
    pub(super) fn new(arrival: Arrival) -> Guest {
        let Arrival { version, pattern, hub, rules, client_id, session_expiry_max_s, .. } = arrival;
        let Arrival { mut kept, packet_bytes_max, receive_maximum, .. } = arrival;
        kept.mailbox.set_present(true);
        kept.outbox.resume(receive_maximum);
        let packet_bytes_max = packet_bytes_max.and_then(|max| usize::try_from(max).ok()).unwrap_or(usize::MAX);
        Guest {
            version,
            pattern,
            hub,
            rules,
            client_id,
            kept,
            packet_bytes_max,
            session_expiry_max_s,
            next: Batch::default(),
            handed_over: VecDeque::new(),
        }
    }

    /// Lets it out, and gives its session back.
    pub(super) fn leave(&mut self) -> Kept {
        self.kept.mailbox.set_present(false);
        // What is left says good-bye only.
        std::mem::replace(&mut self.kept, Kept::new(0, 1, ""))
    }

    /// Returns the mailbox, whose bell says when to call [`Guest::pump`].
    pub(in crate::mqtt) fn mailbox(&self) -> &Arc<Mailbox> {
        &self.kept.mailbox
    }

    /// Returns the largest packet that the client takes.
    pub(in crate::mqtt) fn packet_bytes_max(&self) -> usize {
        self.packet_bytes_max
    }

    /// Decides about a PUBLISH.
    pub(in crate::mqtt) fn judge(&mut self, topic: &[u8]) -> Verdict {
        let Ok(topic) = std::str::from_utf8(topic) else { return Verdict::Unmatched };
        if !self.rules.permits().allow(Access::Write, topic) {
            return Verdict::Refused;
        }
        if self.pattern.accepts(topic) { Verdict::Taken } else { Verdict::Unmatched }
    }

    /// Says that a batch is handed to the log: what is in it is for subscribers, when it is durable. Adds what the log must
    /// know of what is retained.
    pub(in crate::mqtt) fn hand_over(&mut self, chunk: Chunk) -> Chunk {
        let (messages, mut notes) = match chunk {
            Chunk::Messages(messages) => (messages, Vec::new()),
            Chunk::Noted(messages, notes) => (messages, notes),
            // A device sends neither.
            chunk @ (Chunk::Range { .. } | Chunk::Decoded { .. }) => return chunk,
        };
        let mut batch = std::mem::take(&mut self.next);
        notes.extend(self.kept.mailbox.take_gone());
        batch.notes.list = notes;
        let is_idle = self.hub.is_idle();
        let wanted = messages.iter().filter(|message| !is_idle || attributes::is_retained(message));
        let publisher = self.kept.mailbox.number;
        let publications = wanted.filter_map(|message| publication(message, publisher));
        batch.announced = publications.map(|publication| self.hub.announce(publication, &mut batch.notes)).collect();
        let notes = batch.notes.take();
        self.handed_over.push_back(batch);
        if notes.is_empty() { Chunk::Messages(messages) } else { Chunk::Noted(messages, notes) }
    }

    /// Says that the oldest batch handed over is durable: subscribers get it.
    pub(in crate::mqtt) fn durable(&mut self) {
        let Some(batch) = self.handed_over.pop_front() else { return };
        for reserved in batch.reserved {
            drop(reserved.ready());
        }
        for number in batch.received {
            self.kept.outbox.release(number);
        }
        for announced in batch.announced {
            // Who is slow is dealt with by its mailbox; who publishes does not wait for it.
            let _ = self.hub.publish(announced);
        }
    }

    /// Takes a SUBSCRIBE; returns the SUBACK, and what the log must know first.
    pub(in crate::mqtt) fn subscribe(&mut self, subscribe: &Subscribe) -> (Bytes, Vec<Note>) {
        let mut codes = Vec::with_capacity(subscribe.subscriptions.len());
        let mut has_changed = false;
        for subscription in &subscribe.subscriptions {
            let code = match self.refusal(subscription) {
                Some(code) if self.version == Version::V5 => code,
                Some(_) => reason::SUBACK_FAILURE,
                None => {
                    has_changed |= self.add(subscription, subscribe.subscription_id);
                    subscription.qos as u8
                }
            };
            codes.push(code);
        }
        let mut suback = BytesMut::new();
        write::suback(self.version, subscribe.id, &codes, &mut suback);
        (suback.freeze(), self.notes_of(has_changed))
    }

    /// Takes an UNSUBSCRIBE; returns the UNSUBACK, and what the log must know first.
    pub(in crate::mqtt) fn unsubscribe(&mut self, unsubscribe: &Unsubscribe) -> (Bytes, Vec<Note>) {
        let mut has_changed = false;
        let codes: Vec<u8> = unsubscribe
            .filters
            .iter()
            .map(|filter| {
                if self.kept.subscriptions.remove(filter).is_none() {
                    return reason::NO_SUBSCRIPTION_EXISTED;
                }
                has_changed = true;
                self.hub.unsubscribe(self.kept.mailbox.number, filter);
                reason::SUCCESS
            })
            .collect();
        let mut unsuback = BytesMut::new();
        write::unsuback(self.version, unsubscribe.id, &codes, &mut unsuback);
        (unsuback.freeze(), self.notes_of(has_changed))
    }

    /// Takes an answer to what was sent; returns what the log must know. After an error the connection must end.
    pub(in crate::mqtt) fn answered(&mut self, answer: Answer) -> Result<Option<Note>, Violation> {
        let Kept { outbox, mailbox, .. } = &mut self.kept;
        Ok(match outbox.answered(answer)? {
            Progress::Nothing => None,
            Progress::Done(number) => mailbox.done(number),
            Progress::Received(number) => {
                let note = mailbox.received(number);
                match note {
                    Some(_) => self.next.received.push(number),
                    None => outbox.release(number),
                }
                note
            }
        })
    }

    /// Changes how long the session outlives its connection, as a good-bye may.
    pub(in crate::mqtt) fn change_expiry(&mut self, session_expiry_s: u32) -> Result<(), Violation> {
        if session_expiry_s > 0 && !self.kept.expiry.outlives() {
            let problem = "a DISCONNECT prolongs a session that ends with its connection";
            return Err(Violation::Protocol(problem.to_owned()));
        }
        self.kept.expiry = Expiry(session_expiry_s.min(self.session_expiry_max_s));
        Ok(())
    }

    /// Writes what is to be sent next, until `out` is full; returns whether there may be more. An error: the client is too slow.
    pub(in crate::mqtt) fn pump(&mut self, now: Instant, out: &mut BytesMut) -> Result<bool, Violation> {
        if self.kept.mailbox.has_overflowed() {
            return Err(Violation::TooSlow);
        }
        while out.len() < OUT_BYTES_MAX {
            let has_written = match self.kept.outbox.next() {
                Some(Outgoing::Publish { id, qos, dup, message, .. }) => {
                    debug_assert_eq!(message.qos, qos);
                    message.write(self.version, id, dup, now, out);
                    true
                }
                Some(Outgoing::Release { id }) => {
                    write::pubrel(self.version, id, reason::SUCCESS, out);
                    true
                }
                Some(Outgoing::Unknown { id }) => {
                    write::pubrel(self.version, id, reason::PACKET_ID_NOT_FOUND, out);
                    true
                }
                None => false,
            };
            // One at a time: what the window holds back stays in the mailbox, where it is counted.
            if !has_written {
                let next = if self.kept.outbox.has_room() { self.kept.mailbox.take() } else { None };
                match next {
                    Some((number, waits)) => self.offer(number, waits, now),
                    None => return Ok(false),
                }
            }
        }
        Ok(true)
    }

    fn offer(&mut self, number: u64, waits: Waits, now: Instant) {
        let waits = match waits {
            Waits::New(delivery) if !self.may_be_sent(&delivery, now) => {
                // The standard's way: as if it had been delivered.
                return self.kept.mailbox.drop_one(number);
            }
            Waits::PerhapsSent(delivery) if !self.may_be_sent(&delivery, now) => {
                if delivery.qos != QoS::ExactlyOnce {
                    return self.kept.mailbox.drop_one(number);
                }
                // If it was sent, the client holds its id until it is released.
                Waits::Received
            }
            waits => waits,
        };
        self.kept.outbox.offer(number, waits);
    }

    fn may_be_sent(&mut self, delivery: &Delivery, now: Instant) -> bool {
        let publication = &delivery.publication;
        !publication.is_expired(now)
            && self.rules.permits().allow(Access::Read, publication.topic())
            && (self.packet_bytes_max == usize::MAX
                || delivery.packet_bytes(self.version, now) <= self.packet_bytes_max)
    }

    /// Says why a subscription is refused, if it is.
    fn refusal(&mut self, subscription: &Subscription) -> Option<u8> {
        let wanted = subscription.filter.as_str();
        let is_new = !self.kept.subscriptions.contains_key(wanted);
        if wanted.starts_with("$share/") {
            return Some(reason::SHARED_NOT_SUPPORTED);
        }
        if filter::problem(wanted).is_some() {
            return Some(reason::TOPIC_FILTER_INVALID);
        }
        if !self.rules.permits().allow_subscription(wanted) {
            return Some(reason::NOT_AUTHORIZED);
        }
        let is_full = is_new && self.kept.subscriptions.len() >= SUBSCRIPTIONS_MAX;
        (is_full || self.kept.mailbox.is_full_of_retained()).then_some(reason::QUOTA_EXCEEDED)
    }

    /// Returns whether the session's subscriptions are different now.
    fn add(&mut self, subscription: &Subscription, subscription_id: Option<u32>) -> bool {
        let grant = Grant::new(subscription, subscription_id);
        let mailbox = &self.kept.mailbox;
        let before = self.kept.subscriptions.insert(subscription.filter.clone(), grant.clone());
        let wants_retained = match subscription.retain_handling {
            RetainHandling::Always => true,
            RetainHandling::IfNew => before.is_none(),
            RetainHandling::Never => false,
        };
        let has_changed = before.as_ref() != Some(&grant);
        if wants_retained {
            let Batch { reserved, notes, .. } = &mut self.next;
            reserved.extend(self.hub.subscribe_with_retained(mailbox, &subscription.filter, &grant, notes));
        } else {
            self.hub.subscribe(mailbox, &subscription.filter, grant);
        }
        has_changed
    }

    /// Returns what the log must know before a change of subscriptions is confirmed.
    fn notes_of(&mut self, has_changed: bool) -> Vec<Note> {
        let mut notes = self.next.notes.take();
        let Kept { expiry, subscriptions, mailbox, .. } = &self.kept;
        let tag = mailbox.tag().filter(|_| has_changed);
        notes.extend(tag.map(|tag| note::remember(&self.client_id, *expiry, tag, subscriptions)));
        notes
    }
}

/// Makes of a message what subscribers get; `None` if its topic is no text.
pub(super) fn publication(message: &Message, publisher: u64) -> Option<Publication> {
    std::str::from_utf8(&message.topic).ok()?;
    let attributes = Attributes::of(message);
    Some(Publication {
        topic: message.topic.clone(),
        payload: message.payload.clone(),
        qos: attributes.qos.and_then(QoS::from_bits).unwrap_or_default(),
        retain: attributes.retain.unwrap_or(false),
        // Behind the flags, as on the wire.
        properties: message.attributes.slice(message.attributes.len().min(1)..),
        publisher: Some(publisher),
        expires_at: expiry_of(attributes.message_expiry_s, Instant::now()),
    })
}

#[cfg(test)]
impl Guest {
    /// A client that may do everything, of a listener for all topics.
    pub(in crate::mqtt) fn anybody(version: Version) -> Guest {
        let kept = Kept::new(1, 1, "anybody");
        Guest::new(Arrival {
            version,
            pattern: TopicPattern::parse("#").expect("valid"),
            hub: Arc::default(),
            rules: Rules::new(None, Who::Anybody, Arc::from("anybody")),
            client_id: Arc::from("anybody"),
            kept,
            session_expiry_max_s: 0,
            packet_bytes_max: None,
            receive_maximum: None,
        })
    }
}
