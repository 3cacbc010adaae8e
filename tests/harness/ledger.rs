//! The ledger: what was about to be sent, and what was acknowledged, on disk before it is sent.
//!
//! One JSON object a line:
//!
//! ```text
//! {"what":"S","who":"device-3","seq":17,"v":4,"ts":..,"batch":16}   about to send; synced to disk before the send
//! {"what":"A","who":"device-3","seq":17,"again":false}              acknowledged; again: the link broke in between
//! {"what":"N","who":"device-3","seq":17}                            refused: it must not be there
//! ```

use std::fs::File;
use std::io::Write;
use std::path::Path;

use serde_json::json;

/// The columns of a ledger, as DuckDB names them.
pub(crate) const COLUMNS: &str =
    "{what: 'VARCHAR', who: 'VARCHAR', seq: 'BIGINT', v: 'BIGINT', ts: 'BIGINT', batch: 'BIGINT', again: 'BOOLEAN'}";

/// What is sent: a reading of a device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// Dense for each sender.
    pub(crate) seq: i64,
    /// Small, so that sums are exact.
    pub(crate) v: i64,
    /// Event time, microseconds since 1970.
    pub(crate) ts_us: i64,
}

impl Reading {
    /// Returns it as the JSON that a device sends.
    pub(crate) fn json(&self, who: &str) -> String {
        json!({ "who": who, "seq": self.seq, "v": self.v, "ts": rfc3339(self.ts_us) }).to_string()
    }
}

/// A ledger of one sender.
pub(crate) struct Ledger {
    file: File,
    who: String,
}

impl Ledger {
    /// Begins a ledger.
    pub(crate) fn create(path: &Path, who: &str) -> Ledger {
        Ledger { file: File::create(path).expect("a writable ledger"), who: who.to_owned() }
    }

    /// Writes down that readings are about to be sent, durably.
    pub(crate) fn sending(&mut self, readings: &[Reading]) {
        let batch = readings.first().map(|reading| reading.seq);
        self.write(readings, |Reading { seq, v, ts_us }| json!({ "what": "S", "who": self.who, "seq": seq, "v": v, "ts": ts_us, "batch": batch }));
        self.file.sync_data().expect("a writable ledger");
    }

    /// Writes down that readings were acknowledged; `again` says that they may have been delivered more than once.
    pub(crate) fn acknowledged(&mut self, readings: &[Reading], again: bool) {
        self.write(readings, |reading| json!({ "what": "A", "who": self.who, "seq": reading.seq, "again": again }));
    }

    /// Writes down that readings were refused: they must not be in any table.
    pub(crate) fn refused(&mut self, readings: &[Reading]) {
        self.write(readings, |reading| json!({ "what": "N", "who": self.who, "seq": reading.seq }));
    }

    fn write(&self, readings: &[Reading], line: impl Fn(&Reading) -> serde_json::Value) {
        let lines: String = readings.iter().map(|reading| format!("{}\n", line(reading))).collect();
        (&self.file).write_all(lines.as_bytes()).expect("a writable ledger");
    }
}

/// Returns an instant as RFC 3339 text with microseconds, UTC.
pub(crate) fn rfc3339(us: i64) -> String {
    let (days, rest) = (us.div_euclid(86_400_000_000), us.rem_euclid(86_400_000_000));
    let (year, month, day) = civil(days);
    let (seconds, micros) = (rest / 1_000_000, rest % 1_000_000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// Days since 1970 to year, month and day (Howard Hinnant's `civil_from_days`).
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[test]
fn instants_are_written_as_other_programs_read_them() {
    for (us, text) in [
        (0, "1970-01-01T00:00:00.000000Z"),
        (-1, "1969-12-31T23:59:59.999999Z"),
        (951_782_400_000_001, "2000-02-29T00:00:00.000001Z"),
        (1_767_225_605_250_000, "2026-01-01T00:00:05.250000Z"),
    ] {
        assert_eq!(rfc3339(us), text);
    }
}
