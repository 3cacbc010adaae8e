//! MQTT: devices and brokers as sources. Versions 3.1.1 and 5, QoS 0 and 1, both directions of a connection.
//!
//! ```text
//!   client     `mqtt`: we connect to a broker           listener   `mqtt_listener`: devices connect to us
//!        └──────────────────────────┬────────────────────────────┘
//!                              connection      the loop: reads, appends, acknowledges        tokio
//!                     ┌─────────────┼──────────────┐
//!                   inbox        session       keep_alive     decisions: no I/O, no clock
//!                     └ codec, write ┴─ packet ────┘          bytes ⇄ packets, by the rumqttc codecs where they fit
//!                             │
//!                         properties                          of MQTT 5
//! ```
//!
//! The one rule: **a message is acknowledged after the ingest log has synced it, in the order it came, on the connection that
//! brought it, and never otherwise.** rumqttc's own client cannot do that (it acknowledges by itself or in any order), so only
//! the codecs of that family are used.
//!
//! Not here: TLS, QoS 2 (its place is in `session.rs`), shared subscriptions, publishing.

pub mod topic;

mod attributes;
mod backoff;
mod client;
mod codec;
mod connection;
mod inbox;
mod keep_alive;
mod listener;
mod packet;
mod properties;
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
