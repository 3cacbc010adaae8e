//! What a failure says: one line for machines, and the command that repeats it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use serde_json::json;

/// Failures that are told in full.
const TOLD_MAX: usize = 5;

/// What went wrong, gathered over many checks.
pub(super) struct Failures {
    test: &'static str,
    found: Mutex<Vec<String>>,
}

impl Failures {
    /// Begins; `test` is what to tell cargo.
    pub(super) fn new(test: &'static str) -> Failures {
        Failures { test, found: Mutex::default() }
    }

    /// Checks one thing; `check` returns how many rows it has seen. `variables` lead back to it.
    pub(super) fn check(
        &self,
        seed: u64,
        fault: &str,
        variables: &[(&str, u64)],
        check: impl FnOnce() -> Result<usize, String>,
    ) {
        let verdict = catch_unwind(AssertUnwindSafe(check)).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            Err(format!("panicked: {}", text.unwrap_or_else(|| "see above".to_owned())))
        });
        let Err(verdict) = verdict else { return };
        let line = json!({ "seed": seed, "fault": fault, "rows": null, "verdict": verdict });
        let variables: String = variables.iter().map(|(name, value)| format!("{name}={value} ")).collect();
        let command = format!("{variables}cargo test --workspace --test all {}", self.test);
        let mut found = self.found.lock().expect("nobody panics with it");
        if found.len() < TOLD_MAX {
            println!("{line}\n{command}");
        }
        found.push(line.to_string());
    }

    /// Fails if anything was wrong.
    pub(super) fn none(&self) {
        let found = self.found.lock().expect("nobody panics with it");
        assert!(found.is_empty(), "{} failures; the first: {}", found.len(), found[0]);
    }
}

/// Returns a number from the environment.
pub(super) fn chosen(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, not a number")))
}
