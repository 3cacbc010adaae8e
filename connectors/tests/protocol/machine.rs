//! The machine: processes that share a disk, of which one runs at a time.
//!
//! ```text
//!   process 1  ──call──call────────────────────call──┐
//!   process 2              call──call──call──call    │   the next one to run is drawn before every call
//!   accidents        ▲ a successor starts    ▲ 1 is killed      ▲ the machine stops
//! ```
//! Each process is a thread, and every call to the disk is a place where another one may go on, or where the machine
//! stops: so the processes interleave at the grain of system calls, and the same seed gives the same run.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tidemill_engine::storage::simulated::Call;
use tidemill_engine::storage::{Disk, DiskInterposer, InterposedDisk, LocalStorage, SimulatedDisk, Storage};

use super::judge::Judge;

/// One of so many calls is followed by one of another process.
const CALLS_PER_TURN: u32 = 5;
/// The judge looks after so many calls, and after each that decides something.
const CALLS_PER_LOOK: u64 = 60;
/// What is asked for when nobody runs.
const NOBODY: usize = usize::MAX;

/// What happens to a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accident {
    /// Another process starts, while those that run go on.
    Successor {
        /// Whether it goes back to an older checkpoint first.
        restores: bool,
    },
    /// One of the processes that have a successor is killed.
    Kill,
    /// All processes end at once.
    Stop,
}

/// What a life of a machine has to bear.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    /// What happens, and before which call.
    pub(crate) accidents: Vec<(u64, Accident)>,
    /// Whether the first process goes back to an older checkpoint.
    pub(crate) restores: bool,
    /// Whether it is the last life: all that is known is to be committed.
    pub(crate) is_last: bool,
}

/// What a process runs.
pub(crate) type Work = Arc<dyn Fn(&Process, bool) -> Result<(), String> + Send + Sync>;

/// Who is told of every call that changes something: its number, and its path.
type Watcher = Box<dyn Fn(u64, &str) + Send>;

/// See the module.
pub(crate) struct Machine {
    disk: SimulatedDisk,
    /// For the judge: calls of nobody.
    storage: Arc<dyn Storage>,
    work: Work,
    is_last: bool,
    state: Mutex<State>,
    turns: Condvar,
}

struct State {
    random: SmallRng,
    runs: usize,
    processes: Vec<Life>,
    threads: Vec<std::thread::JoinHandle<()>>,
    calls: u64,
    accidents: VecDeque<(u64, Accident)>,
    is_over: bool,
    must_look: bool,
    watcher: Option<Watcher>,
    judge: Judge,
    offence: Option<String>,
}

struct Life {
    has_ended: bool,
    is_killed: bool,
    /// Whether no other process ran since it began.
    is_alone: bool,
}

/// A process, as its own code sees it.
#[derive(Clone)]
pub(crate) struct Process {
    machine: Arc<Machine>,
    number: usize,
    /// Seeds what is random in it.
    pub(crate) seed: u64,
}

impl Machine {
    /// Runs one life of a machine: a first process, and what the accidents bring. Returns the judge, or what it found.
    pub(crate) fn run(disk: &SimulatedDisk, seed: u64, plan: Plan, judge: Judge, work: Work) -> Result<Judge, String> {
        let storage: Arc<dyn Storage> = Arc::new(data_folder(disk));
        let state = State {
            random: SmallRng::seed_from_u64(seed),
            runs: NOBODY,
            processes: Vec::new(),
            threads: Vec::new(),
            calls: 0,
            accidents: plan.accidents.into(),
            is_over: false,
            must_look: false,
            watcher: None,
            judge,
            offence: None,
        };
        let machine = Arc::new(Machine {
            disk: disk.clone(),
            storage,
            work,
            is_last: plan.is_last,
            state: Mutex::new(state),
            turns: Condvar::new(),
        });
        let mut state = machine.state.lock();
        machine.start(&mut state, plan.restores);
        state.runs = 0;
        machine.turns.notify_all();
        while state.runs != NOBODY {
            machine.turns.wait(&mut state);
        }
        let threads = std::mem::take(&mut state.threads);
        if !state.is_over {
            machine.look(&mut state);
        }
        let (offence, judge) = (state.offence.take(), std::mem::take(&mut state.judge));
        drop(state);
        for thread in threads {
            thread.join().expect("a process catches its own panics");
        }
        offence.map_or(Ok(judge), Err)
    }

    fn start(self: &Arc<Self>, state: &mut State, restores: bool) {
        let number = state.processes.len();
        let others = state.processes.iter_mut().filter(|life| !life.has_ended);
        let is_alone = others.map(|life| life.is_alone = false).count() == 0;
        state.processes.push(Life { has_ended: false, is_killed: false, is_alone });
        let process = Process { machine: Arc::clone(self), number, seed: state.random.random() };
        state.threads.push(std::thread::spawn(move || process.live(restores)));
    }

    /// Gives the turn to somebody; to nobody if all have ended.
    fn pass_on(&self, state: &mut State) {
        let running: Vec<usize> =
            (0..state.processes.len()).filter(|number| !state.processes[*number].has_ended).collect();
        state.runs = if running.is_empty() { NOBODY } else { running[state.random.random_range(0..running.len())] };
        self.turns.notify_all();
    }

    fn look(&self, state: &mut State) {
        state.must_look = false;
        if let Err(offence) = state.judge.look(&self.storage) {
            self.condemn(state, offence);
        }
    }

    fn condemn(&self, state: &mut State, offence: String) {
        state.offence.get_or_insert(format!("at call {}: {offence}", state.calls));
        self.stop(state);
    }

    fn stop(&self, state: &mut State) {
        state.is_over = true;
        self.disk.stop();
    }

    /// What happens before a call of a process; an error if the process is dead.
    fn admit(self: &Arc<Self>, number: usize) -> io::Result<()> {
        let mut state = self.state.lock();
        let dead = |state: &State| state.is_over || state.processes[number].is_killed;
        if dead(&state) {
            return Err(gone());
        }
        state.calls += 1;
        if state.must_look || state.calls.is_multiple_of(CALLS_PER_LOOK) {
            self.look(&mut state);
        }
        let calls = state.calls;
        while let Some((_, accident)) = state.accidents.pop_front_if(|(at, _)| *at <= calls) {
            match accident {
                Accident::Successor { restores } => self.start(&mut state, restores),
                Accident::Kill => {
                    let newest = state.processes.len() - 1;
                    let victim = state.random.random_range(0..=newest);
                    state.processes[victim].is_killed |= victim < newest;
                }
                Accident::Stop => self.stop(&mut state),
            }
        }
        if !dead(&state) && state.random.random_ratio(1, CALLS_PER_TURN) {
            self.pass_on(&mut state);
            while state.runs != number {
                self.turns.wait(&mut state);
            }
        }
        if dead(&state) { Err(gone()) } else { Ok(()) }
    }
}

/// The data folder, for somebody who is no process.
pub(crate) fn data_folder(disk: &SimulatedDisk) -> LocalStorage {
    LocalStorage::on(Arc::new(disk.clone()), "data").expect("a disk that works")
}

fn gone() -> io::Error {
    io::Error::other("the process is gone")
}

impl Process {
    fn live(self, restores: bool) {
        let machine = &self.machine;
        {
            let mut state = machine.state.lock();
            while state.runs != self.number {
                machine.turns.wait(&mut state);
            }
        }
        let work = Arc::clone(&machine.work);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&self, restores)));
        let mut state = machine.state.lock();
        let life = &mut state.processes[self.number];
        life.has_ended = true;
        let (was_killed, was_alone) = (life.is_killed, life.is_alone);
        if !state.is_over {
            match outcome {
                Err(_) => machine.condemn(&mut state, format!("process {} panicked", self.number)),
                Ok(Err(problem)) if was_alone && !was_killed => {
                    machine.condemn(&mut state, format!("process {} was alone, and ended: {problem}", self.number));
                }
                Ok(_) => {}
            }
        }
        machine.pass_on(&mut state);
    }

    /// Whether this is the last life of the machine.
    pub(crate) fn is_last(&self) -> bool {
        self.machine.is_last
    }

    /// Whether no other process ran beside it so far.
    pub(crate) fn is_alone(&self) -> bool {
        self.machine.state.lock().processes[self.number].is_alone
    }

    /// Says what the process does, if somebody wants to know: `TIDEMILL_TRACE=1`.
    pub(crate) fn trace(&self, what: impl FnOnce() -> String) {
        if std::env::var_os("TIDEMILL_TRACE").is_some() {
            let calls = self.machine.state.lock().calls;
            eprintln!("{calls:>5}  process {}  {}", self.number, what());
        }
    }

    /// Lets somebody hear of every call that changes something.
    pub(crate) fn watch(&self, watcher: impl Fn(u64, &str) + Send + 'static) {
        self.machine.state.lock().watcher = Some(Box::new(watcher));
    }

    /// A call that changes something has been made.
    fn changes(&self, path: &Path) {
        let state = self.machine.state.lock();
        if let Some(watcher) = state.watcher.as_ref().filter(|_| !state.is_over) {
            watcher(state.calls + 1, &path.to_string_lossy());
        }
    }

    /// Tells the judge something that is certain from now on.
    pub(crate) fn tell(&self, what: impl FnOnce(&mut Judge) -> Result<(), String>) {
        let mut state = self.machine.state.lock();
        if let Err(offence) = what(&mut state.judge) {
            self.machine.condemn(&mut state, offence);
        }
    }

    /// Returns the disk of the machine, as this process reaches it.
    pub(crate) fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(InterposedDisk::new(Arc::new(self.machine.disk.clone()), Arc::new(self.clone())))
    }
}

impl DiskInterposer for Process {
    fn around<T>(&self, call: Call, path: &Path, run: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let changes = match call {
            Call::Create | Call::Write | Call::SetLen | Call::SyncFile | Call::SyncFolder => true,
            Call::Link | Call::Rename | Call::Remove => true,
            Call::Open | Call::Read | Call::CreateFolder | Call::List | Call::Metadata | Call::Lock => false,
        };
        if changes {
            self.changes(path);
        }
        self.machine.admit(self.number)?;
        let result = run();
        // Whoever decides something is looked at before anybody goes on.
        if matches!(call, Call::Link | Call::Rename)
            && path.iter().any(|part| part == "manifest" || part == "_delta_log")
        {
            self.machine.state.lock().must_look = true;
        }
        result
    }
}
