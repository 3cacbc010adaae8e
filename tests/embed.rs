//! The library: the example in the README is a whole program, and does what it says.

use std::path::Path;
use std::process::Command;

#[test]
fn the_embedded_engine_prints_five_minutes_of_one_device_and_ends() {
    let example = Path::new(env!("CARGO_BIN_EXE_tidemill")).with_file_name("examples").join("embed");
    assert!(example.is_file(), "{} is missing: `cargo test --workspace` builds it", example.display());
    let output = Command::new(example).output().expect("the example starts");
    let (shown, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}: {told}", output.status);
    let minutes: Vec<&str> = shown.lines().filter(|line| line.contains("freezer-17")).collect();
    assert_eq!(minutes.len(), 5, "{shown}");
    for (minute, line) in minutes.iter().enumerate() {
        assert!(line.contains(&format!("2026-11-20T09:{minute:02}:00Z")), "{line}");
        assert!(line.contains("| 60 "), "a reading each second: {line}");
    }
}
