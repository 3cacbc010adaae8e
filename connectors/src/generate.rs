//! Generated rows: a fleet of devices that needs no network, for trying things out, tests and benchmarks.
//!
//! Every value is a pure function of the seed and the row's sequence number, so the log keeps ranges of sequence
//! numbers only, and a replay makes the same rows again. The columns are filled by their types:
//!
//! | type | value |
//! |---|---|
//! | text | the column's name and the key's number: `device-00017` |
//! | timestamp | `start + sequence * interval`, less up to `disorder` |
//! | floating point | a slow wave with a little noise, different for each key and column, two decimals |
//! | whole number | the sequence number |
//! | boolean | true for one row in eight |

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    ArrayRef, BooleanArray, Float32Array, Float64Array, Int8Array, Int16Array, Int32Array, Int64Array, RecordBatch,
    StringViewArray, TimestampMicrosecondArray, UInt32Array,
};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, SchemaRef, TimeUnit};
use tidemill_engine::source::{Chunk, Data, Intake, IntakeError, Resume, Source, SourceError, Stop};
use tidemill_engine::time::micros;

use crate::format::parse_time;
use crate::options::{OptionError, Options};
use crate::receipts::Receipts;

/// Rows of a chunk when nothing holds it back.
const CHUNK_ROWS: u64 = 32_768;
/// How often rows are made when a rate is set.
const PACE: Duration = Duration::from_millis(20);
/// Keys that may be asked for: each has its own name in memory.
const KEYS_MAX: u64 = 10_000_000;

/// The name of the one partition of a generator.
const PARTITION: &str = "generate";

/// What to generate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenerateOptions {
    /// How many rows; without end if `None`.
    pub rows: Option<u64>,
    /// How many each second; as fast as they are taken if `None`.
    pub rows_per_second: Option<u64>,
    /// Where all values follow from.
    pub seed: u64,
    /// How many devices.
    pub keys: u64,
    /// Event time of the first row.
    pub start_us: i64,
    /// Event time between two rows.
    pub interval_us: i64,
    /// How much earlier a row's event time may be than its place says.
    pub disorder_us: i64,
}

impl GenerateOptions {
    /// Takes the generator's options.
    pub fn take(options: &mut Options) -> Result<Self, OptionError> {
        const COUNT: &str = "a whole number";
        let start = options.take("start").unwrap_or_else(|| "2026-01-01T00:00:00Z".to_owned());
        let start_us = parse_time(&start).ok_or_else(|| {
            OptionError::new("start", format!("{start:?} is not a time such as 2026-01-01T00:00:00Z"))
        })?;
        let taken = GenerateOptions {
            rows: options.parse("rows", COUNT)?,
            rows_per_second: options.parse("rows_per_second", COUNT)?,
            seed: options.parse("seed", COUNT)?.unwrap_or(0),
            keys: options.parse("keys", COUNT)?.unwrap_or(50),
            start_us,
            interval_us: options.duration("interval")?.map_or(1_000, micros),
            disorder_us: options.duration("disorder")?.map_or(0, micros),
        };
        if taken.keys == 0 || taken.keys > KEYS_MAX {
            return Err(OptionError::new("keys", format!("{} is not between 1 and {KEYS_MAX}", taken.keys)));
        }
        if taken.rows_per_second == Some(0) {
            return Err(OptionError::new("rows_per_second", "0 would never send a row"));
        }
        Ok(taken)
    }
}

/// A source of generated rows. One partition, `generate`.
pub struct GenerateSource {
    maker: Arc<Maker>,
}

/// What the rows follow from.
struct Maker {
    options: GenerateOptions,
    schema: SchemaRef,
    /// The names of all keys for each text column; empty for the others.
    names: Vec<Option<ArrayRef>>,
}

impl GenerateSource {
    /// Makes a generator that fills the columns of `schema`.
    ///
    /// # Errors
    /// If a column has a type that cannot be generated.
    pub fn new(schema: &SchemaRef, options: GenerateOptions) -> Result<Self, OptionError> {
        let mut names = Vec::with_capacity(schema.fields().len());
        for field in schema.fields() {
            names.push(match field.data_type() {
                DataType::Utf8View => {
                    let names = (0..options.keys).map(|key| Some(format!("{}-{key:05}", field.name())));
                    Some(Arc::new(names.collect::<StringViewArray>()) as ArrayRef)
                }
                DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 | DataType::Boolean => None,
                DataType::Float32 | DataType::Float64 | DataType::Timestamp(TimeUnit::Microsecond, _) => None,
                other => {
                    return Err(OptionError::new(
                        "connector",
                        format!("column {} of type {other} cannot be generated", field.name()),
                    ));
                }
            });
        }
        Ok(GenerateSource { maker: Arc::new(Maker { options, schema: Arc::clone(schema), names }) })
    }

    /// Makes the rows with the sequence numbers `start..end`.
    pub fn rows(&self, start: u64, end: u64) -> RecordBatch {
        self.maker.rows(start, end)
    }
}

impl Maker {
    fn rows(&self, start: u64, end: u64) -> RecordBatch {
        let keys: Vec<u32> = (start..end).map(|sequence| (sequence % self.options.keys) as u32).collect();
        let keys = UInt32Array::from(keys);
        let columns = self.schema.fields().iter().enumerate().map(|(place, field)| match &self.names[place] {
            Some(names) => take(names, &keys, None).expect("keys are within their names"),
            None => self.numbers(place as u64, field, start, end),
        });
        RecordBatch::try_new(Arc::clone(&self.schema), columns.collect()).expect("columns follow the schema")
    }

    fn numbers(&self, place: u64, field: &Field, start: u64, end: u64) -> ArrayRef {
        let sequences = start..end;
        match field.data_type() {
            DataType::Timestamp(_, zone) => {
                let times = sequences.map(|sequence| self.event_time_us(sequence)).collect::<Vec<_>>();
                Arc::new(TimestampMicrosecondArray::from(times).with_timezone_opt(zone.clone()))
            }
            DataType::Float64 => {
                let wave = self.wave(place);
                Arc::new(Float64Array::from_iter_values(sequences.map(wave)))
            }
            DataType::Float32 => {
                let wave = self.wave(place);
                Arc::new(Float32Array::from_iter_values(sequences.map(|sequence| wave(sequence) as f32)))
            }
            DataType::Boolean => {
                let seed = mix(self.options.seed ^ place);
                Arc::new(BooleanArray::from(
                    sequences.map(|sequence| mix(seed ^ sequence).is_multiple_of(8)).collect::<Vec<_>>(),
                ))
            }
            // Smaller types wrap around: a counter of their width.
            DataType::Int64 => Arc::new(Int64Array::from_iter_values(sequences.map(|sequence| sequence as i64))),
            DataType::Int32 => Arc::new(Int32Array::from_iter_values(sequences.map(|sequence| sequence as i32))),
            DataType::Int16 => Arc::new(Int16Array::from_iter_values(sequences.map(|sequence| sequence as i16))),
            DataType::Int8 => Arc::new(Int8Array::from_iter_values(sequences.map(|sequence| sequence as i8))),
            other => unreachable!("{other} was refused when the source was made"),
        }
    }

    fn event_time_us(&self, sequence: u64) -> i64 {
        let options = &self.options;
        let on_time = options.start_us.saturating_add((sequence as i64).saturating_mul(options.interval_us));
        if options.disorder_us == 0 {
            return on_time;
        }
        let early = mix(mix(options.seed ^ DISORDER) ^ sequence) % (options.disorder_us as u64).saturating_add(1);
        on_time.saturating_sub(early as i64)
    }

    /// A wave for each key: its own level and phase, a period of some thousand of the key's rows, and noise.
    fn wave(&self, place: u64) -> impl Fn(u64) -> f64 {
        let seed = mix(self.options.seed ^ (place << 32));
        let keys = self.options.keys;
        move |sequence| {
            let (key, turn) = (sequence % keys, sequence / keys);
            let own = mix(seed ^ key);
            let level = 15.0 + unit(own) * 10.0;
            let turns = turn as f64 / (1_000.0 + (own % 4_096) as f64) + unit(own.rotate_left(32));
            let noise = unit(mix(seed ^ !sequence)) - 0.5;
            ((level + triangle(turns) * 5.0 + noise) * 100.0).round() / 100.0
        }
    }

    /// A checksum over what the rows follow from, which is cheaper than one over the rows and as good.
    fn checksum(&self, start: u64, end: u64) -> u32 {
        let GenerateOptions { rows: _, rows_per_second: _, seed, keys, start_us, interval_us, disorder_us } =
            self.options;
        let numbers = [seed, keys, start_us as u64, interval_us as u64, disorder_us as u64, start, end];
        let mut checksum = 0;
        for number in numbers {
            checksum = crc32c::crc32c_append(checksum, &number.to_le_bytes());
        }
        for field in self.schema.fields() {
            let text = format!("{} {};", field.name(), field.data_type());
            checksum = crc32c::crc32c_append(checksum, text.as_bytes());
        }
        checksum
    }

    fn chunk(&self, start: u64, end: u64) -> Chunk {
        Chunk::Range { start, end, data: Data::Columns(self.rows(start, end)), checksum: self.checksum(start, end) }
    }

    /// How many rows the next chunk may have, once `sent` rows have gone out in `elapsed`; 0 means wait.
    fn due(&self, sent: u64, elapsed: Duration) -> u64 {
        let Some(rate) = self.options.rows_per_second else { return CHUNK_ROWS };
        // The first rows come at once, not after the first pace.
        let due = (elapsed + PACE).as_micros().saturating_mul(u128::from(rate)) / 1_000_000;
        u64::try_from(due).unwrap_or(u64::MAX).max(1).saturating_sub(sent).min(CHUNK_ROWS)
    }
}

#[async_trait::async_trait]
impl Source for GenerateSource {
    fn bounded(&self) -> bool {
        self.maker.options.rows.is_some()
    }

    async fn run(&self, intake: Arc<dyn Intake>, resume: Vec<Resume>, stop: Stop) -> Result<(), SourceError> {
        intake.open(PARTITION).await?;
        intake.set_connected(true);
        let resume = resume.iter().find(|resume| resume.partition == PARTITION);
        let first = resume.map_or(0, |resume| resume.next);
        let last = self.maker.options.rows.unwrap_or(u64::MAX);
        let mut next = first;
        let mut receipts = Receipts::default();
        let begin = tokio::time::Instant::now();
        while next < last && !stop.is_cancelled() {
            let count = self.maker.due(next - first, begin.elapsed()).min(last - next);
            if count == 0 {
                tokio::select! {
                    () = tokio::time::sleep(PACE) => continue,
                    () = stop.cancelled() => break,
                }
            }
            let maker = Arc::clone(&self.maker);
            // A chunk takes milliseconds to make: not on a thread that others wait for.
            let chunk = tokio::task::spawn_blocking(move || maker.chunk(next, next + count))
                .await
                .expect("making rows does not panic");
            let queued = tokio::select! {
                queued = intake.append(PARTITION, chunk) => queued,
                () = stop.cancelled() => break,
            };
            match queued {
                Err(IntakeError::Stopping) => break,
                queued => receipts.push(queued?).await?,
            }
            next += count;
        }
        receipts.all().await?;
        if next >= last && !resume.is_some_and(|resume| resume.ended) {
            intake.end(PARTITION).await?;
        }
        Ok(())
    }

    fn reread(&self, partition: &str, start: u64, end: u64) -> Result<(Data, u32), SourceError> {
        if partition != PARTITION || start > end {
            return Err(SourceError::Changed(format!("a generator has no rows {start}..{end} of {partition}")));
        }
        Ok((Data::Columns(self.maker.rows(start, end)), self.maker.checksum(start, end)))
    }
}

const DISORDER: u64 = 0x6469_736f_7264_6572;

/// The finaliser of splitmix64: every bit of the input reaches every bit of the result.
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// 53 random bits as a number in `[0, 1)`.
fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// A wave of period 1 between -1 and 1. Not a sine: its value must be the same on every machine, and libm's is not.
fn triangle(turns: f64) -> f64 {
    let phase = turns - turns.floor();
    1.0 - 4.0 * (phase - 0.5).abs()
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::compute::concat_batches;
    use arrow::datatypes::{Float64Type, Schema, TimestampMicrosecondType};

    use super::*;
    use crate::testing::TestIntake;

    fn source(extra: &[(&str, &str)]) -> GenerateSource {
        let schema = Arc::new(Schema::new(vec![
            Field::new("device", DataType::Utf8View, false),
            Field::new("temperature", DataType::Float64, false),
            Field::new("ts", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false),
            Field::new("seq", DataType::Int64, true),
            Field::new("door", DataType::Boolean, true),
            Field::new("a_very_long_column_name", DataType::Utf8View, true),
        ]));
        let options = extra.iter().map(|(key, value)| (key.to_string(), value.to_string()));
        let mut options = Options::new(options);
        let source = GenerateSource::new(&schema, GenerateOptions::take(&mut options).unwrap()).unwrap();
        options.finish().unwrap();
        source
    }

    #[test]
    fn a_row_follows_from_its_number_alone() {
        let source = source(&[("seed", "7"), ("keys", "3"), ("disorder", "1s")]);
        let whole = source.rows(0, 1000);
        let pieces: Vec<RecordBatch> = [(0, 1), (1, 400), (400, 1000)].map(|(a, b)| source.rows(a, b)).into();
        assert_eq!(whole, concat_batches(&whole.schema(), &pieces).unwrap());
        assert_eq!(whole.column(0).as_string_view().value(4), "device-00001");
        assert_eq!(whole.column(5).as_string_view().value(2), "a_very_long_column_name-00002");
        let (Data::Columns(again), checksum) = source.reread(PARTITION, 400, 1000).unwrap() else { panic!() };
        assert_eq!(again, pieces[2]);
        assert_eq!(checksum, source.maker.checksum(400, 1000));
    }

    #[test]
    fn other_options_have_another_checksum() {
        let checksum = |extra: &[(&str, &str)]| source(extra).maker.checksum(0, 10);
        let plain = checksum(&[]);
        for changed in
            [("seed", "1"), ("keys", "51"), ("start", "2026-01-02"), ("interval", "2 ms"), ("disorder", "1s")]
        {
            assert_ne!(checksum(&[changed]), plain, "{changed:?}");
        }
        assert_eq!(checksum(&[("rows", "10")]), plain, "a longer run has the same rows");
    }

    #[test]
    fn values_look_like_a_fleet() {
        let rows = source(&[("disorder", "5 ms")]).rows(0, 20_000);
        let times = rows.column(2).as_primitive::<TimestampMicrosecondType>().values();
        let early = |(sequence, us): (usize, &i64)| 1_767_225_600_000_000 + sequence as i64 * 1_000 - us;
        let early: Vec<i64> = times.iter().enumerate().map(early).collect();
        assert!(early.iter().all(|us| (0..=5_000).contains(us)));
        assert!(early.iter().any(|us| *us > 4_000));
        let values = rows.column(1).as_primitive::<Float64Type>().values();
        assert!(values.iter().all(|value| (9.0..31.0).contains(value) && (value * 100.0).round() / 100.0 == *value));
        assert!((2_000..3_000).contains(&rows.column(4).as_boolean().true_count()));
    }

    #[tokio::test]
    async fn a_bounded_run_ends_and_resumes_where_it_was() {
        let source = source(&[("rows", "100000")]);
        let intake = Arc::new(TestIntake::default());
        let resume = vec![Resume { partition: PARTITION.to_owned(), next: 30_000, ended: false, ..Resume::default() }];
        source.run(Arc::clone(&intake) as Arc<dyn Intake>, resume, Stop::new()).await.unwrap();
        let mut next = 30_000;
        for (_, chunk) in intake.chunks.lock().iter() {
            let Chunk::Range { start, end, .. } = chunk else { panic!("{chunk:?}") };
            assert_eq!(*start, next);
            next = *end;
        }
        assert_eq!(next, 100_000);
        assert_eq!(intake.calls.lock().last().unwrap(), "end generate");
    }

    #[tokio::test]
    async fn the_same_source_goes_on_by_its_resume_after_its_log_has_failed() {
        let source = source(&[("rows", "100000")]);
        let failing = Arc::new(TestIntake::default());
        failing.failed.store(true, std::sync::atomic::Ordering::SeqCst);
        let ended = source.run(Arc::clone(&failing) as Arc<dyn Intake>, Vec::new(), Stop::new()).await;
        assert!(matches!(ended, Err(SourceError::Intake(IntakeError::LogFailed(_)))), "{ended:?}");
        let intake = Arc::new(TestIntake::default());
        source.run(Arc::clone(&intake) as Arc<dyn Intake>, Vec::new(), Stop::new()).await.unwrap();
        let count: usize = intake.chunks.lock().iter().map(|(_, chunk)| rows_of(chunk)).sum();
        assert_eq!(count, 100_000);
    }

    fn rows_of(chunk: &Chunk) -> usize {
        match chunk {
            Chunk::Range { start, end, .. } => (end - start) as usize,
            Chunk::Messages(messages) | Chunk::Noted(messages, _) | Chunk::Decoded { messages, .. } => messages.len(),
        }
    }

    #[tokio::test]
    async fn a_rate_is_kept_and_a_stop_is_heard() {
        let source = source(&[("rows_per_second", "1000")]);
        assert!(!source.bounded());
        assert_eq!(source.maker.due(0, Duration::ZERO), 20);
        assert_eq!(source.maker.due(1020, Duration::from_secs(1)), 0);
        assert_eq!(source.maker.due(0, Duration::from_secs(3600)), CHUNK_ROWS);
        let (intake, stop) = (Arc::new(TestIntake::default()), Stop::new());
        let run = source.run(Arc::clone(&intake) as Arc<dyn Intake>, Vec::new(), stop.clone());
        let watch = async {
            intake.wait_until_connected().await;
            stop.cancel();
        };
        let (ran, ()) = tokio::join!(run, watch);
        ran.unwrap();
        assert!(!intake.calls.lock().contains(&"end generate".to_owned()));
    }

    #[test]
    fn types_that_cannot_be_generated_are_named() {
        let schema = Arc::new(Schema::new(vec![Field::new("blob", DataType::Binary, true)]));
        let options = GenerateOptions::take(&mut Options::default()).unwrap();
        let error = GenerateSource::new(&schema, options).err().unwrap();
        assert!(error.to_string().contains("blob"), "{error}");
    }
}
