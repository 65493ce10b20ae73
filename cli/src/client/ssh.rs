//! `ssh://[user@]host[:port][/socket]`: a daemon on another host, by way of its own client's `system dial-stdio`, which
//! joins ssh's standard streams with the daemon's socket.

use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll, ready};

use anyhow::{Result, bail};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::process::{ChildStdin, ChildStdout, Command};
use tokio::sync::oneshot;

/// What ssh is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    user: Option<String>,
    host: String,
    port: Option<u16>,
    /// The daemon's socket there, where it is not the usual one.
    socket: Option<String>,
}

impl Target {
    fn parse(url: &str) -> Result<Self> {
        let bad = |why: String| anyhow::anyhow!("ssh host connection is not valid: invalid SSH URL: {why}");
        let Some(rest) = url.strip_prefix("ssh://") else { bail!(bad("no ssh scheme".into())) };
        let (rest, query) = rest.split_once('?').map_or((rest, None), |(r, q)| (r, Some(q)));
        if let Some(query) = query {
            bail!(bad(format!("query parameters are not allowed: {query:?}")));
        }
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        if user.is_some_and(|u| u.contains(':')) {
            bail!(bad("plain-text password is not supported".into()));
        }
        let (host, port) = match host.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                let port = port.parse().map_err(|_| bad(format!("port {port:?} is no number")))?;
                (host, Some(port))
            }
            _ => (host, None),
        };
        let host = host.trim_matches(['[', ']']);
        if host.is_empty() {
            bail!(bad("hostname is empty".into()));
        }
        Ok(Self {
            user: user.filter(|u| !u.is_empty()).map(str::to_owned),
            host: host.to_owned(),
            port,
            socket: Some(path).filter(|p| !matches!(*p, "" | "/")).map(str::to_owned),
        })
    }

    /// Arguments of ssh, as Docker's client gives them.
    fn args(&self) -> Vec<String> {
        let mut args: Vec<String> = ["-o", "ConnectTimeout=30", "-T"].map(str::to_owned).into();
        args.extend(self.user.iter().flat_map(|u| ["-l".to_owned(), u.clone()]));
        args.extend(self.port.iter().flat_map(|p| ["-p".to_owned(), p.to_string()]));
        args.extend(["--".to_owned(), self.host.clone(), "skep".to_owned()]);
        // Over there a shell reads it.
        let quoted = |s: &String| ["--host".to_owned(), format!("'unix://{}'", s.replace('\'', r"'\''"))];
        args.extend(self.socket.iter().flat_map(quoted));
        args.extend(["system", "dial-stdio"].map(str::to_owned));
        args
    }
}

/// Refuses a URL that nothing can be reached by.
pub fn check(url: &str) -> Result<()> {
    Target::parse(url).map(drop)
}

/// Connects.
pub fn connect(url: &str) -> Result<Tunnel> {
    let args = Target::parse(url)?.args();
    let spawned = Command::new("ssh")
        .args(&args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // The user's ctrl-C is the client's to handle.
        .process_group(0)
        .spawn();
    let mut child = match spawned {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            bail!("host {url:?} is reached by ssh, which is not on PATH: install OpenSSH's client")
        }
        other => other?,
    };
    let (Some(to), Some(from), Some(mut errors)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        bail!("ssh has no standard streams");
    };
    let (tell, ended) = oneshot::channel();
    tokio::spawn(async move {
        let mut said = Vec::new();
        // What cannot be read is not said.
        let _ = errors.read_to_end(&mut said).await;
        let status = child.wait().await.map_or_else(|e| e.to_string(), |s| s.to_string());
        let status = status.replacen("exit status:", "exit status", 1);
        let _ = tell.send(format!(
            "command [ssh {}] has exited with {status}, make sure the URL is valid, and that skep is installed on the remote host: stderr={}",
            args.join(" "),
            String::from_utf8_lossy(&said)
        ));
    });
    Ok(Tunnel { to, from, ended: Some(ended) })
}

/// A connection through ssh. It fails with what ssh said if it ends before the daemon said anything.
pub struct Tunnel {
    to: ChildStdin,
    from: ChildStdout,
    /// Until the first byte.
    ended: Option<oneshot::Receiver<String>>,
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.from).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.ended = None;
        }
        match &mut self.ended {
            None => Poll::Ready(Ok(())),
            Some(ended) => {
                let why = ready!(Pin::new(ended).poll(cx)).unwrap_or_else(|_| "ssh is gone".into());
                self.ended = None;
                Poll::Ready(Err(std::io::Error::other(why)))
            }
        }
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        match ready!(Pin::new(&mut self.to).poll_write(cx, buf)) {
            // Reading tells why.
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Poll::Ready(Ok(buf.len())),
            other => Poll::Ready(other),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.to).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.to).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_become_arguments_of_ssh_or_say_what_is_wrong() {
        let args = |url: &str| Target::parse(url).map(|t| t.args().join(" ")).map_err(|e| e.to_string());
        let begin = "-o ConnectTimeout=30 -T";
        assert_eq!(args("ssh://h").expect("url"), format!("{begin} -- h skep system dial-stdio"));
        assert_eq!(
            args("ssh://u@h:22/run/x.sock").expect("url"),
            format!("{begin} -l u -p 22 -- h skep --host 'unix:///run/x.sock' system dial-stdio")
        );
        assert_eq!(
            args("ssh://[::1]:7/").expect("url"),
            format!("{begin} -p 7 -- ::1 skep system dial-stdio")
        );
        for (url, why) in [
            ("ssh://", "hostname is empty"),
            ("ssh://a:pw@b", "plain-text password is not supported"),
            ("ssh://a?x=y", "query parameters are not allowed: \"x=y\""),
            ("ssh://a:b", "port \"b\" is no number"),
        ] {
            let error = args(url).expect_err(url);
            assert!(error.ends_with(&format!("invalid SSH URL: {why}")), "{error}");
        }
    }
}
