//! Copying a daemon's output streams to ours: framed (stdout and stderr multiplexed, as the Engine API's
//! attach describes) or raw for a terminal.

use anyhow::{Context, Result};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::output;

/// Longest frame taken; the daemon sends far smaller ones.
const MAX_FRAME: usize = 64 << 20;

/// Copies until the end. Frames go to stdout or stderr by their first byte.
pub async fn copy(mut from: impl AsyncRead + Unpin, raw: bool) -> Result<()> {
    if raw {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let n = from.read(&mut buffer).await?;
            if n == 0 {
                return Ok(());
            }
            output::bytes(&mut std::io::stdout(), &buffer[..n])?;
        }
    }
    while let Some((error, data)) = frame(&mut from).await? {
        if error {
            output::bytes(&mut std::io::stderr(), &data)?;
        } else {
            output::bytes(&mut std::io::stdout(), &data)?;
        }
    }
    Ok(())
}

/// The next frame: whether it is of stderr, and its data.
pub async fn frame(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<(bool, Vec<u8>)>> {
    let mut header = [0; 8];
    if from.read(&mut header[..1]).await? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut header[1..]).await.context("the daemon's stream was cut off")?;
    let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
    anyhow::ensure!(length <= MAX_FRAME, "the daemon sent a frame of {length} bytes");
    let mut data = vec![0; length];
    from.read_exact(&mut data).await.context("the daemon's stream was cut off")?;
    // 3 is an error of the daemon's own in the midst of a stream.
    if header[0] == 3 {
        anyhow::bail!("error from daemon in stream: {}", String::from_utf8_lossy(&data).trim_end());
    }
    Ok(Some((header[0] == 2, data)))
}
