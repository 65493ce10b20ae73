//! A metric of a container, asked of the container itself: the text format of Prometheus, over HTTP on its own loopback
//! address.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

use crate::config::NetworkMode;
use crate::engine::Engine;
use crate::error::Error;

/// For all of it.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Most that is read of an answer.
const MOST: u64 = 4 << 20;

/// Where a container tells a metric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricSource {
    /// Its name.
    pub name: String,
    /// TCP port that the container listens on.
    pub port: u16,
    /// Path of the URL.
    pub path: String,
}

impl Engine {
    /// The present value of a container's metric, all of its series together; none if it does not tell, or does not run.
    pub async fn scrape(&self, id: &str, source: MetricSource) -> Result<Option<f64>, Error> {
        let slot = self.table().find(id)?;
        let c = slot.container();
        let Some(pid) = c.pid else { return Ok(None) };
        let own_network = c.config.network != NetworkMode::Host;
        let (told, answer) = tokio::sync::oneshot::channel();
        // A thread of its own: it goes into another network, and does not come back.
        let asks = move || {
            let found = ask(pid, own_network, &source);
            if let Err(error) = &found {
                tracing::debug!(%error, metric = source.name, "a container's metric cannot be had");
            }
            // Whoever asked may have gone.
            let _ = told.send(found.ok().flatten());
        };
        if let Err(error) = std::thread::Builder::new().name("scrape".into()).spawn(asks) {
            tracing::warn!(%error, "no thread to ask a container for its metric");
        }
        Ok(answer.await.unwrap_or_default())
    }
}

fn ask(pid: u32, own_network: bool, source: &MetricSource) -> std::io::Result<Option<f64>> {
    if own_network {
        setns(File::open(format!("/proc/{pid}/ns/net"))?, CloneFlags::CLONE_NEWNET)?;
    }
    let deadline = Instant::now() + TIMEOUT;
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, source.port));
    let mut stream = TcpStream::connect_timeout(&addr, TIMEOUT)?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    // HTTP/1.0: the answer comes in one piece, and ends with the connection.
    let path = if source.path.is_empty() { "/metrics" } else { &source.path };
    let accept = "Accept: text/plain; version=0.0.4\r\nUser-Agent: skep\r\n";
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost:{}\r\n{accept}\r\n", source.port)?;
    let (mut answer, mut piece) = (Vec::new(), [0; 16384]);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || answer.len() as u64 > MOST {
            return Ok(None);
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece)? {
            0 => break,
            n => answer.extend_from_slice(&piece[..n]),
        }
    }
    Ok(value(&String::from_utf8_lossy(&answer), &source.name))
}

/// The sum of a metric's series in an answer with status 200.
fn value(answer: &str, name: &str) -> Option<f64> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.split_whitespace().nth(1).filter(|status| *status == "200")?;
    let one = |line: &str| {
        let rest = line.trim_start().strip_prefix(name)?;
        let rest = match rest.strip_prefix('{') {
            // A brace may stand in the value of a label: the last one ends them.
            Some(labels) => &labels[labels.rfind('}')? + 1..],
            None => rest.starts_with([' ', '\t']).then_some(rest)?,
        };
        rest.split_whitespace().next()?.parse::<f64>().ok().filter(|n| n.is_finite())
    };
    let found: Vec<f64> = body.lines().filter_map(one).collect();
    (!found.is_empty()).then(|| found.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_series_of_a_metric_are_summed() {
        let body = "# HELP queue How much waits.\n# TYPE queue gauge\nqueue{name=\"a}b\",x=\"1\"} 3\nqueue{name=\"c\"} 1.5 1700000000\n\
                    queue_total 90\nload 0.25\nbad NaN\n";
        let answer = |status: &str| format!("HTTP/1.0 {status}\r\nContent-Type: text/plain\r\n\r\n{body}");
        assert_eq!(value(&answer("200 OK"), "queue"), Some(4.5));
        assert_eq!(value(&answer("200 OK"), "load"), Some(0.25));
        assert_eq!(value(&answer("200 OK"), "que"), None);
        assert_eq!(value(&answer("200 OK"), "bad"), None);
        assert_eq!(value(&answer("404 Not Found"), "queue"), None);
        assert_eq!(value("nonsense", "queue"), None);
    }
}
