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
//! What leaves goes through `sender.rs`, which decides, `link.rs`, which writes, and for sinks `courier.rs`; `marks.rs` knows
//! whether a broker still has the session of a sink.

pub mod topic;
pub mod topics;

mod attributes;
mod client;
mod codec;
mod connection;
mod courier;
mod credentials;
mod held;
mod inbox;
mod keep_alive;
mod link;
mod listener;
mod local;
mod marks;
mod packet;
mod properties;
mod publisher;
mod reach;
mod receiver;
mod remembered;
mod sender;
mod session;
mod sink;
mod subscribing;
mod template;
mod transport;
mod write;

#[cfg(test)]
mod tests;

pub use attributes::Attributes;
pub(crate) use attributes::is_oversize;
pub use client::{MqttSource, client};
pub use link::{Broker, Message};
pub use listener::{MqttListener, PasswordError, listener, password_line};
pub use local::{Listed, LocalBroker, LocalBrokers, LocalMessage};
pub use packet::QoS;
pub use publisher::Publisher;
pub use sink::destination;
pub use topic::{TopicPattern, TopicPatternError};
pub use topics::TopicPatterns;
