//! A deduplicated source in a whole job: the same rows on any number of workers, decided by the order of the log.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::dedup::model::{Fate, Model};
use crate::epoch::Epoch;
use crate::ingest::{PartitionId, Record};
use crate::plan::{DedupNode, EventTimeNode, Operator, Plan, SourceNode};
use crate::source::{Message, Offset};
use crate::testing::{event_schema, event_source, replay};
use crate::time::Watermark;

/// A row of the log: key, event time, and a number of its own, by which copies are told apart.
type Event = (String, i64, i64);

fn plan(within_us: i64, delay_us: Option<i64>) -> Plan {
    let mut plan = Plan::default();
    let event_time =
        delay_us.map(|delay_us| EventTimeNode { column: 1, delay_us, idle_after_us: None, future_limit_us: None });
    let source = SourceNode { event_time, ..event_source() };
    let input = plan.push(event_schema(), Operator::Source(source));
    let late_table = event_time.map(|_| "events$late".to_owned());
    let dedup = DedupNode { identity: "dedup".to_owned(), input, keys: vec![0], within_us, late_table };
    let once = plan.push(event_schema(), Operator::Dedup(dedup));
    plan.push(event_schema(), Operator::Table { input: once, name: "once".to_owned() });
    plan
}

/// An epoch of the log.
struct Sealed {
    now_us: i64,
    /// With their partition and time of arrival.
    events: Vec<(u32, i64, Event)>,
}

/// A random log, as records and as what they hold.
fn log(dice: &mut StdRng) -> (Vec<Record>, Vec<Sealed>) {
    let partitions = dice.random_range(1..4);
    let mut records: Vec<Record> = (0..partitions)
        .map(|partition| Record::Open {
            partition: PartitionId(partition),
            source: "events".to_owned(),
            name: partition.to_string(),
        })
        .collect();
    let (mut first, mut now_us, mut epochs) = (0, 1_000, Vec::new());
    for epoch in 1..=dice.random_range(3..8u64) {
        let mut events = Vec::new();
        for _ in 0..dice.random_range(0..8) {
            now_us += dice.random_range(0..20);
            let count = dice.random_range(1..6);
            let made: Vec<Event> = (first..first + count)
                .map(|number| (format!("k{}", dice.random_range(0..9)), now_us - dice.random_range(0..60), number))
                .collect();
            let partition = dice.random_range(0..partitions);
            records.push(Record::Messages {
                partition: PartitionId(partition),
                arrival_us: now_us,
                first: Offset(first as u64),
                messages: made
                    .iter()
                    .map(|(key, time, number)| Message::new("", format!("{key},{time},{number}")))
                    .collect(),
                notes: Vec::new(),
            });
            first += count;
            events.extend(made.into_iter().map(|event| (partition, now_us, event)));
        }
        records.push(Record::Seal { epoch: Epoch(epoch), now_us, checkpoint: false });
        epochs.push(Sealed { now_us, events });
    }
    (records, epochs)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_equal_events_the_first_in_the_log_counts_with_any_number_of_workers() {
    let (mut dropped, mut too_old) = (0, 0);
    for seed in 0..80 {
        let mut dice = StdRng::seed_from_u64(seed);
        let (records, epochs) = log(&mut dice);
        let delay_us = (seed % 2 == 0).then(|| dice.random_range(0..30));
        let within_us = dice.random_range(5..60);
        let mut model = Model::new(within_us);
        let (mut taken, mut late) = (Vec::new(), Vec::new());
        let mut greatest: BTreeMap<u32, i64> = BTreeMap::new();
        for Sealed { now_us, events } in &epochs {
            for (partition, arrival_us, event) in events {
                let greatest_us = greatest.entry(*partition).or_insert(event.1);
                *greatest_us = event.1.max(*greatest_us);
                match model.judge(Some(event.0.clone()), delay_us.map_or(*arrival_us, |_| event.1)) {
                    Fate::Taken => taken.push(event.clone()),
                    Fate::TooOld => late.push(event.clone()),
                    Fate::Repeat => dropped += 1,
                }
            }
            model.close(match delay_us {
                None => Watermark(*now_us),
                Some(delay_us) => {
                    let slowest = greatest.values().min().map(|us| Watermark(us - delay_us));
                    slowest.unwrap_or(Watermark::UNKNOWN)
                }
            });
        }
        too_old += late.len();
        taken.sort();
        for workers in [1, 2, 4] {
            let plan = plan(within_us, delay_us);
            let (tables, status) = replay(plan, &records, workers).await.expect("runs");
            let mut found: Vec<Event> = Vec::new();
            for batch in &tables["once"] {
                let (keys, times) =
                    (batch.column(0).as_string_view(), batch.column(1).as_primitive::<TimestampMicrosecondType>());
                let numbers = batch.column(2).as_primitive::<Int64Type>();
                found.extend(
                    (0..keys.len()).map(|row| (keys.value(row).to_owned(), times.value(row), numbers.value(row))),
                );
            }
            found.sort();
            assert_eq!(found, taken, "seed {seed}, {workers} workers");
            let counts = &status.dedups[0];
            let rows: usize = epochs.iter().map(|epoch| epoch.events.len()).sum();
            assert_eq!((counts.taken, counts.late), (taken.len() as u64, late.len() as u64));
            assert_eq!(counts.repeats, (rows - taken.len() - late.len()) as u64);
            if delay_us.is_some() {
                let rows: usize = tables["events$late"].iter().map(|batch| batch.num_rows()).sum();
                assert_eq!(rows, late.len());
            }
        }
    }
    assert!(dropped > 500 && too_old > 20, "only {dropped} repeats, and {too_old} too old to tell");
}
