//! An endpoint: the options of a connector that asks a server for something, or delivers to it.
//!
//! | option | |
//! |---|---|
//! | `url` | `https://…` or `http://…`, without a password |
//! | `'header.NAME'` | a header of every request |
//! | `token`, `token_env`, `token_file` | `Authorization: Bearer …`, or the header that `token_header` names |
//! | `username`, `password`, `password_env`, `password_file` | `Authorization: Basic …` |
//! | `secret` | what `CREATE SECRET` defines, for both |
//! | `timeout` | for one request with its answer |
//! | `'tls.ca'`, `'tls.cert'`, `'tls.key'`, `'tls.server_name'` | as everywhere |

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE, USER_AGENT};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Response};
use tokio::time::Instant;
use url::Url;

use super::{Ask, Dialer, HttpClient, OutgoingError};
use crate::Context;
use crate::options::{OptionError, Options};
use crate::secret::{Secret, SecretError};
use crate::tls::TlsClient;

/// How long a request with its answer may take, unless the options say otherwise.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// Longer is no timeout.
const TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// All headers of a request that the options give.
const HEADERS_MAX: usize = 50;

/// A server, and how we show ourselves to it. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Endpoint {
    client: HttpClient,
    dialer: Dialer,
    headers: HeaderMap,
    credentials: Option<Credentials>,
    timeout: Duration,
}

#[derive(Clone, Debug)]
enum Credentials {
    Token { header: HeaderName, token: Secret },
    Basic { username: Secret, password: Secret },
}

/// Reads the URL of a server.
///
/// # Errors
/// Says what is wrong with it, and what would be right.
pub fn parse_url(text: &str, context: &Context) -> Result<Url, OptionError> {
    let wrong = |problem: String| OptionError::new("url", problem);
    let form = "say for example 'https://example.com/readings'";
    let url = Url::parse(text).map_err(|error| wrong(format!("is not a URL: {error}; {form}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong(format!("is not a URL of HTTP: {form}")));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("has a username or a password in it: say them by username and password_env".to_owned()));
    }
    let Some(host) = url.host_str().filter(|host| !host.is_empty()) else {
        return Err(wrong(format!("names no host: {form}")));
    };
    if url.port() == Some(0) {
        return Err(wrong("has the port 0, where nobody listens".to_owned()));
    }
    if url.fragment().is_some() {
        return Err(wrong(
            "has a # in it, and what stands behind it is never sent: leave it out, or write %23".to_owned(),
        ));
    }
    context.network.check_host(host).map_err(|problem| wrong(format!("cannot be used: {problem}")))?;
    Ok(url)
}

impl Endpoint {
    /// Takes the options beside `url`. Does no I/O.
    pub fn take(url: &Url, options: &mut Options, context: &Context) -> Result<Endpoint, OptionError> {
        let tls = match url.scheme() {
            "https" => Some(Arc::new(TlsClient::take(options, &context.base_dir, &context.clock)?)),
            _ => {
                TlsClient::refuse(options, "say https:// in the url")?;
                None
            }
        };
        let headers = take_headers(options)?;
        let credentials = Credentials::take(options, context)?;
        if credentials.is_some() && headers.contains_key(AUTHORIZATION) {
            return Err(OptionError::new("header.authorization", "says what token or password says already"));
        }
        let timeout = options.duration("timeout")?.unwrap_or(TIMEOUT_DEFAULT);
        if timeout.is_zero() || timeout > TIMEOUT_MAX {
            return Err(OptionError::new("timeout", "must be longer than nothing and at most '10 minutes'"));
        }
        let dialer = Dialer::new(context.network.clone(), tls);
        Ok(Endpoint { client: HttpClient::new(dialer.clone()), dialer, headers, credentials, timeout })
    }

    /// Returns what makes connections to it, for protocols that begin as HTTP and go on as something else.
    pub fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    /// Returns how long a request with its answer may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Returns the headers of a request that begins now: those of the options, and the credentials as they are now.
    pub async fn headers(&self) -> Result<HeaderMap, OutgoingError> {
        let mut headers = self.headers.clone();
        if let Some(credentials) = self.credentials.clone() {
            // A file may have to be read.
            let shown = tokio::task::spawn_blocking(move || credentials.header()).await;
            let (name, value) = shown.map_err(|error| OutgoingError::Broken(error.to_string()))??;
            headers.insert(name, value);
        }
        Ok(headers)
    }

    /// Sends a request with these headers beside its own, and returns the head of the answer. The body is to be read until the
    /// instant that comes with it.
    pub async fn send(
        &self,
        method: Method,
        url: Url,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<(Response<Incoming>, Instant), OutgoingError> {
        let until = Instant::now() + self.timeout;
        let mut all = self.headers().await?;
        all.extend(headers);
        let answer = self.client.send(Ask { method, url, headers: all, body }, until).await?;
        Ok((answer, until))
    }
}

impl Credentials {
    fn take(options: &mut Options, context: &Context) -> Result<Option<Credentials>, OptionError> {
        let base_dir = &context.base_dir;
        let token = options.secret(["token", "token_env", "token_file"], base_dir)?;
        let header = options.take("token_header");
        let username = options.secret(["username", "username_env", "username_file"], base_dir)?;
        let password = options.secret(["password", "password_env", "password_file"], base_dir)?;
        let parse_header = |name: String| {
            HeaderName::try_from(&name)
                .map_err(|_| OptionError::new("token_header", format!("{name:?} is not the name of a header")))
        };
        match (token, username, password) {
            (None, ..) if header.is_some() => Err(OptionError::new("token_header", "needs a token beside it")),
            (None, None, None) => Ok(None),
            (Some(_), Some(_), _) | (Some(_), _, Some(_)) => {
                Err(OptionError::new("token", "stands beside a username or password: keep one of them"))
            }
            (Some(token), None, None) => {
                let header = header.map(parse_header).transpose()?.unwrap_or(AUTHORIZATION);
                Ok(Some(Credentials::Token { header, token }))
            }
            (None, Some(username), Some(password)) => Ok(Some(Credentials::Basic { username, password })),
            (None, Some(_), None) => Err(OptionError::new("username", "needs a password beside it")),
            (None, None, Some(_)) => Err(OptionError::new("password", "needs a username beside it")),
        }
    }

    /// Reads the secrets and makes a header of them. Blocks for the time of reading a small file.
    fn header(&self) -> Result<(HeaderName, HeaderValue), SecretError> {
        let (name, text) = match self {
            Credentials::Token { header, token } if *header == AUTHORIZATION => {
                (header.clone(), format!("Bearer {}", token.read()?))
            }
            Credentials::Token { header, token } => (header.clone(), token.read()?),
            Credentials::Basic { username, password } => {
                let pair = format!("{}:{}", username.read()?, password.read()?);
                (AUTHORIZATION, format!("Basic {}", BASE64_STANDARD.encode(pair)))
            }
        };
        let mut value = HeaderValue::from_str(&text).map_err(|_| SecretError::NotText("the token".to_owned()))?;
        value.set_sensitive(true);
        Ok((name, value))
    }
}

/// What the client itself says of a request.
const OURS: [HeaderName; 5] = [HOST, CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION, UPGRADE];

fn take_headers(options: &mut Options) -> Result<HeaderMap, OptionError> {
    let mut headers = HeaderMap::new();
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("tidemill/", env!("CARGO_PKG_VERSION"))));
    let given = options.take_prefixed("header.");
    if given.len() > HEADERS_MAX {
        return Err(OptionError::new("header", format!("is given more than {HEADERS_MAX} times")));
    }
    for (key, name, value) in given {
        let name = HeaderName::try_from(name.as_str())
            .map_err(|_| OptionError::new(&key, format!("{name:?} is not the name of a header")))?;
        if OURS.contains(&name) {
            return Err(OptionError::new(&key, "is written by the program itself: leave it out"));
        }
        let value = HeaderValue::from_str(&value)
            .map_err(|_| OptionError::new(&key, "holds a line break or another control character"))?;
        headers.insert(name, value);
    }
    Ok(headers)
}
