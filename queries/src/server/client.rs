//! The client of the service: `tidemill sql` without `--data`.

use std::io::{self, Write};
use std::time::Duration;

use reqwest::header;
use tidemill_engine::source::BoxFuture;

use crate::answer::AnswerFormat;
use crate::problem::Problem;

/// Time to connect; an answer may take as long as the server lets it.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// Bytes of an error's body that are read.
const ERROR_BYTES_MAX: usize = 64 << 10;

/// Why a server gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is none.
    #[error("{url:?} is not the address of a server; it looks like http://127.0.0.1:8433")]
    BadUrl {
        /// As it was given.
        url: String,
    },
    /// Nobody answers there.
    #[error(
        "no server answers at {url}; start one with `tidemill serve FILE.sql`, name another one with --server URL, \
         or read the tables of a folder without a server: tidemill sql --data DIR \"…\""
    )]
    NoServer {
        /// Where.
        url: String,
    },
    /// The server refuses the question.
    #[error("{0}")]
    Refused(Problem),
    /// Something answers that is not tidemill.
    #[error("{url} answers with {status}, not as a tidemill server would: {body}")]
    NotTidemill {
        /// Where.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The beginning of what it says.
        body: String,
    },
    /// The answer has no end.
    #[error("the answer of {url} broke off: {problem}; what was printed is not all of it")]
    BrokenOff {
        /// Where.
        url: String,
        /// Why, as far as this side knows.
        problem: String,
    },
    /// The answer cannot be written.
    #[error("cannot write the answer")]
    Output(#[from] io::Error),
}

/// Asks a running server and writes its answer, as it comes, in a format.
pub fn query_server<'a>(
    url: &'a str,
    sql: &'a str,
    format: AnswerFormat,
    out: &'a mut (dyn Write + Send),
) -> BoxFuture<'a, Result<(), ClientError>> {
    Box::pin(ask(url, sql, format, out))
}

async fn ask(url: &str, sql: &str, format: AnswerFormat, out: &mut (dyn Write + Send)) -> Result<(), ClientError> {
    let base = base_url(url)?;
    // Proxies are for the network outside; a server on loopback is never behind one.
    let client = reqwest::Client::builder()
        .no_proxy()
        .connect_timeout(CONNECT_TIME_MAX)
        .build()
        .map_err(|error| ClientError::BrokenOff { url: base.clone(), problem: error.to_string() })?;
    let request = client
        .post(format!("{base}/api/v1/query"))
        .header(header::ACCEPT, format.media_type())
        .json(&serde_json::json!({ "sql": sql }));
    let mut response = request.send().await.map_err(|error| {
        if error.is_builder() {
            ClientError::BadUrl { url: url.to_owned() }
        } else if error.is_connect() {
            ClientError::NoServer { url: base.clone() }
        } else {
            ClientError::BrokenOff { url: base.clone(), problem: error.to_string() }
        }
    })?;
    if !response.status().is_success() {
        return Err(refusal(&base, response).await);
    }
    let broken_off = |error: reqwest::Error| ClientError::BrokenOff { url: base.clone(), problem: error.to_string() };
    while let Some(bytes) = response.chunk().await.map_err(broken_off)? {
        out.write_all(&bytes)?;
    }
    out.flush()?;
    Ok(())
}

/// Checks the address and adds what people leave away.
fn base_url(url: &str) -> Result<String, ClientError> {
    let bad = || ClientError::BadUrl { url: url.to_owned() };
    let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let parsed = reqwest::Url::parse(&full).map_err(|_| bad())?;
    // There is no TLS in this version: an https address would fail later, with less to say.
    if parsed.scheme() != "http" { Err(bad()) } else { Ok(full.trim_end_matches('/').to_owned()) }
}

async fn refusal(url: &str, mut response: reqwest::Response) -> ClientError {
    let status = response.status().as_u16();
    let mut body = Vec::new();
    while body.len() < ERROR_BYTES_MAX {
        match response.chunk().await {
            Ok(Some(bytes)) => body.extend_from_slice(&bytes),
            Ok(None) | Err(_) => break,
        }
    }
    match Problem::from_json(&body) {
        Some(problem) => ClientError::Refused(problem),
        None => {
            let body: String = String::from_utf8_lossy(&body).chars().take(200).collect();
            ClientError::NotTidemill { url: url.to_owned(), status, body }
        }
    }
}
