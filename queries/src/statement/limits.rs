//! How long and how deep a statement may be: everything that works on its tree recurses, down to its evaluation.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, Spanned, Visit, Visitor};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Span, TokenWithSpan};

use super::is_space;
use crate::diagnostic::{Code, Problem};

/// Words and signs of one statement. The tree of a statement is at most as deep as it is long.
pub(crate) const TOKENS_MAX: usize = 20_000;

/// Nesting of expressions and queries that is still read: recursion must end before the stack does.
const NESTING_MAX: usize = 50;

/// Depth of an expression. What evaluates it recurses, on the stack of a worker.
const DEPTH_MAX: usize = 250;

/// Refuses a statement that is too long to be read safely.
pub(crate) fn check_length(tokens: &[TokenWithSpan]) -> Result<(), Problem> {
    let meant: Vec<&TokenWithSpan> = tokens.iter().filter(|token| !is_space(token)).take(TOKENS_MAX + 1).collect();
    match meant.get(TOKENS_MAX) {
        None => Ok(()),
        Some(token) => {
            let message = format!("a statement has at most {TOKENS_MAX} words and signs");
            Err(Problem::new(Code::NotSupported, token.span, message).hint("split it into several views"))
        }
    }
}

/// Refuses a tree that is too deep to be worked on safely, such as a sum of a thousand columns.
pub(crate) fn check_depth(tree: &impl Visit, tokens: &[TokenWithSpan]) -> Result<(), Problem> {
    struct Depth(usize);
    impl Visitor for Depth {
        type Break = Span;
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Span> {
            self.0 += 1;
            if self.0 > DEPTH_MAX { ControlFlow::Break(expr.span()) } else { ControlFlow::Continue(()) }
        }
        fn post_visit_expr(&mut self, _: &Expr) -> ControlFlow<Span> {
            self.0 -= 1;
            ControlFlow::Continue(())
        }
    }
    match tree.visit(&mut Depth(0)) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(span) => {
            let span = if span == Span::empty() { tokens.first().map_or(span, |token| token.span) } else { span };
            let message = format!("the expression is nested more than {DEPTH_MAX} deep");
            Err(Problem::new(Code::NotSupported, span, message).hint("split it into several views"))
        }
    }
}

/// Makes a parser of ours: its dialect, its limits.
pub(crate) fn parser(tokens: &[TokenWithSpan]) -> Parser<'static> {
    const DIALECT: GenericDialect = GenericDialect {};
    Parser::new(&DIALECT).with_recursion_limit(NESTING_MAX).with_tokens_with_locations(tokens.to_vec())
}
