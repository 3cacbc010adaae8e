//! A log to try: made from a seed, told as JSON, and cut down when it fails.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tidemill_engine::testing::{EpochInput, Event, WindowCase};
use tidemill_engine::window::WindowAssigner;

/// Makes a log: a few devices on a few partitions, out of order, some late, some from the future, some silent.
pub(super) fn random(seed: u64) -> WindowCase {
    let mut dice = StdRng::seed_from_u64(seed);
    // Microseconds, milliseconds and seconds; around zero, before 1970, and today.
    let unit = [1, 1_000, 1_000_000][dice.random_range(0..3)];
    let origin = [0, -37, -1_000, 1_767_225_600][dice.random_range(0..4)] * unit;
    let size = dice.random_range(1..=20);
    // Overlapping, side by side and with gaps; often no multiple of each other.
    let slide = dice.random_bool(0.5).then(|| dice.random_range(1..=25));
    let delay = [0, dice.random_range(0..=15)][dice.random_range(0..2)];
    let idle = dice.random_bool(0.4).then(|| dice.random_range(0..=30));
    let ahead = dice.random_bool(0.4).then(|| dice.random_range(0..=40));
    let partitions: u32 = dice.random_range(1..=3);
    let keys = dice.random_range(1..=5);
    let silent_from = dice.random_bool(0.5).then(|| (dice.random_range(0..partitions), dice.random_range(0..8)));

    let mut now = 0;
    let mut epochs = Vec::new();
    for number in 0..dice.random_range(1..=12) {
        let before = now;
        now += if dice.random_bool(0.1) { dice.random_range(30..=80) } else { dice.random_range(0..=12) };
        let mut events = Vec::new();
        let count = if dice.random_bool(0.15) { 0 } else { dice.random_range(1..=12) };
        for _ in 0..count {
            let partition = dice.random_range(0..partitions);
            if silent_from.is_some_and(|(silent, from)| silent == partition && number >= from) {
                continue;
            }
            let arrival = dice.random_range(before..=now);
            let offset = match dice.random_range(0..100) {
                0..3 => dice.random_range(41..=500),
                3..20 => -dice.random_range(10..=60),
                _ => dice.random_range(-8..=4),
            };
            // Below the unit too, so that borders are not always hit exactly.
            let fine = if dice.random_bool(0.3) { dice.random_range(0..unit) } else { 0 };
            events.push(Event {
                partition,
                key: format!("k{}", dice.random_range(0..keys)),
                time_us: origin + (arrival + offset) * unit + fine,
                arrival_us: origin + arrival * unit,
                value: dice.random_range(-9..=9),
            });
        }
        epochs.push(EpochInput { now_us: origin + now * unit, events });
    }
    WindowCase {
        assigner: match slide {
            None => WindowAssigner::Tumbling { size_us: size * unit },
            Some(slide) => WindowAssigner::Hopping { size_us: size * unit, slide_us: slide * unit },
        },
        delay_us: delay * unit,
        idle_after_us: idle.map(|idle| idle * unit),
        future_limit_us: ahead.map(|ahead| ahead * unit),
        epochs,
        flush: dice.random_bool(0.5),
    }
}

/// Tells the case as `windows.py` reads it.
pub(super) fn to_json(case: &WindowCase) -> Value {
    let epochs: Vec<Value> = (case.epochs.iter())
        .map(|epoch| {
            let events: Vec<Value> = (epoch.events.iter())
                .map(|event| json!([event.partition, event.key, event.time_us, event.arrival_us, event.value]))
                .collect();
            json!([epoch.now_us, events])
        })
        .collect();
    let window = match case.assigner {
        WindowAssigner::Tumbling { size_us } => json!(["tumble", size_us]),
        WindowAssigner::Hopping { size_us, slide_us } => json!(["hop", size_us, slide_us]),
    };
    json!({
        "epochs": epochs, "window": window, "delay": case.delay_us,
        "idle": case.idle_after_us, "ahead": case.future_limit_us, "flush": case.flush,
    })
}

/// Returns this case with one epoch or one event less, in all ways.
pub(super) fn smaller(case: &WindowCase) -> Vec<WindowCase> {
    let without_epoch = (0..case.epochs.len()).map(|epoch| {
        let mut smaller = case.clone();
        smaller.epochs.remove(epoch);
        smaller
    });
    let events =
        (0..case.epochs.len()).flat_map(|epoch| (0..case.epochs[epoch].events.len()).map(move |event| (epoch, event)));
    let without_event = events.map(|(epoch, event)| {
        let mut smaller = case.clone();
        smaller.epochs[epoch].events.remove(event);
        smaller
    });
    without_epoch.chain(without_event).collect()
}
