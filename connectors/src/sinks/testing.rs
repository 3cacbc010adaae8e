//! An outbox with a destination, as the engine drives it.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringViewArray};
use arrow::datatypes::SchemaRef;
use tidemill_engine::clock::{Dice, ManualClock, SeededDice};
use tidemill_engine::epoch::Epoch;
use tidemill_engine::sink::{Committable, Sink, SinkError};
use tidemill_engine::storage::{MemoryStorage, Storage};

use crate::outbox::OutboxStatus;
use crate::{AddressPolicy, ConnectedSink, Context, HttpIngest, OptionError, Options, connect_sink};

/// Rows with numbers, of three devices in turn.
pub(crate) fn rows(numbers: std::ops::Range<i64>) -> RecordBatch {
    let devices: Vec<String> = numbers.clone().map(|n| format!("d{}", n % 3)).collect();
    let devices = Arc::new(StringViewArray::from_iter_values(devices)) as ArrayRef;
    let numbers = Arc::new(Int64Array::from_iter_values(numbers)) as ArrayRef;
    RecordBatch::try_from_iter([("n", numbers), ("device", devices)]).expect("columns fit")
}

/// A sink of such rows on a storage.
pub(crate) struct Opening {
    pub(crate) context: Context,
    pub(crate) sink: ConnectedSink,
}

/// Connects a sink of such rows; this machine may be connected to.
pub(crate) fn connected(
    storage: Arc<dyn Storage>,
    seed: u64,
    options: &[(&str, &str)],
) -> Result<Opening, OptionError> {
    let context = Context {
        storage,
        base_dir: std::env::temp_dir(),
        clock: Arc::new(ManualClock::at(1_700_000_000_000_000)),
        dice: Arc::new(SeededDice::new(seed)),
        http: HttpIngest::new(),
        local_brokers: Default::default(),
        network: AddressPolicy::parse("127.0.0.0/8").expect("good"),
    };
    let given = Options::new(options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    let schema: SchemaRef = rows(0..0).schema();
    let sink = connect_sink("alerts", &schema, given, &context)?;
    Ok(Opening { context, sink })
}

/// The same in memory.
pub(crate) fn in_memory(options: &[(&str, &str)]) -> Opening {
    connected(Arc::new(MemoryStorage::default()), 1, options).expect("good options")
}

impl Opening {
    /// Opens its outbox, and begins.
    pub(crate) fn begun(&self) -> Result<Box<dyn Sink>, SinkError> {
        let (storage, dice) = (Arc::clone(&self.context.storage), Arc::clone(&self.context.dice));
        let mut sink = self.sink.open(storage, "0123456789abcdef".to_owned(), "view".to_owned(), dice)?;
        sink.begin(Epoch::NONE)?;
        Ok(sink)
    }

    pub(crate) fn status(&self) -> OutboxStatus {
        self.sink.status("hot")
    }

    pub(crate) async fn until(&self, what: &str, is_so: impl Fn(&OutboxStatus) -> bool) -> OutboxStatus {
        for _ in 0..3_000 {
            let status = self.status();
            if is_so(&status) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not within 30 s: {what}: {:?}", self.status());
    }
}

/// Prepares rows for an epoch.
pub(crate) fn prepare(
    sink: &mut dyn Sink,
    epoch: u64,
    numbers: std::ops::Range<i64>,
) -> Result<Vec<Committable>, SinkError> {
    sink.writer(0).prepare(Epoch(epoch), &[(Epoch(epoch), rows(numbers))])
}

/// Prepares and commits rows.
pub(crate) fn commit(sink: &mut dyn Sink, epoch: u64, numbers: std::ops::Range<i64>) {
    let prepared = prepare(sink, epoch, numbers).expect("a disk that works");
    sink.commit(Epoch(epoch), &prepared).expect("a disk that works");
}

/// What has been decided over the lives of a sink that is stopped again and again.
#[derive(Default)]
pub(crate) struct Decided {
    last: Option<(u64, Vec<Committable>)>,
    /// How many rows count.
    pub(crate) rows: i64,
}

impl Decided {
    /// Opens, rolls forward what was decided, and commits a few epochs, until the disk stops. Behind one half of them the
    /// courier has its time, until `is_settled`: how many rows it finds when it looks does not depend on the machine.
    pub(crate) async fn live(
        &mut self,
        opening: &Opening,
        dice: &SeededDice,
        is_settled: impl Fn(&OutboxStatus) -> bool,
    ) -> Result<Box<dyn Sink>, SinkError> {
        let mut sink = opening.begun()?;
        if let Some((epoch, committables)) = self.last.as_ref() {
            sink.commit(Epoch(*epoch), committables)?;
        }
        sink.clean()?;
        for _ in 0..dice.roll() % 6 {
            self.commit(&mut *sink, dice)?;
            if dice.roll().is_multiple_of(2) {
                opening.until("what is committed is delivered", &is_settled).await;
            }
        }
        Ok(sink)
    }

    /// Commits one epoch more.
    pub(crate) fn commit(&mut self, sink: &mut dyn Sink, dice: &SeededDice) -> Result<(), SinkError> {
        let epoch = self.last.as_ref().map_or(1, |(epoch, _)| epoch + 1);
        let numbers = self.rows..self.rows + 1 + (dice.roll() % 20) as i64;
        let prepared = prepare(sink, epoch, numbers.clone())?;
        // From here on the epoch counts, whatever happens to the commit.
        self.rows = numbers.end;
        let (_, prepared) = self.last.insert((epoch, prepared));
        sink.commit(Epoch(epoch), prepared)
    }
}
