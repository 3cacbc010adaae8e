//! Decoding: raw messages to columns. What does not decode becomes a dead letter, never an error.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;

use crate::source::Data;

/// A message, or a row of one, that could not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Which message of the chunk.
    pub message: usize,
    /// Its topic.
    pub topic: Bytes,
    /// The bytes that could not be used: the message, or the one row of it.
    pub payload: Bytes,
    /// Why, for people: what was expected and what was found.
    pub reason: String,
}

/// What a chunk decodes to. Every row of the input is in `batches` or in `dead`.
#[derive(Clone, Debug, Default)]
pub struct Decoded {
    /// The rows, in the format's schema.
    pub batches: Vec<RecordBatch>,
    /// The rest.
    pub dead: Vec<DeadLetter>,
}

/// A kind of encoding with its schema: makes decoders, one for each worker.
pub trait Format: Send + Sync + 'static {
    /// The columns that come out: text as `Utf8View`, times as `Timestamp(Microsecond, "UTC")`.
    fn schema(&self) -> SchemaRef;
    /// Makes a decoder.
    fn decoder(&self) -> Box<dyn Decoder>;
}

/// Turns chunks into columns. The result depends on the chunk alone, not on what was decoded before.
pub trait Decoder: Send {
    /// Decodes one chunk; a bad row never takes others with it.
    fn decode(&mut self, data: &Data) -> Decoded;
}
