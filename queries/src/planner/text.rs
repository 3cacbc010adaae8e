//! A single expression from text, for the builder: `temperature * 1.8 + 32`.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::{Field, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::error::Result;
use datafusion::sql::planner::PlannerContext;
use datafusion::sql::sqlparser::ast::{self, visit_expressions};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;
use tidemill_engine::expr::ExprRef;

use super::expression::{Compiled, Scope};
use super::names::{Functions, Names};
use super::stream::function_name;

/// An expression that is ready to run.
#[derive(Clone, Debug)]
pub struct CompiledExpression {
    /// The expression.
    pub expr: ExprRef,
    /// Its text as a name, its type, and whether it can be null.
    pub field: Field,
    /// The column of the input, if it is nothing but that.
    pub column: Option<usize>,
}

/// Compiles one SQL expression over columns; it may use the scalar functions that views may use. The error is for people.
pub fn compile_expression(text: &str, schema: &SchemaRef) -> Result<CompiledExpression, String> {
    let dialect = GenericDialect {};
    let mut parser = Parser::new(&dialect).try_with_sql(text).map_err(|error| error.to_string())?;
    let parsed = parser.parse_expr().map_err(|error| error.to_string())?;
    if parser.peek_token().token != Token::EOF {
        return Err(format!("the expression goes on with {:?}", parser.peek_token().token.to_string()));
    }
    let functions = Functions::new();
    let impure = visit_expressions(&parsed, |expr| match expr {
        ast::Expr::Function(function) if functions.is_impure(&function_name(function)) => {
            ControlFlow::Break(function.to_string())
        }
        _ => ControlFlow::Continue(()),
    });
    if let ControlFlow::Break(function) = impure {
        return Err(format!("{function} gives another value each time; a replay must give the same rows"));
    }
    let names = Names { functions: &functions, relation: "", schema: Arc::clone(schema) };
    let compiled = plan(parsed, &names, schema).map_err(|error| error.strip_backtrace())?;
    let field = Field::new(text, compiled.data_type.clone(), compiled.nullable);
    Ok(CompiledExpression { expr: compiled.expr, field, column: compiled.column })
}

fn plan(parsed: ast::Expr, names: &Names<'_>, schema: &SchemaRef) -> Result<Compiled> {
    let df_schema = DFSchema::try_from(Arc::clone(schema))?;
    let logical = names.planner().sql_to_expr(parsed, &df_schema, &mut PlannerContext::new())?;
    Scope::new(schema.fields().iter().map(|field| (None, field.name().as_str())), schema)?.compile(logical)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{AsArray, Float64Array, RecordBatch, StringViewArray};
    use arrow::datatypes::{DataType, Float64Type, Schema};

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("device", DataType::Utf8View, false),
            Field::new("celsius", DataType::Float64, true),
        ]))
    }

    #[test]
    fn an_expression_computes_whole_columns() {
        let fahrenheit = compile_expression("celsius * 1.8 + 32", &schema()).expect("valid");
        let columns: Vec<arrow::array::ArrayRef> = vec![
            Arc::new(StringViewArray::from_iter_values(["a", "b"])),
            Arc::new(Float64Array::from(vec![Some(100.0), None])),
        ];
        let rows = RecordBatch::try_new(schema(), columns).expect("rows");
        let computed = fahrenheit.expr.evaluate(&rows).expect("numbers");
        assert_eq!(computed.as_primitive::<Float64Type>().iter().collect::<Vec<_>>(), [Some(212.0), None]);
        assert_eq!((fahrenheit.field.data_type(), fahrenheit.column), (&DataType::Float64, None));
    }

    #[test]
    fn a_plain_column_is_known_as_one() {
        assert_eq!(compile_expression("celsius", &schema()).expect("valid").column, Some(1));
    }

    #[test]
    fn what_cannot_be_is_an_error_that_says_so() {
        for (text, word) in [
            ("celsius +", "expected: an expression"),
            ("celsius > 1 device", "goes on with"),
            ("celsus > 1", "celsus"),
            ("now() > 1", "another value each time"),
            ("no_such_function(celsius)", "no_such_function"),
        ] {
            let problem = compile_expression(text, &schema()).expect_err(text);
            assert!(problem.to_lowercase().contains(word), "{text}: {problem}");
        }
    }
}
