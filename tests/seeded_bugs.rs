//! Seeded bugs: what is planted in the program is caught by its tests, and is in no release.

use std::process::Command;

use tidemill_engine::seeded_bugs::{Harness, assert_all_are_caught};

#[test]
fn every_seeded_bug_of_the_program_is_caught() {
    assert_all_are_caught(Harness::Whole);
}

#[test]
fn no_bug_can_be_planted_in_a_release() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let features = |edges: &str| {
        let arguments = ["tree", "--offline", "--package", "tidemill", "--edges", edges, "--invert", "tidemill-engine"];
        let output = Command::new(&cargo)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(arguments)
            .args(["--format", "{p} [{f}]"])
            .output()
            .expect("cargo can be started");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text").lines().next().expect("the engine is in the tree").to_owned()
    };
    let release = features("normal,build");
    assert!(release.contains("tidemill-engine") && !release.contains("seeded-bugs"), "{release}");
    // With the tests it is there: the check sees.
    let tests = features("normal,build,dev");
    assert!(tests.contains("seeded-bugs"), "{tests}");
}
