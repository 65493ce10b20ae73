//! Copying a daemon's output streams to ours: framed (stdout and stderr multiplexed, as the Engine API's
//! attach describes) or raw for a terminal.

use std::io::Write;

use anyhow::{Context, Result};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Longest frame taken; the daemon sends far smaller ones.
const MAX_FRAME: usize = 64 << 20;

/// Copies until the end. Frames go to stdout or stderr by their first byte.
pub async fn copy(mut from: impl AsyncRead + Unpin, raw: bool) -> Result<()> {
    let mut buffer = vec![0; 1 << 16];
    if raw {
        loop {
            let n = from.read(&mut buffer).await?;
            if n == 0 {
                return Ok(());
            }
            write(&mut std::io::stdout(), &buffer[..n])?;
        }
    }
    let mut header = [0; 8];
    loop {
        if from.read(&mut header[..1]).await? == 0 {
            return Ok(());
        }
        from.read_exact(&mut header[1..]).await.context("the daemon's stream was cut off")?;
        let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
        anyhow::ensure!(length <= MAX_FRAME, "the daemon sent a frame of {length} bytes");
        buffer.resize(length.max(1), 0);
        from.read_exact(&mut buffer[..length]).await.context("the daemon's stream was cut off")?;
        if header[0] == 2 {
            write(&mut std::io::stderr(), &buffer[..length])?;
        } else {
            write(&mut std::io::stdout(), &buffer[..length])?;
        }
    }
}

fn write(to: &mut impl Write, bytes: &[u8]) -> Result<()> {
    to.write_all(bytes)?;
    Ok(to.flush()?)
}
