//! The timely workers: threads that compute and never wait for anything but timely itself.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::Thread;

use crossbeam_channel::Sender;
use parking_lot::Mutex;
use timely::communication::WorkerGuards;
use timely::scheduling::SyncActivator;
use timely::worker::Worker;

use super::progress::Progress;
use super::turns::{self, Seat, Turns};
use crate::dataflow::{Context, Ports, build};
use crate::plan::{NodeId, Plan};

/// What wakes the sources of one worker, or why its graph could not be built.
pub(super) type Built = (usize, Result<BTreeMap<NodeId, SyncActivator>, String>);

/// The workers, to wait for their end.
pub(super) type Guards = WorkerGuards<()>;

/// The workers' threads, to wake them when the job has failed.
#[derive(Clone, Default)]
pub(super) struct Threads(Arc<Mutex<Vec<Thread>>>);

impl Threads {
    pub(super) fn unpark(&self) {
        self.0.lock().iter().for_each(Thread::unpark);
    }
}

/// Starts the workers. Each says on `built` when its graph stands; each takes its own of `ports`.
pub(super) fn spawn(
    plan: Arc<Plan>,
    context: Context,
    ports: Vec<Ports>,
    built: Sender<Built>,
    threads: Threads,
    progress: Arc<Progress>,
    turns: Option<&Turns>,
) -> Result<Guards, String> {
    let worker_count = ports.len();
    let config = timely::Config::process(worker_count);
    let ports: Mutex<Vec<Option<Ports>>> = Mutex::new(ports.into_iter().map(Some).collect());
    let seats: Mutex<Vec<Option<Seat>>> = Mutex::new((0..worker_count).map(|_| turns.map(Turns::seat)).collect());
    timely::execute(config, move |worker| {
        let index = worker.index();
        let seat = seats.lock()[index].take();
        let _sitting = seat.map(Seat::sit);
        threads.0.lock().push(std::thread::current());
        let ports = ports.lock()[index].take().expect("each worker runs once");
        let ended = catch_unwind(AssertUnwindSafe(|| run(worker, &plan, &context, ports, &built, &progress)));
        if ended.is_err() {
            context.failure.set(format!("worker {index} ended by an internal error"));
        }
        // After a failure the operators keep their capabilities, and timely would step this worker for ever. What goes
        // with the graph are the ends of the channels: by that the tables' threads and the bridge see that it is over.
        worker.installed_dataflows().into_iter().for_each(|dataflow| worker.drop_dataflow(dataflow));
    })
}

fn run(worker: &mut Worker, plan: &Plan, context: &Context, ports: Ports, built: &Sender<Built>, progress: &Progress) {
    let index = worker.index();
    let graph = worker.dataflow(|scope| build(scope, plan, context, ports));
    let (wakes, probe) = match graph {
        Ok(graph) => graph,
        Err(problem) => {
            context.failure.set(problem.clone());
            let _ = built.send((index, Err(problem))); // Nobody waits any more if the start was given up.
            return;
        }
    };
    let _ = built.send((index, Ok(wakes)));
    while worker.has_dataflows() && !context.failure.is_set() {
        if turns::pass() {
            worker.step();
        } else {
            worker.step_or_park(None);
        }
        if index == 0 {
            progress.complete(probe.with_frontier(|frontier| frontier.first().copied()));
        }
    }
    if index == 0 && !context.failure.is_set() {
        progress.complete(None);
    }
}
