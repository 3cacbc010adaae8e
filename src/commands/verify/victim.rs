//! The program under test: this very executable as `serve`, killed and started again.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use tidemill::{Error, Result};
use tokio::time::{Instant, sleep};

/// How often a process is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// How long a start may take, with a log of a few seconds to replay.
const READY_MAX: Duration = Duration::from_secs(60);
/// How long the last rows may take to be complete.
const SETTLED_MAX: Duration = Duration::from_secs(120);
/// How long it may take to end after it was asked to.
const STOP_MAX: Duration = Duration::from_secs(30);
/// Lines of its log that a failure shows.
const LAST_WORDS: usize = 12;

/// How to start it.
pub(super) struct Victim {
    program: PathBuf,
    folder: PathBuf,
    http: u16,
    client: reqwest::Client,
    running: Option<Running>,
    /// The longest time from a start to its being ready.
    pub(super) ready_max: Duration,
}

/// A process; killed when it is dropped, so that nothing is left behind.
struct Running {
    child: Child,
    began: Instant,
    ready: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        // A process that has ended makes both fail, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Victim {
    pub(super) fn new(folder: &Path, http: u16) -> Result<Victim> {
        let program = std::env::current_exe()
            .map_err(|error| Error::Environment(format!("cannot find out where this program lies: {error}")))?;
        let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).no_proxy().build();
        let client = client.map_err(|error| Error::Environment(format!("cannot ask over HTTP: {error}")))?;
        Ok(Victim { program, folder: folder.to_owned(), http, client, running: None, ready_max: Duration::ZERO })
    }

    /// Starts it. Other numbers of threads and other intervals change no result, so each start has its own.
    pub(super) fn start(&mut self, dice: u64) -> Result<()> {
        let problem = |error: std::io::Error| Error::Environment(format!("cannot start the program: {error}"));
        let log = OpenOptions::new().create(true).append(true).open(self.log()).map_err(problem)?;
        let own = std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("TIDEMILL__"));
        let mut command = Command::new(&self.program);
        for (key, _) in own {
            command.env_remove(key);
        }
        let child = command
            .args(["serve", "--data", "data", "--workers", &(1 + dice % 3).to_string(), "pipeline.sql"])
            .current_dir(&self.folder)
            .env("TIDEMILL__SERVER__HTTP", format!("127.0.0.1:{}", self.http))
            .env("TIDEMILL__DURABILITY__EPOCH", "20ms")
            .env("TIDEMILL__DURABILITY__CHECKPOINT", ["100ms", "300ms", "1s"][(dice >> 8) as usize % 3])
            .env("TIDEMILL__TABLES__COMMIT", ["50ms", "200ms", "500ms"][(dice >> 16) as usize % 3])
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(problem)?;
        self.running = Some(Running { child, began: Instant::now(), ready: false });
        Ok(())
    }

    /// Lives with it until an instant; notes when it is ready. An end by itself is an error.
    pub(super) async fn until(&mut self, instant: Instant) -> Result<()> {
        while Instant::now() < instant {
            self.look().await?;
            let left = instant.saturating_duration_since(Instant::now());
            sleep(left.min(LOOK)).await;
        }
        Ok(())
    }

    /// Waits until it is ready.
    pub(super) async fn ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_MAX;
        while !self.look().await? {
            if Instant::now() > deadline {
                return Err(self.failed(&format!("it was not ready within {} s", READY_MAX.as_secs())));
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// Looks whether it still runs, and returns whether it is ready.
    async fn look(&mut self) -> Result<bool> {
        let Some(running) = &mut self.running else { return Ok(false) };
        if let Ok(Some(status)) = running.child.try_wait() {
            return Err(self.failed(&format!("it ended by itself: {status}")));
        }
        if !running.ready {
            let asked = self.client.get(format!("http://127.0.0.1:{}/readyz", self.http)).send();
            if asked.await.is_ok_and(|answer| answer.status().is_success()) {
                running.ready = true;
                self.ready_max = self.ready_max.max(running.began.elapsed());
            }
        }
        Ok(running.ready)
    }

    /// Kills it as `kill -9` does.
    pub(super) fn kill(&mut self) -> Result<()> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        let killed = running.child.kill().and_then(|()| running.child.wait());
        killed.map(drop).map_err(|error| Error::Environment(format!("cannot kill the program: {error}")))
    }

    /// Waits until everything that was received has come to its end.
    pub(super) async fn settled(&mut self) -> Result<()> {
        let deadline = Instant::now() + SETTLED_MAX;
        let url = format!("http://127.0.0.1:{}/api/v1/status", self.http);
        while Instant::now() < deadline {
            self.look().await?;
            if let Ok(answer) = self.client.get(&url).send().await
                && let Ok(text) = answer.text().await
                && let Ok(status) = serde_json::from_str::<serde_json::Value>(&text)
                && status["sealed_epoch"].is_u64()
                && status["sealed_epoch"] == status["completed_epoch"]
                && status["rows_in_flight"] == 0
            {
                return Ok(());
            }
            sleep(LOOK).await;
        }
        Err(self.failed(&format!("its last epochs were not complete within {} s", SETTLED_MAX.as_secs())))
    }

    /// Asks it to stop, which commits everything.
    pub(super) async fn stop(&mut self) -> Result<()> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        let pid = i32::try_from(running.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        let asked = pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::TERM));
        if !matches!(asked, Some(Ok(()))) {
            return Err(Error::Environment("cannot ask the program to stop".to_owned()));
        }
        let deadline = Instant::now() + STOP_MAX;
        let status: ExitStatus = loop {
            match running.child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if Instant::now() < deadline => sleep(LOOK).await,
                _ => return Err(self.failed(&format!("it did not stop within {} s", STOP_MAX.as_secs()))),
            }
        };
        if status.success() { Ok(()) } else { Err(self.failed(&format!("it stopped with {status}"))) }
    }

    fn log(&self) -> PathBuf {
        self.folder.join("program.log")
    }

    fn failed(&self, what: &str) -> Error {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(LAST_WORDS)..].join("\n    ");
        Error::Internal(format!("the program under test has failed: {what}. Its last words:\n    {last}"))
    }
}
