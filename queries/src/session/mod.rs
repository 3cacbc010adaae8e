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
//! `TUMBLE` and `HOP` mean the same over stored rows as in a view, so a view pasted as a question gives its numbers.
//! Outer files cannot be reached: nothing but the tables of the [`History`] has a name, and statements that would make
//! one are refused.

mod bounded;
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

use crate::answer::{Answer, Piece};
use crate::history::{History, QueryTables};
use crate::planner::rewrite_windows_for_history;
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
        let mut base = SessionStateBuilder::new_with_default_features()
            .with_config(session_config(limits.threads.max(1)))
            .with_runtime_env(environment)
            .build();
        bounded::bound_functions(&mut base)
            .map_err(|error| Problem::new(ProblemKind::Internal, error.strip_backtrace()))?;
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
    // Its plans for `x IS NOT TRUE` differ from its logic in whether a column can be null; the rows are right.
    options.execution.skip_physical_aggregate_schema_check = true;
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

async fn plan(engine: &Engine, question: &Question, known: &KnownNames) -> Result<SendableRecordBatchStream, Problem> {
    let sql = windows_as_plain_sql(question).await?;
    let explain = |error: DataFusionError| {
        let problem = problem_of(&error, known);
        // A place in a rewritten text is no place in the text that was asked.
        if sql == question.sql { problem } else { problem.with_span(None) }
    };
    let state = SessionStateBuilder::new_from_existing(engine.base.clone())
        .with_catalog_list(question.tables.catalog_list())
        .build();
    let statement = state.sql_to_statement(&sql, &Dialect::Generic).map_err(explain)?;
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

/// Writes `TUMBLE` and `HOP` as what they are over stored rows. Looks at the tables' columns, so it may wait.
async fn windows_as_plain_sql(question: &Question) -> Result<String, Problem> {
    let (sql, tables) = (question.sql.clone(), Arc::clone(&question.tables));
    let rewriting =
        tokio::task::spawn_blocking(move || rewrite_windows_for_history(&sql, &|table| tables.columns(table)));
    match rewriting.await {
        Ok(Ok(sql)) => Ok(sql),
        Ok(Err(diagnostic)) => Err(refusal::diagnostic_problem(diagnostic)),
        Err(ended) => match ended.try_into_panic() {
            Ok(payload) => Err(panic_problem(payload.as_ref())),
            Err(_) => Err(stopping()),
        },
    }
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

#[cfg(test)]
mod tests {
    use arrow::datatypes::DataType;
    use datafusion::execution::FunctionRegistry;
    use datafusion::logical_expr::{Volatility, create_udf};

    use super::*;
    use crate::answer::AnswerFormat;
    use crate::problem::Span;

    fn session(limits: Limits) -> Session {
        Session::new(Arc::new(History::default()), limits)
    }

    async fn text(session: &Session, sql: &str) -> Result<String, Problem> {
        let mut encoded = session.query(sql).await?.encode(AnswerFormat::Csv);
        let mut text = Vec::new();
        while let Some(bytes) = encoded.next().await {
            text.extend_from_slice(&bytes?);
        }
        Ok(String::from_utf8(text).expect("text"))
    }

    #[tokio::test]
    async fn a_question_without_tables_is_answered() {
        let session = session(Limits::default());
        assert_eq!(text(&session, "SELECT 1 + 1 AS two, 'a' AS a;").await.expect("answer"), "two,a\n2,a\n");
        assert_eq!(
            text(&session, "SELECT TIMESTAMP '2026-11-20 09:00:00' AS t").await.expect("answer"),
            "t\n2026-11-20T09:00:00Z\n"
        );
    }

    #[tokio::test]
    async fn values_are_taken_for_their_numbers() {
        let session = session(Limits::default());
        let parameters = vec![Parameter::Integer(2), Parameter::Text("b'; DROP".into()), Parameter::Null];
        let answer =
            session.query_with("SELECT $1 + 1 AS n, $2 AS t, $3 IS NULL AS x", parameters).await.expect("answer");
        let batches = answer.collect().await.expect("rows");
        let shown = arrow::util::pretty::pretty_format_batches(&batches).expect("table").to_string();
        assert!(shown.contains("| 3 | b'; DROP | true |"), "{shown}");
        let missing = session.query("SELECT $1 + 1 AS n").await.err().expect("no value");
        assert!(missing.to_string().contains("$1"), "{missing}");
    }

    #[tokio::test]
    async fn mistakes_are_named_with_their_place_and_the_nearest_name() {
        let session = session(Limits::default());
        for (sql, kind, detail, hint, span) in [
            ("SELEC 1", ProblemKind::Syntax, "SELEC", None, Some((1, 1))),
            ("", ProblemKind::InvalidQuery, "No SQL statements", None, None),
            ("SELECT 1; SELECT 2", ProblemKind::NotSupported, "one statement at a time", None, None),
            (
                "SELECT\n  temprature FROM (VALUES (1)) AS t(temperature)",
                ProblemKind::UnknownColumn,
                "no column \"temprature\"",
                Some("did you mean \"temperature\"?"),
                Some((2, 3)),
            ),
            (
                "SELECT uper('a')",
                ProblemKind::UnknownFunction,
                "no function \"uper\"",
                Some("\"upper\"?"),
                Some((1, 8)),
            ),
            (
                "SELECT * FROM nowhere",
                ProblemKind::UnknownTable,
                "no table \"nowhere\"",
                Some("no tables yet"),
                Some((1, 15)),
            ),
            ("SELECT 1 / 0", ProblemKind::Failed, "ivide by zero", None, None),
            ("SELECT CAST('x' AS INT)", ProblemKind::Failed, "'x'", None, None),
            (
                "SELECT a FROM (VALUES (1)) t(a), (VALUES (2)) u(a)",
                ProblemKind::AmbiguousColumn,
                "\"a\"",
                Some("table.column"),
                None,
            ),
        ] {
            let problem = text(&session, sql).await.expect_err(sql);
            assert_eq!(problem.kind, kind, "{sql}: {problem}");
            assert!(problem.detail.contains(detail), "{sql}: {problem}");
            if let Some(hint) = hint {
                assert!(problem.hint.as_deref().unwrap_or_default().contains(hint), "{sql}: {problem}");
            }
            if let Some((line, column)) = span {
                let Span { line: found_line, column: found_column, .. } =
                    problem.span.unwrap_or_else(|| panic!("no place in {problem}"));
                assert_eq!((found_line, found_column), (line, column), "{sql}: {problem}");
            }
        }
    }

    #[tokio::test]
    async fn nothing_is_written_and_no_outer_file_is_read() {
        let folder = tempfile::tempdir().expect("folder");
        let session = session(Limits::default());
        let file = folder.path().join("out.csv");
        for sql in [
            format!("COPY (SELECT 1) TO '{}'", file.display()),
            "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'".to_owned(),
            "CREATE TABLE t AS SELECT 1".to_owned(),
            "CREATE VIEW v AS SELECT 1".to_owned(),
            "INSERT INTO t VALUES (1)".to_owned(),
            "SET datafusion.execution.target_partitions = 1000".to_owned(),
            "EXPLAIN ANALYZE CREATE TABLE t AS SELECT 1".to_owned(),
        ] {
            let problem = text(&session, &sql).await.expect_err(&sql);
            assert_eq!(problem.kind, ProblemKind::ReadOnly, "{sql}: {problem}");
        }
        for sql in ["SELECT * FROM '/etc/passwd'", "SELECT * FROM \"/etc/hosts.csv\""] {
            assert_eq!(text(&session, sql).await.expect_err(sql).kind, ProblemKind::UnknownTable, "{sql}");
        }
        for sql in ["SELECT * FROM read_csv('/etc/passwd')", "SELECT * FROM read_parquet('/etc/passwd')"] {
            assert_eq!(text(&session, sql).await.expect_err(sql).kind, ProblemKind::UnknownFunction, "{sql}");
        }
        assert!(!file.exists());
    }

    #[tokio::test]
    async fn a_panic_ends_one_question_and_no_other() {
        let limits = Limits::default();
        let session = session(limits);
        let mut engine = Engine::new(&limits).expect("engine");
        let explode = create_udf(
            "explode",
            vec![DataType::Int64],
            DataType::Int64,
            Volatility::Volatile,
            Arc::new(|_| panic!("boom")),
        );
        engine.base.register_udf(Arc::new(explode)).expect("register");
        assert!(session.engine.set(Arc::new(engine)).is_ok());
        let problem =
            text(&session, "SELECT explode(value) FROM generate_series(1, 100000)").await.expect_err("panics");
        assert_eq!(problem.kind, ProblemKind::Internal, "{problem}");
        assert!(problem.detail.contains("boom"), "{problem}");
        assert_eq!(text(&session, "SELECT 1 AS x").await.expect("the next one"), "x\n1\n");
    }

    #[tokio::test]
    async fn statements_as_deep_as_the_guard_allows_do_not_overflow_the_stack() {
        let session = session(Limits::default());
        let deep = OPERATORS_MAX - 10;
        let sum = format!("SELECT x{} AS x FROM (VALUES (1)) AS t(x)", " + 1".repeat(deep));
        assert_eq!(text(&session, &sum).await.expect("a long sum"), format!("x\n{}\n", deep + 1));
        let any = format!("SELECT x FROM (VALUES (1)) AS t(x) WHERE x = 1{}", " OR x = 2".repeat(deep / 2));
        assert_eq!(text(&session, &any).await.expect("a long OR"), "x\n1\n");
        let brackets = format!("SELECT {}1{} AS x", "(".repeat(100_000), ")".repeat(100_000));
        assert_eq!(text(&session, &brackets).await.expect_err("too deep").kind, ProblemKind::Syntax);
        let union = format!("SELECT 1 AS x{}", " UNION ALL SELECT 1".repeat(100));
        assert_eq!(text(&session, &union).await.expect("a long union").lines().count(), 102);
    }

    #[tokio::test]
    async fn a_question_over_its_memory_is_refused_and_the_next_one_runs() {
        let session = session(Limits { memory_bytes: 2 << 20, spill_bytes: 1 << 20, ..Limits::default() });
        let hungry = "SELECT count(*) FROM (SELECT DISTINCT value, value || 'a long text to fill memory' FROM generate_series(1, 3000000))";
        let problem = text(&session, hungry).await.expect_err("too much");
        assert_eq!(problem.kind, ProblemKind::OutOfMemory, "{problem}");
        assert_eq!(text(&session, "SELECT 1 AS x").await.expect("the next one"), "x\n1\n");
    }

    #[tokio::test]
    async fn functions_that_make_much_out_of_little_are_bounded() {
        let session = session(Limits::default());
        for sql in [
            "SELECT length(repeat('x', 2000000000))",
            "SELECT sum(length(repeat('x', value + 1000000))) FROM generate_series(1, 100000)",
            "SELECT lpad('x', 2000000000)",
            "SELECT rpad(a, 2000000000, 'y') FROM (VALUES ('x')) t(a)",
            "SELECT array_repeat(1, 2000000000)",
            "SELECT array_resize([1], 2000000000, 0)",
            "SELECT range(0, 100000000000)",
            "SELECT range(n) FROM (VALUES (100000000000)) t(n)",
            "SELECT generate_series(DATE '2000-01-01', DATE '2200-01-01', INTERVAL '1' MICROSECOND)",
            "SELECT generate_series(TIMESTAMP '2000-01-01', TIMESTAMP '2200-01-01', INTERVAL '1' MICROSECOND)",
        ] {
            let problem = text(&session, sql).await.expect_err(sql);
            assert_eq!(problem.kind, ProblemKind::OutOfMemory, "{sql}: {problem}");
        }
        for (sql, answer) in [
            ("SELECT repeat('ab', 3) AS x", "x\nababab\n"),
            ("SELECT lpad('a', 3) || rpad('b', 3, 'x') AS x", "x\n  abxx\n"),
            ("SELECT range(1, 6, 2) AS x", "x\n\"[1, 3, 5]\"\n"),
            ("SELECT array_repeat('a', 2) AS x", "x\n\"[a, a]\"\n"),
            ("SELECT count(*) AS x FROM generate_series(1, 1000000)", "x\n1000000\n"),
        ] {
            assert_eq!(text(&session, sql).await.expect(sql), answer, "{sql}");
        }
    }

    #[tokio::test]
    async fn an_endless_question_ends_at_its_time() {
        let session = session(Limits { time: Duration::from_millis(300), ..Limits::default() });
        let endless = "SELECT count(*) FROM generate_series(1, 1000000000) a, generate_series(1, 1000000000) b";
        assert_eq!(text(&session, endless).await.expect_err("time").kind, ProblemKind::TimedOut);
        assert_eq!(text(&session, "SELECT 1 AS x").await.expect("the next one"), "x\n1\n");
    }

    #[tokio::test]
    async fn a_question_that_nobody_reads_frees_its_turn() {
        let session = session(Limits { queries_max: 1, ..Limits::default() });
        let mut first = session.query("SELECT * FROM generate_series(1, 1000000000000)").await.expect("starts");
        assert!(first.next().await.expect("rows").is_ok());
        drop(first);
        assert_eq!(text(&session, "SELECT 1 AS x").await.expect("the next one"), "x\n1\n");
    }
}
