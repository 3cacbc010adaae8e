//! What the source's own decoder says about a body, before anything of it is stored.

use std::ops::Range;

use arrow::array::RecordBatch;
use bytes::Bytes;
use tidemill_engine::decode::{DeadLetter, Format, Place};
use tidemill_engine::source::{Data, Message};

use super::problem::{Kind, Problem, ROW_ERRORS_MAX, RowError};
use crate::format::{
    CutOff, ENCLOSED_ROWS_MAX, PayloadEncoding, TaggedFormat, Unreadable, offset_in, split_csv, split_delimited,
    split_json, split_lines,
};

/// Rows of one request.
pub const ROWS_MAX: usize = ENCLOSED_ROWS_MAX;
/// The same where one point may become many rows: a histogram has a hundred buckets and more.
pub const ROWS_OF_BUCKETS_MAX: usize = 1_000_000;
/// Bytes of one row.
pub const ROW_BYTES_MAX: usize = 1 << 20;

/// The columns of bodies from here on go to the dataflow as they were decoded for the check. Of smaller ones the dataflow
/// decodes many together, which takes less.
const BYTES_DECODED_ONCE_MIN: usize = 16 << 10;

/// A body as messages, and what is to be said about its rows.
pub(super) struct Verdict {
    pub(super) messages: Vec<Message>,
    /// What the dataflow would make of them, if that is known already and worth to be kept.
    pub(super) columns: Option<Vec<RecordBatch>>,
    /// Rows that can be used.
    pub(super) rows: usize,
    /// The first of those that cannot.
    pub(super) rejected: Vec<RowError>,
    pub(super) rejected_count: usize,
}

/// Splits a body in messages and decodes it as the dataflow will do later. Each row of JSON or Protobuf is a message of its
/// own, so that a position counts rows; other bodies stay whole, because what stands in front belongs to every row.
pub(super) fn of(format: &TaggedFormat, encoding: PayloadEncoding, payload: &Bytes) -> Result<Verdict, Problem> {
    let encoding = encoding.of_body(payload);
    if encoding.is_empty(payload) {
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
    let (messages, decoded) = match encoding.enclosed() {
        Some(enclosed) => {
            let decoded = enclosed.decode(format.layout(), &messages, 0, &Place::default());
            (messages, decoded.map_err(unreadable)?)
        }
        None => {
            let data = Data::Messages(messages);
            let decoded = format.decoder().decode(&data, &Place::default());
            let Data::Messages(messages) = data else { unreachable!("made of messages above") };
            (messages, decoded)
        }
    };
    let rows = decoded.batches.iter().map(|batch| batch.num_rows()).sum::<usize>();
    let rejected_count = decoded.dead.len();
    if rows + rejected_count > rows_max {
        return Err(too_many_rows(rows + rejected_count, rows_max));
    }
    let row_error = |letter: &DeadLetter| {
        let (numbered, reason) = numbered(&letter.reason);
        let row = match numbered {
            Some(row) => row,
            None if encoding.is_one_message_a_row() => letter.message + 1,
            None if !matches!(encoding, PayloadEncoding::Csv { .. }) => lines_before(payload, &letter.payload) + 1,
            None => lines_before(payload, &letter.payload),
        };
        RowError { row, column: column_of(format, reason), message: reason.to_owned() }
    };
    let rejected = decoded.dead.iter().take(ROW_ERRORS_MAX).map(row_error).collect();
    let is_known = rejected_count == 0
        // Values that do not fit are counted by the dataflow.
        && decoded.nulled == 0
        // A point without a time has that of its arrival, which is not yet.
        && !matches!(encoding, PayloadEncoding::Telemetry(_))
        && payload.len() >= BYTES_DECODED_ONCE_MIN
        && !format.layout().has_metadata()
        && (encoding.is_one_message_a_row() || decoded.batches.len() == 1);
    Ok(Verdict { messages, columns: is_known.then_some(decoded.batches), rows, rejected, rejected_count })
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
    let line_count = if encoding == PayloadEncoding::Json { memchr::memchr_iter(b'\n', payload).count() } else { 0 };
    let mut messages = Vec::with_capacity((line_count + 1).min(ROWS_MAX));
    let mut row_count = 0;
    let row = |row: Range<usize>| {
        row_count += 1;
        // Over the limit rows are counted only: a message is much larger than the smallest row.
        if row_count <= ROWS_MAX {
            messages.push(message(payload.slice(row)));
        }
    };
    match encoding {
        PayloadEncoding::Json => split_json(payload, row),
        PayloadEncoding::ProtobufDelimited => split_delimited(payload, row).map_err(|cut_off| {
            let CutOff { message, at, what } = cut_off;
            let detail = format!("message {message}, at byte {at}, is not whole: {what}; nothing was stored");
            Problem::new(Kind::DamagedBody, detail)
                .hint("in front of each message stands its length as a varint, as writeDelimitedTo writes it")
        })?,
        PayloadEncoding::Avro | PayloadEncoding::Protobuf => messages.push(message(payload.clone())),
        PayloadEncoding::Text | PayloadEncoding::Csv { .. } => {
            check_lines(encoding, payload)?;
            return Ok(vec![message(payload.clone())]);
        }
        _ => return Ok(vec![message(payload.clone())]),
    }
    if row_count > ROWS_MAX {
        return Err(too_many_rows(row_count, ROWS_MAX));
    }
    match messages.iter().position(|message| message.payload.len() > ROW_BYTES_MAX) {
        None => Ok(messages),
        Some(row) => Err(row_too_large(row + 1)),
    }
}

/// Counts the rows of text before they are taken apart: a line may be a few bytes, and a row many.
fn check_lines(encoding: PayloadEncoding, payload: &[u8]) -> Result<(), Problem> {
    let (mut row_count, mut long) = (0usize, None);
    let row = |row: Range<usize>| {
        row_count += 1;
        if row.len() > ROW_BYTES_MAX {
            long = long.or(Some(row_count));
        }
    };
    match encoding {
        PayloadEncoding::Csv { delimiter } => {
            split_csv(payload, delimiter, row);
            // The header.
            row_count = row_count.saturating_sub(1);
        }
        _ => split_lines(payload, row),
    }
    match long {
        _ if row_count > ROWS_MAX => Err(too_many_rows(row_count, ROWS_MAX)),
        Some(row) if encoding == PayloadEncoding::Text => Err(row_too_large(row)),
        _ => Ok(()),
    }
}

fn row_too_large(row: usize) -> Problem {
    Problem::new(Kind::TooLarge, format!("row {row} has more than {} MiB; nothing was stored", ROW_BYTES_MAX >> 20))
}

fn unreadable(unreadable: Unreadable) -> Problem {
    let (kind, reason) = match unreadable {
        Unreadable::Damaged(reason) => (Kind::DamagedBody, format!("the body is {reason}")),
        Unreadable::Columns(reason) => (Kind::Columns, format!("the columns of the body do not fit: it {reason}")),
        Unreadable::TooLarge(reason) => (Kind::TooLarge, reason),
    };
    Problem::new(kind, format!("{reason}; nothing was stored"))
}

/// The row that a reason names in front, where the payload of a letter does not say it.
fn numbered(reason: &str) -> (Option<usize>, &str) {
    let named = reason.strip_prefix("row ").and_then(|rest| rest.split_once(": "));
    match named.and_then(|(row, rest)| Some((row.parse().ok()?, rest))) {
        Some((row, rest)) => (Some(row), rest),
        None => (None, reason),
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
