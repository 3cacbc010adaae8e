//! Keys to dense group numbers: open addressing over sixteen-byte key views, one cache line for a probe.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, StringViewArray, StringViewBuilder};
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};

use crate::aggregate::Selection;
use crate::key::{KeyView, hash_key, hash_long};

/// How the key columns of a query become one column of keys, and back.
///
/// One text column is its own key; anything else goes through Arrow's row format, whose bytes are equal if and only if
/// the rows are.
pub struct KeyColumn {
    fields: Vec<(DataType, bool)>,
    converter: Option<RowConverter>,
}

impl KeyColumn {
    /// Makes the conversion for columns of these types; the flag says whether a column can be null.
    pub fn new(fields: Vec<(DataType, bool)>) -> Result<KeyColumn, ArrowError> {
        let converter = match fields.as_slice() {
            [] | [(DataType::Utf8View, _)] => None,
            _ => Some(RowConverter::new(fields.iter().map(|(kind, _)| SortField::new(kind.clone())).collect())?),
        };
        Ok(KeyColumn { fields, converter })
    }

    /// Makes the key column of a batch with these key columns.
    pub fn keys(&self, columns: &[ArrayRef], row_count: usize) -> Result<ArrayRef, ArrowError> {
        match &self.converter {
            Some(converter) => {
                let columns: Vec<ArrayRef> = columns.iter().map(one_zero).collect();
                Ok(Arc::new(converter.convert_columns(&columns)?.try_into_binary()?))
            }
            None if columns.is_empty() => {
                let mut keys = StringViewBuilder::with_capacity(row_count);
                (0..row_count).for_each(|_| keys.append_value(""));
                Ok(Arc::new(keys.finish()))
            }
            None => Ok(Arc::clone(&columns[0])),
        }
    }

    /// Turns keys back into the key columns.
    pub fn columns<'a>(&self, keys: impl Iterator<Item = Option<&'a [u8]>>) -> Result<Vec<ArrayRef>, ArrowError> {
        if let Some(converter) = &self.converter {
            let parser = converter.parser();
            return converter.convert_rows(keys.map(|key| parser.parse(key.expect("row keys are never null"))));
        }
        if self.fields.is_empty() {
            return Ok(Vec::new());
        }
        let mut column = StringViewBuilder::new();
        for key in keys {
            column.append_option(key.map(|key| std::str::from_utf8(key).expect("text keys came from text columns")));
        }
        Ok(vec![Arc::new(column.finish())])
    }

    /// Returns the key columns' types, and whether each can be null.
    pub fn fields(&self) -> &[(DataType, bool)] {
        &self.fields
    }

    /// Hashes every key: what decides about its key group, and where it lies in a table.
    pub fn hashes(keys: &ArrayRef) -> Vec<u64> {
        match Keys::of(keys) {
            Keys::Text(column) if column.null_count() == 0 => {
                let long = |row: usize| hash_long(column.value(row).as_bytes());
                let views = column.views().iter().enumerate();
                views.map(|(row, view)| hash_key(KeyView(*view), || long(row))).collect()
            }
            column => (0..keys.len()).map(|row| hash_key(column.view(row), || hash_long(column.bytes(row)))).collect(),
        }
    }
}

/// Makes equal numbers equal bytes: 0.0 and -0.0 are one key, and all NaNs are one.
fn one_zero(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        // Adding 0.0 changes no number but -0.0.
        DataType::Float64 => {
            let numbers = column.as_primitive::<Float64Type>();
            Arc::new(numbers.unary::<_, Float64Type>(|number| if number.is_nan() { f64::NAN } else { number + 0.0 }))
        }
        DataType::Float32 => {
            let numbers = column.as_primitive::<Float32Type>();
            Arc::new(numbers.unary::<_, Float32Type>(|number| if number.is_nan() { f32::NAN } else { number + 0.0 }))
        }
        _ => Arc::clone(column),
    }
}

/// A column of keys, as views and bytes.
enum Keys<'a> {
    Text(&'a StringViewArray),
    Rows(&'a BinaryArray),
}

impl<'a> Keys<'a> {
    fn of(keys: &'a ArrayRef) -> Keys<'a> {
        match keys.data_type() {
            DataType::Utf8View => Keys::Text(keys.as_string_view()),
            _ => Keys::Rows(keys.as_binary::<i32>()),
        }
    }

    #[inline]
    fn view(&self, row: usize) -> KeyView {
        match self {
            Keys::Text(column) if column.is_null(row) => KeyView::NULL,
            Keys::Text(column) => text_view(column.views()[row]),
            Keys::Rows(column) => KeyView::of(column.value(row)),
        }
    }

    #[inline]
    fn bytes(&self, row: usize) -> &'a [u8] {
        match self {
            Keys::Text(column) => column.value(row).as_bytes(),
            Keys::Rows(column) => column.value(row),
        }
    }
}

/// Returns the view of a text. Where Arrow has the place of a long one, the place in our arena will stand.
#[inline]
fn text_view(view: u128) -> KeyView {
    let view = KeyView(view);
    if view.is_inline() { view } else { view.owned_at(0) }
}

/// Keys that are looked up together, so that their cache misses overlap.
const BLOCK_KEYS: usize = 128;

/// What [`KeyTable::find`] says of a key that is not there.
pub(crate) const NO_GROUP: u32 = u32::MAX;

/// Dense group numbers for keys, in the order in which keys first came.
///
/// `index` is an open-addressing table, at most half full: a place holds the upper half of a hash and a group's number
/// plus one; zero is an empty place. It is small enough to stay in the caches; the keys lie beside it, by group.
#[derive(Clone, Default)]
pub(crate) struct KeyTable {
    index: Vec<u64>,
    /// The views of all groups, as bytes; a long key's place is its offset in `arena`.
    views: Vec<[u8; 16]>,
    hashes: Vec<u64>,
    arena: Vec<u8>,
}

impl KeyTable {
    /// Makes a table that holds this many keys without growing.
    pub(crate) fn with_capacity(key_count: usize) -> KeyTable {
        let mut table = KeyTable::default();
        if key_count > 0 {
            table.index = vec![0; (key_count * 2).next_power_of_two()];
            table.views.reserve(key_count);
            table.hashes.reserve(key_count);
        }
        table
    }

    pub(crate) fn group_count(&self) -> usize {
        self.views.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.index.len() * 8 + self.views.len() * 24 + self.arena.len()
    }

    /// Finds or makes the group of each selected key. `hashes` has a hash for every row of the batch.
    pub(crate) fn intern(&mut self, keys: &ArrayRef, hashes: &[u64], selection: Selection<'_>, groups: &mut Vec<u32>) {
        assert_eq!(hashes.len(), keys.len(), "a hash for each row");
        groups.clear();
        groups.reserve(selection.count());
        match Keys::of(keys) {
            Keys::Text(column) if column.null_count() == 0 => {
                let view = |row: usize| text_view(column.views()[row]);
                self.intern_all(hashes, selection, groups, view, |row| column.value(row).as_bytes());
            }
            keys => self.intern_all(hashes, selection, groups, |row| keys.view(row), |row| keys.bytes(row)),
        }
    }

    fn intern_all<'a>(
        &mut self,
        hashes: &[u64],
        selection: Selection<'_>,
        groups: &mut Vec<u32>,
        view: impl Fn(usize) -> KeyView,
        bytes: impl Fn(usize) -> &'a [u8],
    ) {
        let mut block = [0u64; BLOCK_KEYS];
        let mut places = [0u64; BLOCK_KEYS];
        let mut views = [[0u8; 16]; BLOCK_KEYS];
        for start in (0..selection.count()).step_by(BLOCK_KEYS) {
            let count = BLOCK_KEYS.min(selection.count() - start);
            self.make_room(count);
            selection.gather(hashes, start, &mut block[..count]);
            // Three passes, each of loads that do not wait for one another: the places, the likely groups, their keys.
            let mask = self.index.len() - 1;
            for (place, hash) in places.iter_mut().zip(&block[..count]) {
                *place = self.index[*hash as usize & mask];
            }
            for (place, hash) in places.iter_mut().zip(&block[..count]) {
                *place = self.likely(*hash, *place);
            }
            for (view, place) in views.iter_mut().zip(&places[..count]) {
                *view = self.views.get((*place as u32).wrapping_sub(1) as usize).copied().unwrap_or_default();
            }
            for at in 0..count {
                let row = selection.row(start + at);
                let (hash, key, place) = (block[at], view(row), places[at]);
                let own = KeyView(u128::from_le_bytes(views[at]));
                let hit = place != 0 && self.same(own, place as u32 - 1, hash, key, || bytes(row));
                groups.push(if hit { place as u32 - 1 } else { self.find_or_add(key, hash, || bytes(row)) });
            }
        }
    }

    /// Finds the group of each selected key, and makes none: [`NO_GROUP`] where there is none.
    pub(crate) fn find(&self, keys: &ArrayRef, hashes: &[u64], selection: Selection<'_>, groups: &mut Vec<u32>) {
        assert_eq!(hashes.len(), keys.len(), "a hash for each row");
        groups.clear();
        if self.views.is_empty() {
            groups.resize(selection.count(), NO_GROUP);
            return;
        }
        let keys = Keys::of(keys);
        let mut block = [0u64; BLOCK_KEYS];
        let mut places = [0u64; BLOCK_KEYS];
        let mask = self.index.len() - 1;
        for start in (0..selection.count()).step_by(BLOCK_KEYS) {
            let count = BLOCK_KEYS.min(selection.count() - start);
            selection.gather(hashes, start, &mut block[..count]);
            for (place, hash) in places.iter_mut().zip(&block[..count]) {
                *place = self.index[*hash as usize & mask];
            }
            for at in 0..count {
                let hash = block[at];
                // Most keys are not there, which is seen without looking at any key.
                let likely = self.likely(hash, places[at]);
                let row = selection.row(start + at);
                groups.push(if likely == 0 {
                    NO_GROUP
                } else {
                    self.find_one(keys.view(row), hash, || keys.bytes(row))
                });
            }
        }
    }

    fn find_one<'a>(&self, view: KeyView, hash: u64, bytes: impl Fn() -> &'a [u8]) -> u32 {
        let mask = self.index.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let place = self.index[at];
            if place == 0 {
                return NO_GROUP;
            }
            let group = place as u32 - 1;
            if place >> 32 == hash >> 32 && self.same(self.view(group as usize), group, hash, view, &bytes) {
                return group;
            }
            at = (at + 1) & mask;
        }
    }

    /// Returns the first place from `place` on whose half of a hash fits; zero if there is none.
    #[inline]
    fn likely(&self, hash: u64, place: u64) -> u64 {
        let (mut at, mut place) = (hash as usize, place);
        while place != 0 && place >> 32 != hash >> 32 {
            at += 1;
            place = self.index[at & (self.index.len() - 1)];
        }
        place
    }

    /// Finds or makes the group of a key of another table.
    pub(super) fn adopt(&mut self, other: &KeyTable, group: usize) -> u32 {
        let view = other.view(group);
        let unowned = if view.is_inline() || view == KeyView::NULL { view } else { view.owned_at(0) };
        self.find_or_add(unowned, other.hashes[group], || other.key(group).expect("a long key is not null"))
    }

    fn find_or_add<'a>(&mut self, view: KeyView, hash: u64, bytes: impl Fn() -> &'a [u8]) -> u32 {
        self.make_room(1);
        let mask = self.index.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let place = self.index[at];
            if place == 0 {
                return self.add(at, view, hash, bytes);
            }
            let group = place as u32 - 1;
            if place >> 32 == hash >> 32 && self.same(self.view(group as usize), group, hash, view, &bytes) {
                return group;
            }
            at = (at + 1) & mask;
        }
    }

    /// Whether a group, whose view is `own`, has this key.
    #[inline]
    fn same<'a>(&self, own: KeyView, group: u32, hash: u64, view: KeyView, bytes: impl Fn() -> &'a [u8]) -> bool {
        if view.is_inline() || view == KeyView::NULL {
            return own == view;
        }
        self.hashes[group as usize] == hash && own.prefix() == view.prefix() && self.long_key(own) == bytes()
    }

    fn add<'a>(&mut self, at: usize, view: KeyView, hash: u64, bytes: impl Fn() -> &'a [u8]) -> u32 {
        let mut view = view;
        if !view.is_inline() && view != KeyView::NULL {
            let place = self.arena.len() as u64;
            self.arena.extend_from_slice(bytes());
            view = view.owned_at(place);
        }
        self.views.push(view.0.to_le_bytes());
        self.hashes.push(hash);
        let number = u32::try_from(self.views.len()).expect("fewer than four billion keys in one pane");
        self.index[at] = hash >> 32 << 32 | u64::from(number);
        number - 1
    }

    /// Grows until so many more keys leave the table at most half full.
    fn make_room(&mut self, key_count: usize) {
        let wanted = ((self.views.len() + key_count) * 2).next_power_of_two().max(16);
        if wanted <= self.index.len() {
            return;
        }
        self.index = vec![0; wanted];
        for (group, hash) in self.hashes.iter().enumerate() {
            let mut at = *hash as usize & (wanted - 1);
            while self.index[at] != 0 {
                at = (at + 1) & (wanted - 1);
            }
            self.index[at] = hash >> 32 << 32 | (group as u64 + 1);
        }
    }

    #[inline]
    fn long_key(&self, view: KeyView) -> &[u8] {
        let start = view.place() as usize;
        &self.arena[start..start + view.size()]
    }

    /// Returns a group's key; `None` is the null key.
    pub(crate) fn key(&self, group: usize) -> Option<&[u8]> {
        match self.view(group) {
            KeyView::NULL => None,
            view if view.is_inline() => Some(&self.views[group][4..4 + view.size()]),
            view => Some(self.long_key(view)),
        }
    }

    /// Returns the hash of a group's key.
    pub(crate) fn hash(&self, group: usize) -> u64 {
        self.hashes[group]
    }

    /// Copies the keys of all groups from this one on.
    pub(crate) fn since(&self, group: usize) -> KeysSince {
        let views = self.views[group..].to_vec();
        let is_long = |view: &KeyView| !view.is_inline() && *view != KeyView::NULL;
        let first_long = views.iter().map(|view| KeyView(u128::from_le_bytes(*view))).find(is_long);
        // Long keys lie in the arena in the order of their groups.
        let arena_start = first_long.map_or(self.arena.len(), |view| view.place() as usize);
        let arena = self.arena[arena_start..].to_vec();
        KeysSince { views, hashes: self.hashes[group..].to_vec(), arena, arena_start }
    }

    #[inline]
    fn view(&self, group: usize) -> KeyView {
        KeyView(u128::from_le_bytes(self.views[group]))
    }
}

/// The keys of a table from some group on, as they were when they were copied.
pub(crate) struct KeysSince {
    views: Vec<[u8; 16]>,
    hashes: Vec<u64>,
    arena: Vec<u8>,
    arena_start: usize,
}

impl KeysSince {
    pub(crate) fn hashes(&self) -> &[u64] {
        &self.hashes
    }

    /// Returns a key; `None` is the null key.
    pub(crate) fn key(&self, at: usize) -> Option<&[u8]> {
        match KeyView(u128::from_le_bytes(self.views[at])) {
            KeyView::NULL => None,
            view if view.is_inline() => Some(&self.views[at][4..4 + view.size()]),
            view => {
                let start = view.place() as usize - self.arena_start;
                Some(&self.arena[start..start + view.size()])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intern(table: &mut KeyTable, keys: &ArrayRef) -> Vec<u32> {
        let mut groups = Vec::new();
        table.intern(keys, &KeyColumn::hashes(keys), Selection::All(keys.len()), &mut groups);
        groups
    }

    #[test]
    fn equal_keys_share_a_group_and_different_ones_do_not() {
        let names: Vec<Option<String>> = (0..40_000)
            .map(|row| match row % 7 {
                0 => None,
                1 => Some(String::new()),
                2 => Some(format!("short{}", row % 1_000)),
                _ => Some(format!("a key of more than twelve bytes {}", row % 3_000)),
            })
            .collect();
        let keys: ArrayRef = Arc::new(StringViewArray::from_iter(names.iter().map(Option::as_deref)));
        let mut table = KeyTable::default();
        let groups = intern(&mut table, &keys);
        let mut expected = std::collections::HashMap::new();
        for (row, name) in names.iter().enumerate() {
            let next = expected.len() as u32;
            assert_eq!(groups[row], *expected.entry(name.clone()).or_insert(next), "{name:?}");
            assert_eq!(table.key(groups[row] as usize), name.as_deref().map(str::as_bytes));
        }
        assert_eq!(table.group_count(), expected.len());
        assert_eq!(intern(&mut table, &keys), groups, "a second time gives the same");
        let mut other = KeyTable::with_capacity(10);
        for group in (0..table.group_count()).rev() {
            let adopted = other.adopt(&table, group);
            assert_eq!(other.key(adopted as usize), table.key(group));
        }
        assert_eq!(other.group_count(), table.group_count());

        let mut found = Vec::new();
        table.find(&keys, &KeyColumn::hashes(&keys), Selection::All(keys.len()), &mut found);
        assert_eq!(found, groups, "finding is interning without making");
        let strangers: ArrayRef =
            Arc::new(StringViewArray::from(vec![Some("a stranger of many bytes"), Some("nobody")]));
        table.find(&strangers, &KeyColumn::hashes(&strangers), Selection::All(2), &mut found);
        assert_eq!(found, [NO_GROUP, NO_GROUP]);
        for start in [0, 1, 2_000, table.group_count()] {
            let since = table.since(start);
            assert_eq!(since.hashes().len(), table.group_count() - start);
            assert!((start..table.group_count()).all(|group| since.key(group - start) == table.key(group)));
        }
    }

    #[test]
    fn many_columns_become_one_key_and_come_back() {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringViewArray::from(vec![Some("a"), None, Some("a"), Some("")])),
            Arc::new(arrow::array::Int64Array::from(vec![Some(1), Some(1), Some(1), None])),
        ];
        let key = KeyColumn::new(vec![(DataType::Utf8View, true), (DataType::Int64, true)]).expect("supported types");
        let keys = key.keys(&columns, 4).expect("same types");
        let mut table = KeyTable::default();
        assert_eq!(intern(&mut table, &keys), [0, 1, 0, 2]);
        let back = key.columns((0..3).map(|group| table.key(group))).expect("own keys");
        assert_eq!(back[0].as_string_view().iter().collect::<Vec<_>>(), [Some("a"), None, Some("")]);
        assert_eq!(
            back[1].as_primitive::<arrow::datatypes::Int64Type>().iter().collect::<Vec<_>>(),
            [Some(1), Some(1), None]
        );
    }
}
