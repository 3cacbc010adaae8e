//! The order in which rows leave: that of the log, on any number of workers.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type, Schema};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::epoch::Epoch;
use crate::expr::{Column, Expr, ExprError};
use crate::ingest::{PartitionId, Record};
use crate::plan::{Operator, Plan};
use crate::source::{Message, Offset};
use crate::testing::{event_schema, event_source, replay};

const PARTITIONS: u32 = 3;

/// Whether the third column is no multiple of seven.
#[derive(Debug)]
struct NoSeventh;

impl fmt::Display for NoSeventh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("value % 7 <> 0")
    }
}

impl Expr for NoSeventh {
    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef, ExprError> {
        let values = batch.column(2).as_primitive::<Int64Type>().values();
        Ok(Arc::new(BooleanArray::from(values.iter().map(|value| value % 7 != 0).collect::<Vec<_>>())))
    }

    fn data_type(&self, _: &Schema) -> DataType {
        DataType::Boolean
    }

    fn nullable(&self, _: &Schema) -> bool {
        false
    }
}

/// Rows of a source as they are, and rows that are computed from each by itself.
fn plan() -> Plan {
    let mut plan = Plan::default();
    let input = plan.push(event_schema(), Operator::Source(event_source()));
    plan.push(event_schema(), Operator::Table { input, name: "all".to_owned() });
    let some = plan.push(event_schema(), Operator::Filter { input, predicate: Arc::new(NoSeventh) });
    let value = Arc::new(Schema::new(vec![event_schema().field(2).clone()]));
    let columns: Vec<Arc<dyn Expr>> = vec![Arc::new(Column { index: 2, name: "value".to_owned() })];
    let values = plan.push(Arc::clone(&value), Operator::Project { input: some, columns });
    plan.push(value, Operator::Table { input: values, name: "some".to_owned() });
    plan
}

/// Pieces of very different sizes: the worker that gets the small ones is ahead of the others. The values ascend.
fn log(dice: &mut StdRng) -> Vec<Record> {
    let open = |partition| Record::Open {
        partition: PartitionId(partition),
        source: "events".to_owned(),
        name: partition.to_string(),
    };
    let mut records: Vec<Record> = (0..PARTITIONS).map(open).collect();
    let mut first = 0_u64;
    for epoch in 1..=4 {
        for piece in 0..30 {
            let count = if dice.random_bool(0.5) { dice.random_range(1..4) } else { dice.random_range(500..1_500) };
            records.push(Record::Messages {
                partition: PartitionId(dice.random_range(0..PARTITIONS)),
                arrival_us: epoch * 1_000 + piece,
                first: Offset(first),
                messages: (first..first + count).map(|n| Message::new("", format!("k,{n},{n}"))).collect(),
                notes: Vec::new(),
            });
            first += count;
        }
        records.push(Record::Seal { epoch: Epoch(epoch as u64), now_us: epoch * 1_000 + 500, checkpoint: false });
    }
    records
}

/// What a sink sends on as the last value of a key has to be the last one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_leave_in_the_order_of_the_log_with_any_number_of_workers() {
    for seed in 0..5 {
        let records = log(&mut StdRng::seed_from_u64(seed));
        for workers in [1, 2, 4] {
            let (tables, _) = replay(plan(), &records, workers).await.expect("runs");
            for (name, column) in [("all", 2), ("some", 0)] {
                let values =
                    tables[name].iter().flat_map(|rows| rows.column(column).as_primitive::<Int64Type>().values());
                let values: Vec<i64> = values.copied().collect();
                assert!(values.len() > 10_000, "{}", values.len());
                assert!(values.is_sorted(), "{name}, seed {seed}, {workers} workers");
            }
        }
    }
}
