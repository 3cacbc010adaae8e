//! See the README.

pub mod catalog;
pub mod diagnostic;
pub mod planner;

mod statement;

pub use catalog::{Partitioning, Pipeline, SourceInfo, Storage, TableInfo, ViewInfo};
pub use diagnostic::{Code, Diagnostic};
pub use planner::{compile, explain, rewrite_windows_for_history};
