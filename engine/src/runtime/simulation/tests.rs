//! A simulated job takes, acknowledges, commits and stops like a real one, and fails like one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use bytes::Bytes;
use futures::FutureExt;
use parking_lot::Mutex;

use super::{Moment, Simulation, Turns, Watch, taking_turns};
use crate::checkpoint::CHECKPOINTS_KEPT;
use crate::clock::{ManualClock, SeededDice};
use crate::epoch::Epoch;
use crate::ingest::LogOptions;
use crate::plan::{Operator, Plan};
use crate::runtime::intake::BYTES_QUEUED_MAX;
use crate::runtime::{JobError, JobOptions, turns};
use crate::sink::Sink;
use crate::source::{Chunk, IntakeError, Message};
use crate::storage::simulated::{Call, Failure, Fault};
use crate::storage::{LocalStorage, SimulatedDisk};
use crate::testing::{Collected, CollectingSink, WindowCase, event_schema, event_source, window_plan};
use crate::window::WindowAssigner;

fn plan() -> Plan {
    let mut plan = Plan::default();
    let input = plan.push(event_schema(), Operator::Source(event_source()));
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
    let (simulation, clock, committed) = start_plan(plan(), disk, turns, watch)?;
    Ok((simulation, clock, committed.into_iter().next().expect("one table")))
}

fn start_plan(
    plan: Plan,
    disk: &SimulatedDisk,
    turns: &Turns,
    watch: Option<Watch>,
) -> Result<(Simulation, Arc<ManualClock>, Vec<Committed>), JobError> {
    let disk = taking_turns(Arc::new(disk.clone()), watch);
    let clock = Arc::new(ManualClock::at(1_000_000));
    let (mut sinks, mut committed): (Vec<Box<dyn Sink>>, Vec<Committed>) = (Vec::new(), Vec::new());
    for (name, _) in plan.tables() {
        let collected = Collected::default();
        committed.push(Arc::clone(&collected.committed));
        sinks.push(Box::new(CollectingSink { name, collected, last: Epoch::NONE }));
    }
    let options = JobOptions {
        storage: Arc::new(LocalStorage::on(disk, "data")?),
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
    Ok((Simulation::start(plan, sinks, &options, turns)?, clock, committed))
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
fn panes_that_live_long_keep_no_packs_of_others_on_the_disk() {
    const SECOND_US: i64 = 1_000_000;
    const ROUNDS: i64 = 40;
    let turns = Turns::new(9);
    let _driving = turns.sit();
    let case = WindowCase {
        assigner: WindowAssigner::Tumbling { size_us: SECOND_US },
        delay_us: 0,
        idle_after_us: None,
        future_limit_us: None,
        flush: false,
        epochs: Vec::new(),
    };
    let disk = SimulatedDisk::new(9);
    let (mut simulation, clock, _) = start_plan(window_plan(&case), &disk, &turns, None).unwrap();
    let is_pack = |path: &Path| path.extension().is_some_and(|ending| ending == "pack");
    let state = || disk.files().into_iter().filter(|(path, _)| is_pack(path));
    let (mut most, mut of_one) = (0, 0);
    for round in 0..ROUNDS {
        // In each second many keys whose window closes with the next one, and one whose window is a day ahead and stays.
        let rows = (0..400).map(|key| Message::new("", format!("key {key} of {round},{},1", round * SECOND_US)));
        let ahead = Message::new("", format!("ahead,{},1", (86_400 + round) * SECOND_US));
        for (partition, messages) in [("now", rows.collect()), ("ahead", vec![ahead])] {
            let mut receipt = simulation.append("events", partition, Chunk::Messages(messages)).unwrap().unwrap();
            while (&mut receipt).now_or_never().is_none() {
                simulation.pass();
            }
        }
        let before = simulation.status().checkpoint.count;
        while simulation.status().checkpoint.count == before {
            clock.advance(Duration::from_millis(20));
            simulation.pass();
        }
        of_one = of_one.max(simulation.status().checkpoint.bytes);
        most = most.max(state().map(|(_, bytes)| bytes).sum());
    }
    assert!(of_one > 0 && most > of_one, "{most} {of_one}");
    let allowed = of_one * 4 * (CHECKPOINTS_KEPT as u64 + 1);
    assert!(most < allowed, "{most} bytes in {} packs, and one checkpoint writes {of_one}", state().count());
    simulation.stop().unwrap();
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
