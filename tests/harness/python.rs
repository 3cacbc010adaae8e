//! Python scripts in the environment that `./check tools` makes.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;

/// Returns the interpreter with the foreign readers: `TIDEMILL_PYTHON`, or the one `./check tools` has made.
pub(crate) fn interpreter() -> PathBuf {
    let path = match std::env::var_os("TIDEMILL_PYTHON") {
        Some(path) => PathBuf::from(path),
        None => cache().join("tidemill/venv/bin/python"),
    };
    assert!(
        path.exists(),
        "there is no Python with the readers at {}: run `./check tools`, or set TIDEMILL_PYTHON to one that has \
         tests/readers/requirements.txt installed",
        path.display()
    );
    path
}

/// Returns the folder of caches, as `./check` finds it.
pub(crate) fn cache() -> PathBuf {
    match std::env::var_os("XDG_CACHE_HOME") {
        Some(cache) if !cache.is_empty() => PathBuf::from(cache),
        _ => PathBuf::from(std::env::var_os("HOME").expect("HOME or XDG_CACHE_HOME")).join(".cache"),
    }
}

/// Returns the path of a file below `tests/`.
pub(crate) fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

/// A script that answers each line of JSON with a line of JSON.
pub(crate) struct Conversation {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Conversation {
    /// Starts a script below `tests/`.
    pub(crate) fn with(name: &str) -> Conversation {
        let mut child = Command::new(interpreter())
            .arg(script(name))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Python starts");
        let answers = BufReader::new(child.stdout.take().expect("a piped stdout"));
        Conversation { child, answers }
    }

    /// Asks, and waits for the answer.
    pub(crate) fn ask(&mut self, question: &Value) -> Value {
        let stdin = self.child.stdin.as_mut().expect("a piped stdin");
        writeln!(stdin, "{question}").and_then(|()| stdin.flush()).expect("the script listens");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the script answers");
        assert!(!line.is_empty(), "the script has ended; its complaint is above");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line}"))
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        // A script ends when its stdin does; if it does not, it is killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
