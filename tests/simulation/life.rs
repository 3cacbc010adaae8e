//! One life of a job: from its start to its end, of which there are several kinds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tidemill::engine::clock::{Clock, Dice, ManualClock, SeededDice};
use tidemill::engine::ingest::{Log, LogOptions};
use tidemill::engine::runtime::simulation::{Moment, Simulation, Turns, Watch, taking_turns};
use tidemill::engine::runtime::{JobError, JobOptions, LOG_FOLDER, Subscription};
use tidemill::engine::storage::{LocalStorage, SimulatedDisk, Storage};

use super::judge;
use super::scenario::{Act, Chance, Script, open_tables, pipeline};
use super::world::{Sent, World};

/// How a job runs. Nothing here may change a result.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) seed: u64,
    pub(super) workers: usize,
    pub(super) table_writers: usize,
    pub(super) epoch_interval: Duration,
    pub(super) checkpoint_interval: Duration,
    pub(super) commit_interval: Duration,
    /// Small segments, so that the log shrinks in a short life.
    pub(super) segment_bytes: u64,
}

impl Settings {
    /// What most tests run with.
    pub(super) fn small(seed: u64, workers: usize) -> Settings {
        Settings {
            seed,
            workers,
            table_writers: 2,
            epoch_interval: Duration::from_millis(50),
            checkpoint_interval: Duration::from_secs(6),
            commit_interval: Duration::from_secs(4),
            segment_bytes: 1_500,
        }
    }
}

/// How a life ended.
#[derive(Debug)]
pub(super) enum End {
    /// The script was done, and the job was stopped.
    Stopped,
    /// It could not start.
    NotStarted(JobError),
    /// It started, and what its sources go on from is not what the log says, or the log not what was acknowledged.
    Misled(String),
    /// It failed by itself.
    Failed(JobError),
}

impl End {
    /// Says what ended the life, unless it was stopped.
    pub(super) fn stopped(&self) -> Result<(), String> {
        match self {
            End::Stopped => Ok(()),
            End::Misled(what) => Err(format!("started, but {what}")),
            end => Err(format!("{end:?}")),
        }
    }
}

/// What a life leaves beside the disk.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) end: End,
    /// Of the turns, and what subscribers saw.
    pub(super) trace_hash: u64,
}

/// How many turns the driver takes, at most, until everything that was sent is answered.
const TURNS_TO_ANSWER_MAX: usize = 200_000;

/// Lives once, on a disk, until the script is done or something ends it.
pub(super) fn live(
    disk: &SimulatedDisk,
    world: &World,
    script: &Script,
    settings: &Settings,
    watch: Option<Watch>,
) -> Life {
    let turns = Turns::new(settings.seed);
    let sitting = turns.sit();
    let (disk_here, world_here) = (disk.clone(), world.clone());
    let watch: Watch = Arc::new(move |moment| {
        if let Moment::BeforeRemove(path) = moment {
            world_here.archive(&disk_here, path);
        }
        if let Some(watch) = &watch {
            watch(moment);
        }
    });
    let end = match start(disk, world, settings, Some(watch), &turns) {
        Err(error) => End::NotStarted(error),
        Ok((simulation, clock)) => {
            turns.note(format!("{:?}", simulation.resume()).as_bytes());
            match judge::resumed(disk, &world.past(), script, simulation.resume()) {
                Err(what) => End::Misled(what),
                Ok(()) => drive(simulation, &clock, world, script, settings, &turns),
            }
        }
    };
    drop(sitting);
    world.end_life();
    Life { end, trace_hash: turns.trace_hash() }
}

fn start(
    disk: &SimulatedDisk,
    world: &World,
    settings: &Settings,
    watch: Option<Watch>,
    turns: &Turns,
) -> Result<(Simulation, Arc<ManualClock>), JobError> {
    let clock = Arc::new(ManualClock::at(world.with(|past| past.now_us)));
    let dice: Arc<dyn Dice> = Arc::new(SeededDice::new(settings.seed ^ 0xD1CE));
    let storage = LocalStorage::on(taking_turns(Arc::new(disk.clone()), watch), "data")?;
    let lock = storage.lock()?;
    let storage: Arc<dyn Storage> = Arc::new(storage);
    let log = LogOptions { segment_bytes_max: settings.segment_bytes, checkpoint_segment_bytes_min: 300 };
    let log_id = Log::open(Arc::clone(&storage), LOG_FOLDER, &*dice, log)?.log_id();
    let clock_here: Arc<dyn Clock> = Arc::<ManualClock>::clone(&clock);
    let tables = open_tables(&storage, log_id, &clock_here, &dice)?;
    let options = JobOptions {
        storage,
        clock: clock_here,
        dice,
        workers: settings.workers,
        checkpoint_interval: settings.checkpoint_interval,
        commit_interval: settings.commit_interval,
        table_writers: settings.table_writers,
        log,
        live: BTreeMap::new(),
        epoch_interval: settings.epoch_interval,
    };
    let simulation = Simulation::start(pipeline().plan.clone(), tables, &options, turns)?;
    drop(lock); // The next life has another disk, and nobody else has this one.
    Ok((simulation, clock))
}

fn drive(
    mut simulation: Simulation,
    clock: &ManualClock,
    world: &World,
    script: &Script,
    settings: &Settings,
    turns: &Turns,
) -> End {
    let chance = Chance::new(settings.seed ^ 0xD21E);
    // A device that got no answer sends again, or has given up.
    for chunk in 0..world.with(|past| past.sent.len()) {
        if world.with(|past| past.sent[chunk].acked == 0) && chance.one_in(2) {
            send(&simulation, world, script, chunk);
        }
    }
    let names = pipeline().tables.iter().map(|table| table.name.as_str());
    let mut subscriptions: Vec<_> = names.filter_map(|name| simulation.job().subscribe(name)).collect();
    loop {
        for _ in 0..chance.below(12) {
            simulation.pass();
        }
        world.look();
        subscriptions.iter_mut().for_each(|subscription| note(subscription, turns));
        if let Some(error) = simulation.failure() {
            simulation.kill();
            return End::Failed(error);
        }
        let Some(act) = script.acts.get(world.with(|past| past.next_act)) else { break };
        match act {
            Act::Wait { us } => {
                // In pieces, so that epochs end in between.
                let piece_us = (us / 4).max(1);
                for _ in 0..4 {
                    advance(clock, world, piece_us);
                    for _ in 0..chance.below(30) {
                        simulation.pass();
                    }
                }
            }
            Act::Send(_) => {
                let chunk = world.with(|past| {
                    past.sent.push(Sent { act_idx: past.next_act, sends: 0, acked: 0 });
                    past.sent.len() - 1
                });
                send(&simulation, world, script, chunk);
                advance(clock, world, chance.within(0..20_000));
            }
        }
        turns.note(&[act_kind(act)]);
        world.with(|past| past.next_act += 1);
    }
    for _ in 0..TURNS_TO_ANSWER_MAX {
        if world.look() == 0 || simulation.failure().is_some() {
            break;
        }
        simulation.pass();
    }
    match simulation.stop() {
        Ok(()) => End::Stopped,
        Err(error) => End::Failed(error),
    }
}

/// Notes what a subscriber has seen by now.
fn note(subscription: &mut Subscription, turns: &Turns) {
    while let Some(Some(live)) = subscription.next().now_or_never() {
        turns.note(format!("{live:?}").as_bytes());
    }
}

fn act_kind(act: &Act) -> u8 {
    match act {
        Act::Wait { .. } => 0,
        Act::Send(_) => 1,
    }
}

fn advance(clock: &ManualClock, world: &World, us: i64) {
    world.with(|past| {
        past.now_us += us;
        clock.set(past.now_us);
    });
}

fn send(simulation: &Simulation, world: &World, script: &Script, chunk: usize) {
    let act_idx = world.with(|past| past.sent[chunk].act_idx);
    let Act::Send(piece) = &script.acts[act_idx] else { unreachable!("only chunks are sent") };
    // Counted first: it may be in the log before anybody hears of it.
    world.with(|past| past.sent[chunk].sends += 1);
    match simulation.append(&piece.source, &piece.partition, piece.chunk()) {
        Some(Ok(receipt)) => world.wait_for(chunk, receipt),
        // The job is stopping, or is full: a device hears of it.
        Some(Err(_)) | None => world.with(|past| past.sent[chunk].sends -= 1),
    }
}
