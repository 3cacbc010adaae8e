//! The promise of MQTT, through the real program: what the broker or the listener has acknowledged is in the table, at QoS 2
//! once, whoever is killed, cut off or restarted.
//!
//! - [`scripted`]: a broker that says exactly what a test tells it, byte by byte, conforming or not
//! - [`clients`]: `mosquitto_sub` and `mosquitto_pub` at the listener
//! - [`crowd`]: many clients of all kinds at once
//! - [`devices`]: devices of our own at the listener, byte by byte
//! - [`interop`]: what `paho-mqtt` finds at the listener
//! - [`javascript`]: MQTT.js at the listener, through kills
//! - [`metadata`]: what a publisher says beside the payload, as columns
//! - [`mosquitto`]: a real broker that restarts, forgets, or is away
//! - [`numbered`]: numbered messages from all sides while the program is killed again and again
//! - [`secured`]: a real broker that asks who we are, and several connections to one
//! - [`shared`]: several connections that share a subscription, programs that share a client id
//! - [`guarantees`]: the page that says what holds names the test of each claim

mod scripted;

mod clients;
mod crowd;
mod devices;
mod interop;
mod javascript;
mod metadata;
mod mosquitto;
mod numbered;
mod secured;
mod shared;

pub(crate) mod guarantees;
