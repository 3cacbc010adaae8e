//! Sums of floats that do not depend on the order of the values: what rounding lost is kept beside the sum.

/// Adds to a sum and its error (Neumaier 1974, with Knuth's TwoSum 1969 instead of a comparison).
#[inline]
pub(super) fn add(sum: f64, error: f64, value: f64) -> (f64, f64) {
    let (sum, missed) = two_sum(sum, value);
    (sum, error + missed)
}

#[inline]
pub(super) fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let b_part = sum - a;
    (sum, (a - (sum - b_part)) + (b - b_part))
}

/// The value of a sum and its error. The error of an infinite or undefined sum means nothing.
pub(super) fn settle(sum: f64, error: f64) -> f64 {
    if sum.is_finite() { sum + error } else { sum }
}
