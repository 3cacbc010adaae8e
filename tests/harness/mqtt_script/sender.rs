//! Who sends messages and must know what became of them: a broker towards a subscriber, or a device towards a broker.
//!
//! ```text
//!   QoS 1   PUBLISH ─► in flight ─ PUBACK ─► done
//!   QoS 2   PUBLISH ─► in flight ─ PUBREC ─► released (PUBREL is sent) ─ PUBCOMP ─► done
//! ```
//!
//! After a broken connection everything that is not done is sent again in its order: PUBLISH with DUP, or PUBREL.

use std::collections::{HashSet, VecDeque};

use super::words::{Version, encode};

/// Which packet id comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ids {
    /// The one after the last, as Mosquitto chooses.
    Upwards,
    /// The lowest that is free, as HiveMQ chooses: an id is used again at once.
    LowestFree,
}

/// Messages of one session that are not done.
pub(crate) struct Sender {
    version: Version,
    qos: u8,
    topic: String,
    ids: Ids,
    last_id: u16,
    flights: VecDeque<Flight>,
    used: HashSet<u16>,
}

struct Flight {
    id: u16,
    seq: i64,
    payload: String,
    released: bool,
}

impl Sender {
    /// Begins a session without messages.
    pub(crate) fn new(version: Version, qos: u8, topic: &str, ids: Ids) -> Sender {
        let (flights, used) = (VecDeque::new(), HashSet::new());
        Sender { version, qos, topic: topic.to_owned(), ids, last_id: 0, flights, used }
    }

    /// Goes on with the version of a new connection.
    pub(crate) fn set_version(&mut self, version: Version) {
        self.version = version;
    }

    /// Returns how many messages are not done.
    pub(crate) fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Returns the bytes of a new message.
    pub(crate) fn publish(&mut self, seq: i64, payload: String) -> Vec<u8> {
        let free = |id: &u16| !self.used.contains(id);
        let id = match self.ids {
            Ids::LowestFree => (1..=u16::MAX).find(free),
            Ids::Upwards => (self.last_id.saturating_add(1)..=u16::MAX).chain(1..=self.last_id).find(free),
        };
        let id = if self.qos > 0 { id.expect("fewer than 65,535 in flight") } else { 0 };
        self.last_id = id;
        let flight = Flight { id, seq, payload, released: false };
        let bytes = self.bytes(&flight, false);
        if self.qos > 0 {
            self.used.insert(id);
            self.flights.push_back(flight);
        }
        bytes
    }

    /// Returns what is sent first on a new connection.
    pub(crate) fn resume(&self) -> Vec<u8> {
        self.flights.iter().flat_map(|flight| self.bytes(flight, true)).collect()
    }

    /// Takes an answer; returns what is to be answered to it, and the number of a message that is done.
    pub(crate) fn hear(&mut self, line: &str) -> (Vec<u8>, Option<i64>) {
        let mut words = line.split(' ');
        let (name, id) = (words.next().expect("a name"), words.next().and_then(|id| id.parse::<u16>().ok()));
        let refused = words.next().is_some_and(|rc| rc.strip_prefix("rc=0x").is_some_and(|code| code >= "80"));
        assert!(!refused, "a message is refused: {line}");
        let at = id.and_then(|id| self.flights.iter().position(|flight| flight.id == id));
        match (name, self.qos, at) {
            ("PUBREC", 2, Some(at)) => {
                self.flights[at].released = true;
                (self.bytes(&self.flights[at], true), None)
            }
            // Answered like one that is known: it is how a receiver gets rid of it.
            ("PUBREC", 2, None) => (encode(self.version, &format!("PUBREL {}", id.expect("an id"))), None),
            ("PUBACK", 1, Some(at)) => (Vec::new(), Some(self.done(at))),
            ("PUBCOMP", 2, Some(at)) if self.flights[at].released => (Vec::new(), Some(self.done(at))),
            // To what was sent again and had been answered before.
            ("PUBACK", 1, None) | ("PUBCOMP", 2, None) => (Vec::new(), None),
            _ => panic!("{line} answers nothing that was sent at QoS {}", self.qos),
        }
    }

    fn done(&mut self, at: usize) -> i64 {
        let flight = self.flights.remove(at).expect("a message in flight");
        self.used.remove(&flight.id);
        flight.seq
    }

    fn bytes(&self, flight: &Flight, again: bool) -> Vec<u8> {
        let Flight { id, payload, released, .. } = flight;
        let (qos, topic, dup) = (self.qos, &self.topic, u8::from(again));
        let line = match (released, qos) {
            (true, _) => format!("PUBREL {id}"),
            (false, 0) => format!("PUBLISH q0 topic={topic} payload={payload}"),
            (false, _) => format!("PUBLISH q{qos} id={id} dup={dup} topic={topic} payload={payload}"),
        };
        encode(self.version, &line)
    }
}
