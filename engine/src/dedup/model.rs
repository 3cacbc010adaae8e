//! The rule as the [module](super) tells it, word by word: slow, and without any structure.

use crate::time::Watermark;

/// What becomes of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Taken,
    Repeat,
    TooOld,
}

/// All rows that were taken, and the watermark of the epoch before.
pub(crate) struct Model<K> {
    within_us: i64,
    watermark: Watermark,
    taken: Vec<(K, i64)>,
}

impl<K: PartialEq> Model<K> {
    pub(crate) fn new(within_us: i64) -> Model<K> {
        Model { within_us, watermark: Watermark::UNKNOWN, taken: Vec::new() }
    }

    /// Judges the next row of the log; `None` is a row without a key.
    pub(crate) fn judge(&mut self, key: Option<K>, time_us: i64) -> Fate {
        let Some(key) = key else { return Fate::Taken };
        let is_past = |time_us: i64| time_us < self.watermark.0.saturating_sub(self.within_us);
        if is_past(time_us) {
            return Fate::TooOld;
        }
        let is_original =
            |(other, at_us): &(K, i64)| *other == key && (at_us - time_us).abs() <= self.within_us && !is_past(*at_us);
        if self.taken.iter().any(is_original) {
            return Fate::Repeat;
        }
        self.taken.push((key, time_us));
        Fate::Taken
    }

    pub(crate) fn close(&mut self, watermark: Watermark) {
        self.watermark = self.watermark.max(watermark);
    }
}
