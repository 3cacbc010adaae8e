//! Lives of an outbox: what is committed is delivered, through kills, power losses and couriers that fail.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use parking_lot::Mutex;
use tidemill_engine::clock::{Dice, SeededDice};
use tidemill_engine::epoch::Epoch;
use tidemill_engine::sink::{Committable, Found, Sink, SinkError};
use tidemill_engine::source::Stop;
use tidemill_engine::storage::simulated::When;
use tidemill_engine::storage::{LocalStorage, MemoryStorage, SimulatedDisk, Storage};

use super::*;
use crate::breaker::BreakerState;

/// What a courier does with a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    /// Delivers.
    Takes,
    /// Fails before the first row.
    Refuses,
    /// Takes one row of several, then fails: the rest was sent and is not confirmed.
    Stumbles,
}

/// The other side: what it was sent, in order, by the number of the row.
#[derive(Default)]
struct Receiver {
    mood: Mutex<Option<Mood>>,
    sent: Mutex<Vec<(u64, i64)>>,
}

impl Receiver {
    fn values(&self) -> Vec<i64> {
        self.sent.lock().iter().map(|(_, value)| *value).collect()
    }

    /// Each row once, in the order it came first.
    fn first_times(&self) -> Vec<i64> {
        let mut seen = std::collections::BTreeSet::new();
        self.sent.lock().iter().filter(|(number, _)| seen.insert(*number)).map(|(_, value)| *value).collect()
    }
}

#[derive(Clone)]
struct Target(Arc<Receiver>);

impl Destination for Target {
    fn encoder(&self) -> Arc<dyn Encoder> {
        Arc::new(Numbers)
    }

    fn courier(&self) -> Box<dyn Courier> {
        Box::new(TestCourier { receiver: Arc::clone(&self.0), waiting: Vec::new() })
    }
}

/// Each number is a row; negative ones cannot be delivered.
struct Numbers;

impl Encoder for Numbers {
    fn encode(&self, rows: &RecordBatch, out: &mut Encoded) -> Result<(), String> {
        for value in rows.column(0).as_primitive::<Int64Type>().values() {
            match value {
                0.. => out.push(b"", value.to_string().as_bytes()),
                _ => out.reject(|| format!("{value} is negative")),
            }
        }
        Ok(())
    }
}

struct TestCourier {
    receiver: Arc<Receiver>,
    waiting: Vec<Row>,
}

#[async_trait::async_trait]
impl Courier for TestCourier {
    async fn deliver(&mut self, desk: &mut Desk, stop: &Stop) -> Result<(), DeliveryError> {
        let mood = || self.receiver.mood.lock().unwrap_or(Mood::Takes);
        if mood() == Mood::Refuses {
            return Err(DeliveryError::Failed("not today".to_owned()));
        }
        desk.gauges().set_connected(true);
        // Sent before, on a connection that was lost.
        for row in std::mem::take(&mut self.waiting) {
            send(&self.receiver, &row);
            desk.confirm(Progress { delivered: row.number + 1, received: row.number + 1 });
        }
        loop {
            let event = tokio::select! {
                event = desk.next(true) => event?,
                () = stop.cancelled() => return Ok(()),
            };
            let DeskEvent::Row(row) = event else { continue };
            assert!(row.number < desk.window_end(), "beyond the window");
            assert!(row.number >= desk.durable().delivered, "it is delivered, and that is durable");
            send(&self.receiver, &row);
            if mood() == Mood::Stumbles && row.number % 7 == 6 {
                self.waiting.push(row);
                return Err(DeliveryError::Failed("stumbled".to_owned()));
            }
            desk.confirm(Progress { delivered: row.number + 1, received: row.number + 1 });
        }
    }
}

fn send(receiver: &Receiver, row: &Row) {
    let value = std::str::from_utf8(&row.payload).ok().and_then(|text| text.parse().ok()).expect("a number");
    receiver.sent.lock().push((row.number, value));
}

fn numbers(values: impl IntoIterator<Item = i64>) -> RecordBatch {
    let values = Arc::new(Int64Array::from_iter_values(values)) as ArrayRef;
    RecordBatch::try_from_iter([("n", values)]).expect("one column")
}

/// Opens the outbox of a view.
struct Opening {
    storage: Arc<dyn Storage>,
    receiver: Arc<Receiver>,
    gauges: Arc<Gauges>,
    limits: Limits,
    fingerprint: &'static str,
}

impl Opening {
    fn new() -> Opening {
        Opening {
            storage: Arc::new(MemoryStorage::default()),
            receiver: Arc::default(),
            gauges: Arc::default(),
            limits: Limits::default(),
            fingerprint: "view",
        }
    }

    fn on(&self, storage: Arc<dyn Storage>) -> Opening {
        Opening { storage, receiver: Arc::clone(&self.receiver), gauges: Arc::default(), ..*self }
    }

    fn open(&self, seed: u64) -> Result<OutboxSink, SinkError> {
        let spec = OutboxSpec {
            name: "alerts".to_owned(),
            job: "log".to_owned(),
            fingerprint: self.fingerprint.to_owned(),
            limits: self.limits,
            commit_interval: Duration::ZERO,
        };
        let (storage, target) = (Arc::clone(&self.storage), Arc::new(Target(Arc::clone(&self.receiver))));
        let (gauges, patience) = (Arc::clone(&self.gauges), Arc::<AtomicU64>::default());
        OutboxSink::open(storage, "sinks/alerts", spec, target, gauges, patience, Arc::new(SeededDice::new(seed)))
    }

    /// Opens it, and begins behind the beginning of the log.
    fn begun(&self, seed: u64) -> OutboxSink {
        let mut sink = self.open(seed).expect("it opens");
        sink.begin(Epoch::NONE).expect("it begins");
        sink
    }

    fn status(&self) -> OutboxStatus {
        self.gauges.status("alerts", "test", "view")
    }

    async fn until(&self, what: &str, is_so: impl Fn(&OutboxStatus) -> bool) {
        for _ in 0..3_000 {
            if is_so(&self.status()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("not within 15 s: {what}: {:?}", self.status());
    }
}

fn commit(sink: &mut OutboxSink, epoch: u64, values: impl IntoIterator<Item = i64>) -> Vec<Committable> {
    let epoch = Epoch(epoch);
    let prepared = sink.writer(0).prepare(epoch, &[(epoch, numbers(values))]).expect("a disk that works");
    sink.commit(epoch, &prepared).expect("a disk that works");
    prepared
}

fn names(storage: &dyn Storage, folder: &str) -> usize {
    storage.list(&format!("sinks/alerts/{folder}")).expect("a folder").len()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_is_delivered_in_order_and_removed() {
    let opening = Opening::new();
    let mut sink = opening.begun(1);
    assert_eq!(sink.found(), Found::New);
    let hidden = sink.writer(1).prepare(Epoch(1), &[(Epoch(1), numbers([99]))]).expect("prepared");
    assert_eq!(opening.status().rows, 0, "prepared rows are nobody's yet");
    drop(hidden);
    let first = commit(&mut sink, 1, [1, 2, -7, 3]);
    sink.commit(Epoch(1), &first).expect("again, which does nothing");
    commit(&mut sink, 4, 4..2_000);
    assert_eq!(sink.last_committed(), Epoch(4));
    opening.until("all are delivered", |status| status.delivered == 1_999 && status.rows == 0).await;
    assert_eq!(opening.receiver.values(), (1..2_000).collect::<Vec<_>>());
    assert_eq!(opening.status().rejected, 1);
    sink.clean().expect("garbage goes");
    assert_eq!((names(&*opening.storage, "rows"), names(&*opening.storage, "ready")), (0, 1));
    drop(sink);
    let again = opening.open(2).expect("it opens");
    assert_eq!(again.found(), Found::Same { base: Epoch::NONE, committed: Epoch(4) }, "known without rows");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_outlive_kills_and_power_losses_at_any_point() {
    let mut repeated = 0;
    for seed in 0..12 {
        let dice = SeededDice::new(seed);
        let mut disk = Arc::new(SimulatedDisk::new(seed));
        let opening = Opening::new();
        // What a manifest would have: epochs that are decided, and what was prepared for them.
        let mut decided: Option<(Epoch, Vec<Committable>)> = None;
        let (mut next_epoch, mut expected) = (1, Vec::new());
        for life in 0..12 {
            let is_last = life == 11;
            *opening.receiver.mood.lock() = Some(match dice.roll() % 4 {
                _ if is_last => Mood::Takes,
                0 => Mood::Refuses,
                1 => Mood::Stumbles,
                _ => Mood::Takes,
            });
            let Ok(storage) = LocalStorage::on(Arc::clone(&disk) as _, "data") else { panic!("a disk that works") };
            let opening = opening.on(Arc::new(storage));
            if !is_last {
                let when = if dice.roll().is_multiple_of(2) { When::Before } else { When::After };
                disk.stop_at_call(disk.calls() + 1 + dice.roll() % 150, when);
            }
            let lived = live(&opening, seed * 100 + life, &mut decided, &mut next_epoch, &mut expected, &dice);
            assert!(lived.is_ok() || disk.is_stopped(), "seed {seed}: {:?}", lived.err());
            if let Ok(sink) = lived {
                if is_last {
                    opening.until("all are delivered", |status| status.rows == 0).await;
                } else {
                    let left = dice.roll() % 40;
                    let is_over =
                        |status: &OutboxStatus| status.rows <= left || status.failures > 0 || disk.is_stopped();
                    opening.until("some are delivered, or nothing will be", is_over).await;
                    disk.stop();
                }
                drop(sink);
            }
            disk = Arc::new(if dice.roll().is_multiple_of(2) { disk.kill() } else { disk.crash(seed + life) });
        }
        assert_eq!(opening.receiver.first_times(), expected, "seed {seed}");
        repeated += opening.receiver.values().len() - expected.len();
    }
    assert!(repeated > 0, "no life ended between sending and remembering");
}

/// Opens, rolls forward what was decided, and commits a few epochs, until the disk stops.
fn live(
    opening: &Opening,
    seed: u64,
    decided: &mut Option<(Epoch, Vec<Committable>)>,
    next_epoch: &mut u64,
    expected: &mut Vec<i64>,
    dice: &SeededDice,
) -> Result<OutboxSink, SinkError> {
    let mut sink = opening.open(seed)?;
    sink.begin(Epoch::NONE)?;
    if let Some((epoch, committables)) = decided.as_ref() {
        sink.commit(*epoch, committables)?;
        assert!(sink.last_committed() >= *epoch, "decided, and not there");
    }
    sink.clean()?;
    for _ in 0..dice.roll() % 6 {
        let epoch = Epoch(*next_epoch);
        let first = *expected.last().unwrap_or(&-1) + 1;
        let values: Vec<i64> = (first..first + 1 + (dice.roll() % 40) as i64).collect();
        let prepared = sink.writer(0).prepare(epoch, &[(epoch, numbers(values.iter().copied()))])?;
        // From here on the epoch counts, whatever happens to the commit.
        *decided = Some((epoch, prepared.clone()));
        *next_epoch += 1;
        expected.extend(values);
        sink.commit(epoch, &prepared)?;
    }
    Ok(sink)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_outbox_leaves_out_the_oldest_that_are_not_in_flight_or_the_newest() {
    for (on_full, dropped) in [(OnFull::DropOldest, 2_000..6_000), (OnFull::DropNewest, 6_000..10_000)] {
        let mut opening = Opening::new();
        opening.limits = Limits { rows_max: 6_000, on_full, ..Limits::default() };
        *opening.receiver.mood.lock() = Some(Mood::Refuses);
        let mut sink = opening.begun(1);
        for epoch in 0..10 {
            commit(&mut sink, epoch + 1, epoch as i64 * 1_000..(epoch as i64 + 1) * 1_000);
        }
        let status = opening.status();
        assert_eq!((status.rows, status.dropped), (6_000, 4_000));
        drop(sink);
        // The same after a restart.
        let opening = opening.on(Arc::clone(&opening.storage));
        *opening.receiver.mood.lock() = Some(Mood::Takes);
        let sink = opening.begun(2);
        assert_eq!(opening.status().dropped, 4_000);
        opening.until("the rest is delivered", |status| status.rows == 0).await;
        let expected: Vec<i64> = (0..10_000).filter(|value| !dropped.contains(value)).collect();
        assert_eq!(opening.receiver.values(), expected, "{on_full:?}");
        assert_eq!(sink.last_committed(), Epoch(10));
        drop(sink);
        assert_eq!(names(&*opening.storage, "rows"), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_opens_after_five_failures_and_closes_with_the_next_row() {
    let opening = Opening::new();
    *opening.receiver.mood.lock() = Some(Mood::Refuses);
    let mut sink = opening.begun(1);
    commit(&mut sink, 1, 0..10);
    opening.until("the breaker opens", |status| status.breaker == BreakerState::Open).await;
    let status = opening.status();
    assert!(status.failures >= 5 && !status.connected && status.rows == 10, "{status:?}");
    assert_eq!(status.error.as_deref(), Some("not today"));
    *opening.receiver.mood.lock() = Some(Mood::Takes);
    opening.until("the breaker closes", |status| status.breaker == BreakerState::Closed && status.rows == 0).await;
    assert_eq!((opening.status().error, opening.receiver.values().len()), (None, 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_view_replaces_the_content_and_numbers_go_on() {
    let mut opening = Opening::new();
    *opening.receiver.mood.lock() = Some(Mood::Refuses);
    let mut sink = opening.begun(1);
    let old = commit(&mut sink, 1, 0..10);
    drop(sink);
    opening.fingerprint = "another view";
    *opening.receiver.mood.lock() = Some(Mood::Takes);
    let mut sink = opening.open(2).expect("it opens");
    assert!(matches!(sink.found(), Found::Changed { .. }));
    let done = sink.begin(Epoch(7)).expect("it begins");
    assert!(done.contains("10 rows of the view before were given up"), "{done}");
    assert_eq!((sink.generation(), sink.last_committed()), (1, Epoch(7)));
    sink.commit(Epoch(8), &old).expect("of a content before: not for this one");
    commit(&mut sink, 9, 100..103);
    opening.until("the new rows are delivered", |status| status.rows == 0 && status.delivered == 3).await;
    assert_eq!(*opening.receiver.sent.lock(), [(10, 100), (11, 101), (12, 102)]);
    sink.clean().expect("garbage goes");
    drop(sink);
    assert_eq!(opening.open(3).expect("it opens").found(), Found::Same { base: Epoch(7), committed: Epoch(9) });
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_told_and_no_row_is_skipped() {
    let opening = Opening::new();
    *opening.receiver.mood.lock() = Some(Mood::Refuses);
    let mut sink = opening.begun(1);
    commit(&mut sink, 1, 0..10);
    drop(sink);
    *opening.receiver.mood.lock() = Some(Mood::Takes);
    let mut files: BTreeMap<String, bytes::Bytes> = BTreeMap::new();
    for folder in ["rows", "ready"] {
        for entry in opening.storage.list(&format!("sinks/alerts/{folder}")).expect("a folder") {
            let path = format!("sinks/alerts/{folder}/{}", entry.name);
            files.insert(path.clone(), opening.storage.get(&path).expect("a file"));
        }
    }
    files.insert("sinks/alerts/about".to_owned(), opening.storage.get("sinks/alerts/about").expect("a file"));
    for (path, whole) in &files {
        let mut bad = whole.to_vec();
        bad[whole.len() / 2] ^= 4;
        opening.storage.put(path, &bad).expect("memory");
        if path.contains("/rows/") {
            let sink = opening.begun(2);
            opening.until("the damage is told", |status| status.error.is_some()).await;
            let error = opening.status().error.expect("told");
            assert!(error.contains(path) && error.contains("is damaged"), "{error}");
            assert!(opening.receiver.values().is_empty());
            drop(sink);
        } else {
            let error = opening.open(2).err().expect("refused").to_string();
            assert!(error.contains(path) && error.contains("is damaged"), "{error}");
        }
        opening.storage.put(path, whole).expect("memory");
    }
    // A cursor that cannot be read: everything comes again, nothing is missing.
    opening.storage.put("sinks/alerts/cursor", b"{}").expect("memory");
    let sink = opening.begun(3);
    opening.until("all are delivered", |status| status.rows == 0).await;
    assert_eq!(opening.receiver.values(), (0..10).collect::<Vec<_>>());
    drop(sink);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_outbox_of_another_log_is_refused() {
    let opening = Opening::new();
    drop(opening.begun(1));
    let about = opening.storage.get("sinks/alerts/about").expect("a file");
    let about: papers::About = papers::unseal(&about).expect("whole");
    let foreign = papers::About { job: "another".to_owned(), ..about };
    opening.storage.put("sinks/alerts/about", &papers::seal(&foreign)).expect("memory");
    let error = opening.open(2).err().expect("refused").to_string();
    assert!(error.contains("of the log another, and this job has the log log"), "{error}");
}
