//! The stored history: every table on disk, as one consistent snapshot of each for a question.
//!
//! ```text
//!   History ── HistoryTable "room_5s"      the newest snapshot seen, refreshed at the start of each question
//!      │  └─── HistoryTable "readings$dead"
//!      ▼
//!   QueryTables (one question)             the snapshot it began with, once for each table it names
//!      ▼
//!   SnapshotScan (DataFusion's provider)   files of the snapshot, pruned by their bounds, read with push-down
//! ```
//!
//! A snapshot lists its files by name from the table's log: a folder is never listed, so files that are written and
//! not committed, or committed and replaced, do not exist for a question. A refresh with nothing new costs one look
//! for the next version of the log.

mod catalog_file;
mod query_tables;
mod scan;
mod table;

mod checked;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use tidemill_connectors::table::TableError;
use tidemill_engine::storage::{LocalStorage, Storage, StorageError};

pub use catalog_file::{CATALOG_FILE, Catalog, CatalogTable};
pub(crate) use query_tables::QueryTables;
pub(crate) use table::HistoryTable;

/// The folder of tables within a data folder.
pub const TABLES_FOLDER: &str = "tables";

/// Where a table lies.
#[derive(Clone, Debug)]
pub struct TableLocation {
    /// Its name, as a question says it.
    pub name: String,
    /// Its columns until its first commit, which then knows them; `None` if nobody does.
    pub schema: Option<SchemaRef>,
    /// Its folder, which has or will have a `_delta_log`.
    pub dir: PathBuf,
}

/// Why the history could not be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The folder is not there, or cannot be listed.
    #[error("cannot read the data folder {}", dir.display())]
    Folder {
        /// The folder.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The data folder refused.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The file that lists the tables is not what was written there.
    #[error("{} is damaged: {problem}; the server writes it anew when it starts", path.display())]
    Catalog {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A table's log cannot be read.
    #[error("table {name} in {}", dir.display())]
    Table {
        /// The table.
        name: String,
        /// Its folder.
        dir: PathBuf,
        /// Why.
        #[source]
        source: TableError,
    },
}

/// All tables that can be asked.
#[derive(Default)]
pub struct History {
    tables: BTreeMap<String, Arc<HistoryTable>>,
}

impl History {
    /// Makes a history of known tables. Reads nothing yet; of two tables of one name the last counts.
    pub fn new(tables: impl IntoIterator<Item = TableLocation>) -> Self {
        let tables = tables.into_iter().map(|table| (table.name.clone(), Arc::new(HistoryTable::new(table)))).collect();
        History { tables }
    }

    /// Finds the tables of a data folder without a server: those its catalog file lists, and every folder in `tables/`
    /// that has a log. Blocking.
    pub fn discover(data_dir: &Path) -> Result<Self, HistoryError> {
        let unreadable = |source| HistoryError::Folder { dir: data_dir.to_owned(), source };
        // Storage takes a folder that is not there for an empty one; here it is a mistake in the command.
        std::fs::read_dir(data_dir).map_err(unreadable)?;
        let storage = LocalStorage::existing(data_dir)?;
        let mut found: BTreeMap<String, TableLocation> = BTreeMap::new();
        for entry in storage.list(TABLES_FOLDER)?.into_iter().filter(|entry| entry.is_dir) {
            let dir = data_dir.join(TABLES_FOLDER).join(&entry.name);
            if dir.join("_delta_log").is_dir() {
                found.insert(entry.name.clone(), TableLocation { name: entry.name, schema: None, dir });
            }
        }
        // The catalog comes second: it knows tables elsewhere and tables without a commit.
        if let Some(catalog) = Catalog::read(&storage, data_dir)? {
            for table in catalog.tables {
                let location = table.locate(data_dir);
                found.insert(location.name.clone(), location);
            }
        }
        Ok(History::new(found.into_values()))
    }

    /// Returns the names of all tables, in order.
    pub fn names(&self) -> Vec<String> {
        self.tables.keys().cloned().collect()
    }

    /// Returns what the next run of `discover` must know, to be written beside the tables.
    pub fn catalog(&self, data_dir: &Path) -> Catalog {
        Catalog::new(self.tables.values().map(|table| table.location()), data_dir)
    }

    pub(crate) fn table(&self, name: &str) -> Option<&Arc<HistoryTable>> {
        self.tables.get(name)
    }
}

#[cfg(test)]
mod tests;
