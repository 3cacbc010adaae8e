//! Windows: half-open stretches of event time that rows are grouped by.
//!
//! Rows are kept by *pane*: the widest stretches that no window boundary cuts. A tumbling window is one pane; a
//! hopping window is a range of panes as wide as the greatest common divisor of size and slide.
//!
//! ```text
//!   size 6, slide 4: panes of 2        0   2   4   6   8  10
//!                                      ├───┴───┴───┤               window [0, 6)
//!                                              ├───┴───┴───┤       window [4, 10)
//! ```
//!
//! A window `[start, end)` closes when the watermark reaches `end`. A row is late if no window that it falls into is
//! open any more; also if it falls into none, which happens when the slide is greater than the size.

mod key_table;
mod pane;
mod snapshot;
mod state;

pub use key_table::KeyColumn;
pub(crate) use key_table::{KeyTable, KeysSince, NO_GROUP};
pub(crate) use snapshot::by_key_group;
pub use snapshot::{PaneCodec, PaneSnapshot, SavedPane};
pub use state::WindowState;

use crate::time::Watermark;

/// Which windows a row belongs to. Widths are in microseconds and greater than zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowAssigner {
    /// Windows of one size, side by side: `[k * size, (k + 1) * size)`.
    Tumbling {
        /// Width of a window.
        size_us: i64,
    },
    /// A window of `size` begins at every multiple of `slide`; they overlap if the slide is smaller.
    Hopping {
        /// Width of a window.
        size_us: i64,
        /// Distance between the starts of two windows.
        slide_us: i64,
    },
}

/// Instants beyond this are no event times: window arithmetic must not overflow. About 36,000 years from 1970.
pub const EVENT_TIME_MAX_US: i64 = 1 << 60;

/// The widest window: a hundred years.
pub const WINDOW_SIZE_MAX_US: i64 = 100 * 366 * 86_400_000_000;

impl WindowAssigner {
    /// Returns the width of a window.
    pub fn size_us(self) -> i64 {
        match self {
            WindowAssigner::Tumbling { size_us } | WindowAssigner::Hopping { size_us, .. } => size_us,
        }
    }

    /// Returns the distance between the starts of two windows.
    pub fn slide_us(self) -> i64 {
        match self {
            WindowAssigner::Tumbling { size_us } => size_us,
            WindowAssigner::Hopping { slide_us, .. } => slide_us,
        }
    }

    /// Returns the width of a pane.
    pub fn pane_us(self) -> i64 {
        greatest_common_divisor(self.size_us(), self.slide_us())
    }

    /// Returns the start of the pane that an instant falls into.
    #[inline]
    pub fn pane_of(self, time_us: i64) -> i64 {
        let pane_us = self.pane_us();
        time_us - time_us.rem_euclid(pane_us)
    }

    /// Returns the end of the last window that holds a pane; `None` if the pane lies between windows.
    pub fn last_end(self, pane_start_us: i64) -> Option<i64> {
        let start = pane_start_us - pane_start_us.rem_euclid(self.slide_us());
        let end = start + self.size_us();
        (pane_start_us < end).then_some(end)
    }

    /// Returns the starts of all windows that hold a pane, latest first.
    pub fn windows_of(self, pane_start_us: i64) -> impl Iterator<Item = i64> {
        let last = pane_start_us - pane_start_us.rem_euclid(self.slide_us());
        let (size_us, slide_us) = (self.size_us(), self.slide_us());
        (0..).map(move |back| last - back * slide_us).take_while(move |start| pane_start_us < start + size_us)
    }

    /// Returns the watermark that holds for the results' `window_start`: no result to come starts earlier.
    pub fn start_watermark(self, watermark: Watermark) -> Watermark {
        if watermark == Watermark::UNKNOWN || watermark == Watermark::END {
            return watermark;
        }
        // Windows end at size + k * slide. The next to close is the first that ends after the watermark.
        let (size_us, slide_us) = (self.size_us(), self.slide_us());
        let last_start = (watermark.0 - size_us).div_euclid(slide_us) * slide_us;
        Watermark(last_start + slide_us)
    }
}

fn greatest_common_divisor(a: i64, b: i64) -> i64 {
    let (mut a, mut b) = (a, b);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panes_and_windows_agree_with_their_definition() {
        for (size, slide) in [(10, 10), (6, 4), (4, 6), (10, 3), (1, 5), (60, 20)] {
            let assigner = WindowAssigner::Hopping { size_us: size, slide_us: slide };
            for time in -50..50i64 {
                let expected: Vec<i64> = (-200..200)
                    .rev()
                    .map(|k| k * slide)
                    .filter(|start| (*start..start + size).contains(&time))
                    .collect();
                let pane = assigner.pane_of(time);
                assert_eq!(assigner.windows_of(pane).collect::<Vec<_>>(), expected, "{size} {slide} {time}");
                assert_eq!(assigner.last_end(pane), expected.first().map(|start| start + size));
            }
        }
    }

    #[test]
    fn no_result_starts_before_the_start_watermark() {
        for (size, slide) in [(10, 10), (6, 4), (4, 6), (10, 3)] {
            let assigner = WindowAssigner::Hopping { size_us: size, slide_us: slide };
            for watermark in -50..50i64 {
                let next = (-100..100).map(|k| k * slide).filter(|start| start + size > watermark).min();
                assert_eq!(Some(assigner.start_watermark(Watermark(watermark)).0), next, "{size} {slide} {watermark}");
            }
        }
    }
}
