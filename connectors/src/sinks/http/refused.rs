//! What a receiver will never take, kept: a file for each request.
//!
//! ```text
//!   sinks/<name>/refused/<number of the first row>-<key>   {"status":422,"url":…,"idempotency_key":…,"rows":3}
//!                                                            {"device":…}
//!                                                            …
//! ```
//! The first line says what happened, the others are the rows. At most [`KEPT_BYTES_MAX`] of them: beyond, the oldest go. The
//! rows are in the view's own table in any case.

use serde_json::json;
use tidemill_engine::storage::{Storage, StorageError};

use crate::outbox::Row;
use crate::sinks::lines::ndjson;

/// Bytes of all that one sink keeps: enough to find out what is wrong.
pub(super) const KEPT_BYTES_MAX: u64 = 64 << 20;

/// A request that was refused.
pub(super) struct Refused<'a> {
    pub(super) status: u16,
    pub(super) url: &'a str,
    pub(super) key: &'a str,
    pub(super) rows: &'a [Row],
}

/// Keeps a request, and removes the oldest if there are too many. Blocking. Doing it again does nothing.
pub(super) fn keep(storage: &dyn Storage, dir: &str, refused: &Refused) -> Result<(), StorageError> {
    let Refused { status, url, key, rows } = refused;
    let head = json!({"status": status, "url": url, "idempotency_key": key, "rows": rows.len()});
    let mut text = format!("{head}\n").into_bytes();
    ndjson(*rows, &mut text);
    let first_row = rows.first().map_or(0, |row| row.number);
    match storage.put_new(&format!("{dir}/{first_row:020}-{key}"), &text) {
        Ok(()) | Err(StorageError::Exists { .. }) => {}
        Err(error) => return Err(error),
    }
    let mut kept = storage.list(dir)?;
    kept.sort_by(|a, b| a.name.cmp(&b.name));
    let mut bytes: u64 = kept.iter().map(|entry| entry.size).sum();
    for entry in &kept {
        if bytes <= KEPT_BYTES_MAX {
            break;
        }
        storage.delete(&format!("{dir}/{}", entry.name))?;
        tracing::warn!(
            file = format!("{dir}/{}", entry.name),
            "deleted: too much was refused; the view's table has the rows"
        );
        bytes -= entry.size;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tidemill_engine::storage::MemoryStorage;

    use super::*;

    #[test]
    fn what_is_refused_is_kept_once_and_not_for_ever() {
        let storage = MemoryStorage::default();
        let large = "x".repeat(1 << 20);
        for number in 0..70u64 {
            let rows = [Row { number, key: "".into(), payload: large.clone().into() }];
            let key = format!("log-sink-{number}-{}", number + 1);
            let refused = Refused { status: 422, url: "https://h/x", key: &key, rows: &rows };
            for _ in 0..2 {
                keep(&storage, "sinks/s/refused", &refused).expect("memory");
            }
        }
        let kept = storage.list("sinks/s/refused").expect("a folder");
        assert!((60..=64).contains(&kept.len()), "{}", kept.len());
        assert!(kept.iter().any(|entry| entry.name.ends_with("-69-70")), "the newest is there");
        assert!(kept.iter().map(|entry| entry.size).sum::<u64>() <= KEPT_BYTES_MAX);
        let text = storage.get("sinks/s/refused/00000000000000000069-log-sink-69-70").expect("a file");
        let text = std::str::from_utf8(&text).expect("text");
        let head = r#"{"idempotency_key":"log-sink-69-70","rows":1,"status":422,"url":"https://h/x"}"#;
        assert_eq!(text.lines().collect::<Vec<_>>(), [head, &large]);
    }
}
