//! What a round or a whole test tells: one line of JSON, and on failure how to repeat it.

use std::io::Write;
use std::process::Command;
use std::time::Instant;

use serde_json::json;

use super::Attack;
use super::verdict::Verdict;
use crate::harness::folder::Folder;

/// Figures of one round, or of several together.
pub(super) struct Report {
    pub(super) seed: u64,
    pub(super) begin: Instant,
    pub(super) kills: u64,
    pub(super) losses: u64,
    pub(super) disk_failures: u64,
    pub(super) acknowledged: u64,
    pub(super) ready_ms: Vec<u64>,
    pub(super) ms_to_first_ack_max: u64,
    rounds: u64,
    fault: &'static str,
    verdict: Verdict,
}

impl Report {
    /// Begins the report of a round.
    pub(super) fn new(seed: u64, fault: &'static str) -> Report {
        Report {
            seed,
            begin: Instant::now(),
            kills: 0,
            losses: 0,
            disk_failures: 0,
            acknowledged: 0,
            ready_ms: Vec::new(),
            ms_to_first_ack_max: 0,
            rounds: 1,
            fault,
            verdict: Verdict::default(),
        }
    }

    /// Takes the verdict in.
    pub(super) fn judge(&mut self, verdict: Verdict) {
        self.verdict = verdict;
    }

    /// Returns how often the program was struck: where power is lost, kills are only by the way.
    pub(super) fn struck(&self) -> u64 {
        [self.disk_failures, self.losses, self.kills].into_iter().find(|count| *count > 0).unwrap_or(0)
    }

    /// Returns whether nothing is wrong.
    pub(super) fn is_clean(&self) -> bool {
        self.verdict.offences.is_empty()
    }

    /// Adds a later round.
    pub(super) fn add(&mut self, round: Report) {
        self.kills += round.kills;
        self.losses += round.losses;
        self.disk_failures += round.disk_failures;
        self.acknowledged += round.acknowledged;
        self.ready_ms.extend(round.ready_ms);
        self.ms_to_first_ack_max = self.ms_to_first_ack_max.max(round.ms_to_first_ack_max);
        self.rounds += round.rounds;
        self.verdict.add(round.verdict);
    }

    /// Prints the line.
    pub(super) fn print(&self) {
        println!("\n{}", self.line());
    }

    /// Publishes the line.
    pub(super) fn publish(&self) {
        publish(&self.line());
    }

    fn line(&self) -> String {
        let mut ready_ms = self.ready_ms.clone();
        ready_ms.sort_unstable();
        let seconds = self.begin.elapsed().as_secs_f64();
        let Verdict { rows, lost, duplicated, wrong_windows, versions, orphans, .. } = self.verdict;
        json!({
            "seed": self.seed,
            "fault": self.fault,
            "rounds": self.rounds,
            "kills": self.kills,
            "losses": self.losses,
            "disk_failures": self.disk_failures,
            "rows": rows,
            "acknowledged": self.acknowledged,
            "lost": lost,
            "duplicated": duplicated,
            "wrong_windows": wrong_windows,
            "versions": versions,
            "orphans": orphans,
            "ms_to_ready_p50": ready_ms.get(ready_ms.len() / 2),
            "ms_to_ready_max": ready_ms.last(),
            "ms_to_first_ack_max": self.ms_to_first_ack_max,
            "seconds": seconds.round(),
            "rows_per_second": (self.acknowledged as f64 / seconds).round(),
            "verdict": if self.is_clean() { "nothing lost, nothing twice" } else { "WRONG" },
            "commit": commit(),
        })
        .to_string()
    }

    /// Returns what is wrong.
    pub(super) fn complaint(&self) -> String {
        self.verdict.offences.join("\n")
    }
}

/// Says that this machine cannot do what the attack needs, so that nothing was proven.
pub(super) fn publish_impossible(seed: u64, attack: &Attack, why: &str) {
    let verdict = format!("*** NOT PROVEN HERE: it needs root, loop devices and xfs_io: {why}");
    publish(&json!({ "seed": seed, "fault": attack.fault, "verdict": verdict, "commit": commit() }).to_string());
}

/// Prints a line, and appends it to the file that `TIDEMILL_BREAKER_REPORT` names: what passes prints nothing else.
fn publish(line: &str) {
    println!("\n{line}");
    if let Some(path) = std::env::var_os("TIDEMILL_BREAKER_REPORT") {
        let file = std::fs::File::options().create(true).append(true).open(&path);
        file.and_then(|mut file| writeln!(file, "{line}"))
            .unwrap_or_else(|error| panic!("TIDEMILL_BREAKER_REPORT: {}: {error}", path.display()));
    }
}

/// Says how to see a failure again, and where to look, whether the verdict has found it or the program did not start.
pub(super) struct OnFailure {
    /// Whether the line was printed already.
    pub(super) is_told: bool,
    line: String,
    how: String,
}

impl OnFailure {
    pub(super) fn new(seed: u64, attack: &Attack, folder: &Folder) -> OnFailure {
        let verdict = "WRONG: it did not come to a verdict";
        let line = json!({ "seed": seed, "fault": attack.fault, "verdict": verdict, "commit": commit() });
        let how = format!(
            "again: TIDEMILL_SEED={seed} cargo test --workspace --test all breaker::{}\n\
             data folder (or disk.ext4, which holds it: mount -o loop), ledgers and stderr: {}",
            attack.test,
            folder.path().display()
        );
        OnFailure { is_told: false, line: line.to_string(), how }
    }
}

impl Drop for OnFailure {
    fn drop(&mut self) {
        if std::thread::panicking() {
            if !self.is_told {
                println!("\n{}", self.line);
            }
            println!("{}", self.how);
        }
    }
}

/// Returns the commit that is checked out, if this is a clone.
fn commit() -> Option<String> {
    let git = Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12"]).output().ok()?;
    git.status.success().then(|| String::from_utf8_lossy(&git.stdout).trim().to_owned())
}
