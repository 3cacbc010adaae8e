//! `now()` in microseconds, as times are stored.
//!
//! DataFusion's own has nanoseconds: a column that is compared with it becomes nanoseconds too, which no time before
//! 1677 or after 2262 fits in. One reading of the year 1, from a clock that was never set, would fail the question.

use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{DataFusionError, ScalarValue, internal_err};
use datafusion::execution::FunctionRegistry;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

/// Puts [`Now`] in the place of DataFusion's function.
pub(super) fn replace_now(state: &mut SessionState) -> Result<(), DataFusionError> {
    let now = Now { signature: Signature::nullary(Volatility::Stable), aliases: ["current_timestamp".to_owned()] };
    state.register_udf(Arc::new(ScalarUDF::new_from_impl(now))).map(drop)
}

/// The instant at which the question was asked: the same wherever it stands in it.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Now {
    signature: Signature,
    aliases: [String; 1],
}

impl ScalarUDFImpl for Now {
    fn name(&self) -> &str {
        "now"
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType, DataFusionError> {
        Ok(DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())))
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult, DataFusionError> {
        let Some(asked) = info.query_execution_start_time() else {
            return Ok(ExprSimplifyResult::Original(args));
        };
        let asked = ScalarValue::TimestampMicrosecond(Some(asked.timestamp_micros()), Some("UTC".into()));
        Ok(ExprSimplifyResult::Simplified(Expr::Literal(asked, None)))
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> Result<ColumnarValue, DataFusionError> {
        internal_err!("the instant of the question is not known")
    }
}
