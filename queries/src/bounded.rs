//! Functions that make much out of little, with a bound: `repeat('x', 2000000000)` is 12 characters that ask for 2 GB.
//!
//! The memory pool sees what operators keep, not what a function returns, so a typing error here could end the
//! process. In a view it would end it again at each start, for the row that asks is in the log. Each of these functions is
//! asked first how much it would make of a batch of rows; a row of a view whose value it refuses has NULL.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, Int64Type, IntervalMonthDayNanoType, IntervalUnit, TimeUnit};
use datafusion::common::DataFusionError;
use datafusion::common::utils::take_function_args;
use datafusion::execution::FunctionRegistry;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

/// Bytes that one call may make of one batch of rows.
const RESULT_BYTES_MAX: u128 = 256 << 20;
/// Bytes of an element of a list, about.
const ELEMENT_BYTES: u128 = 16;
/// Bytes of a character, at most.
const CHARACTER_BYTES: u128 = 4;
const DAY_NS: i128 = 86_400_000_000_000;

/// How the size of a result follows from the arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Growth {
    /// A text, so many times.
    Repeat,
    /// A text of so many characters.
    Pad,
    /// A list of so many elements: the second argument.
    List,
    /// A list from, to, by.
    Range,
}

const GROWING: &[(&str, Growth)] = &[
    ("repeat", Growth::Repeat),
    ("lpad", Growth::Pad),
    ("rpad", Growth::Pad),
    ("array_repeat", Growth::List),
    ("array_resize", Growth::List),
    ("range", Growth::Range),
    ("generate_series", Growth::Range),
];

/// Puts bounds on the functions that need them, for questions.
pub(crate) fn bound_functions(state: &mut SessionState) -> Result<(), DataFusionError> {
    for (name, _) in GROWING {
        let inner = state.udf(name)?;
        state.register_udf(bounded(inner))?;
    }
    Ok(())
}

/// Returns a function with its bound, if it needs one.
pub(crate) fn bounded(inner: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
    match GROWING.iter().find(|(name, _)| *name == inner.name()) {
        Some((_, growth)) => Arc::new(ScalarUDF::new_from_impl(Bounded { inner, growth: *growth })),
        None => inner,
    }
}

/// A function with a bound.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    growth: Growth,
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType, DataFusionError> {
        self.inner.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef, DataFusionError> {
        self.inner.return_field_from_args(args)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>, DataFusionError> {
        self.inner.coerce_types(types)
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult, DataFusionError> {
        self.inner.simplify(args, info)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue, DataFusionError> {
        // Arguments of a kind that is not understood here are left to the function itself.
        let bytes = result_bytes(self.growth, &args).unwrap_or(0);
        if bytes > RESULT_BYTES_MAX {
            return Err(DataFusionError::ResourcesExhausted(format!(
                "{} would make {bytes} bytes at once; the most is {RESULT_BYTES_MAX}",
                self.name()
            )));
        }
        self.inner.invoke_with_args(args)
    }
}

fn result_bytes(growth: Growth, args: &ScalarFunctionArgs) -> Result<u128, DataFusionError> {
    let column = |index: usize| args.args[index].to_array(args.number_rows);
    let rows = args.number_rows;
    match growth {
        Growth::Repeat => {
            let [_, _] = take_function_args("repeat", &args.args)?;
            let (texts, counts) = (cast(&column(0)?, &DataType::Utf8View)?, integers(&column(1)?)?);
            let texts = texts.as_string_view();
            Ok((0..rows).map(|row| texts.value(row).len() as u128 * natural(counts[row])).sum())
        }
        Growth::Pad if args.args.len() > 1 => {
            Ok(integers(&column(1)?)?.into_iter().map(|length| natural(length) * CHARACTER_BYTES).sum())
        }
        Growth::List if args.args.len() > 1 => {
            Ok(integers(&column(1)?)?.into_iter().map(|length| natural(length) * ELEMENT_BYTES).sum())
        }
        Growth::Pad | Growth::List => Ok(0),
        Growth::Range => {
            let (starts, stops) = match args.args.len() {
                1 => (vec![0; rows], positions(&column(0)?)?),
                2 | 3 => (positions(&column(0)?)?, positions(&column(1)?)?),
                _ => return Ok(0),
            };
            let steps = if args.args.len() == 3 { strides(&column(2)?)? } else { vec![1; rows] };
            let counts =
                (0..rows).map(|row| (stops[row] - starts[row]).unsigned_abs() / steps[row].unsigned_abs().max(1));
            Ok(counts.map(|count| count * ELEMENT_BYTES).sum())
        }
    }
}

fn natural(count: i64) -> u128 {
    u128::try_from(count).unwrap_or(0)
}

/// Returns whole numbers, nulls as 0.
fn integers(column: &ArrayRef) -> Result<Vec<i64>, DataFusionError> {
    let column = cast(column, &DataType::Int64)?;
    Ok(column.as_primitive::<Int64Type>().iter().map(Option::unwrap_or_default).collect())
}

/// Returns the ends of a range: numbers as they are, times in nanoseconds.
fn positions(column: &ArrayRef) -> Result<Vec<i128>, DataFusionError> {
    let column = match column.data_type() {
        DataType::Date32 | DataType::Date64 => {
            let days = cast(&cast(column, &DataType::Date32)?, &DataType::Int32)?;
            return Ok(integers(&days)?.into_iter().map(|days| i128::from(days) * DAY_NS).collect());
        }
        DataType::Timestamp(_, _) => {
            let micros = cast(column, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
            return Ok(integers(&micros)?.into_iter().map(|us| i128::from(us) * 1_000).collect());
        }
        _ => column,
    };
    Ok(integers(column)?.into_iter().map(i128::from).collect())
}

/// Returns steps: numbers as they are, intervals in nanoseconds.
fn strides(column: &ArrayRef) -> Result<Vec<i128>, DataFusionError> {
    if !matches!(column.data_type(), DataType::Interval(_)) {
        return positions(column);
    }
    let intervals = cast(column, &DataType::Interval(IntervalUnit::MonthDayNano))?;
    let nanos = intervals.as_primitive::<IntervalMonthDayNanoType>().iter().map(|interval| {
        interval
            .map_or(0, |it| (i128::from(it.months) * 28 + i128::from(it.days)) * DAY_NS + i128::from(it.nanoseconds))
    });
    Ok(nanos.collect())
}
