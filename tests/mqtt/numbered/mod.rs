//! Numbered messages from all sides, while the program is killed every 20 to 250 ms: at QoS 2 each number is in the table
//! once; at QoS 1 none is missing, there are no more duplicates than there were messages in flight, and with `DEDUP KEY` there
//! are none; at QoS 0 nothing that is there is there twice.
//!
//! ```text
//!   device ──► mosquitto ──►┐                                   ┌─► tables ──► DuckDB counts
//!   broker of our own ─────►├─ tidemill, killed and started ────┤
//!   device ────────────────►┘  again and again                  └─ ledgers of all senders, on disk before each message
//! ```
//!
//! - [`size`]: how many messages and kills
//! - [`input`]: who sends, and how
//! - [`toll`]: a wire that counts what is in flight
//! - [`run`]: all of it together, and the verdict

mod input;
mod run;
mod size;
mod toll;

use self::input::{Input, Way};
use self::run::run;
use self::size::Size;
use crate::harness::mqtt_script::sender::Ids;
use crate::harness::mqtt_script::words::Version;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_mosquitto_kills_lose_nothing_and_at_qos_2_double_nothing() {
    let inputs = [
        Input { name: "m1", way: Way::Mosquitto, qos: 1, version: Version::V4, dedup: false },
        Input { name: "once_m1", way: Way::Mosquitto, qos: 1, version: Version::V5, dedup: true },
        Input { name: "m2", way: Way::Mosquitto, qos: 2, version: Version::V5, dedup: false },
        Input { name: "n2", way: Way::Mosquitto, qos: 2, version: Version::V4, dedup: false },
    ];
    run("mosquitto", &inputs, Size::of_kills()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_broker_that_uses_ids_again_at_once_kills_lose_nothing_and_at_qos_2_double_nothing() {
    let inputs = [
        Input { name: "b1", way: Way::Broker(Ids::LowestFree), qos: 1, version: Version::V5, dedup: false },
        Input { name: "once_b1", way: Way::Broker(Ids::Upwards), qos: 1, version: Version::V4, dedup: true },
        Input { name: "b0", way: Way::Broker(Ids::Upwards), qos: 0, version: Version::V5, dedup: false },
        Input { name: "b2", way: Way::Broker(Ids::LowestFree), qos: 2, version: Version::V4, dedup: false },
        Input { name: "c2", way: Way::Broker(Ids::Upwards), qos: 2, version: Version::V5, dedup: false },
    ];
    run("broker", &inputs, Size::of_kills()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_listener_kills_lose_nothing_and_at_qos_2_double_nothing() {
    let inputs = [
        Input { name: "l1", way: Way::Listener(Ids::Upwards), qos: 1, version: Version::V4, dedup: false },
        Input { name: "once_l1", way: Way::Listener(Ids::Upwards), qos: 1, version: Version::V5, dedup: true },
        Input { name: "l0", way: Way::Listener(Ids::Upwards), qos: 0, version: Version::V4, dedup: false },
        Input { name: "l2", way: Way::Listener(Ids::LowestFree), qos: 2, version: Version::V5, dedup: false },
        Input { name: "k2", way: Way::Listener(Ids::Upwards), qos: 2, version: Version::V4, dedup: false },
    ];
    run("listener", &inputs, Size::of_kills()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_of_sixty_thousand_is_drained_through_kills() {
    let inputs = [
        Input { name: "backlog1", way: Way::Mosquitto, qos: 1, version: Version::V4, dedup: false },
        Input { name: "backlog2", way: Way::Mosquitto, qos: 2, version: Version::V5, dedup: false },
    ];
    run("backlog", &inputs, Size::of_backlogs()).await;
}
