//! The page of sinks says nothing that no test shows, and what it shows is right.

use std::collections::{BTreeMap, BTreeSet};

use crate::harness::folder::Folder;
use crate::harness::program::tidemill;
use crate::mqtt::guarantees::{numbers, tests_of_the_house};

const PAGE: &str = include_str!("../../docs/sinks.md");

/// The blocks of a language.
fn blocks(language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = PAGE.lines();
    while let Some(line) = lines.next() {
        if let Some(found) = line.strip_prefix("```") {
            let text = lines.by_ref().take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect();
            if found == language {
                blocks.push(text);
            }
        }
    }
    blocks
}

#[test]
fn the_page_of_sinks_names_tests_that_exist_and_no_others() {
    let entry = |line: &str| {
        let (number, name) = line.split_once(". `")?;
        Some((number.parse().ok()?, name.strip_suffix('`')?.to_owned()))
    };
    let listed: BTreeMap<u32, String> = PAGE.lines().filter_map(entry).collect();
    let known = tests_of_the_house();
    for (number, name) in &listed {
        assert!(known.contains(name), "[{number}] no test is called {name}");
    }
    let named = numbers(PAGE);
    assert_eq!(named, listed.keys().copied().collect::<BTreeSet<u32>>());
    assert!(named.len() > 20, "{named:?}");
}

#[test]
fn the_pipelines_and_the_configuration_of_the_page_of_sinks_are_right() {
    let folder = Folder::new();
    let configuration = blocks("toml").concat();
    assert!(configuration.contains("allow"), "{configuration}");
    let configuration = folder.write("tidemill.toml", &configuration);
    let pipelines = blocks("sql");
    assert_eq!(pipelines.len(), 4);
    for text in pipelines {
        let file = folder.write("shown.sql", &text);
        let output = tidemill(["--config".as_ref(), configuration.as_os_str(), "check".as_ref(), file.as_os_str()]);
        assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    }
}
