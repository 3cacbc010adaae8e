//! The machine that breaks it, in process: the whole engine and its tables on a simulated disk, one seed for everything.
//!
//! ```text
//!   script (rows, pauses, bursts) ─► life ─ stopped, killed, powered off, refused by the disk ─► life ─► … ─► judge
//!                                     └ workers, writers, intervals, turns: by the seed
//! ```
//! The judge believes nobody: it reads the log, computes what every table must hold after each epoch with a model of its
//! own, and compares that with every version of every table; and it knows from the driver what was acknowledged.
//!
//! - [`crash`]: a power loss and a kill before and after every sync, also of those that recovery makes.
//! - [`faults`]: an error at any call of the disk.
//! - [`seeds`]: lives in a row that the seed makes up.

mod crash;
mod faults;
mod seeds;

mod judge;
mod life;
mod reference;
mod report;
mod scenario;
mod world;
