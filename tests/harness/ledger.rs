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
    let instant = arrow::temporal_conversions::timestamp_us_to_datetime(us).expect("an instant of our times");
    instant.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
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
