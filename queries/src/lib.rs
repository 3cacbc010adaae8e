//! SQL for tidemill: pipeline files to plans, the stored history as tables that can be asked, and the HTTP service.

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
