//! Expressions: DataFusion's, made ready for whole batches behind the engine's [`Expr`].
//!
//! At the edges types are narrowed to those the engine has: text is `Utf8View`, an instant is `Timestamp(µs, "UTC")`.
//!
//! A row for which an expression cannot be computed (a division by zero, a text that is no number) gives null: one bad
//! reading must not stop a stream, now and in every replay. So all that is computed may be null; columns passed on as
//! they are keep their NOT NULL.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::concat;
use arrow::datatypes::{DataType, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, DFSchemaRef, TableReference};
use datafusion::error::Result;
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr as LogicalExpr, ExprSchemable, cast};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr, expressions};
use tidemill_engine::expr::{Column as EngineColumn, Expr, ExprError, ExprRef};
use tidemill_engine::plan::{text_map_type, timestamp_type};

/// An expression that is ready to run, with what comes out.
#[derive(Clone, Debug)]
pub(super) struct Compiled {
    pub(super) expr: ExprRef,
    pub(super) data_type: DataType,
    pub(super) nullable: bool,
    /// The input's column, if it is nothing but that.
    pub(super) column: Option<usize>,
    /// What it computes, as text that tells `1` from `'1'`: for fingerprints.
    pub(super) canonical: String,
}

/// The columns an expression may use: as DataFusion calls them, and as they truly come in.
pub(super) struct Scope {
    schema: DFSchemaRef,
    /// Our name for each of DataFusion's.
    names: HashMap<(Option<TableReference>, String), String>,
}

impl Scope {
    /// Pairs DataFusion's columns, in order, with those that come in. Names that come in differ.
    pub(super) fn new<'a>(
        columns: impl IntoIterator<Item = (Option<&'a TableReference>, &'a str)>,
        incoming: &Schema,
    ) -> Result<Self> {
        let names = columns
            .into_iter()
            .zip(incoming.fields())
            .map(|((qualifier, name), field)| ((qualifier.cloned(), name.to_owned()), field.name().clone()))
            .collect();
        let fields = incoming.fields().iter().map(|field| (None, Arc::clone(field))).collect();
        Ok(Scope { schema: Arc::new(DFSchema::new_with_metadata(fields, HashMap::new())?), names })
    }

    fn simplifier(&self) -> ExprSimplifier {
        ExprSimplifier::new(SimplifyContext::builder().with_schema(Arc::clone(&self.schema)).build())
    }

    /// Makes an expression ready: types made to agree, constants folded, columns found by place.
    pub(super) fn compile(&self, expr: LogicalExpr) -> Result<Compiled> {
        let simplifier = self.simplifier();
        let expr = simplifier.coerce(self.renamed(expr)?, &self.schema)?;
        let written_type = expr.get_type(self.schema.as_ref())?;
        let data_type = engine_type(&written_type);
        let expr = if data_type == written_type { expr } else { cast(expr, data_type.clone()) };
        self.physical(simplifier.simplify(expr)?, data_type)
    }

    /// Like [`Scope::compile`], for a condition: what comes out is boolean, unless the condition is none.
    pub(super) fn compile_condition(&self, expr: LogicalExpr) -> Result<Compiled> {
        let simplifier = self.simplifier();
        let expr = simplifier.coerce(self.renamed(expr)?, &self.schema)?;
        let data_type = expr.get_type(self.schema.as_ref())?;
        let expr = if data_type == DataType::Null { cast(expr, DataType::Boolean) } else { expr };
        self.physical(simplifier.simplify(expr)?, data_type)
    }

    fn renamed(&self, expr: LogicalExpr) -> Result<LogicalExpr> {
        let expr = expr.unalias_nested().data;
        let renamed = expr.transform(|expr| match expr {
            LogicalExpr::Column(column) => {
                let name = self.names.get(&(column.relation.clone(), column.name.clone())).cloned();
                let name = name.unwrap_or_else(|| column.name.clone());
                Ok(Transformed::yes(LogicalExpr::Column(Column::new_unqualified(name))))
            }
            other => Ok(Transformed::no(other)),
        })?;
        Ok(renamed.data)
    }

    fn physical(&self, expr: LogicalExpr, data_type: DataType) -> Result<Compiled> {
        let canonical = expr.to_string();
        let planning = PhysicalPlanningContext::default();
        let physical = create_physical_expr(&expr, &self.schema, &ExecutionProps::new(), &planning)?;
        let constant = expr.column_refs().is_empty();
        if constant {
            let options = RecordBatchOptions::new().with_row_count(Some(1));
            let row = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &options)?;
            physical.evaluate(&row)?;
        } else {
            // What fails without any row fails by what is written: a unit or a pattern that nobody knows.
            physical.evaluate(&RecordBatch::new_empty(Arc::new(self.schema.as_arrow().clone())))?;
        }
        // What is computed from a row may fail for that row; a constant was just tried.
        let is_column = physical.is::<expressions::Column>();
        let nullable = !(is_column || constant) || physical.nullable(self.schema.as_arrow())?;
        let column = physical.downcast_ref::<expressions::Column>();
        let found = column.map(|column| EngineColumn { index: column.index(), name: column.name().to_owned() });
        let index = found.as_ref().map(|column| column.index);
        let expr: ExprRef = match found {
            Some(column) => Arc::new(column),
            None => Arc::new(Physical { expr: physical, nullable }),
        };
        Ok(Compiled { expr, data_type, nullable, column: index, canonical })
    }
}

/// Returns the type of an expression, once its types are made to agree.
pub(super) fn type_of(expr: LogicalExpr, schema: &DFSchemaRef) -> Result<DataType> {
    let simplifier = ExprSimplifier::new(SimplifyContext::builder().with_schema(Arc::clone(schema)).build());
    simplifier.coerce(expr, schema)?.get_type(schema.as_ref())
}

/// Says whether an expression makes sense by itself.
pub(super) fn check(expr: LogicalExpr, schema: &DFSchemaRef) -> Result<()> {
    let simplifier = ExprSimplifier::new(SimplifyContext::builder().with_schema(Arc::clone(schema)).build());
    let expr = simplifier.coerce(expr, schema)?;
    expr.get_type(schema.as_ref())?;
    simplifier.simplify(expr).map(|_| ())
}

/// Returns the type the engine has for a type of DataFusion's.
pub(super) fn engine_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
        DataType::Timestamp(..) => timestamp_type(),
        DataType::LargeBinary | DataType::BinaryView => DataType::Binary,
        other => other.clone(),
    }
}

/// Whether a table can have a column of this type.
pub(super) fn is_storable(data_type: &DataType) -> bool {
    is_groupable(data_type) || *data_type == DataType::Binary || *data_type == text_map_type()
}

/// Whether rows can be grouped by a column of this type.
pub(super) fn is_groupable(data_type: &DataType) -> bool {
    use DataType::{
        Boolean, Date32, Float32, Float64, Int8, Int16, Int32, Int64, Timestamp, UInt8, UInt16, UInt32, UInt64,
        Utf8View,
    };
    matches!(
        data_type,
        Boolean
            | Date32
            | Float32
            | Float64
            | Int8
            | Int16
            | Int32
            | Int64
            | Timestamp(..)
            | UInt8
            | UInt16
            | UInt32
            | UInt64
            | Utf8View
    )
}

/// DataFusion's physical expression as the engine's.
#[derive(Debug)]
struct Physical {
    expr: Arc<dyn PhysicalExpr>,
    nullable: bool,
}

impl fmt::Display for Physical {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.expr, f)
    }
}

impl Expr for Physical {
    fn evaluate(&self, batch: &RecordBatch) -> std::result::Result<ArrayRef, ExprError> {
        self.evaluate_or_null(batch)
            .map_err(|error| ExprError { expression: self.to_string(), problem: error.strip_backtrace() })
    }

    fn data_type(&self, input: &Schema) -> DataType {
        // The expression was made for this input: it has a type there. Null only says that something else is wrong.
        self.expr.data_type(input).unwrap_or(DataType::Null)
    }

    fn nullable(&self, _: &Schema) -> bool {
        self.nullable
    }
}

impl Physical {
    /// Evaluates all rows at once; if that fails, finds the rows that are to blame by halves, and gives null for them.
    /// What comes out depends on each row alone, not on the batch it is in.
    fn evaluate_or_null(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        let rows = batch.num_rows();
        let error = match self.expr.evaluate(batch).and_then(|value| value.into_array(rows)) {
            Ok(array) => return Ok(array),
            Err(error) => error,
        };
        match rows {
            0 => Err(error),
            1 => Ok(new_null_array(&self.expr.data_type(batch.schema_ref())?, 1)),
            _ => {
                let left = self.evaluate_or_null(&batch.slice(0, rows / 2))?;
                let right = self.evaluate_or_null(&batch.slice(rows / 2, rows - rows / 2))?;
                Ok(concat(&[left.as_ref(), right.as_ref()])?)
            }
        }
    }
}
