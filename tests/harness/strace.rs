//! A tracer that makes the kernel refuse or delay what a running program asks of it, for as long as it is attached.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::program::{installed, signal};
use super::wait::eventually;

/// A debug build with many threads.
const ATTACHED_MAX: Duration = Duration::from_secs(30);

/// A tracer that stands between a program and its kernel.
pub(crate) struct Strace(Child);

impl Strace {
    /// Returns the words that inject something into system calls, such as `fdatasync:error=EIO`.
    pub(crate) fn inject(injections: &[&str]) -> Vec<String> {
        injections.iter().flat_map(|injection| ["-e".to_owned(), format!("inject={injection}")]).collect()
    }

    /// Attaches to a running program, with these arguments; it is in force when this returns.
    pub(crate) async fn attach(pid: u32, words: &[String]) -> Strace {
        let child = Command::new(installed("strace"))
            .args(["-f", "-qq", "-o", "/dev/null", "-p", &pid.to_string()])
            .args(words)
            .stdin(Stdio::null())
            .spawn()
            .expect("strace starts");
        let mut strace = Strace(child);
        eventually("strace is attached: it needs root, or kernel.yama.ptrace_scope = 0", ATTACHED_MAX, async || {
            assert!(strace.0.try_wait().expect("a child to ask").is_none(), "strace has ended: it says why above");
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("Linux's /proc");
            (!status.contains("TracerPid:\t0\n")).then_some(())
        })
        .await;
        strace
    }

    /// Leaves the program, which goes on without it.
    pub(crate) async fn detach(mut self) {
        signal("TERM", self.0.id());
        let child = &mut self.0;
        eventually("strace is detached", ATTACHED_MAX, async || child.try_wait().expect("a child to ask")).await;
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        // Ended already is fine; a tracer that is killed lets its program go on.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
