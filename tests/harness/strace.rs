//! A tracer that makes the kernel refuse or delay what a running program asks of it, for as long as it is attached.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::program::{Program, installed, signal};
use super::wait::eventually;

/// A debug build with many threads.
const ATTACHED_MAX: Duration = Duration::from_secs(60);
/// It attaches in a moment, or has missed a thread.
const AGAIN_AFTER: Duration = Duration::from_secs(10);
/// It leaves in a moment.
const LEAVES_WITHIN: Duration = Duration::from_secs(5);

/// A tracer that stands between a program and its kernel.
pub(crate) struct Strace(Child);

impl Strace {
    /// Returns the words that inject something into system calls, such as `fdatasync:error=EIO`.
    pub(crate) fn inject(injections: &[&str]) -> Vec<String> {
        injections.iter().flat_map(|injection| ["-e".to_owned(), format!("inject={injection}")]).collect()
    }

    /// Attaches to a running program, with these arguments; it is in force, in all threads, when this returns.
    pub(crate) async fn attach(pid: u32, words: &[String]) -> Strace {
        let begin = || {
            let mut command = Command::new(installed("strace"));
            command.args(["-f", "-qq", "-o", "/dev/null", "-p", &pid.to_string()]).args(words).stdin(Stdio::null());
            (Strace(command.spawn().expect("strace starts")), Instant::now())
        };
        let mut attaching = Some(begin());
        eventually("strace is attached: it needs root, or kernel.yama.ptrace_scope = 0", ATTACHED_MAX, async || {
            let (strace, since) = attaching.as_mut().expect("put back below");
            assert!(strace.0.try_wait().expect("a child to ask").is_none(), "strace has ended: it says why above");
            if !is_traced(pid) {
                // A thread that was begun while it looked at the others goes on without it.
                if since.elapsed() > AGAIN_AFTER {
                    drop(attaching.take());
                    attaching = Some(begin());
                }
                return None;
            }
            Some(attaching.take().expect("put back above").0)
        })
        .await
    }

    /// Kills the program as `kill -9` does, wherever it is held, and goes.
    pub(crate) fn kill9(self, program: Program) {
        signal("KILL", program.pid());
        // As long as it holds a call, it keeps the dead program from being waited for.
        drop(self);
        program.kill9();
    }

    /// Leaves the program, which goes on without it.
    pub(crate) async fn detach(mut self) {
        signal("TERM", self.0.id());
        let begin = Instant::now();
        let child = &mut self.0;
        eventually("strace is detached", ATTACHED_MAX, async || {
            // With several threads held at once it may wait for them; if it is killed, the kernel lets them go.
            if begin.elapsed() > LEAVES_WITHIN {
                let _ = child.kill();
            }
            child.try_wait().expect("a child to ask")
        })
        .await;
    }
}

/// Returns whether all threads of a process are traced: the first one is, while the others still run free.
fn is_traced(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("Linux's /proc");
    // A thread that has ended meanwhile has no status any more.
    let mut states = threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("status")).ok());
    states.all(|status| !status.contains("TracerPid:\t0\n"))
}

impl Drop for Strace {
    fn drop(&mut self) {
        // Ended already is fine; a tracer that is killed lets its program go on.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
