//! The machine that breaks the program: kills it and takes its power away under load, and looks whether what was
//! acknowledged is in the tables, once, and whether every window is right.
//!
//! A test is a number of rounds. A round has a seed, a data folder of its own, and:
//!
//! ```text
//!   load     devices at QoS 1 and clients over HTTP, in bursts and pauses, with rows that are late, from the future, or
//!     │      cannot be decoded; each with a ledger that is on disk before the message leaves
//!     │
//!   faults   start with other threads and intervals ─► serve or recover ─► break ─► start ...
//!     │
//!   verdict  DuckDB over the files that the `deltalake` package lists, a second reader of the ingest log and the
//!            reference model of windows, against the ledgers: row by row, window by window, version by version
//! ```
//!
//! The engine's own counters are no evidence: nothing here asks for them, but to know when it has nothing to do. Each
//! round prints a line of JSON; one that finds something prints the command that repeats it, and keeps its folder.
//! Threads and disks have their own timing, so a seed repeats the load and the kind and time of the faults, but not
//! every instant.
//!
//! - [`sizes`]: how much is tried
//! - [`sources`]: the pipeline under test
//! - [`load`]: who sends what, and when
//! - [`faults`]: what happens to the program, on a [`disk`](crate::harness::disk) that can lose its power
//! - [`round`]: all of it together; [`kept_log`] keeps the log for the verdict
//! - [`verdict`]: what is wrong
//! - [`report`]: the line of JSON
//! - [`failing_disk`]: a disk that is full, or refuses, for a while
//! - [`frozen`]: a program that was held, and comes back when another has taken over

mod sizes;
mod sources;

mod load;

mod failing_disk;
mod faults;
mod frozen;

mod kept_log;
mod round;

mod report;
mod verdict;

use self::faults::Fault;
use self::report::Report;
use self::sizes::Size;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_lose_nothing_double_nothing_and_every_window_is_right() {
    let test = "kills_lose_nothing_double_nothing_and_every_window_is_right";
    run(&Attack { fault: "kill", faults: &Fault::KILLS, test }, Size::of_kills()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_losses_lose_nothing_double_nothing_and_every_window_is_right() {
    let test = "power_losses_lose_nothing_double_nothing_and_every_window_is_right";
    run(&Attack { fault: "power loss", faults: &Fault::POWER_LOSSES, test }, Size::of_power_losses()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_nothing_but_the_input_and_loses_nothing() {
    let test = "a_full_disk_stops_nothing_but_the_input_and_loses_nothing";
    run(&Attack { fault: "full disk", faults: &Fault::FULL_DISKS, test }, Size::of_full_disks()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_refuses_for_a_while_loses_nothing_and_doubles_nothing() {
    let test = "a_disk_that_refuses_for_a_while_loses_nothing_and_doubles_nothing";
    run(&Attack { fault: "refusing disk", faults: &Fault::REFUSALS, test }, Size::of_refusals()).await;
}

/// What a test does to the program.
struct Attack {
    /// The word for it.
    fault: &'static str,
    /// The faults of a round, one after the other and then again.
    faults: &'static [Fault],
    /// The test's name, to repeat it.
    test: &'static str,
}

/// Runs rounds until the size is reached; the first one that finds something fails.
async fn run(attack: &Attack, size: Size) {
    let mut sum: Option<Report> = None;
    for seed in size.first_seed.. {
        match round::run(attack, seed, size.faults_in_round, size.rows_in_round()).await {
            Err(why) => return report::publish_impossible(seed, attack, &why),
            Ok(round) => match &mut sum {
                None => sum = Some(round),
                Some(sum) => sum.add(round),
            },
        }
        let sum = sum.as_ref().expect("a round has ended");
        if size.is_reached(sum.struck(), sum.acknowledged) {
            return sum.publish();
        }
    }
}
