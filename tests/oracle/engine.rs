//! The engine under test: a case as a real ingest log in memory, replayed by a real job.

use tidemill_engine::testing::{self, EpochInput, WindowCase};
use tidemill_engine::window::WindowAssigner;

use super::case::Case;
use super::model::{Aggregates, Outcome};

/// Runs a case on a number of workers. A job that fails is an outcome like no other.
pub(super) async fn run_engine(case: &Case, workers: usize) -> Result<Outcome, String> {
    let found = testing::run_windows(&window_case(case), workers).await.map_err(|error| error.to_string())?;
    let table = found.windows.into_iter().map(|(place, window)| {
        let testing::WindowResult { count, sum, min, max, avg } = window;
        (place, Aggregates { count, sum, min, max, avg })
    });
    Ok(Outcome {
        table: table.collect(),
        late: found.late,
        quarantined: found.quarantined,
        // At the end of its input the engine's watermark stands at the end of time; the model's stays where it was.
        watermark: if case.flush { None } else { found.watermark },
    })
}

fn window_case(case: &Case) -> WindowCase {
    let epochs = case.epochs.iter().map(|epoch| EpochInput {
        now_us: epoch.now_us,
        events: (epoch.events.iter())
            .map(|event| testing::Event {
                partition: event.partition,
                key: event.key.clone(),
                time_us: event.ts_us,
                arrival_us: event.arrival_us,
                value: event.value,
            })
            .collect(),
    });
    WindowCase {
        assigner: match case.slide_us {
            None => WindowAssigner::Tumbling { size_us: case.size_us },
            Some(slide_us) => WindowAssigner::Hopping { size_us: case.size_us, slide_us },
        },
        delay_us: case.delay_us,
        idle_after_us: case.idle_us,
        future_limit_us: case.ahead_us,
        flush: case.flush,
        epochs: epochs.collect(),
    }
}
