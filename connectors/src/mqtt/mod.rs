//! MQTT: devices and brokers as sources. Versions 3.1.1 and 5, QoS 0, 1 and 2, both directions of a connection.
//!
//! ```text
//!   client     `mqtt`: we connect to a broker           listener   `mqtt_listener`: devices connect to us
//!        └──────────────────────────┬────────────────────────────┘
//!                              connection      the loop: reads, appends, acknowledges        tokio
//!                                   └ transport        plain TCP or TLS
//!                     ┌─────────────┼──────────────┐
//!                   inbox        session       keep_alive     decisions: no I/O, no clock
//!                     │             │
//!                     │          receiver ── attributes       messages, notes and answers, in order
//!                     │             │
//!                     │        remembered ── held             what outlives a connection: notes in the log
//!                     └ codec, write ┴─ packet                bytes ⇄ packets, by the rumqttc codecs where they fit
//!                             │
//!                         properties                          of MQTT 5
//! ```
//!
//! The one rule: **a message is acknowledged after the ingest log has synced it, in the order it came, on the connection that
//! brought it, and never otherwise.** rumqttc's own client cannot do that (it acknowledges by itself or in any order), so only
//! the codecs of that family are used.
//!
//! What that gives, for a peer that keeps its session and does as the standard says: QoS 0 at most once on the wire, QoS 1 at
//! least once, QoS 2 exactly once into the log, through kill -9 and power loss on our side. How is in `receiver.rs`; what a
//! peer's mistakes cost is in `held.rs`.
//!
//! Not here: shared subscriptions, publishing.

pub mod topic;

mod attributes;
mod backoff;
mod client;
mod codec;
mod connection;
mod held;
mod inbox;
mod keep_alive;
mod listener;
mod packet;
mod properties;
mod receiver;
mod remembered;
mod sender;
mod session;
mod transport;
mod write;

#[cfg(test)]
mod tests;

pub use attributes::Attributes;
pub use client::{MqttSource, client};
pub use listener::{Hub, Hubs, MqttListener, PasswordError, Publication, listener, password_line};
pub use topic::{TopicPattern, TopicPatternError};
