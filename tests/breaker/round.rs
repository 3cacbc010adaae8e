//! One round: a data folder, a load, faults, and the verdict.

use std::path::Path;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::kept_log::KeptLog;
use super::load::Load;
use super::report::{OnFailure, Report};
use super::{Attack, sources, verdict};
use crate::harness::disk::Disk;
use crate::harness::folder::Folder;
use crate::harness::program::{Program, Serve, free_port};
use crate::harness::wait::while_it_moves;

/// Intervals of commits, from start to start: from much overlap to whole epochs in memory only.
const COMMITS_MS: [u64; 3] = [50, 200, 1_000];
/// Intervals of checkpoints, in the same way.
const CHECKPOINTS_MS: [u64; 4] = [100, 500, 2_000, 10_000];
const WORKERS_MAX: usize = 4;
/// Attempts to start while a disk fails, about.
const ATTEMPTS_OF_A_FAILURE: u64 = 4;
/// How long no more readings may be acknowledged, while some are missing.
const ROWS_STILL_MAX: Duration = Duration::from_secs(120);

/// A program to be broken, and all around it.
pub(super) struct Scene {
    /// When and where it breaks.
    pub(super) dice: StdRng,
    serve: Serve,
    load: Load,
    disk: Option<Disk>,
    kept_log: KeptLog,
    starts: u64,
    kills: u64,
    losses: u64,
    disk_failures: u64,
    ready_ms: Vec<u64>,
}

impl Scene {
    fn new(folder: &Folder, disk: Option<Disk>, seed: u64) -> Scene {
        let mqtt = free_port();
        let mut serve = Serve::new(folder, &sources::pipeline(mqtt));
        if let Some(disk) = &disk {
            serve.data = disk.mounted_at.join("data");
        }
        let load = Load::begin(mqtt, serve.http, &folder.join("ledgers"), seed);
        let dice = StdRng::seed_from_u64(seed);
        let kept_log = KeptLog::begin(serve.data.join("log"), folder.join("kept-log"));
        Scene {
            dice,
            serve,
            load,
            disk,
            kept_log,
            starts: 0,
            kills: 0,
            losses: 0,
            disk_failures: 0,
            ready_ms: Vec::new(),
        }
    }

    /// Starts the program, with other numbers of threads and other intervals than the last time.
    pub(super) fn start(&mut self) -> Program {
        self.serve.workers = self.dice.random_range(1..=WORKERS_MAX);
        self.serve.commit = Duration::from_millis(COMMITS_MS[self.dice.random_range(0..COMMITS_MS.len())]);
        let checkpoint_ms = CHECKPOINTS_MS[self.dice.random_range(0..CHECKPOINTS_MS.len())];
        let checkpoint = ("TIDEMILL__DURABILITY__CHECKPOINT".to_owned(), format!("{checkpoint_ms}ms"));
        let writers = ("TIDEMILL__TABLES__WRITERS".to_owned(), self.dice.random_range(1..=2).to_string());
        self.serve.environment = vec![checkpoint, writers];
        self.starts += 1;
        self.load.shared().starting();
        self.serve.start()
    }

    /// Starts the program and waits until its sources run.
    pub(super) async fn start_ready(&mut self) -> Program {
        let begin = Instant::now();
        let mut program = self.start();
        program.ready().await;
        self.ready_ms.push(begin.elapsed().as_millis() as u64);
        program
    }

    /// Kills the program, unless it has just ended well: somebody may have asked it to.
    pub(super) fn kill(&mut self, program: Program) {
        let ended = program.kill9();
        assert!(ended.code().is_none_or(|code| code == 0), "the program ended by itself: {ended}");
        self.kills += u64::from(ended.code().is_none());
        self.died();
    }

    /// Takes the power away, and gives it back once the program is dead.
    pub(super) async fn lose_power(&mut self, program: Program) {
        let disk = self.disk.as_ref().expect("a round with power losses has its own disk");
        self.kept_log.hold(true);
        disk.strike(program).await;
        self.kept_log.hold(false);
        self.losses += 1;
        self.died();
    }

    /// Lets a program end well that has lived through a failure of its disk.
    pub(super) async fn stop_after_disk_failure(&mut self, program: Program) {
        program.stop().await;
        self.disk_failures += 1;
        // Each attempt of it was a start, and may have left files for nobody.
        self.starts += ATTEMPTS_OF_A_FAILURE;
        self.died();
    }

    /// Returns the data folder.
    pub(super) fn data(&self) -> &Path {
        &self.serve.data
    }

    /// Returns the round's own disk.
    pub(super) fn disk(&self) -> &Disk {
        self.disk.as_ref().expect("a round with full disks has its own")
    }

    /// Returns how many readings were acknowledged.
    pub(super) fn acknowledged(&self) -> u64 {
        self.load.shared().acknowledged().iter().sum()
    }

    fn died(&self) {
        self.load.shared().died();
        self.kept_log.keep();
    }

    /// Counts what the round is about: where power is lost, kills are only by the way.
    fn struck(&self) -> u64 {
        match (self.disk_failures, &self.disk) {
            (1.., _) => self.disk_failures,
            (0, Some(_)) => self.losses,
            (0, None) => self.kills,
        }
    }

    /// Starts the program a last time, lets it take the rows that are missing, stops it, and judges.
    async fn end(mut self, folder: &Folder, rows: u64, mut report: Report) -> Report {
        let begin = Instant::now();
        let program = self.start_ready().await;
        while_it_moves(&format!("{rows} readings are acknowledged"), ROWS_STILL_MAX, async || {
            assert!(self.load.is_running(), "a sender has ended before its time; it says why above");
            let so_far = self.acknowledged();
            if so_far >= rows { Ok(()) } else { Err(so_far) }
        })
        .await;
        let shared = self.load.end().await;
        program.http.quiet().await;
        program.stop().await;
        let kept_log = self.kept_log.keep();
        let ended = Instant::now();

        let verdict = verdict::on(&self.serve.data.join("tables"), &folder.join("ledgers"), &kept_log, self.starts);
        report.kills = self.kills;
        report.losses = self.losses;
        report.disk_failures = self.disk_failures;
        report.acknowledged = shared.acknowledged().iter().sum();
        report.ready_ms = self.ready_ms;
        report.ms_to_first_ack_max = shared.first_acknowledgement_ms_max();
        report.judge(verdict);
        eprintln!(
            "breaker: seed {}: {} requests came again that were stored; faults and load {:.1} s, of which the end {:.1} s; \
             verdict {:.1} s",
            report.seed,
            shared.repeats(),
            (ended - report.begin).as_secs_f32(),
            (ended - begin).as_secs_f32(),
            ended.elapsed().as_secs_f32()
        );
        report
    }
}

/// Runs a round; `Err` says why this machine cannot.
pub(super) async fn run(attack: &Attack, seed: u64, faults: u64, rows: u64) -> Result<Report, String> {
    let folder = Folder::new();
    let report = Report::new(seed, attack.fault);
    let mut on_failure = OnFailure::new(seed, attack, &folder);
    let disk_bytes = attack.faults.iter().find_map(|fault| fault.disk_bytes());
    let disk = disk_bytes.map(|bytes| Disk::make(&folder, bytes)).transpose()?;
    let mut scene = Scene::new(&folder, disk, seed);
    for fault in attack.faults.iter().cycle() {
        if scene.struck() >= faults {
            break;
        }
        fault.strike(&mut scene).await;
    }
    let report = scene.end(&folder, rows, report).await;
    report.print();
    on_failure.is_told = true;
    assert!(report.is_clean(), "{}", report.complaint());
    Ok(report)
}
