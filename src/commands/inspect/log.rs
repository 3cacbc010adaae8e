//! The ingest log, in words.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;
use tidemill::assemble::instant;
use tidemill::{Error, Result};
use tidemill_engine::error::with_causes;
use tidemill_engine::ingest::{self, Description, LogError, TailState};
use tidemill_engine::runtime::LOG_FOLDER;
use tidemill_engine::storage::LocalStorage;

use super::Found;
use crate::commands::words::{bytes, count, grouped};

/// Partitions and segments that are listed; the rest is counted.
const LISTED_MAX: usize = 50;

pub(super) fn look(data: &Path) -> Result<Found> {
    let storage = LocalStorage::existing(data)?;
    match ingest::describe(&storage, LOG_FOLDER) {
        Ok(None) => Ok(super::nothing("ingest log", data, Value::Null)),
        Ok(Some(log)) => Ok(found(&log, data)),
        // What belongs to the log is not known, so there is nothing to show beside the damage.
        Err(LogError::Damaged { path, at, why }) => {
            let damage = format!("{} at byte {at}: {why}", data.join(path).display());
            let json = serde_json::json!({ "damaged": damage });
            Ok(Found { text: String::new(), json, damage: vec![damage] })
        }
        Err(error) => Err(Error::Environment(with_causes(&error))),
    }
}

fn found(log: &Description, data: &Path) -> Found {
    let mut text = String::new();
    let size = log.segments.iter().map(|segment| segment.bytes).sum();
    let _ = writeln!(text, "log {}  {}", log.log_id, data.join(LOG_FOLDER).display());
    let reach = if log.whole { "from its beginning on" } else { "shrunk: what checkpoints hold was removed" };
    let _ = writeln!(text, "  {}, {}, {reach}", count(log.segments.len(), "segment"), bytes(size));
    let _ = writeln!(text, "  {}", epochs(log));
    let _ = writeln!(
        text,
        "  {}, {} of topics and payloads; the next one is number {}",
        count(log.messages as usize, "message"),
        bytes(log.message_bytes),
        grouped(log.next_offset)
    );
    let _ = writeln!(
        text,
        "  {} with records here, of {} declared",
        count(log.partitions.len(), "partition"),
        grouped(u64::from(log.partitions_declared))
    );
    for partition in log.partitions.iter().take(LISTED_MAX) {
        let name = match (&partition.source, &partition.name) {
            (Some(source), Some(name)) if name.is_empty() => source.clone(),
            (Some(source), Some(name)) => format!("{source} {name}"),
            _ => "declared before the log's first segment".to_owned(),
        };
        let ended = if partition.ended { ", ended" } else { "" };
        let (messages, size) = (count(partition.messages as usize, "message"), bytes(partition.message_bytes));
        let _ = writeln!(text, "    {}  {name}  {messages}, {size}{ended}", partition.id);
    }
    more(&mut text, log.partitions.len());
    let _ = writeln!(text, "  segments");
    for segment in log.segments.iter().take(LISTED_MAX) {
        let state = if segment.sealed { "complete" } else { "the last one" };
        let rest = segment.bytes.saturating_sub(segment.counted_bytes);
        let rest = if rest > 0 { format!(", of which {} do not count", bytes(rest)) } else { String::new() };
        let _ = writeln!(
            text,
            "    {}  from epoch {}, message {}  {}{rest}  {state}",
            segment.path,
            segment.first_epoch,
            grouped(segment.first_offset),
            bytes(segment.bytes)
        );
    }
    more(&mut text, log.segments.len());
    let mut damage = Vec::new();
    let tail = match &log.tail {
        TailState::Clean => "ends with a whole record".to_owned(),
        TailState::Torn { path, at, bytes: torn } => format!(
            "ends with a torn record: {path} from byte {at} on, {}. It was never acknowledged, and the next start leaves \
             it out; while the program runs it may be what is being written",
            bytes(*torn)
        ),
        TailState::Damaged { path, at, why } => {
            damage.push(format!("{} at byte {at}: {why}", data.join(path).display()));
            format!("DAMAGED at byte {at} of {path}: {why}. The counts above end there")
        }
    };
    let open = if log.open_records > 0 {
        format!("; {} behind the last epoch", count(log.open_records as usize, "record"))
    } else {
        String::new()
    };
    let _ = writeln!(text, "  {tail}{open}");
    let json = serde_json::to_value(log).expect("a description is texts and numbers");
    Found { text, json, damage }
}

fn epochs(log: &Description) -> String {
    let (Some(first), Some(last)) = (log.first_epoch, log.last_epoch) else { return "no epoch is sealed".to_owned() };
    let when = match (log.first_sealed_us, log.last_sealed_us) {
        (Some(first_us), Some(last_us)) => format!(", sealed {} to {}", instant(first_us), instant(last_us)),
        _ => String::new(),
    };
    let marked = match log.last_checkpoint {
        Some(epoch) => format!("{} marked for a checkpoint, the last is {epoch}", grouped(log.checkpoints)),
        None => "none is marked for a checkpoint".to_owned(),
    };
    format!("epochs {first} to {last}{when}; {marked}")
}

fn more(text: &mut String, listed: usize) {
    if listed > LISTED_MAX {
        let _ = writeln!(text, "    and {} more (--format json has all)", grouped((listed - LISTED_MAX) as u64));
    }
}
