//! The order of rows in a file.
//!
//! The columns that rows are sorted by are keys and then, mostly, time: few keys, many rows of each, and those in order
//! of their time already or nearly so. Rows are counted out to their keys, and only keys are compared with each other,
//! which is much less work than comparing rows (a counting sort; Knuth, The Art of Computer Programming 3, 5.2).

use std::collections::HashMap;

use arrow::array::{Array, ArrayRef, AsArray, UInt32Array};
use arrow::datatypes::TimestampMicrosecondType;
use arrow::error::ArrowError;
use arrow::row::{RowConverter, Rows, SortField};

/// Returns the numbers of rows in ascending order of these columns, of which there is at least one; nulls come first, and
/// equal rows stay in their order.
pub(super) fn order_of(by: &[ArrayRef]) -> Result<UInt32Array, ArrowError> {
    let (last, keys) = by.split_last().expect("at least one column");
    let (mut order, counts) = count_out(keys, last.len())?;
    match last.as_primitive_opt::<TimestampMicrosecondType>() {
        Some(times) if times.null_count() == 0 => sort_each(&mut order, &counts, |row| times.value(row)),
        _ => {
            let values = rows_of(std::slice::from_ref(last))?;
            sort_each(&mut order, &counts, |row| values.row(row));
        }
    }
    Ok(order.into())
}

/// Sorts the rows of each key, of which there are so many, by a value.
fn sort_each<V: Ord>(order: &mut [u32], counts: &[usize], value: impl Fn(usize) -> V) {
    let value = |row: &u32| value(*row as usize);
    let mut left = order;
    for count in counts {
        let (of_key, others) = left.split_at_mut(*count);
        if !of_key.is_sorted_by_key(value) {
            of_key.sort_by_key(value);
        }
        left = others;
    }
}

/// Returns the numbers of rows in the order of their keys, and how many rows each key has.
fn count_out(keys: &[ArrayRef], rows: usize) -> Result<(Vec<u32>, Vec<usize>), ArrowError> {
    let row_count = u32::try_from(rows).map_err(|_| ArrowError::ComputeError("too many rows to sort".to_owned()))?;
    if keys.is_empty() {
        return Ok(((0..row_count).collect(), vec![rows]));
    }
    let keys = rows_of(keys)?;
    // Keys by their first appearance: how many rows, and the key.
    let (mut numbers, mut found) = (HashMap::new(), Vec::new());
    let key_of: Vec<usize> = keys
        .iter()
        .map(|key| {
            let number = *numbers.entry(key).or_insert_with(|| {
                found.push((key, 0));
                found.len() - 1
            });
            found[number].1 += 1;
            number
        })
        .collect();
    let mut ranked: Vec<usize> = (0..found.len()).collect();
    ranked.sort_unstable_by_key(|number| found[*number].0);
    let counts: Vec<usize> = ranked.iter().map(|number| found[*number].1).collect();
    // Where the next row of each key goes.
    let mut places = vec![0; found.len()];
    let mut begin = 0;
    for (number, count) in ranked.into_iter().zip(&counts) {
        places[number] = begin;
        begin += count;
    }
    let mut order = vec![0; rows];
    for (row, number) in (0..row_count).zip(key_of) {
        order[places[number]] = row;
        places[number] += 1;
    }
    Ok((order, counts))
}

/// Returns columns as rows whose bytes compare like them.
fn rows_of(columns: &[ArrayRef]) -> Result<Rows, ArrowError> {
    let fields = columns.iter().map(|column| SortField::new(column.data_type().clone())).collect();
    RowConverter::new(fields)?.convert_columns(columns)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, Int64Array, StringViewArray, TimestampMicrosecondArray};
    use arrow::compute::{SortColumn, lexsort_to_indices};
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    /// Some columns of each kind, with few or many values and with nulls.
    fn columns(random: &mut SmallRng, rows: usize) -> Vec<ArrayRef> {
        let count = random.random_range(1..4);
        let column = |random: &mut SmallRng| {
            let values = [2, 20, 1_000_000][random.random_range(0..3)];
            let nulls = [0.0, 0.1][random.random_range(0..2)];
            let mut drawn = || (!random.random_bool(nulls)).then(|| random.random_range(-values..values));
            let drawn: Vec<Option<i64>> = (0..rows).map(|_| drawn()).collect();
            let column: ArrayRef = match random.random_range(0..4) {
                0 => Arc::new(Int64Array::from(drawn)),
                1 => Arc::new(TimestampMicrosecondArray::from(drawn).with_timezone("UTC")),
                2 => {
                    Arc::new(drawn.iter().map(|drawn| drawn.map(|drawn| drawn as f64 / 8.0)).collect::<Float64Array>())
                }
                _ => Arc::new(
                    drawn.iter().map(|drawn| drawn.map(|drawn| format!("device {drawn}"))).collect::<StringViewArray>(),
                ),
            };
            column
        };
        (0..count).map(|_| column(random)).collect()
    }

    #[test]
    fn rows_come_in_the_order_of_a_comparison_of_rows_and_equal_ones_stay_in_theirs() {
        let mut random = SmallRng::seed_from_u64(1);
        for _ in 0..1_000 {
            let rows = random.random_range(0..300);
            let by = columns(&mut random, rows);
            // The number of a row, compared last, says what is equal.
            let numbers: ArrayRef = Arc::new(UInt32Array::from_iter_values(0..u32::try_from(rows).unwrap()));
            let all = by.iter().chain([&numbers]);
            let all: Vec<SortColumn> =
                all.map(|values| SortColumn { values: Arc::clone(values), options: None }).collect();
            assert_eq!(order_of(&by).unwrap(), lexsort_to_indices(&all, None).unwrap(), "{by:?}");
        }
    }

    #[test]
    fn time_that_is_in_order_within_each_device_is_left_as_it_is() {
        let devices: ArrayRef = Arc::new(StringViewArray::from(vec!["b", "a", "b", "a", "c"]));
        let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![1, 1, 2, 1, 0]));
        assert_eq!(order_of(&[devices, times]).unwrap().values(), &[1, 3, 0, 2, 4]);
    }
}
