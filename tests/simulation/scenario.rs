//! What is simulated: a pipeline with every kind of table, and a script of what arrives when.

use std::sync::{Arc, LazyLock};

use tidemill::connectors::http::HttpIngest;
use tidemill::connectors::table::{TableSink, TableSpec};
use tidemill::engine::clock::{Clock, Dice, ManualClock, SeededDice};
use tidemill::engine::sink::{Sink, SinkError};
use tidemill::engine::source::{Chunk, Message, Note};
use tidemill::engine::storage::{MemoryStorage, Storage};
use tidemill::queries::Pipeline;

/// When every script begins, microseconds: 2026-01-01T00:00:00Z.
pub(super) const BEGIN_US: i64 = 1_767_225_600_000_000;

/// Widths of the windows and what the watermarks wait for: the pipeline's, for the model.
pub(super) const TUMBLE_US: i64 = 10_000_000;
pub(super) const HOP_US: i64 = 10_000_000;
pub(super) const SLIDE_US: i64 = 4_000_000;
pub(super) const TOTAL_US: i64 = 30_000_000;
pub(super) const DELAY_US: i64 = 2_000_000;
pub(super) const IDLE_US: i64 = 20_000_000;
pub(super) const FUTURE_US: i64 = 3_600_000_000;

const SQL: &str = "
    CREATE SOURCE r (
        device TEXT, seq BIGINT, ts TIMESTAMP NOT NULL, WATERMARK FOR ts AS ts - INTERVAL '2 seconds'
    ) WITH (connector = 'http', idle_after = '20 seconds', future_limit = '1 hour');

    CREATE SOURCE s (
        device TEXT, seq BIGINT, ts TIMESTAMP NOT NULL, WATERMARK FOR ts AS ts - INTERVAL '2 seconds'
    ) WITH (connector = 'http', idle_after = '20 seconds', future_limit = '1 hour');

    CREATE MATERIALIZED VIEW raw_r AS SELECT device, seq, ts FROM r;
    CREATE MATERIALIZED VIEW raw_s AS SELECT device, seq, ts FROM s;

    CREATE MATERIALIZED VIEW tumbled AS
    SELECT device, window_start, window_end, count(*) AS n, sum(seq) AS total, min(seq) AS lo, max(seq) AS hi
    FROM TUMBLE(r, ts, INTERVAL '10 seconds')
    GROUP BY device, window_start, window_end;

    CREATE MATERIALIZED VIEW hopped AS
    SELECT device, window_start, window_end, count(*) AS n, sum(seq) AS total, min(seq) AS lo, max(seq) AS hi
    FROM HOP(s, ts, INTERVAL '4 seconds', INTERVAL '10 seconds')
    GROUP BY device, window_start, window_end;

    CREATE MATERIALIZED VIEW totals AS
    SELECT device, window_start, window_end, sum(n) AS n, sum(total) AS total, min(lo) AS lo, max(hi) AS hi
    FROM TUMBLE(tumbled, window_start, INTERVAL '30 seconds')
    GROUP BY device, window_start, window_end;
";

/// The pipeline, compiled once.
pub(super) fn pipeline() -> &'static Pipeline {
    static PIPELINE: LazyLock<Pipeline> = LazyLock::new(|| {
        let context = tidemill::connectors::Context {
            storage: Arc::new(MemoryStorage::default()),
            base_dir: ".".into(),
            clock: Arc::new(ManualClock::at(BEGIN_US)),
            dice: Arc::new(SeededDice::new(0)),
            http: HttpIngest::new(),
            local_brokers: Default::default(),
            network: Default::default(),
        };
        match tidemill::queries::compile("simulation.sql", SQL, &context) {
            Ok(pipeline) => pipeline,
            Err(mistakes) => panic!("{mistakes:?}"),
        }
    });
    &PIPELINE
}

/// Opens all tables, in the order of the plan.
pub(super) fn open_tables(
    storage: &Arc<dyn Storage>,
    log_id: u128,
    clock: &Arc<dyn Clock>,
    dice: &Arc<dyn Dice>,
) -> Result<Vec<Box<dyn Sink>>, SinkError> {
    let open = |table: &tidemill::queries::TableInfo| {
        let spec = TableSpec {
            name: table.name.clone(),
            schema: Arc::clone(&table.schema),
            partition_by: table.partition_by.clone(),
            sort: table.sort.clone(),
            time_column: table.time_column.clone(),
            job: format!("{log_id:032x}"),
            fingerprint: table.fingerprint.clone(),
        };
        let dir = format!("tables/{}", table.name);
        let sink = TableSink::open(Arc::clone(storage), &dir, spec, Arc::clone(clock), Arc::clone(dice))?;
        Ok(Box::new(sink) as Box<dyn Sink>)
    };
    pipeline().tables.iter().map(open).collect()
}

/// A step of a script.
#[derive(Clone, Debug)]
pub(super) enum Act {
    /// Time passes.
    Wait { us: i64 },
    /// A source gets a chunk.
    Send(Piece),
}

/// A chunk, as text: no message or one, and what the source notes with it. No two of a script are the same, so that one
/// that is in the log in part is none of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Piece {
    pub(super) source: String,
    pub(super) partition: String,
    pub(super) messages: Vec<String>,
    /// Key and value; an empty value forgets.
    pub(super) notes: Vec<(String, String)>,
}

impl Piece {
    /// Returns it as a source appends it.
    pub(super) fn chunk(&self) -> Chunk {
        let messages = self.messages.iter().map(|payload| Message::new("", payload.clone())).collect();
        if self.notes.is_empty() {
            return Chunk::Messages(messages);
        }
        Chunk::Noted(messages, self.notes.iter().map(|(key, value)| Note::new(key.clone(), value.clone())).collect())
    }
}

/// What arrives when.
#[derive(Clone, Debug)]
pub(super) struct Script {
    pub(super) acts: Vec<Act>,
}

/// Chance, as the seed gives it.
pub(super) struct Chance(SeededDice);

impl Chance {
    pub(super) fn new(seed: u64) -> Chance {
        Chance(SeededDice::new(seed))
    }

    /// Returns a number below `end`.
    pub(super) fn below(&self, end: u64) -> u64 {
        self.0.roll() % end
    }

    /// Returns a number of a half-open range.
    pub(super) fn within(&self, range: std::ops::Range<i64>) -> i64 {
        range.start + self.below((range.end - range.start) as u64) as i64
    }

    /// Returns whether one of `n` came.
    pub(super) fn one_in(&self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(super) fn pick<T: Copy>(&self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    pub(super) fn seed(&self) -> u64 {
        self.0.roll()
    }
}

impl Script {
    /// Makes up a script of about so many chunks: late rows, rows from the future, garbage, notes, bursts and quiet phases.
    pub(super) fn new(seed: u64, chunk_count: usize) -> Script {
        let chance = Chance::new(seed ^ 0x5C21_9714);
        let (mut acts, mut now_us, mut next_id) = (Vec::new(), BEGIN_US, 1);
        let wait = |acts: &mut Vec<Act>, now_us: &mut i64, us: i64| {
            *now_us += us;
            acts.push(Act::Wait { us });
        };
        for _ in 0..chunk_count {
            match chance.below(12) {
                0 => wait(&mut acts, &mut now_us, chance.within(3_000_000..25_000_000)),
                1..=4 => {} // A burst: this chunk comes at the same time as the one before.
                _ => wait(&mut acts, &mut now_us, chance.within(10_000..900_000)),
            }
            let source = chance.pick(&["r", "r", "s"]);
            let partition = chance.pick(&["left", "left", "right"]);
            let mut piece = Piece {
                source: source.to_owned(),
                partition: partition.to_owned(),
                messages: Vec::new(),
                notes: if chance.one_in(2) { notes(&chance, acts.len()) } else { Vec::new() },
            };
            if !piece.notes.is_empty() && chance.one_in(4) {
                acts.push(Act::Send(piece)); // Notes alone, as of a device that says good-bye.
                continue;
            }
            if chance.one_in(15) {
                piece.messages.push(format!("this is not JSON, says {}", acts.len()));
                acts.push(Act::Send(piece));
                continue;
            }
            let mut payload = String::new();
            for _ in 0..=chance.below(4) {
                let behind_us = match chance.below(20) {
                    0 => -chance.within(3_700_000_000..9_000_000_000), // From the future.
                    1..=3 => chance.within(8_000_000..60_000_000),
                    _ => chance.within(0..4_000_000),
                };
                let device = chance.pick(&["a", "b", "c", "d"]);
                payload.push_str(&row(device, next_id, now_us - behind_us));
                next_id += 1;
            }
            piece.messages.push(payload);
            acts.push(Act::Send(piece));
        }
        Script { acts }
    }

    /// Returns the script with one more row at its end.
    pub(super) fn and_one_more(&self) -> Script {
        let mut script = self.clone();
        let waited_us: i64 = self.acts.iter().map(|act| if let Act::Wait { us } = act { *us } else { 0 }).sum();
        script.acts.push(Act::Send(Piece {
            source: "r".to_owned(),
            partition: "left".to_owned(),
            messages: vec![row("e", i64::MAX, BEGIN_US + waited_us)],
            notes: Vec::new(),
        }));
        script
    }
}

/// What a source notes with the chunk of an act: one key that each chunk writes, and a few that come and go.
fn notes(chance: &Chance, act_idx: usize) -> Vec<(String, String)> {
    let mut notes = vec![("last".to_owned(), format!("act {act_idx}"))];
    for _ in 0..chance.below(3) {
        let value = if chance.one_in(3) { String::new() } else { format!("held since act {act_idx}") };
        notes.push((format!("slot {}", chance.below(4)), value));
    }
    notes
}

fn row(device: &str, id: i64, time_us: i64) -> String {
    let time = instant(time_us);
    format!("{{\"device\":\"{device}\",\"seq\":{id},\"ts\":\"{time}\"}}\n")
}

/// Writes an instant as a device would.
fn instant(time_us: i64) -> String {
    arrow::temporal_conversions::timestamp_us_to_datetime(time_us)
        .expect("an instant of this age")
        .format("%Y-%m-%dT%H:%M:%S%.6fZ")
        .to_string()
}
