//! A pipeline file taken apart: what its statements say, for a program that puts other sources under the same views.

use arrow::datatypes::DataType;
use datafusion::sql::sqlparser::tokenizer::Token;

use crate::catalog::DedupInfo;
use crate::diagnostic::Diagnostic;
use crate::names::quoted;
use crate::statement::{DedupClause, OptionList, Statement, parse_file, slice};
use crate::type_name::type_name;

/// The statements of a file, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// `CREATE SOURCE`.
    pub sources: Vec<SourceParts>,
    /// `CREATE MATERIALIZED VIEW`.
    pub views: Vec<ViewParts>,
}

/// What a `CREATE SOURCE` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceParts {
    /// Its name.
    pub name: String,
    /// Its declared columns.
    pub columns: Vec<ColumnParts>,
    /// The event time.
    pub watermark: Option<WatermarkParts>,
    /// How its repeats are told.
    pub dedup: Option<DedupInfo>,
    /// Keys and values of `WITH`.
    pub options: Vec<(String, String)>,
}

/// A declared column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnParts {
    /// Its name.
    pub name: String,
    /// Its type.
    pub data_type: DataType,
    /// Whether it may be null.
    pub nullable: bool,
    /// What it is, if it is not in the payload: `METADATA FROM 'what'`.
    pub metadata: Option<String>,
}

/// `WATERMARK FOR column AS column - delay`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatermarkParts {
    /// The column.
    pub column: String,
    /// The interval, as SQL.
    pub delay: Option<String>,
}

/// What a `CREATE MATERIALIZED VIEW` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewParts {
    /// Its name.
    pub name: String,
    /// Keys and values of `WITH`.
    pub options: Vec<(String, String)>,
    /// What stands behind `AS`.
    pub query: String,
    /// The texts in it: what its conditions may look for.
    pub texts: Vec<String>,
    /// The numbers in it, as they were written.
    pub numbers: Vec<String>,
}

/// Words before a quoted text that is none.
const LITERAL_TYPES: [&str; 3] = ["INTERVAL", "TIMESTAMP", "DATE"];

impl Parts {
    /// Takes a file apart. What its statements mean is not checked: see [`compile`](crate::compile).
    pub fn of(file: &str, text: &str) -> Result<Parts, Diagnostic> {
        let mut parts = Parts::default();
        for parsed in parse_file(text) {
            match parsed.statement.map_err(|problem| problem.into_diagnostic(file, text))? {
                Statement::Source(source) => parts.sources.push(SourceParts {
                    columns: source
                        .columns
                        .iter()
                        .map(|column| ColumnParts {
                            name: column.name.value.clone(),
                            data_type: column.data_type.clone(),
                            nullable: column.nullable,
                            metadata: column.metadata.as_ref().map(|metadata| metadata.value.clone()),
                        })
                        .collect(),
                    watermark: source.watermark.map(|watermark| WatermarkParts {
                        column: watermark.column.value,
                        delay: watermark.delay.map(|delay| delay.to_string()),
                    }),
                    dedup: source.dedup.as_ref().map(DedupClause::info),
                    options: pairs(&source.options),
                    name: source.name.value,
                }),
                // Where rows are delivered decides nothing about them.
                Statement::Sink(_) => {}
                // Who feeds the pipeline in a test needs no password.
                Statement::Secret(_) => {}
                Statement::View(view) => {
                    let (mut texts, mut numbers) = (Vec::new(), Vec::new());
                    let mut meant = view.tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_)));
                    while let Some(token) = meant.next() {
                        match &token.token {
                            // The length or the time behind it is no text that a row could have.
                            Token::Word(word) if LITERAL_TYPES.contains(&word.value.to_uppercase().as_str()) => {
                                meant.next();
                            }
                            Token::SingleQuotedString(text) => texts.push(text.clone()),
                            Token::Number(number, _) => numbers.push(number.clone()),
                            _ => {}
                        }
                    }
                    let span = view.tokens.iter().map(|token| token.span).reduce(|left, right| left.union(&right));
                    let query = span.map_or_else(String::new, |span| slice(text, span).to_owned());
                    let (name, options) = (view.name.value, pairs(&view.options));
                    parts.views.push(ViewParts { name, options, query, texts, numbers });
                }
            }
        }
        Ok(parts)
    }
}

impl SourceParts {
    /// Writes the statement, with these options instead of its own.
    pub fn to_sql(&self, options: &[(String, String)]) -> String {
        let mut lines: Vec<String> = self
            .columns
            .iter()
            .map(|column| {
                let null = if column.nullable { "" } else { " NOT NULL" };
                let from = |what: &String| format!(" METADATA FROM '{}'", what.replace('\'', "''"));
                let metadata = column.metadata.as_ref().map_or_else(String::new, from);
                format!("    {} {}{metadata}{null}", quoted(&column.name), type_name(&column.data_type))
            })
            .collect();
        if let Some(watermark) = &self.watermark {
            let column = quoted(&watermark.column);
            let delay = watermark.delay.as_ref().map_or_else(String::new, |delay| format!(" - {delay}"));
            lines.push(format!("    WATERMARK FOR {column} AS {column}{delay}"));
        }
        if let Some(dedup) = &self.dedup {
            let key: Vec<String> = dedup.key.iter().map(|column| quoted(column)).collect();
            lines.push(format!("    DEDUP KEY ({}) WITHIN {}", key.join(", "), dedup.within));
        }
        format!("CREATE SOURCE {} (\n{}\n){};\n", quoted(&self.name), lines.join(",\n"), with(options))
    }
}

impl ViewParts {
    /// Writes the statement, with these options instead of its own.
    pub fn to_sql(&self, options: &[(String, String)]) -> String {
        format!("CREATE MATERIALIZED VIEW {}{} AS\n{};\n", quoted(&self.name), with(options), self.query)
    }
}

fn pairs(options: &OptionList) -> Vec<(String, String)> {
    options.entries.iter().map(|entry| (entry.key.value.clone(), entry.value.value.clone())).collect()
}

fn with(options: &[(String, String)]) -> String {
    let pairs: Vec<String> =
        options.iter().map(|(key, value)| format!("{key} = '{}'", value.replace('\'', "''"))).collect();
    if pairs.is_empty() { String::new() } else { format!(" WITH ({})", pairs.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_taken_apart_and_written_again_says_the_same() {
        let text = "-- a comment\n\
            CREATE SOURCE r (site TEXT NOT NULL, \"Odd\" INTEGER UNSIGNED, n TINYINT, d DATE, heard TIMESTAMP METADATA FROM 'arrival_time', tags MAP<TEXT, TEXT>, ts TIMESTAMP NOT NULL,\n\
            WATERMARK FOR ts AS ts - INTERVAL '1 minute 5 seconds', DEDUP KEY (site, \"Odd\") WITHIN INTERVAL '1' HOUR) WITH (connector = 'http', format = 'csv', delimiter = ';');\n\
            CREATE MATERIALIZED VIEW v WITH (location = '/tmp/it''s', partition_by = 'day(window_start)') AS\n\
            SELECT site, window_start, count(*) AS n /* all */ FROM TUMBLE(r, ts, INTERVAL '10 seconds')\n\
            WHERE site = 'north' AND n > 20.5 GROUP BY site, window_start EMIT ON WINDOW CLOSE;\n\
            CREATE MATERIALIZED VIEW w AS SELECT \"Odd\" FROM r";
        let parts = Parts::of("a.sql", text).expect("right");
        let again: String = parts
            .sources
            .iter()
            .map(|source| source.to_sql(&source.options))
            .chain(parts.views.iter().map(|view| view.to_sql(&view.options)))
            .collect();
        assert_eq!(Parts::of("again.sql", &again).expect("right"), parts, "{again}");
        assert_eq!(parts.views[0].texts, ["north"]);
        assert_eq!(parts.views[0].numbers, ["20.5"]);
        assert_eq!(parts.sources[0].options[1], ("format".to_owned(), "csv".to_owned()));
    }
}
