//! Expressions: a batch in, a column out. The engine only calls them; DataFusion's are made in the `queries` crate.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Schema};

/// Why an expression could not be evaluated on a batch.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot evaluate {expression}: {problem}")]
pub struct ExprError {
    /// The expression, as text.
    pub expression: String,
    /// Why.
    pub problem: String,
}

/// A pure function from a batch to a column of the same length.
pub trait Expr: fmt::Debug + fmt::Display + Send + Sync + 'static {
    /// Evaluates on all rows at once.
    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef, ExprError>;
    /// The type of the column that comes out.
    fn data_type(&self, input: &Schema) -> DataType;
    /// Whether it may be null.
    fn nullable(&self, input: &Schema) -> bool;
}

/// A shared expression.
pub type ExprRef = Arc<dyn Expr>;

/// The column at an index.
#[derive(Clone, Debug)]
pub struct Column {
    /// Its place in the batch.
    pub index: usize,
    /// Its name, for people.
    pub name: String,
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Expr for Column {
    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef, ExprError> {
        let column = batch.columns().get(self.index).ok_or_else(|| ExprError {
            expression: self.name.clone(),
            problem: format!("the batch has {} columns", batch.num_columns()),
        })?;
        debug_assert_eq!(column.len(), batch.num_rows());
        Ok(Arc::clone(column))
    }

    fn data_type(&self, input: &Schema) -> DataType {
        input.field(self.index).data_type().clone()
    }

    fn nullable(&self, input: &Schema) -> bool {
        input.field(self.index).is_nullable()
    }
}
