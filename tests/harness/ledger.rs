//! The ledger: what was about to be sent, and what was acknowledged, on disk before it is sent.
//!
//! One line of comma-separated values for each event; what is empty is not known:
//!
//! ```text
//!   what who      seq v ts               batch kind  again
//!   S,   device-3,17, 4,1577836860000000,16,   plain,         about to send; synced to disk before the send
//!   A,   device-3,17, , ,                ,     ,     false    acknowledged; again: the link broke in between
//!   N,   device-3,17, , ,                ,     ,              refused: it must not be there
//! ```
//!
//! `batch` is the first sequence number of those that were sent together: one sync makes a batch durable.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

/// The columns of a ledger, as DuckDB names them.
pub(crate) const COLUMNS: &str = "{what: 'VARCHAR', who: 'VARCHAR', seq: 'BIGINT', v: 'BIGINT', ts: 'BIGINT', \
                                  batch: 'BIGINT', kind: 'VARCHAR', again: 'BOOLEAN'}";

/// What must become of a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A row.
    Plain,
    /// A row from the far future: quarantined.
    Future,
    /// JSON whose value is no number: a dead letter.
    Text,
    /// JSON that ends too soon: a dead letter.
    Cut,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Plain => "plain",
            Kind::Future => "future",
            Kind::Text | Kind::Cut => "dead",
        }
    }
}

/// What is sent: a reading of a device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// Dense for each sender.
    pub(crate) seq: i64,
    /// Small, so that sums are exact.
    pub(crate) v: i64,
    /// Event time, microseconds since 1970.
    pub(crate) ts_us: i64,
    /// What it is.
    pub(crate) kind: Kind,
}

impl Reading {
    /// Returns it as the JSON that a device sends.
    pub(crate) fn json(&self, who: &str) -> String {
        let (seq, v, ts) = (self.seq, self.v, rfc3339(self.ts_us));
        match self.kind {
            Kind::Plain | Kind::Future => format!(r#"{{"who":"{who}","seq":{seq},"v":{v},"ts":"{ts}"}}"#),
            Kind::Text => format!(r#"{{"who":"{who}","seq":{seq},"v":"{v} volts","ts":"{ts}"}}"#),
            Kind::Cut => format!(r#"{{"who":"{who}","seq":{seq},"v":{v},"ts":"{}"#, &ts[..10]),
        }
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

    /// Writes down that readings are about to be sent together, durably.
    pub(crate) fn sending(&mut self, readings: &[Reading]) {
        let mut lines = String::new();
        let batch = readings.first().map_or(0, |reading| reading.seq);
        for Reading { seq, v, ts_us, kind } in readings {
            let _ = writeln!(lines, "S,{},{seq},{v},{ts_us},{batch},{},", self.who, kind.name());
        }
        self.write(&lines);
        self.file.sync_data().expect("a writable ledger");
    }

    /// Writes down that readings were acknowledged; `again` says that they may have been delivered more than once.
    pub(crate) fn acknowledged(&mut self, readings: &[Reading], again: bool) {
        self.answered('A', readings, if again { "true" } else { "false" });
    }

    /// Writes down that readings were refused: they must not be in any table.
    pub(crate) fn refused(&mut self, readings: &[Reading]) {
        self.answered('N', readings, "");
    }

    fn answered(&mut self, what: char, readings: &[Reading], again: &str) {
        let mut lines = String::new();
        for reading in readings {
            let _ = writeln!(lines, "{what},{},{},,,,,{again}", self.who, reading.seq);
        }
        self.write(&lines);
    }

    fn write(&mut self, lines: &str) {
        self.file.write_all(lines.as_bytes()).expect("a writable ledger");
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
