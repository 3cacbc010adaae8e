//! Windows: half-open stretches of event time that rows are grouped by.

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
