//! Questions: read-only SQL over the stored history.
//!
//! ```text
//!   query(sql) ─► guard ─► admission ─► plan ─► first batch … last batch ─► Answer
//!                 too long   queries_max   └──────── on threads of their own ────────┘
//!                 not a question           panics are caught, time and memory are bounded
//! ```
//!
//! No statement may take the engine down, and a slow reader slows only itself: questions run on their own threads, in
//! their own memory pool, and give their rows through a bounded channel. When the reader goes away the question ends.
//! Outer files cannot be reached: nothing but the tables of the [`History`] has a name, and statements that would make
//! one are refused.

mod guard;
mod refusal;

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use datafusion::common::{DataFusionError, ParamValues, ScalarValue};
use datafusion::config::Dialect;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::execute_stream;
use datafusion::prelude::SessionConfig;
use futures::{FutureExt, StreamExt};
use tidemill_engine::source::BoxFuture;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::answer::{Answer, Piece, TableVersion};
use crate::history::{History, QueryTables};
use crate::problem::{Problem, ProblemKind};

pub use guard::{OPERATORS_MAX, RELATIONS_MAX, SQL_BYTES_MAX};
use refusal::{KnownNames, panic_problem, problem_of};

/// Batches between a question and its reader.
const BATCHES_IN_FLIGHT_MAX: usize = 4;
/// Stack of a thread that runs questions: room for trees of [`OPERATORS_MAX`] levels also without optimisation. Only
/// what is touched costs memory.
const STACK_BYTES: usize = 64 << 20;
/// Threads for file reads of questions.
const BLOCKING_THREADS_MAX: usize = 8;
/// Memory that describes files in the caches (footers, page indexes).
const METADATA_CACHE_BYTES: usize = 64 << 20;
/// How long a question waits for its turn before it is refused.
const TURN_WAIT_MAX: Duration = Duration::from_secs(5);

/// What questions may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Memory of all questions together, as far as operators account for it.
    pub memory_bytes: usize,
    /// Temporary files of all questions together, for sorts and groupings over the memory limit.
    pub spill_bytes: u64,
    /// Longest time from the question to its last row.
    pub time: Duration,
    /// Questions that run at once; more wait a moment and are then refused.
    pub queries_max: usize,
    /// Threads that compute.
    pub threads: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            memory_bytes: 1 << 30,
            spill_bytes: 10 << 30,
            time: Duration::from_secs(300),
            queries_max: 16,
            threads: std::thread::available_parallelism().map_or(2, NonZeroUsize::get),
        }
    }
}

/// A value for a `$1` in a statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Parameter {
    /// SQL NULL.
    Null,
    /// A truth value.
    Boolean(bool),
    /// A whole number.
    Integer(i64),
    /// A number.
    Number(f64),
    /// Text.
    Text(String),
}

/// Answers questions over a [`History`]. Cheap to make: threads and functions are made at the first question.
pub struct Session {
    history: Arc<History>,
    limits: Limits,
    turns: Arc<Semaphore>,
    engine: OnceLock<Arc<Engine>>,
}

/// What all questions share once there is one.
struct Engine {
    /// `None` only while dropping.
    runtime: Option<Runtime>,
    base: SessionState,
    functions: BTreeSet<String>,
}

impl Drop for Engine {
    fn drop(&mut self) {
        // A runtime that is dropped inside another one's task panics; this way it ends by itself.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Session {
    /// Makes a session over a history.
    pub fn new(history: Arc<History>, limits: Limits) -> Self {
        Session { history, limits, turns: Arc::new(Semaphore::new(limits.queries_max)), engine: OnceLock::new() }
    }

    /// Returns the history it asks.
    pub fn history(&self) -> &Arc<History> {
        &self.history
    }

    /// Answers a question. Resolves when the answer's columns are known; its rows are computed while they are read.
    pub fn query(&self, sql: &str) -> BoxFuture<'static, Result<Answer, Problem>> {
        self.query_with(sql, Vec::new())
    }

    /// Answers a question that names values as `$1`, `$2`, …
    pub fn query_with(&self, sql: &str, parameters: Vec<Parameter>) -> BoxFuture<'static, Result<Answer, Problem>> {
        let engine = match guard::check_text(sql).and_then(|()| self.engine()) {
            Ok(engine) => engine,
            Err(problem) => return Box::pin(async move { Err(problem) }),
        };
        let question = Question {
            sql: sql.to_owned(),
            parameters,
            tables: Arc::new(QueryTables::new(Arc::clone(&self.history))),
            functions: engine.functions.clone(),
        };
        let (turns, time) = (Arc::clone(&self.turns), self.limits.time);
        Box::pin(async move {
            let turn = match tokio::time::timeout(TURN_WAIT_MAX, turns.acquire_owned()).await {
                Ok(Ok(turn)) => turn,
                Ok(Err(_)) | Err(_) => {
                    return Err(Problem::new(ProblemKind::Busy, "too many questions are running")
                        .with_hint("ask again in a moment"));
                }
            };
            ask(engine, question, turn, time).await
        })
    }

    fn engine(&self) -> Result<Arc<Engine>, Problem> {
        if let Some(engine) = self.engine.get() {
            return Ok(Arc::clone(engine));
        }
        let engine = Arc::new(Engine::new(&self.limits)?);
        // Two first questions may race; one engine stays.
        Ok(Arc::clone(self.engine.get_or_init(|| engine)))
    }
}

impl Engine {
    fn new(limits: &Limits) -> Result<Engine, Problem> {
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
        let base = SessionStateBuilder::new_with_default_features()
            .with_config(session_config(limits.threads.max(1)))
            .with_runtime_env(environment)
            .build();
        let functions = base
            .scalar_functions()
            .keys()
            .chain(base.aggregate_functions().keys())
            .chain(base.window_functions().keys())
            .chain(base.table_functions().keys())
            .cloned()
            .collect();
        Ok(Engine { runtime: Some(runtime), base, functions })
    }

    fn handle(&self) -> &Handle {
        self.runtime.as_ref().expect("the runtime lives as long as the engine").handle()
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
    options.execution.time_zone = Some("UTC".to_owned());
    config
}

struct Question {
    sql: String,
    parameters: Vec<Parameter>,
    tables: Arc<QueryTables>,
    functions: BTreeSet<String>,
}

/// Plans on the threads of questions, then leaves a task there that computes rows as long as somebody reads them.
async fn ask(
    engine: Arc<Engine>,
    question: Question,
    turn: OwnedSemaphorePermit,
    time: Duration,
) -> Result<Answer, Problem> {
    let deadline = tokio::time::Instant::now() + time;
    let known = Arc::new(KnownNames { tables: question.tables.names(), functions: question.functions.clone() });
    let tables = Arc::clone(&question.tables);
    let mut planning = {
        let (engine, known) = (Arc::clone(&engine), Arc::clone(&known));
        let handle = engine.handle().clone();
        handle.spawn(async move { plan(&engine, &question, &known).await })
    };
    let stream = match tokio::time::timeout_at(deadline, &mut planning).await {
        Ok(Ok(planned)) => planned?,
        Ok(Err(ended)) => match ended.try_into_panic() {
            Ok(payload) => return Err(panic_problem(payload.as_ref())),
            Err(_) => return Err(stopping()),
        },
        Err(_) => {
            planning.abort();
            return Err(timed_out(time));
        }
    };
    let schema = stream.schema();
    let (sender, receiver) = mpsc::channel(BATCHES_IN_FLIGHT_MAX);
    let handle = engine.handle().clone();
    handle.spawn(async move {
        let last = {
            let rows = AssertUnwindSafe(send_rows(stream, &sender, &known)).catch_unwind();
            tokio::select! {
                outcome = tokio::time::timeout_at(deadline, rows) => match outcome {
                    Ok(Ok(Ok(()))) => Piece::End,
                    Ok(Ok(Err(problem))) => Piece::Failed(problem),
                    Ok(Err(payload)) => Piece::Failed(panic_problem(payload.as_ref())),
                    Err(_) => Piece::Failed(timed_out(time)),
                },
                // Nobody reads any more: dropping the stream ends the question.
                () = sender.closed() => return,
            }
        };
        // The turn is over before the reader takes the last piece: a slow reader holds no one up at this point.
        drop(turn);
        let _ = sender.send(last).await;
        // The engine must outlive its questions, not the other way round.
        drop(engine);
    });
    Ok(Answer::new(schema, tables.versions(), receiver, handle))
}

async fn plan(
    engine: &Engine,
    question: &Question,
    known: &KnownNames,
) -> Result<SendableRecordBatchStream, Problem> {
    let explain = |error: DataFusionError| problem_of(&error, known);
    let state = SessionStateBuilder::new_from_existing(engine.base.clone())
        .with_catalog_list(question.tables.catalog_list())
        .build();
    let statement = state.sql_to_statement(&question.sql, &Dialect::Generic).map_err(explain)?;
    guard::check_statement(&statement)?;
    let mut logical = state.statement_to_plan(statement).await.map_err(explain)?;
    // The guard has refused what it knows; DataFusion's own check is the second wall.
    read_only().verify_plan(&logical).map_err(explain)?;
    if !question.parameters.is_empty() {
        logical = with_parameters(logical, &question.parameters).map_err(explain)?;
    }
    let physical = state.create_physical_plan(&logical).await.map_err(explain)?;
    execute_stream(physical, state.task_ctx()).map_err(explain)
}

fn read_only() -> SQLOptions {
    SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false)
}

fn with_parameters(plan: LogicalPlan, parameters: &[Parameter]) -> Result<LogicalPlan, DataFusionError> {
    let values = parameters.iter().map(|parameter| match parameter {
        Parameter::Null => ScalarValue::Null,
        Parameter::Boolean(value) => ScalarValue::Boolean(Some(*value)),
        Parameter::Integer(value) => ScalarValue::Int64(Some(*value)),
        Parameter::Number(value) => ScalarValue::Float64(Some(*value)),
        Parameter::Text(value) => ScalarValue::Utf8View(Some(value.clone())),
    });
    plan.with_param_values(ParamValues::from(values.collect::<Vec<_>>()))
}

async fn send_rows(
    mut stream: SendableRecordBatchStream,
    sender: &mpsc::Sender<Piece>,
    known: &KnownNames,
) -> Result<(), Problem> {
    while let Some(batch) = stream.next().await {
        let batch = batch.map_err(|error| problem_of(&error, known))?;
        if batch.num_rows() > 0 && sender.send(Piece::Rows(batch)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn timed_out(time: Duration) -> Problem {
    Problem::new(ProblemKind::TimedOut, format!("the question took longer than {} s", time.as_secs_f64()))
        .with_hint("ask for less at once, such as a narrower time range")
}

fn stopping() -> Problem {
    Problem::new(ProblemKind::NotReady, "the program is stopping")
}
