//! Windows equal the reference model on random logs, at any number of workers.
//!
//! The model is `windows.py`, sixty lines that share no code with the engine. A failure prints its seed and the smallest
//! log that still fails; `TIDEMILL_SEED=<seed> cargo test --workspace --test all oracle` starts with that log.

mod case;
mod model;

use model::Model;
use tidemill_engine::testing::{self, WindowCase, WindowOutcome};
use tidemill_engine::window::WindowAssigner;

/// Logs tried by one run of the test.
const CASES: u64 = 2_000;
/// Numbers of worker threads that must give the same.
const WORKERS: [usize; 3] = [1, 2, 4];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_equal_the_reference_model_on_2000_random_logs_with_1_2_and_4_workers() {
    let first = std::env::var("TIDEMILL_SEED").map_or(1, |seed| seed.parse().expect("TIDEMILL_SEED is a number"));
    let mut model = Model::start();
    let mut seen = Seen::default();
    for seed in first..first + CASES {
        let case = case::random(seed);
        seen.count(&case, &model.run(&case));
        if let Some(difference) = difference(&mut model, &case).await {
            let smallest = shrink(&mut model, case).await;
            let still = self::difference(&mut model, &smallest).await.unwrap_or_default();
            panic!("seed {seed}: {difference}\nthe smallest log that differs:\n{}\n{still}", case::to_json(&smallest));
        }
    }
    // A generator that never makes a log late or empty proves less than it says.
    eprintln!("oracle: {CASES} logs from seed {first}: {seen:?}");
    assert!(seen.windows > CASES && seen.late > CASES / 2 && seen.quarantined > CASES / 10, "{seen:?}");
    assert!(seen.idle_cases > CASES / 10 && seen.hopping_cases > CASES / 4 && seen.unfinished > CASES / 10, "{seen:?}");
}

/// What the logs of a run held, all in all.
#[derive(Debug, Default)]
struct Seen {
    windows: u64,
    late: u64,
    quarantined: u64,
    idle_cases: u64,
    hopping_cases: u64,
    unfinished: u64,
}

impl Seen {
    fn count(&mut self, case: &WindowCase, expected: &WindowOutcome) {
        self.windows += expected.windows.len() as u64;
        self.late += expected.late.len() as u64;
        self.quarantined += expected.quarantined.len() as u64;
        self.idle_cases += u64::from(case.idle_after_us.is_some());
        self.hopping_cases += u64::from(matches!(case.assigner, WindowAssigner::Hopping { .. }));
        self.unfinished += u64::from(!case.flush);
    }
}

/// Returns how the engine differs from the model, if it does.
async fn difference(model: &mut Model, case: &WindowCase) -> Option<String> {
    let expected = Ok(model.run(case));
    for workers in WORKERS {
        let found = run_engine(case, workers).await;
        if found != expected {
            return Some(format!("with {workers} workers\n  model  {expected:?}\n  engine {found:?}"));
        }
    }
    None
}

/// Runs a case as a real ingest log in memory, replayed by a real job. A job that fails is an outcome like no other.
async fn run_engine(case: &WindowCase, workers: usize) -> Result<WindowOutcome, String> {
    let found = testing::run_windows(case, workers).await.map_err(|error| error.to_string())?;
    // At the end of its input the engine's watermark stands at the end of time; the model's stays where it was.
    let watermark = if case.flush { None } else { found.watermark };
    Ok(WindowOutcome { watermark, ..found })
}

/// Leaves out epochs, then events, as long as the case still differs.
async fn shrink(model: &mut Model, mut smallest: WindowCase) -> WindowCase {
    'smaller: loop {
        for case in case::smaller(&smallest) {
            if difference(model, &case).await.is_some() {
                smallest = case;
                continue 'smaller;
            }
        }
        return smallest;
    }
}
