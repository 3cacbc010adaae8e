//! Where to fetch from, and who we are there: the options that all sources which fetch have in common.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use tidemill_engine::clock::Clock;
use tidemill_engine::error::with_causes;
use url::Url;

use super::dial::Dialers;
use crate::Context;
use crate::options::{OptionError, Options};
use crate::secret::{Secret, SecretError};
use crate::tls::TlsClient;

/// Each is a partition, a task, and a label in the metrics.
pub(super) const TARGETS_MAX: usize = 256;
/// Bytes of one URL.
const URL_BYTES_MAX: usize = 4 << 10;
/// Headers, and parameters, that options add to each request.
const ADDED_MAX: usize = 32;

/// What begins the keys of options that add a header or a parameter to each request.
const HEADER_PREFIX: &str = "header.";
const QUERY_PREFIX: &str = "query.";

/// Headers that we write ourselves; another value of them would break what we rely on.
const OWN_HEADERS: [&str; 14] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "accept-encoding",
    "if-none-match",
    "if-modified-since",
    "last-event-id",
    "upgrade",
    "te",
    "sec-websocket-key",
    "sec-websocket-version",
    "sec-websocket-extensions",
    "range",
];

/// What kind of URL a source takes, and how one looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Websocket,
}

impl Scheme {
    fn words(self) -> [&'static str; 2] {
        match self {
            Scheme::Http => ["http", "https"],
            Scheme::Websocket => ["ws", "wss"],
        }
    }
}

/// One place to fetch from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// As it was written: the name of its partition.
    pub(super) name: String,
    pub(super) url: Url,
}

/// Where to fetch from, and who we are there.
pub(super) struct Site {
    pub(super) targets: Vec<Target>,
    /// With TLS also where all targets are plain: a redirect may lead there.
    pub(super) dialers: Dialers,
    pub(super) clock: Arc<dyn Clock>,
    headers: Vec<(HeaderName, Secret)>,
    parameters: Vec<(String, Secret)>,
    authorization: Option<Authorization>,
}

/// What says who we are.
enum Authorization {
    Basic { username: Secret, password: Secret },
    Token { header: HeaderName, token: Secret },
}

/// What a request shows of us: read anew for each, and shown to nobody but the origin of the URL.
#[derive(Clone, Default)]
pub(super) struct Credentials {
    pub(super) headers: HeaderMap,
    pub(super) parameters: Vec<(String, String)>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

impl Site {
    /// Takes the options: `url`, `username` and `password` or `token`, `header.*`, `query.*`, `tls.*`.
    pub(super) fn take(options: &mut Options, scheme: Scheme, context: &Context) -> Result<Site, OptionError> {
        let base_dir = &context.base_dir;
        let targets = parse_targets(&options.require("url")?, scheme)?;
        if targets.iter().all(|target| target.url.scheme() == scheme.words()[0]) {
            TlsClient::refuse(options, &format!("say {}:// in the url", scheme.words()[1]))?;
        }
        let tls = TlsClient::take(options, base_dir, &context.clock)?;
        for target in targets.iter().filter(|target| target.url.scheme() == scheme.words()[1]) {
            let host = target.url.host_str().unwrap_or_default().trim_matches(['[', ']']);
            tls.server_name(host).map_err(|error| OptionError::new("url", error.to_string()))?;
        }
        let authorization = take_authorization(options, base_dir)?;
        let headers = take_headers(options, base_dir)?;
        if authorization.is_some() && headers.iter().any(|(name, _)| *name == AUTHORIZATION) {
            let problem = "is made of username and password, or of the token: keep one of them";
            return Err(OptionError::new("header.authorization", problem));
        }
        let parameters = take_added(options, QUERY_PREFIX, base_dir)?;
        let dialers = Dialers::new(&context.network, tls);
        Ok(Site { targets, dialers, clock: Arc::clone(&context.clock), headers, parameters, authorization })
    }

    /// Reads who we are, as it is now. Reading a file blocks for a moment, so it is done elsewhere.
    pub(super) async fn credentials(&self) -> Result<Credentials, String> {
        let mut secrets: Vec<Secret> = self.headers.iter().map(|(_, secret)| secret.clone()).collect();
        secrets.extend(self.parameters.iter().map(|(_, secret)| secret.clone()));
        match &self.authorization {
            Some(Authorization::Basic { username, password }) => {
                secrets.extend([username.clone(), password.clone()]);
            }
            Some(Authorization::Token { token, .. }) => secrets.push(token.clone()),
            None => {}
        }
        if secrets.is_empty() {
            return Ok(Credentials::default());
        }
        let read = tokio::task::spawn_blocking(move || secrets.iter().map(Secret::read).collect::<Result<_, _>>());
        let values: Vec<String> = match read.await {
            Ok(values) => values.map_err(|error: SecretError| with_causes(&error))?,
            Err(error) => return Err(error.to_string()),
        };
        self.assemble(values)
    }

    fn assemble(&self, values: Vec<String>) -> Result<Credentials, String> {
        let mut values = values.into_iter();
        let mut next = || values.next().expect("a value for each secret");
        let mut credentials = Credentials::default();
        for (name, _) in &self.headers {
            credentials.headers.append(name.clone(), header_value(&next(), name.as_str())?);
        }
        credentials.parameters = self.parameters.iter().map(|(name, _)| (name.clone(), next())).collect();
        let (header, text) = match &self.authorization {
            None => return Ok(credentials),
            Some(Authorization::Basic { .. }) => {
                let username = next();
                if username.contains(':') {
                    return Err("a user name for HTTP must not have a colon: it ends the name".to_owned());
                }
                (AUTHORIZATION, format!("Basic {}", BASE64_STANDARD.encode(format!("{username}:{}", next()))))
            }
            Some(Authorization::Token { header: AUTHORIZATION, .. }) => (AUTHORIZATION, format!("Bearer {}", next())),
            Some(Authorization::Token { header, .. }) => (header.clone(), next()),
        };
        let value = header_value(&text, header.as_str())?;
        credentials.headers.append(header, value);
        Ok(credentials)
    }
}

fn header_value(text: &str, name: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::from_str(text).map_err(|_| {
        format!("the value of header {name} holds a letter that no header can have, such as a line feed")
    })?;
    value.set_sensitive(true);
    Ok(value)
}

fn take_authorization(options: &mut Options, base_dir: &Path) -> Result<Option<Authorization>, OptionError> {
    let username = options.secret(["username", "username_env", "username_file"], base_dir)?;
    let password = options.secret(["password", "password_env", "password_file"], base_dir)?;
    let token = options.secret(["token", "token_env", "token_file"], base_dir)?;
    let header = options.take("token_header").map(|name| {
        HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| OptionError::new("token_header", format!("{name:?} is not the name of a header")))
    });
    let header = header.transpose()?;
    match (username, password, token) {
        (_, _, None) if header.is_some() => Err(OptionError::new("token_header", "needs a token beside it")),
        (None, None, None) => Ok(None),
        (Some(username), Some(password), None) => Ok(Some(Authorization::Basic { username, password })),
        (None, None, Some(token)) => Ok(Some(Authorization::Token { header: header.unwrap_or(AUTHORIZATION), token })),
        (Some(_), None, None) => Err(OptionError::new("username", "needs a password beside it")),
        (None, Some(_), None) => Err(OptionError::new("password", "needs a username beside it")),
        (_, _, Some(_)) => Err(OptionError::new("token", "stands beside a username or password: keep one of them")),
    }
}

fn take_headers(options: &mut Options, base_dir: &Path) -> Result<Vec<(HeaderName, Secret)>, OptionError> {
    let mut headers = Vec::new();
    for (name, secret) in take_added(options, HEADER_PREFIX, base_dir)? {
        let key = format!("{HEADER_PREFIX}{name}");
        let Ok(header) = HeaderName::from_bytes(name.as_bytes()) else {
            return Err(OptionError::new(&key, format!("{name:?} is not the name of a header")));
        };
        if OWN_HEADERS.contains(&header.as_str()) {
            return Err(OptionError::new(&key, "is written by the source itself"));
        }
        if let Secret::Text(text) = &secret {
            header_value(text, &name).map_err(|problem| OptionError::new(&key, problem))?;
        }
        headers.push((header, secret));
    }
    Ok(headers)
}

/// Takes what one prefix adds: `header.x-api-key`, or `header.x-api-key_env`, or `header.x-api-key_file`.
fn take_added(
    options: &mut Options,
    prefix: &'static str,
    base_dir: &Path,
) -> Result<Vec<(String, Secret)>, OptionError> {
    let mut added: Vec<(String, Secret)> = Vec::new();
    for (key, rest, value) in options.take_prefixed(prefix) {
        let (name, secret) = match (rest.strip_suffix("_env"), rest.strip_suffix("_file")) {
            (Some(name), _) => (name, Secret::Environment(value)),
            (_, Some(name)) => (name, Secret::File(base_dir.join(value))),
            _ => (rest.as_str(), Secret::Text(value)),
        };
        if name.is_empty() {
            return Err(OptionError::new(&key, "has no name behind its point"));
        }
        if matches!(&secret, Secret::Environment(name) if name.is_empty() || name.contains(['=', '\0'])) {
            return Err(OptionError::new(&key, "must be the name of a variable, such as 'API_KEY'"));
        }
        if added.iter().any(|(known, _)| known.eq_ignore_ascii_case(name)) {
            return Err(OptionError::new(&key, format!("{name} is given twice")));
        }
        if added.len() == ADDED_MAX {
            return Err(OptionError::new(&key, format!("there may be {ADDED_MAX} of them at most")));
        }
        added.push((name.to_owned(), secret));
    }
    Ok(added)
}

/// Reads one URL, or several with commas between. A comma behind which no URL begins is part of one.
fn parse_targets(text: &str, scheme: Scheme) -> Result<Vec<Target>, OptionError> {
    let begins_url =
        |part: &str| part.trim_start().split_once("://").is_some_and(|(word, _)| !word.contains(['/', '?']));
    let mut urls: Vec<String> = Vec::new();
    for part in text.split(',') {
        match urls.last_mut() {
            Some(url) if !begins_url(part) => *url += &format!(",{part}"),
            _ => urls.push(part.to_owned()),
        }
    }
    let mut targets: Vec<Target> = Vec::with_capacity(urls.len());
    for url in urls {
        let target = parse_target(url.trim(), scheme).map_err(|problem| OptionError::new("url", problem))?;
        if targets.iter().any(|known| known.name == target.name) {
            return Err(OptionError::new("url", format!("{} is there twice", target.name)));
        }
        targets.push(target);
    }
    match targets.len() {
        ..=TARGETS_MAX => Ok(targets),
        count => Err(OptionError::new("url", format!("{count} targets are too many: a source takes {TARGETS_MAX}"))),
    }
}

fn parse_target(text: &str, scheme: Scheme) -> Result<Target, String> {
    let [plain, secure] = scheme.words();
    // First of all, and without repeating it: a password may stand there.
    let authority = text.split_once("://").map_or(text, |(_, rest)| rest).split(['/', '?', '#']).next();
    if authority.is_some_and(|authority| authority.contains('@')) {
        return Err(
            "credentials do not belong in the URL: use username and password, or a token, or a secret".to_owned()
        );
    }
    if text.len() > URL_BYTES_MAX {
        return Err(format!("a URL has {URL_BYTES_MAX} bytes at most"));
    }
    let example = format!("write '{plain}://host:port/path'");
    if text.chars().any(|letter| letter.is_whitespace() || letter.is_control()) {
        return Err(format!(
            "{text:?} has a space in it: with several URLs, each begins with {plain}:// or {secure}://"
        ));
    }
    let Some((word, _)) = text.split_once("://") else { return Err(format!("{text:?} is not a URL: {example}")) };
    if ![plain, secure].contains(&word.to_ascii_lowercase().as_str()) {
        return Err(format!("{word}:// is not what this connector speaks: {plain}:// or {secure}://"));
    }
    let url = Url::parse(text).map_err(|error| format!("{text:?} is not a URL ({error}): {example}"))?;
    if url.fragment().is_some() {
        return Err(format!("{text:?} has a # in it: what follows is never sent to a server"));
    }
    Ok(Target { name: text.to_owned(), url })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(text: &str) -> Result<Vec<String>, String> {
        let parsed = parse_targets(text, Scheme::Http).map_err(|error| error.to_string())?;
        Ok(parsed.into_iter().map(|target| target.name).collect())
    }

    #[test]
    fn one_url_or_several_and_a_comma_may_be_part_of_one() {
        assert_eq!(targets("http://a/x?y=1,2").unwrap(), ["http://a/x?y=1,2"]);
        assert_eq!(targets("http://a:9100/m, https://b/m").unwrap(), ["http://a:9100/m", "https://b/m"]);
        assert_eq!(targets("http://a/?u=1,http://b/").unwrap(), ["http://a/?u=1", "http://b/"]);
        let many = (0..=TARGETS_MAX).map(|n| format!("http://h{n}/")).collect::<Vec<_>>().join(",");
        for (text, words) in [
            ("", "is not a URL: write 'http://host:port/path'"),
            ("localhost:9100", "is not a URL"),
            ("http://a, b:9100/metrics", "has a space in it: with several URLs, each begins with http://"),
            ("http://a,http://a", "http://a is there twice"),
            ("ws://a", "ws:// is not what this connector speaks: http:// or https://"),
            ("http://", "is not a URL"),
            ("http://a/#x", "never sent"),
            ("http://u:secret@a/", "credentials do not belong in the URL"),
            (&many, "257 targets are too many"),
        ] {
            let problem = targets(text).expect_err(text);
            assert!(problem.contains(words) && !problem.contains("secret@"), "{text}: {problem}");
        }
        assert!(targets("http://a/?mail=x@y").is_ok(), "behind the host it is none");
    }

    /// Whatever is written, targets have a host, the scheme of the connector and no password.
    #[test]
    fn fuzz_targets() {
        tidemill_engine::testing::fuzz::fuzz(concat!(env!("CARGO_MANIFEST_DIR"), "/src/pull/corpus/url"), |input| {
            let text = String::from_utf8_lossy(input);
            let Ok(targets) = parse_targets(&text, Scheme::Websocket) else { return false };
            for Target { name, url } in &targets {
                assert!(text.contains(name) && ["ws", "wss"].contains(&url.scheme()) && url.has_host(), "{url}");
                assert!(url.username().is_empty() && url.password().is_none(), "{url}");
            }
            (1..=TARGETS_MAX).contains(&targets.len())
        });
    }
}
