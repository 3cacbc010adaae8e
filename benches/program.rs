//! The program under test: started on a folder, asked, measured by the kernel's account, and stopped.

#![allow(dead_code, reason = "each benchmark uses what it needs")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::workload::{Count, now};

/// More than anything here needs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);
/// The kernel counts a process's time in this unit, on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// How to start it.
pub(crate) struct Program {
    data: PathBuf,
    pipeline: PathBuf,
    http: u16,
}

/// The program while it runs. Dropping it kills it.
pub(crate) struct Running {
    child: Child,
    /// Its port.
    pub(crate) http: u16,
    client: reqwest::Client,
    runtime: tokio::runtime::Runtime,
}

impl Program {
    /// Writes a pipeline into a folder, and keeps the data there.
    pub(crate) fn new(folder: &Path, sql: &str) -> Program {
        let pipeline = folder.join("pipeline.sql");
        std::fs::write(&pipeline, sql).expect("writes");
        Program { data: folder.join("data"), pipeline, http: free_port() }
    }

    /// Starts the program; returns as soon as its source is connected.
    pub(crate) fn start(&self) -> Running {
        let child = Command::new(env!("CARGO_BIN_EXE_tidemill"))
            .arg("serve")
            .arg("--data")
            .arg(&self.data)
            .arg(&self.pipeline)
            .env("TIDEMILL__SERVER__HTTP", format!("127.0.0.1:{}", self.http))
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().expect("a client");
        let running = Running { child, http: self.http, client, runtime };
        until("the program is ready", || running.get("/readyz").is_some_and(|(status, _)| status == 200));
        running
    }
}

impl Running {
    /// Gets a path: status and body; `None` if nobody answers.
    pub(crate) fn get(&self, path: &str) -> Option<(u16, String)> {
        self.runtime.block_on(async {
            let answer = self.client.get(format!("http://127.0.0.1:{}{path}", self.http)).send().await.ok()?;
            Some((answer.status().as_u16(), answer.text().await.ok()?))
        })
    }

    /// Returns how many rows of the first source are decoded and through.
    pub(crate) fn rows(&self) -> usize {
        let text = self.get("/api/v1/status").expect("an answer").1;
        let status: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        status["sources"][0]["rows"].as_u64().unwrap_or(0) as usize
    }

    /// User and system time of the program so far, in seconds.
    pub(crate) fn cpu_s(&self) -> f64 {
        cpu_s(&format!("/proc/{}/stat", self.child.id()), 11)
    }

    /// Asks it to end, and waits.
    pub(crate) fn stop(mut self) {
        let status = Command::new("sh").args(["-c", &format!("kill -TERM {}", self.child.id())]).status();
        assert!(status.expect("a shell").success());
        assert!(self.child.wait().expect("an end").success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Ended already is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns a port that nothing listens on now.
pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// CPU time of all children of the benchmark that have ended, in seconds.
pub(crate) fn cpu_of_children_s() -> f64 {
    cpu_s("/proc/self/stat", 13)
}

/// User and system time of a line of `/proc/<pid>/stat`, from a field on.
fn cpu_s(stat: &str, first: usize) -> f64 {
    let text = std::fs::read_to_string(stat).expect("Linux's /proc");
    // The name, in brackets, may hold anything; fields are counted from behind it.
    let fields: Vec<&str> = text.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<f64>().expect("a number");
    (ticks(first) + ticks(first + 1)) / TICKS_PER_SECOND
}

/// Waits, at most for [`PATIENCE`].
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = now(Count::Wall);
    while !is_so() {
        assert!(now(Count::Wall) - begin < PATIENCE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
