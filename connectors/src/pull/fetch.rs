//! One request and its answer, through redirects.
//!
//! ```text
//!   GET ─► 301 302 303 307 308 with Location ─► GET there, REDIRECTS_MAX times at most
//!     └──► any other answer
//! ```
//!
//! A redirect never leads from https to http, never from the public internet to an inner address, and what we show of ourselves (user name,
//! token, headers and parameters of the options) goes to the origin of the URL that was written, and nowhere else.
//!
//! Each request has a connection of its own: with TLS the session is resumed, and nothing is held open between polls that a
//! firewall forgets meanwhile.

use std::io::Write as _;
use std::time::Duration;

use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tidemill_engine::error::with_causes;
use tokio::task::JoinHandle;
use url::{Position, Url};

use super::dial::Reach;
use super::site::{Credentials, Site};
use super::target::Failure;
use crate::outgoing::{REDIRECTS_MAX, retry_after};

/// Bytes of the head of an answer, and of what is read of a body at a time.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Bytes that are inflated before the result is looked at: a bomb makes a thousand times as many of them.
const INFLATED_AT_ONCE: usize = 1 << 10;

const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("tidemill/", env!("CARGO_PKG_VERSION")));

/// The head of an answer, and the way to its body.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    body: Incoming,
    /// When it came: the time of day, microseconds.
    came_us: i64,
    /// Reads the connection; ends with the answer.
    _driver: Driver,
}

/// A task that ends when it is dropped.
#[derive(Debug)]
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Asks a target for something; `ask` are headers of this request.
pub(super) async fn get(site: &Site, target: &Url, ask: &[(HeaderName, HeaderValue)]) -> Result<Answer, Failure> {
    let credentials = site.credentials().await.map_err(|why| Failure::new("secret", why))?;
    let mut url = target.clone();
    let mut reach = Reach::Anywhere;
    for _ in 0..=REDIRECTS_MAX {
        let shown = is_at_home(target, &url).then_some(&credentials);
        let (answer, reaches) = exchange(site, &url, reach, ask, shown).await?;
        match redirect(&url, answer.status, &answer.headers)? {
            None => return Ok(answer),
            Some(next) => (url, reach) = (next, reaches),
        }
    }
    Err(Failure::new("redirect", format!("more than {REDIRECTS_MAX} redirects")))
}

/// Whether a URL is of the origin of the target, or the same with TLS.
fn is_at_home(target: &Url, url: &Url) -> bool {
    let is_same_with_tls = (target.scheme(), url.scheme()) == ("http", "https")
        && (target.port(), url.port()) == (None, None)
        && target.host() == url.host();
    url.origin() == target.origin() || is_same_with_tls
}

async fn exchange(
    site: &Site,
    url: &Url,
    reach: Reach,
    ask: &[(HeaderName, HeaderValue)],
    credentials: Option<&Credentials>,
) -> Result<(Answer, Reach), Failure> {
    let request = request(url, ask, credentials)?;
    let (stream, reaches) = site.dialers.dial(url, reach).await?;
    let failed = |error: hyper::Error| Failure::new("http", with_causes(&error));
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    let driver = Driver(tokio::spawn(async move {
        // Whoever reads the answer is told as well.
        let _ = connection.await;
    }));
    let (head, body) = sender.send_request(request).await.map_err(failed)?.into_parts();
    let came_us = site.clock.now_us();
    let answer = Answer { status: head.status, headers: head.headers, body, came_us, _driver: driver };
    Ok((answer, reaches))
}

fn request(
    url: &Url,
    ask: &[(HeaderName, HeaderValue)],
    credentials: Option<&Credentials>,
) -> Result<Request<Empty<Bytes>>, Failure> {
    let mut url = url.clone();
    for (name, value) in credentials.iter().flat_map(|credentials| &credentials.parameters) {
        // A redirect may have brought it along.
        if !url.query_pairs().any(|(known, _)| known == name.as_str()) {
            url.query_pairs_mut().append_pair(name, value);
        }
    }
    let mut request = Request::new(Empty::new());
    let bad = |_| Failure::new("http", "the URL cannot be asked for");
    *request.uri_mut() = url[Position::BeforePath..Position::AfterQuery].parse().map_err(bad)?;
    let headers = request.headers_mut();
    let host = HeaderValue::from_str(&url[Position::BeforeHost..Position::AfterPort]);
    headers.insert(header::HOST, host.map_err(|_| Failure::new("http", "the host cannot be named in a header"))?);
    headers.insert(header::USER_AGENT, USER_AGENT);
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    headers.extend(ask.iter().cloned());
    if let Some(credentials) = credentials {
        for (name, value) in &credentials.headers {
            headers.insert(name.clone(), value.clone());
        }
    }
    Ok(request)
}

/// Returns where an answer sends us, if it does.
fn redirect(from: &Url, status: StatusCode, headers: &HeaderMap) -> Result<Option<Url>, Failure> {
    if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let failed = |why: String| Err(Failure::new("redirect", why));
    let location = headers.get(header::LOCATION).and_then(|location| location.to_str().ok());
    let Some(location) = location else {
        return failed(format!("a redirect ({}) that does not say where to", status.as_u16()));
    };
    match from.join(location) {
        Ok(to) if !["http", "https"].contains(&to.scheme()) => failed(format!("a redirect to {}://", to.scheme())),
        Ok(to) if from.scheme() == "https" && to.scheme() == "http" => {
            failed(format!("a redirect from TLS to plain text, at {}: not followed", to.origin().ascii_serialization()))
        }
        Ok(to) => Ok(Some(to)),
        Err(error) => failed(format!("a redirect to no URL ({error})")),
    }
}

impl Answer {
    /// Returns a header as text.
    pub(super) fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Returns how long the server asks us to stay away.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        retry_after(&self.headers, self.came_us)
    }

    /// Says that the server answered with something else than what was asked for.
    pub(super) fn refused(&self) -> Failure {
        let code = self.status.as_u16();
        let hint = match code {
            401 | 403 => ": say who we are with username and password, or with a token",
            404 => ": is the path right?",
            429 => ": less often, says the server",
            _ => "",
        };
        let name = self.status.canonical_reason().unwrap_or_default();
        Failure {
            asked: self.retry_after(),
            ..Failure::new("status", format!("the server answers {code} {name}{hint}"))
        }
    }

    /// Waits for the next piece of the body; `None` at its end.
    pub(super) async fn piece(&mut self) -> Result<Option<Bytes>, Failure> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame
                .map_err(|error| Failure::new("http", format!("the answer broke off: {}", with_causes(&error))))?;
            // What is no data are trailers, which say nothing to us.
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// Reads the whole body, inflated, of at most `bytes_max` bytes.
    pub(super) async fn whole(mut self, bytes_max: usize) -> Result<Bytes, Failure> {
        let too_big = || Failure::new("too_big", format!("the answer has more than {bytes_max} bytes"));
        let length = self.header(header::CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
        if length.is_some_and(|length| length > bytes_max as u64) {
            return Err(too_big());
        }
        let is_packed = match self.header(header::CONTENT_ENCODING) {
            None | Some("" | "identity") => false,
            Some("gzip" | "x-gzip") => true,
            Some(other) => {
                return Err(Failure::new(
                    "content",
                    format!("the answer is in an encoding that was not asked for: {other:?}"),
                ));
            }
        };
        let mut inflating = MultiGzDecoder::new(Vec::new());
        let mut plain = Vec::new();
        let broken = |error: std::io::Error| Failure::new("content", format!("the answer is no gzip: {error}"));
        while let Some(piece) = self.piece().await? {
            if !is_packed {
                plain.extend_from_slice(&piece);
            }
            for part in piece.chunks(INFLATED_AT_ONCE).filter(|_| is_packed) {
                inflating.write_all(part).map_err(broken)?;
                if inflating.get_ref().len() > bytes_max {
                    return Err(too_big());
                }
                // It is work, and others wait for this thread.
                tokio::task::yield_now().await;
            }
            if plain.len() > bytes_max {
                return Err(too_big());
            }
        }
        if is_packed {
            plain = inflating.finish().map_err(broken)?;
        }
        if plain.len() > bytes_max {
            return Err(too_big());
        }
        Ok(Bytes::from(plain))
    }
}

#[cfg(test)]
mod tests {
    use tidemill_engine::testing::fuzz::fuzz;

    use super::*;

    /// Whatever a server says, it leads to HTTP and never from TLS to plain text.
    #[test]
    fn fuzz_redirect() {
        let from = Url::parse("https://a.example.com:8443/x/y?z=1").expect("a URL");
        fuzz(concat!(env!("CARGO_MANIFEST_DIR"), "/src/pull/corpus/location"), |input| {
            let Ok(location) = HeaderValue::from_bytes(input) else { return false };
            let headers = HeaderMap::from_iter([(header::LOCATION, location)]);
            let Ok(to) = redirect(&from, StatusCode::FOUND, &headers) else { return false };
            let to = to.expect("it is a redirect");
            assert!(to.scheme() == "https" && to.has_host(), "{to}");
            request(&to, &[], Some(&Credentials::default())).is_ok()
        });
    }
}
