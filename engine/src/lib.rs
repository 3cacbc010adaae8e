//! The engine of tidemill: time, windows, the ingest log, the dataflow and the runtime that drives it.
//!
//! Modules in reading order; each imports only from those above it in this list.

pub mod epoch;
pub mod key;
pub mod time;

pub mod clock;
pub mod decode;
pub mod expr;
pub mod sink;
pub mod source;
pub mod storage;

pub mod ingest;

pub mod aggregate;
pub mod watermark;
pub mod window;

pub mod plan;

pub mod dataflow;

pub mod runtime;

pub mod testing;
