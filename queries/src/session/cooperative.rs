//! Operators that make much out of little give way.
//!
//! DataFusion lets the operators at the leaves of a plan give way to other tasks. But one batch of a leaf may become a million
//! of a join, and until the next one is read nobody gives way: neither the time of a question nor its end would be noticed, and
//! with all threads in such joins no other question would be answered.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::unnest::UnnestExec;

/// Lets joins and what unfolds lists give way after some batches.
#[derive(Debug)]
pub(super) struct JoinsGiveWay;

impl PhysicalOptimizerRule for JoinsGiveWay {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let wrapped = plan.transform_up(|plan| {
            if plan.children().len() > 1 || plan.is::<UnnestExec>() {
                return Ok(Transformed::yes(Arc::new(CooperativeExec::new(plan))));
            }
            Ok(Transformed::no(plan))
        });
        wrapped.map(|transformed| transformed.data)
    }

    fn name(&self) -> &str {
        "JoinsGiveWay"
    }

    fn schema_check(&self) -> bool {
        true
    }
}
