//! DataFusion's logical plan of a view, taken apart into its steps.

use std::sync::Arc;

use datafusion::common::DFSchemaRef;
use datafusion::logical_expr::{Aggregate, Expr as LogicalExpr, LogicalPlan};

/// DataFusion's logical plan, taken apart.
pub(super) struct Steps<'a> {
    pub(super) projection: &'a [LogicalExpr],
    /// What the columns of the result are called.
    pub(super) output: DFSchemaRef,
    pub(super) having: Vec<LogicalExpr>,
    pub(super) aggregate: Option<&'a Aggregate>,
    pub(super) filters: Vec<LogicalExpr>,
    /// The columns of what is read.
    pub(super) base: DFSchemaRef,
}

impl<'a> Steps<'a> {
    /// Takes a plan apart; an error names what is not expected.
    pub(super) fn of(logical: &'a LogicalPlan) -> Result<Self, String> {
        let LogicalPlan::Projection(projection) = logical else {
            return Err(format!("unexpected {}", logical.display()));
        };
        let (mut above, mut node) = (Vec::new(), projection.input.as_ref());
        while let LogicalPlan::Filter(filter) = node {
            above.push(filter.predicate.clone());
            node = filter.input.as_ref();
        }
        let (mut having, mut filters, mut aggregate) = (Vec::new(), above, None);
        if let LogicalPlan::Aggregate(found) = node {
            having = std::mem::take(&mut filters);
            aggregate = Some(found);
            node = found.input.as_ref();
            while let LogicalPlan::Filter(filter) = node {
                filters.push(filter.predicate.clone());
                node = filter.input.as_ref();
            }
        }
        let base = Arc::clone(node.schema());
        loop {
            match node {
                LogicalPlan::SubqueryAlias(alias) => node = alias.input.as_ref(),
                LogicalPlan::TableScan(_) => break,
                other => return Err(format!("unexpected {}", other.display())),
            }
        }
        Ok(Steps {
            projection: &projection.expr,
            output: Arc::clone(&projection.schema),
            having,
            aggregate,
            filters,
            base,
        })
    }
}
