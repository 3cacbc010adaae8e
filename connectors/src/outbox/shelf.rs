//! The shelf: which rows are in the outbox, shared by the sink that adds and the desk that takes away.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use tidemill_engine::epoch::Epoch;
use tidemill_engine::storage::{Storage, StorageError};
use tokio::sync::watch;

use super::papers::{About, Cursor, Part, Ready, VERSION, seal, unseal};
use super::rows::{self, Row};
use super::{DeliveryError, Gauges, WINDOW_ROWS};

/// What becomes of rows when an outbox is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFull {
    /// The oldest are left out: what is new is worth more.
    DropOldest,
    /// Those that come are left out: what is there is in order and without a gap.
    DropNewest,
}

/// How large an outbox may become. It may hold one file of rows more than that, and what may be in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of its files of rows.
    pub bytes_max: u64,
    /// Rows.
    pub rows_max: u64,
    /// What then.
    pub on_full: OnFull,
}

/// Files of rows: the shelf knows each of them, and each has a small file beside it.
const FILES_MAX: usize = 100_000;

impl Default for Limits {
    fn default() -> Self {
        Limits { bytes_max: 1 << 30, rows_max: 50_000_000, on_full: OnFull::DropOldest }
    }
}

/// See the module.
pub(super) struct Shelf {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) dir: String,
    pub(super) gauges: Arc<Gauges>,
    state: Mutex<State>,
    /// Changes when rows come or go.
    changed: watch::Sender<()>,
}

/// What lies on it.
#[derive(Default)]
struct State {
    /// By the number of their first row.
    parts: BTreeMap<u64, Part>,
    /// Names of the small files of epochs, and the number behind their last row.
    epochs: BTreeMap<Epoch, (String, u64)>,
    /// Of all parts.
    rows: u64,
    bytes: u64,
    cursor: Cursor,
    /// Rows below are being claimed: nothing of them is left out from here on.
    held: u64,
    next_row: u64,
    dropped: u64,
}

impl State {
    fn add(&mut self, first_row: u64, part: Part) {
        (self.rows, self.bytes) = (self.rows + part.rows, self.bytes + part.bytes);
        self.parts.insert(first_row, part);
    }

    fn remove(&mut self, first_row: u64) -> Option<Part> {
        let part = self.parts.remove(&first_row)?;
        (self.rows, self.bytes) = (self.rows - part.rows, self.bytes - part.bytes);
        Some(part)
    }

    /// Counts the rows that are not delivered.
    fn waiting_rows(&self) -> u64 {
        let delivered = self.cursor.delivered;
        let passed = self.parts.range(..delivered).map(|(first_row, part)| part.rows.min(delivered - first_row));
        self.rows - passed.sum::<u64>()
    }

    /// The number behind the last row that may have been sent. Numbers of rows that were left out lie behind nobody.
    fn window_end(&self) -> u64 {
        let first = self.parts.iter().find(|(first_row, part)| *first_row + part.rows > self.cursor.delivered);
        let window = first.map_or(self.next_row, |(first_row, _)| *first_row).max(self.cursor.delivered) + WINDOW_ROWS;
        window.max(self.held).max(self.cursor.claimed)
    }

    /// Whole files from a row on, without a gap between their rows, until they have so many bytes.
    fn files_from(&self, number: u64, bytes_max: u64) -> Option<Files> {
        let mut files: Option<Files> = None;
        for (first_row, part) in self.parts.range(number..) {
            let before = files.unwrap_or(Files { first_row: *first_row, end_row: *first_row, bytes: 0 });
            let fits = files.is_none() || before.bytes + part.bytes <= bytes_max;
            if before.end_row != *first_row || !fits {
                break;
            }
            files = Some(Files { end_row: first_row + part.rows, bytes: before.bytes + part.bytes, ..before });
        }
        files
    }
}

/// Files that follow each other: rows `[first_row, end_row)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Files {
    /// The number of the first row.
    pub first_row: u64,
    /// The number behind the last one.
    pub end_row: u64,
    /// Bytes of all of them.
    pub bytes: u64,
}

/// What a commit writes, and what it leaves out.
pub(super) struct Plan {
    pub(super) ready: Ready,
    removed: Vec<Part>,
}

impl Shelf {
    /// Reads what is committed of a content and not delivered. Writes nothing.
    pub(super) fn load(
        storage: Arc<dyn Storage>,
        dir: &str,
        about: &About,
        gauges: Arc<Gauges>,
    ) -> Result<Shelf, LoadError> {
        let mut readies: Vec<Ready> = Vec::new();
        for entry in storage.list(&format!("{dir}/ready"))? {
            let path = format!("{dir}/ready/{}", entry.name);
            let bytes = match storage.get(&path) {
                // Delivered and removed meanwhile, if another process runs on it.
                Err(StorageError::Missing { .. }) => continue,
                read => read?,
            };
            let ready: Ready = unseal(&bytes).map_err(|problem| LoadError::Damaged { path: path.clone(), problem })?;
            if ready.generation == about.generation {
                readies.push(ready);
            }
        }
        readies.sort_by_key(|ready| ready.epoch);
        let cursor = match storage.get(&format!("{dir}/cursor")) {
            Ok(bytes) => match unseal::<Cursor>(&bytes) {
                Ok(cursor) => cursor,
                Err(problem) => {
                    tracing::warn!(path = format!("{dir}/cursor"), problem, "damaged: all rows are delivered again");
                    Cursor { version: VERSION, ..Cursor::default() }
                }
            },
            Err(StorageError::Missing { .. }) => Cursor { version: VERSION, ..Cursor::default() },
            Err(error) => return Err(error.into()),
        };
        let mut state = State { next_row: about.first_row.max(cursor.delivered), ..State::default() };
        for ready in &readies {
            let mut first_row = ready.first_row;
            for part in &ready.parts {
                state.add(first_row, part.clone());
                first_row += part.rows;
            }
            state.epochs.insert(ready.epoch, (ready.file_name(), first_row));
            state.next_row = state.next_row.max(first_row);
            state.dropped = state.dropped.max(ready.dropped);
        }
        for (from, to) in readies.iter().filter_map(|ready| ready.left_out) {
            let left_out: Vec<u64> = state.parts.range(from..to).map(|(first_row, _)| *first_row).collect();
            left_out.into_iter().for_each(|first_row| drop(state.remove(first_row)));
        }
        state.cursor = cursor;
        // A cursor of a content before, or one that was lost, is behind the first row that there is.
        let first = state.parts.keys().next().map_or(state.next_row, |first| *first);
        if state.cursor.delivered < about.first_row.min(first) {
            state.cursor.delivered = about.first_row.min(first);
        }
        state.cursor.received = state.cursor.received.max(state.cursor.delivered);
        let shelf =
            Shelf { storage, dir: dir.to_owned(), gauges, state: Mutex::new(state), changed: watch::Sender::new(()) };
        shelf.show();
        Ok(shelf)
    }

    /// Returns the last epoch that is committed.
    pub(super) fn last_committed(&self) -> Option<Epoch> {
        self.state.lock().epochs.last_key_value().map(|(epoch, _)| *epoch)
    }

    /// Returns the number behind the last row, and how many rows are not delivered.
    pub(super) fn end(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.next_row, state.waiting_rows())
    }

    /// Returns a receiver that hears when rows come or go.
    pub(super) fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Returns how far delivery came, as it is on disk.
    pub(super) fn cursor(&self) -> Cursor {
        self.state.lock().cursor.clone()
    }

    /// Returns the number behind the last row that may be sent.
    pub(super) fn window_end(&self) -> u64 {
        self.state.lock().window_end()
    }

    /// Returns the files from a row on, up to so many bytes, the first one in any case; changes nothing.
    pub(super) fn files_from(&self, number: u64, bytes_max: u64) -> Option<Files> {
        self.state.lock().files_from(number, bytes_max)
    }

    /// Does the same as [`Shelf::files_from`], and leaves out nothing of them any more, in this process.
    pub(super) fn hold_files(&self, number: u64, bytes_max: u64) -> Option<Files> {
        let mut state = self.state.lock();
        let files = state.files_from(number, bytes_max)?;
        state.held = state.held.max(files.end_row);
        Some(files)
    }

    /// Says whether everything is delivered.
    pub(super) fn is_empty(&self) -> bool {
        self.gauges.rows.load(Ordering::Relaxed) == 0
    }

    /// Returns the names of the files of rows that are named.
    pub(super) fn files(&self) -> std::collections::BTreeSet<String> {
        self.state.lock().parts.values().map(|part| part.file.clone()).collect()
    }

    /// Decides what a commit adds and leaves out. What it leaves out is handed to nobody from here on.
    pub(super) fn plan(&self, generation: u64, epoch: Epoch, parts: Vec<Part>, limits: &Limits) -> Plan {
        let mut state = self.state.lock();
        let mut rows = state.rows + parts.iter().map(|part| part.rows).sum::<u64>();
        let mut bytes = state.bytes + parts.iter().map(|part| part.bytes).sum::<u64>();
        let mut files = state.parts.len() + parts.len();
        let is_full = |rows: u64, bytes: u64, files: usize| {
            rows > limits.rows_max || bytes > limits.bytes_max || files > FILES_MAX
        };
        let mut ready = Ready {
            version: VERSION,
            generation,
            epoch,
            first_row: state.next_row,
            parts,
            dropped: state.dropped,
            left_out: None,
        };
        let mut removed: Vec<Part> = Vec::new();
        if limits.on_full == OnFull::DropNewest {
            // A file that is too large by itself goes through an empty outbox all the same.
            let kept = usize::from(state.parts.is_empty());
            while is_full(rows, bytes, files) && ready.parts.len() > kept {
                let Some(part) = ready.parts.pop() else { break };
                (rows, bytes, files) = (rows - part.rows, bytes - part.bytes, files - 1);
                removed.push(part);
            }
        } else {
            // What begins before may be in flight.
            let safe = state.window_end();
            let oldest: Vec<u64> = state.parts.range(safe..).map(|(first_row, _)| *first_row).collect();
            for first_row in oldest {
                if !is_full(rows, bytes, files) {
                    break;
                }
                let Some(part) = state.remove(first_row) else { continue };
                (rows, bytes, files) = (rows - part.rows, bytes - part.bytes, files - 1);
                let from = ready.left_out.map_or(first_row, |(from, _)| from);
                ready.left_out = Some((from, first_row + part.rows));
                removed.push(part);
            }
            // A commit that is too large by itself loses its own first rows.
            while is_full(rows, bytes, files) && ready.parts.len() > 1 {
                let part = ready.parts.remove(0);
                (rows, bytes, files) = (rows - part.rows, bytes - part.bytes, files - 1);
                ready.first_row += part.rows;
                removed.push(part);
            }
        }
        ready.dropped += removed.iter().map(|part| part.rows).sum::<u64>();
        Plan { ready, removed }
    }

    /// Makes a planned commit visible. Blocking.
    pub(super) fn commit(&self, plan: Plan) -> Result<(), StorageError> {
        let Plan { ready, removed } = plan;
        let file_name = ready.file_name();
        match self.storage.put_new(&format!("{}/ready/{file_name}", self.dir), &seal(&ready)) {
            // The only one who writes it is this sink: what is there is what an attempt before has written.
            Ok(()) | Err(StorageError::Exists { .. }) => {}
            Err(error) => return Err(error),
        }
        {
            let mut state = self.state.lock();
            let end_row = ready.end_row();
            let mut first_row = ready.first_row;
            for part in ready.parts {
                let rows = part.rows;
                state.add(first_row, part);
                first_row += rows;
            }
            (state.next_row, state.dropped) = (end_row, ready.dropped);
            state.epochs.insert(ready.epoch, (file_name, end_row));
        }
        for part in removed {
            self.storage.delete(&self.row_path(&part.file))?;
        }
        self.show();
        self.changed.send_replace(());
        Ok(())
    }

    /// Finds the file with the first row from a number on, if it may be sent already.
    pub(super) fn part_from(&self, number: u64) -> Option<(u64, Part)> {
        let state = self.state.lock();
        let before = state.parts.range(..=number).next_back();
        let holding = before.filter(|(first_row, part)| *first_row + part.rows > number);
        let (first_row, part) = holding.or_else(|| state.parts.range(number..).next())?;
        // Behind the window it may still be left out.
        (*first_row < state.window_end()).then(|| (*first_row, part.clone()))
    }

    /// Reads a file. Blocking.
    pub(super) fn read(&self, first_row: u64, part: &Part) -> Result<Vec<Row>, DeliveryError> {
        let path = self.row_path(&part.file);
        let damaged = |problem: String| DeliveryError::Damaged { path: path.clone(), problem };
        let bytes = match self.storage.get(&path) {
            Ok(bytes) => bytes,
            Err(StorageError::Missing { .. }) => return Err(damaged("it is gone".to_owned())),
            Err(error) => return Err(error.into()),
        };
        let rows = rows::read(bytes, first_row).map_err(damaged)?;
        match rows.len() as u64 == part.rows {
            true => Ok(rows),
            false => Err(damaged(format!("it has {} rows, not {}", rows.len(), part.rows))),
        }
    }

    /// Makes a cursor durable, and removes what it has passed. Blocking; one at a time.
    pub(super) fn write_cursor(&self, cursor: &Cursor) -> Result<(), StorageError> {
        self.storage.put(&format!("{}/cursor", self.dir), &seal(cursor))?;
        {
            let mut state = self.state.lock();
            let before = state.waiting_rows();
            state.cursor = cursor.clone();
            self.gauges.count_passed(before.saturating_sub(state.waiting_rows()));
        }
        self.remove_delivered()?;
        self.changed.send_replace(());
        Ok(())
    }

    /// Removes the files of rows that are delivered, and the small ones of their epochs but for the newest: it says what is
    /// committed. What a crash leaves is removed by the next start.
    pub(super) fn remove_delivered(&self) -> Result<(), StorageError> {
        let (mut gone, mut epochs) = (Vec::new(), Vec::new());
        {
            let mut state = self.state.lock();
            let delivered = state.cursor.delivered;
            while let Some((first_row, part)) = state.parts.first_key_value()
                && first_row + part.rows <= delivered
            {
                let first_row = *first_row;
                gone.extend(state.remove(first_row));
            }
            while state.epochs.len() > 1
                && let Some(first) = state.epochs.first_entry()
                && first.get().1 <= delivered
            {
                epochs.push(first.remove().0);
            }
        }
        for part in &gone {
            self.storage.delete(&self.row_path(&part.file))?;
        }
        for name in epochs {
            self.storage.delete(&format!("{}/ready/{name}", self.dir))?;
        }
        self.show();
        Ok(())
    }

    fn row_path(&self, file: &str) -> String {
        format!("{}/rows/{file}", self.dir)
    }

    fn show(&self) {
        let state = self.state.lock();
        self.gauges.rows.store(state.waiting_rows(), Ordering::Relaxed);
        self.gauges.bytes.store(state.bytes, Ordering::Relaxed);
        self.gauges.dropped.store(state.dropped, Ordering::Relaxed);
    }
}

/// Why an outbox cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("{path} is damaged: {problem}")]
    Damaged { path: String, problem: String },
}
