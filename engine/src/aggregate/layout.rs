//! The accumulators of one group, side by side in 64-bit words.
//!
//! ```text
//!   word 0      rows
//!   then, for each distinct argument that needs them:
//!               values that are not null        (only if the argument may be null)
//!               sum of integers, one word       wrapping, as DataFusion's
//!               sum as a float, two words       the sum and its error; averages of integers use it too
//!               least, greatest                 as order-preserving i64
//!               least, greatest text            an index into the texts of the pane, or NONE
//! ```
//! One group fits in a cache line for the usual `count, avg, min, max`; that is what makes a million keys fast.
//!
//! Sums of floats keep what rounding lost in a second word. Together they are exact as long as the values of a group
//! span less than some fifty bits beyond their own precision, so the result does not depend on the order of the rows,
//! and with it not on the number of workers.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, StringViewBuilder, UInt64Array};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;

use super::ordered::{from_ordered, unordered_u64};
use super::rows::{BLOCK_ROWS, Rows, Selection};
use super::sum::{add, settle};
use super::{AggregateCall, AggregateKind};
use crate::expr::ExprRef;

/// Rows of a group, always the first word.
const ROWS: usize = 0;

/// No text yet.
const NONE: u64 = u64::MAX;

/// How the accumulators of one group lie in memory, and how each result is read from them.
#[derive(Clone, Debug)]
pub struct Layout {
    arguments: Vec<Argument>,
    results: Vec<ResultOf>,
    initial: Vec<u64>,
}

/// One distinct argument: evaluated once, whatever the number of functions over it.
#[derive(Clone, Debug)]
struct Argument {
    expr: ExprRef,
    kind: DataType,
    /// Word of the count of values that are not null; `ROWS` if none can be null.
    count: usize,
    integer_sum: Option<usize>,
    float_sum: Option<usize>,
    least: Option<usize>,
    greatest: Option<usize>,
}

#[derive(Clone, Debug)]
struct ResultOf {
    kind: AggregateKind,
    argument: Option<usize>,
    returns: DataType,
}

/// Texts that `min` and `max` hold; the slots have their indexes.
#[derive(Clone, Debug, Default)]
pub struct Texts(Vec<Box<str>>);

impl Layout {
    /// Lays out the accumulators of some aggregates. `nullable` says of an argument whether it can be null.
    pub fn new(calls: &[AggregateCall], nullable: impl Fn(&ExprRef) -> bool) -> Layout {
        let mut layout = Layout { arguments: Vec::new(), results: Vec::new(), initial: vec![0] };
        for call in calls {
            let returns = call.kind.return_type(&call.argument_type).expect("the planner checked the argument's type");
            let argument =
                call.argument.as_ref().map(|expr| layout.argument(expr, &call.argument_type, nullable(expr)));
            if let Some(at) = argument {
                layout.reserve(at, call.kind);
            }
            layout.results.push(ResultOf { kind: call.kind, argument, returns });
        }
        layout
    }

    fn argument(&mut self, expr: &ExprRef, kind: &DataType, nullable: bool) -> usize {
        // Texts for people do not tell `f('a, b')` from `f('a', 'b')`; those for debugging do.
        let text = format!("{expr:?}");
        let same = |argument: &Argument| argument.kind == *kind && format!("{:?}", argument.expr) == text;
        if let Some(at) = self.arguments.iter().position(same) {
            return at;
        }
        let count = if nullable { self.word(0) } else { ROWS };
        self.arguments.push(Argument {
            expr: Arc::clone(expr),
            kind: kind.clone(),
            count,
            integer_sum: None,
            float_sum: None,
            least: None,
            greatest: None,
        });
        self.arguments.len() - 1
    }

    fn reserve(&mut self, at: usize, kind: AggregateKind) {
        let (float, text) = (sums_as_float(&self.arguments[at].kind), is_text(&self.arguments[at].kind));
        match kind {
            AggregateKind::Count => {}
            AggregateKind::Sum if !float => {
                if self.arguments[at].integer_sum.is_none() {
                    self.arguments[at].integer_sum = Some(self.word(0));
                }
            }
            AggregateKind::Sum | AggregateKind::Avg => {
                if self.arguments[at].float_sum.is_none() {
                    self.arguments[at].float_sum = Some(self.word(0));
                    self.word(0);
                }
            }
            AggregateKind::Min if self.arguments[at].least.is_none() => {
                self.arguments[at].least = Some(self.word(if text { NONE } else { i64::MAX as u64 }));
            }
            AggregateKind::Max if self.arguments[at].greatest.is_none() => {
                self.arguments[at].greatest = Some(self.word(if text { NONE } else { i64::MIN as u64 }));
            }
            AggregateKind::Min | AggregateKind::Max => {}
        }
    }

    fn word(&mut self, initial: u64) -> usize {
        self.initial.push(initial);
        self.initial.len() - 1
    }

    /// Whether a word is the place of a text.
    pub fn is_text(&self, word: usize) -> bool {
        let holds = |argument: &Argument| argument.least == Some(word) || argument.greatest == Some(word);
        self.arguments.iter().any(|argument| is_text(&argument.kind) && holds(argument))
    }

    /// Returns the words of one group.
    pub fn width(&self) -> usize {
        self.initial.len()
    }

    /// Returns the words of an empty group.
    pub fn initial(&self) -> &[u64] {
        &self.initial
    }

    /// Returns the distinct argument expressions, in the order in which [`Layout::update`] wants their columns.
    pub fn arguments(&self) -> impl Iterator<Item = &ExprRef> {
        self.arguments.iter().map(|argument| &argument.expr)
    }

    /// Brings an argument's column to the form that [`Layout::update`] reads, once for each batch.
    pub fn prepare(&self, at: usize, column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
        let wanted = match &self.arguments[at].kind {
            DataType::Float32 | DataType::Float16 | DataType::Decimal128(..) | DataType::Decimal256(..) => {
                DataType::Float64
            }
            DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
            other => other.clone(),
        };
        if *column.data_type() == wanted { Ok(Arc::clone(column)) } else { cast(column, &wanted) }
    }

    /// Adds rows to their groups. `groups` has the group of each selected row, `columns` the prepared arguments.
    pub fn update(
        &self,
        slots: &mut [u64],
        texts: &mut Texts,
        groups: &[u32],
        selection: Selection<'_>,
        columns: &[ArrayRef],
    ) {
        let width = self.width();
        assert_eq!(groups.len(), selection.count(), "a group for each row");
        let mut integers = [0i64; BLOCK_ROWS];
        let mut floats = [0f64; BLOCK_ROWS];
        let mut places = [0usize; BLOCK_ROWS];
        for start in (0..groups.len()).step_by(BLOCK_ROWS) {
            let block = &mut places[..BLOCK_ROWS.min(groups.len() - start)];
            for (place, group) in block.iter_mut().zip(&groups[start..]) {
                *place = *group as usize * width;
                slots[*place + ROWS] += 1;
            }
            let block = &*block;
            for (argument, column) in self.arguments.iter().zip(columns) {
                let rows = Rows { selection, start, count: block.len(), nulls: column.nulls() };
                if argument.count != ROWS {
                    rows.each_valid(|at| slots[block[at] + argument.count] += 1);
                }
                if is_text(&argument.kind) {
                    argument.update_text(slots, texts, block, &rows, column);
                    continue;
                }
                if let Some(word) = argument.float_sum {
                    rows.load_floats(column, &mut floats);
                    rows.each_valid(|at| {
                        let slot = block[at] + word;
                        let (sum, error) =
                            add(f64::from_bits(slots[slot]), f64::from_bits(slots[slot + 1]), floats[at]);
                        slots[slot] = sum.to_bits();
                        slots[slot + 1] = error.to_bits();
                    });
                }
                if argument.least.is_none() && argument.greatest.is_none() && argument.integer_sum.is_none() {
                    continue;
                }
                rows.load_ordered(column, &mut integers);
                if let Some(word) = argument.integer_sum {
                    let unsigned = argument.kind.is_unsigned_integer();
                    rows.each_valid(|at| {
                        let slot = &mut slots[block[at] + word];
                        *slot =
                            slot.wrapping_add(if unsigned { unordered_u64(integers[at]) } else { integers[at] as u64 });
                    });
                }
                if let Some(word) = argument.least {
                    rows.each_valid(|at| {
                        let slot = &mut slots[block[at] + word];
                        *slot = (*slot as i64).min(integers[at]) as u64;
                    });
                }
                if let Some(word) = argument.greatest {
                    rows.each_valid(|at| {
                        let slot = &mut slots[block[at] + word];
                        *slot = (*slot as i64).max(integers[at]) as u64;
                    });
                }
            }
        }
    }

    /// Adds one group to another: panes to a window.
    pub fn merge(&self, into: &mut [u64], into_texts: &mut Texts, from: &[u64], from_texts: &Texts) {
        into[ROWS] += from[ROWS];
        for argument in &self.arguments {
            if argument.count != ROWS {
                into[argument.count] += from[argument.count];
            }
            if let Some(word) = argument.float_sum {
                let (sum, error) = (f64::from_bits(into[word]), f64::from_bits(into[word + 1]));
                let (sum, error) = add(sum, error, f64::from_bits(from[word]));
                into[word] = sum.to_bits();
                into[word + 1] = (error + f64::from_bits(from[word + 1])).to_bits();
            }
            if let Some(word) = argument.integer_sum {
                into[word] = into[word].wrapping_add(from[word]);
            }
            let text = is_text(&argument.kind);
            for (word, wins) in
                [(argument.least, std::cmp::Ordering::Less), (argument.greatest, std::cmp::Ordering::Greater)]
            {
                let Some(word) = word else { continue };
                if !text {
                    let (a, b) = (into[word] as i64, from[word] as i64);
                    into[word] = (if b.cmp(&a) == wins { b } else { a }) as u64;
                } else if from[word] != NONE {
                    into_texts.offer(&mut into[word], &from_texts.0[from[word] as usize], wins);
                }
            }
        }
    }

    /// Reads the results of groups `[start, end)`: one column for each aggregate. Changes nothing.
    pub fn finish(&self, slots: &[u64], texts: &Texts, start: usize, end: usize) -> Vec<ArrayRef> {
        let width = self.width();
        let groups = slots[start * width..end * width].chunks_exact(width);
        self.results.iter().map(|result| self.finish_one(result, groups.clone(), texts)).collect()
    }

    fn finish_one<'a>(
        &self,
        result: &ResultOf,
        groups: impl Iterator<Item = &'a [u64]> + Clone,
        texts: &Texts,
    ) -> ArrayRef {
        let Some(argument) = result.argument.map(|at| &self.arguments[at]) else {
            return Arc::new(groups.map(|group| group[ROWS] as i64).collect::<Int64Array>());
        };
        let count = argument.count;
        let sum = |group: &[u64], word: usize| settle(f64::from_bits(group[word]), f64::from_bits(group[word + 1]));
        let reserved = |word: Option<usize>| word.expect("reserved with the call");
        match result.kind {
            AggregateKind::Count => Arc::new(groups.map(|group| group[count] as i64).collect::<Int64Array>()),
            AggregateKind::Sum if result.returns == DataType::Float64 => {
                let word = reserved(argument.float_sum);
                Arc::new(groups.map(|group| (group[count] > 0).then(|| sum(group, word))).collect::<Float64Array>())
            }
            AggregateKind::Sum if result.returns == DataType::UInt64 => {
                let word = reserved(argument.integer_sum);
                Arc::new(groups.map(|group| (group[count] > 0).then(|| group[word])).collect::<UInt64Array>())
            }
            AggregateKind::Sum => {
                let word = reserved(argument.integer_sum);
                Arc::new(groups.map(|group| (group[count] > 0).then(|| group[word] as i64)).collect::<Int64Array>())
            }
            AggregateKind::Avg => {
                let word = reserved(argument.float_sum);
                let mean = |group: &[u64]| sum(group, word) / group[count] as f64;
                Arc::new(groups.map(|group| (group[count] > 0).then(|| mean(group))).collect::<Float64Array>())
            }
            AggregateKind::Min | AggregateKind::Max => {
                let word = if result.kind == AggregateKind::Min { argument.least } else { argument.greatest };
                let word = reserved(word);
                if is_text(&argument.kind) {
                    let mut column = StringViewBuilder::new();
                    for group in groups {
                        column.append_option((group[word] != NONE).then(|| &*texts.0[group[word] as usize]));
                    }
                    return Arc::new(column.finish());
                }
                from_ordered(groups.map(|group| (group[count] > 0).then(|| group[word] as i64)), &result.returns)
            }
        }
    }
}

impl Argument {
    fn update_text(&self, slots: &mut [u64], texts: &mut Texts, block: &[usize], rows: &Rows<'_>, column: &ArrayRef) {
        let values = column.as_string_view();
        for (word, wins) in [(self.least, std::cmp::Ordering::Less), (self.greatest, std::cmp::Ordering::Greater)] {
            let Some(word) = word else { continue };
            rows.each_valid(|at| {
                texts.offer(&mut slots[block[at] + word], values.value(rows.row(at)), wins);
            });
        }
    }
}

impl Texts {
    fn offer(&mut self, slot: &mut u64, text: &str, wins: std::cmp::Ordering) {
        if *slot == NONE {
            *slot = self.0.len() as u64;
            self.0.push(text.into());
        } else if text.cmp(&self.0[*slot as usize]) == wins {
            self.0[*slot as usize] = text.into();
        }
    }

    /// Returns the text at a place; `None` if the place is that of no text.
    pub fn get(&self, place: u64) -> Option<&str> {
        (place != NONE).then(|| &*self.0[place as usize])
    }

    /// Keeps a text and returns its place.
    pub fn keep(&mut self, text: Option<&str>) -> u64 {
        let Some(text) = text else { return NONE };
        self.0.push(text.into());
        self.0.len() as u64 - 1
    }

    /// Returns the bytes held.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|text| text.len() + size_of::<Box<str>>()).sum()
    }
}

fn is_text(kind: &DataType) -> bool {
    matches!(kind, DataType::Utf8View | DataType::Utf8 | DataType::LargeUtf8)
}

fn sums_as_float(kind: &DataType) -> bool {
    kind.is_floating() || kind.is_decimal()
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{Float64Type, Int64Type, UInt64Type};
    use rand::rngs::StdRng;
    use rand::seq::SliceRandom;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::expr::Column;

    fn call(kind: AggregateKind, argument_type: DataType) -> AggregateCall {
        let column: ExprRef = Arc::new(Column { index: 0, name: "x".to_owned() });
        AggregateCall { kind, argument: Some(column), argument_type, name: "y".to_owned() }
    }

    const ALL: [AggregateKind; 5] =
        [AggregateKind::Count, AggregateKind::Sum, AggregateKind::Avg, AggregateKind::Min, AggregateKind::Max];

    /// Aggregates a column as one group, in pieces of the given size.
    fn aggregate(kinds: &[AggregateKind], column: &ArrayRef, piece: usize) -> Vec<ArrayRef> {
        let calls: Vec<AggregateCall> = kinds.iter().map(|kind| call(*kind, column.data_type().clone())).collect();
        let layout = Layout::new(&calls, |_| true);
        let (mut slots, mut texts) = (layout.initial().to_vec(), Texts::default());
        for start in (0..column.len()).step_by(piece) {
            let part = column.slice(start, piece.min(column.len() - start));
            let (mut other, mut other_texts) = (layout.initial().to_vec(), Texts::default());
            let prepared = layout.prepare(0, &part).expect("castable");
            layout.update(&mut other, &mut other_texts, &vec![0; part.len()], Selection::All(part.len()), &[prepared]);
            layout.merge(&mut slots, &mut texts, &other, &other_texts);
        }
        layout.finish(&slots, &texts, 0, 1)
    }

    #[test]
    fn sums_of_decimal_readings_do_not_depend_on_their_order() {
        let mut random = StdRng::seed_from_u64(7);
        let mut values: Vec<f64> =
            (0..5_000).map(|_| f64::from(random.random_range(-50_000..50_000)) / 100.0).collect();
        let mut seen = std::collections::BTreeSet::new();
        for piece in [1, 7, 1024, 5_000] {
            values.shuffle(&mut random);
            let column: ArrayRef = Arc::new(Float64Array::from(values.clone()));
            let results = aggregate(&[AggregateKind::Sum, AggregateKind::Avg], &column, piece);
            let bits = |at: usize| results[at].as_primitive::<Float64Type>().value(0).to_bits();
            seen.insert((bits(0), bits(1)));
        }
        assert_eq!(seen.len(), 1, "one sum and one average, to the last bit");
    }

    #[test]
    fn nulls_count_nowhere_and_no_values_give_null() {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![None, Some(3), None, Some(-5)]));
        let results = aggregate(&ALL, &column, 3);
        let integer = |at: usize| results[at].as_primitive::<Int64Type>().value(0);
        assert_eq!((integer(0), integer(1), integer(3), integer(4)), (2, -2, -5, 3));
        assert_eq!(results[2].as_primitive::<Float64Type>().value(0), -1.0);
        let nothing: ArrayRef = Arc::new(Int64Array::from(vec![None::<i64>]));
        let results = aggregate(&ALL, &nothing, 1);
        assert_eq!(results[0].as_primitive::<Int64Type>().value(0), 0);
        assert!(results[1..].iter().all(|column| column.is_null(0)));
    }

    #[test]
    fn extremes_keep_their_type_and_order() {
        let floats: ArrayRef = Arc::new(Float64Array::from(vec![1.5, f64::NEG_INFINITY, -0.0, 0.0, f64::NAN]));
        let results = aggregate(&[AggregateKind::Min, AggregateKind::Max], &floats, 2);
        assert_eq!(results[0].as_primitive::<Float64Type>().value(0), f64::NEG_INFINITY);
        assert!(results[1].as_primitive::<Float64Type>().value(0).is_nan(), "NaN is greater than every number");
        let unsigned: ArrayRef = Arc::new(UInt64Array::from(vec![u64::MAX, 0, 5]));
        let results = aggregate(&[AggregateKind::Min, AggregateKind::Max, AggregateKind::Sum], &unsigned, 2);
        let value = |at: usize| results[at].as_primitive::<UInt64Type>().value(0);
        assert_eq!((value(0), value(1), value(2)), (0, u64::MAX, 4));
        let texts: ArrayRef =
            Arc::new(arrow::array::StringViewArray::from(vec!["pear", "a long apple of some kind", "zoo"]));
        let results = aggregate(&[AggregateKind::Min, AggregateKind::Max], &texts, 1);
        assert_eq!(results[0].as_string_view().value(0), "a long apple of some kind");
        assert_eq!(results[1].as_string_view().value(0), "zoo");
    }

    #[test]
    fn an_infinite_value_gives_an_infinite_sum() {
        let column: ArrayRef = Arc::new(Float64Array::from(vec![1.0, f64::INFINITY, 2.0]));
        let results = aggregate(&[AggregateKind::Sum], &column, 1);
        assert_eq!(results[0].as_primitive::<Float64Type>().value(0), f64::INFINITY);
    }
}
