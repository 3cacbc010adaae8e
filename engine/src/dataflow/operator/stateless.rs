//! What keeps nothing: filter, project, and any other operator that makes one container of one batch.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, RecordBatchOptions};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use timely::Container;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use super::{Output, RowStream};
use crate::dataflow::Context;
use crate::dataflow::container::{LogPlace, Rows};
use crate::epoch::Epoch;
use crate::expr::ExprRef;

/// Keeps the rows for which the predicate is true.
pub(crate) fn filter<'scope>(rows: RowStream<'scope>, context: &Context, predicate: ExprRef) -> RowStream<'scope> {
    each_batch(rows, context, "filter", move |batch, place| keep(&batch, &predicate).map(|rows| some_rows(rows, place)))
}

/// Computes the columns of a schema.
pub(crate) fn project<'scope>(
    rows: RowStream<'scope>,
    context: &Context,
    schema: SchemaRef,
    columns: Vec<ExprRef>,
) -> RowStream<'scope> {
    each_batch(rows, context, "project", move |batch, place| {
        compute(&batch, &schema, &columns).map(|rows| some_rows(rows, place))
    })
}

fn keep(batch: &RecordBatch, predicate: &ExprRef) -> Result<RecordBatch, String> {
    let mask = predicate.evaluate(batch).map_err(|error| error.to_string())?;
    let mask = mask.as_boolean_opt().ok_or_else(|| format!("{predicate} is not a condition"))?;
    if mask.null_count() == 0 && mask.true_count() == batch.num_rows() {
        return Ok(batch.clone());
    }
    filter_record_batch(batch, mask).map_err(|error| error.to_string())
}

fn compute(batch: &RecordBatch, schema: &SchemaRef, columns: &[ExprRef]) -> Result<RecordBatch, String> {
    let columns: Result<Vec<_>, _> = columns.iter().map(|column| column.evaluate(batch)).collect();
    let columns = columns.map_err(|error| error.to_string())?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(|error| error.to_string())
}

/// An empty batch goes no further. What is left of the others stands where they stood.
fn some_rows(batch: RecordBatch, place: LogPlace) -> Option<Rows> {
    (batch.num_rows() > 0).then_some(Rows { batch: Some(batch), place })
}

/// Builds an operator that makes a container of each batch, or nothing of it, and keeps nothing.
pub(crate) fn each_batch<'scope, C: Container>(
    rows: RowStream<'scope>,
    context: &Context,
    name: &'static str,
    mut piece: impl FnMut(RecordBatch, LogPlace) -> Result<Option<C>, String> + 'static,
) -> Stream<'scope, Epoch, C> {
    let mut builder = OperatorBuilder::new(name.to_owned(), rows.scope());
    let mut input = builder.new_input(rows, Pipeline);
    let (output, stream) = builder.new_output::<C>();
    let mut output = Output::from(output);
    let failure = context.failure.clone();
    builder.build(move |capabilities| {
        drop(capabilities); // What leaves, leaves at the time of what came.
        move |_| {
            if failure.is_set() {
                return;
            }
            failure.guard(name, || {
                let mut result = Ok(());
                let mut output = output.activate();
                input.for_each(|time, data| {
                    if let (Ok(()), Some(batch)) = (&result, data.batch.take()) {
                        match piece(batch, data.place) {
                            Ok(Some(mut made)) => {
                                output.session_with_builder(&time.retain(0)).give_container(&mut made);
                            }
                            Ok(None) => {}
                            Err(reason) => result = Err(reason),
                        }
                    }
                });
                result
            });
        }
    });
    stream
}
