//! HTTP: rows posted to `/api/v1/ingest/{source}`.
//!
//! A request is one atomic chunk. It is read, checked row by row with the source's own decoder, appended, and answered
//! with 200 when it is durable, and not before:
//!
//! ```text
//!   POST ─► admission ─► type ─► body ─► inflate ─► rows ─► check ─► append ─► durable ─► 200 {"position", "rows", …}
//!             │           │       │        │          │       │        │          │
//!            404 405     413 415 408 413  400 413    400 413  400 415  503        500: unknown whether it is stored
//!            503                 400 503                                         503 in all places: Retry-After says when
//! ```
//!
//! Every answer but 200, 202 and 500 guarantees that nothing was appended. A client that repeats a request after a 500 or a
//! broken connection may store it twice, unless the request says who it is: see [`once`].
//!
//! Routes of other protocols go the same way: [`HttpIngest::admit`] is the one door, see [`admission`].
//!
//! Sources come and go with the job, the server stays: [`HttpIngest`] stands between them. While the service is read
//! only it knows why, and every request is answered with 503 and the reason ([`HttpIngest::refuse`]).

pub mod api;

mod head;
mod media_type;
mod position;
mod protocols;
mod route;

pub mod admission;
mod body;
mod content_encoding;
pub mod once;
mod verdict;

pub mod problem;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tidemill_engine::clock::Clock;
use tidemill_engine::source::{Intake, Resume, Source, SourceError, Stop};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use self::api::Api;
use self::once::Ledger;
use crate::format::{PayloadEncoding, TaggedFormat};

pub use admission::{Ack, Admitted, OnError, Post, Reached, Taken};
pub use body::SENT_BYTES_MAX;
pub use content_encoding::{INFLATED_BYTES_MAX, INFLATED_RATIO_MAX};
pub use once::Once;
pub use problem::{Kind, Problem, RowError};
pub use verdict::{ROW_BYTES_MAX, ROWS_MAX, ROWS_OF_BUCKETS_MAX};

/// Requests that are worked on or wait for the log at once, as many as the service has connections; the next is answered
/// with 503. What they hold is bounded by [`BODIES_KIB_MAX`].
pub const REQUESTS_MAX: usize = 1_024;
/// Bytes of bodies in memory at once, in KiB: 256 MiB. Requests that would need more are answered with 503.
pub const BODIES_KIB_MAX: usize = 256 * 1024;

/// How long a client may take to send a body.
pub const BODY_TIME_MAX: Duration = Duration::from_secs(30);

/// How long the answer to `ack=committed` waits, unless the request says `wait`.
pub const COMMIT_WAIT: Duration = Duration::from_secs(30);
/// The longest that a request may ask to wait.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// The name of the one partition of an HTTP source.
const PARTITION: &str = "http";

/// The HTTP sources by name, and what they do: the server asks it, the sources enter. Cheap to clone.
#[derive(Clone)]
pub struct HttpIngest {
    shared: Arc<Shared>,
}

struct Shared {
    sources: RwLock<BTreeMap<String, Slot>>,
    /// What each source takes where a request says nothing; also of those that do not run yet.
    encodings: RwLock<BTreeMap<String, PayloadEncoding>>,
    /// Why nothing is taken, if nothing is.
    refusal: RwLock<Option<Arc<str>>>,
    requests: Arc<Semaphore>,
    bodies_kib: Arc<Semaphore>,
    /// Bodies that are looked through at once: as many as there are cores, since each may take much memory for a while.
    checks: Semaphore,
    body_time_max: Duration,
}

/// A source's place: it is known before it can take rows, and after.
enum Slot {
    Starting,
    Running(Arc<Endpoint>),
    Stopping,
}

/// Where the rows of a running source go.
struct Endpoint {
    name: String,
    format: TaggedFormat,
    intake: Arc<dyn Intake>,
    clock: Arc<dyn Clock>,
    /// What is known of requests that say who they are. Held for a look, never across a wait.
    ledger: Mutex<Ledger>,
    requests: TaskTracker,
    /// Cancelled when the source is to stop.
    stop: Stop,
}

/// What the registry says about a name.
enum Found {
    /// The token keeps the source from ending while a request is under way.
    Running(Arc<Endpoint>, TaskTrackerToken),
    NotRunning(&'static str),
    /// Nothing is taken, and why.
    Refused(Arc<str>),
    Unknown(Vec<String>),
}

impl Default for HttpIngest {
    fn default() -> Self {
        HttpIngest::new()
    }
}

impl HttpIngest {
    /// Makes a registry without sources.
    pub fn new() -> Self {
        HttpIngest::with_body_time_max(BODY_TIME_MAX)
    }

    fn with_body_time_max(body_time_max: Duration) -> Self {
        HttpIngest {
            shared: Arc::new(Shared {
                sources: RwLock::default(),
                encodings: RwLock::default(),
                refusal: RwLock::default(),
                requests: Arc::new(Semaphore::new(REQUESTS_MAX)),
                bodies_kib: Arc::new(Semaphore::new(BODIES_KIB_MAX)),
                checks: Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from)),
                body_time_max,
            }),
        }
    }

    /// Returns the table of the routes: `POST /api/v1/ingest/{source}`, `GET /api/v1/positions/{position}`, and those of other
    /// protocols.
    pub fn api() -> Api<HttpIngest> {
        Api::new([route::operation(), position::operation()]).and(protocols::api())
    }

    /// Makes what answers at them.
    pub fn router(&self) -> axum::Router {
        HttpIngest::api().router().with_state(self.clone())
    }

    /// Refuses everything from now on: the answer is 503 with this reason. Requests that are under way end as their source
    /// says.
    pub fn refuse(&self, why: &str) {
        *self.shared.refusal.write() = Some(why.into());
    }

    /// Takes rows again, as far as sources run.
    pub fn take_again(&self) {
        *self.shared.refusal.write() = None;
    }

    fn find(&self, name: &str) -> Found {
        let sources = self.shared.sources.read();
        let refusal = self.shared.refusal.read().clone();
        match sources.get(name) {
            Some(_) if let Some(why) = refusal => Found::Refused(why),
            Some(Slot::Running(endpoint)) => Found::Running(Arc::clone(endpoint), endpoint.requests.token()),
            Some(Slot::Starting) => Found::NotRunning("is starting"),
            Some(Slot::Stopping) => Found::NotRunning("is stopping"),
            None => Found::Unknown(sources.keys().cloned().collect()),
        }
    }

    /// Returns the endpoint of a source that runs.
    fn endpoint(&self, name: &str) -> Result<Arc<Endpoint>, Problem> {
        match self.find(name) {
            Found::Running(endpoint, _) => Ok(endpoint),
            Found::NotRunning(state) => Err(Problem::new(Kind::NotRunning, format!("source {name} {state}"))),
            Found::Refused(why) => Err(Problem::new(Kind::ReadOnly, why.to_string())),
            Found::Unknown(known) => Err(admission::unknown(name, &known)),
        }
    }

    /// Returns the names of the sources that take this where a request says nothing.
    fn names_of(&self, encoding: PayloadEncoding) -> Vec<String> {
        let encodings = self.shared.encodings.read();
        encodings.iter().filter(|(_, own)| **own == encoding).map(|(name, _)| name.clone()).collect()
    }

    /// Whether there is a source of this name, running or not.
    fn knows(&self, name: &str) -> bool {
        self.shared.encodings.read().contains_key(name)
    }

    fn set(&self, name: &str, slot: Slot) {
        self.shared.sources.write().insert(name.to_owned(), slot);
    }
}

/// Rows that clients post. One partition, `http`.
pub struct HttpSource {
    name: String,
    format: TaggedFormat,
    clock: Arc<dyn Clock>,
    ingest: HttpIngest,
}

impl HttpSource {
    /// Makes the source that answers for `name`; `format` decodes its rows. From now on requests for it are told to come again, not that it does not exist: the server may be up before the log is replayed.
    pub fn new(name: &str, format: TaggedFormat, clock: Arc<dyn Clock>, ingest: HttpIngest) -> Self {
        ingest.set(name, Slot::Starting);
        ingest.shared.encodings.write().insert(name.to_owned(), format.own());
        HttpSource { name: name.to_owned(), format, clock, ingest }
    }
}

#[async_trait::async_trait]
impl Source for HttpSource {
    fn bounded(&self) -> bool {
        false
    }

    async fn run(&self, intake: Arc<dyn Intake>, resume: Vec<Resume>, stop: Stop) -> Result<(), SourceError> {
        // However this ends, also when the job drops it.
        let _registration = Registration { ingest: &self.ingest, name: &self.name };
        intake.open(PARTITION).await?;
        let requests = TaskTracker::new();
        self.ingest.set(
            &self.name,
            Slot::Running(Arc::new(Endpoint {
                name: self.name.clone(),
                format: self.format.clone(),
                intake: Arc::clone(&intake),
                clock: Arc::clone(&self.clock),
                ledger: Mutex::new(Ledger::recall(resume.iter().find(|resume| resume.partition == PARTITION))),
                requests: requests.clone(),
                stop: stop.clone(),
            })),
        );
        intake.set_connected(true);
        stop.cancelled().await;
        self.ingest.set(&self.name, Slot::Stopping);
        intake.set_connected(false);
        requests.close();
        requests.wait().await;
        Ok(())
    }
}

struct Registration<'s> {
    ingest: &'s HttpIngest,
    name: &'s str,
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        // Its name stays: until the server has ended too, a client is told to come again. On a 404 it would give up.
        self.ingest.set(self.name, Slot::Stopping);
    }
}

#[cfg(test)]
mod tests;
