//! The model: what every table must hold after each epoch, computed from the log as plainly as possible.
//!
//! It shares no code with the engine but the reader of the log, and follows the rules of `tests/oracle/windows.py`.

use std::collections::BTreeMap;

use serde_json::Value;
use tidemill::engine::ingest::Record;

use super::scenario::{DELAY_US, FUTURE_US, HOP_US, IDLE_US, Piece, SLIDE_US, TOTAL_US, TUMBLE_US};

/// For each table, its rows as text, each with the epoch that it belongs to.
pub(super) type Expected = BTreeMap<&'static str, Vec<(u64, String)>>;

/// A reading.
#[derive(Clone, Debug)]
struct Reading {
    partition: u32,
    device: String,
    id: i64,
    time_us: i64,
    arrival_us: i64,
}

/// A source, as far as the model has read.
#[derive(Default)]
struct Source {
    epoch: Vec<Reading>,
    greatest_us: BTreeMap<u32, i64>,
    arrival_us: BTreeMap<u32, i64>,
    watermark_us: Option<i64>,
    /// Ids of each window that is open: by start, end and device.
    open: BTreeMap<(i64, i64, String), Vec<i64>>,
}

/// Aggregates of a window.
#[derive(Clone, Copy)]
struct Sums {
    n: i64,
    total: i64,
    lo: i64,
    hi: i64,
}

/// What a log says.
pub(super) struct History {
    pub(super) expected: Expected,
    /// How often each chunk stands in the log.
    pub(super) pieces: BTreeMap<Piece, u32>,
    /// For each source and partition what it has noted and not forgotten.
    pub(super) notes: BTreeMap<(String, String), BTreeMap<String, String>>,
    /// The last epoch that is sealed.
    pub(super) sealed: u64,
}

/// Computes what the tables must hold.
pub(super) fn history(records: &[Record]) -> History {
    let tables = [
        "raw_r",
        "raw_s",
        "tumbled",
        "tumbled$late",
        "hopped",
        "hopped$late",
        "totals",
        "totals$late",
        "r$dead",
        "s$dead",
        "r$quarantine",
        "s$quarantine",
    ];
    let mut history = History {
        expected: tables.into_iter().map(|name| (name, Vec::new())).collect(),
        pieces: BTreeMap::new(),
        notes: BTreeMap::new(),
        sealed: 0,
    };
    let mut partitions: Vec<(String, String)> = Vec::new();
    let (mut r, mut s) = (Source::default(), Source::default());
    let mut totals: BTreeMap<(i64, String), Sums> = BTreeMap::new();
    let mut open_epoch = 1;
    for record in records {
        match record {
            Record::Open { source, name, .. } => {
                partitions.push((source.clone(), name.clone()));
                history.notes.entry((source.clone(), name.clone())).or_default();
            }
            Record::Messages { partition, arrival_us, first, messages, notes } => {
                let of @ (source, partition_name) = &partitions[partition.0 as usize];
                let is_r = source == "r";
                let notes: Vec<(String, String)> =
                    notes.iter().map(|note| (text(&note.key), text(&note.value))).collect();
                let noted = history.notes.get_mut(of).expect("it was declared");
                noted.extend(notes.iter().cloned());
                noted.retain(|_, value| !value.is_empty());
                let piece = Piece {
                    source: source.clone(),
                    partition: partition_name.clone(),
                    messages: messages.iter().map(|message| text(&message.payload)).collect(),
                    notes,
                };
                *history.pieces.entry(piece).or_default() += 1;
                for (offset, message) in (first.0..).zip(messages) {
                    let text = text(&message.payload);
                    let Some(readings) = readings(&text, partition.0, *arrival_us) else {
                        let row = format!("{partition_name}|{offset}|{text}");
                        history.push(if is_r { "r$dead" } else { "s$dead" }, open_epoch, row);
                        continue;
                    };
                    for reading in readings {
                        if reading.time_us > arrival_us + FUTURE_US {
                            let table = if is_r { "r$quarantine" } else { "s$quarantine" };
                            history.push(table, open_epoch, reading.text());
                            continue;
                        }
                        history.push(if is_r { "raw_r" } else { "raw_s" }, open_epoch, reading.text());
                        if is_r { &mut r } else { &mut s }.epoch.push(reading);
                    }
                }
            }
            Record::Seal { epoch, now_us, .. } => {
                for ((start_us, _, device), sums) in history.close(&mut r, epoch.0, *now_us, Widths::TUMBLE) {
                    let start_us = start_us.div_euclid(TOTAL_US) * TOTAL_US;
                    totals.entry((start_us, device)).and_modify(|total| *total = total.and(sums)).or_insert(sums);
                }
                history.close(&mut s, epoch.0, *now_us, Widths::HOP);
                // No window of the inner view that is to come begins before this.
                let inner_us = r.watermark_us.map(|watermark_us| watermark_us.div_euclid(TUMBLE_US) * TUMBLE_US);
                totals.retain(|(start_us, device), sums| {
                    let end_us = start_us + TOTAL_US;
                    let closes = inner_us.is_some_and(|inner_us| end_us <= inner_us);
                    if closes {
                        history
                            .expected
                            .entry("totals")
                            .or_default()
                            .push((epoch.0, sums.text(device, *start_us, end_us)));
                    }
                    !closes
                });
                history.sealed = epoch.0;
                open_epoch = epoch.0 + 1;
            }
            other => panic!("the script makes no such record: {other:?}"),
        }
    }
    history
}

/// Which windows there are.
#[derive(Clone, Copy)]
struct Widths {
    table: &'static str,
    late: &'static str,
    size_us: i64,
    slide_us: i64,
}

impl Widths {
    const TUMBLE: Widths = Widths { table: "tumbled", late: "tumbled$late", size_us: TUMBLE_US, slide_us: TUMBLE_US };
    const HOP: Widths = Widths { table: "hopped", late: "hopped$late", size_us: HOP_US, slide_us: SLIDE_US };
}

impl History {
    fn push(&mut self, table: &'static str, epoch: u64, row: String) {
        self.expected.entry(table).or_default().push((epoch, row));
    }

    /// Ends an epoch of a source; returns the windows that close.
    fn close(
        &mut self,
        source: &mut Source,
        epoch: u64,
        now_us: i64,
        widths: Widths,
    ) -> Vec<((i64, i64, String), Sums)> {
        let readings = std::mem::take(&mut source.epoch);
        for reading in &readings {
            let last_us = reading.time_us.div_euclid(widths.slide_us) * widths.slide_us;
            let mut is_late = true;
            let mut start_us = last_us;
            while start_us + widths.size_us > reading.time_us {
                let end_us = start_us + widths.size_us;
                if source.watermark_us.is_none_or(|watermark_us| end_us > watermark_us) {
                    source.open.entry((start_us, end_us, reading.device.clone())).or_default().push(reading.id);
                    is_late = false;
                }
                start_us -= widths.slide_us;
            }
            if is_late {
                self.push(widths.late, epoch, reading.text());
            }
        }
        for reading in &readings {
            let greatest_us = source.greatest_us.entry(reading.partition).or_insert(i64::MIN);
            *greatest_us = reading.time_us.max(*greatest_us);
            let arrival_us = source.arrival_us.entry(reading.partition).or_insert(i64::MIN);
            *arrival_us = reading.arrival_us.max(*arrival_us);
        }
        let active =
            source.greatest_us.iter().filter(|(partition, _)| now_us - source.arrival_us[*partition] <= IDLE_US);
        if let Some(least_us) = active.map(|(_, greatest_us)| *greatest_us).min() {
            source.watermark_us = source.watermark_us.max(Some(least_us - DELAY_US));
        }
        let mut closed = Vec::new();
        source.open.retain(|(start_us, end_us, device), ids| {
            let closes = source.watermark_us.is_some_and(|watermark_us| *end_us <= watermark_us);
            if closes {
                let one = |id: &i64| Sums { n: 1, total: *id, lo: *id, hi: *id };
                let sums = ids.iter().map(one).reduce(Sums::and).expect("a window has rows");
                closed.push(((*start_us, *end_us, device.clone()), sums));
            }
            !closes
        });
        for ((start_us, end_us, device), sums) in &closed {
            self.push(widths.table, epoch, sums.text(device, *start_us, *end_us));
        }
        closed
    }
}

impl Sums {
    fn and(self, other: Sums) -> Sums {
        Sums {
            n: self.n + other.n,
            total: self.total + other.total,
            lo: self.lo.min(other.lo),
            hi: self.hi.max(other.hi),
        }
    }

    fn text(self, device: &str, start_us: i64, end_us: i64) -> String {
        let Sums { n, total, lo, hi } = self;
        format!("{device}|{start_us}|{end_us}|{n}|{total}|{lo}|{hi}")
    }
}

impl Reading {
    fn text(&self) -> String {
        format!("{}|{}|{}", self.device, self.id, self.time_us)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("as it was sent")
}

/// Reads the rows of a message; `None` if it holds none.
fn readings(text: &str, partition: u32, arrival_us: i64) -> Option<Vec<Reading>> {
    let reading = |line: &str| {
        let row: Value = serde_json::from_str(line).ok()?;
        let time = row["ts"].as_str()?;
        let time_us = arrow::compute::kernels::cast_utils::string_to_timestamp_nanos(time).ok()? / 1_000;
        Some(Reading {
            partition,
            device: row["device"].as_str()?.to_owned(),
            id: row["seq"].as_i64()?,
            time_us,
            arrival_us,
        })
    };
    text.lines().map(reading).collect()
}
