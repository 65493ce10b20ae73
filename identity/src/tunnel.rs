//! A stream of bytes within a gRPC stream of frames: both directions end by themselves, and a slow reader holds its
//! writer up, by the windows of HTTP/2.

use std::time::Duration;

use skep_proto::v1::TunnelFrame;
use skep_proto::v1::tunnel_frame::Kind;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tonic::Streaming;

/// What a tunnel holds of bytes under way, on each side and in each direction.
pub const TUNNEL_BUFFER: usize = 64 << 10;
/// Most bytes in a frame.
const PIECE: usize = 32 << 10;
/// How long the other end may take to see that both directions have ended.
const LINGER: Duration = Duration::from_secs(5);

/// Joins `io` with the frames that come `from` the other end and those that go `to` it, until both directions have
/// ended or either breaks: what is broken one way is closed both ways. `frame` makes an item of the outgoing stream.
pub async fn tunnel<T>(
    io: DuplexStream,
    mut from: Streaming<TunnelFrame>,
    to: mpsc::Sender<T>,
    frame: fn(TunnelFrame) -> T,
) {
    let (mut read, mut write) = tokio::io::split(io);
    let whole = {
        let up = async {
            let mut buffer = vec![0; PIECE];
            loop {
                let n = tokio::select! {
                    n = read.read(&mut buffer) => n.unwrap_or(0),
                    // Where nothing more is said here, nothing else would tell.
                    () = to.closed() => return false,
                };
                let kind = if n == 0 { Kind::End(true) } else { Kind::Data(buffer[..n].to_vec()) };
                if to.send(frame(TunnelFrame { kind: Some(kind) })).await.is_err() {
                    return false;
                }
                if n == 0 {
                    return true;
                }
            }
        };
        let down = async {
            loop {
                match from.message().await {
                    Ok(Some(TunnelFrame { kind: Some(Kind::Data(data)) })) => {
                        if write.write_all(&data).await.is_err() {
                            return false;
                        }
                    }
                    Ok(Some(TunnelFrame { kind: Some(Kind::End(_)) })) => {
                        // Whoever reads there may have gone already.
                        let _ = write.shutdown().await;
                        return true;
                    }
                    // Broken off, or a frame that has no place here.
                    _ => return false,
                }
            }
        };
        tokio::pin!(up, down);
        tokio::select! {
            ended = &mut up => match ended {
                true => down.await,
                false => {
                    // What has come by then is passed on all the same.
                    let _ = tokio::time::timeout(LINGER, down).await;
                    false
                }
            },
            ended = &mut down => ended && up.await,
        }
    };
    drop(to);
    if whole {
        // Leaving now would take back what is still on its way there.
        let rest = async { while let Ok(Some(_)) = from.message().await {} };
        let _ = tokio::time::timeout(LINGER, rest).await;
    }
}
