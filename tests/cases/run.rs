//! Runs a case with the real program and reads back what it left.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::file::{Case, Expected, Input, Post};
use crate::harness::folder::Folder;
use crate::harness::http::rows_of;
use crate::harness::program::{Serve, command, tidemill};
use crate::harness::tables::Judge;

/// The ways in which a case runs; none of them may change a table.
#[derive(Clone, Copy, Debug)]
pub(super) enum Variant {
    /// From the beginning to the end.
    Straight { workers: usize },
    /// Stopped in the middle, and started once more after the end.
    Restarted,
    /// Killed after every POST.
    Killed,
}

impl Variant {
    /// Returns the ways that make sense for an input.
    pub(super) fn all(input: &Input) -> &'static [Variant] {
        const ALL: [Variant; 5] = [
            Variant::Straight { workers: 1 },
            Variant::Straight { workers: 2 },
            Variant::Straight { workers: 4 },
            Variant::Restarted,
            Variant::Killed,
        ];
        match input {
            Input::None => &[],
            Input::Posts(_) => &ALL,
            // A run over a small file is over before anybody can kill it.
            Input::Files(_) => &ALL[..4],
        }
    }

    fn workers(self) -> usize {
        match self {
            Variant::Straight { workers } => workers,
            Variant::Restarted | Variant::Killed => 2,
        }
    }
}

/// Runs a case and returns how its tables differ from what they must be.
pub(super) async fn differences(case: &Case, variant: Variant) -> Vec<String> {
    let folder = Folder::new();
    let data = match &case.input {
        Input::None => return Vec::new(),
        Input::Posts(posts) => {
            let serve = Serve { workers: variant.workers(), ..Serve::new(&folder, &case.sql) };
            serve_posts(&serve, posts, variant).await;
            serve.data
        }
        Input::Files(files) => {
            run_files(&folder, &case.sql, files, variant);
            folder.join("data")
        }
    };
    let mut judge = Judge::new();
    let mut differences = Vec::new();
    for table in &case.tables {
        let by_duckdb = by_duckdb(&mut judge, &data, table);
        let by_tidemill = by_tidemill(&data, table);
        for (reader, found) in [("DuckDB", by_duckdb), ("tidemill sql", by_tidemill)] {
            match found {
                Ok(rows) if rows == table.rows => {}
                Ok(rows) => differences.push(difference(table, reader, &rows)),
                Err(problem) => differences.push(format!("{reader}: {problem}")),
            }
        }
    }
    differences
}

async fn serve_posts(serve: &Serve, posts: &[Post], variant: Variant) {
    let mut sent: BTreeMap<&str, u64> = BTreeMap::new();
    let mut program = serve.start_ready().await;
    for (number, post) in posts.iter().enumerate() {
        let source = post.source.as_str();
        *sent.entry(source).or_default() += post.lines.lines().count() as u64;
        program.http.ingest_durably(source, &post.lines).await;
        program.http.settled(source, sent[source]).await;
        match variant {
            Variant::Restarted if number == posts.len() / 2 => {
                program.stop().await;
                program = serve.start_ready().await;
            }
            Variant::Killed => {
                program.kill9();
                program = serve.start_ready().await;
            }
            Variant::Restarted | Variant::Straight { .. } => {}
        }
    }
    program.stop().await;
    if matches!(variant, Variant::Restarted) {
        serve.start_ready().await.stop().await;
    }
}

fn run_files(folder: &Folder, sql: &str, files: &[(String, String)], variant: Variant) {
    let pipeline = folder.write("pipeline.sql", sql);
    for (name, text) in files {
        folder.write(name, text);
    }
    let runs = if matches!(variant, Variant::Restarted) { 2 } else { 1 };
    for _ in 0..runs {
        let workers = variant.workers().to_string();
        let output = command(["run", "--data", "data", "--workers", &workers], folder.path())
            .arg(&pipeline)
            .output()
            .expect("the program starts");
        assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
}

fn by_duckdb(judge: &mut Judge, data: &Path, table: &Expected) -> Result<Vec<Vec<String>>, String> {
    let path = data.join("tables").join(&table.name);
    if !path.join("_delta_log").exists() {
        return Ok(Vec::new());
    }
    judge.table("t", &path);
    judge.try_rows(&table.question("t")).map(rows_as_text)
}

fn by_tidemill(data: &Path, table: &Expected) -> Result<Vec<Vec<String>>, String> {
    let question = table.question(&format!("\"{}\"", table.name));
    let data = data.to_str().expect("a temporary folder has a plain name");
    let output = tidemill(["sql", "--data", data, "--format", "json", &question]);
    if !output.status.success() {
        return Err(format!("{question}: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let rows = rows_of(&String::from_utf8_lossy(&output.stdout)).expect("rows as JSON");
    Ok(rows_as_text(rows.into_iter().map(|row| row.as_object().expect("an object for each row").clone()).collect()))
}

impl Expected {
    /// Asks for the columns in their order, under names that no reader sorts differently.
    fn question(&self, table: &str) -> String {
        let columns = self.columns.iter().enumerate().map(|(place, column)| format!("{column} AS c{place:02}"));
        format!("SELECT {} FROM {table}", columns.collect::<Vec<_>>().join(", "))
    }
}

fn rows_as_text(rows: Vec<Map<String, Value>>) -> Vec<Vec<String>> {
    let mut rows: Vec<Vec<String>> = (rows.into_iter())
        .map(|row| {
            let cells: BTreeMap<String, Value> = row.into_iter().collect();
            cells.values().map(cell_as_text).collect()
        })
        .collect();
    rows.sort();
    rows
}

fn cell_as_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => whole.to_string(),
            // 2.0 and 2 are one number; writers of JSON differ.
            None => format!("{}", number.as_f64().expect("a number")),
        },
        other => other.to_string(),
    }
}

fn difference(table: &Expected, reader: &str, found: &[Vec<String>]) -> String {
    let lines = |rows: &[Vec<String>]| rows.iter().map(|row| format!("\n    {}", row.join(" | "))).collect::<String>();
    let (name, columns) = (&table.name, table.columns.join(" | "));
    format!("table {name} by {reader}\n    {columns}\n  must be{}\n  but is{}", lines(&table.rows), lines(found))
}

/// Asserts that `tidemill check` refuses the case with exit code 1 and says all that it should.
pub(super) fn check_says(case: &Case) {
    let folder = Folder::new();
    folder.write("pipeline.sql", &case.sql);
    let output = command(["check", "pipeline.sql"], folder.path()).output().expect("the program starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{}: {said}", case.name);
    for piece in &case.complaint {
        assert!(said.contains(piece.as_str()), "{}: {piece:?} is not in\n{said}", case.name);
    }
}
