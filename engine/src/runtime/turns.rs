//! Turns: how the threads of a job wait for each other.
//!
//! In the program threads run side by side, and who waits sleeps. In a simulation exactly one of them runs at a time: each
//! has a seat at a table, and who would sleep passes its turn to the seat that the dice choose.
//!
//! ```text
//!                     program                                   simulation
//!   wait, recv, send  sleeps until it is woken, or for so long  passes its turn once, or until there is something
//!   a worker          steps, or parks                           steps, and passes its turn
//! ```
//! So one seed decides everything that the operating system decides otherwise, and no code of the protocol knows which of
//! the two it runs in. What this asks of every caller: *a wait may end early*, so it stands in a loop that looks again.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender, TryRecvError, TrySendError};
use parking_lot::{Condvar, Mutex, MutexGuard};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::clock::{Dice, SeededDice};

/// How many calls of the disk there are to one at which the turn is passed.
const PASSES_ONE_IN: u64 = 4;

thread_local! {
    /// The seat of this thread; none in the program.
    static SEAT: RefCell<Option<(Arc<Table>, usize)>> = const { RefCell::new(None) };
}

/// A table whose seats take turns. Clones are the same table.
#[derive(Clone)]
pub struct Turns(Arc<Table>);

struct Table {
    state: Mutex<State>,
}

struct State {
    seats: Vec<Chair>,
    /// Whose turn it is.
    current: usize,
    dice: SeededDice,
    trace: u64,
    count: u64,
}

struct Chair {
    is_taken: bool,
    chosen: Arc<Condvar>,
}

/// A place at the table, for one thread; it takes part in the turns from when it is made.
pub(super) struct Seat {
    table: Arc<Table>,
    /// None once the thread sits: then it leaves by [`Sitting`].
    at: Option<usize>,
}

/// A thread takes its turns as long as it has this.
pub struct Sitting {
    table: Arc<Table>,
    at: usize,
}

impl Turns {
    /// Makes an empty table whose turns follow from the seed.
    pub fn new(seed: u64) -> Turns {
        let state =
            State { seats: Vec::new(), current: usize::MAX, dice: SeededDice::new(seed), trace: seed, count: 0 };
        Turns(Arc::new(Table { state: Mutex::new(state) }))
    }

    /// Takes the first seat for this thread: the one that drives the simulation.
    pub fn sit(&self) -> Sitting {
        self.seat().sit()
    }

    /// Makes a seat for a thread that is about to be started.
    pub(super) fn seat(&self) -> Seat {
        let mut state = self.0.state.lock();
        let at = state.seats.len();
        state.seats.push(Chair { is_taken: true, chosen: Arc::default() });
        if state.current == usize::MAX {
            state.current = at;
        }
        Seat { table: Arc::clone(&self.0), at: Some(at) }
    }

    /// Returns how many seats there have been.
    pub(super) fn seats(&self) -> usize {
        self.0.state.lock().seats.len()
    }

    /// Returns how many seats are taken.
    pub(super) fn taken(&self) -> usize {
        self.0.state.lock().seats.iter().filter(|chair| chair.is_taken).count()
    }

    /// Returns whether the thread of a seat is still there.
    pub(super) fn is_taken(&self, seat: usize) -> bool {
        self.0.state.lock().seats[seat].is_taken
    }

    /// Returns how often the turn was passed.
    pub fn count(&self) -> u64 {
        self.0.state.lock().count
    }

    /// Mixes something that happened into the trace.
    pub fn note(&self, what: &[u8]) {
        let mut state = self.0.state.lock();
        state.trace = xxh3_64_with_seed(what, state.trace);
    }

    /// Returns a hash over whose turn it was each time, and over what was noted.
    pub fn trace_hash(&self) -> u64 {
        self.0.state.lock().trace
    }
}

impl State {
    /// Gives the turn to one of the taken seats.
    fn choose(&mut self) {
        let taken = self.seats.iter().filter(|chair| chair.is_taken).count();
        self.current = match taken {
            0 => usize::MAX,
            _ => {
                let nth = (self.dice.roll() % taken as u64) as usize;
                let mut seats = self.seats.iter().enumerate().filter(|(_, chair)| chair.is_taken);
                seats.nth(nth).map(|(at, _)| at).expect("there are as many")
            }
        };
        self.count += 1;
        self.trace = xxh3_64_with_seed(&self.current.to_le_bytes(), self.trace);
        if let Some(chair) = self.seats.get(self.current) {
            chair.chosen.notify_one();
        }
    }
}

impl Table {
    fn pass(&self, at: usize) {
        let mut state = self.state.lock();
        state.choose();
        Self::wait_for_turn(&mut state, at);
    }

    fn wait_for_turn(state: &mut MutexGuard<'_, State>, at: usize) {
        while state.current != at {
            let chosen = Arc::clone(&state.seats[at].chosen);
            chosen.wait(state);
        }
    }

    fn leave(&self, at: usize) {
        let mut state = self.state.lock();
        state.seats[at].is_taken = false;
        if state.current == at {
            state.choose();
        }
    }
}

impl Seat {
    /// Takes the seat for this thread; returns with its first turn.
    pub(super) fn sit(mut self) -> Sitting {
        let at = self.at.take().expect("a seat is taken once");
        let table = Arc::clone(&self.table);
        Table::wait_for_turn(&mut table.state.lock(), at);
        SEAT.set(Some((Arc::clone(&table), at)));
        Sitting { table, at }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(at) = self.at {
            self.table.leave(at);
        }
    }
}

impl Drop for Sitting {
    fn drop(&mut self) {
        SEAT.set(None);
        self.table.leave(self.at);
    }
}

/// Passes the turn, and returns with the next one. Without a seat it does nothing and returns false.
pub(super) fn pass() -> bool {
    let seat = SEAT.with_borrow(Clone::clone);
    seat.as_ref().inspect(|(table, at)| table.pass(*at)).is_some()
}

/// Passes the turn once in a while, as the dice say.
pub(super) fn pass_sometimes() {
    let seat = SEAT.with_borrow(Clone::clone);
    if let Some((table, at)) = &seat
        && table.state.lock().dice.roll() % PASSES_ONE_IN == 0
    {
        table.pass(*at);
    }
}

/// Whether this thread takes turns.
pub(super) fn are_taken() -> bool {
    SEAT.with_borrow(Option::is_some)
}

/// Waits for a change, at most `timeout`; returns whether that has passed. May return early.
pub(super) fn wait<T>(changed: &Condvar, state: &mut MutexGuard<'_, T>, timeout: Option<Duration>) -> bool {
    if are_taken() {
        MutexGuard::unlocked(state, pass);
        return timeout.is_some();
    }
    match timeout {
        None => changed.wait(state),
        Some(timeout) => return changed.wait_for(state, timeout).timed_out(),
    }
    false
}

/// Receives; waits for it at most `timeout`. May time out early.
pub(super) fn recv<T>(receiver: &Receiver<T>, timeout: Option<Duration>) -> Result<T, RecvTimeoutError> {
    if !are_taken() {
        return match timeout {
            None => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(timeout) => receiver.recv_timeout(timeout),
        };
    }
    loop {
        match receiver.try_recv() {
            Ok(received) => return Ok(received),
            Err(TryRecvError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
            Err(TryRecvError::Empty) => drop(pass()),
        }
        if timeout.is_some() {
            return receiver.try_recv().map_err(|error| match error {
                TryRecvError::Empty => RecvTimeoutError::Timeout,
                TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
            });
        }
    }
}

/// Sends; waits for room at most `timeout`. May time out early.
pub(super) fn send<T>(sender: &Sender<T>, value: T, timeout: Duration) -> Result<(), SendTimeoutError<T>> {
    if !are_taken() {
        return sender.send_timeout(value, timeout);
    }
    sender.try_send(value).map_err(|error| match error {
        TrySendError::Full(value) => {
            pass();
            SendTimeoutError::Timeout(value)
        }
        TrySendError::Disconnected(value) => SendTimeoutError::Disconnected(value),
    })
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;

    use super::*;

    /// Four threads that write down whose turn it is.
    fn order(seed: u64) -> (Vec<usize>, u64) {
        let (turns, order) = (Turns::new(seed), Arc::<Mutex<Vec<usize>>>::default());
        let driving = turns.sit();
        let threads: Vec<_> = (0..4)
            .map(|number| {
                let (seat, order) = (turns.seat(), Arc::clone(&order));
                std::thread::spawn(move || {
                    let _sitting = seat.sit();
                    for _ in 0..50 {
                        order.lock().push(number);
                        pass();
                    }
                })
            })
            .collect();
        while turns.taken() > 1 {
            pass();
        }
        drop(driving);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let order = order.lock().clone();
        (order, turns.trace_hash())
    }

    #[test]
    fn one_seed_gives_one_order_and_another_seed_another() {
        let (first, trace) = order(7);
        assert_eq!(first.len(), 200);
        for _ in 0..20 {
            assert_eq!(order(7), (first.clone(), trace));
        }
        assert_ne!(order(8).0, first);
    }

    #[test]
    fn who_waits_for_another_lets_it_run() {
        let turns = Turns::new(1);
        let _driving = turns.sit();
        let (sender, receiver) = bounded(1);
        let (seat, answers) = (turns.seat(), bounded::<u64>(1));
        let answer = answers.0;
        let thread = std::thread::spawn(move || {
            let _sitting = seat.sit();
            while let Ok(number) = recv::<u64>(&receiver, None) {
                while let Err(SendTimeoutError::Timeout(_)) = send(&answer, number + 1, Duration::ZERO) {}
            }
        });
        for number in 0..100 {
            send(&sender, number, Duration::ZERO).unwrap();
            assert_eq!(recv(&answers.1, None), Ok(number + 1));
        }
        drop(sender);
        while turns.taken() > 1 {
            pass();
        }
        thread.join().unwrap();
    }

    #[test]
    fn without_a_seat_threads_wait_as_ever() {
        let (sender, receiver) = bounded(1);
        assert!(!pass() && !are_taken());
        assert_eq!(recv::<u8>(&receiver, Some(Duration::ZERO)), Err(RecvTimeoutError::Timeout));
        send(&sender, 1, Duration::ZERO).unwrap();
        assert!(matches!(send(&sender, 2, Duration::ZERO), Err(SendTimeoutError::Timeout(2))));
        assert_eq!(recv(&receiver, None), Ok(1));
        let (state, changed) = (Mutex::new(()), Condvar::new());
        assert!(wait(&changed, &mut state.lock(), Some(Duration::ZERO)));
    }
}
