//! What a partition's source has noted: the fold of the [`Note`]s in the log, a part of every checkpoint.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, RecordBatch, UInt64Array};
use arrow::datatypes::UInt64Type;
use bytes::Bytes;

use crate::seeded_bugs::{SeededBug, is_planted};
use crate::source::{Appended, Note, Offset};

/// The notes of one partition that are not forgotten.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Copies: a slice would keep the log's record, or a connection's buffer, alive.
    kept: BTreeMap<Box<[u8]>, Kept>,
    /// Whether there is something that no checkpoint has.
    changed: bool,
}

/// A note, and where the messages stand that it came with.
#[derive(Debug)]
struct Kept {
    value: Box<[u8]>,
    at: Option<Appended>,
}

impl Notes {
    /// Takes notes in the order of the log, with the place of the messages they came with.
    pub(super) fn take(&mut self, notes: Vec<Note>, at: Appended) {
        self.changed |= !notes.is_empty();
        for Note { key, value } in notes {
            if value.is_empty() {
                self.kept.remove(&key[..]);
            } else {
                self.kept.insert(key[..].into(), Kept { value: value[..].into(), at: Some(at) });
            }
        }
    }

    /// Returns all notes for a checkpoint, sorted by key, unless the checkpoint before has the same.
    pub(super) fn changed_rows(&mut self) -> Option<RecordBatch> {
        if !std::mem::take(&mut self.changed) || is_planted(SeededBug::NotesNotSaved) {
            return None;
        }
        let keys: ArrayRef = Arc::new(BinaryArray::from_iter_values(self.kept.keys()));
        let values = self.kept.values().map(|kept| &kept.value);
        let values: ArrayRef = Arc::new(BinaryArray::from_iter_values(values));
        let offsets = |which: fn(&Appended) -> Offset| -> ArrayRef {
            let offset = |kept: &Kept| kept.at.as_ref().map(|at| which(at).0);
            Arc::new(self.kept.values().map(offset).collect::<UInt64Array>())
        };
        let columns =
            [("key", keys), ("value", values), ("first", offsets(|at| at.first)), ("next", offsets(|at| at.next))];
        let nullable = columns.map(|(name, column)| (name, column, matches!(name, "first" | "next")));
        Some(RecordBatch::try_from_iter_with_nullable(nullable).expect("columns of one length"))
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
        // Older checkpoints have no places.
        let offset = |name: &str, row: usize| -> Option<Offset> {
            let column = rows.column_by_name(name)?.as_primitive_opt::<UInt64Type>()?;
            column.is_valid(row).then(|| Offset(column.value(row)))
        };
        let kept = |row: usize| {
            let at = offset("first", row).zip(offset("next", row)).map(|(first, next)| Appended { first, next });
            (keys.value(row).into(), Kept { value: values.value(row).into(), at })
        };
        Ok(Notes { kept: (0..rows.num_rows()).map(kept).collect(), changed: false })
    }

    /// Returns what a source is told when it begins again: the notes, and their places.
    pub(super) fn resume(&self) -> (BTreeMap<Bytes, Bytes>, BTreeMap<Bytes, Appended>) {
        let (mut notes, mut places) = (BTreeMap::new(), BTreeMap::new());
        for (key, kept) in &self.kept {
            let key = Bytes::copy_from_slice(key);
            if let Some(at) = kept.at {
                places.insert(key.clone(), at);
            }
            notes.insert(key, Bytes::copy_from_slice(&kept.value));
        }
        (notes, places)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_holds_what_is_not_forgotten_and_only_if_something_changed() {
        let mut notes = Notes::default();
        assert!(notes.changed_rows().is_none());
        let at = Appended { first: Offset(3), next: Offset(5) };
        notes.take(vec![Note::new("a", "1"), Note::new("b", "2"), Note::new("a", "3"), Note::forget("b")], at);
        let rows = notes.changed_rows().expect("changed");
        assert!(notes.changed_rows().is_none());
        let restored = Notes::restored(&rows).expect("its own rows");
        let (key, value) = (Bytes::from("a"), Bytes::from("3"));
        assert_eq!(
            restored.resume(),
            (BTreeMap::from([(key.clone(), value.clone())]), BTreeMap::from([(key.clone(), at)]))
        );
        let older = rows.project(&[0, 1]).expect("two columns");
        let restored = Notes::restored(&older).expect("rows without places");
        assert_eq!(restored.resume(), (BTreeMap::from([(key, value)]), BTreeMap::new()));
        notes.take(vec![Note::forget("a")], at);
        assert_eq!(notes.changed_rows().expect("changed").num_rows(), 0);
        assert!(Notes::restored(&RecordBatch::new_empty(Arc::new(arrow::datatypes::Schema::empty()))).is_err());
    }
}
