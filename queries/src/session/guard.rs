//! The guard: what a statement may be before it is planned.
//!
//! Planning recurses over the statement, and so do the drops of what it makes. The parser bounds nested brackets, but
//! not chains (`1 + 1 + 1 + …`, `a UNION b UNION …`), whose trees are as deep as they are long, nor common table
//! expressions that name each other twice, whose plans double with each. A stack overflow or a plan of a billion
//! nodes ends the process, so both are counted here first.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{self, ObjectName, Query, Visit, Visitor};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use crate::problem::{Problem, ProblemKind};

/// Longest statement, in bytes.
pub const SQL_BYTES_MAX: usize = 1 << 20;
/// Most operators in a statement: each may be one level of a tree. The threads of questions have stacks for this depth.
pub const OPERATORS_MAX: usize = 1_000;
/// Most tables a statement reads once its common table expressions are put in their places.
pub const RELATIONS_MAX: u64 = 200;

/// Refuses a text that is too long or has too many operators.
pub(crate) fn check_text(sql: &str) -> Result<(), Problem> {
    if sql.len() > SQL_BYTES_MAX {
        let detail = format!("the statement has {} bytes; the most is {SQL_BYTES_MAX}", sql.len());
        return Err(Problem::new(ProblemKind::TooComplex, detail));
    }
    // A text without tokens is left to the parser, which says where and why.
    let Ok(tokens) = Tokenizer::new(&GenericDialect {}, sql).tokenize() else { return Ok(()) };
    let operators = tokens.iter().filter(|token| may_nest(token)).count();
    if operators > OPERATORS_MAX {
        let detail = format!("the statement has {operators} operators; the most is {OPERATORS_MAX}");
        return Err(
            Problem::new(ProblemKind::TooComplex, detail).with_hint("a long chain of = and OR is shorter as IN (…)")
        );
    }
    Ok(())
}

/// Refuses what is no question, and what reads too many tables.
pub(crate) fn check_statement(statement: &Statement) -> Result<(), Problem> {
    match statement {
        Statement::Statement(inner) => check_sql_statement(inner),
        Statement::Explain(explain) => check_statement(&explain.statement),
        Statement::CreateExternalTable(_) => Err(read_only("CREATE EXTERNAL TABLE")),
        Statement::CopyTo(_) => Err(read_only("COPY")),
        Statement::Reset(_) => Err(read_only("RESET")),
    }
}

fn check_sql_statement(statement: &ast::Statement) -> Result<(), Problem> {
    match statement {
        ast::Statement::Query(_) => check_relations(statement),
        ast::Statement::Explain { statement, .. } => check_sql_statement(statement),
        ast::Statement::ExplainTable { .. }
        | ast::Statement::ShowTables { .. }
        | ast::Statement::ShowColumns { .. }
        | ast::Statement::ShowVariable { .. }
        | ast::Statement::ShowFunctions { .. }
        | ast::Statement::ShowCreate { .. } => Ok(()),
        other => {
            let text = other.to_string();
            let words: Vec<&str> =
                text.split_whitespace().take(2).take_while(|w| w.chars().all(char::is_alphabetic)).collect();
            Err(read_only(&words.join(" ").to_uppercase()))
        }
    }
}

fn read_only(what: &str) -> Problem {
    Problem::new(ProblemKind::ReadOnly, format!("questions only read; {what} would change something"))
        .with_hint("tables are made and filled by the pipeline file: tidemill serve FILE.sql")
}

fn may_nest(token: &Token) -> bool {
    match token {
        Token::Word(word) => matches!(
            word.keyword,
            Keyword::AND
                | Keyword::OR
                | Keyword::NOT
                | Keyword::XOR
                | Keyword::IS
                | Keyword::IN
                | Keyword::LIKE
                | Keyword::ILIKE
                | Keyword::SIMILAR
                | Keyword::BETWEEN
                | Keyword::COLLATE
                | Keyword::AT
                | Keyword::DIV
                | Keyword::UNION
                | Keyword::INTERSECT
                | Keyword::EXCEPT
                | Keyword::MINUS
                | Keyword::JOIN
        ),
        Token::EOF
        | Token::Number(..)
        | Token::Char(_)
        | Token::SingleQuotedString(_)
        | Token::DoubleQuotedString(_)
        | Token::NationalStringLiteral(_)
        | Token::EscapedStringLiteral(_)
        | Token::HexStringLiteral(_)
        | Token::Comma
        | Token::Whitespace(_)
        | Token::LParen
        | Token::RParen
        | Token::Period
        | Token::SemiColon
        | Token::RBracket
        | Token::Placeholder(_) => false,
        _ => true,
    }
}

fn check_relations(statement: &ast::Statement) -> Result<(), Problem> {
    let mut counter = RelationCounter::default();
    let _: ControlFlow<()> = statement.visit(&mut counter);
    if counter.total > RELATIONS_MAX {
        let detail =
            format!("the statement reads {} tables once WITH is expanded; the most is {RELATIONS_MAX}", counter.total);
        return Err(Problem::new(ProblemKind::TooComplex, detail));
    }
    Ok(())
}

/// Counts the tables that a statement reads, with each common table expression counted as often as it is named.
#[derive(Default)]
struct RelationCounter {
    /// What each common table expression costs. One name may be used twice in different places: the greater cost counts.
    costs: HashMap<String, u64>,
    /// The names of queries that are common table expressions, by the query's place in memory.
    names: HashMap<*const Query, String>,
    /// The cost of each query that is being visited, the innermost last.
    open: Vec<u64>,
    total: u64,
}

impl Visitor for RelationCounter {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
            self.names.insert(std::ptr::from_ref(&*cte.query), cte.alias.name.value.to_lowercase());
        }
        self.open.push(0);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let cost = self.open.pop().unwrap_or(0);
        match self.names.get(&std::ptr::from_ref(query)) {
            Some(name) => {
                let known = self.costs.entry(name.clone()).or_default();
                *known = (*known).max(cost);
            }
            None => match self.open.last_mut() {
                Some(outer) => *outer = outer.saturating_add(cost),
                None => self.total = self.total.saturating_add(cost),
            },
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        let cost = self.costs.get(&relation.to_string().to_lowercase()).copied().unwrap_or(0).max(1);
        if let Some(query) = self.open.last_mut() {
            *query = query.saturating_add(cost);
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::parser::DFParser;

    use super::*;

    fn check(sql: &str) -> Result<(), Problem> {
        check_text(sql)?;
        check_statement(&DFParser::parse_sql(sql).expect("parses")[0])
    }

    #[test]
    fn questions_pass() {
        for sql in [
            "SELECT 1",
            "WITH a AS (SELECT * FROM t) SELECT * FROM a JOIN a b USING (x)",
            "EXPLAIN SELECT * FROM t",
            "SHOW TABLES",
            "DESCRIBE t",
            "VALUES (1), (2)",
        ] {
            assert_eq!(check(sql), Ok(()), "{sql}");
        }
    }

    #[test]
    fn what_changes_something_is_refused_by_its_name() {
        for (sql, name) in [
            ("CREATE TABLE t (a INT)", "CREATE TABLE"),
            ("DROP TABLE t", "DROP TABLE"),
            ("INSERT INTO t VALUES (1)", "INSERT INTO"),
            ("DELETE FROM t", "DELETE FROM"),
            ("COPY t TO 'x.parquet'", "COPY"),
            ("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '/etc'", "CREATE EXTERNAL TABLE"),
            ("SET datafusion.runtime.memory_limit = '1T'", "SET"),
            ("EXPLAIN ANALYZE INSERT INTO t VALUES (1)", "INSERT INTO"),
        ] {
            let problem = check(sql).expect_err(sql);
            assert_eq!(problem.kind, ProblemKind::ReadOnly, "{sql}");
            assert!(problem.detail.contains(name), "{sql}: {problem}");
        }
    }

    #[test]
    fn tables_that_double_with_each_step_are_counted_before_they_are_planned() {
        let mut sql = "WITH c0 AS (SELECT 1 AS x FROM t)".to_owned();
        for step in 1..64 {
            sql.push_str(&format!(", c{step} AS (SELECT a.x FROM c{0} a, c{0} b)", step - 1));
        }
        sql.push_str(" SELECT * FROM c63");
        assert_eq!(check(&sql).expect_err("too many").kind, ProblemKind::TooComplex);
    }

    #[test]
    fn a_list_of_many_values_is_no_depth() {
        let list: Vec<String> = (0..10_000).map(|n| n.to_string()).collect();
        assert_eq!(check(&format!("SELECT * FROM t WHERE x IN ({})", list.join(","))), Ok(()));
        assert_eq!(
            check_text(&format!("SELECT 1{}", " + 1".repeat(OPERATORS_MAX + 1))).expect_err("deep").kind,
            ProblemKind::TooComplex
        );
    }
}
