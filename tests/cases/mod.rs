//! Pipelines as data: every `.case` file beside this one is SQL, rows that come in, and the tables that must come out.
//!
//! ```text
//! # What the case shows.
//! --- sql
//! CREATE SOURCE ...
//! --- rows readings            one POST to the source; the next one waits until this one's epoch has ended
//! {"device":"a","v":1}
//! --- file readings.csv        a file beside the pipeline: the case is then bounded, and `tidemill run` runs it
//! --- table w                  what the table holds at the end, in any order
//! device | n                   expressions that DuckDB and tidemill both understand
//! a      | 1
//! --- error                    instead of all the others but `sql`: what `tidemill check` says, piece by piece
//! 3:17
//! ```
//!
//! Each case runs with 1, 2 and 4 workers, with a stop and a start in the middle, and with kill -9 after every POST. All
//! give the same tables, judged by DuckDB over the files that `deltalake` lists, and by `tidemill sql --data`.

mod file;
mod run;

use std::path::PathBuf;

use futures::StreamExt;

use crate::harness::python::script;
use file::{Case, Input};
use run::Variant;

/// Programs at work at one time; the machine may have two cores.
const PARALLEL: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_case_gives_its_tables_with_any_worker_count_and_through_restarts_and_kills() {
    let cases: Vec<Case> = case_paths().iter().map(|path| Case::read(path)).collect();
    let running = cases.iter().filter(|case| !matches!(case.input, Input::None));
    let runs: Vec<(&Case, Variant)> =
        running.flat_map(|case| Variant::all(&case.input).iter().map(move |variant| (case, *variant))).collect();
    assert!(runs.len() >= 80, "the cases are not where they should be");
    let outcomes = futures::stream::iter(runs).map(|(case, variant)| async move {
        let differences = run::differences(case, variant).await;
        differences.into_iter().map(|text| format!("{} ({variant:?}): {text}", case.name)).collect::<Vec<_>>()
    });
    let differences: Vec<String> = outcomes.buffer_unordered(PARALLEL).concat().await;
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}

#[test]
fn mistakes_in_sql_are_shown_with_their_place_and_a_remedy() {
    let cases: Vec<Case> = case_paths().iter().map(|path| Case::read(path)).collect();
    let wrong: Vec<&Case> = cases.iter().filter(|case| matches!(case.input, Input::None)).collect();
    assert!(wrong.len() >= 6, "the cases are not where they should be");
    for case in wrong {
        run::check_says(case);
    }
}

fn case_paths() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(script("cases")).expect("the folder of the cases");
    let paths = entries.map(|entry| entry.expect("a readable entry").path());
    let mut paths: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|kind| kind == "case")).collect();
    paths.sort();
    paths
}
