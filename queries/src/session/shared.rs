//! What all questions share: their threads, their memory, their functions.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::Arc;

use datafusion::config::Dialect;
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::prelude::SessionConfig;
use tokio::runtime::{Builder, Handle, Runtime};

use super::cooperative::JoinsGiveWay;
use super::{Limits, now};
use crate::bounded::bound_functions;
use crate::history::QueryTables;
use crate::problem::{Problem, ProblemKind};

/// Stack of a thread that runs questions: room for trees of [`OPERATORS_MAX`] levels also without optimisation. Only
/// what is touched costs memory.
const STACK_BYTES: usize = 64 << 20;
/// Threads for file reads of questions.
const BLOCKING_THREADS_MAX: usize = 8;
/// Memory that describes files in the caches (footers, page indexes).
const METADATA_CACHE_BYTES: usize = 64 << 20;

/// What all questions share once there is one.
pub(super) struct Shared {
    /// `None` only while dropping.
    runtime: Option<Runtime>,
    pub(super) base: SessionState,
    pub(super) functions: BTreeSet<String>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // A runtime that is dropped inside another one's task panics; this way it ends by itself.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Shared {
    pub(super) fn new(limits: &Limits) -> Result<Shared, Problem> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(limits.threads.max(1))
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .thread_name("tidemill-query")
            .thread_stack_size(STACK_BYTES)
            .enable_time()
            .build()
            .map_err(|error| Problem::new(ProblemKind::Internal, format!("cannot start threads: {error}")))?;
        let largest_consumers = NonZeroUsize::new(3).expect("3 is not 0");
        let pool = TrackConsumersPool::new(FairSpillPool::new(limits.memory_bytes), largest_consumers);
        let environment = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(pool))
            .with_max_temp_directory_size(limits.spill_bytes)
            .with_metadata_cache_limit(METADATA_CACHE_BYTES)
            .build_arc()
            .map_err(|error| Problem::new(ProblemKind::Internal, error.strip_backtrace()))?;
        let mut base = SessionStateBuilder::new_with_default_features()
            .with_config(session_config(limits.threads.max(1)))
            .with_runtime_env(environment)
            .with_physical_optimizer_rule(Arc::new(JoinsGiveWay))
            .build();
        bound_functions(&mut base)
            .and_then(|()| now::replace_now(&mut base))
            .map_err(|error| Problem::new(ProblemKind::Internal, error.strip_backtrace()))?;
        let functions = base
            .scalar_functions()
            .keys()
            .chain(base.aggregate_functions().keys())
            .chain(base.window_functions().keys())
            .chain(base.table_functions().keys())
            .cloned()
            .collect();
        Ok(Shared { runtime: Some(runtime), base, functions })
    }

    pub(super) fn handle(&self) -> &Handle {
        self.runtime.as_ref().expect("the runtime lives as long as what shares it").handle()
    }
}

fn session_config(threads: usize) -> SessionConfig {
    let mut config = SessionConfig::new()
        .with_target_partitions(threads)
        .with_information_schema(true)
        .with_default_catalog_and_schema(QueryTables::CATALOG, QueryTables::SCHEMA)
        .with_create_default_catalog_and_schema(false);
    let options = config.options_mut();
    options.execution.parquet.pushdown_filters = true;
    options.execution.parquet.reorder_filters = true;
    options.sql_parser.collect_spans = true;
    options.sql_parser.dialect = Dialect::Generic;
    // Its plans for `x IS NOT TRUE` differ from its logic in whether a column can be null; the rows are right.
    options.execution.skip_physical_aggregate_schema_check = true;
    options.execution.time_zone = Some("UTC".to_owned());
    config
}
