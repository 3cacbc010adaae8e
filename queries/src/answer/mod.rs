//! Answers: the rows of a question as they come, and the formats they are written in.
//!
//! | format   | `Accept`                              | shape |
//! |----------|---------------------------------------|-------|
//! | `json`   | `application/json`, `*/*`, none       | `{"columns":[{"name":"device","type":"TEXT"}],"rows":[{"device":"a"}],"row_count":1}`: one row a line |
//! | `ndjson` | `application/x-ndjson`                | one object a line, rows only |
//! | `csv`    | `text/csv`                            | a line of names, then rows (RFC 4180, `\n`) |
//! | `arrow`  | `application/vnd.apache.arrow.stream` | Arrow IPC stream, columns as computed |
//! | `table`  | `text/plain`                          | for eyes, then the number of rows |
//!
//! In all text formats: times are RFC 3339 in UTC (`2026-11-20T09:00:00.25Z`), also those without a time zone, since
//! every instant in tidemill is UTC. 64-bit integers are JSON numbers, decimals too; NaN and infinities are `null` in
//! JSON. A null is `null`, an empty CSV field, an empty cell. Columns of one name are numbered: `x`, `x_2`. In CSV and
//! tables, lists and structs are written as text.
//!
//! An answer that breaks off says so: the reader gets a [`Problem`] instead of an end.
mod encode;
mod format;
mod printable;

pub use format::AnswerFormat;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::problem::{Problem, ProblemKind};
use encode::Encoder;

/// Encoded pieces between an answer and the socket.
const PIECES_IN_FLIGHT_MAX: usize = 4;

/// What comes out of a question that runs.
pub(crate) enum Piece {
    /// Rows, at least one.
    Rows(RecordBatch),
    /// All rows have come.
    End,
    /// No more rows come, and some are missing.
    Failed(Problem),
}

/// Which state of a table an answer was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableVersion {
    /// The table.
    pub table: String,
    /// The number of its last commit that was read; `None` if it has none yet.
    pub version: Option<u64>,
}

/// The answer to a question: its columns, and its rows as they are computed. Dropping it ends the question.
pub struct Answer {
    schema: SchemaRef,
    versions: Vec<TableVersion>,
    pieces: mpsc::Receiver<Piece>,
    threads: Handle,
    ended: bool,
}

impl Answer {
    pub(crate) fn new(
        schema: SchemaRef,
        versions: Vec<TableVersion>,
        pieces: mpsc::Receiver<Piece>,
        threads: Handle,
    ) -> Self {
        Answer { schema, versions, pieces, threads, ended: false }
    }

    /// Returns the columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Returns which states of which tables were read.
    pub fn versions(&self) -> &[TableVersion] {
        &self.versions
    }

    /// Waits for the next rows; `None` after the last.
    pub async fn next(&mut self) -> Option<Result<RecordBatch, Problem>> {
        if self.ended {
            return None;
        }
        let piece = self.pieces.recv().await;
        self.ended = !matches!(piece, Some(Piece::Rows(_)));
        match piece {
            Some(Piece::Rows(rows)) => Some(Ok(rows)),
            Some(Piece::End) => None,
            Some(Piece::Failed(problem)) => Some(Err(problem)),
            None => Some(Err(broken_off())),
        }
    }

    /// Waits for all rows.
    pub async fn collect(mut self) -> Result<Vec<RecordBatch>, Problem> {
        let mut batches = Vec::new();
        while let Some(batch) = self.next().await {
            batches.push(batch?);
        }
        Ok(batches)
    }

    /// Writes the answer in a format, on the threads of questions. Dropping what comes back ends the question, too.
    pub fn encode(mut self, format: AnswerFormat) -> EncodedAnswer {
        let (sender, pieces) = mpsc::channel(PIECES_IN_FLIGHT_MAX);
        let threads = self.threads.clone();
        threads.spawn(async move {
            let encoded = tokio::select! {
                encoded = encode_all(&mut self, format, &sender) => encoded,
                // A question may compute for minutes before its first row: its reader is not noticed to be gone by sending.
                () = sender.closed() => return,
            };
            let _ = sender.send(encoded.map(EncodedPiece::End)).await;
        });
        EncodedAnswer { pieces, ended: false }
    }
}

/// The bytes of an answer, as they are computed.
pub struct EncodedAnswer {
    pieces: mpsc::Receiver<Result<EncodedPiece, Problem>>,
    ended: bool,
}

enum EncodedPiece {
    Middle(Bytes),
    End(Bytes),
}

impl EncodedAnswer {
    /// Waits for the next bytes; `None` after the last.
    pub async fn next(&mut self) -> Option<Result<Bytes, Problem>> {
        if self.ended {
            return None;
        }
        match self.pieces.recv().await {
            Some(Ok(EncodedPiece::Middle(bytes))) => Some(Ok(bytes)),
            Some(Ok(EncodedPiece::End(bytes))) => {
                self.ended = true;
                Some(Ok(bytes))
            }
            Some(Err(problem)) => {
                self.ended = true;
                Some(Err(problem))
            }
            None => {
                self.ended = true;
                Some(Err(broken_off()))
            }
        }
    }
}

fn broken_off() -> Problem {
    Problem::new(ProblemKind::NotReady, "the answer broke off: the program is stopping")
}

async fn encode_all(
    answer: &mut Answer,
    format: AnswerFormat,
    sender: &mpsc::Sender<Result<EncodedPiece, Problem>>,
) -> Result<Bytes, Problem> {
    let unwritable = |error: ArrowError| {
        Problem::new(ProblemKind::NotSupported, format!("the answer cannot be written as {format}: {error}"))
            .with_hint("cast the column to TEXT")
    };
    let mut encoder = Encoder::new(format, answer.schema()).map_err(unwritable)?;
    while let Some(batch) = answer.next().await {
        encoder.write(&batch?).map_err(unwritable)?;
        let bytes = encoder.take();
        if !bytes.is_empty() && sender.send(Ok(EncodedPiece::Middle(bytes))).await.is_err() {
            break;
        }
    }
    encoder.finish().map_err(unwritable)
}
