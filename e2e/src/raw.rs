//! Requests as no client sends them, to a host's API socket: for the status and headers of an answer, and for
//! what `docker` itself would not let through.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::Host;

/// An answer of the API.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Header lines.
    pub headers: String,
    /// Body.
    pub body: String,
}

impl Host {
    /// Sends one request to the API socket.
    pub fn request(&self, method: &str, path: &str, body: &str) -> Result<Answer> {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-i", "--max-time", "30", "-X", method, "--unix-socket"]).arg(self.socket());
        curl.args(["-H", "Content-Type: application/json", "-H", "Expect:", "--data-binary", "@-"]);
        curl.arg(format!("http://skep{path}")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut curl = curl.spawn().context("run curl")?;
        curl.stdin.take().context("curl's input")?.write_all(body.as_bytes())?;
        let output = curl.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let (headers, body) = text
            .split_once("\r\n\r\n")
            .with_context(|| format!("{method} {path}: no answer ({text:?}, {})", output.status))?;
        let status = headers.split_whitespace().nth(1).and_then(|s| s.parse().ok());
        let status = status.with_context(|| format!("{method} {path}: {headers}"))?;
        Ok(Answer { status, headers: headers.to_owned(), body: body.to_owned() })
    }
}
