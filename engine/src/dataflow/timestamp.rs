//! The epoch as timely's timestamp: a totally ordered number that no path through a graph changes.

use timely::order::{PartialOrder, TotalOrder};
use timely::progress::timestamp::Refines;
use timely::progress::{PathSummary, Timestamp};

use crate::epoch::Epoch;

impl PartialOrder for Epoch {
    fn less_equal(&self, other: &Self) -> bool {
        self <= other
    }
}

impl TotalOrder for Epoch {}

impl Timestamp for Epoch {
    type Summary = ();

    fn minimum() -> Self {
        Epoch::NONE
    }
}

impl PathSummary<Epoch> for () {
    fn results_in(&self, epoch: &Epoch) -> Option<Epoch> {
        Some(*epoch)
    }

    fn followed_by(&self, _: &()) -> Option<()> {
        Some(())
    }
}

impl Refines<()> for Epoch {
    fn to_inner(_: ()) -> Self {
        Epoch::NONE
    }

    fn to_outer(self) {}

    fn summarize((): <Self as Timestamp>::Summary) {}
}
