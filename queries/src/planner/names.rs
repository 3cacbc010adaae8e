//! The names that a query may use: one relation, and all functions of DataFusion.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::{TableReference, plan_err};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::execution::SessionStateDefaults;
use datafusion::logical_expr::builder::LogicalTableSource;
use datafusion::logical_expr::planner::{ContextProvider, ExprPlanner};
use datafusion::logical_expr::{AggregateUDF, HigherOrderUDF, ScalarUDF, TableSource, Volatility, WindowUDF};
use datafusion::sql::planner::{ParserOptions, SqlToRel};

use crate::bounded::bounded;

/// All functions, by name and by alias. Made once for a file.
pub(super) struct Functions {
    scalar: HashMap<String, Arc<ScalarUDF>>,
    higher_order: HashMap<String, Arc<HigherOrderUDF>>,
    aggregate: HashMap<String, Arc<AggregateUDF>>,
    window: HashMap<String, Arc<WindowUDF>>,
    planners: Vec<Arc<dyn ExprPlanner>>,
    options: ConfigOptions,
}

impl Functions {
    pub(super) fn new() -> Self {
        let mut scalar = HashMap::new();
        for function in SessionStateDefaults::default_scalar_functions().into_iter().map(bounded) {
            for alias in function.aliases() {
                scalar.insert(alias.clone(), Arc::clone(&function));
            }
            scalar.insert(function.name().to_owned(), function);
        }
        let mut aggregate = HashMap::new();
        for function in SessionStateDefaults::default_aggregate_functions() {
            for alias in function.aliases() {
                aggregate.insert(alias.clone(), Arc::clone(&function));
            }
            aggregate.insert(function.name().to_owned(), function);
        }
        let mut window = HashMap::new();
        for function in SessionStateDefaults::default_window_functions() {
            window.insert(function.name().to_owned(), function);
        }
        let mut higher_order = HashMap::new();
        for function in SessionStateDefaults::default_higher_order_functions() {
            higher_order.insert(function.name().to_owned(), function);
        }
        Functions {
            scalar,
            higher_order,
            aggregate,
            window,
            planners: SessionStateDefaults::default_expr_planners(),
            options: ConfigOptions::new(),
        }
    }

    /// Whether a name is that of an aggregate, one that streams or not.
    pub(super) fn is_aggregate(&self, name: &str) -> bool {
        self.aggregate.contains_key(name)
    }

    /// Whether a name is that of a function whose value is not decided by its arguments: the clock, dice.
    pub(super) fn is_impure(&self, name: &str) -> bool {
        self.scalar.get(name).is_some_and(|function| function.signature().volatility != Volatility::Immutable)
    }

    /// Whether any function has this name.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.scalar.contains_key(name) || self.is_aggregate(name) || self.window.contains_key(name)
    }

    /// All names that make sense in a view.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let aggregates = self.aggregate.keys().filter(|name| super::stream::aggregate_kind(name).is_some());
        let mut names: Vec<&str> = self.scalar.keys().chain(aggregates).map(String::as_str).collect();
        names.sort_unstable();
        names.into_iter()
    }
}

/// What DataFusion's planner asks: the one relation of a query beside the functions.
pub(super) struct Names<'a> {
    pub(super) functions: &'a Functions,
    pub(super) relation: &'a str,
    pub(super) schema: SchemaRef,
}

impl Names<'_> {
    /// Returns DataFusion's planner over these names; it keeps the places of what it reads.
    pub(super) fn planner(&self) -> SqlToRel<'_, Self> {
        SqlToRel::new_with_options(self, ParserOptions::new().with_collect_spans(true))
    }
}

impl ContextProvider for Names<'_> {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>> {
        if name.table() != self.relation {
            return plan_err!("there is no source or view {name}");
        }
        Ok(Arc::new(LogicalTableSource::new(Arc::clone(&self.schema))))
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &self.functions.planners
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.functions.scalar.get(name).cloned()
    }

    fn get_higher_order_meta(&self, name: &str) -> Option<Arc<HigherOrderUDF>> {
        self.functions.higher_order.get(name).cloned()
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.functions.aggregate.get(name).cloned()
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        self.functions.window.get(name).cloned()
    }

    fn get_variable_type(&self, _: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        &self.functions.options
    }

    fn udf_names(&self) -> Vec<String> {
        self.functions.scalar.keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        self.functions.higher_order.keys().cloned().collect()
    }

    fn udaf_names(&self) -> Vec<String> {
        self.functions.aggregate.keys().cloned().collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        self.functions.window.keys().cloned().collect()
    }
}
