//! Windows equal the reference model on random logs, at any number of workers.
//!
//! The model is `windows.py`, sixty lines that share no code with the engine. A failure prints its seed and the smallest
//! log that still fails; `TIDEMILL_SEED=<seed> cargo test --workspace --test all oracle` starts with that log.

mod case;
mod engine;
mod model;

use case::Case;
use engine::run_engine;
use model::Model;

/// Logs tried by one run of the test.
const CASES: u64 = 2_000;
/// Numbers of worker threads that must give the same.
const WORKERS: [usize; 3] = [1, 2, 4];

#[test]
fn windows_equal_the_reference_model_on_2000_random_logs_with_1_2_and_4_workers() {
    let first = std::env::var("TIDEMILL_SEED").map_or(1, |seed| seed.parse().expect("TIDEMILL_SEED is a number"));
    let mut model = Model::start();
    let mut seen = Seen::default();
    for seed in first..first + CASES {
        let case = Case::random(seed);
        if let Some(difference) = difference(&mut model, &case, &mut seen) {
            let smallest = case.shrink(|smaller| self::difference(&mut model, smaller, &mut Seen::default()).is_some());
            let smaller_difference = self::difference(&mut model, &smallest, &mut Seen::default());
            panic!(
                "seed {seed}: {difference}\nthe smallest log that differs:\n{}\n{}",
                smallest.to_json(),
                smaller_difference.unwrap_or_default()
            );
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

/// Returns how the engine differs from the model, if it does.
fn difference(model: &mut Model, case: &Case, seen: &mut Seen) -> Option<String> {
    let expected = model.run(case);
    seen.windows += expected.table.len() as u64;
    seen.late += expected.late.len() as u64;
    seen.quarantined += expected.quarantined.len() as u64;
    seen.idle_cases += u64::from(case.idle_us.is_some());
    seen.hopping_cases += u64::from(case.slide_us.is_some());
    seen.unfinished += u64::from(!case.flush);
    WORKERS.iter().find_map(|workers| {
        let found = run_engine(case, *workers);
        (found != expected).then(|| format!("with {workers} workers\n  model  {expected:?}\n  engine {found:?}"))
    })
}
