//! Questions: read-only SQL over the stored history.
//!
//! ```text
//!   query(sql) ─► guard ─► admission ─► plan ─► first batch … last batch ─► Answer
//!                 too long   queries_max   └──────── on threads of their own ────────┘
//!                 not a question           panics are caught, time and memory are bounded
//! ```
//!
//! No statement may take the program down, and a slow reader slows only itself: questions run on their own threads, in
//! their own memory pool, and give their rows through a bounded channel. When the reader goes away the question ends.
//! `TUMBLE` and `HOP` mean the same over stored rows as in a view, so a view pasted as a question gives its numbers.
//! Outer files cannot be reached: nothing but the tables of the [`History`] has a name, and statements that would make
//! one are refused.

mod guard;
mod question;
mod refusal;

mod cooperative;
mod now;
mod shared;

#[cfg(test)]
mod tests;

use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tidemill_engine::source::BoxFuture;
use tokio::sync::Semaphore;

pub use guard::{OPERATORS_MAX, RELATIONS_MAX, SQL_BYTES_MAX};

use crate::answer::Answer;
use crate::history::{History, QueryTables};
use crate::problem::{Problem, ProblemKind};
use question::{Question, ask};
use shared::Shared;

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
    shared: OnceLock<Arc<Shared>>,
}

impl Session {
    /// Makes a session over a history.
    pub fn new(history: Arc<History>, limits: Limits) -> Self {
        Session { history, limits, turns: Arc::new(Semaphore::new(limits.queries_max)), shared: OnceLock::new() }
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
        let shared = match guard::check_text(sql).and_then(|()| self.shared()) {
            Ok(shared) => shared,
            Err(problem) => return Box::pin(async move { Err(problem) }),
        };
        // Editors of some systems begin a file with the mark of UTF-8, as a pipeline may.
        let sql = sql.strip_prefix('\u{feff}').unwrap_or(sql);
        let question = Question {
            sql: sql.to_owned(),
            parameters,
            tables: Arc::new(QueryTables::new(Arc::clone(&self.history))),
            functions: shared.functions.clone(),
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
            ask(shared, question, turn, time).await
        })
    }

    fn shared(&self) -> Result<Arc<Shared>, Problem> {
        if let Some(shared) = self.shared.get() {
            return Ok(Arc::clone(shared));
        }
        let shared = Arc::new(Shared::new(&self.limits)?);
        // Two first questions may race; one of the two stays.
        Ok(Arc::clone(self.shared.get_or_init(|| shared)))
    }
}
