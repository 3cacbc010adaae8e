//! Values as integers in the same order, so that one accumulator finds the least and the greatest of every type.

use std::sync::Arc;

use arrow::array::{ArrayRef, ArrowPrimitiveType, BooleanArray, PrimitiveArray};
use arrow::datatypes::{
    DataType, Date32Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};

/// Turns ordered integers back into a column.
pub(super) fn from_ordered(values: impl Iterator<Item = Option<i64>>, kind: &DataType) -> ArrayRef {
    fn narrow<T: ArrowPrimitiveType>(
        values: impl Iterator<Item = Option<i64>>,
        convert: impl Fn(i64) -> T::Native,
    ) -> PrimitiveArray<T> {
        values.map(|value| value.map(&convert)).collect()
    }
    match kind {
        DataType::Float64 => Arc::new(narrow::<Float64Type>(values, unordered_f64)),
        DataType::Float32 => Arc::new(narrow::<Float32Type>(values, |v| unordered_f64(v) as f32)),
        DataType::Int64 => Arc::new(narrow::<Int64Type>(values, |v| v)),
        DataType::Int32 => Arc::new(narrow::<Int32Type>(values, |v| v as i32)),
        DataType::Int16 => Arc::new(narrow::<Int16Type>(values, |v| v as i16)),
        DataType::Int8 => Arc::new(narrow::<Int8Type>(values, |v| v as i8)),
        DataType::UInt64 => Arc::new(narrow::<UInt64Type>(values, unordered_u64)),
        DataType::UInt32 => Arc::new(narrow::<UInt32Type>(values, |v| unordered_u64(v) as u32)),
        DataType::UInt16 => Arc::new(narrow::<UInt16Type>(values, |v| unordered_u64(v) as u16)),
        DataType::UInt8 => Arc::new(narrow::<UInt8Type>(values, |v| unordered_u64(v) as u8)),
        DataType::Date32 => Arc::new(narrow::<Date32Type>(values, |v| v as i32)),
        DataType::Boolean => Arc::new(values.map(|value| value.map(|v| v != 0)).collect::<BooleanArray>()),
        DataType::Timestamp(unit, zone) => {
            let zone = zone.clone();
            match unit {
                TimeUnit::Microsecond => {
                    Arc::new(narrow::<TimestampMicrosecondType>(values, |v| v).with_timezone_opt(zone))
                }
                TimeUnit::Millisecond => {
                    Arc::new(narrow::<TimestampMillisecondType>(values, |v| v).with_timezone_opt(zone))
                }
                TimeUnit::Nanosecond => {
                    Arc::new(narrow::<TimestampNanosecondType>(values, |v| v).with_timezone_opt(zone))
                }
                TimeUnit::Second => Arc::new(narrow::<TimestampSecondType>(values, |v| v).with_timezone_opt(zone)),
            }
        }
        other => unreachable!("no order over {other}"),
    }
}

/// Maps floats to integers in the order -inf .. -0.0, 0.0 .. inf, NaN; all NaNs are one.
#[inline]
pub(super) fn ordered_f64(value: f64) -> i64 {
    let bits = if value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() } as i64;
    bits ^ (((bits >> 63) as u64) >> 1) as i64
}

pub(super) fn unordered_f64(ordered: i64) -> f64 {
    f64::from_bits((ordered ^ (((ordered >> 63) as u64) >> 1) as i64) as u64)
}

#[inline]
pub(super) fn ordered_u64(value: u64) -> i64 {
    (value ^ (1 << 63)) as i64
}

#[inline]
pub(super) fn unordered_u64(ordered: i64) -> u64 {
    ordered as u64 ^ (1 << 63)
}
