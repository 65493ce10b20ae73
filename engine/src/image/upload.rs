//! One blob on its way to a registry: not at all if it is there, taken over from another repository if that has it,
//! else sent, and sent again after a cut connection.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use skep_registry::{Body, Session};
use tokio_util::io::ReaderStream;

use super::progress::Progress;
use super::pull::Tell;
use super::push::{Outgoing, mounted};
use crate::error::Error;

/// Attempts in all.
const ATTEMPTS: u32 = 5;
/// First pause between attempts; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(500);
/// Time between two messages of how far it has got.
const BREATH: Duration = Duration::from_millis(100);
const CHUNK: usize = 64 << 10;

pub(super) async fn send(session: &Session, layer: &Outgoing, tell: Tell<'_>) -> Result<(), Error> {
    let say = |text: String| tell(Progress::layer(&layer.diff_id, text));
    let mut pause = PAUSE;
    for attempt in 1.. {
        let e = match attempt_once(session, layer, tell).await {
            Ok(()) => return Ok(()),
            Err(e) => e,
        };
        if !e.is_passing() || attempt == ATTEMPTS {
            return Err(e.into());
        }
        let seconds = pause.as_secs_f64().ceil();
        say(format!("Retrying in {seconds} second{}", if seconds > 1.0 { "s" } else { "" }));
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    Ok(())
}

async fn attempt_once(
    session: &Session,
    layer: &Outgoing,
    tell: Tell<'_>,
) -> Result<(), skep_registry::Error> {
    let say = |text: String| tell(Progress::layer(&layer.diff_id, text));
    let (digest, size) = (&layer.descriptor.digest, layer.descriptor.size);
    if session.has_blob(digest).await? {
        say("Layer already exists".into());
        return Ok(());
    }
    let upload = match mounted(session, layer).await? {
        Ok(from) => {
            say(format!("Mounted from {}", from.trim_start_matches("library/")));
            return Ok(());
        }
        Err(upload) => upload,
    };
    let sent = Arc::new(AtomicU64::new(0));
    let body = || body(&layer.path, &sent);
    let mut sending = std::pin::pin!(session.upload(upload, digest, size, &body));
    tell(Progress::bytes(&layer.diff_id, "Pushing", 0, size));
    loop {
        tokio::select! {
            ended = &mut sending => {
                ended?;
                tell(Progress::bytes(&layer.diff_id, "Pushing", size, size));
                say("Pushed".into());
                return Ok(());
            }
            () = tokio::time::sleep(BREATH) => {
                tell(Progress::bytes(&layer.diff_id, "Pushing", sent.load(Ordering::Relaxed), size));
            }
        }
    }
}

/// The file as a body that counts what was taken of it. A file that cannot be read ends the upload.
fn body(path: &Path, sent: &Arc<AtomicU64>) -> Body {
    sent.store(0, Ordering::Relaxed);
    let sent = sent.clone();
    let file = std::fs::File::open(path).map(tokio::fs::File::from_std);
    let stream = match file {
        Ok(file) => ReaderStream::with_capacity(file, CHUNK).left_stream(),
        Err(e) => futures::stream::iter([Err(e)]).right_stream(),
    };
    let frames = stream.map(move |chunk| {
        chunk.map(|bytes| {
            sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            Frame::data(bytes)
        })
    });
    BodyExt::boxed(StreamBody::new(frames))
}
