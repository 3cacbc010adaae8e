//! The bodies of questions: read within a time, and within a share of memory that all of them have together.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use hyper::body::Body as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::problem::{Problem, ProblemKind};

/// Bytes of one body.
const BODY_BYTES_MAX: usize = 2 << 20;
/// Time in which it has to be there.
const BODY_TIME_MAX: Duration = Duration::from_secs(30);
/// Bytes of all bodies that are being read, in KiB: with one for each connection there could be gigabytes.
const BODIES_KIB_MAX: usize = 64 << 10;

/// Reads bodies. Clones share what they may hold.
#[derive(Clone, Debug)]
pub(super) struct Bodies {
    pub(super) time_max: Duration,
    pub(super) kib: Arc<Semaphore>,
}

impl Default for Bodies {
    fn default() -> Self {
        Bodies { time_max: BODY_TIME_MAX, kib: Arc::new(Semaphore::new(BODIES_KIB_MAX)) }
    }
}

impl Bodies {
    /// Reads a whole body.
    ///
    /// # Errors
    /// It breaks off, is too big or too slow, or others have taken the memory.
    pub(super) async fn read(&self, body: Body) -> Result<Bytes, Problem> {
        let Ok(read) = tokio::time::timeout(self.time_max, self.collect(body)).await else {
            let detail = format!("the request's body was not complete after {:?}", self.time_max);
            return Err(Problem::new(ProblemKind::TooSlow, detail));
        };
        read
    }

    async fn collect(&self, mut body: Body) -> Result<Bytes, Problem> {
        // What is said to be too big is not waited for.
        check_size(body.size_hint().lower())?;
        let mut all = BytesMut::new();
        let mut share: Option<OwnedSemaphorePermit> = None;
        while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            let frame = frame.map_err(|error| {
                Problem::new(ProblemKind::BadRequest, format!("the request's body broke off: {error}"))
            })?;
            let Ok(data) = frame.into_data() else { continue };
            check_size(all.len() as u64 + data.len() as u64)?;
            let more =
                self.take(all.len() + data.len(), share.as_ref().map_or(0, OwnedSemaphorePermit::num_permits))?;
            match &mut share {
                Some(share) => share.merge(more),
                None => share = Some(more),
            }
            all.extend_from_slice(&data);
        }
        Ok(all.freeze())
    }

    /// Takes what is missing for so many bytes. Nobody waits for memory that others hold.
    fn take(&self, bytes: usize, held_kib: usize) -> Result<OwnedSemaphorePermit, Problem> {
        let missing = u32::try_from(bytes.div_ceil(1024).saturating_sub(held_kib)).unwrap_or(u32::MAX);
        Arc::clone(&self.kib).try_acquire_many_owned(missing).map_err(|_| {
            Problem::new(ProblemKind::Busy, "too many bytes of other questions are on their way")
                .with_hint("ask again in a moment")
        })
    }
}

fn check_size(bytes: u64) -> Result<(), Problem> {
    if bytes <= BODY_BYTES_MAX as u64 {
        return Ok(());
    }
    Err(Problem::new(ProblemKind::TooBig, format!("the request has more than {BODY_BYTES_MAX} bytes")))
}

#[cfg(test)]
mod tests {
    use axum::body::Bytes as Piece;
    use futures::{StreamExt, stream};

    use super::*;

    #[tokio::test]
    async fn bodies_that_wait_for_their_rest_hold_only_so_much_together() {
        let bodies = Bodies::default();
        let piece = Piece::from(vec![b' '; BODY_BYTES_MAX]);
        let unfinished = || {
            let first = stream::iter([Ok::<_, std::io::Error>(piece.clone())]);
            Body::from_stream(first.chain(stream::pending()))
        };
        let mut waiting: Vec<_> = (0..BODIES_KIB_MAX / (BODY_BYTES_MAX >> 10))
            .map(|_| {
                let (bodies, body) = (bodies.clone(), unfinished());
                Box::pin(async move { bodies.read(body).await })
            })
            .collect();
        for read in &mut waiting {
            assert!(futures::poll!(read.as_mut()).is_pending());
        }
        let refused = bodies.read(Body::from("x")).await.expect_err("no room");
        assert_eq!(refused.kind, ProblemKind::Busy);
        waiting.pop();
        assert_eq!(bodies.read(Body::from("x")).await.expect("room again"), "x");
    }
}
