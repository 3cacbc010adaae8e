//! What travels between operators: whole batches of columns.
//!
//! Inside a process a container moves by pointer. Between processes it is written as Arrow IPC streams, each with
//! its length in front and padded to eight bytes:
//!
//! ```text
//!   [length u64][IPC stream][padding] …
//! ```
//! In front of them stands the [`LogPlace`], as three words.

use std::io::Write;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array, UInt64Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{Field, Schema};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use timely::Accountable;
use timely::bytes::arc::Bytes;
use timely::dataflow::channels::ContainerBytes;

use crate::epoch::Epoch;
use crate::source::Offset;

/// Where a batch of a source's own rows stands in the log. Places are ordered as the log is; within a batch, rows are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LogPlace {
    /// The first message of the piece of the log that was decoded at once.
    pub(crate) first: Offset,
    /// Which of the batches that came of it.
    pub(crate) batch: u64,
    /// Recorded time of arrival, microseconds.
    pub(crate) arrival_us: i64,
}

const PLACE_BYTES: usize = 24;

impl LogPlace {
    fn to_bytes(self) -> [u8; PLACE_BYTES] {
        let mut bytes = [0; PLACE_BYTES];
        for (word, value) in bytes.chunks_exact_mut(8).zip([self.first.0, self.batch, self.arrival_us as u64]) {
            word.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    /// Reads what [`LogPlace::to_bytes`] wrote; returns the rest, too.
    fn from_bytes(bytes: &[u8]) -> (LogPlace, &[u8]) {
        let (place, rest) = bytes.split_at(PLACE_BYTES);
        let mut words = place.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")));
        let mut word = || words.next().expect("three words");
        (LogPlace { first: Offset(word()), batch: word(), arrival_us: word() as i64 }, rest)
    }
}

/// Rows on their way to the next operator.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rows {
    pub(crate) batch: Option<RecordBatch>,
    /// Where they stand in the log, if they are rows of a source, or computed from each row by itself.
    pub(crate) place: LogPlace,
}

/// Rows on their way to a table: those of an epoch that stand nowhere in the log have one place, and the order in which they
/// came.
pub(crate) type TableRows = (Epoch, LogPlace, RecordBatch);

impl Rows {
    /// Makes rows that stand nowhere in the log any more.
    pub(crate) fn new(batch: RecordBatch) -> Rows {
        Rows { batch: Some(batch), place: LogPlace::default() }
    }
}

impl Accountable for Rows {
    fn record_count(&self) -> i64 {
        self.batch.as_ref().map_or(0, |batch| batch.num_rows() as i64)
    }
}

impl ContainerBytes for Rows {
    fn from_bytes(bytes: Bytes) -> Self {
        let (place, rest) = LogPlace::from_bytes(&bytes);
        Rows { batch: decode(rest).pop(), place }
    }

    fn length_in_bytes(&self) -> usize {
        PLACE_BYTES + encoded_bytes(self.batch.as_slice())
    }

    fn into_bytes<W: Write>(&self, writer: &mut W) {
        writer.write_all(&self.place.to_bytes()).expect("timely reserved the space");
        encode(self.batch.as_slice(), writer);
    }
}

/// Rows with their keys, on their way to the worker that owns the keys.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keyed {
    pub(crate) batch: Option<Arc<KeyedBatch>>,
    /// The rows that belong to the receiver; `None`: all of them.
    pub(crate) selection: Option<Vec<u32>>,
}

/// Everything a keyed operator needs of a batch, evaluated before the exchange.
#[derive(Debug)]
pub(crate) struct KeyedBatch {
    /// Where the rows stand in the log, if they come from a source directly.
    pub(crate) place: LogPlace,
    /// The key of each row, as one column.
    pub(crate) keys: ArrayRef,
    /// The hash of each key.
    pub(crate) hashes: Vec<u64>,
    /// The time of each row, microseconds.
    pub(crate) times_us: Int64Array,
    /// Of a window, the arguments of its aggregates. Of a deduplication, which rows have no key, if some have none.
    pub(crate) arguments: Vec<ArrayRef>,
    /// The rows as they came in.
    pub(crate) origin: RecordBatch,
}

impl Accountable for Keyed {
    fn record_count(&self) -> i64 {
        match (&self.batch, &self.selection) {
            (None, _) => 0,
            (Some(_), Some(selection)) => selection.len() as i64,
            (Some(batch), None) => batch.hashes.len() as i64,
        }
    }
}

impl Keyed {
    /// Writes keys, times and arguments as one batch, and the origin as another, each cut to the selection.
    fn to_batches(&self) -> Vec<RecordBatch> {
        let Some(batch) = &self.batch else { return Vec::new() };
        let mut columns: Vec<ArrayRef> = vec![
            Arc::clone(&batch.keys),
            Arc::new(UInt64Array::from(batch.hashes.clone())),
            Arc::new(batch.times_us.clone()),
        ];
        columns.extend(batch.arguments.iter().cloned());
        let named = |(at, column): (usize, &ArrayRef)| Field::new(at.to_string(), column.data_type().clone(), true);
        let schema = Schema::new(columns.iter().enumerate().map(named).collect::<Vec<_>>());
        let keyed = RecordBatch::try_new(Arc::new(schema), columns).expect("columns of one batch have one length");
        match &self.selection {
            None => vec![keyed, batch.origin.clone()],
            Some(selection) => {
                let rows = UInt32Array::from(selection.clone());
                [&keyed, &batch.origin]
                    .map(|batch| take_record_batch(batch, &rows).expect("rows of the batch"))
                    .to_vec()
            }
        }
    }
}

impl ContainerBytes for Keyed {
    fn from_bytes(bytes: Bytes) -> Self {
        let (place, rest) = LogPlace::from_bytes(&bytes);
        let mut batches = decode(rest).into_iter();
        let (Some(keyed), Some(origin)) = (batches.next(), batches.next()) else { return Keyed::default() };
        let batch = KeyedBatch {
            place,
            keys: Arc::clone(keyed.column(0)),
            hashes: keyed.column(1).as_primitive::<arrow::datatypes::UInt64Type>().values().to_vec(),
            times_us: keyed.column(2).as_primitive::<arrow::datatypes::Int64Type>().clone(),
            arguments: keyed.columns()[3..].to_vec(),
            origin,
        };
        Keyed { batch: Some(Arc::new(batch)), selection: None }
    }

    fn length_in_bytes(&self) -> usize {
        PLACE_BYTES + encoded_bytes(&self.to_batches())
    }

    fn into_bytes<W: Write>(&self, writer: &mut W) {
        let place = self.batch.as_ref().map_or_else(LogPlace::default, |batch| batch.place);
        writer.write_all(&place.to_bytes()).expect("timely reserved the space");
        encode(&self.to_batches(), writer);
    }
}

/// Counts bytes without keeping them.
struct Counter(usize);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn encoded_bytes(batches: &[RecordBatch]) -> usize {
    let mut counter = Counter(0);
    encode(batches, &mut counter);
    counter.0
}

fn encode<W: Write>(batches: &[RecordBatch], writer: &mut W) {
    for batch in batches {
        let mut stream = Vec::new();
        let mut ipc = StreamWriter::try_new(&mut stream, &batch.schema()).expect("the engine's types can be written");
        ipc.write(batch).and_then(|()| ipc.finish()).expect("writing to memory");
        writer.write_all(&(stream.len() as u64).to_le_bytes()).expect("timely reserved the space");
        stream.resize(stream.len().next_multiple_of(8), 0);
        writer.write_all(&stream).expect("timely reserved the space");
    }
}

fn decode(mut bytes: &[u8]) -> Vec<RecordBatch> {
    let mut batches = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<8>() {
        let length = u64::from_le_bytes(*length) as usize;
        let reader = StreamReader::try_new(&rest[..length], None).expect("written by a worker of this job");
        let schema = reader.schema();
        let parts: Vec<RecordBatch> = reader.collect::<Result<_, _>>().expect("written by a worker of this job");
        batches.push(concat_batches(&schema, &parts).expect("parts of one batch"));
        bytes = &rest[length.next_multiple_of(8)..];
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float64Array, StringViewArray};

    #[test]
    fn keyed_rows_survive_the_way_to_another_process() {
        let keys: ArrayRef = Arc::new(StringViewArray::from(vec!["a", "a key of more than twelve bytes", "c"]));
        let origin = RecordBatch::try_from_iter([("device", Arc::clone(&keys))]).expect("one column");
        let batch = KeyedBatch {
            place: LogPlace { first: Offset(7), batch: 2, arrival_us: -5 },
            keys,
            hashes: vec![1, 2, 3],
            times_us: Int64Array::from(vec![10, 20, 30]),
            arguments: vec![Arc::new(Float64Array::from(vec![Some(0.5), None, Some(2.5)]))],
            origin,
        };
        for (selection, expected) in [(None, vec![0, 1, 2]), (Some(vec![1]), vec![1])] {
            let keyed = Keyed {
                batch: Some(Arc::new(KeyedBatch { origin: batch.origin.clone(), ..clone(&batch) })),
                selection,
            };
            let mut bytes = Vec::new();
            keyed.into_bytes(&mut bytes);
            assert_eq!(bytes.len(), keyed.length_in_bytes());
            let length = bytes.len();
            let back = Keyed::from_bytes(timely::bytes::arc::BytesMut::from(bytes).freeze().extract_to(length));
            assert_eq!(back.record_count(), keyed.record_count());
            let back = back.batch.expect("rows");
            assert_eq!(back.place, batch.place);
            let hashes: Vec<u64> = expected.iter().map(|row| batch.hashes[*row as usize]).collect();
            assert_eq!(back.hashes, hashes);
            let rows = UInt32Array::from(expected);
            assert_eq!(back.origin, take_record_batch(&batch.origin, &rows).expect("rows"));
        }
    }

    fn clone(batch: &KeyedBatch) -> KeyedBatch {
        KeyedBatch {
            place: batch.place,
            keys: Arc::clone(&batch.keys),
            hashes: batch.hashes.clone(),
            times_us: batch.times_us.clone(),
            arguments: batch.arguments.clone(),
            origin: batch.origin.clone(),
        }
    }
}
