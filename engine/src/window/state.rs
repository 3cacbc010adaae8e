//! The state of one windowed query on one worker: panes in, closed windows out. Pure: no clock, no I/O, no timely.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;

use super::key_table::KeyColumn;
use super::pane::Pane;
use super::snapshot::{PaneSnapshot, SavedPane};
use super::{EVENT_TIME_MAX_US, WindowAssigner};
use crate::aggregate::{Layout, Selection};
use crate::seeded_bugs::{SeededBug, is_planted};
use crate::time::Watermark;

/// Result rows that leave in one batch.
const RESULT_ROWS_MAX: usize = 65_536;

/// From this many rows on a new pane is made as big as the last one was; fewer may be stragglers.
const PRESIZE_ROWS_MIN: usize = 1_024;

/// A pane, and whether a checkpoint has it as it is.
struct OpenPane {
    /// Shared with a checkpoint while that is written; copied then by whoever changes it.
    pane: Arc<Pane>,
    is_saved: bool,
}

/// All open panes of a query, and the watermark they were last closed by.
pub struct WindowState {
    assigner: WindowAssigner,
    layout: Layout,
    keys: KeyColumn,
    schema: SchemaRef,
    panes: BTreeMap<i64, OpenPane>,
    watermark: Watermark,
    group_count_last: usize,
    groups: Vec<u32>,
}

impl WindowState {
    /// Makes an empty state. `schema` is that of the results.
    pub fn new(assigner: WindowAssigner, layout: Layout, keys: KeyColumn, schema: SchemaRef) -> WindowState {
        WindowState {
            assigner,
            layout,
            keys,
            schema,
            panes: BTreeMap::new(),
            watermark: Watermark::UNKNOWN,
            group_count_last: 0,
            groups: Vec::new(),
        }
    }

    /// Returns the watermark that closed windows last.
    pub fn watermark(&self) -> Watermark {
        self.watermark
    }

    /// Adds the selected rows to their panes; returns the rows that are late by the current watermark, ascending.
    /// `times_us`, `hashes` and the columns have a value for every row of the batch, selected or not.
    pub fn update(
        &mut self,
        keys: &ArrayRef,
        hashes: &[u64],
        times_us: &[i64],
        arguments: &[ArrayRef],
        selection: Selection<'_>,
    ) -> Vec<u32> {
        let mut late = Vec::new();
        let Some(first) = self.first_pane(times_us, selection) else { return late };
        if self.all_in(first, times_us, selection) {
            if self.is_open(first) {
                self.update_pane(first, keys, hashes, arguments, selection);
            } else {
                match selection {
                    Selection::All(count) => late.extend(0..count as u32),
                    Selection::Rows(rows) => late.extend_from_slice(rows),
                }
            }
            return late;
        }
        for (pane, rows) in self.split(times_us, selection) {
            if self.is_open(pane) {
                self.update_pane(pane, keys, hashes, arguments, Selection::Rows(&rows));
            } else {
                late.extend_from_slice(&rows);
            }
        }
        late.sort_unstable();
        if is_planted(SeededBug::LateRowDropped) { Vec::new() } else { late }
    }

    fn first_pane(&self, times_us: &[i64], selection: Selection<'_>) -> Option<i64> {
        let row = match selection {
            Selection::All(count) => (count > 0).then_some(0)?,
            Selection::Rows(rows) => *rows.first()? as usize,
        };
        Some(self.assigner.pane_of(times_us[row]))
    }

    fn all_in(&self, pane: i64, times_us: &[i64], selection: Selection<'_>) -> bool {
        let width = self.assigner.pane_us() as u64;
        let inside = |time_us: i64| (time_us.wrapping_sub(pane) as u64) < width;
        match selection {
            Selection::All(count) => times_us[..count].iter().all(|time_us| inside(*time_us)),
            Selection::Rows(rows) => rows.iter().all(|row| inside(times_us[*row as usize])),
        }
    }

    /// Splits the selected rows by pane, panes in order.
    fn split(&self, times_us: &[i64], selection: Selection<'_>) -> BTreeMap<i64, Vec<u32>> {
        let width = self.assigner.pane_us();
        let mut places: HashMap<i64, usize> = HashMap::new();
        let mut parts: Vec<(i64, Vec<u32>)> = Vec::new();
        let mut last = 0;
        let mut put = |row: u32| {
            let time_us = times_us[row as usize];
            let stays = parts.get(last).is_some_and(|(pane, _)| (time_us.wrapping_sub(*pane) as u64) < width as u64);
            if !stays {
                let pane = time_us - time_us.rem_euclid(width);
                last = *places.entry(pane).or_insert(parts.len());
                if last == parts.len() {
                    parts.push((pane, Vec::new()));
                }
            }
            parts[last].1.push(row);
        };
        match selection {
            Selection::All(count) => (0..count as u32).for_each(&mut put),
            Selection::Rows(rows) => rows.iter().copied().for_each(&mut put),
        }
        parts.into_iter().collect()
    }

    fn is_open(&self, pane: i64) -> bool {
        debug_assert!(pane.abs() <= EVENT_TIME_MAX_US + super::WINDOW_SIZE_MAX_US, "the source refuses such times");
        self.assigner.last_end(pane).is_some_and(|end| end > self.watermark.0)
    }

    fn update_pane(
        &mut self,
        pane: i64,
        keys: &ArrayRef,
        hashes: &[u64],
        arguments: &[ArrayRef],
        selection: Selection<'_>,
    ) {
        let layout = &self.layout;
        let expected = if selection.count() >= PRESIZE_ROWS_MIN { self.group_count_last } else { 0 };
        let open = self
            .panes
            .entry(pane)
            .or_insert_with(|| OpenPane { pane: Arc::new(Pane::with_capacity(expected, layout)), is_saved: false });
        open.is_saved = false;
        Arc::make_mut(&mut open.pane).update(layout, keys, hashes, arguments, selection, &mut self.groups);
    }

    /// Closes every window that ends at or before the watermark, earliest first, and returns its rows: keys, `window_start`,
    /// `window_end`, aggregates. A watermark never moves back: an
    /// earlier one does nothing.
    pub fn close(&mut self, watermark: Watermark) -> Result<Vec<RecordBatch>, ArrowError> {
        let mut results = Vec::new();
        if watermark <= self.watermark {
            return Ok(results);
        }
        if self.assigner.size_us() == self.assigner.slide_us() {
            self.close_tumbling(watermark, &mut results)?;
        } else {
            self.close_hopping(watermark, &mut results)?;
        }
        self.watermark = watermark;
        Ok(results)
    }

    fn close_tumbling(&mut self, watermark: Watermark, results: &mut Vec<RecordBatch>) -> Result<(), ArrowError> {
        let size_us = self.assigner.size_us();
        while let Some(first) = self.panes.first_entry() {
            let start = *first.key();
            if start + size_us > watermark.0 {
                break;
            }
            let pane = first.remove().pane;
            self.group_count_last = pane.keys.group_count();
            self.emit(&pane, start, results)?;
        }
        Ok(())
    }

    fn close_hopping(&mut self, watermark: Watermark, results: &mut Vec<RecordBatch>) -> Result<(), ArrowError> {
        let size_us = self.assigner.size_us();
        let due: BTreeSet<i64> = self
            .panes
            .keys()
            .flat_map(|pane| self.assigner.windows_of(*pane))
            .filter(|start| start + size_us > self.watermark.0 && start + size_us <= watermark.0)
            .collect();
        for start in due {
            let mut window = Pane::default();
            for (_, open) in self.panes.range(start..start + size_us) {
                window.merge(&self.layout, &open.pane);
            }
            self.emit(&window, start, results)?;
        }
        let assigner = self.assigner;
        self.panes.retain(|pane, _| assigner.last_end(*pane).is_some_and(|end| end > watermark.0));
        Ok(())
    }

    fn emit(&self, pane: &Pane, start: i64, results: &mut Vec<RecordBatch>) -> Result<(), ArrowError> {
        let group_count = pane.keys.group_count();
        for from in (0..group_count).step_by(RESULT_ROWS_MAX) {
            let to = (from + RESULT_ROWS_MAX).min(group_count);
            let instant = |us: i64| -> ArrayRef {
                Arc::new(TimestampMicrosecondArray::from(vec![us; to - from]).with_timezone("UTC"))
            };
            let mut columns = self.keys.columns((from..to).map(|group| pane.keys.key(group)))?;
            columns.push(instant(start));
            columns.push(instant(start + self.assigner.size_us()));
            columns.extend(self.layout.finish(&pane.slots, &pane.texts, from, to));
            results.push(RecordBatch::try_new(Arc::clone(&self.schema), columns)?);
        }
        Ok(())
    }

    /// Returns the bytes held by all panes.
    pub fn bytes(&self) -> usize {
        self.panes.values().map(|open| open.pane.bytes()).sum()
    }

    /// Hands all panes over to a checkpoint, by their starts: as they are now, however they change later. One that has
    /// not changed since the last time is only named.
    pub fn snapshot(&mut self) -> Vec<(i64, PaneSnapshot)> {
        let hand_over = |(start, open): (&i64, &mut OpenPane)| {
            let is_saved = std::mem::replace(&mut open.is_saved, true);
            let snapshot =
                if is_saved { PaneSnapshot::Unchanged } else { PaneSnapshot::Changed(Arc::clone(&open.pane)) };
            (*start, snapshot)
        };
        self.panes.iter_mut().map(hand_over).collect()
    }

    /// Takes over what a checkpoint has; before the first row.
    pub fn restore(&mut self, watermark: Watermark, panes: &[(i64, Vec<SavedPane>)]) -> Result<(), ArrowError> {
        self.watermark = watermark;
        for (start, saved) in panes {
            let pane = Pane::restore(&self.layout, &self.keys, saved)?;
            if pane.keys.group_count() > 0 {
                self.panes.insert(*start, OpenPane { pane: Arc::new(pane), is_saved: true });
            }
        }
        Ok(())
    }
}
