//! What the source's own decoder says about a body, before anything of it is stored.

use bytes::Bytes;
use tidemill_engine::decode::{DeadLetter, Format, Place};
use tidemill_engine::source::{Data, Message};

use super::problem::{Kind, Problem, ROW_ERRORS_MAX, RowError};
use crate::format::{PayloadEncoding, TaggedFormat, offset_in, split_json};

/// Rows of one request.
pub const ROWS_MAX: usize = 100_000;
/// The same where one point may become many rows: a histogram has a hundred buckets and more.
pub const ROWS_OF_BUCKETS_MAX: usize = 1_000_000;
/// Bytes of one row.
pub const ROW_BYTES_MAX: usize = 1 << 20;

/// A body as messages, and what is to be said about its rows.
pub(super) struct Verdict {
    pub(super) messages: Vec<Message>,
    /// Rows that can be used.
    pub(super) rows: usize,
    /// The first of those that cannot.
    pub(super) rejected: Vec<RowError>,
    pub(super) rejected_count: usize,
}

/// Splits a body in messages and decodes it as the dataflow will do later. Each JSON row is a message of its own, so that a
/// position counts rows; other bodies stay whole, because what stands in front belongs to every row.
pub(super) fn of(format: &TaggedFormat, encoding: PayloadEncoding, payload: &Bytes) -> Result<Verdict, Problem> {
    // In protobuf no bytes are a message without anything in it.
    if payload.trim_ascii().is_empty()
        && !matches!(encoding, PayloadEncoding::Telemetry(protocol) if !protocol.is_text())
    {
        return Err(Problem::new(Kind::EmptyBody, "the body is empty").hint("send at least one row"));
    }
    if encoding != format.own()
        && let Err(problem) = encoding.check(format.layout())
    {
        let detail = format!("this source does not take {}: {problem}; nothing was stored", encoding.name());
        return Err(Problem::new(Kind::ContentType, detail).hint(format!("send {}", format.own().name())));
    }
    let rows_max = match encoding {
        PayloadEncoding::Telemetry(protocol) if !protocol.is_text() => ROWS_OF_BUCKETS_MAX,
        _ => ROWS_MAX,
    };
    if let PayloadEncoding::Telemetry(protocol) = encoding
        && let Some(at_most) = protocol.rows_at_most(payload)
        // Comments and blank lines are no rows.
        && at_most > 4 * rows_max
    {
        return Err(too_many_rows(at_most, rows_max));
    }
    let messages = split(format, encoding, payload)?;
    // Not recorded yet, so without a place: only whether the rows can be used is asked here.
    let data = Data::Messages(messages);
    let decoded = format.decoder().decode(&data, &Place::default());
    let Data::Messages(messages) = data else { unreachable!("made of messages above") };
    let rows = decoded.batches.iter().map(|batch| batch.num_rows()).sum::<usize>();
    let rejected_count = decoded.dead.len();
    if rows + rejected_count > rows_max {
        return Err(too_many_rows(rows + rejected_count, rows_max));
    }
    let row_error = |letter: &DeadLetter| RowError {
        row: match encoding {
            PayloadEncoding::Csv { .. } => lines_before(payload, &letter.payload),
            PayloadEncoding::Telemetry(_) => lines_before(payload, &letter.payload) + 1,
            _ => letter.message + 1,
        },
        column: column_of(format, &letter.reason),
        message: letter.reason.clone(),
    };
    let rejected = decoded.dead.iter().take(ROW_ERRORS_MAX).map(row_error).collect();
    Ok(Verdict { messages, rows, rejected, rejected_count })
}

/// Returns the refusal of a request with such rows.
pub(super) fn refused(rows: usize, rejected: Vec<RowError>, rejected_count: usize) -> Problem {
    let total = rows + rejected_count;
    let detail = format!("{rejected_count} of {total} rows cannot be used; nothing was stored");
    Problem { errors: rejected, ..Problem::new(Kind::BadRows, detail) }
        .hint("correct them, or add ?on_error=dead_letter to store the others and keep these as dead letters")
}

fn split(format: &TaggedFormat, encoding: PayloadEncoding, payload: &Bytes) -> Result<Vec<Message>, Problem> {
    let attributes = if encoding == format.own() { Bytes::new() } else { encoding.attributes() };
    let message = |payload: Bytes| Message { topic: Bytes::new(), payload, attributes: attributes.clone() };
    if !encoding.is_one_message_a_row() {
        return Ok(vec![message(payload.clone())]);
    }
    let mut messages = Vec::new();
    let mut row_count = 0;
    split_json(payload, |row| {
        row_count += 1;
        // Over the limit rows are counted only: a message is much larger than the smallest row.
        if row_count <= ROWS_MAX {
            messages.push(message(payload.slice(row)));
        }
    });
    if row_count > ROWS_MAX {
        return Err(too_many_rows(row_count, ROWS_MAX));
    }
    match messages.iter().position(|message| message.payload.len() > ROW_BYTES_MAX) {
        None => Ok(messages),
        Some(row) => Err(Problem::new(
            Kind::TooLarge,
            format!("row {} has more than {} MiB; nothing was stored", row + 1, ROW_BYTES_MAX >> 20),
        )),
    }
}

/// The column that a reason is about: reasons begin with its name.
fn column_of(format: &TaggedFormat, reason: &str) -> Option<String> {
    let about = reason.strip_prefix("column ")?;
    let names = format.layout().schema().fields().iter().map(|field| field.name());
    let named = names.filter(|name| about.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with(':')));
    named.max_by_key(|name| name.len()).cloned()
}

/// How many lines stand before a row of text. In CSV that is its number: the header is among them.
fn lines_before(payload: &[u8], row: &[u8]) -> usize {
    let offset = offset_in(payload, row).unwrap_or(0);
    memchr::memchr_iter(b'\n', &payload[..offset]).count()
}

fn too_many_rows(count: usize, max: usize) -> Problem {
    Problem::new(Kind::TooLarge, format!("a request may have {max} rows, this one has {count}; nothing was stored"))
        .hint("send fewer rows at once")
}
