//! Panes as columns: what a checkpoint keeps of a window, and how a pane is made of it again.
//!
//! One batch for each pane, one row for each group, sorted by key group, so that a worker takes exactly its share:
//!
//! ```text
//!   group   UInt8, ascending       which of the 256 key groups
//!   k0, k1  as the query's keys    the key, in columns: no internal form of a key is stored
//!   w0, w1  UInt64                 the accumulators' words, as the layout has them
//!           or text, may be null   where the word is the place of a text
//! ```

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringViewBuilder, UInt8Array, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt8Type, UInt64Type};
use arrow::error::ArrowError;

use super::key_table::KeyColumn;
use super::pane::Pane;
use crate::aggregate::{Layout, Selection};
use crate::key::{KEY_GROUP_COUNT, KeyGroup, KeyGroups};

/// Groups whose accumulators are put into columns together: they fit in the nearest cache.
const GROUPS_IN_CACHE: usize = 256;

/// What a worker hands over of a pane.
pub enum PaneSnapshot {
    /// The pane as it is now.
    Changed(Arc<Pane>),
    /// The last checkpoint has it.
    Unchanged,
}

/// A part of a pane that a checkpoint has, and the key groups that are taken from it.
#[derive(Clone, Debug)]
pub struct SavedPane {
    /// As [`PaneCodec::encode`] made it.
    pub rows: RecordBatch,
    /// Which of its rows count.
    pub groups: KeyGroups,
}

/// Turns panes of one query into batches.
pub struct PaneCodec {
    layout: Layout,
    keys: KeyColumn,
    schema: SchemaRef,
}

impl PaneCodec {
    /// Makes the codec of a query with these accumulators and keys.
    pub fn new(layout: Layout, keys: KeyColumn) -> PaneCodec {
        let mut fields = vec![Field::new("group", DataType::UInt8, false)];
        fields.extend(
            keys.fields().iter().enumerate().map(|(at, (kind, _))| Field::new(format!("k{at}"), kind.clone(), true)),
        );
        fields.extend((0..layout.width()).map(|word| match layout.is_text(word) {
            true => Field::new(format!("w{word}"), DataType::Utf8View, true),
            false => Field::new(format!("w{word}"), DataType::UInt64, false),
        }));
        PaneCodec { layout, keys, schema: Arc::new(Schema::new(fields)) }
    }

    /// Returns all groups of a pane.
    pub fn encode(&self, pane: &Pane) -> Result<RecordBatch, ArrowError> {
        let sorted = by_key_group(pane.keys.group_count(), |group| pane.keys.hash(group));
        let mut columns: Vec<ArrayRef> = vec![Arc::new(sorted.key_groups())];
        columns.extend(self.keys.columns(sorted.order.iter().map(|group| pane.keys.key(*group as usize)))?);
        let words = self.words(pane, &sorted.order).into_iter().enumerate();
        columns.extend(words.map(|(word, words)| -> ArrayRef {
            if !self.layout.is_text(word) {
                return Arc::new(UInt64Array::from(words));
            }
            let mut texts = StringViewBuilder::with_capacity(words.len());
            words.into_iter().for_each(|place| texts.append_option(pane.texts.get(place)));
            Arc::new(texts.finish())
        }));
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
    }

    /// Returns the accumulators' words, a column for each, in this order of the groups.
    fn words(&self, pane: &Pane, order: &[u32]) -> Vec<Vec<u64>> {
        let width = self.layout.width();
        let mut columns = vec![Vec::with_capacity(order.len()); width];
        // The words of a group lie side by side: what is fetched for the first column is still there for the last.
        for groups in order.chunks(GROUPS_IN_CACHE) {
            for (word, column) in columns.iter_mut().enumerate() {
                column.extend(groups.iter().map(|group| pane.slots[*group as usize * width + word]));
            }
        }
        columns
    }
}

impl Pane {
    /// Makes a pane of what checkpoints have of it.
    pub(super) fn restore(layout: &Layout, keys: &KeyColumn, saved: &[SavedPane]) -> Result<Pane, ArrowError> {
        let shares: Vec<RecordBatch> = saved.iter().map(SavedPane::share).collect::<Result<_, _>>()?;
        let mut pane = Pane::with_capacity(shares.iter().map(RecordBatch::num_rows).sum(), layout);
        let mut groups = Vec::new();
        for share in shares {
            let key_count = keys.fields().len();
            let expected = 1 + key_count + layout.width();
            if share.num_columns() != expected {
                let found = share.num_columns();
                return Err(ArrowError::SchemaError(format!("a saved pane has {found} columns, not {expected}")));
            }
            let key_column = keys.keys(&share.columns()[1..=key_count], share.num_rows())?;
            let hashes = KeyColumn::hashes(&key_column);
            pane.intern(&key_column, &hashes, Selection::All(share.num_rows()), &mut groups);
            pane.make_room(layout);
            let width = layout.width();
            for (word, column) in share.columns()[1 + key_count..].iter().enumerate() {
                if layout.is_text(word) {
                    let texts = column.as_string_view_opt().ok_or_else(|| unreadable(column))?;
                    for (row, group) in groups.iter().enumerate() {
                        let text = texts.is_valid(row).then(|| texts.value(row));
                        pane.slots[*group as usize * width + word] = pane.texts.keep(text);
                    }
                } else {
                    let words = column.as_primitive_opt::<UInt64Type>().ok_or_else(|| unreadable(column))?;
                    for (word_value, group) in words.values().iter().zip(&groups) {
                        pane.slots[*group as usize * width + word] = *word_value;
                    }
                }
            }
        }
        Ok(pane)
    }
}

impl SavedPane {
    /// Returns the rows that count. They lie side by side.
    pub(crate) fn share(&self) -> Result<RecordBatch, ArrowError> {
        let groups = self.rows.column_by_name("group").and_then(|column| column.as_primitive_opt::<UInt8Type>());
        let groups = groups.ok_or_else(|| ArrowError::SchemaError("a saved pane has no key groups".to_owned()))?;
        let start = groups.values().partition_point(|group| *group < self.groups.first);
        let end = groups.values().partition_point(|group| *group <= self.groups.last);
        Ok(self.rows.slice(start, end.saturating_sub(start)))
    }
}

/// Places of hashes in the order of their key groups; within one as they came.
pub(crate) struct ByKeyGroup {
    pub(crate) order: Vec<u32>,
    /// Where each key group ends in that order.
    ends: [u32; KEY_GROUP_COUNT],
}

impl ByKeyGroup {
    /// Returns the key group of each place.
    pub(crate) fn key_groups(&self) -> UInt8Array {
        let mut key_groups = Vec::with_capacity(self.order.len());
        for (key_group, end) in (0..=u8::MAX).zip(self.ends) {
            key_groups.resize(end as usize, key_group);
        }
        UInt8Array::from(key_groups)
    }
}

/// Sorts the places of hashes by their key groups.
pub(crate) fn by_key_group(count: usize, hash: impl Fn(usize) -> u64) -> ByKeyGroup {
    let of = |group: usize| usize::from(KeyGroup::of(hash(group)).0);
    let mut places = [0u32; KEY_GROUP_COUNT + 1];
    (0..count).for_each(|group| places[of(group) + 1] += 1);
    (0..KEY_GROUP_COUNT).for_each(|at| places[at + 1] += places[at]);
    let mut order = vec![0; count];
    for group in 0..count {
        let place = &mut places[of(group)];
        order[*place as usize] = u32::try_from(group).expect("fewer than four billion keys in one pane");
        *place += 1;
    }
    // Each beginning has moved to its end.
    let ends = *places.first_chunk().expect("one more than there are key groups");
    ByKeyGroup { order, ends }
}

fn unreadable(column: &ArrayRef) -> ArrowError {
    ArrowError::SchemaError(format!("a saved pane has a column of {}", column.data_type()))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringViewArray};
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::aggregate::{AggregateCall, AggregateKind};
    use crate::expr::Column;
    use crate::plan::window_schema;
    use crate::time::Watermark;
    use crate::window::{WindowAssigner, WindowState};

    fn call(kind: AggregateKind, index: usize, argument_type: DataType) -> AggregateCall {
        let argument = Some(Arc::new(Column { index, name: index.to_string() }) as _);
        AggregateCall { kind, argument, argument_type, name: format!("{kind:?}{index}") }
    }

    fn calls() -> Vec<AggregateCall> {
        use AggregateKind::{Avg, Count, Max, Min, Sum};
        let numbers = [Count, Sum, Avg, Min, Max].map(|kind| call(kind, 0, DataType::Int64));
        let texts = [Min, Max].map(|kind| call(kind, 1, DataType::Utf8View));
        numbers.into_iter().chain(texts).collect()
    }

    fn key_fields() -> Vec<(DataType, bool)> {
        vec![(DataType::Utf8View, true), (DataType::Int64, true)]
    }

    fn state() -> WindowState {
        let fields: Vec<_> =
            key_fields().into_iter().enumerate().map(|(at, (kind, null))| (format!("key{at}"), kind, null)).collect();
        let schema = window_schema(&fields, &calls());
        let keys = KeyColumn::new(key_fields()).expect("supported types");
        let assigner = WindowAssigner::Hopping { size_us: 30, slide_us: 10 };
        WindowState::new(assigner, Layout::new(&calls(), |_| true), keys, schema)
    }

    fn fill(state: &mut WindowState, random: &mut StdRng, rows: usize) {
        let keys = KeyColumn::new(key_fields()).expect("supported types");
        let texts: Vec<Option<String>> = (0..rows)
            .map(|_| random.random_bool(0.9).then(|| format!("a longer text {}", random.random_range(0..99))))
            .collect();
        let numbers: Int64Array =
            (0..rows).map(|_| random.random_bool(0.9).then(|| random.random_range(-50..50))).collect();
        let texts: ArrayRef = Arc::new(StringViewArray::from_iter(texts.iter().map(Option::as_deref)));
        let numbers: ArrayRef = Arc::new(numbers);
        let key = keys.keys(&[Arc::clone(&texts), Arc::clone(&numbers)], rows).expect("keys");
        let times: Vec<i64> = (0..rows).map(|_| random.random_range(0..60)).collect();
        let hashes = KeyColumn::hashes(&key);
        state.update(&key, &hashes, &times, &[numbers, texts], Selection::All(rows));
    }

    fn saved(state: &mut WindowState, groups: KeyGroups) -> Vec<(i64, Vec<SavedPane>)> {
        let codec =
            PaneCodec::new(Layout::new(&calls(), |_| true), KeyColumn::new(key_fields()).expect("supported types"));
        let save = |(start, snapshot): (i64, PaneSnapshot)| {
            let PaneSnapshot::Changed(pane) = snapshot else { panic!("never saved before") };
            (start, vec![SavedPane { rows: codec.encode(&pane).expect("encodes"), groups }])
        };
        state.snapshot().into_iter().map(save).collect()
    }

    /// All results, sorted as text.
    fn results(state: &mut WindowState) -> Vec<String> {
        let mut rows = Vec::new();
        for batch in state.close(Watermark::END).expect("closes") {
            for row in 0..batch.num_rows() {
                let cells: Vec<String> = batch
                    .columns()
                    .iter()
                    .map(|column| arrow::util::display::array_value_to_string(column, row).expect("a value"))
                    .collect();
                rows.push(cells.join("|"));
            }
        }
        rows.sort();
        rows
    }

    #[test]
    fn a_restored_window_gives_the_same_results_on_any_number_of_workers() {
        for workers in [1, 2, 3, 4, 7] {
            let mut random = StdRng::seed_from_u64(workers as u64);
            let mut whole = state();
            fill(&mut whole, &mut random, 3_000);
            let panes = saved(&mut whole, KeyGroups::ALL);
            let mut shared = Vec::new();
            for worker in 0..workers {
                let groups = KeyGroups::of_worker(worker, workers);
                let own: Vec<_> = panes
                    .iter()
                    .map(|(start, parts)| {
                        (*start, parts.iter().map(|part| SavedPane { groups, ..part.clone() }).collect())
                    })
                    .collect();
                let mut share = state();
                share.restore(Watermark::UNKNOWN, &own).expect("restores");
                shared.extend(results(&mut share));
            }
            shared.sort();
            assert_eq!(shared, results(&mut whole), "{workers} workers");
        }
    }

    #[test]
    fn a_checkpoint_sees_nothing_of_what_comes_after_it() {
        let mut random = StdRng::seed_from_u64(1);
        let mut first = state();
        fill(&mut first, &mut random, 500);
        let panes = first.snapshot();
        let codec =
            PaneCodec::new(Layout::new(&calls(), |_| true), KeyColumn::new(key_fields()).expect("supported types"));
        let encode = |panes: &[(i64, PaneSnapshot)]| -> Vec<RecordBatch> {
            let changed = panes.iter().filter_map(|(_, pane)| match pane {
                PaneSnapshot::Changed(pane) => Some(pane),
                PaneSnapshot::Unchanged => None,
            });
            changed.map(|pane| codec.encode(pane).expect("encodes")).collect()
        };
        let before = encode(&panes);
        fill(&mut first, &mut random, 500);
        assert_eq!(encode(&panes), before);
        assert_eq!(encode(&first.snapshot()).len(), before.len(), "all panes have changed");
        assert!(encode(&first.snapshot()).is_empty(), "and now none has");
    }
}
