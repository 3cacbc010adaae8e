//! Histograms with exponential buckets, as the buckets that SQL can count with: `le`, and how many values are no greater.
//!
//! ```text
//!    negative buckets          zero        positive buckets
//!   ──┬──────┬────┬──┬─────────┼─────────┬──┬────┬──────┬──►        boundaries: ± base^index, base = 2^(2^-scale)
//!     -8     -4   -2 -1    -z  0  z      1  2    4      8
//! ```
//!
//! Prometheus counts a bucket by its upper boundary (index 1 is (1, base]), OpenTelemetry by its lower one.

/// A bucket: its boundary in the index of Prometheus, and how many values are in it.
pub(super) type Bucket = (i64, f64);

/// What a histogram has beside its count.
#[derive(Debug, Default)]
pub(super) struct Exponential {
    pub(super) scale: i32,
    pub(super) zero_threshold: f64,
    pub(super) zero_count: f64,
    /// By rising index.
    pub(super) negative: Vec<Bucket>,
    /// By rising index.
    pub(super) positive: Vec<Bucket>,
}

impl Exponential {
    /// Returns each boundary with the count of all values up to it, without the last, `+Inf`.
    pub(super) fn cumulative(&self) -> Vec<(f64, f64)> {
        let mut sum = 0.0;
        let mut all = Vec::with_capacity(self.negative.len() + self.positive.len() + 1);
        let mut add = |le: f64, count: f64| {
            sum += count;
            all.push((le, sum));
        };
        // The greatest index is the farthest from zero. A value on the boundary belongs to the bucket farther away.
        for (index, count) in self.negative.iter().rev() {
            add(-self.boundary(index - 1), *count);
        }
        if self.zero_count != 0.0 || !self.negative.is_empty() {
            add(self.zero_threshold, self.zero_count);
        }
        for (index, count) in &self.positive {
            add(self.boundary(*index), *count);
        }
        all
    }

    /// `base^index`.
    fn boundary(&self, index: i64) -> f64 {
        let exponent = index as f64 * 2f64.powi(-self.scale);
        2f64.powf(exponent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_counted_from_the_left() {
        let histogram = Exponential {
            scale: 0,
            zero_threshold: 0.001,
            zero_count: 2.0,
            negative: vec![(1, 5.0), (3, 1.0)],
            positive: vec![(0, 1.0), (1, 3.0), (3, 4.0)],
        };
        assert_eq!(
            histogram.cumulative(),
            [(-4.0, 1.0), (-1.0, 6.0), (0.001, 8.0), (1.0, 9.0), (2.0, 12.0), (8.0, 16.0)]
        );
        let halves = Exponential { scale: 1, positive: vec![(2, 1.0), (4, 1.0)], ..Exponential::default() };
        assert_eq!(halves.cumulative(), [(2.0, 1.0), (4.0, 2.0)]);
        let wide = Exponential { scale: -1, positive: vec![(1, 1.0)], ..Exponential::default() };
        assert_eq!(wide.cumulative(), [(4.0, 1.0)]);
    }
}
