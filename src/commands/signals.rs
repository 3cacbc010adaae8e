//! Ctrl-C and SIGTERM.

use std::time::Duration;

use futures::FutureExt;
use tidemill::{Error, Result};

use crate::logging::tell;

/// A supervisor may send the same request to the process and to its group: within so long, two are one.
const SAME_REQUEST: Duration = Duration::from_secs(1);

/// Waits until somebody asks the program to stop.
///
/// A second request while it stops ends the process at once: what was acknowledged is in the log anyway.
pub(crate) async fn stop_requested() -> Result<()> {
    let mut signals = Signals::new().map_err(|error| Error::Environment(format!("cannot hear signals: {error}")))?;
    signals.next().await;
    tokio::spawn(async move {
        tokio::time::sleep(SAME_REQUEST).await;
        // What came in the meantime was kept for us: it is read and forgotten.
        while signals.next().now_or_never().is_some() {}
        signals.next().await;
        tell("tidemill: stopped at once; what was acknowledged is in the log");
        std::process::exit(2);
    });
    Ok(())
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Signals { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Signals)
    }

    async fn next(&mut self) {
        let _ = tokio::signal::ctrl_c().await;
    }
}
