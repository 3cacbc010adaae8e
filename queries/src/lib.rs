//! SQL for tidemill: pipeline files become plans, the stored history answers questions, and HTTP serves both.

pub mod catalog;
pub mod diagnostic;
pub mod planner;

mod statement;

pub mod problem;

pub mod history;

pub mod answer;
pub mod session;

pub mod server;

pub use catalog::{Partitioning, Pipeline, SourceInfo, Storage, TableInfo, ViewInfo};
pub use diagnostic::{Code, Diagnostic};
pub use planner::{CompiledExpression, compile, compile_expression, explain, rewrite_windows_for_history};
