//! The promise of MQTT, through the real program: what the broker or the listener has acknowledged is in the table, at QoS 2
//! once, whoever is killed, cut off or restarted.
//!
//! - [`scripted`]: a broker that says exactly what a test tells it, byte by byte, conforming or not
//! - [`devices`]: devices of our own at the listener, byte by byte
//! - [`metadata`]: what a publisher says beside the payload, as columns
//! - [`mosquitto`]: a real broker that restarts, forgets, or is away
//! - [`numbered`]: numbered messages from all sides while the program is killed again and again
//! - [`secured`]: a real broker that asks who we are, and several connections to one
//! - [`guarantees`]: the page that says what holds names the test of each claim

mod scripted;

mod devices;
mod metadata;
mod mosquitto;
mod numbered;
mod secured;

pub(crate) mod guarantees;
