//! What is kept of a session at the broker from one start to the next: whose it is, and what it is subscribed to.
//!
//! ```text
//!   sources/<source>/subscribed[-<member>]        host:port client-id ⏎ what is subscribed, or nothing yet, or `lost`
//!                                                                      └ [`asking` ⏎] QoS ⏎ filter ⏎ filter …
//! ```
//!
//! It is written before the first SUBSCRIBE of a session, so that a session which may hold messages of ours is never taken for
//! a stranger's and thrown away.

use std::sync::Arc;

use tidemill_engine::storage::{Storage, StorageError};
use tracing::warn;

/// Where it is kept.
pub(super) struct Record {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) path: String,
    /// The session: `host:port client-id`.
    pub(super) session: String,
}

/// What is known of the session at the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// This source never had one: what the broker may have under our client id is not ours.
    Never,
    /// It had one under another address or client id. What the broker has under this one may be ours: brokers move.
    Elsewhere,
    /// It has one, with this subscription if it came so far.
    Here(Option<String>),
    /// It has one with this subscription, unless the broker lost it: a CONNECT may have left whose answer is not known.
    Asking(String),
    /// It had one, and the broker has lost it, which ended the source: what the log remembers of it is void.
    Lost,
}

/// What stands in place of a subscription after a loss; a subscription begins with a digit.
const LOST: &str = "lost";
/// What stands before a subscription while a CONNECT may be without an answer.
const ASKING: &str = "asking\n";

impl Known {
    /// Says whether the broker should have a session of ours.
    pub(super) fn is_here(&self) -> bool {
        matches!(self, Known::Here(_) | Known::Asking(_))
    }

    /// Returns the filters that the session is subscribed to.
    pub(super) fn filters(&self) -> impl Iterator<Item = String> {
        let text = match self {
            Known::Here(Some(subscribed)) | Known::Asking(subscribed) => subscribed.as_str(),
            _ => "",
        };
        text.lines().skip(1).map(str::to_owned)
    }

    /// Says whether the session is subscribed to this, for certain.
    pub(super) fn is_subscribed(&self, wanted: &str) -> bool {
        matches!(self, Known::Here(Some(subscribed)) if subscribed == wanted)
    }
}

impl Record {
    pub(super) async fn load(&self) -> Known {
        let (storage, path) = (Arc::clone(&self.storage), self.path.clone());
        match tokio::task::spawn_blocking(move || storage.get(&path)).await {
            Ok(Ok(bytes)) => {
                let text = String::from_utf8_lossy(&bytes);
                match text.split_once('\n') {
                    Some((session, "")) if session == self.session => Known::Here(None),
                    Some((session, LOST)) if session == self.session => Known::Lost,
                    Some((session, subscribed)) if session == self.session => match subscribed.strip_prefix(ASKING) {
                        Some(subscribed) => Known::Asking(subscribed.to_owned()),
                        None => Known::Here(Some(subscribed.to_owned())),
                    },
                    _ => Known::Elsewhere,
                }
            }
            Ok(Err(StorageError::Missing { .. })) => Known::Never,
            Ok(Err(error)) => {
                warn!(path = %self.path, %error, "cannot read what was subscribed; subscribing again");
                Known::Elsewhere
            }
            // The runtime is going down.
            Err(_) => Known::Elsewhere,
        }
    }

    /// Writes it, and waits until it is durable.
    pub(super) async fn store(&self, known: &Known) -> Result<(), String> {
        self.storing(known).await.map_err(|error| format!("cannot note the session: {error}"))
    }

    /// Removes it: there is no session any more.
    pub(super) async fn remove(&self) {
        let (storage, path) = (Arc::clone(&self.storage), self.path.clone());
        let removed = tokio::task::spawn_blocking(move || storage.delete(&path)).await;
        if let Ok(Err(error)) = removed {
            warn!(path = %self.path, %error, "cannot remove the note of a session");
        }
    }

    /// Writes it in the background: without it the next start only subscribes once more.
    pub(super) fn store_later(&self, subscribed: &str) {
        let writing = self.storing(&Known::Here(Some(subscribed.to_owned())));
        let path = self.path.clone();
        tokio::spawn(async move {
            if let Err(error) = writing.await {
                warn!(path, error, "cannot note what was subscribed");
            }
        });
    }

    fn storing(&self, known: &Known) -> impl Future<Output = Result<(), String>> + Send + 'static {
        let (storage, path) = (Arc::clone(&self.storage), self.path.clone());
        let (before, state) = match known {
            Known::Here(Some(subscribed)) => ("", subscribed.as_str()),
            Known::Asking(subscribed) => (ASKING, subscribed.as_str()),
            Known::Lost => ("", LOST),
            _ => ("", ""),
        };
        let text = format!("{}\n{before}{state}", self.session);
        let writing = tokio::task::spawn_blocking(move || storage.put(&path, text.as_bytes()));
        async move {
            match writing.await {
                Ok(written) => written.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            }
        }
    }
}
