//! The page of guarantees says nothing that no test shows: each cell names its tests, and each test is there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The page.
const PAGE: &str = include_str!("../../docs/mqtt.md");
/// Where tests are written.
const FOLDERS: [&str; 4] = ["tests", "connectors/src", "engine/src", "queries/src"];

#[test]
fn each_cell_of_the_page_names_tests_that_exist() {
    let known = tests_of_the_house();
    let listed = listed_tests();
    assert!(listed.len() > 10, "the list is not found");
    for (number, name) in &listed {
        assert!(known.contains(name.as_str()), "[{number}] no test is called {name}");
    }
    let cells = claims();
    assert!(cells.len() > 15, "the tables are not found");
    let mut named = numbers(PAGE);
    for cell in cells {
        assert!(!numbers(cell).is_empty(), "no test is named for: {cell}");
    }
    named.retain(|number| !listed.contains_key(number));
    assert_eq!(named, BTreeSet::new(), "numbers without a test");
    let unused: Vec<u32> = listed.keys().copied().filter(|number| !numbers(PAGE).contains(number)).collect();
    assert_eq!(unused, [0u32; 0], "tests that stand for nothing on the page");
}

/// Cells of all tables but their first rows and columns.
fn claims() -> Vec<&'static str> {
    let rows = PAGE.lines().filter(|line| line.starts_with('|'));
    let mut claims = Vec::new();
    let mut in_body = false;
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let is_rule = cells.iter().all(|cell| cell.chars().all(|c| c == '-'));
        let is_head = cells[0].is_empty() || cells[0] == "what";
        in_body = is_rule || (in_body && !is_head);
        if in_body && !is_rule {
            claims.extend(&cells[1..]);
        }
    }
    claims
}

/// Numbers in brackets.
pub(crate) fn numbers(text: &str) -> BTreeSet<u32> {
    text.split('[').filter_map(|rest| rest.split_once(']')?.0.parse().ok()).collect()
}

/// The list at the end: number and name.
fn listed_tests() -> BTreeMap<u32, String> {
    let entry = |line: &str| {
        let (number, name) = line.split_once(". `")?;
        Some((number.parse().ok()?, name.strip_suffix('`')?.to_owned()))
    };
    PAGE.lines().filter_map(entry).collect()
}

/// Names of all functions that follow an attribute `test`.
pub(crate) fn tests_of_the_house() -> BTreeSet<String> {
    let mut tests = BTreeSet::new();
    let mut folders: Vec<_> = FOLDERS.iter().map(|folder| Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(path).expect("UTF-8 text");
                let lines: Vec<&str> = text.lines().map(str::trim).collect();
                for pair in lines.windows(2) {
                    let is_test = pair[0] == "#[test]" || pair[0].starts_with("#[tokio::test");
                    let name = pair[1].trim_start_matches("async ").strip_prefix("fn ");
                    tests.extend(name.filter(|_| is_test).and_then(|rest| Some(rest.split_once('(')?.0.to_owned())));
                }
            }
        }
    }
    tests
}
