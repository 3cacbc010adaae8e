//! What a partition's source has noted: the fold of the [`Note`]s in the log, a part of every checkpoint.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, RecordBatch};
use bytes::Bytes;

use crate::seeded_bugs::{SeededBug, is_planted};
use crate::source::Note;

/// The notes of one partition that are not forgotten.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Copies: a slice would keep the log's record, or a connection's buffer, alive.
    kept: BTreeMap<Box<[u8]>, Box<[u8]>>,
    /// Whether there is something that no checkpoint has.
    changed: bool,
}

impl Notes {
    /// Takes notes in the order of the log.
    pub(super) fn take(&mut self, notes: Vec<Note>) {
        self.changed |= !notes.is_empty();
        for Note { key, value } in notes {
            if value.is_empty() {
                self.kept.remove(&key[..]);
            } else {
                self.kept.insert(key[..].into(), value[..].into());
            }
        }
    }

    /// Returns all notes for a checkpoint, sorted by key, unless the checkpoint before has the same.
    pub(super) fn changed_rows(&mut self) -> Option<RecordBatch> {
        if !std::mem::take(&mut self.changed) || is_planted(SeededBug::NotesNotSaved) {
            return None;
        }
        let keys: ArrayRef = Arc::new(BinaryArray::from_iter_values(self.kept.keys()));
        let values: ArrayRef = Arc::new(BinaryArray::from_iter_values(self.kept.values()));
        Some(RecordBatch::try_from_iter([("key", keys), ("value", values)]).expect("two columns of one length"))
    }

    /// Goes on from what [`Notes::changed_rows`] returned; an error says that the rows are something else.
    pub(super) fn restored(rows: &RecordBatch) -> Result<Notes, String> {
        let column = |name: &str| -> Result<&BinaryArray, String> {
            let column = rows.column_by_name(name).and_then(|column| column.as_binary_opt::<i32>());
            column.ok_or_else(|| format!("no column {name} of binary values"))
        };
        let (keys, values) = (column("key")?, column("value")?);
        if keys.null_count() + values.null_count() > 0 {
            return Err("a note without key or value".to_owned());
        }
        let kept = (0..rows.num_rows()).map(|row| (keys.value(row).into(), values.value(row).into())).collect();
        Ok(Notes { kept, changed: false })
    }

    /// Returns what a source is told when it begins again.
    pub(super) fn resume(&self) -> BTreeMap<Bytes, Bytes> {
        let copy = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
        self.kept.iter().map(|(key, value)| (copy(key), copy(value))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_holds_what_is_not_forgotten_and_only_if_something_changed() {
        let mut notes = Notes::default();
        assert!(notes.changed_rows().is_none());
        notes.take(vec![Note::new("a", "1"), Note::new("b", "2"), Note::new("a", "3"), Note::forget("b")]);
        let rows = notes.changed_rows().expect("changed");
        assert!(notes.changed_rows().is_none());
        let restored = Notes::restored(&rows).expect("its own rows");
        assert_eq!(restored.resume(), BTreeMap::from([(Bytes::from("a"), Bytes::from("3"))]));
        notes.take(vec![Note::forget("a")]);
        assert_eq!(notes.changed_rows().expect("changed").num_rows(), 0);
        assert!(Notes::restored(&RecordBatch::new_empty(Arc::new(arrow::datatypes::Schema::empty()))).is_err());
    }
}
