//! `CREATE SINK … WITH (connector = 'stdout')`: rows as lines on the program's standard output, for pipes. Logs go to stderr.
//!
//! At least once: what was written when the program dies, or when the reader goes, is written again. A reader that has gone is a
//! target that fails: the rows wait in the outbox, for the next run.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::FutureExt;
use tidemill_engine::source::Stop;

use super::lines;
use crate::format::JsonRows;
use crate::options::{OptionError, Options};
use crate::outbox::{Courier, DeliveryError, Desk, DeskEvent, Destination, Encoded, Encoder, Progress, Row};

/// Rows that are written at once.
const ROWS_MAX: usize = 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LineFormat {
    NdJson,
    Csv,
}

struct StdoutDestination {
    encoder: Arc<StdoutEncoder>,
    format: LineFormat,
    /// Whether the line of names was written, in this process.
    has_head: Arc<AtomicBool>,
}

struct StdoutEncoder(JsonRows);

/// Makes the destination from its options.
pub(crate) fn destination(schema: &SchemaRef, options: &mut Options) -> Result<Arc<dyn Destination>, OptionError> {
    let words = [("ndjson", LineFormat::NdJson), ("json", LineFormat::NdJson), ("csv", LineFormat::Csv)];
    let format = options.choice("format", &words)?.unwrap_or(LineFormat::NdJson);
    let encoder = Arc::new(StdoutEncoder(JsonRows::take_columns(schema, options)?));
    Ok(Arc::new(StdoutDestination { encoder, format, has_head: Arc::default() }))
}

impl Destination for StdoutDestination {
    fn encoder(&self) -> Arc<dyn Encoder> {
        Arc::clone(&self.encoder) as Arc<dyn Encoder>
    }

    fn courier(&self) -> Box<dyn Courier> {
        Box::new(StdoutCourier {
            format: self.format,
            columns: self.encoder.0.names(),
            has_head: Arc::clone(&self.has_head),
            waiting: Vec::new(),
        })
    }
}

impl Encoder for StdoutEncoder {
    fn encode(&self, rows: &RecordBatch, out: &mut Encoded) -> Result<(), String> {
        self.0.write(rows)?.rows().for_each(|payload| out.push(b"", payload));
        Ok(())
    }
}

struct StdoutCourier {
    format: LineFormat,
    columns: Vec<String>,
    has_head: Arc<AtomicBool>,
    /// Rows that were taken from the desk and are not written.
    waiting: Vec<Row>,
}

impl StdoutCourier {
    fn text(&self) -> Result<Vec<u8>, String> {
        let mut text = Vec::new();
        match self.format {
            LineFormat::NdJson => lines::ndjson(&self.waiting, &mut text),
            LineFormat::Csv => {
                if !self.has_head.load(Ordering::Relaxed) {
                    lines::csv_head(&self.columns, &mut text);
                }
                lines::csv(&self.waiting, &self.columns, &mut text)?;
            }
        }
        Ok(text)
    }
}

#[async_trait::async_trait]
impl Courier for StdoutCourier {
    async fn deliver(&mut self, desk: &mut Desk, stop: &Stop) -> Result<(), DeliveryError> {
        loop {
            // The first row is waited for; those that are there come with it.
            while self.waiting.len() < ROWS_MAX {
                let next = desk.next(true);
                let event = match self.waiting.is_empty() {
                    true => tokio::select! {
                        event = next => event?,
                        () = stop.cancelled() => return Ok(()),
                    },
                    false => match next.now_or_never() {
                        Some(event) => event?,
                        None => break,
                    },
                };
                if let DeskEvent::Row(row) = event {
                    self.waiting.push(row);
                }
            }
            let text = self.text().map_err(DeliveryError::Failed)?;
            // A reader that takes its time holds up this thread, and nothing else.
            let written = tokio::task::spawn_blocking(move || {
                let mut stdout = std::io::stdout().lock();
                stdout.write_all(&text).and_then(|()| stdout.flush())
            });
            tokio::select! {
                written = written => {
                    let written = written.map_err(|error| DeliveryError::Failed(error.to_string()))?;
                    written.map_err(|error| DeliveryError::Failed(format!("cannot write to stdout: {error}")))?;
                }
                () = stop.cancelled() => return Ok(()),
            }
            self.has_head.store(true, Ordering::Relaxed);
            let end = self.waiting.last().map_or(0, |row| row.number + 1);
            self.waiting.clear();
            desk.confirm(Progress { delivered: end, received: end });
            desk.gauges().set_connected(true);
        }
    }
}
