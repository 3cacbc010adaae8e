//! The engine of tidemill: time, windows, the ingest log, the dataflow and the runtime that drives it.
//!
//! Modules in reading order, in the layers that `tests/tidy/` holds: a layer imports from itself and from those above
//! it in this list.
//!
//! - words: [`epoch`], [`time`], [`key`], [`error`]; and [`seeded_bugs`], which any module may plant
//! - traits, each a contract: [`clock`], [`storage`], [`source`], [`decode`], [`expr`], [`sink`]
//! - pure, without I/O and without a clock: [`watermark`], [`window`], [`dedup`], [`aggregate`], [`plan`]
//! - files: [`checkpoint`], [`fence`], [`ingest`]
//! - operators on timely: [`dataflow`]
//! - threads: [`runtime`]
//! - for tests: [`testing`]

pub mod epoch;
pub mod error;
pub mod key;
pub mod seeded_bugs;
pub mod time;

pub mod clock;
pub mod decode;
pub mod expr;
pub mod sink;
pub mod source;
pub mod storage;

pub mod aggregate;
pub mod dedup;
pub mod plan;
pub mod watermark;
pub mod window;

pub mod checkpoint;
pub mod fence;
pub mod ingest;

pub mod dataflow;

pub mod runtime;

pub mod testing;
