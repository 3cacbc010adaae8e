//! The servers of `server.py` as a process.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::harness::http::Client;
use crate::harness::program::free_port;
use crate::harness::python::{interpreter, script};
use crate::harness::wait::eventually;

/// Everything that can be fetched, on two ports. Dropping it kills it.
pub(super) struct Server {
    child: Option<Child>,
    http: u16,
    websocket: u16,
    client: Client,
}

impl Server {
    pub(super) fn start() -> Server {
        let (http, websocket) = (free_port(), free_port());
        let mut server = Server { child: None, http, websocket, client: Client::new(http) };
        server.resume();
        server
    }

    /// Starts it again, on the same ports, with everything forgotten.
    pub(super) fn resume(&mut self) {
        let mut child = Command::new(interpreter())
            .arg(script("pull/server.py"))
            .args([self.http.to_string(), self.websocket.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Python starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("a piped stdout");
        BufReader::new(stdout).read_line(&mut line).expect("the script speaks");
        assert_eq!(line, "listening\n", "the script has ended; its complaint is above");
        self.child = Some(child);
    }

    /// Kills it; its connections are reset.
    pub(super) fn kill(&mut self) {
        let mut child = self.child.take().expect("a running server");
        child.kill().expect("a process to kill");
        child.wait().expect("a child to wait for");
    }

    /// Returns the URL of a path.
    pub(super) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.http)
    }

    pub(super) fn websocket_url(&self) -> String {
        format!("ws://127.0.0.1:{}/feed", self.websocket)
    }

    /// Changes what it answers: `v`, `status`.
    pub(super) async fn set(&self, key: &str, value: u64) {
        let (status, _) = self.client.post(&format!("/{key}/{value}"), "text/plain", "").await.expect("an answer");
        assert_eq!(status, 200);
    }

    /// Returns what it has seen: `asked`, `not_modified`.
    pub(super) async fn seen(&self, key: &str) -> u64 {
        let (_, text) = self.client.get("/seen").await.expect("an answer");
        let seen: Value = serde_json::from_str(&text).expect("JSON");
        seen[key].as_u64().expect("a number")
    }

    /// Waits until it has seen so many more.
    pub(super) async fn until_seen(&self, key: &str, more: u64) {
        let before = self.seen(key).await;
        eventually(key, Duration::from_secs(60), async || (self.seen(key).await >= before + more).then_some(())).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
