//! What a start makes of a data folder: after a stop, after a kill, with another number of threads, with another
//! pipeline, and with files that are damaged, lost, of another folder or of another version.
//!
//! The measure is always the same: the tables must be, row for row, what a fresh folder gets from the same log.

mod scene;

mod backup;
mod bits;
mod change;
mod damage;
mod dedup;
mod golden;
mod housekeeping;
mod knobs;
mod rescaling;
mod shrunk;
