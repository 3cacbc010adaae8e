//! Aggregates: what is computed for each group of rows.
//!
//! [`Layout`] says where the accumulators of a group lie, and works on blocks of rows; what is peculiar to a type stands
//! beside it: values in order as integers, and sums that keep what rounding loses.

mod layout;
mod ordered;
mod rows;
mod sum;

pub use layout::{Layout, Texts};
pub use rows::Selection;

use arrow::datatypes::{DataType, Field};

use crate::expr::ExprRef;

/// The functions that stream. A closed set: each has its own accumulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AggregateKind {
    /// Rows, or values that are not null.
    Count,
    /// Sum of the values that are not null; null if there are none.
    Sum,
    /// Mean of the values that are not null; null if there are none.
    Avg,
    /// Least value that is not null; null if there are none.
    Min,
    /// Greatest value that is not null; null if there are none.
    Max,
}

/// One aggregate of a window: a function, its argument and the column it gives.
#[derive(Clone, Debug)]
pub struct AggregateCall {
    /// Which function.
    pub kind: AggregateKind,
    /// Its argument; `None` only for `count(*)`.
    pub argument: Option<ExprRef>,
    /// The argument's type; `Null` for `count(*)`.
    pub argument_type: DataType,
    /// The name of the column that comes out.
    pub name: String,
}

impl AggregateKind {
    /// Returns the type that comes out for an argument type, or `None` if the function does not take it. The
    /// results are those of DataFusion: integers sum to 64 bits, averages are `Float64`.
    pub fn return_type(self, argument: &DataType) -> Option<DataType> {
        use DataType::{
            Boolean, Date32, Float32, Float64, Int8, Int16, Int32, Int64, Timestamp, UInt8, UInt16, UInt32, UInt64,
            Utf8, Utf8View,
        };
        match self {
            AggregateKind::Count => Some(Int64),
            AggregateKind::Sum => match argument {
                Int8 | Int16 | Int32 | Int64 => Some(Int64),
                UInt8 | UInt16 | UInt32 | UInt64 => Some(UInt64),
                Float32 | Float64 => Some(Float64),
                _ => None,
            },
            AggregateKind::Avg => argument.is_numeric().then_some(Float64),
            AggregateKind::Min | AggregateKind::Max => match argument {
                Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | UInt64 | Float32 | Float64 | Boolean
                | Date32 | Timestamp(..) | Utf8View => Some(argument.clone()),
                Utf8 => Some(Utf8View),
                _ => None,
            },
        }
    }
}

impl AggregateCall {
    /// Returns the column that comes out; only `count` is never null.
    pub fn field(&self) -> Field {
        let kind = self.kind.return_type(&self.argument_type).expect("the planner checked the argument's type");
        Field::new(&self.name, kind, self.kind != AggregateKind::Count)
    }
}
