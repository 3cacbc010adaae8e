//! The life of a question: planned, then computed as long as somebody reads.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use datafusion::common::{DataFusionError, ParamValues, ScalarValue};
use datafusion::config::Dialect;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::execute_stream;
use futures::{FutureExt, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::task::AbortOnDropHandle;

use super::refusal::{self, KnownNames, panic_problem, problem_of};
use super::shared::Shared;
use super::{Parameter, guard};
use crate::answer::{Answer, Piece};
use crate::history::QueryTables;
use crate::planner::rewrite_windows_for_history;
use crate::problem::{Problem, ProblemKind};

/// Batches between a question and its reader.
const BATCHES_IN_FLIGHT_MAX: usize = 4;

/// A question on its way, with the tables as it sees them.
pub(super) struct Question {
    pub(super) sql: String,
    pub(super) parameters: Vec<Parameter>,
    pub(super) tables: Arc<QueryTables>,
    pub(super) functions: BTreeSet<String>,
}

/// Plans on the threads of questions, then leaves a task there that computes rows as long as somebody reads them.
pub(super) async fn ask(
    shared: Arc<Shared>,
    question: Question,
    turn: OwnedSemaphorePermit,
    time: Duration,
) -> Result<Answer, Problem> {
    let deadline = tokio::time::Instant::now() + time;
    let known = Arc::new(KnownNames { tables: question.tables.names(), functions: question.functions.clone() });
    let tables = Arc::clone(&question.tables);
    let mut planning = {
        let (shared, known) = (Arc::clone(&shared), Arc::clone(&known));
        let handle = shared.handle().clone();
        // Nobody waits for the plan any more: it is not made to its end.
        AbortOnDropHandle::new(handle.spawn(async move { plan(&shared, &question, &known).await }))
    };
    let stream = match tokio::time::timeout_at(deadline, &mut planning).await {
        Ok(Ok(planned)) => planned?,
        Ok(Err(ended)) => match ended.try_into_panic() {
            Ok(payload) => return Err(panic_problem(payload.as_ref())),
            Err(_) => return Err(stopping()),
        },
        Err(_) => return Err(timed_out(time)),
    };
    let schema = stream.schema();
    let (sender, receiver) = mpsc::channel(BATCHES_IN_FLIGHT_MAX);
    let handle = shared.handle().clone();
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
        // What questions share must outlive each of them, not the other way round.
        drop(shared);
    });
    Ok(Answer::new(schema, tables.versions(), receiver, handle))
}

async fn plan(shared: &Shared, question: &Question, known: &KnownNames) -> Result<SendableRecordBatchStream, Problem> {
    let sql = windows_as_plain_sql(question).await?;
    let explain = |error: DataFusionError| {
        let problem = problem_of(&error, known);
        // A place in a rewritten text is no place in the text that was asked.
        if sql == question.sql { problem } else { problem.with_span(None) }
    };
    let mut state = SessionStateBuilder::new_from_existing(shared.base.clone())
        .with_catalog_list(question.tables.catalog_list())
        .build();
    // now(), current_date and current_time are the instant at which the question was asked.
    let options = Arc::clone(state.config_options());
    state.execution_props_mut().mark_start_execution(options);
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
