//! SQL for tidemill: pipeline files become plans, the stored history answers questions, and HTTP serves both.
//!
//! ```text
//!   pipeline file ─► statement ─► planner ─► Pipeline: plan, sources, views, tables       or Diagnostics
//!   question ──────► session ───► history ─► Answer: rows, in a format                    or a Problem
//! ```

pub mod catalog;
pub mod diagnostic;

mod statement;

pub mod planner;

mod bounded;
mod names;
mod parts;
mod type_name;

pub mod problem;

pub mod history;

pub mod answer;
pub mod session;

pub mod server;

pub use catalog::{DedupInfo, Partitioning, Pipeline, SinkInfo, SourceInfo, Storage, TableInfo, ViewInfo};
pub use diagnostic::{Code, Diagnostic};
pub use names::{is_column_name, name_in_sql, quoted};
pub use parts::{ColumnParts, Parts, SourceParts, ViewParts, WatermarkParts};
pub use planner::{CompiledExpression, compile, compile_expression, explain};
pub use type_name::type_name;
