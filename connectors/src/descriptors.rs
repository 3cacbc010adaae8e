//! File descriptors: sockets may not take those that the log and the tables need.
//!
//! A process may have only so many open files, often 1,024, and a socket is one of them. When devices take them all, the next
//! file of a table cannot be opened, and the job fails. So the last of them are kept for files: a connection that would take one is
//! refused, and the device comes again.
//!
//! ```text
//!   0                                            limit - reserve        limit
//!   ├──────────── files and sockets ─────────────┼───── files only ─────┤
//! ```
//!
//! The system gives out the lowest free number, so the number of a new socket says how many are taken: nothing is counted.

use std::sync::LazyLock;

use tokio::net::TcpStream;

/// The most that is kept for files.
const RESERVE_MAX: u64 = 512;

/// The number from which on sockets are refused; `None` without a limit.
static SOCKETS_END: LazyLock<Option<u64>> = LazyLock::new(|| limit().map(sockets_end));

/// Allows this process as many open files as the system lets it have. To be called once, at the start of a program.
pub fn raise_limit() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        if current != maximum {
            // What is refused leaves the limit as it was, and sockets keep their distance from that.
            if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
                tracing::debug!(%error, ?current, ?maximum, "cannot raise the limit of open files");
            }
        }
    }
}

/// Says whether a new socket has taken one of the last descriptors. It is then to be closed.
pub fn are_scarce(socket: &TcpStream) -> bool {
    #[cfg(unix)]
    {
        use std::os::fd::AsRawFd;
        let number = u64::try_from(socket.as_raw_fd()).unwrap_or(0);
        SOCKETS_END.is_some_and(|end| number >= end)
    }
    #[cfg(not(unix))]
    {
        let _ = (socket, &*SOCKETS_END);
        false
    }
}

fn limit() -> Option<u64> {
    #[cfg(unix)]
    {
        rustix::process::getrlimit(rustix::process::Resource::Nofile).current
    }
    #[cfg(not(unix))]
    {
        None
    }
}

fn sockets_end(limit: u64) -> u64 {
    limit - (limit / 4).min(RESERVE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_a_small_limit_and_512_of_a_large_one_are_kept_for_files() {
        assert_eq!([256, 1_024, 1_048_576].map(sockets_end), [192, 768, 1_048_064]);
    }
}
