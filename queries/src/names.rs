//! Names on their way into SQL: for programs that write statements.

use datafusion::sql::sqlparser::ast::{Expr, GroupByExpr, SelectItem, SetExpr};

use crate::statement::{is_name, normalize, parser, tokenize};

/// Whether a source can have a column of this name.
pub fn is_column_name(name: &str) -> bool {
    is_name(name)
}

/// Writes a name as SQL, whatever is in it.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Writes a name as SQL, with quotes only where it needs them: `temperature`, `"Temperature"`, `"order"`.
pub fn name_in_sql(name: &str) -> String {
    let mut letters = name.chars();
    let is_plain = letters.next().is_some_and(|first| first.is_ascii_lowercase() || first == '_')
        && letters.all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_');
    if is_plain && reads_as_a_name(name) { name.to_owned() } else { quoted(name) }
}

/// Tries a name in all places where names stand: words such as `order` are none in some of them.
fn reads_as_a_name(name: &str) -> bool {
    let probe = format!(
        "SELECT {name}, avg({name}) AS {name}, {name} - INTERVAL '1 second' FROM f(t, {name}, 1) GROUP BY {name}, x"
    );
    let (tokens, None) = tokenize(&probe) else { return false };
    let Ok(query) = parser(&tokens).parse_query() else { return false };
    let SetExpr::Select(select) = query.body.as_ref() else { return false };
    let is_it = |expr: &Expr| matches!(expr, Expr::Identifier(found) if normalize(found).value == name);
    let items_are_it = match select.projection.as_slice() {
        [
            SelectItem::UnnamedExpr(plain),
            SelectItem::ExprWithAlias { alias, .. },
            SelectItem::UnnamedExpr(difference),
        ] => {
            let is_difference = matches!(difference, Expr::BinaryOp { left, .. } if is_it(left));
            is_it(plain) && normalize(alias).value == name && is_difference
        }
        _ => false,
    };
    items_are_it && matches!(&select.group_by, GroupByExpr::Expressions(keys, _) if keys.first().is_some_and(is_it))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_would_be_read_as_something_else_have_quotes() {
        for plain in ["temperature", "ts", "time", "timestamp", "value", "date", "level", "_x", "t1", "key", "position"]
        {
            assert_eq!(name_in_sql(plain), plain);
        }
        for odd in ["order", "select", "from", "interval", "null", "true", "Temp", "a-b", "1st", "current_date", ""] {
            assert_eq!(name_in_sql(odd), format!("\"{odd}\""));
        }
        assert_eq!(name_in_sql("a\"b"), "\"a\"\"b\"");
    }
}
