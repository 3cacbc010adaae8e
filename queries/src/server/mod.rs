//! The HTTP service: questions, status, health and metrics, beside the routes that sources bring.
//!
//! ```text
//!   GET  /healthz                the process answers
//!   GET  /readyz                 200 once every source runs, else 503 with a reason for each; 503 while read only
//!   GET  /version                name and version
//!   GET  /metrics                Prometheus text
//!   POST /api/v1/query           {"sql": "SELECT …", "params": [1, "a"]} → rows, format by Accept
//!   GET  /api/v1/status          what the job is doing, as JSON
//!   GET  /api/v1/openapi.json    all of this, for programs
//!   …                            what a given router adds (ingest)
//! ```
//!
//! Every error is a problem document (RFC 9457), also for a path that is not there. There is no authentication yet, so
//! an address that others can reach is refused unless the caller insists.

mod bodies;
mod client;
mod connections;
mod document;
mod linger;
mod metrics;
mod openapi;
mod query;
mod status;
mod unread;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use tidemill_connectors::HttpIngest;
use tidemill_connectors::http::api::{Api, Refusal, Shape, Told};
use tidemill_connectors::outbox::OutboxStatus;
use tidemill_connectors::stall::SEND_BUFFER_BYTES;
use tidemill_engine::clock::Clock;
use tidemill_engine::runtime::JobStatus;
use tidemill_engine::source::{BoxFuture, Stop};
use tokio::net::{TcpListener, TcpSocket};

use crate::problem::{Document, Problem, ProblemKind};
use crate::session::Session;

use bodies::Bodies;
pub use client::{ClientError, query_server};
use connections::Connections;

/// Time a request may take until its answer begins; questions have their own, longer limit.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(30);
/// Time that answers under way have to end once the service stops.
const SHUTDOWN_TIME_MAX: Duration = Duration::from_secs(5);
/// Connections that the system keeps until they are accepted.
const BACKLOG_MAX: u32 = 1_024;

/// What the service says of itself and of its job.
#[derive(Clone, Debug, Default)]
pub struct ServiceStatus {
    /// What the job is doing; while the service is read only, what the last one did; `None` before the first.
    pub job: Option<JobStatus>,
    /// Why nothing is taken, while nothing is.
    pub read_only: Option<ReadOnly>,
    /// How often the disk has failed since the program began.
    pub disk_failures: u64,
    /// What the outboxes of the sinks say.
    pub sinks: Vec<OutboxStatus>,
}

/// Why nothing is taken: questions go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadOnly {
    /// What was tried, where, and why it failed.
    pub reason: String,
    /// Since when, microseconds since 1970, UTC.
    pub since_us: i64,
}

/// Gives what the service is doing now.
pub type StatusFn = Arc<dyn Fn() -> ServiceStatus + Send + Sync>;

/// What the service answers from.
#[derive(Clone)]
pub struct ServiceState {
    /// What the job is doing.
    pub status: StatusFn,
    /// Who answers questions.
    pub session: Arc<Session>,
    /// Routes that sources bring; empty if none does.
    pub extra: Router,
    /// Tells the time for the lag of watermarks.
    pub clock: Arc<dyn Clock>,
    /// The version that `/version` and the metrics tell.
    pub version: &'static str,
}

/// Whether an address that other machines can reach is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// Loopback only: the default while there is no authentication.
    LoopbackOnly,
    /// Any address; whoever reaches it can read everything.
    Insecure,
}

/// Why the service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address is reachable from outside.
    #[error(
        "refusing to serve HTTP on {address}: other machines could reach it, and there is no authentication yet; \
         use 127.0.0.1, or allow it explicitly (server.insecure = true)"
    )]
    Exposed {
        /// The address.
        address: SocketAddr,
    },
    /// Somebody else has the port.
    #[error("cannot serve HTTP on {address}: the port is in use; stop the other program or choose another port")]
    InUse {
        /// The address.
        address: SocketAddr,
    },
    /// The system refuses.
    #[error("cannot serve HTTP on {address}")]
    Io {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Makes a [`Bound`]: the port first, so that a problem with it shows before anything else starts.
pub struct Server;

impl Server {
    /// Takes the port. Port 0 takes any free one: see [`Bound::local_addr`].
    pub async fn bind(address: SocketAddr, exposure: Exposure) -> Result<Bound, BindError> {
        if !address.ip().is_loopback() && exposure == Exposure::LoopbackOnly {
            return Err(BindError::Exposed { address });
        }
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse { address },
            _ => BindError::Io { address, source },
        };
        let listener = listen(address).map_err(failed)?;
        let local_addr = listener.local_addr().map_err(failed)?;
        Ok(Bound { listener, local_addr, connections: Connections::default(), bodies: Bodies::default() })
    }
}

/// Listens as tokio's own `bind` does, but for the send buffer, which connections inherit.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.bind(address)?;
    socket.listen(BACKLOG_MAX)
}

/// A port that is taken and not served yet: clients can connect and wait.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    local_addr: SocketAddr,
    connections: Connections,
    bodies: Bodies,
}

impl Bound {
    /// Returns the address with the real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves until `stop` is cancelled, then lets answers under way end, for at most five seconds.
    pub fn serve(self, state: ServiceState, stop: Stop) -> BoxFuture<'static, io::Result<()>> {
        Box::pin(self.serve_until(state, stop))
    }

    async fn serve_until(self, state: ServiceState, stop: Stop) -> io::Result<()> {
        let serving = self.connections.serve(self.listener, router_with(state, self.bodies), stop.clone());
        tokio::select! {
            () = serving => {}
            () = async {
                stop.cancelled().await;
                tokio::time::sleep(SHUTDOWN_TIME_MAX).await;
            } => tracing::info!("no longer waiting for HTTP connections that have not ended"),
        }
        Ok(())
    }
}

/// Returns all routes: those of this module, and those a source brings.
pub fn router(state: ServiceState) -> Router {
    router_with(state, Bodies::default())
}

fn router_with(state: ServiceState, bodies: Bodies) -> Router {
    let extra = state.extra.clone();
    let quick = status::api().and(metrics::api()).and(openapi::api()).router().layer(middleware::from_fn(time_limit));
    query::api()
        .router()
        .layer(Extension(bodies))
        .merge(quick)
        .with_state(state)
        .merge(extra)
        .fallback(unknown_path)
        .method_not_allowed_fallback(method_not_allowed)
}

/// The table of the routes of this module; those of sources are theirs.
fn api() -> Api<ServiceState> {
    status::api().and(metrics::api()).and(openapi::api()).and(query::api())
}

async fn time_limit(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_TIME_MAX, next.run(request)).await {
        Ok(response) => response,
        Err(_) => problem_response(&Problem::new(
            ProblemKind::TimedOut,
            format!("no answer within {} s", REQUEST_TIME_MAX.as_secs()),
        )),
    }
}

async fn unknown_path(request: Request) -> Response {
    problem_response(
        &Problem::new(ProblemKind::UnknownPath, format!("there is no path {}", request.uri().path()))
            .with_hint(known_paths()),
    )
}

async fn method_not_allowed(request: Request) -> Response {
    problem_response(
        &Problem::new(
            ProblemKind::MethodNotAllowed,
            format!("{} does not take {}", request.uri().path(), request.method()),
        )
        .with_hint(known_paths()),
    )
}

fn known_paths() -> String {
    let mut names = api().names();
    names.extend(HttpIngest::api().names());
    format!("the paths are {}", names.join(", "))
}

/// Says how a kind of problem is answered, for the description of a route.
fn refusal(kind: ProblemKind) -> Refusal {
    let status = kind.status();
    Refusal {
        status,
        code: kind.code(),
        title: kind.title(),
        has_retry_after: status == StatusCode::SERVICE_UNAVAILABLE.as_u16(),
        told: Told::Document(Document::shape),
    }
}

/// Turns a problem into a response.
fn problem_response(problem: &Problem) -> Response {
    let status = StatusCode::from_u16(problem.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, Body::from(problem.to_json())).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

#[cfg(test)]
mod tests;
