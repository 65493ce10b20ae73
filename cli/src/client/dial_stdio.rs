//! `system dial-stdio`: the daemon's socket on our standard streams, for a client on another host that came by ssh.

use anyhow::Result;
use tokio::io::AsyncWriteExt;

use super::api::Api;

/// Copies both ways until the daemon closes.
pub async fn run(api: &Api) -> Result<()> {
    let (mut from, mut to) = tokio::io::split(api.dial().await?);
    let sent = async {
        let copied = tokio::io::copy(&mut tokio::io::stdin(), &mut to).await;
        // The daemon may have more to say to a client that has said everything.
        to.shutdown().await.and(copied)
    };
    let received = async {
        let mut out = tokio::io::stdout();
        let copied = tokio::io::copy(&mut from, &mut out).await;
        out.flush().await.and(copied)
    };
    tokio::pin!(sent, received);
    tokio::select! {
        done = &mut received => done?,
        done = &mut sent => done.and(received.await)?,
    };
    Ok(())
}
