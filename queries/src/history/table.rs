//! One table of the history: its newest snapshot, brought up to date when a question begins.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use parking_lot::Mutex;
use tidemill_connectors::table::{Snapshot, TableError};
use tidemill_engine::error::with_causes;
use tidemill_engine::storage::{LocalStorage, StorageError};

use super::scan::SnapshotScan;
use super::{HistoryError, TableLocation};
use crate::problem::{Problem, ProblemKind};

/// A table, and what is known of it.
pub(crate) struct HistoryTable {
    location: TableLocation,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The folder above the table's; opened when it is there.
    storage: Option<LocalStorage>,
    snapshot: Option<Snapshot>,
    /// The snapshot as questions see it.
    scan: Option<Arc<SnapshotScan>>,
}

impl HistoryTable {
    pub(super) fn new(location: TableLocation) -> Self {
        HistoryTable { location, state: Mutex::default() }
    }

    pub(super) fn location(&self) -> &TableLocation {
        &self.location
    }

    /// Returns the table as of now. Reads on a thread that may wait.
    pub(super) async fn refresh(self: &Arc<Self>) -> Result<Arc<SnapshotScan>, Problem> {
        let table = Arc::clone(self);
        let read = tokio::task::spawn_blocking(move || table.refresh_blocking()).await;
        match read {
            Ok(Ok(scan)) => Ok(scan),
            Ok(Err(error)) => Err(unreadable(&error)),
            Err(ended) => Err(Problem::new(ProblemKind::Internal, format!("reading a table's log: {ended}"))),
        }
    }

    /// Questions that begin at once wait for each other here: the second finds nothing new, which is cheap.
    pub(super) fn refresh_blocking(&self) -> Result<Arc<SnapshotScan>, HistoryError> {
        let mut state = self.state.lock();
        let failed = |source: TableError| HistoryError::Table {
            name: self.location.name.clone(),
            dir: self.location.dir.clone(),
            source,
        };
        let (parent, folder) = self.split_dir()?;
        if state.storage.is_none() {
            match LocalStorage::existing(parent) {
                Ok(storage) => state.storage = Some(storage),
                Err(StorageError::Missing { .. }) => return Ok(self.empty()),
                Err(error) => return Err(error.into()),
            }
        }
        let State { storage, snapshot, scan } = &mut *state;
        let Some(storage) = storage else { return Ok(self.empty()) };
        let known = match snapshot {
            Some(known) => {
                known.refresh(storage, &folder).map_err(failed)?;
                known
            }
            None => match Snapshot::load(storage, &folder).map_err(failed)? {
                Some(loaded) => snapshot.insert(loaded),
                None => return Ok(self.empty()),
            },
        };
        let current = match scan.as_ref().filter(|scan| scan.version() == Some(known.version)) {
            Some(current) => Arc::clone(current),
            None => {
                let newer = SnapshotScan::new(&self.location, known, scan.as_deref()).map_err(failed)?;
                Arc::clone(scan.insert(Arc::new(newer)))
            }
        };
        Ok(current)
    }

    /// A table without a commit has its columns and no rows.
    fn empty(&self) -> Arc<SnapshotScan> {
        let schema: SchemaRef = self.location.schema.clone().unwrap_or_else(|| Arc::new(Schema::empty()));
        Arc::new(SnapshotScan::empty(schema))
    }

    fn split_dir(&self) -> Result<(PathBuf, String), HistoryError> {
        let dir = &self.location.dir;
        let parts = dir.parent().zip(dir.file_name().and_then(|name| name.to_str()));
        match parts {
            Some((parent, name)) => {
                let parent = if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent.to_owned() };
                Ok((parent, name.to_owned()))
            }
            None => Err(StorageError::BadPath { path: dir.display().to_string() }.into()),
        }
    }
}

fn unreadable(error: &HistoryError) -> Problem {
    Problem::new(ProblemKind::Unreadable, with_causes(error))
}
