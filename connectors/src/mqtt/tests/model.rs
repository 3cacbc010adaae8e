//! A model of the other end, and chance: whatever is cut, killed or repeated, the log has each message as often as the
//! guarantee says.
//!
//! | | sender keeps its session | sender goes back to an old copy of it |
//! |---|---|---|
//! | QoS 1 | at least once; duplicates at most those in flight at cuts | at least once |
//! | QoS 2 | exactly once | at least once: nothing acknowledged is dropped |
//!
//! The sender is a broker or a device, which send the same packets. It keeps to the standard: what has no PUBREC is sent
//! again with DUP, what has one is released again, in the old order and under the old ids. Ids it takes in a circle (as
//! Mosquitto does) or always the lowest that is free (as HiveMQ does).

use std::collections::BTreeMap;

use ::bytes::{Buf, Bytes, BytesMut};
use tidemill_engine::clock::{Dice, SeededDice};

use super::lab::{BOTH, Lab, Side};
use crate::mqtt::codec::{self, Header};
use crate::mqtt::packet::{Packet, Publish, QoS, Version, reason};
use crate::mqtt::remembered::{Lasts, Remembered};
use crate::mqtt::session::Retained;
use crate::mqtt::write;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ids {
    Circle,
    LowestFree,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Sent; without PUBACK or PUBREC.
    Sent,
    /// PUBREC is here, PUBREL is sent.
    Released,
}

#[derive(Clone, Debug)]
struct InFlight {
    id: u16,
    message: usize,
    stage: Stage,
}

/// What a sender keeps: all of it, if it is a good one.
#[derive(Clone, Debug)]
struct Kept {
    /// The order in which messages are sent; those before `next` have been.
    queue: Vec<usize>,
    next: usize,
    in_flight: Vec<InFlight>,
    last_id: u16,
}

struct Sender {
    version: Version,
    qos: QoS,
    ids: Ids,
    window: usize,
    /// What each message says; readings may be equal.
    payloads: Vec<String>,
    kept: Kept,
    unread: BytesMut,
}

impl Sender {
    fn is_done(&self) -> bool {
        self.kept.next == self.kept.queue.len() && self.kept.in_flight.is_empty()
    }

    fn publish(&self, id: u16, message: usize, duplicate: bool, out: &mut BytesMut) {
        let publish = Publish {
            topic: Bytes::from_static(b"plant/a"),
            payload: Bytes::from(self.payloads[message].clone()),
            qos: self.qos,
            duplicate,
            id,
            ..Publish::default()
        };
        write::publish(self.version, &publish, out).expect("short");
    }

    /// Sends the next message if the window has room.
    fn send(&mut self, out: &mut BytesMut) {
        if self.kept.next == self.kept.queue.len() || self.kept.in_flight.len() >= self.window {
            return;
        }
        let is_free = |id: u16| self.kept.in_flight.iter().all(|one| one.id != id);
        let id = match self.ids {
            Ids::LowestFree => (1..).find(|id| is_free(*id)).expect("a small window"),
            // A small circle, so that it comes around.
            Ids::Circle => {
                (1..=24).map(|step| (self.kept.last_id + step - 1) % 24 + 1).find(|id| is_free(*id)).expect("room")
            }
        };
        let message = self.kept.queue[self.kept.next];
        self.kept.last_id = id;
        self.kept.next += 1;
        self.kept.in_flight.push(InFlight { id, message, stage: Stage::Sent });
        self.publish(id, message, false, out);
    }

    /// Begins a new connection of the session.
    fn resume(&mut self, out: &mut BytesMut) {
        self.unread.clear();
        for InFlight { id, message, stage } in &self.kept.in_flight {
            match stage {
                Stage::Sent => self.publish(*id, *message, true, out),
                Stage::Released => write::pubrel(self.version, *id, reason::SUCCESS, out),
            }
        }
    }

    /// Takes answers; `heard` is told of each that ends a step of a message.
    fn feed(&mut self, bytes: &[u8], conforming: bool, out: &mut BytesMut, mut heard: impl FnMut(&Packet, usize)) {
        self.unread.extend_from_slice(bytes);
        let (whole, _) = codec::whole_packets(&self.unread);
        let mut run = self.unread.split_to(whole).freeze();
        while let Some(header) = Header::read(&run).expect("we write headers") {
            let frame = run.split_to(header.frame_bytes());
            let packet = codec::read(self.version, header, frame).expect("we write good packets");
            let (id, stage) = match &packet {
                Packet::PubAck(ack) => (ack.id, Stage::Sent),
                Packet::PubRec(ack) => (ack.id, Stage::Sent),
                Packet::PubComp(ack) => (ack.id, Stage::Released),
                other => panic!("an unexpected {}", other.name()),
            };
            let place = self.kept.in_flight.iter().position(|one| one.id == id && one.stage == stage);
            let Some(place) = place else {
                assert!(!conforming, "a {} for {id}, in flight are {:?}", packet.name(), self.kept.in_flight);
                continue;
            };
            heard(&packet, self.kept.in_flight[place].message);
            if matches!(packet, Packet::PubRec(_)) {
                self.kept.in_flight[place].stage = Stage::Released;
                write::pubrel(self.version, id, reason::SUCCESS, out);
            } else {
                self.kept.in_flight.remove(place);
            }
        }
    }
}

/// What is different in one run.
#[derive(Clone, Copy, Debug)]
struct Setup {
    version: Version,
    side: Side,
    qos: QoS,
    ids: Ids,
    /// Whether the sender sometimes goes back to an old copy of its state.
    rolls_back: bool,
    /// Whether readings are all different.
    distinct: bool,
    /// A planted fault: after a crash, held ids are not read from the log.
    forgets: bool,
}

const MESSAGES: usize = 30;

struct World {
    setup: Setup,
    dice: SeededDice,
    sender: Sender,
    lab: Lab,
    to_us: BytesMut,
    to_sender: BytesMut,
    snapshot: Kept,
    /// How many were in flight at cuts, all together.
    in_flight_at_cuts: usize,
}

impl World {
    fn new(setup: Setup, seed: u64) -> World {
        let dice = SeededDice::new(seed);
        let kinds = if setup.distinct { MESSAGES } else { 3 };
        let kept = Kept { queue: (0..MESSAGES).collect(), next: 0, in_flight: Vec::new(), last_id: 0 };
        let sender = Sender {
            version: setup.version,
            qos: setup.qos,
            ids: setup.ids,
            window: 1 + usize::try_from(dice.roll() % 8).expect("small"),
            payloads: (0..MESSAGES).map(|number| (number % kinds).to_string()).collect(),
            kept: kept.clone(),
            unread: BytesMut::new(),
        };
        World {
            setup,
            dice,
            sender,
            lab: Lab::new(setup.version, setup.side),
            to_us: BytesMut::new(),
            to_sender: BytesMut::new(),
            snapshot: kept,
            in_flight_at_cuts: 0,
        }
    }

    fn pick(&self, bound: usize) -> usize {
        usize::try_from(self.dice.roll() % bound as u64).expect("small")
    }

    /// One thing happens; the higher the number the rarer.
    fn step(&mut self) {
        match self.pick(41) {
            0..10 => self.sender.send(&mut self.to_us),
            10..20 => self.deliver_to_us(),
            20..26 => drop(self.lab.append()),
            26..32 => drop(self.lab.sync()),
            32..38 => self.deliver_to_sender(),
            38 => self.cut(),
            39 => self.crash(),
            _ if !self.setup.rolls_back => {}
            _ if self.pick(4) > 0 => self.snapshot = self.sender.kept.clone(),
            _ => self.roll_back(),
        }
    }

    fn deliver_to_us(&mut self) {
        let count = self.pick(self.to_us.len() + 1);
        self.lab.feed(&self.to_us[..count]).expect("the sender keeps to the protocol");
        self.to_us.advance(count);
    }

    fn deliver_to_sender(&mut self) {
        let answers = self.lab.answers();
        self.to_sender.extend_from_slice(&answers);
        let count = self.pick(self.to_sender.len() + 1);
        let bytes = self.to_sender.split_to(count);
        let logged = self.lab.payloads();
        let held = self.lab.recall().held;
        let Setup { rolls_back, forgets, .. } = self.setup;
        let conforming = !rolls_back;
        let payloads = self.sender.payloads.clone();
        self.sender.feed(&bytes, conforming, &mut self.to_us, |packet, message| match packet {
            Packet::PubAck(_) | Packet::PubRec(_) => {
                assert!(logged.contains(&payloads[message]), "{} before the log has {message}", packet.name());
            }
            Packet::PubComp(ack) if conforming && !forgets => {
                assert!(!held.ids().contains(&ack.id), "PUBCOMP {} before its release is durable", ack.id);
            }
            _ => {}
        });
    }

    fn cut(&mut self) {
        self.in_flight_at_cuts += self.sender.kept.in_flight.len();
        self.deliver_to_us();
        self.deliver_to_sender();
        self.lab.cut();
        self.reconnect();
    }

    fn crash(&mut self) {
        self.in_flight_at_cuts += self.sender.kept.in_flight.len();
        self.deliver_to_us();
        self.deliver_to_sender();
        let synced = self.pick(self.lab.waiting.len() + 1);
        self.lab.crash(synced);
        if self.setup.forgets {
            self.lab.connect(Remembered::new("lab", Lasts::InLog));
        }
        self.reconnect();
    }

    fn roll_back(&mut self) {
        self.lab.cut();
        self.sender.kept = self.snapshot.clone();
        // What publishers send after the broker is back comes in between, so ids meet other messages.
        let next = self.sender.kept.next;
        for place in (next + 1..MESSAGES).rev() {
            let other = next + self.pick(place - next + 1);
            self.sender.kept.queue.swap(place, other);
        }
        self.snapshot = self.sender.kept.clone();
        self.reconnect();
    }

    fn reconnect(&mut self) {
        self.to_us.clear();
        self.to_sender.clear();
        self.sender.resume(&mut self.to_us);
    }

    /// Lets chance have its way for a while, then finishes in peace.
    fn run(mut self) -> Outcome {
        for _ in 0..1_500 {
            self.step();
        }
        for _ in 0..10_000 {
            self.sender.send(&mut self.to_us);
            self.deliver_to_us();
            self.lab.append();
            self.lab.sync();
            self.deliver_to_sender();
            if self.sender.is_done() {
                break;
            }
        }
        assert!(self.sender.is_done(), "in flight for ever: {:?}", self.sender.kept.in_flight);
        let mut logged: BTreeMap<String, usize> = BTreeMap::new();
        self.lab.payloads().into_iter().for_each(|payload| *logged.entry(payload).or_default() += 1);
        let mut outcome = Outcome { lost: 0, duplicated: 0, in_flight_at_cuts: self.in_flight_at_cuts };
        let mut sent: BTreeMap<&String, usize> = BTreeMap::new();
        self.sender.payloads.iter().for_each(|payload| *sent.entry(payload).or_default() += 1);
        for (payload, sent) in sent {
            let logged = logged.remove(payload).unwrap_or_default();
            outcome.lost += sent.saturating_sub(logged);
            outcome.duplicated += logged.saturating_sub(sent);
        }
        assert!(logged.is_empty(), "invented: {logged:?}");
        if self.setup.qos == QoS::ExactlyOnce && !self.setup.rolls_back && !self.setup.forgets {
            assert!(self.lab.notes().is_empty(), "held for ever: {:?}", self.lab.notes());
        }
        outcome
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    lost: usize,
    duplicated: usize,
    in_flight_at_cuts: usize,
}

const SEEDS: u64 = 30;

fn setups(qos: QoS, rolls_back: bool) -> Vec<Setup> {
    let mut setups = Vec::new();
    for version in BOTH {
        for side in [Side::Client(Retained::Skip), Side::Server] {
            for ids in [Ids::Circle, Ids::LowestFree] {
                for distinct in [true, false] {
                    setups.push(Setup { version, side, qos, ids, rolls_back, distinct, forgets: false });
                }
            }
        }
    }
    setups
}

fn run(setup: Setup, seed: u64) -> Outcome {
    World::new(setup, seed).run()
}

#[test]
fn at_qos_2_each_message_is_logged_exactly_once_whatever_is_cut_or_killed() {
    for setup in setups(QoS::ExactlyOnce, false) {
        for seed in 0..SEEDS {
            let Outcome { lost, duplicated, .. } = run(setup, seed);
            assert_eq!((lost, duplicated), (0, 0), "seed {seed}, {setup:?}");
        }
    }
}

#[test]
fn at_qos_1_none_is_lost_and_only_what_was_in_flight_comes_twice() {
    for setup in setups(QoS::AtLeastOnce, false) {
        for seed in 0..SEEDS {
            let Outcome { lost, duplicated, in_flight_at_cuts } = run(setup, seed);
            assert_eq!(lost, 0, "seed {seed}, {setup:?}");
            assert!(duplicated <= in_flight_at_cuts, "{duplicated} > {in_flight_at_cuts}, seed {seed}, {setup:?}");
        }
    }
}

#[test]
fn a_sender_that_goes_back_to_an_old_state_costs_duplicates_and_never_a_message() {
    let mut duplicated = 0;
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        for setup in setups(qos, true).into_iter().filter(|setup| setup.distinct) {
            for seed in 0..SEEDS {
                let outcome = run(setup, seed);
                assert_eq!(outcome.lost, 0, "seed {seed}, {setup:?}");
                duplicated += outcome.duplicated;
            }
        }
    }
    assert!(duplicated > 0, "the sender never went back far enough to matter");
}

#[test]
fn the_model_sees_a_receiver_that_forgets_its_ids() {
    let mut caught = 0;
    for setup in setups(QoS::ExactlyOnce, false) {
        for seed in 0..8 {
            caught += usize::from(run(Setup { forgets: true, ..setup }, seed).duplicated > 0);
        }
    }
    assert!(caught > 50, "{caught} of 128");
}

/// Three messages, and one disaster at each place where one can be: after any byte in either direction, and after any step.
#[test]
fn a_cut_or_a_kill_after_any_byte_costs_and_doubles_nothing() {
    for version in BOTH {
        for side in [Side::Client(Retained::Skip), Side::Server] {
            let setup = Setup {
                version,
                side,
                qos: QoS::ExactlyOnce,
                ids: Ids::LowestFree,
                rolls_back: false,
                distinct: true,
                forgets: false,
            };
            for kills in [false, true] {
                let mut disaster_at = 0;
                while one_disaster(setup, kills, disaster_at) {
                    disaster_at += 1;
                }
                assert!(disaster_at > 100, "{disaster_at} places are too few");
            }
        }
    }
}

/// Plays three messages byte by byte, with a disaster at one place; returns `false` if it was never reached.
fn one_disaster(setup: Setup, kills: bool, disaster_at: usize) -> bool {
    let mut world = World::new(setup, 1);
    world.sender.window = 2;
    world.sender.kept.queue.truncate(3);
    let mut place = 0;
    let mut happened = false;
    for _ in 0..1_000 {
        if world.sender.is_done() {
            break;
        }
        world.sender.send(&mut world.to_us);
        // Every other step is a sync, an append, a byte to us, a byte to the sender.
        for what in 0..4 {
            match what {
                0 if !world.to_us.is_empty() => {
                    world.lab.feed(&world.to_us[..1]).expect("good bytes");
                    world.to_us.advance(1);
                }
                1 => drop(world.lab.append()),
                2 => drop(world.lab.sync()),
                _ => {
                    let answers = world.lab.answers();
                    world.to_sender.extend_from_slice(&answers);
                    if !world.to_sender.is_empty() {
                        let byte = world.to_sender.split_to(1);
                        world.sender.feed(&byte, true, &mut world.to_us, |_, _| ());
                    }
                }
            }
            if place == disaster_at {
                happened = true;
                if kills {
                    world.lab.crash(0)
                } else {
                    world.lab.cut()
                }
                world.reconnect();
            }
            place += 1;
        }
    }
    assert!(world.sender.is_done(), "in flight for ever: {:?}", world.sender.kept.in_flight);
    let logged = world.lab.payloads();
    assert_eq!(logged, ["0", "1", "2"], "kills: {kills}, at {disaster_at}");
    happened
}
