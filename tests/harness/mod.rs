//! What the tests need around the program: processes, brokers, clients, foreign readers, ledgers.
//!
//! - [`folder`]: a temporary folder that is kept when its test fails
//! - [`disk`]: a disk that can be full, or lose its power
//! - [`program`]: the real `tidemill`, started, killed and stopped
//! - [`http`]: a client that posts rows and asks questions
//! - [`mqtt`]: a publisher that knows what was acknowledged
//! - [`mqtt_script`]: MQTT byte by byte, as a script says
//! - [`peer`]: numbered messages through any number of broken connections
//! - [`strace`]: a tracer that stands between the program and its kernel
//! - [`broker`]: a real `mosquitto` and its command line clients
//! - [`certificates`]: an authority, and what it issues
//! - [`node`]: scripts for Node.js, with packages of npm
//! - [`python`]: scripts in the environment with the foreign readers
//! - [`tables`]: what DuckDB and the `deltalake` package find on disk, and what a second reader finds in the ingest log
//! - [`ledger`]: what was sent and acknowledged, written before it is sent
//! - [`wait`]: patience with a limit

pub(crate) mod disk;
pub(crate) mod folder;
pub(crate) mod wait;

pub(crate) mod program;

pub(crate) mod http;
pub(crate) mod mqtt;
pub(crate) mod mqtt_script;

pub(crate) mod broker;
pub(crate) mod certificates;

pub(crate) mod node;
pub(crate) mod python;
pub(crate) mod tables;

pub(crate) mod ledger;
pub(crate) mod peer;

pub(crate) mod strace;
