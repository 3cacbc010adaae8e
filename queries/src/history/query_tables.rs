//! The tables of one question, as DataFusion asks for them: each resolved once, with the snapshot of that moment.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList, SchemaProvider,
    TableProvider,
};
use datafusion::common::DataFusionError;
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::History;
use super::scan::SnapshotScan;
use crate::answer::TableVersion;

/// The tables a question can name. Two mentions of a table in one question are the same snapshot.
pub(crate) struct QueryTables {
    history: Arc<History>,
    resolved: Mutex<BTreeMap<String, Arc<OnceCell<Arc<SnapshotScan>>>>>,
}

impl QueryTables {
    /// The catalog that tables are in; nobody needs to write it.
    pub(crate) const CATALOG: &str = "tidemill";
    /// The schema that tables are in.
    pub(crate) const SCHEMA: &str = "public";

    pub(crate) fn new(history: Arc<History>) -> Self {
        QueryTables { history, resolved: Mutex::default() }
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.history.names()
    }

    /// Returns the columns of a table, as of the snapshot that this question reads. Blocking.
    pub(crate) fn columns(&self, name: &str) -> Option<Vec<String>> {
        let table = self.history.table(name)?;
        let cell = Arc::clone(self.resolved.lock().entry(name.to_owned()).or_default());
        if !cell.initialized() {
            // An error is not lost: planning asks again, and tells it.
            let _ = cell.set(table.refresh_blocking().ok()?);
        }
        let schema = cell.get()?.schema();
        Some(schema.fields().iter().map(|field| field.name().clone()).collect())
    }

    /// Returns the list of catalogs that a session plans with: nothing but these tables.
    pub(crate) fn catalog_list(self: &Arc<Self>) -> Arc<dyn CatalogProviderList> {
        let catalog = MemoryCatalogProvider::new();
        let schema: Arc<dyn SchemaProvider> = Arc::<Self>::clone(self);
        catalog.register_schema(Self::SCHEMA, schema).expect("a catalog in memory takes a schema");
        let list = MemoryCatalogProviderList::new();
        list.register_catalog(Self::CATALOG.to_owned(), Arc::new(catalog));
        Arc::new(list)
    }

    /// Returns what has been resolved so far.
    pub(crate) fn versions(&self) -> Vec<TableVersion> {
        self.resolved
            .lock()
            .iter()
            .filter_map(|(table, scan)| {
                scan.get().map(|scan| TableVersion { table: table.clone(), version: scan.version() })
            })
            .collect()
    }
}

impl fmt::Debug for QueryTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueryTables").field("names", &self.names()).finish_non_exhaustive()
    }
}

#[async_trait::async_trait]
impl SchemaProvider for QueryTables {
    fn table_names(&self) -> Vec<String> {
        self.names()
    }

    fn table_exist(&self, name: &str) -> bool {
        self.history.table(name).is_some()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        let Some(table) = self.history.table(name) else { return Ok(None) };
        let cell = Arc::clone(self.resolved.lock().entry(name.to_owned()).or_default());
        let scan = cell
            .get_or_try_init(|| async { table.refresh().await })
            .await
            .map_err(|problem| DataFusionError::External(Box::new(problem)))?;
        let provider: Arc<dyn TableProvider> = Arc::<SnapshotScan>::clone(scan);
        Ok(Some(provider))
    }
}
