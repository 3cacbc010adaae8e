//! Files that are checked before they are believed: no byte of a data file is used before all of it was found to be as
//! it was written.
//!
//! A flipped bit in a Parquet file is often one that still decodes: to another number. Every file of ours has a checksum
//! over all its bytes in the table's log (the tag `tidemill.crc32c`), and so:
//!
//! ```text
//!   a question opens a file ─► checked already? ── yes ─► footer, pages, rows
//!                                  │ no                        ▲
//!                                  ▼                           │ as written
//!                              read it whole, in pieces ───────┴──► else: an error that names the file, and no rows
//! ```
//! Once for each file and process: a file never changes under its name, and the note lies with the file in the snapshot,
//! so there are as many as there are files. One that was found damaged is looked at again by the next question, since
//! somebody may have restored it. What rots behind that note is found by the next process.
//!
//! Why whole, though a question often needs two columns of ten: the checksum is over the whole file, its computation
//! takes a tenth of what reading from memory takes, and files are as small as commits, some MiB. What it costs is the
//! first read of a file from a cold disk, and then its pages lie in memory for the reader. Files that pruning leaves out
//! are not read, and neither are those of a count or a bound that the log knows. Files of other writers have no checksum:
//! there is nothing to check.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::common::DataFusionError;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::{CachedParquetFileReaderFactory, ParquetFileReaderFactory};
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use datafusion::parquet::arrow::arrow_reader::ArrowReaderOptions;
use datafusion::parquet::arrow::async_reader::AsyncFileReader;
use datafusion::parquet::errors::ParquetError;
use datafusion::parquet::file::metadata::ParquetMetaData;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tidemill_connectors::table::{DataFile, RunningChecksum};
use tokio::sync::OnceCell;

use crate::problem::{Problem, ProblemKind};

/// What is known of a file's bytes. Part of the file in a snapshot, and of every scan of it.
#[derive(Debug)]
pub(super) struct Check {
    file: Arc<DataFile>,
    is_whole: OnceCell<()>,
}

impl Check {
    pub(super) fn new(file: &Arc<DataFile>) -> Arc<Check> {
        Arc::new(Check { file: Arc::clone(file), is_whole: OnceCell::new() })
    }

    /// Reads the file and compares it, unless that was done before. Questions that ask at once wait for one of them.
    async fn ensure(&self, store: &dyn ObjectStore, location: &Path) -> Result<(), Problem> {
        if self.file.crc32c.is_none() {
            return Ok(());
        }
        self.is_whole.get_or_try_init(|| self.read(store, location)).await.copied()
    }

    async fn read(&self, store: &dyn ObjectStore, location: &Path) -> Result<(), Problem> {
        let unreadable = |problem: String| Problem::new(ProblemKind::Unreadable, problem);
        let refused = |error: object_store::Error| unreadable(format!("cannot read /{location}: {error}"));
        let mut checksum = RunningChecksum::default();
        let mut pieces = store.get(location).await.map_err(refused)?.into_stream();
        while let Some(piece) = pieces.next().await {
            checksum.add(&piece.map_err(refused)?);
        }
        self.file.compare(&checksum).map_err(|problem| {
            unreadable(format!("/{location} is damaged: {problem}"))
                .with_hint("restore the file from a copy; no row of it was used")
        })
    }
}

/// Makes readers that check.
#[derive(Debug)]
pub(super) struct CheckedReaders {
    store: Arc<dyn ObjectStore>,
    readers: CachedParquetFileReaderFactory,
}

impl CheckedReaders {
    pub(super) fn new(store: Arc<dyn ObjectStore>, metadata: Arc<FileMetadataCache>) -> CheckedReaders {
        CheckedReaders { readers: CachedParquetFileReaderFactory::new(Arc::clone(&store), metadata), store }
    }
}

impl ParquetFileReaderFactory for CheckedReaders {
    fn create_reader(
        &self,
        partition_index: usize,
        file: PartitionedFile,
        metadata_size_hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>, DataFusionError> {
        let check = file.extensions.get_arc::<Check>();
        let check = check.ok_or_else(|| DataFusionError::Internal("a file came without its check".to_owned()))?;
        let (store, location) = (Arc::clone(&self.store), file.object_meta.location.clone());
        let reader = self.readers.create_reader(partition_index, file, metadata_size_hint, metrics)?;
        Ok(Box::new(CheckedReader { reader, store, location, check }))
    }
}

/// A reader that checks before its first byte.
struct CheckedReader {
    reader: Box<dyn AsyncFileReader + Send>,
    store: Arc<dyn ObjectStore>,
    location: Path,
    check: Arc<Check>,
}

impl CheckedReader {
    /// Returns the reader of a file that is whole.
    async fn whole(&mut self) -> Result<&mut (dyn AsyncFileReader + Send), ParquetError> {
        let CheckedReader { reader, store, location, check } = self;
        match check.ensure(&**store, location).await {
            Ok(()) => Ok(&mut **reader),
            Err(problem) => Err(ParquetError::External(Box::new(problem))),
        }
    }
}

impl AsyncFileReader for CheckedReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        async move { self.whole().await?.get_bytes(range).await }.boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        async move { self.whole().await?.get_byte_ranges(ranges).await }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        async move { self.whole().await?.get_metadata(options).await }.boxed()
    }
}
