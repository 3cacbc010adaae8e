//! Payloads that bring their schema along: a stream of Arrow IPC, a Parquet file, an Avro container. One payload, any number of
//! rows.
//!
//! ```text
//!   payload ─► limits, bounds ──────► columns fit? ─► batches ─► [columns] ─► rows, dead letters
//!               arrow: stream, buffers                 small
//!               parquet: pages
//!               avro: blocks, schema
//! ```
//!
//! What such bytes claim about lengths is checked before the libraries that read them believe it: they allocate what a page
//! says, and cut buffers where a message says. What is compressed in them is undone here, and counted. A payload that cannot be read is refused whole; a row that does not fit is a
//! dead letter, as everywhere.
//!
//! [columns]: super::columns

mod arrow_file;
mod avro_container;
mod avro_input;
mod avro_schema;
mod buffers;
mod inflate;
mod pages;
mod parquet_file;
mod stream;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use tidemill_engine::decode::{DeadLetter, Decoded, Decoder, Format, Place};
use tidemill_engine::source::{Data, Message};

use super::columns::{decode_columns, decode_columns_of};
use super::layout::Layout;
use super::metadata::Origin;

pub(crate) use arrow_file::ArrowFile;
pub(crate) use avro_container::{AvroContainer, MAGIC as AVRO_CONTAINER, Within};

/// Rows of one payload. An empty column of a billion rows takes no bytes on its way, and gigabytes behind it.
pub const ENCLOSED_ROWS_MAX: usize = 100_000;
/// Bytes of what is compressed in one payload, pages of Parquet, buffers of Arrow or blocks of Avro, once it is decompressed.
pub const ENCLOSED_BYTES_MAX: u64 = 64 << 20;
/// Values of one Parquet payload, those of lists among them.
pub const ENCLOSED_VALUES_MAX: u64 = 8 << 20;

/// What holds the columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Enclosed {
    /// A stream of Arrow IPC with its end mark.
    ArrowStream,
    /// A whole Parquet file.
    ParquetFile,
    /// An Avro object container file.
    AvroContainer,
}

/// Why nothing of a payload can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// It is not what it should be, and where.
    Damaged(String),
    /// Its columns cannot become the declared ones.
    Columns(String),
    /// It is over a limit.
    TooLarge(String),
}

impl Unreadable {
    /// Returns it for people.
    pub(crate) fn reason(self) -> String {
        match self {
            Unreadable::Damaged(reason) | Unreadable::Columns(reason) | Unreadable::TooLarge(reason) => reason,
        }
    }
}

impl Enclosed {
    /// Reads a payload: its rows, and dead letters of message `message` for those that do not fit.
    pub(crate) fn decode(
        self,
        layout: &Layout,
        messages: &[Message],
        message: usize,
        place: &Place<'_>,
    ) -> Result<Decoded, Unreadable> {
        let batches = self.read(&messages[message].payload, layout)?;
        let origin = Origin::new(place, messages);
        let mut whole = Decoded::default();
        let mut rows_before = 0;
        for batch in batches {
            whole.extend(decode_columns_of(layout, &batch, &origin, message, rows_before));
            rows_before += batch.num_rows();
        }
        Ok(whole)
    }

    fn read(self, payload: &Bytes, layout: &Layout) -> Result<Vec<RecordBatch>, Unreadable> {
        // The readers of both formats panic on some bytes that only mean mischief: for them the payload is damaged.
        let reading = AssertUnwindSafe(|| match self {
            Enclosed::ArrowStream => stream::read(payload, layout),
            Enclosed::ParquetFile => parquet_file::read(payload, layout),
            Enclosed::AvroContainer => AvroContainer::open(&payload[..], layout, Within::Payload)?.collect(),
        });
        catch_unwind(reading).unwrap_or_else(|_| {
            let name = match self {
                Enclosed::ArrowStream => "an Arrow stream",
                Enclosed::ParquetFile => "a Parquet file",
                Enclosed::AvroContainer => "an Avro container",
            };
            Err(Unreadable::Damaged(format!("not {name}: it contradicts itself")))
        })
    }

    pub(crate) fn format(self, layout: Layout) -> Arc<dyn Format> {
        Arc::new(EnclosedFormat { enclosed: self, layout })
    }
}

/// Makes decoders of payloads that hold columns.
#[derive(Clone, Debug)]
struct EnclosedFormat {
    enclosed: Enclosed,
    layout: Layout,
}

impl Format for EnclosedFormat {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.layout.schema())
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(EnclosedDecoder(self.clone()))
    }
}

struct EnclosedDecoder(EnclosedFormat);

impl Decoder for EnclosedDecoder {
    fn decode(&mut self, data: &Data, place: &Place<'_>) -> Decoded {
        let EnclosedFormat { enclosed, layout } = &self.0;
        let messages = match data {
            Data::Messages(messages) => messages,
            Data::Columns(columns) => return decode_columns(layout, columns, place),
        };
        let mut whole = Decoded::default();
        for (message, found) in messages.iter().enumerate() {
            let read = layout.check_message(found).map_err(Unreadable::Columns);
            match read.and_then(|()| enclosed.decode(layout, messages, message, place)) {
                Ok(decoded) => whole.extend(decoded),
                Err(unreadable) => whole.dead.push(DeadLetter {
                    message,
                    topic: found.topic.clone(),
                    payload: found.payload.clone(),
                    reason: unreadable.reason(),
                }),
            }
        }
        whole
    }
}

/// Returns a schema of Avro whose names are resolved, for a reader that does not find those with dots again; `None` if it cannot
/// be used at all.
pub(crate) fn resolved_avro_schema(json: &str) -> Option<String> {
    avro_schema::Schema::parse(json.as_bytes()).and_then(|schema| schema.resolved()).ok()
}

#[cfg(test)]
pub(crate) mod tests;
