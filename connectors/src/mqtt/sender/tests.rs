//! A model peer that keeps ids from PUBLISH to PUBREL, and cuts after any packet.

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
    assert_eq!(sender.receive(Answer::Received { id: 9, code: 0 }), Ok(Told::Received { number: 8 }));
    assert_eq!((sender.received(), sender.next()), (7, None));
    assert_eq!(sender.receive(Answer::Received { id: 8, code: 0 }), Ok(Told::Received { number: 7 }));
    assert_eq!((sender.received(), sender.next()), (9, None));
    sender.release(9);
    // In the order of the PUBRECs.
    assert_eq!(sender.next(), Some(Outgoing::Release { id: 9 }));
    assert_eq!(sender.next(), Some(Outgoing::Release { id: 8 }));
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

#[test]
fn a_message_that_waits_for_its_acknowledgement_holds_releases_back_only_where_they_are_counted() {
    for (release, is_free) in [(Release::AtOnce, true), (Release::WhenTold, false)] {
        let mut sender = Sender::new(0, release);
        sender.restart(10);
        sender.offer(0, QoS::AtLeastOnce);
        sender.offer(1, QoS::ExactlyOnce);
        sender.offer(2, QoS::ExactlyOnce);
        while sender.next().is_some() {}
        // The order is that of the PUBRECs.
        for id in [3, 2] {
            assert!(matches!(sender.receive(Answer::Received { id, code: 0 }), Ok(Told::Received { .. })));
        }
        sender.release(3);
        assert_eq!(sender.has_next(), is_free);
        sender.receive(Answer::Ack { id: 1, code: 0 }).expect("good");
        for id in [3, 2] {
            assert!(matches!(sender.next(), Some(Outgoing::Release { id: released }) if released == id));
            assert!(matches!(sender.receive(Answer::Complete { id }), Ok(Told::Delivered { .. })));
        }
        assert_eq!(sender.delivered(), 3);
    }
}

#[test]
fn a_release_that_waits_for_its_own_word_holds_back_those_behind_it_and_no_others() {
    let mut sender = Sender::new(0, Release::Each);
    sender.resume(10);
    sender.restore_received(0, 0);
    sender.restore_sent(1, 1, QoS::ExactlyOnce);
    // Numbers may be missing in between.
    sender.offer_at(5, 5, QoS::ExactlyOnce);
    assert_eq!(sender.next(), Some(Outgoing::Release { id: 1 }), "known from before");
    assert!(matches!(sender.next(), Some(Outgoing::Publish { id: 2, dup: true, .. })));
    assert!(matches!(sender.next(), Some(Outgoing::Publish { id: 6, dup: false, .. })));
    for (id, number) in [(6, 5), (2, 1)] {
        assert_eq!(sender.receive(Answer::Received { id, code: 0 }), Ok(Told::Received { number }));
    }
    sender.release_one(1);
    assert_eq!(sender.next(), None, "in the order of the PUBRECs");
    sender.release_one(5);
    for id in [6, 2] {
        assert_eq!(sender.next(), Some(Outgoing::Release { id }));
    }
    // What was said is said for the next connection too.
    sender.resume(10);
    for id in [1, 2, 6] {
        assert_eq!(sender.next(), Some(Outgoing::Release { id }));
        assert!(matches!(sender.receive(Answer::Complete { id }), Ok(Told::Delivered { .. })));
    }
    assert_eq!((sender.delivered(), sender.kept_count()), (6, 0));
}
