//! The epoch: the number of a slice of input, and timely's timestamp.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The number of a slice of input as it was cut into the ingest log. The first one is 1; 0 means "before any".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u64);

impl Epoch {
    /// Before the first epoch: what a table that was never committed reports.
    pub const NONE: Epoch = Epoch(0);
    /// The first epoch of a log.
    pub const FIRST: Epoch = Epoch(1);

    /// Returns the epoch after this one.
    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
