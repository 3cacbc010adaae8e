//! The connections of the service: a number of slots, and no slot for a connection that says nothing or reads nothing.
//!
//! Without the second rule a thousand clients that connect and fall silent (a pool that leaks, a cut network, malice) would
//! hold all slots for ever, and not even `/healthz` would answer. What a connection waits for, and for how long:
//!
//! ```text
//!   head ────────► body ─────────────► answer begins ─────────────► answer is read ─────────► next head
//!   silence_max    30 s: ingest's      30 s: quick routes           64 KiB of it in each      silence_max
//!                  BODY_TIME_MAX,      60 s: log, ?wait=            STALL_TIME_MAX
//!                  a question's        300 s: a question's time     else the connection ends, and with it its question
//!                  BODY_TIME_MAX       5 s for a body nobody wants
//! ```

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tidemill_connectors::descriptors;
use tidemill_connectors::http::REQUESTS_MAX;
use tidemill_connectors::stall::Patience;
use tidemill_engine::source::Stop;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::linger;
use super::unread::Socket;

/// Connections at once; more wait in the system's queue. Twice as many as ingest takes requests at once: so who comes too
/// much is told so, and `/healthz` answers while as many bodies as may be in flight are slow.
const CONNECTIONS_MAX: usize = 2 * REQUESTS_MAX;
/// Time to send the head of a request, on a new connection and after each answer. A body has its own limit, an answer its own.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How much of its answer a client has to take in [`STALL_TIME_MAX`](tidemill_connectors::stall::STALL_TIME_MAX): about 1 KB/s.
const TAKEN_BYTES_MIN: usize = 64 << 10;
/// Bytes of a head, and of a connection's buffers.
const BUFFER_BYTES_MAX: usize = 64 << 10;
/// How long to wait when the system gives no more sockets.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// How many connections there may be, and how patient the service is with them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connections {
    pub(super) connections_max: usize,
    pub(super) silence_max: Duration,
    pub(super) patience: Patience,
}

impl Default for Connections {
    fn default() -> Self {
        Connections {
            connections_max: CONNECTIONS_MAX,
            silence_max: SILENCE_MAX,
            patience: Patience::for_bytes(TAKEN_BYTES_MIN),
        }
    }
}

impl Connections {
    /// Serves until `stop` is cancelled and the answers under way have ended. Connections outlive a caller that does not
    /// wait so long.
    pub(super) async fn serve(self, listener: TcpListener, router: Router, stop: Stop) {
        let router = linger::over(router);
        let slots = Arc::new(Semaphore::new(self.connections_max));
        let tasks = TaskTracker::new();
        let accepting = async {
            loop {
                let slot = Arc::clone(&slots).acquire_owned().await.expect("the semaphore is never closed");
                let stream = accept(&listener).await;
                let connection = self.connection(stream, router.clone(), stop.clone());
                tasks.spawn(async move {
                    connection.await;
                    drop(slot);
                });
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = accepting => {}
        }
        drop(listener);
        tasks.close();
        tasks.wait().await;
    }

    async fn connection(self, stream: TcpStream, router: Router, stop: Stop) {
        // Answers go out in small pieces; without this the last one waits for an acknowledgement.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot switch off Nagle's algorithm");
        }
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.silence_max)
            .max_buf_size(BUFFER_BYTES_MAX)
            .serve_connection(TokioIo::new(Socket::new(stream, self.patience)), TowerToHyperService::new(router));
        let mut connection = std::pin::pin!(connection);
        let mut stopped = std::pin::pin!(stop.cancelled());
        let mut is_stopping = false;
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "an HTTP connection ended");
                    }
                    return;
                }
                () = &mut stopped, if !is_stopping => {
                    is_stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// Waits for the next connection that the process can afford.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) if descriptors::are_scarce(&stream) => {
                tracing::warn!("refused an HTTP connection: the process has nearly as many open files as it may have");
            }
            Ok((stream, _)) => return stream,
            Err(error) if is_of_the_client(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept an HTTP connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// Says whether the connection failed, and not the listener.
fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
