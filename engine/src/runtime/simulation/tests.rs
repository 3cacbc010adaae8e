//! A simulated job takes, acknowledges, commits and stops like a real one, and fails like one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use bytes::Bytes;
use futures::FutureExt;
use parking_lot::Mutex;

use super::{Moment, Simulation, TurnDisk, Turns, Watch};
use crate::clock::{ManualClock, SeededDice};
use crate::epoch::Epoch;
use crate::ingest::LogOptions;
use crate::plan::{Operator, Plan, SourceNode};
use crate::runtime::intake::BYTES_QUEUED_MAX;
use crate::runtime::{JobError, JobOptions, turns};
use crate::source::{Chunk, IntakeError, Message};
use crate::storage::simulated::{Call, Failure, Fault};
use crate::storage::{LocalStorage, SimulatedDisk};
use crate::testing::{Collected, CollectingSink, EventFormat, LogOnly, event_schema};

fn plan() -> Plan {
    let mut plan = Plan::default();
    let source = SourceNode {
        name: "events".to_owned(),
        identity: "events".to_owned(),
        source: Arc::new(LogOnly),
        format: Arc::new(EventFormat),
        event_time: None,
        dead_table: None,
        quarantine_table: None,
    };
    let input = plan.push(event_schema(), Operator::Source(source));
    plan.push(event_schema(), Operator::Table { input, name: "table".to_owned() });
    plan
}

type Committed = Arc<Mutex<Vec<RecordBatch>>>;

fn start(disk: &SimulatedDisk, turns: &Turns) -> Result<(Simulation, Arc<ManualClock>, Committed), JobError> {
    start_watched(disk, turns, None)
}

fn start_watched(
    disk: &SimulatedDisk,
    turns: &Turns,
    watch: Option<Watch>,
) -> Result<(Simulation, Arc<ManualClock>, Committed), JobError> {
    let disk = TurnDisk::new(Arc::new(disk.clone()), watch);
    let (clock, collected) = (Arc::new(ManualClock::at(1_000_000)), Collected::default());
    let committed = Arc::clone(&collected.committed);
    let options = JobOptions {
        storage: Arc::new(LocalStorage::on(Arc::new(disk), "data")?),
        clock: Arc::<ManualClock>::clone(&clock),
        dice: Arc::new(SeededDice::new(1)),
        workers: 2,
        checkpoint_interval: Duration::from_secs(1),
        commit_interval: Duration::from_millis(1),
        table_writers: 1,
        log: LogOptions::default(),
        live: BTreeMap::new(),
        epoch_interval: Duration::from_millis(10),
    };
    let sink = CollectingSink { name: "table".to_owned(), collected, last: Epoch::NONE };
    Ok((Simulation::start(plan(), vec![Box::new(sink)], &options, turns)?, clock, committed))
}

fn event(value: i64) -> Chunk {
    Chunk::Messages(vec![Message::new("", format!("a,{value},{value}"))])
}

/// Appends an event and lets the others run until it is answered.
fn append(simulation: &mut Simulation, value: i64) -> Result<(), IntakeError> {
    let mut receipt = simulation.append("events", "", event(value)).expect("room")?;
    loop {
        if let Some(answered) = (&mut receipt).now_or_never() {
            return answered.map(drop);
        }
        simulation.pass();
    }
}

#[test]
fn what_is_acknowledged_is_committed_when_the_job_has_stopped() {
    let turns = Turns::new(4);
    let _driving = turns.sit();
    let (mut simulation, clock, committed) = start(&SimulatedDisk::new(4), &turns).unwrap();
    for value in 0..30 {
        append(&mut simulation, value).unwrap();
        clock.advance(Duration::from_millis(20));
    }
    simulation.stop().unwrap();
    assert_eq!(committed.lock().iter().map(RecordBatch::num_rows).sum::<usize>(), 30);
}

#[test]
fn a_log_that_cannot_be_synced_acknowledges_nothing_more_and_ends_the_job() {
    let (disk, turns) = (SimulatedDisk::new(5), Turns::new(5));
    let _driving = turns.sit();
    let (mut simulation, _, _) = start(&disk, &turns).unwrap();
    append(&mut simulation, 1).unwrap();
    disk.inject(Fault::at(Call::SyncFile, Failure::Io).below("data/log"));
    append(&mut simulation, 2).unwrap_err();
    while simulation.failure().is_none() {
        simulation.pass();
    }
    let failure = simulation.stop().unwrap_err();
    assert!(failure.is_disk_failure() && failure.to_string().contains("data/log"), "{failure}");
}

#[test]
fn while_the_disk_is_slow_what_waits_for_it_is_bounded() {
    /// Turns that the others have while the log is synced.
    const SYNC_TURNS: usize = 300;
    const CHUNK_BYTES: usize = 1 << 20;
    const CHUNKS: usize = 50;
    let turns = Turns::new(8);
    let _driving = turns.sit();
    let slow: Watch = Arc::new(|moment| {
        if matches!(moment, Moment::BeforeSync(path) if path.extension().is_some_and(|ending| ending == "log")) {
            for _ in 0..SYNC_TURNS {
                turns::pass();
            }
        }
    });
    let (mut simulation, clock, committed) = start_watched(&SimulatedDisk::new(8), &turns, Some(slow)).unwrap();
    let topic = Bytes::from(vec![b't'; CHUNK_BYTES]);
    let (mut waiting, mut answered, mut refused, mut most) = (Vec::new(), 0, 0, 0);
    while answered < CHUNKS {
        match simulation.append("events", "", Chunk::Messages(vec![Message::new(topic.clone(), "a,1,1")])) {
            Some(receipt) => waiting.push(receipt.unwrap()),
            None => refused += 1,
        }
        let waiting_bytes = waiting.len() * CHUNK_BYTES;
        assert!(waiting_bytes <= BYTES_QUEUED_MAX, "{waiting_bytes} bytes wait for the disk");
        most = most.max(waiting_bytes);
        simulation.pass();
        clock.advance(Duration::from_millis(1));
        let before = waiting.len();
        waiting.retain_mut(|receipt| receipt.now_or_never().map(Result::unwrap).is_none());
        answered += before - waiting.len();
    }
    assert!(refused > 0 && most > BYTES_QUEUED_MAX - 2 * CHUNK_BYTES, "the disk was not slow: {most} bytes");
    let accepted = answered + waiting.len();
    simulation.stop().unwrap();
    assert_eq!(committed.lock().iter().map(RecordBatch::num_rows).sum::<usize>(), accepted);
}

#[test]
fn a_killed_job_leaves_its_table_to_another_driver() {
    let turns = Turns::new(6);
    let driving = turns.sit();
    let (mut simulation, _, _) = start(&SimulatedDisk::new(6), &turns).unwrap();
    append(&mut simulation, 1).unwrap();
    simulation.kill();
    drop(driving);
    let _again = turns.sit();
    let (simulation, _, _) = start(&SimulatedDisk::new(7), &turns).unwrap();
    simulation.stop().unwrap();
}
