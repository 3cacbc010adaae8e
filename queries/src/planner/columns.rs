//! The names of a view's columns.

use datafusion::sql::sqlparser::ast::{Expr, Ident, Select, SelectItem, Spanned};
use datafusion::sql::sqlparser::tokenizer::Span;

use super::stream::function_name;
use crate::diagnostic::{Code, Problem};
use crate::statement::{Name, normalize};

/// Gives every column of SELECT a name: that of the column or of the function, as PostgreSQL does.
pub(super) fn name_columns(select: &mut Select) -> Result<Vec<Option<Span>>, Problem> {
    let mut spans = Vec::with_capacity(select.projection.len());
    let mut names: Vec<String> = Vec::new();
    for item in &mut select.projection {
        let (name, span) = match item {
            SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..) => {
                spans.push(None);
                continue;
            }
            SelectItem::ExprWithAliases { .. } => {
                return Err(
                    Problem::new(Code::NotStreamable, item.span(), "a column has one name").hint("write … AS name")
                );
            }
            SelectItem::ExprWithAlias { expr, alias } => {
                let name = normalize(alias);
                check_column_name(&name)?;
                let span = expr.span();
                (name.value, if span == Span::empty() { name.span } else { span })
            }
            SelectItem::UnnamedExpr(expr) => {
                let span = expr.span();
                let name = match &*expr {
                    Expr::Identifier(ident) => normalize(ident).value,
                    Expr::CompoundIdentifier(parts) => {
                        parts.last().map_or_else(String::new, |ident| normalize(ident).value)
                    }
                    Expr::Function(function) => {
                        let name = function_name(function);
                        let alias = Ident { value: name.clone(), quote_style: Some('"'), span };
                        *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
                        name
                    }
                    _ => {
                        let span = if span == Span::empty() { select.select_token.0.span } else { span };
                        return Err(
                            Problem::new(Code::BadName, span, "this column has no name").hint("write … AS name")
                        );
                    }
                };
                (name, span)
            }
        };
        if names.contains(&name) {
            return Err(Problem::new(Code::DuplicateName, span, format!("there are two columns \"{name}\""))
                .hint("give one of them another name: … AS name"));
        }
        names.push(name);
        spans.push(Some(span));
    }
    Ok(spans)
}

/// Refuses what Delta and Parquet readers cannot have as the name of a column.
fn check_column_name(name: &Name) -> Result<(), Problem> {
    let bad = |letter: char| " ,;{}()\n\t=$".contains(letter);
    if name.value.is_empty() || name.value.contains(bad) {
        let message = format!("\"{}\" cannot be the name of a column", name.value);
        return Err(Problem::new(Code::BadName, name.span, message).hint("use letters, digits and _"));
    }
    Ok(())
}
