//! A look at a URL: what it answers, before anybody has decided how to read it.

use std::time::Duration;

use bytes::Bytes;
use hyper::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, HeaderValue};
use tokio::time::timeout;

use super::fetch::get;
use super::site::{Scheme, Site};
use crate::Context;
use crate::options::{OptionError, Options};

/// How long a look may take.
const LOOK_MAX: Duration = Duration::from_secs(15);
/// Bytes of an answer that is looked at.
const ANSWER_BYTES_MAX: usize = super::poll::BODY_BYTES_MAX;

/// What a URL answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// An event stream, which has no end.
    Stream,
    /// An answer.
    Answer {
        /// What the server says that it is, without its parameters; empty if it says nothing.
        content_type: String,
        /// What it is.
        body: Bytes,
    },
}

/// Why there is nothing to look at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookError {
    /// The options are wrong.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// It did not answer.
    #[error("{0}")]
    NoAnswer(String),
}

/// Asks for a URL once. The options are those of a source that fetches: `url` and who we are.
///
/// # Errors
/// If the options are wrong, or if it does not answer with success.
pub async fn look(options: Options, context: &Context) -> Result<Look, LookError> {
    let mut options = options;
    let site = Site::take(&mut options, Scheme::Http, context)?;
    options.finish()?;
    let ask = [
        (
            ACCEPT,
            HeaderValue::from_static("application/json, text/plain;version=0.0.4;q=0.8, text/csv;q=0.7, */*;q=0.5"),
        ),
        (ACCEPT_ENCODING, HeaderValue::from_static("gzip")),
    ];
    let target = &site.targets[0];
    let looking = async {
        let answer = get(&site, &target.url, &ask).await?;
        if !answer.status.is_success() {
            return Err(answer.refused());
        }
        let kind = answer.header(CONTENT_TYPE).unwrap_or_default();
        let content_type = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match content_type.as_str() {
            "text/event-stream" => Ok(Look::Stream),
            _ => Ok(Look::Answer { body: answer.whole(ANSWER_BYTES_MAX).await?, content_type }),
        }
    };
    match timeout(LOOK_MAX, looking).await {
        Ok(looked) => looked.map_err(|failure| LookError::NoAnswer(failure.why)),
        Err(_) => Err(LookError::NoAnswer(format!("no answer within {LOOK_MAX:?}"))),
    }
}
