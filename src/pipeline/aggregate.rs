//! The words of the builder: windows and aggregates.

use std::time::Duration;

use tidemill_engine::aggregate::AggregateKind;
use tidemill_engine::time::micros;
use tidemill_engine::window::WindowAssigner;

/// An aggregate over the rows of a window and key: made by [`count`], [`sum`], [`avg`], [`min`], [`max`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aggregate {
    pub(super) kind: AggregateKind,
    pub(super) column: Option<String>,
    pub(super) name: String,
}

impl Aggregate {
    fn over(kind: AggregateKind, word: &str, column: &str) -> Self {
        Aggregate { kind, column: Some(column.to_owned()), name: format!("{word}_{column}") }
    }

    /// Names the column that comes out. Without: `count`, `avg_temperature`, ...
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }
}

/// Counts rows: `count(*)`.
pub fn count() -> Aggregate {
    Aggregate { kind: AggregateKind::Count, column: None, name: "count".to_owned() }
}

/// Counts the values of a column that are not null.
pub fn count_of(column: &str) -> Aggregate {
    Aggregate::over(AggregateKind::Count, "count", column)
}

/// Adds up a column of numbers; null if there are none.
pub fn sum(column: &str) -> Aggregate {
    Aggregate::over(AggregateKind::Sum, "sum", column)
}

/// The mean of a column of numbers; null if there are none.
pub fn avg(column: &str) -> Aggregate {
    Aggregate::over(AggregateKind::Avg, "avg", column)
}

/// The least value of a column; null if there are none.
pub fn min(column: &str) -> Aggregate {
    Aggregate::over(AggregateKind::Min, "min", column)
}

/// The greatest value of a column; null if there are none.
pub fn max(column: &str) -> Aggregate {
    Aggregate::over(AggregateKind::Max, "max", column)
}

/// Windows of one size, side by side.
///
/// ```
/// use tidemill::prelude::*;
/// let every_minute = tumbling(minutes(1));
/// # let _ = every_minute;
/// ```
pub fn tumbling(size: Duration) -> WindowAssigner {
    WindowAssigner::Tumbling { size_us: micros(size) }
}

/// Windows of `size`, one beginning at every multiple of `slide`.
///
/// ```
/// use tidemill::prelude::*;
/// let last_five_minutes_each_minute = hopping(minutes(1), minutes(5));
/// # let _ = last_five_minutes_each_minute;
/// ```
pub fn hopping(slide: Duration, size: Duration) -> WindowAssigner {
    WindowAssigner::Hopping { size_us: micros(size), slide_us: micros(slide) }
}
