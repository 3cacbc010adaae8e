//! Expressions: DataFusion's, made ready for whole batches behind the engine's [`Expr`].
//!
//! At the edges types are narrowed to those the engine has: text is `Utf8View`, an instant is `Timestamp(µs, "UTC")`.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Schema};
use datafusion::common::{DFSchema, DFSchemaRef};
use datafusion::error::Result;
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr as LogicalExpr, ExprSchemable, cast};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr, expressions};
use tidemill_engine::expr::{Column, Expr, ExprError, ExprRef};
use tidemill_engine::plan::timestamp_type;

/// An expression that is ready to run, with what comes out.
#[derive(Clone, Debug)]
pub(super) struct Compiled {
    pub(super) expr: ExprRef,
    pub(super) data_type: DataType,
    pub(super) nullable: bool,
    /// The input's column, if it is nothing but that.
    pub(super) column: Option<usize>,
}

/// Makes an expression ready: types made to agree, constants folded, columns found by place.
pub(super) fn compile(expr: LogicalExpr, schema: &DFSchemaRef) -> Result<Compiled> {
    let simplifier = ExprSimplifier::new(SimplifyContext::builder().with_schema(Arc::clone(schema)).build());
    let expr = simplifier.coerce(expr.unalias_nested().data, schema)?;
    let written_type = expr.get_type(schema.as_ref())?;
    let data_type = engine_type(&written_type);
    let expr = if data_type == written_type { expr } else { cast(expr, data_type.clone()) };
    compile_typed(simplifier.simplify(expr)?, schema, data_type)
}

/// Like [`compile`], for a condition: what comes out is boolean.
pub(super) fn compile_condition(expr: LogicalExpr, schema: &DFSchemaRef) -> Result<Compiled> {
    let simplifier = ExprSimplifier::new(SimplifyContext::builder().with_schema(Arc::clone(schema)).build());
    let expr = simplifier.coerce(expr.unalias_nested().data, schema)?;
    let data_type = expr.get_type(schema.as_ref())?;
    let expr = if data_type == DataType::Null { cast(expr, DataType::Boolean) } else { expr };
    compile_typed(simplifier.simplify(expr)?, schema, data_type)
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

fn compile_typed(expr: LogicalExpr, schema: &DFSchema, data_type: DataType) -> Result<Compiled> {
    let physical =
        create_physical_expr(&expr, schema, &ExecutionProps::new(), &PhysicalPlanningContext::default())?;
    let nullable = physical.nullable(schema.as_arrow())?;
    if let Some(column) = physical.downcast_ref::<expressions::Column>() {
        let (index, name) = (column.index(), column.name().to_owned());
        return Ok(Compiled { expr: Arc::new(Column { index, name }), data_type, nullable, column: Some(index) });
    }
    Ok(Compiled { expr: Arc::new(Physical(physical)), data_type, nullable, column: None })
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
    is_groupable(data_type) || *data_type == DataType::Binary
}

/// Whether rows can be grouped by a column of this type.
pub(super) fn is_groupable(data_type: &DataType) -> bool {
    use DataType::{
        Boolean, Date32, Float32, Float64, Int8, Int16, Int32, Int64, Timestamp, UInt8, UInt16, UInt32, UInt64, Utf8View,
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
struct Physical(Arc<dyn PhysicalExpr>);

impl fmt::Display for Physical {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Expr for Physical {
    fn evaluate(&self, batch: &RecordBatch) -> std::result::Result<ArrayRef, ExprError> {
        let value = self.0.evaluate(batch).and_then(|value| value.into_array(batch.num_rows()));
        value.map_err(|error| ExprError { expression: self.to_string(), problem: error.strip_backtrace() })
    }

    fn data_type(&self, input: &Schema) -> DataType {
        // The expression was made for this input: it has a type there. Null only says that something else is wrong.
        self.0.data_type(input).unwrap_or(DataType::Null)
    }

    fn nullable(&self, input: &Schema) -> bool {
        self.0.nullable(input).unwrap_or(true)
    }
}
