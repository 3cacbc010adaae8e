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
//! order of the messages, one behind the other: `received` is a single number.

use std::collections::VecDeque;

use super::packet::{QoS, Violation};

/// There are so many packet ids: 1 to 65,535.
const IDS: u64 = 65_535;

/// From here on a reason code says that a packet was not accepted.
const NEGATIVE: u8 = 0x80;

/// How many PUBRECs that tell nothing new may wait for their answer; a peer that sends more is not answered.
const REPEATS_MAX: usize = 64;

/// When a PUBREL may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Release {
    /// As soon as the PUBREC has come.
    AtOnce,
    /// When the owner has made [`Sender::received`] durable, and said so with [`Sender::release`].
    WhenTold,
}

/// What is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outgoing<'m, M> {
    /// A PUBLISH; `id` is 0 at QoS 0.
    Publish { number: u64, id: u16, qos: QoS, dup: bool, message: &'m M },
    /// A PUBREL.
    Release { id: u16 },
    /// A PUBREL for a PUBREC that belongs to nothing: in version 5 with the reason that the id is not known.
    Unknown { id: u16 },
}

/// An answer of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// A PUBACK.
    Ack { id: u16, code: u8 },
    /// A PUBREC.
    Received { id: u16, code: u8 },
    /// A PUBCOMP. Whatever its reason code: the peer holds nothing under this id any more.
    Complete { id: u16 },
}

/// What an answer told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Nothing that was not known.
    Nothing,
    /// The peer has a message, and it is not delivered yet: it is [`Sender::received`] at most.
    Received,
    /// A message is delivered.
    Delivered { number: u64 },
    /// The peer does not take a message: [`Sender::give_up`] on it, or it is sent again on the next connection.
    Refused { number: u64, code: u8 },
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
    /// On this connection a PUBREL was sent for everything below that needs one.
    released: u64,
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
    /// Begins with a message of the number `first`; nothing is connected before [`Sender::resume`] or [`Sender::restart`].
    pub(super) fn new(first: u64, release: Release) -> Self {
        Sender {
            release,
            entries: VecDeque::new(),
            next_number: first,
            received: first,
            may_release: first,
            published: first,
            released: first,
            window: 0,
            in_flight: 0,
            repeats: VecDeque::new(),
        }
    }

    /// Adds a message behind the others, and returns its number.
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
    /// other message is offered.
    pub(super) fn restore_received(&mut self, number: u64, message: M) {
        self.push(number, QoS::ExactlyOnce, Stage::Released, Some(message));
        self.received = number + 1;
        self.may_release = number + 1;
    }

    fn push(&mut self, number: u64, qos: QoS, stage: Stage, message: Option<M>) {
        assert!(number >= self.next_number, "messages are offered in the order of their numbers");
        self.next_number = number + 1;
        self.entries.push_back(Entry { number, qos, stage, is_counted: false, message });
    }

    /// Begins a connection on which the peer has kept the session. What it has not answered is sent again, in the same
    /// order and with the same ids. `window` is the peer's Receive Maximum.
    pub(super) fn resume(&mut self, window: u16) {
        self.connect(window);
        for entry in &mut self.entries {
            entry.is_counted = matches!(entry.stage, Stage::Received | Stage::Released);
            self.in_flight = self.in_flight.saturating_add(u16::from(entry.is_counted));
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
        self.released = self.delivered();
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

    /// Finds the next message whose PUBREL is due.
    fn next_release(&mut self) -> Option<usize> {
        let limit = match self.release {
            Release::AtOnce => self.received,
            Release::WhenTold => self.received.min(self.may_release),
        };
        while self.released < limit {
            let at = self.place_from(self.released);
            let Some(entry) = self.entries.get(at).filter(|entry| entry.number < limit) else {
                self.released = limit;
                return None;
            };
            self.released = entry.number + 1;
            if matches!(entry.stage, Stage::Received | Stage::Released) {
                return Some(at);
            }
        }
        None
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
        let (Answer::Ack { id, .. } | Answer::Received { id, .. } | Answer::Complete { id }) = answer;
        let wants_release = matches!(answer, Answer::Received { code, .. } if code < NEGATIVE);
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
            (Answer::Received { .. }, QoS::ExactlyOnce, Stage::Sent) => Told::Received,
            (Answer::Received { .. }, QoS::ExactlyOnce, Stage::Released) => {
                if wants_release && number < self.released {
                    self.repeat(Repeat::Release(id));
                }
                Told::Nothing
            }
            // Its PUBREL is to come.
            (Answer::Received { .. }, QoS::ExactlyOnce, Stage::Received) => Told::Nothing,
            (Answer::Complete { .. }, QoS::ExactlyOnce, Stage::Released) => Told::Delivered { number },
            (_, _, Stage::Refused | Stage::Queued | Stage::Done) => Told::Nothing,
            (answer, qos, stage) => {
                let name = match answer {
                    Answer::Ack { .. } => "PUBACK",
                    Answer::Received { .. } => "PUBREC",
                    Answer::Complete { .. } => "PUBCOMP",
                };
                let state = if stage == Stage::Sent { "was published" } else { "was received" };
                let problem = format!("a {name} for packet id {id}, which {state} at QoS {}", qos as u8);
                return Err(Violation::Protocol(problem));
            }
        };
        match told {
            Told::Delivered { .. } => self.finish(at, Stage::Done),
            Told::Refused { .. } => self.finish(at, Stage::Refused),
            Told::Received => {
                let entry = &mut self.entries[at];
                entry.stage = Stage::Received;
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

    /// Returns the number that the next message gets.
    pub(super) fn next_number(&self) -> u64 {
        self.next_number
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

/// Returns the packet id of a message.
fn id_of(number: u64) -> u16 {
    u16::try_from(number % IDS).expect("less than 65,535") + 1
}

#[cfg(test)]
mod tests {
    use tidemill_engine::clock::{Dice, SeededDice};

    use super::*;

    /// A packet, as it is on its way.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Packet {
        Publish { id: u16, qos: QoS, dup: bool, message: u64 },
        Release { id: u16 },
    }

    /// A server as the standard wants it: it keeps ids from PUBLISH to PUBREL, and passes messages on at once.
    #[derive(Default)]
    struct Peer {
        held: std::collections::BTreeMap<u16, u64>,
        got: Vec<u64>,
        /// What is in flight, as the peer of version 5 counts it on a connection.
        unanswered: usize,
    }

    impl Peer {
        fn take(&mut self, packet: Packet, refuses: bool) -> Option<Answer> {
            match packet {
                Packet::Publish { qos: QoS::AtMostOnce, message, id, .. } => {
                    assert_eq!(id, 0);
                    self.got.push(message);
                    None
                }
                Packet::Publish { id, qos: QoS::AtLeastOnce, message, .. } => {
                    if refuses {
                        return Some(Answer::Ack { id, code: 0x97 });
                    }
                    self.got.push(message);
                    Some(Answer::Ack { id, code: 0 })
                }
                Packet::Publish { id, message, dup, .. } => {
                    match self.held.get(&id) {
                        Some(held) => assert!(*held == message && dup, "id {id} is used for two messages at a time"),
                        None if refuses => return Some(Answer::Received { id, code: 0x97 }),
                        None => {
                            self.got.push(message);
                            self.held.insert(id, message);
                        }
                    }
                    Some(Answer::Received { id, code: 0 })
                }
                Packet::Release { id } => {
                    self.held.remove(&id);
                    Some(Answer::Complete { id })
                }
            }
        }
    }

    fn packet(outgoing: Outgoing<'_, u64>) -> Packet {
        match outgoing {
            Outgoing::Publish { id, qos, dup, message, .. } => Packet::Publish { id, qos, dup, message: *message },
            Outgoing::Release { id } | Outgoing::Unknown { id } => Packet::Release { id },
        }
    }

    /// What happens by chance in a run.
    #[derive(Clone, Copy)]
    struct Chances {
        /// The session is lost with the connection, in one of so many cuts.
        lost: Option<u64>,
        /// The process dies with the connection, in one of so many cuts.
        crash: Option<u64>,
        /// A message is refused, one of so many.
        refused: Option<u64>,
        first: u64,
    }

    struct World {
        dice: SeededDice,
        chances: Chances,
        qos: QoS,
        sender: Sender<u64>,
        peer: Peer,
        out: VecDeque<Packet>,
        back: VecDeque<Answer>,
        /// What survives a crash: delivered and received.
        durable: (u64, u64),
        offered: u64,
        window: u16,
        cuts: u64,
    }

    const COUNT: u64 = 60;

    impl World {
        fn new(seed: u64, qos: QoS, chances: Chances) -> World {
            let first = chances.first;
            let mut sender = Sender::new(first, Release::WhenTold);
            sender.restart(3);
            let (peer, out, back) = (Peer::default(), VecDeque::new(), VecDeque::new());
            let dice = SeededDice::new(seed);
            World {
                dice,
                chances,
                qos,
                sender,
                peer,
                out,
                back,
                durable: (first, first),
                offered: first,
                window: 3,
                cuts: 0,
            }
        }

        fn one_in(&self, many: Option<u64>) -> bool {
            many.is_some_and(|many| self.dice.roll().is_multiple_of(many))
        }

        fn cut(&mut self) {
            self.cuts += 1;
            self.out.clear();
            self.back.clear();
            self.peer.unanswered = 0;
            self.window = u16::try_from(1 + self.dice.roll() % 5).expect("small");
            if self.one_in(self.chances.crash) {
                self.crash();
            }
            if self.one_in(self.chances.lost) {
                self.peer.held.clear();
                self.sender.restart(self.window);
                // Before anything is sent on the new session.
                self.durable = (self.durable.0, self.sender.received().min(self.durable.1).max(self.durable.0));
            } else {
                self.sender.resume(self.window);
            }
        }

        fn crash(&mut self) {
            let (delivered, received) = self.durable;
            self.sender = Sender::new(delivered, Release::WhenTold);
            for number in delivered..self.offered {
                match self.qos {
                    QoS::ExactlyOnce if number < received => self.sender.restore_received(number, number),
                    qos => self.sender.restore_sent(number, number, qos),
                }
            }
        }

        fn step(&mut self) {
            match self.dice.roll() % 8 {
                0 if self.offered < self.chances.first + COUNT => {
                    assert_eq!(self.sender.offer(self.offered, self.qos), self.offered);
                    self.offered += 1;
                }
                1 | 2 => {
                    if let Some(outgoing) = self.sender.next() {
                        let packet = packet(outgoing);
                        if matches!(packet, Packet::Publish { .. }) {
                            self.peer.unanswered += 1;
                            assert!(self.peer.unanswered <= usize::from(self.window), "beyond the window");
                        }
                        self.out.push_back(packet);
                    }
                }
                3 | 4 => {
                    if let Some(packet) = self.out.pop_front() {
                        let refuses = self.one_in(self.chances.refused);
                        let answer = self.peer.take(packet, refuses);
                        self.back.extend(answer);
                    }
                }
                5 | 6 => {
                    if let Some(answer) = self.back.pop_front() {
                        let told = self.sender.receive(answer).expect("a server that keeps to the rules");
                        let ends = match answer {
                            Answer::Ack { .. } | Answer::Complete { .. } => true,
                            Answer::Received { code, .. } => code >= NEGATIVE,
                        };
                        self.peer.unanswered = self.peer.unanswered.saturating_sub(usize::from(ends));
                        if matches!(told, Told::Refused { .. }) {
                            self.cut();
                        }
                    }
                }
                _ => {
                    self.durable = (self.sender.delivered(), self.sender.received());
                    self.sender.release(self.durable.1);
                }
            }
        }

        /// Runs until everything is delivered.
        fn run(mut self, cut_one_in: u64) -> Vec<u64> {
            let end = self.chances.first + COUNT;
            for _ in 0..200_000 {
                if self.sender.delivered() == end {
                    assert_eq!(self.sender.kept_count(), 0);
                    return self.peer.got;
                }
                self.step();
                // Later than after that many cuts none comes, so that every run ends.
                if self.cuts < 60 && self.dice.roll().is_multiple_of(cut_one_in) {
                    self.cut();
                }
            }
            panic!("not delivered: {:?}", self.sender);
        }
    }

    fn first_times(got: &[u64]) -> Vec<u64> {
        let mut seen = std::collections::BTreeSet::new();
        got.iter().copied().filter(|message| seen.insert(*message)).collect()
    }

    fn all(first: u64) -> Vec<u64> {
        (first..first + COUNT).collect()
    }

    const CALM: Chances = Chances { lost: None, crash: Some(2), refused: None, first: 0 };

    #[test]
    fn exactly_once_and_in_order_at_qos_2_while_the_server_keeps_the_session() {
        for seed in 0..300 {
            // Around the end of the ids too.
            let chances = Chances { first: if seed % 2 == 0 { 0 } else { 3 * IDS - 20 }, ..CALM };
            let got = World::new(seed, QoS::ExactlyOnce, chances).run(7);
            assert_eq!(got, all(chances.first), "seed {seed}");
        }
    }

    #[test]
    fn at_least_once_and_in_order_at_qos_1_and_little_twice() {
        for seed in 0..300 {
            let got = World::new(seed, QoS::AtLeastOnce, CALM).run(7);
            assert_eq!(first_times(&got), all(0), "seed {seed}");
            let twice = got.len() - usize::try_from(COUNT).expect("small");
            assert!(twice <= 60 * 10, "seed {seed}: {twice}");
        }
    }

    #[test]
    fn nothing_is_missing_when_the_server_loses_the_session_or_refuses() {
        for (seed, qos) in (0..200).flat_map(|seed| [(seed, QoS::AtLeastOnce), (seed, QoS::ExactlyOnce)]) {
            let chances = Chances { lost: Some(3), crash: Some(3), refused: Some(9), first: 0 };
            let mut got = first_times(&World::new(seed, qos, chances).run(11));
            got.sort_unstable();
            assert_eq!(got, all(0), "seed {seed} {qos:?}");
        }
    }

    #[test]
    fn a_release_waits_until_the_receipt_is_durable() {
        let mut sender = Sender::new(7, Release::WhenTold);
        sender.restart(10);
        sender.offer("a", QoS::ExactlyOnce);
        sender.offer("b", QoS::ExactlyOnce);
        assert!(matches!(sender.next(), Some(Outgoing::Publish { id: 8, dup: false, .. })));
        assert!(matches!(sender.next(), Some(Outgoing::Publish { id: 9, .. })));
        // Out of order: the first one holds the second back, so that one number says everything.
        assert_eq!(sender.receive(Answer::Received { id: 9, code: 0 }), Ok(Told::Received));
        assert_eq!((sender.received(), sender.next()), (7, None));
        assert_eq!(sender.receive(Answer::Received { id: 8, code: 0 }), Ok(Told::Received));
        assert_eq!((sender.received(), sender.next()), (9, None));
        sender.release(9);
        assert_eq!(sender.next(), Some(Outgoing::Release { id: 8 }));
        assert_eq!(sender.next(), Some(Outgoing::Release { id: 9 }));
        assert_eq!(sender.receive(Answer::Complete { id: 9 }), Ok(Told::Delivered { number: 8 }));
        assert_eq!((sender.delivered(), sender.kept_count()), (7, 2));
        assert_eq!(sender.receive(Answer::Complete { id: 8 }), Ok(Told::Delivered { number: 7 }));
        assert_eq!((sender.delivered(), sender.kept_count()), (9, 0));
    }

    #[test]
    fn a_refused_message_is_given_up_or_sent_again() {
        let mut sender = Sender::new(0, Release::AtOnce);
        sender.restart(1);
        sender.offer("a", QoS::AtLeastOnce);
        sender.offer("b", QoS::ExactlyOnce);
        sender.next();
        assert_eq!(sender.receive(Answer::Ack { id: 1, code: 0x97 }), Ok(Told::Refused { number: 0, code: 0x97 }));
        sender.resume(1);
        assert!(matches!(sender.next(), Some(Outgoing::Publish { id: 1, dup: false, message: &"a", .. })));
        assert_eq!(sender.receive(Answer::Ack { id: 1, code: 0x97 }), Ok(Told::Refused { number: 0, code: 0x97 }));
        sender.give_up(0);
        assert_eq!(sender.delivered(), 1);
        assert!(matches!(sender.next(), Some(Outgoing::Publish { id: 2, message: &"b", .. })));
        assert_eq!(sender.receive(Answer::Received { id: 2, code: 0x87 }), Ok(Told::Refused { number: 1, code: 0x87 }));
        sender.give_up(1);
        assert_eq!((sender.delivered(), sender.next()), (2, None));
    }

    #[test]
    fn answers_to_nothing_are_forgiven_and_those_that_do_not_fit_are_not() {
        let mut sender = Sender::new(0, Release::AtOnce);
        sender.restart(10);
        assert_eq!(sender.receive(Answer::Ack { id: 5, code: 0 }), Ok(Told::Nothing));
        assert_eq!(sender.receive(Answer::Complete { id: 0 }), Ok(Told::Nothing));
        assert_eq!(sender.receive(Answer::Received { id: 5, code: 0 }), Ok(Told::Nothing));
        sender.offer("a", QoS::AtLeastOnce);
        assert_eq!(sender.next(), Some(Outgoing::Unknown { id: 5 }), "or the server asks for ever");
        assert_eq!(sender.receive(Answer::Ack { id: 1, code: 0 }), Ok(Told::Nothing), "not sent yet");
        sender.next();
        let violation = sender.receive(Answer::Complete { id: 1 }).expect_err("published at QoS 1");
        assert_eq!(violation.to_string(), "protocol error: a PUBCOMP for packet id 1, which was published at QoS 1");
        for _ in 0..1000 {
            sender.receive(Answer::Received { id: 9, code: 0 }).expect("ignored");
        }
        assert_eq!(std::iter::from_fn(|| sender.next().map(|_| ())).count(), REPEATS_MAX);
    }

    #[test]
    fn messages_of_qos_0_take_no_place_in_the_window() {
        let mut sender = Sender::new(0, Release::AtOnce);
        sender.restart(1);
        sender.offer(0, QoS::AtMostOnce);
        sender.offer(1, QoS::AtLeastOnce);
        sender.offer(2, QoS::AtMostOnce);
        sender.offer(3, QoS::AtLeastOnce);
        let mut sent = Vec::new();
        while let Some(outgoing) = sender.next() {
            sent.push(packet(outgoing));
        }
        let of = |message, id, qos| Packet::Publish { id, qos, dup: false, message };
        let expected = [of(0, 0, QoS::AtMostOnce), of(1, 2, QoS::AtLeastOnce), of(2, 0, QoS::AtMostOnce)];
        assert_eq!(sent, expected);
        assert_eq!(sender.delivered(), 1);
    }

    #[test]
    fn numbers_may_leave_gaps_and_never_share_an_id() {
        let mut sender = Sender::new(0, Release::AtOnce);
        sender.restart(100);
        for number in [0, IDS - 1, IDS, IDS + 5] {
            sender.offer_at(number, number, QoS::AtLeastOnce);
        }
        assert!(matches!(sender.next(), Some(Outgoing::Publish { id: 1, number: 0, .. })));
        assert!(matches!(sender.next(), Some(Outgoing::Publish { id: 65_535, .. })));
        assert_eq!(sender.next(), None, "its id is in flight");
        sender.receive(Answer::Ack { id: 1, code: 0 }).expect("good");
        assert_eq!(sender.delivered(), IDS - 1);
        assert!(matches!(sender.next(), Some(Outgoing::Publish { id: 1, number: IDS, .. })));
        assert!(matches!(sender.next(), Some(Outgoing::Publish { id: 6, .. })));
        for id in [1, 6, 65_535] {
            assert!(matches!(sender.receive(Answer::Ack { id, code: 0 }), Ok(Told::Delivered { .. })));
        }
        assert_eq!((sender.delivered(), sender.received()), (IDS + 6, IDS + 6));
    }
}
