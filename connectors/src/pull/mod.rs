//! Sources that fetch: we ask, and others answer.
//!
//! ```text
//!   connector    one partition for each URL            asks                                  keeps in the log, beside the rows
//!   http_poll    GET, again and again                  every `interval`                      hash and ETag of the last answer, with emit = 'changed'
//!   sse          GET, an answer without end            once; again with Last-Event-ID        the last id
//!   websocket    a conversation                        once; again when it is lost           nothing: the protocol has no numbers
//! ```
//!
//! What they have in common: the targets and who we are to them (`site.rs`), one connection and whom it may reach (`dial.rs`),
//! one request with its redirects (`fetch.rs`), and a task for each target that is tried again and again, with a breaker
//! (`target.rs`), and how that ends (`end.rs`). Targets are apart: one that is slow, or down, holds up no other.
//!
//! Nothing is acknowledged, since none of these protocols can be told that something was stored. Backpressure is not to read:
//! a poll is late, a stream fills its socket.

mod dial;
mod fetch;
mod reading;
mod site;
mod target;

pub mod poll;
pub mod sse;
pub mod websocket;

mod probe;
mod rows_at;

#[cfg(test)]
mod tests;

pub use poll::{HttpPollSource, http_poll};
pub use probe::{Look, LookError, look};
pub use rows_at::RowsAt;
pub(crate) use sse::event_id;
pub use sse::{SseSource, sse};
pub use websocket::{WebsocketSource, websocket};
