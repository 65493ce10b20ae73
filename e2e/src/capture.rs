//! Watching what crosses a host's network card.

use std::path::PathBuf;
use std::process::{Child, Stdio};

use anyhow::{Result, ensure};

use crate::swarm::{LONG, path};
use crate::{Host, eventually};

/// A running tcpdump. Ends when dropped.
pub struct Capture {
    tcpdump: Child,
    file: PathBuf,
}

impl Capture {
    /// Begins; from here on nothing is missed. `filter` is pcap-filter(7)'s.
    pub fn start(host: &Host, filter: &str) -> Result<Self> {
        let file = host.dir.join("capture.pcap");
        let tcpdump = host
            .command("tcpdump")?
            .args(["-i", "eth0", "-U", "-s", "0", "-w", path(&file), filter])
            .stderr(Stdio::null())
            .spawn()?;
        let capture = Self { tcpdump, file };
        eventually("tcpdump is ready", LONG, || {
            std::fs::metadata(&capture.file)?;
            Ok(())
        })?;
        Ok(capture)
    }

    /// Ends it; what was captured, which must be more than a few packets.
    pub fn bytes(mut self) -> Result<Vec<u8>> {
        eventually("the capture has packets", LONG, || {
            ensure!(std::fs::metadata(&self.file)?.len() > 1000);
            Ok(())
        })?;
        self.tcpdump.kill()?;
        self.tcpdump.wait()?;
        Ok(std::fs::read(&self.file)?)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // One that `bytes` has ended is not there any more.
        let _ = self.tcpdump.kill();
        let _ = self.tcpdump.wait();
    }
}
