//! Scripts for Node.js, with the packages that `./check tools` installs.

use std::process::Command;

use super::program::installed;
use super::python::{cache, script};

/// Runs a script below `tests/` to its end, and returns what it printed.
pub(crate) fn node(name: &str, arguments: &[&str]) -> String {
    let modules = cache().join("tidemill/npm/node_modules");
    assert!(modules.exists(), "there are no packages for Node.js at {}: run `./check tools`", modules.display());
    let output = Command::new(installed("node")).arg(script(name)).args(arguments).env("NODE_PATH", modules).output();
    let output = output.expect("Node.js starts");
    let (printed, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name} gives {}\n{printed}\n{complained}", output.status);
    printed.into_owned()
}
