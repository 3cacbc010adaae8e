//! The body of a request as it is sent: counted while it is read.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::{Kind, Problem};

/// Bytes of a body as it is sent.
pub const SENT_BYTES_MAX: usize = 8 << 20;
/// Once this part of a body has come, its announced length is believed, and it is not moved any more while it grows.
const BELIEVED_PART: usize = 16;

/// A share of the memory for bodies, which grows with the body and is given back when it is dropped.
pub(super) struct Reservation {
    semaphore: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Reservation {
    pub(super) fn new(semaphore: Arc<Semaphore>) -> Self {
        Reservation { semaphore, permit: None }
    }

    /// Takes the share out, to be given to whoever works on the body.
    pub(super) fn take(&mut self) -> Reservation {
        std::mem::replace(self, Reservation::new(Arc::clone(&self.semaphore)))
    }

    /// Takes a larger share, or refuses: nobody waits for memory that others hold.
    pub(super) fn grow_by(&mut self, bytes: usize) -> Result<(), Problem> {
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        let more = Arc::clone(&self.semaphore).try_acquire_many_owned(kib).map_err(|_| {
            Problem::new(Kind::Busy, "too many bytes of other requests are in flight; nothing was stored")
        })?;
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            None => self.permit = Some(more),
        }
        Ok(())
    }
}

/// Refuses a body by what its head says about its length.
pub(super) fn check_length(headers: &HeaderMap) -> Result<(), Problem> {
    match content_length(headers) {
        Some(length) if length > SENT_BYTES_MAX as u64 => Err(too_large(&format!("{length} bytes"))),
        _ => Ok(()),
    }
}

/// Reads a whole body, within a time.
pub(super) async fn read(
    body: Body,
    headers: &HeaderMap,
    time_max: Duration,
    reservation: &mut Reservation,
) -> Result<Bytes, Problem> {
    let length = content_length(headers).and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
    match tokio::time::timeout(time_max, collect(body, length, reservation)).await {
        Ok(read) => read,
        Err(_) => Err(Problem::new(
            Kind::SlowBody,
            format!("the body was not complete after {time_max:?}; nothing was stored"),
        )),
    }
}

async fn collect(mut body: Body, length: usize, reservation: &mut Reservation) -> Result<Bytes, Problem> {
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Problem::new(Kind::BrokenBody, format!("the body broke off: {error}; nothing was stored"))
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + all.len() + data.len() > SENT_BYTES_MAX {
            return Err(too_large("more"));
        }
        reservation.grow_by(data.len())?;
        // Most bodies come in one piece, which is not copied.
        if first.is_empty() && all.is_empty() {
            first = data;
        } else {
            all.extend_from_slice(&std::mem::take(&mut first));
            if all.len() >= length / BELIEVED_PART {
                // At most what was checked: a body that is longer than it says breaks off.
                all.reserve(length.saturating_sub(all.len()));
            }
            all.extend_from_slice(&data);
        }
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}

fn too_large(what: &str) -> Problem {
    Problem::new(
        Kind::TooLarge,
        format!("a body may have {} MiB as it is sent, this one has {what}; nothing was stored", SENT_BYTES_MAX >> 20),
    )
    .hint("send fewer rows at once, or use Content-Encoding: gzip or zstd")
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
