//! The real program as a process: started, awaited, killed, stopped, and its last words when a test fails.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::folder::Folder;
use super::http::Client;
use super::wait::eventually;

/// Returns the program under test: the one cargo has built, or another one that `TIDEMILL_PROGRAM` names (a release build,
/// an installed one).
pub(crate) fn program() -> PathBuf {
    std::env::var_os("TIDEMILL_PROGRAM").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_tidemill")), PathBuf::from)
}

/// A debug build on a busy machine, replaying a log: what is normal is a second.
const READY_MAX: Duration = Duration::from_secs(60);
/// Until a process that was told to end is gone. That it ends well shows that it kept its own, shorter limit; the rest is the
/// machine's.
pub(crate) const STOP_MAX: Duration = Duration::from_secs(60);
/// Lines of stderr that a failed test shows.
const LAST_WORDS: usize = 60;
/// Ports that are given to servers: below those that the kernel chooses from, for whoever connects or binds to port 0.
const PORTS: std::ops::Range<u32> = 10_000..32_000;

/// How to start `tidemill serve`.
#[derive(Clone)]
pub(crate) struct Serve {
    /// The pipeline file.
    pub(crate) pipeline: PathBuf,
    /// The data folder.
    pub(crate) data: PathBuf,
    /// The port of HTTP: the same after a restart, as a client expects it.
    pub(crate) http: u16,
    /// Worker threads.
    pub(crate) workers: usize,
    /// Time between two commits; short, so that tests see tables soon and kills hit commits often.
    pub(crate) commit: Duration,
    /// Where its stderr goes: not on the disk that a test breaks.
    pub(crate) log: PathBuf,
    /// More of its environment.
    pub(crate) environment: Vec<(String, String)>,
    /// A program to run it under, with its arguments: see [`Serve::delay_syncs`].
    pub(crate) under: Vec<String>,
}

impl Serve {
    /// Writes the pipeline into the folder and chooses a free port; two workers, a commit every 200 ms.
    pub(crate) fn new(folder: &Folder, sql: &str) -> Serve {
        Serve {
            pipeline: folder.write("pipeline.sql", sql),
            data: folder.join("data"),
            http: free_port(),
            workers: 2,
            commit: Duration::from_millis(200),
            log: folder.join("program.stderr"),
            environment: Vec::new(),
            under: Vec::new(),
        }
    }

    /// Has every sync of the program take longer, by `strace`.
    pub(crate) fn delay_syncs(&mut self, delay: Duration) {
        let trace = self.data.with_extension("trace");
        let inject = format!("inject=fdatasync,fsync:delay_exit={}", delay.as_micros());
        let strace = installed("strace");
        let (strace, trace) = (strace.to_str().expect("a plain name"), trace.to_str().expect("a plain name"));
        let filter = ["-e", "trace=fdatasync,fsync", "-e", &inject];
        let words = [strace, "-f", "-qq", "--seccomp-bpf", "-o", trace].into_iter().chain(filter);
        self.under = words.map(str::to_owned).collect();
    }

    /// Starts the process; does not wait.
    pub(crate) fn start(&self) -> Program {
        let mut words: Vec<OsString> = self.under.iter().map(OsString::from).collect();
        words.push(program().into());
        let stderr = File::options().create(true).append(true).open(&self.log).expect("a writable log");
        let child = Command::new(&words[0])
            .args(&words[1..])
            .arg("serve")
            .arg("--data")
            .arg(&self.data)
            .args(["--workers", &self.workers.to_string()])
            .arg(&self.pipeline)
            .env("TIDEMILL__SERVER__HTTP", format!("127.0.0.1:{}", self.http))
            .env("TIDEMILL__TABLES__COMMIT", format!("{}ms", self.commit.as_millis()))
            .envs(self.environment.iter().map(|(key, value)| (key, value)))
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {:?}: {error}", words[0]));
        Program { child, log: self.log.clone(), http: Client::new(self.http), under: !self.under.is_empty() }
    }

    /// Starts the process and waits until its sources run.
    pub(crate) async fn start_ready(&self) -> Program {
        let mut program = self.start();
        program.ready().await;
        program
    }
}

/// A running `tidemill serve`. Dropping it kills it.
pub(crate) struct Program {
    child: Child,
    log: PathBuf,
    under: bool,
    /// Its HTTP side.
    pub(crate) http: Client,
}

impl Program {
    /// Waits until `/readyz` answers 200; fails at once if the process ends before.
    pub(crate) async fn ready(&mut self) {
        self.ready_within(READY_MAX).await;
    }

    /// The same with more patience: what the sources connect to may be what is slow.
    pub(crate) async fn ready_within(&mut self, limit: Duration) {
        let (child, http) = (&mut self.child, &self.http);
        eventually("/readyz answers 200", limit, async || {
            if let Some(status) = child.try_wait().expect("a child to ask") {
                panic!("the program ended before it was ready: {status}");
            }
            (http.get("/readyz").await.ok()?.0 == 200).then_some(())
        })
        .await;
    }

    /// Kills it as `kill -9` does. Returns how it ended, which may have been by itself and before.
    pub(crate) fn kill9(mut self) -> ExitStatus {
        let pid = self.pid();
        signal("KILL", pid);
        self.child.wait().expect("a child to wait for")
    }

    /// Returns how it ended, if it has.
    pub(crate) fn try_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child to ask")
    }

    /// Waits for its end by itself.
    pub(crate) async fn ended(mut self, limit: Duration) -> ExitStatus {
        let child = &mut self.child;
        eventually("the program ends by itself", limit, async || child.try_wait().expect("a child to ask")).await
    }

    /// Asks it to end with SIGTERM, and expects exit code 0 within [`STOP_MAX`].
    pub(crate) async fn stop(mut self) {
        let begin = Instant::now();
        let pid = self.pid();
        signal("TERM", pid);
        let child = &mut self.child;
        let status: ExitStatus =
            eventually("the program ends after SIGTERM", STOP_MAX, async || child.try_wait().expect("a child to ask"))
                .await;
        assert!(status.success(), "SIGTERM gives {status} after {:?}", begin.elapsed());
    }

    /// Returns the process id of the program itself, also below a tracer.
    pub(crate) fn pid(&self) -> u32 {
        let pid = self.child.id();
        if !self.under {
            return pid;
        }
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("Linux's /proc");
        children.split_whitespace().next().expect("the tracer has started its program").parse().expect("a number")
    }

    /// Returns a line of the kernel's account of its memory, in KiB: `VmRSS` now, `VmHWM` at most so far.
    pub(crate) fn memory_kib(&self, line: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("Linux's /proc");
        let value = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':')).expect("a line of it");
        value.split_whitespace().next().expect("a number").parse().expect("a number")
    }

    /// Returns the log so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).expect("a readable log")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- the program's last words ({}):", self.log.display());
            eprintln!("{}\n---", lines[lines.len().saturating_sub(LAST_WORDS)..].join("\n"));
        }
        // A tracer that is killed lets its program go on: the program goes first.
        if self.under && matches!(self.child.try_wait(), Ok(None)) {
            let pid = self.child.id();
            let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            children.split_whitespace().filter_map(|pid| pid.parse().ok()).for_each(|pid| signal("KILL", pid));
        }
        // Ended processes make both calls fail, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the program with arguments to its end.
pub(crate) fn tidemill<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Output {
    command(arguments, Path::new(".")).output().expect("the program starts")
}

/// Makes a command of the program in a folder, with nothing on stdin and no configuration from outside.
pub(crate) fn command<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>, dir: &Path) -> Command {
    let mut command = Command::new(program());
    command.args(arguments).current_dir(dir).stdin(Stdio::null()).env_remove("RUST_LOG");
    command
}

/// Returns where a program is installed; daemons stand beside the usual path.
pub(crate) fn installed(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")]);
    let found = folders.map(|folder| folder.join(name)).find(|path| Path::is_file(path));
    found.unwrap_or_else(|| panic!("{name} is not installed: run `./check tools`"))
}

/// Sends a signal by name to one process.
pub(crate) fn signal(name: &str, pid: u32) {
    // The shell's own `kill`: a bare machine has no other.
    let status = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().expect("a shell");
    assert!(status.success(), "kill -{name} {pid}: {status}");
}

/// Returns a port that nothing listens on, never the same one twice in this process. Nobody else takes it before its server
/// does, or while that is being started again: the kernel gives it to nobody, and other processes begin elsewhere.
pub(crate) fn free_port() -> u16 {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id().wrapping_mul(7_919);
    for _ in PORTS {
        let given = begin.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(PORTS.start + given % (PORTS.end - PORTS.start)).expect("a port");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free in {PORTS:?}")
}
