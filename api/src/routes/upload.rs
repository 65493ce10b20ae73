//! A body that nobody reads to its end: a client that is answered, or hung up on, while it still writes may see a
//! broken pipe and not the answer. So what a handler leaves is read and thrown away, while the answer goes out.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::header;
use futures::StreamExt;
use hyper::body::{Frame, SizeHint};

/// A body that is read to its end even if its owner drops it before.
pub(super) struct Upload {
    body: Body,
    /// The client waits for our word before it sends anything, and has not got it.
    waiting: bool,
}

/// The same request, with such a body.
pub(super) fn guarded(request: Request) -> Request {
    let waiting = request.headers().contains_key(header::EXPECT);
    request.map(|body| Body::new(Upload { body, waiting }))
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.waiting = false;
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.body = Body::empty();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.waiting || self.body.is_end_stream() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let mut rest = std::mem::take(&mut self.body).into_data_stream();
        // It ends with the connection: by the client's last byte, or when it has read its answer and leaves.
        runtime.spawn(async move { while let Some(Ok(_)) = rest.next().await {} });
    }
}
