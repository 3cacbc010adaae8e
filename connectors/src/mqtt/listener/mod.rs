//! `connector = 'mqtt_listener'`: devices connect straight to us.
//!
//! A PUBACK means more than any broker's here: the message is in the ingest log and survives power loss. What a client can
//! expect:
//!
//! | it sends | it gets |
//! |---|---|
//! | CONNECT 3.1.1 or 5 | CONNACK; `session_present` if the session is there, also after a crash of ours |
//! | CONNECT with an id in use | the older connection is closed (version 5: 0x8E), and its session goes on |
//! | CONNECT without an id | an assigned one (version 5); accepted with a clean session, else code 2 (3.1.1) |
//! | PUBLISH QoS 0 | logged |
//! | PUBLISH QoS 1 | logged, and PUBACK once durable, in order |
//! | PUBLISH QoS 2 | logged once, and PUBREC once durable; the id is held until its PUBREL, and PUBCOMP says that it is free |
//! | PUBLISH to a topic that the source's pattern does not match | logged and acknowledged (version 5: 0x10, no matching subscribers), counted as `topic`, and found among the dead letters. It does not vanish, and a device of 3.1.1, which cannot be told no, is not caught in an endless reconnect |
//! | PUBLISH that the access file does not allow | not logged, counted as `acl`; acknowledged in version 5 with 0x87, in 3.1.1 like any other, as Mosquitto does |
//! | the retain flag | logged as any other message; the last one of its topic is sent to who subscribes later |
//! | SUBSCRIBE | what clients publish from then on, and what `mqtt` sinks of this program publish to this listener |
//! | SUBSCRIBE to `$share/…` | refused (0x9E; 3.1.1: 0x80) |
//! | a will | published as an ordinary message if the connection ends without a good-bye |
//! | silence for 1.5 keep-alives, or no CONNECT within 10 s | the end of the connection |
//! | a packet over 16 MiB | DISCONNECT 0x95, or the end of the connection |
//!
//! ```text
//!   acceptor ─► visit: limits ─► auth ─► sessions ─► guest ◄──► hub, tree, retained ◄── results
//!                                 │         │          │
//!                            passwords    note        acl, mailbox, outbox       house: what they share
//! ```
//!
//! Sessions, what waits for their clients, wills that are delayed and retained messages are notes in the log (`note`, `saved`,
//! `will`, `retained`): a restart goes on with them. What ends with its connection is in memory.

mod acceptor;
mod house;
mod limits;
mod visit;

mod auth;
mod passwords;

mod acl;
mod filter;
mod watched;

mod note;
mod sessions;
mod will;

mod delivery;
mod guest;
mod hub;
mod mailbox;
mod outbox;
mod results;
mod retained;
mod saved;
mod tree;

pub use acceptor::{MqttListener, listener};
pub(super) use guest::{Guest, Verdict};
#[cfg(test)]
pub(super) use limits::HANDSHAKES_MAX;
pub(super) use mailbox::Mailbox;
pub use passwords::{PasswordError, password_line};

/// The one partition of the source. A partition for each device would make the slowest one hold the watermark back.
const PARTITION: &str = "listener";
