//! Native histograms of Prometheus, as both versions of remote write send them.
//!
//! ```text
//!   1, 2 count   3 sum   4 schema   5 zero threshold   6, 7 zero count   15 time in ms   16 listed boundaries
//!   8 negative spans    9 deltas or 10 counts of their buckets
//!   11 positive spans  12 deltas or 13 counts of their buckets          span { 1 gap, 2 how many buckets }
//! ```

use super::buckets::{Bucket, Exponential};
use super::wire::{Part, Value, zigzag};

/// The schema of histograms whose boundaries are listed.
const CUSTOM_SCHEMA: i64 = -53;

/// A native histogram.
#[derive(Default)]
pub(super) struct Histogram {
    pub(super) count: f64,
    pub(super) sum: f64,
    pub(super) time_ms: i64,
    schema: i64,
    zero_threshold: f64,
    zero_count: f64,
    negative: Side,
    positive: Side,
    /// The boundaries of schema -53.
    custom: Vec<f64>,
}

/// The buckets on one side of zero.
#[derive(Default)]
struct Side {
    /// Gap to the one before, and how many buckets follow each other.
    spans: Vec<(i64, u64)>,
    counts: Vec<f64>,
}

impl Histogram {
    pub(super) fn read(part: Part<'_>) -> Result<Histogram, String> {
        let mut histogram = Histogram::default();
        for field in part.fields() {
            match field? {
                (1, Value::Varint(count)) => histogram.count = count as f64,
                (2, count) => histogram.count = count.double(),
                (3, sum) => histogram.sum = sum.double(),
                (4, Value::Varint(schema)) => histogram.schema = zigzag(schema),
                (5, threshold) => histogram.zero_threshold = threshold.double(),
                (6, Value::Varint(count)) => histogram.zero_count = count as f64,
                (7, count) => histogram.zero_count = count.double(),
                (8, Value::Bytes(span)) => histogram.negative.spans.push(span_of(span)?),
                (9, Value::Bytes(deltas)) => histogram.negative.add_deltas(deltas)?,
                (10, Value::Bytes(counts)) => histogram.negative.counts.extend(counts.doubles()?),
                (11, Value::Bytes(span)) => histogram.positive.spans.push(span_of(span)?),
                (12, Value::Bytes(deltas)) => histogram.positive.add_deltas(deltas)?,
                (13, Value::Bytes(counts)) => histogram.positive.counts.extend(counts.doubles()?),
                (15, time) => histogram.time_ms = time.int(),
                (16, Value::Bytes(bounds)) => histogram.custom.extend(bounds.doubles()?),
                _ => {}
            }
        }
        Ok(histogram)
    }

    /// Returns the boundaries with the counts up to them.
    pub(super) fn cumulative(&self) -> Result<Vec<(f64, f64)>, String> {
        let positive = self.positive.buckets()?;
        if self.schema == CUSTOM_SCHEMA {
            let mut sum = 0.0;
            let bound = |(index, count): Bucket| {
                sum += count;
                let bound = usize::try_from(index).ok().and_then(|index| self.custom.get(index));
                bound.map(|bound| (*bound, sum))
            };
            return Ok(positive.into_iter().filter_map(bound).collect());
        }
        let scale = i32::try_from(self.schema).ok().filter(|schema| (-10..=20).contains(schema));
        let scale = scale.ok_or_else(|| format!("a histogram of schema {} is not known", self.schema))?;
        let exponential = Exponential {
            scale,
            zero_threshold: self.zero_threshold,
            zero_count: self.zero_count,
            negative: self.negative.buckets()?,
            positive,
        };
        Ok(exponential.cumulative())
    }
}

impl Side {
    fn add_deltas(&mut self, deltas: Part<'_>) -> Result<(), String> {
        let mut count = 0i64;
        for delta in deltas.varints() {
            count = count.wrapping_add(zigzag(delta?));
            self.counts.push(count as f64);
        }
        Ok(())
    }

    fn buckets(&self) -> Result<Vec<Bucket>, String> {
        let mut counts = self.counts.iter();
        let mut buckets = Vec::with_capacity(self.counts.len());
        let mut index = 0i64;
        for (gap, length) in &self.spans {
            index += gap;
            for _ in 0..*length {
                let count = counts.next().ok_or("a histogram has fewer counts than buckets")?;
                buckets.push((index, *count));
                index += 1;
            }
        }
        match counts.next() {
            None => Ok(buckets),
            Some(_) => Err("a histogram has more counts than buckets".to_owned()),
        }
    }
}

fn span_of(part: Part<'_>) -> Result<(i64, u64), String> {
    let (mut gap, mut length) = (0, 0);
    for field in part.fields() {
        match field? {
            // 32 bits on the wire: sums of them stay far from the end of 64.
            (1, Value::Varint(offset)) => gap = zigzag(offset).clamp(i32::MIN.into(), i32::MAX.into()),
            (2, Value::Varint(count)) => length = count,
            _ => {}
        }
    }
    Ok((gap, length))
}
