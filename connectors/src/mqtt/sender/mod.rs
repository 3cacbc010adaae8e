//! The outgoing half of an MQTT session: which packet is to be sent next, and which messages are delivered. Pure: no I/O, no
//! clock, no bytes.
//!
//! ```text
//!                           window             PUBACK
//!   offer ─► queued ──────────────────► sent ─────────────────────────────────────────────► done      QoS 1
//!                                        │ PUBREC                                  PUBCOMP   ▲
//!                                        └───────► received ─(may be released)─► released ───┘         QoS 2
//!   offer ─► queued ──────────────────────────────────────────────────────────────────────► done      QoS 0
//!                    sent ── reason code from 0x80 on ──► refused: the owner gives it up, or it is sent again
//! ```
//!
//! Messages are numbered in the order they are offered, and **the packet id is the number**, modulo 65,535. So whoever keeps
//! two numbers durable, [`Sender::delivered`] and [`Sender::received`], goes on after a crash with the same ids, and a server
//! that has kept the session tells what it has already. For that a PUBREL must leave only when `received` is durable: after a
//! PUBREL the server has forgotten the id, and a second PUBLISH would be a second message. [`Release::WhenTold`] waits.
//!
//! Two messages in flight never share an id, since what is in flight spans fewer than 65,535 numbers. PUBRELs leave in the
//! order of the PUBRECs. With [`Release::WhenTold`] each waits for those of all messages before it, since `received` is a
//! single number. With [`Release::Each`] the owner keeps durable what became of each message, and says so with
//! [`Sender::release_one`].

mod exchange;

use std::collections::VecDeque;

use super::packet::{QoS, Violation};
use exchange::NEGATIVE;

pub(super) use exchange::{Answer, Outgoing, Told};

/// There are so many packet ids: 1 to 65,535.
const IDS: u64 = 65_535;

/// How many PUBRECs that tell nothing new may wait for their answer; a peer that sends more is not answered.
const REPEATS_MAX: usize = 64;

/// When a PUBREL may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Release {
    /// As soon as the PUBREC has come.
    AtOnce,
    /// When the owner has made [`Sender::received`] durable, and said so with [`Sender::release`].
    WhenTold,
    /// When the owner has said so of the message, with [`Sender::release_one`].
    Each,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Queued,
    Sent,
    Received,
    Released,
    Refused,
    Done,
}

#[derive(Debug)]
struct Entry<M> {
    number: u64,
    qos: QoS,
    stage: Stage,
    /// Whether it takes a place in the window of this connection.
    is_counted: bool,
    /// Whether its PUBREL may leave, with [`Release::Each`].
    may_release: bool,
    /// There is none once it is done.
    message: Option<M>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Sender<M> {
    release: Release,
    /// From the first that is not done on, by number.
    entries: VecDeque<Entry<M>>,
    /// The next number, if the next message has none of its own.
    next_number: u64,
    /// Everything below is done, or was received by the peer.
    received: u64,
    /// PUBRELs may leave for what is below.
    may_release: u64,
    /// On this connection everything below was published, as far as it had to be.
    published: u64,
    /// What the peer has received and waits for a PUBREL on this connection, in the order of its PUBRECs.
    releases: VecDeque<u64>,
    /// How many messages the peer takes at a time.
    window: u16,
    /// How many of them it has.
    in_flight: u16,
    repeats: VecDeque<Repeat>,
}

/// The answer to a PUBREC that told nothing new.
#[derive(Debug)]
enum Repeat {
    Release(u16),
    Unknown(u16),
}

impl<M> Sender<M> {
    /// Begins with a message of the number `first`; nothing is sent before [`Sender::resume`] or [`Sender::restart`].
    pub(super) fn new(first: u64, release: Release) -> Self {
        Sender {
            release,
            entries: VecDeque::new(),
            next_number: first,
            received: first,
            may_release: first,
            published: first,
            releases: VecDeque::new(),
            window: 0,
            in_flight: 0,
            repeats: VecDeque::new(),
        }
    }

    /// Adds a message behind the others, and returns its number.
    #[cfg(test)]
    pub(super) fn offer(&mut self, message: M, qos: QoS) -> u64 {
        self.offer_at(self.next_number, message, qos)
    }

    /// Adds a message with a number of its own, above those of the others.
    pub(super) fn offer_at(&mut self, number: u64, message: M, qos: QoS) -> u64 {
        assert!(number >= self.next_number, "messages are offered in the order of their numbers");
        if self.entries.is_empty() && number > self.received {
            // Nothing is in between.
            self.received = number;
        }
        self.push(number, qos, Stage::Queued, Some(message));
        number
    }

    /// Adds a message of QoS 1 or 2 that may have been sent before a crash.
    pub(super) fn restore_sent(&mut self, number: u64, message: M, qos: QoS) {
        self.push(number, qos, Stage::Sent, Some(message));
    }

    /// Adds a message of QoS 2 that the peer had received before a crash, and perhaps has released. It comes before any
    /// message is offered that was not sent before that crash.
    pub(super) fn restore_received(&mut self, number: u64, message: M) {
        self.push(number, QoS::ExactlyOnce, Stage::Received, Some(message));
        self.releases.push_back(number);
        // The peer counts it.
        self.in_flight = self.in_flight.saturating_add(1);
        let entry = self.entries.back_mut().expect("pushed above");
        (entry.is_counted, entry.may_release) = (true, true);
        self.note_received();
        self.may_release = self.may_release.max(number + 1);
    }

    /// Leaves a number out, as if its message were delivered.
    pub(super) fn skip(&mut self, number: u64) {
        self.push(number, QoS::AtMostOnce, Stage::Done, None);
        self.note_received();
        self.drop_done();
    }

    fn push(&mut self, number: u64, qos: QoS, stage: Stage, message: Option<M>) {
        assert!(number >= self.next_number, "messages are offered in the order of their numbers");
        self.next_number = number + 1;
        self.entries.push_back(Entry { number, qos, stage, is_counted: false, may_release: false, message });
    }

    /// Begins a connection on which the peer has kept the session. What it has not answered is sent again, in the same
    /// order and with the same ids. `window` is the peer's Receive Maximum.
    pub(super) fn resume(&mut self, window: u16) {
        self.connect(window);
        for entry in &mut self.entries {
            entry.is_counted = matches!(entry.stage, Stage::Received | Stage::Released);
            if entry.is_counted {
                self.in_flight = self.in_flight.saturating_add(1);
                entry.stage = Stage::Received;
                self.releases.push_back(entry.number);
            }
            if entry.stage == Stage::Refused {
                entry.stage = Stage::Queued;
            }
        }
    }

    /// Begins a connection on which the peer knows nothing of us: everything that is not done is sent as new.
    pub(super) fn restart(&mut self, window: u16) {
        self.connect(window);
        for entry in self.entries.iter_mut().filter(|entry| entry.stage != Stage::Done) {
            entry.is_counted = false;
            entry.stage = Stage::Queued;
        }
        self.received = self.delivered();
        self.may_release = self.received;
        self.note_received();
    }

    fn connect(&mut self, window: u16) {
        self.window = window.max(1);
        self.in_flight = 0;
        self.published = self.delivered();
        self.releases.clear();
        self.repeats.clear();
    }

    /// Returns what is to be sent next, and takes it for sent; `None` if there is nothing, or the window is full.
    pub(super) fn next(&mut self) -> Option<Outgoing<'_, M>> {
        match self.repeats.pop_front() {
            Some(Repeat::Release(id)) => return Some(Outgoing::Release { id }),
            Some(Repeat::Unknown(id)) => return Some(Outgoing::Unknown { id }),
            None => {}
        }
        if let Some(at) = self.next_release() {
            self.releases.pop_front();
            let entry = &mut self.entries[at];
            entry.stage = Stage::Released;
            return Some(Outgoing::Release { id: id_of(entry.number) });
        }
        let at = self.next_publish()?;
        let is_counted = self.entries[at].qos != QoS::AtMostOnce;
        self.in_flight += u16::from(is_counted);
        if is_counted {
            let entry = &mut self.entries[at];
            let dup = entry.stage == Stage::Sent;
            (entry.stage, entry.is_counted) = (Stage::Sent, true);
            let message = entry.message.as_ref().expect("what is not done has its message");
            return Some(Outgoing::Publish {
                number: entry.number,
                id: id_of(entry.number),
                qos: entry.qos,
                dup,
                message,
            });
        }
        // Its message must live until it is written: it is done now, and leaves with the next call.
        let entry = &mut self.entries[at];
        entry.stage = Stage::Done;
        let (number, qos) = (entry.number, entry.qos);
        self.note_received();
        let message = self.entries[at].message.as_ref().expect("what is not done has its message");
        Some(Outgoing::Publish { number, id: 0, qos, dup: false, message })
    }

    /// Returns what the peer has to answer first, if anything: the number of a message, and whether its PUBREL has left.
    pub(super) fn owed(&self) -> Option<(u64, bool)> {
        let oldest = self.entries.front().filter(|entry| entry.is_counted)?;
        match oldest.stage {
            Stage::Sent => Some((oldest.number, false)),
            Stage::Released => Some((oldest.number, true)),
            Stage::Queued | Stage::Received | Stage::Refused | Stage::Done => None,
        }
    }

    /// Says whether [`Sender::next`] would return something.
    pub(super) fn has_next(&mut self) -> bool {
        let published = self.published;
        let has_next = !self.repeats.is_empty() || self.next_release().is_some() || self.next_publish().is_some();
        self.published = published;
        has_next
    }

    /// Finds the next message whose PUBREL is due.
    fn next_release(&self) -> Option<usize> {
        let number = *self.releases.front()?;
        let at = self.place_from(number);
        let entry = &self.entries[at];
        assert_eq!(entry.number, number, "what waits for its PUBREL is kept");
        let may_leave = match self.release {
            Release::AtOnce => true,
            Release::WhenTold => number < self.received.min(self.may_release),
            Release::Each => entry.may_release,
        };
        may_leave.then_some(at)
    }

    /// Finds the next message to publish, if there is room for it.
    fn next_publish(&mut self) -> Option<usize> {
        self.drop_done();
        let first = self.entries.front()?.number;
        let mut at = self.place_from(self.published);
        while let Some(entry) = self.entries.get(at) {
            if matches!(entry.stage, Stage::Queued | Stage::Sent) {
                let has_room = entry.qos == QoS::AtMostOnce || self.in_flight < self.window;
                if !has_room || entry.number - first >= IDS {
                    return None;
                }
                self.published = entry.number + 1;
                return Some(at);
            }
            self.published = entry.number + 1;
            at += 1;
        }
        None
    }

    /// Takes an answer. After an error the connection must end.
    pub(super) fn receive(&mut self, answer: Answer) -> Result<Told, Violation> {
        let (id, wants_release) = (answer.id(), answer.wants_release());
        let Some(at) = self.place_of(id) else {
            if wants_release {
                self.repeat(Repeat::Unknown(id));
            }
            return Ok(Told::Nothing);
        };
        let Entry { number, qos, stage, .. } = self.entries[at];
        let told = match (answer, qos, stage) {
            (Answer::Ack { code, .. }, QoS::AtLeastOnce, Stage::Sent) => match code {
                NEGATIVE.. => Told::Refused { number, code },
                _ => Told::Delivered { number },
            },
            (Answer::Received { code: code @ NEGATIVE.., .. }, QoS::ExactlyOnce, Stage::Sent) => {
                Told::Refused { number, code }
            }
            (Answer::Received { .. }, QoS::ExactlyOnce, Stage::Sent) => Told::Received { number },
            (Answer::Received { .. }, QoS::ExactlyOnce, Stage::Released) => {
                if wants_release {
                    self.repeat(Repeat::Release(id));
                }
                Told::Nothing
            }
            // Its PUBREL is to come.
            (Answer::Received { .. }, QoS::ExactlyOnce, Stage::Received) => Told::Nothing,
            (Answer::Complete { .. }, QoS::ExactlyOnce, Stage::Released) => Told::Delivered { number },
            (_, _, Stage::Refused | Stage::Queued | Stage::Done) => Told::Nothing,
            (answer, qos, stage) => {
                let name = answer.name();
                let state = if stage == Stage::Sent { "was published" } else { "was received" };
                let problem = format!("a {name} for packet id {id}, which {state} at QoS {}", qos as u8);
                return Err(Violation::Protocol(problem));
            }
        };
        match told {
            Told::Delivered { .. } => self.finish(at, Stage::Done),
            Told::Refused { .. } => self.finish(at, Stage::Refused),
            Told::Received { .. } => {
                let entry = &mut self.entries[at];
                entry.stage = Stage::Received;
                self.releases.push_back(number);
                if !std::mem::replace(&mut entry.is_counted, true) {
                    self.in_flight = self.in_flight.saturating_add(1);
                }
            }
            Told::Nothing => {}
        }
        self.note_received();
        Ok(told)
    }

    fn repeat(&mut self, repeat: Repeat) {
        if self.repeats.len() < REPEATS_MAX {
            self.repeats.push_back(repeat);
        }
    }

    /// Gives up on a message that the peer has refused: it counts as done.
    pub(super) fn give_up(&mut self, number: u64) {
        if let Ok(at) = self.entries.binary_search_by_key(&number, |entry| entry.number)
            && self.entries[at].stage == Stage::Refused
        {
            self.finish(at, Stage::Done);
            self.note_received();
        }
    }

    /// Lets PUBRELs leave for messages below a number: [`Sender::received`] is durable so far.
    pub(super) fn release(&mut self, below: u64) {
        self.may_release = self.may_release.max(below);
    }

    /// Lets the PUBREL of one message leave: it is durable that the peer has received it.
    pub(super) fn release_one(&mut self, number: u64) {
        if let Ok(at) = self.entries.binary_search_by_key(&number, |entry| entry.number) {
            self.entries[at].may_release = true;
        }
    }

    /// Everything below this number is delivered, or given up.
    pub(super) fn delivered(&self) -> u64 {
        let first = self.entries.iter().find(|entry| entry.stage != Stage::Done);
        first.map_or(self.next_number, |entry| entry.number)
    }

    /// Everything below this number is delivered, or the peer has received it.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Returns how many messages are kept: queued, in flight, or behind one that is.
    pub(super) fn kept_count(&self) -> usize {
        self.entries.len()
    }

    fn finish(&mut self, at: usize, stage: Stage) {
        let entry = &mut self.entries[at];
        entry.stage = stage;
        if std::mem::take(&mut entry.is_counted) {
            self.in_flight = self.in_flight.saturating_sub(1);
        }
        if stage == Stage::Done {
            entry.message = None;
        }
        self.drop_done();
    }

    fn drop_done(&mut self) {
        while self.entries.front().is_some_and(|entry| entry.stage == Stage::Done) {
            self.entries.pop_front();
        }
    }

    /// Moves [`Sender::received`] over what the peer has by now.
    fn note_received(&mut self) {
        let mut at = self.place_from(self.received);
        while let Some(entry) = self.entries.get(at)
            && matches!(entry.stage, Stage::Received | Stage::Released | Stage::Done)
        {
            self.received = entry.number + 1;
            at += 1;
        }
        // What lies between two messages belongs to nobody.
        self.received = self.entries.get(at).map_or(self.next_number, |entry| entry.number);
    }

    /// Returns the place of the first message from a number on.
    fn place_from(&self, number: u64) -> usize {
        self.entries.partition_point(|entry| entry.number < number)
    }

    /// Finds the message that would be in flight with a packet id.
    fn place_of(&self, id: u16) -> Option<usize> {
        let first = self.entries.front()?.number;
        let ahead = (u64::from(id) + IDS - u64::from(id_of(first))) % IDS;
        let found = self.entries.binary_search_by_key(&(first + ahead), |entry| entry.number);
        found.ok().filter(|at| id != 0 && self.entries[*at].stage != Stage::Done)
    }
}

/// Returns a packet id that no message in flight has, when everything below `delivered` is delivered.
pub(super) fn free_id(delivered: u64) -> u16 {
    id_of(delivered + IDS - 1)
}

/// Returns the packet id of a message.
fn id_of(number: u64) -> u16 {
    u16::try_from(number % IDS).expect("less than 65,535") + 1
}

#[cfg(test)]
mod tests;
