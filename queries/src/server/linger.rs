//! Reading on when the answer is clear already: a request that is refused by its head has a body on its way.
//!
//! A connection that is closed while its client still sends is reset by the system, and with it goes the answer: the client
//! sees a broken pipe where it was told 413, and sends the same again for ever. So what is left of a body that nobody wants is
//! read and thrown away, within bounds. A client that waits for `100 Continue` has sent nothing, and is not waited for.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header;
use axum::middleware;
use bytes::Bytes;
use hyper::body::{Body as _, Frame, SizeHint};
use tokio::runtime::Handle;

/// Bytes of an unwanted body that are thrown away; a client that sends more has to live with the reset.
const LINGER_BYTES_MAX: usize = 64 << 20;
/// How long a connection is kept for it.
const LINGER_TIME_MAX: Duration = Duration::from_secs(5);

/// Makes the bodies of all requests of these routes linger.
pub(super) fn over(router: Router) -> Router {
    router.layer(middleware::map_request(async |request: Request| {
        if request.headers().contains_key(header::EXPECT) || request.body().is_end_stream() {
            return request;
        }
        request.map(|body| Body::new(Lingering { rest: Some(body) }))
    }))
}

/// A body whose rest is read when nobody wants it.
struct Lingering {
    /// `None` when it has ended or broken off.
    rest: Option<Body>,
}

impl hyper::body::Body for Lingering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(rest) = &mut self.rest else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(rest).poll_frame(context));
        if !matches!(frame, Some(Ok(_))) {
            self.rest = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.rest.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let Some(rest) = self.rest.take().filter(|rest| !rest.is_end_stream()) else { return };
        // Without a runtime there is no connection either.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(tokio::time::timeout(LINGER_TIME_MAX, throw_away(rest)));
        }
    }
}

async fn throw_away(mut body: Body) {
    let mut bytes = 0;
    while bytes < LINGER_BYTES_MAX
        && let Some(Ok(frame)) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
    {
        bytes += frame.data_ref().map_or(0, Bytes::len);
    }
}
