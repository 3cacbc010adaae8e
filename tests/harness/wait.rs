//! Patience with a limit: polls until something is so.

use std::time::{Duration, Instant};

/// Time between two looks.
const POLL: Duration = Duration::from_millis(20);
/// How many times its limit [`while_it_moves`] waits at the most.
const MOVES_MAX: u32 = 10;

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

/// Like [`eventually`], but the limit begins anew whenever `look` sees something else: on a starved machine everything is slow,
/// and only standing still is a failure. Ten times the limit is the end all the same.
pub(crate) async fn while_it_moves<T, S: PartialEq>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Result<T, S>,
) -> T {
    let begin = Instant::now();
    let mut seen: Option<(S, Instant)> = None;
    loop {
        let now = match look().await {
            Ok(found) => return found,
            Err(now) => now,
        };
        let since = match seen.take() {
            Some((before, since)) if before == now => since,
            _ => Instant::now(),
        };
        assert!(since.elapsed() < limit, "nothing moved for {limit:?}: {what}");
        assert!(begin.elapsed() < limit * MOVES_MAX, "not within {:?}: {what}", limit * MOVES_MAX);
        seen = Some((now, since));
        tokio::time::sleep(POLL).await;
    }
}
