//! Patience with a limit: polls until something is so.

use std::time::{Duration, Instant};

/// Time between two looks.
const POLL: Duration = Duration::from_millis(20);

/// Looks again and again until `look` returns something; panics with `what` after `limit`.
pub(crate) async fn eventually<T>(what: &str, limit: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begin.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(POLL).await;
    }
}
