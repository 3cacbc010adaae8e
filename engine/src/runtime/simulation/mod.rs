//! The simulation: a whole job in one process whose every step follows from a seed.
//!
//! ```text
//!   driver (a test) ─┬─ moves the clock, appends input, looks at receipts ── pass ─┐
//!   recorder ────────┤                                                             │  one of them runs at a time;
//!   checkpointer ────┤                                       who is next: the dice ◄  whoever would wait passes on,
//!   tables ──────────┤                                                             │  and so does, now and then, who
//!   worker 0, 1, … ──┴─────────────────────────────────────────────────────────────┘  calls the disk
//! ```
//! The threads are those of a real job and run the same code; only how they wait for each other is another: see
//! [`Turns`]. The one difference is that all tables share a thread, and take one order at a time.
//!
//! Not simulated: sources and their tokio tasks. The driver appends in their place, and is acknowledged like they are.

mod disk;
#[cfg(test)]
mod tests;

pub use super::turns::{Sitting, Turns};
pub use disk::{Moment, Watch, taking_turns};

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, bounded};

use super::egress::Egress;
use super::intake::SourceIntake;
use super::job::{names_of, sources_of};
use super::recorder::{RecorderError, Replayed, check_committed};
use super::restart::Restart;
use super::starting::{Launched, Starting, spawn};
use super::turns;
use super::worker::Guards;
use super::{Job, JobError, JobOptions, JobStatus};
use crate::dataflow::Failure;
use crate::plan::Plan;
use crate::sink::Sink;
use crate::source::{Chunk, Intake, IntakeError, Receipt, Resume};

/// More turns than anything takes that goes on: a job that is still not there by then hangs.
const TURNS_MAX: u64 = 4_000_000;

/// A simulated job. Dropping it kills it.
pub struct Simulation {
    turns: Turns,
    /// None once it ends.
    job: Option<Job>,
    failure: Failure,
    intakes: BTreeMap<String, Arc<dyn Intake>>,
    resume: BTreeMap<String, Vec<Resume>>,
    dataflow: Dataflow,
    threads: Vec<JoinHandle<()>>,
}

/// The workers, from the outside.
struct Dataflow {
    guards: Option<Guards>,
    seats: std::ops::Range<usize>,
    has_ended: bool,
}

impl Simulation {
    /// Starts a job, and returns when its log is replayed, as [`Job::start`] does. The calling thread must
    /// [sit](Turns::sit) at the table, alone.
    pub fn start(
        plan: Plan,
        sinks: Vec<Box<dyn Sink>>,
        options: &JobOptions,
        turns: &Turns,
    ) -> Result<Simulation, JobError> {
        assert!(turns::are_taken() && turns.taken() == 1, "the driver sits alone");
        let plan = Arc::new(plan);
        let names = names_of(&plan, &sinks, options)?;
        let restart = Restart::prepare(&plan, &names, sinks, options)?;
        let starting = Starting::new(Arc::clone(&plan), restart, options)?;
        let committed = starting.committed.clone();
        let first_seat = turns.seats();
        let Launched { job, workers, egress, checkpointer, recording, .. } = starting.launch(options, Some(turns))?;
        let failure = job.failure.clone();
        let intake = |(id, node): (_, &crate::plan::SourceNode)| {
            let state = Arc::clone(&job.sources[&id]);
            let positions = Arc::clone(&job.positions);
            let intake = SourceIntake { source: id, queue: job.queue.clone(), state, positions };
            (node.name.clone(), Arc::new(intake) as Arc<dyn Intake>)
        };
        let mut simulation = Simulation {
            turns: turns.clone(),
            intakes: sources_of(&plan).map(intake).collect(),
            resume: BTreeMap::new(),
            failure: failure.clone(),
            dataflow: Dataflow {
                guards: Some(workers),
                seats: first_seat..first_seat + options.workers,
                has_ended: false,
            },
            threads: Vec::new(),
            job: Some(job),
        };
        simulation.spawn("tables", move || serve(egress, &failure))?;
        simulation.spawn("checkpoint", move || checkpointer.run())?;
        let (replayed_sender, replayed) = bounded(1);
        let (go, may_go) = bounded::<()>(1);
        simulation.spawn("recorder", move || {
            recording.run(|found| replayed_sender.send(found).is_ok() && turns::recv(&may_go, None).is_ok());
        })?;
        let replayed = simulation.wait_for(&replayed)?;
        check_committed(&committed, &replayed)?;
        let mut resume = replayed.resume;
        simulation.resume = sources_of(&simulation.job().plan)
            .map(|(id, node)| (node.name.clone(), resume.remove(&id).unwrap_or_default()))
            .collect();
        let _ = go.send(()); // The recorder is waiting for it.
        Ok(simulation)
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), JobError> {
        let seat = self.turns.seat();
        let thread = spawn(name.to_owned(), move || {
            let _sitting = seat.sit();
            run();
        })?;
        self.threads.push(thread);
        Ok(())
    }

    fn wait_for(&mut self, replayed: &Receiver<Result<Replayed, RecorderError>>) -> Result<Replayed, JobError> {
        let begun = self.turns.count();
        loop {
            match replayed.try_recv() {
                Ok(Ok(replayed)) => return Ok(replayed),
                Ok(Err(error)) => return Err(self.job().replay_error(error)),
                Err(crossbeam_channel::TryRecvError::Empty) => self.pass(),
                Err(crossbeam_channel::TryRecvError::Disconnected) => {
                    return Err(JobError::Operator("the recorder ended by an internal error".to_owned()));
                }
            }
            self.check_turns(begun, "to replay the log");
        }
    }

    /// Lets the others run until it is the driver's turn again.
    pub fn pass(&mut self) {
        turns::pass();
        let Dataflow { seats, has_ended, .. } = &mut self.dataflow;
        if !*has_ended && seats.clone().all(|seat| !self.turns.is_taken(seat)) {
            *has_ended = true;
            if let Some(job) = &self.job {
                job.dataflow_ended();
            }
        }
    }

    /// Appends input of a source, as the source itself would.
    ///
    /// # Errors
    /// `None`: there is no room now.
    pub fn append(&self, source: &str, partition: &str, chunk: Chunk) -> Option<Result<Receipt, IntakeError>> {
        self.intakes.get(source)?.try_append(partition, chunk)
    }

    /// Returns what each source is told when it begins, by its name.
    pub fn resume(&self) -> &BTreeMap<String, Vec<Resume>> {
        &self.resume
    }

    /// Returns what the job is doing now.
    pub fn status(&self) -> JobStatus {
        self.job().status()
    }

    /// Returns the job, to subscribe to its tables.
    pub fn job(&self) -> &Job {
        self.job.as_ref().expect("there until it ends")
    }

    /// Returns why the job stopped, if it did so by itself.
    pub fn failure(&self) -> Option<JobError> {
        self.job().outcome().err()
    }

    /// Stops as [`Job::stop`] does, and returns when everything has ended.
    pub fn stop(mut self) -> Result<(), JobError> {
        self.end("to stop")
    }

    /// Ends all threads without a last checkpoint. To let nothing of it reach the disk, stop the disk first.
    pub fn kill(mut self) {
        self.abandon();
    }

    fn abandon(&mut self) {
        self.failure.set_environment("killed by the simulation".to_owned());
        let _ = self.end("to die"); // It is the reason that was just set, or an earlier one.
    }

    fn end(&mut self, what: &str) -> Result<(), JobError> {
        let Some(job) = &self.job else { return Ok(()) };
        job.queue.stop();
        // The recorder drops what comes until nothing can come any more.
        self.intakes.clear();
        let begun = self.turns.count();
        while self.dataflow.seats.clone().any(|seat| self.turns.is_taken(seat)) {
            self.pass();
            self.check_turns(begun, what);
        }
        self.pass();
        // With it goes the last way in to the recorder.
        drop(self.job.take());
        let failure = self.failure.clone();
        while self.turns.taken() > 1 {
            self.pass();
            self.check_turns(begun, what);
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                failure.set("a thread ended by an internal error".to_owned());
            }
        }
        for ended in self.dataflow.guards.take().into_iter().flat_map(Guards::join) {
            if let Err(reason) = ended {
                failure.set(format!("a worker ended: {reason}"));
            }
        }
        super::outcome_of(&failure)
    }

    fn check_turns(&self, begun: u64, what: &str) {
        let taken = self.turns.count() - begun;
        assert!(taken < TURNS_MAX, "the job takes more than {TURNS_MAX} turns {what}: it hangs");
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// All tables on one thread, one order at a time.
fn serve(mut tables: Vec<Egress>, failure: &Failure) {
    let serving = catch_unwind(AssertUnwindSafe(|| {
        while !tables.is_empty() {
            turns::pass();
            tables.retain_mut(Egress::poll);
        }
    }));
    if serving.is_err() {
        failure.set("a table's thread ended by an internal error".to_owned());
    }
}
