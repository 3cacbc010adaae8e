//! The tests of the whole, in one binary: rules of the house, the reference model, and the real program against real
//! clients, brokers and readers.
//!
//! They need `mosquitto`, `strace` and a Python environment with foreign readers; `./check tools` installs them. A test
//! whose tool is missing fails and says so: a check that skips itself proves nothing.

#![allow(clippy::disallowed_methods, reason = "tests own real time and write their own files")]
#![allow(clippy::unwrap_used, reason = "a test that panics has failed, which is what it should do")]

mod harness;

mod tidy;

mod cases;
mod differential;
mod oracle;

mod backpressure;
mod breaker;
mod embed;
mod exit_codes;
mod flipped_bits;
mod follow;
mod formats;
mod full_at_start;
mod http;
mod idle;
mod ingest;
mod inspect;

mod listener;
mod mqtt;
mod protocols;
mod pull;
mod readers_while_running;
mod readme;
mod restart;
mod restore;
mod seeded_bugs;
mod short_writes;
mod simulation;
mod sinks;
mod sniff;
mod table_readers;
mod verify;
