//! A snapshot as a table of DataFusion: which files a question opens, and what is known of them without opening.
//!
//! Pruning happens twice. Before the scan, every file whose exact bounds (or partition values) rule the filters out is
//! left away. Within a file, the same filters are pushed into the Parquet reader, which skips row groups and pages and
//! decodes further columns only for rows that pass. Filters are evaluated once more above the scan where the reader
//! could not take them, so pruning never decides a result.
//!
//! Counts, minima and maxima that the bounds know exactly are answered without opening a file. A file that is opened is
//! checked first ([`checked`](super::checked)).

use std::collections::HashSet;
use std::path::Path as FolderPath;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, UInt64Array};
use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::stats::Precision;
use datafusion::common::{Column, ColumnStatistics, DFSchema, DataFusionError, ScalarValue, Statistics};
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::object_store::ObjectStoreUrl;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use object_store::ObjectMeta;
use object_store::path::Path;
use tidemill_connectors::table::{ColumnBounds, DataFile, Snapshot, TableError, Value};

use super::TableLocation;
use super::checked::{Check, CheckedReaders};

/// Bytes read from a file's end in one go: the footer with the page index of most files.
const FOOTER_BYTES_HINT: usize = 64 << 10;

/// One version of a table, ready to be scanned. Immutable: questions share it.
#[derive(Debug)]
pub(crate) struct SnapshotScan {
    version: Option<u64>,
    /// The columns in the table's order.
    schema: SchemaRef,
    /// The columns as the scan has them: those in the files, then those of the partition.
    scanned: TableSchema,
    /// The place in `scanned` of each column of `schema`.
    places: Vec<usize>,
    files: Vec<Arc<ScanFile>>,
}

/// A file with its statistics, in the order of `scanned`.
#[derive(Debug)]
struct ScanFile {
    source: Arc<DataFile>,
    file: PartitionedFile,
    statistics: Arc<Statistics>,
}

impl SnapshotScan {
    /// Makes a table that has no rows.
    pub(super) fn empty(schema: SchemaRef) -> Self {
        let places = (0..schema.fields().len()).collect();
        let scanned = TableSchema::from(Arc::clone(&schema));
        SnapshotScan { version: None, schema, scanned, places, files: Vec::new() }
    }

    /// Makes a table of a snapshot; `before` is an earlier version whose files are taken over where they are the same.
    pub(super) fn new(
        location: &TableLocation,
        snapshot: &Snapshot,
        before: Option<&SnapshotScan>,
    ) -> Result<Self, TableError> {
        let unsupported =
            |problem: String| TableError::Unsupported { dir: location.dir.display().to_string(), problem };
        let schema = Arc::clone(&snapshot.schema);
        let is_partition = |field: &FieldRef| snapshot.partition_columns.contains(field.name());
        let in_files: Vec<FieldRef> = schema.fields().iter().filter(|field| !is_partition(field)).cloned().collect();
        let of_partition: Vec<FieldRef> = snapshot
            .partition_columns
            .iter()
            .map(|column| schema.field_with_name(column).map(|field| Arc::new(field.clone())))
            .collect::<Result<_, _>>()
            .map_err(|error| unsupported(error.to_string()))?;
        let scanned =
            TableSchema::builder(Arc::new(Schema::new(in_files))).with_table_partition_cols(of_partition).build();
        let places = schema
            .fields()
            .iter()
            .map(|field| scanned.table_schema().index_of(field.name()))
            .collect::<Result<Vec<usize>, _>>()
            .map_err(|error| unsupported(error.to_string()))?;
        // Paths of files have no `..` in them, and a folder's path may.
        let dir = location.dir.canonicalize().map_err(|error| unsupported(error.to_string()))?;
        let known = before.filter(|before| before.schema == schema).map_or(&[][..], |before| &before.files);
        // A snapshot keeps its files' order, and new ones come last.
        let same =
            known.iter().zip(&snapshot.files).take_while(|(known, file)| Arc::ptr_eq(&known.source, file)).count();
        let mut files: Vec<Arc<ScanFile>> = known[..same].to_vec();
        for file in &snapshot.files[same..] {
            files.push(Arc::new(ScanFile::new(&dir, file, &schema, &places, &scanned).map_err(unsupported)?));
        }
        Ok(SnapshotScan { version: Some(snapshot.version), schema, scanned, places, files })
    }

    /// Returns the table's version; `None` if it has no commit yet.
    pub(crate) fn version(&self) -> Option<u64> {
        self.version
    }

    /// Returns the files that may have rows for which all filters are true.
    fn prune(&self, session: &dyn Session, filters: &[Expr]) -> Vec<Arc<ScanFile>> {
        let ruled = conjunction(filters.iter().cloned()).map(|filter| self.keep_mask(session, filter));
        match ruled {
            Some(Ok(keep)) => {
                self.files.iter().zip(keep).filter(|(_, keep)| *keep).map(|(file, _)| Arc::clone(file)).collect()
            }
            Some(Err(error)) => {
                tracing::debug!(%error, "filters prune no file");
                self.files.clone()
            }
            None => self.files.clone(),
        }
    }

    fn keep_mask(&self, session: &dyn Session, filter: Expr) -> Result<Vec<bool>, DataFusionError> {
        let schema = Arc::clone(self.scanned.table_schema());
        let predicate = session.create_physical_expr(filter, &DFSchema::try_from(Arc::clone(&schema))?)?;
        let predicate = PruningPredicateBuilder::new().with_file_schema(Arc::clone(&schema)).try_build(predicate)?;
        predicate.prune(&FileBounds { files: &self.files, schema: &schema })
    }
}

/// The bounds of all files, a column at a time. Unlike DataFusion's `PrunableStatistics` it knows what to do with a
/// column that has bounds in some files only (the others stay), and takes bounds that hold but are not exact.
struct FileBounds<'a> {
    files: &'a [Arc<ScanFile>],
    schema: &'a Schema,
}

impl FileBounds<'_> {
    fn bounds(
        &self,
        column: &Column,
        bound: impl Fn(&ColumnStatistics) -> &Precision<ScalarValue>,
    ) -> Option<ArrayRef> {
        let (index, field) = self.schema.column_with_name(column.name())?;
        let unknown = ScalarValue::try_from(field.data_type()).ok()?;
        // A bound of another writer says nothing of NaN.
        let holds_inexact = !field.data_type().is_floating();
        let values = self.files.iter().map(|file| match bound(&file.statistics.column_statistics[index]) {
            Precision::Exact(value) => value.clone(),
            Precision::Inexact(value) if holds_inexact => value.clone(),
            Precision::Inexact(_) | Precision::Absent => unknown.clone(),
        });
        ScalarValue::iter_to_array(values).ok()
    }
}

impl PruningStatistics for FileBounds<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, |statistics| &statistics.min_value)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, |statistics| &statistics.max_value)
    }

    fn num_containers(&self) -> usize {
        self.files.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let (index, _) = self.schema.column_with_name(column.name())?;
        let counts = self.files.iter().map(|file| exact(&file.statistics.column_statistics[index].null_count));
        Some(Arc::new(counts.collect::<UInt64Array>()))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        Some(Arc::new(self.files.iter().map(|file| exact(&file.statistics.num_rows)).collect::<UInt64Array>()))
    }

    fn contained(&self, _column: &Column, _values: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}

fn exact(count: &Precision<usize>) -> Option<u64> {
    match count {
        Precision::Exact(count) => u64::try_from(*count).ok(),
        Precision::Inexact(_) | Precision::Absent => None,
    }
}

impl ScanFile {
    fn new(
        dir: &FolderPath,
        source: &Arc<DataFile>,
        schema: &Schema,
        places: &[usize],
        scanned: &TableSchema,
    ) -> Result<Self, String> {
        let location = Path::from_absolute_path(dir.join(&source.path)).map_err(|error| error.to_string())?;
        // Files never change under their name, so the caches need no time to tell versions apart.
        let meta =
            ObjectMeta { location, last_modified: Default::default(), size: source.size, e_tag: None, version: None };
        let mut columns = vec![ColumnStatistics::new_unknown(); places.len()];
        for ((bounds, field), place) in source.bounds.iter().zip(schema.fields()).zip(places) {
            columns[*place] = column_statistics(bounds, field.data_type());
        }
        let statistics = Arc::new(Statistics {
            num_rows: source.rows.map_or(Precision::Absent, count),
            total_byte_size: Precision::Absent,
            column_statistics: columns,
        });
        let partition_values = source
            .partition_values
            .iter()
            .zip(scanned.table_partition_cols())
            .map(|(value, field)| partition_value(value.as_ref(), field.data_type()))
            .collect::<Result<Vec<ScalarValue>, String>>()?;
        let mut file = PartitionedFile::new_from_meta(meta)
            .with_partition_values(partition_values)
            .with_metadata_size_hint(FOOTER_BYTES_HINT);
        file.extensions.insert_arc(Check::new(source));
        // Set as it is, and not by `with_statistics`, which takes a partition's value for never null.
        file.statistics = Some(Arc::clone(&statistics));
        Ok(ScanFile { source: Arc::clone(source), file, statistics })
    }
}

fn partition_value(value: Option<&Value>, data_type: &DataType) -> Result<ScalarValue, String> {
    match value {
        Some(value) => ScalarValue::try_from_array(&value.to_array(data_type), 0),
        None => ScalarValue::try_from(data_type),
    }
    .map_err(|error| error.to_string())
}

fn column_statistics(bounds: &ColumnBounds, data_type: &DataType) -> ColumnStatistics {
    let bound = |value: &Option<Value>| -> Precision<ScalarValue> {
        let Some(value) = value else { return Precision::Absent };
        match ScalarValue::try_from_array(&value.to_array(data_type), 0) {
            Ok(value) if value.is_null() => Precision::Absent,
            Ok(value) if bounds.exact => Precision::Exact(value),
            // It holds, so it prunes, but MIN and MAX must look into the file.
            Ok(value) => Precision::Inexact(value),
            Err(_) => Precision::Absent,
        }
    };
    ColumnStatistics {
        null_count: bounds.null_count.map_or(Precision::Absent, count),
        min_value: bound(&bounds.min),
        max_value: bound(&bounds.max),
        ..ColumnStatistics::new_unknown()
    }
}

fn count(count: u64) -> Precision<usize> {
    usize::try_from(count).map_or(Precision::Absent, Precision::Exact)
}

#[async_trait::async_trait]
impl TableProvider for SnapshotScan {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>, DataFusionError> {
        // Inexact: the filter stays above the scan, until the optimizer finds that the reader takes it whole.
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let columns: Vec<usize> = projection.cloned().unwrap_or_else(|| (0..self.places.len()).collect());
        let files = self.prune(session, filters);
        if files.is_empty() {
            return Ok(Arc::new(EmptyExec::new(Arc::new(self.schema.project(&columns)?))));
        }
        let statistics =
            Statistics::try_merge_iter(files.iter().map(|file| file.statistics.as_ref()), self.scanned.table_schema())?;
        let store_url = ObjectStoreUrl::local_filesystem();
        let environment = session.runtime_env();
        let readers = CheckedReaders::new(
            environment.object_store(&store_url)?,
            environment.cache_manager.get_file_metadata_cache(),
        );
        let source = ParquetSource::new(self.scanned.clone())
            .with_pushdown_filters(true)
            .with_reorder_filters(true)
            .with_parquet_file_reader_factory(Arc::new(readers));
        let group = FileGroup::new(files.iter().map(|file| file.file.clone()).collect());
        let config = FileScanConfigBuilder::new(store_url, Arc::new(source))
            .with_file_groups(group.split_files(session.config().target_partitions()))
            .with_statistics(statistics)
            .with_projection_indices(Some(columns.iter().map(|column| self.places[*column]).collect()))?
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}
