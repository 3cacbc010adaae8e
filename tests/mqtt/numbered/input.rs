//! Who sends numbered messages, on which way they reach the program, and what may become of them.

use std::path::Path;

use tokio::net::TcpListener;

use super::toll::Toll;
use crate::harness::broker::Broker;
use crate::harness::mqtt_script::sender::Ids;
use crate::harness::mqtt_script::words::Version;
use crate::harness::peer::{Peer, Plan, Role};
use crate::harness::program::free_port;
use crate::harness::tables::Judge;

/// Messages that a real broker has in flight to the program, at most.
pub(super) const BROKER_WINDOW: usize = 500;
/// Messages that a sender of ours has in flight, at most.
const WINDOW: usize = 300;

/// How messages come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// From a device through a real broker.
    Mosquitto,
    /// From a broker of our own, which conforms, and chooses ids in this way.
    Broker(Ids),
    /// From a device of our own, straight to the listener.
    Listener(Ids),
}

/// One source, its sender and its table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Input {
    /// Of the source; the table is `t_<name>`.
    pub(super) name: &'static str,
    /// How messages come in.
    pub(super) way: Way,
    /// Of all messages, and of the subscription.
    pub(super) qos: u8,
    /// That the program speaks, or the device at a listener.
    pub(super) version: Version,
    /// Whether the source lets each number through once, by `DEDUP KEY`.
    pub(super) dedup: bool,
}

/// An input whose sender runs.
pub(super) struct Running {
    input: Input,
    /// The sender.
    pub(super) peer: Peer,
    /// The wire to a real broker.
    toll: Option<Toll>,
    sql: String,
}

impl Input {
    /// Lets the sender begin, without messages.
    pub(super) async fn begin(self, mosquitto: &Broker, ledgers: &Path) -> Running {
        let Input { name, way, qos, version, dedup } = self;
        let mut toll = None;
        let (role, connector, ids) = match way {
            Way::Mosquitto => {
                let wire = Toll::before(mosquitto.port).await;
                let connector = client(wire.port, name, qos, version);
                toll = Some(wire);
                (Role::Device { port: mosquitto.port }, connector, Ids::Upwards)
            }
            Way::Broker(ids) => {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
                let port = listener.local_addr().expect("an address").port();
                let connector = client(port, name, qos, version);
                (Role::Broker(listener), connector, ids)
            }
            Way::Listener(ids) => {
                let port = free_port();
                let connector =
                    format!("connector = 'mqtt_listener', bind = '127.0.0.1:{port}', topic = 'n/{name}/{{device}}'");
                (Role::Device { port }, connector, ids)
            }
        };
        let plan =
            Plan { who: name.to_owned(), role, version, qos, topic: format!("n/{name}/one"), window: WINDOW, ids };
        let dedup = if dedup { ", DEDUP KEY (seq) WITHIN INTERVAL '1 hour'" } else { "" };
        let sql = format!(
            "CREATE SOURCE {name} (who TEXT NOT NULL, seq BIGINT NOT NULL{dedup}) WITH ({connector});\n\
             CREATE MATERIALIZED VIEW t_{name} AS SELECT who, seq FROM {name};\n"
        );
        Running { input: self, peer: Peer::begin(plan, ledgers), toll, sql }
    }
}

fn client(port: u16, name: &str, qos: u8, version: Version) -> String {
    let (url, version) = (format!("mqtt://127.0.0.1:{port}"), version.option());
    format!("connector = 'mqtt', url = '{url}', topic = 'n/{name}/{{device}}', qos = '{qos}', version = '{version}'")
}

impl Running {
    /// Returns the source and its view.
    pub(super) fn sql(&self) -> &str {
        &self.sql
    }

    /// Returns whether each number must be there: at QoS 0 nobody knows what has arrived.
    pub(super) fn is_kept(&self) -> bool {
        self.input.qos > 0
    }

    /// Returns the name of the source.
    pub(super) fn name(&self) -> &'static str {
        self.input.name
    }

    /// Says what is wrong with the table, and how many duplicates there are.
    pub(super) fn verdict(&self, judge: &mut Judge, tables: &Path, messages: i64) -> (Vec<String>, i64) {
        let Input { name, way, qos, dedup, .. } = self.input;
        let table = format!("t_{name}");
        judge.table(&table, &tables.join(&table));
        let mut offences = Vec::new();
        let lost = format!(
            "SELECT seq FROM ledger WHERE what = 'A' AND who = '{name}' EXCEPT SELECT seq FROM {table} ORDER BY seq"
        );
        offences.extend(judge.offences(&format!("{name}: acknowledged, and not there"), &lost));
        let strange = format!(
            "SELECT who, seq FROM {table} EXCEPT SELECT who, seq FROM ledger WHERE what = 'S' AND who = '{name}'"
        );
        offences.extend(judge.offences(&format!("{name}: never sent, and there"), &strange));
        let acknowledged = judge.number(&format!("SELECT count(*) FROM ledger WHERE what = 'A' AND who = '{name}'"));
        if self.is_kept() && acknowledged != messages {
            offences.push((1, format!("{name}: {acknowledged} of {messages} are acknowledged")));
        }
        let doubled = judge.number(&format!("SELECT count(*) - count(DISTINCT seq) FROM {table}"));
        let most = match (qos, way) {
            (0 | 2, _) => 0,
            (1, _) if dedup => 0,
            (_, Way::Mosquitto) => self.toll.as_ref().map_or(0, Toll::in_flight_at_breaks),
            (_, Way::Broker(_) | Way::Listener(_)) => self.peer.in_flight_at_breaks(),
        };
        if doubled.unsigned_abs() > most {
            offences.push((1, format!("{name}: {doubled} duplicates, where {most} were in flight at most")));
        }
        if qos == 2 && self.peer.sessions_lost() > 0 {
            offences.push((1, format!("{name}: its session was forgotten {} times", self.peer.sessions_lost())));
        }
        (offences.into_iter().map(|(_, what)| what).collect(), doubled)
    }
}
