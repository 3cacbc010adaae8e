//! The HTTP client: one request, its redirects, its answer; each with a bound.

use std::fmt;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, LOCATION};
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::{Instant, timeout_at};
use tower::Service;
use url::Url;

use super::OutgoingError;
use super::dial::{Dialer, Stream};

/// A server may send us on so often.
pub const REDIRECTS_MAX: usize = 5;
/// The head of an answer.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Connections that wait to be used again, for each server.
const IDLE_CONNECTIONS_MAX: usize = 4;
/// How long: less than servers commonly do, so that it is not they who close.
const IDLE_MAX: Duration = Duration::from_secs(20);

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Ask {
    /// How.
    pub method: Method,
    /// Where.
    pub url: Url,
    /// With what.
    pub headers: HeaderMap,
    /// And this.
    pub body: Bytes,
}

/// Sends requests over connections that it keeps. Clones share them.
///
/// It follows redirects on the same host only, at most [`REDIRECTS_MAX`], never from TLS to plain text, and, where something
/// is delivered, only those that repeat the request as it is (307 and 308): other servers were not named by whoever wrote the
/// pipeline, and must not see its secrets. It never uses a proxy, since then the proxy would choose the address.
#[derive(Clone)]
pub struct HttpClient {
    client: legacy::Client<Connector, Full<Bytes>>,
}

impl HttpClient {
    /// Makes a client.
    pub fn new(dialer: Dialer) -> HttpClient {
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .http1_max_buf_size(HEAD_BYTES_MAX)
            .build(Connector(dialer));
        HttpClient { client }
    }

    /// Sends a request and returns the head of the answer; the body is still to be read. `until` is for all of it, redirects
    /// included.
    pub async fn send(&self, mut ask: Ask, until: Instant) -> Result<Response<Incoming>, OutgoingError> {
        for _ in 0..=REDIRECTS_MAX {
            let request = self.client.request(request(&ask)?);
            let answer = timeout_at(until, request).await.map_err(|_| OutgoingError::TimedOut)?;
            let answer = answer.map_err(|error| explain(&error))?;
            match redirect(&ask, answer.status(), answer.headers())? {
                Some(url) => ask.url = url,
                None => return Ok(answer),
            }
        }
        Err(OutgoingError::Redirect(format!("the server sends us on more than {REDIRECTS_MAX} times")))
    }
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HttpClient")
    }
}

/// Reads what is left of an answer.
///
/// # Errors
/// If it has more bytes, takes too long, or breaks off.
pub async fn read_body(mut body: Incoming, bytes_max: usize, until: Instant) -> Result<Bytes, OutgoingError> {
    let mut whole = BytesMut::new();
    loop {
        let frame = timeout_at(until, body.frame()).await.map_err(|_| OutgoingError::TimedOut)?;
        let Some(frame) = frame else { return Ok(whole.freeze()) };
        let frame = frame.map_err(|error| OutgoingError::Broken(error.to_string()))?;
        let Ok(bytes) = frame.into_data() else { continue };
        if whole.len() + bytes.len() > bytes_max {
            return Err(OutgoingError::TooLarge(bytes_max));
        }
        whole.extend_from_slice(&bytes);
    }
}

fn request(ask: &Ask) -> Result<Request<Full<Bytes>>, OutgoingError> {
    let unusable = |problem: String| OutgoingError::BadUrl { url: shown(&ask.url), problem };
    let mut url = ask.url.clone();
    url.set_fragment(None);
    let uri: Uri = url.as_str().parse().map_err(|error| unusable(format!("{error}")))?;
    let mut request = Request::new(Full::new(ask.body.clone()));
    *request.method_mut() = ask.method.clone();
    *request.uri_mut() = uri;
    *request.headers_mut() = ask.headers.clone();
    if !ask.body.is_empty() {
        request.headers_mut().insert(CONTENT_LENGTH, ask.body.len().into());
    }
    Ok(request)
}

/// Decides what an answer means for the way: `None` if it is the answer.
fn redirect(ask: &Ask, status: StatusCode, headers: &HeaderMap) -> Result<Option<Url>, OutgoingError> {
    let repeats = matches!(status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT);
    let turns_to_get = matches!(status, StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER);
    let is_followed = repeats || (turns_to_get && ask.method == Method::GET);
    if !is_followed {
        return Ok(None);
    }
    let refused = |problem: String| Err(OutgoingError::Redirect(problem));
    let Some(location) = headers.get(LOCATION).and_then(|location| location.to_str().ok()) else {
        return refused(format!("the server answers {status} and does not say where to"));
    };
    let Ok(next) = ask.url.join(location) else {
        return refused(format!("the server sends us on to {location:?}, which is no URL"));
    };
    let is_upgrade = ask.url.scheme() == "http" && next.scheme() == "https" && ask.url.port().is_none();
    let same_place = next.scheme() == ask.url.scheme() && next.port() == ask.url.port();
    if next.host() != ask.url.host() || !(same_place || is_upgrade && next.port().is_none()) {
        return refused(format!(
            "the server sends us on to {}, which is another place than {}: if it is the right one, say so in the url",
            shown(&next),
            shown(&ask.url)
        ));
    }
    if !next.username().is_empty() || next.password().is_some() {
        return refused("the server sends us on to a URL with a password in it".to_owned());
    }
    Ok(Some(next))
}

/// A URL without what may be secret in it: scheme, host, port and path.
pub fn shown(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
}

/// Finds what went wrong below the client's own words.
fn explain(error: &legacy::Error) -> OutgoingError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut words = error.to_string();
    while let Some(inner) = cause {
        if let Some(known) = inner.downcast_ref::<OutgoingError>() {
            return known.clone();
        }
        words = inner.to_string();
        cause = inner.source();
    }
    OutgoingError::Broken(words)
}

/// Where the client gets its connections.
#[derive(Clone)]
struct Connector(Dialer);

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = OutgoingError;
    type Future = BoxFuture<'static, Result<TokioIo<Stream>, OutgoingError>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), OutgoingError>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let dialer = self.0.clone();
        Box::pin(async move {
            let host = uri.host().unwrap_or_default();
            let stream = match uri.scheme_str() {
                Some("https") => dialer.tls(host, uri.port_u16().unwrap_or(443)).await?,
                _ => dialer.plain(host, uri.port_u16().unwrap_or(80)).await?,
            };
            Ok(TokioIo::new(stream))
        })
    }
}
