//! Deduplication: `DEDUP KEY (id) WITHIN INTERVAL '10 minutes'` lets each event of a source through once, however often it
//! was delivered.
//!
//! # The rule
//!
//! Rows are judged in the order of the log. A row is a *repeat*, and goes no further, if a row with an equal key was taken
//! whose time is at most WITHIN away, before or after, and which is still remembered. A row is remembered until the
//! watermark is more than WITHIN past its time. What is not a repeat is taken.
//!
//! A row that is itself more than WITHIN behind the watermark is *too old to tell*: if it was taken before, that is
//! forgotten. It is neither let through, where it might count twice, nor thrown away: it goes to the table of late rows.
//! A row with a null in its key is no repeat of anything, and is always taken.
//!
//! ```text
//!   WITHIN 10m                 watermark 12:20
//!   ────────────────┼───────────────┼──────────────────► time
//!   forgotten;    12:10           12:20
//!   late          remembered
//! ```
//! Time is the event time. What is delivered again keeps its event time, and the watermark stands still while nothing is
//! received: so it is known again after an outage of any length. A source without an event time goes by the recorded
//! time of arrival instead; its watermark is the time in the last Seal, and no row is ever too old.
//!
//! A row's fate depends on the log alone: on what came before it there, and on the watermark of the epoch before its own.
//!
//! # The state
//!
//! Time is cut into *stretches* as long as WITHIN. In one stretch a key is remembered at most once, since two times in it
//! are less than WITHIN apart; so a stretch is a hash table from key to time, a row asks that of its own stretch and those
//! of the two neighbours, and forgetting is to drop a stretch whole:
//!
//! ```text
//!        ├─ before ─┤├─ own ─┤├─ after ─┤
//!               [ ◄─ WITHIN ─ t ─ WITHIN ─► ]      everything that t could repeat
//! ```
//! A stretch only grows at its end. What a checkpoint writes is what was added since the last one: see [`Stretch`].

#[cfg(test)]
pub(crate) mod model;
mod snapshot;
mod state;
mod stretch;
#[cfg(test)]
mod tests;

pub use snapshot::{DedupCodec, StretchSnapshot};
pub use state::{Candidates, DedupState, Judged};
pub use stretch::{NewKeys, Stretch};

/// The shortest WITHIN: a stretch is as long, and each has a table of its own.
pub const WITHIN_US_MIN: i64 = 1_000_000;

/// The longest WITHIN: a hundred years, as for windows.
pub const WITHIN_US_MAX: i64 = crate::window::WINDOW_SIZE_MAX_US;
