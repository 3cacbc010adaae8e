//! Where rows leave beside MQTT: each a destination behind an outbox, so that none of them holds anything up.
//!
//! | connector | a row arrives | how |
//! |---|---|---|
//! | `http` | at least once; once at a receiver that knows `Idempotency-Key` | claimed rows are one request with one key, whoever dies |
//! | `file` | exactly once | claimed rows are one file with one name, put there by one link |
//! | `stdout` | at least once | lines |

mod file;
mod http;
mod lines;
mod stdout;

#[cfg(test)]
mod testing;

pub(crate) use file::destination as file;
pub(crate) use http::destination as http;
pub(crate) use stdout::destination as stdout;
