//! `--metrics-addr`: what Prometheus asks for, at `/metrics` in the text format 0.0.4. Counters and timers are kept by
//! whoever counts; the rest is read off the state when somebody asks.

mod engine;
mod network;
mod process;
mod swarm;

use std::convert::Infallible;
use std::net::{SocketAddr, ToSocketAddrs};

use anyhow::{Context, Result, bail};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::proto::MetricFamily;
use prometheus::{Encoder, TextEncoder};
use skep_engine::Engine;
use skep_overlay::DataPlane;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::node::Node;

/// What is asked for figures.
#[derive(Clone)]
pub(super) struct Sources {
    pub engine: Engine,
    pub plane: DataPlane,
    pub node: Node,
    /// The daemon's identifier.
    pub id: String,
}

/// The addresses that `--metrics-addr` means; without a host, those of all interfaces.
pub(super) fn addresses(asked: &str) -> Result<Vec<SocketAddr>> {
    let whole = if asked.starts_with(':') { format!("0.0.0.0{asked}") } else { asked.to_owned() };
    let found: Vec<_> = whole
        .to_socket_addrs()
        .with_context(|| format!("metrics address {asked:?}: want host:port, like 127.0.0.1:9323"))?
        .collect();
    if found.is_empty() {
        bail!("metrics address {asked:?}: the name has no address");
    }
    Ok(found)
}

pub(super) async fn listen(asked: &str) -> Result<TcpListener> {
    let listener = TcpListener::bind(&*addresses(asked)?).await;
    listener.with_context(|| format!("serve metrics at {asked}"))
}

/// Serves until `stop`.
pub(super) async fn serve(listener: TcpListener, sources: Sources, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let (sources, stop) = (sources.clone(), stop.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = converse(stream, sources) => {}
                        () = stop.cancelled() => {}
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection for metrics");
                // Out of descriptors, usually: others are to close some first.
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, sources: Sources) {
    let service = hyper::service::service_fn(move |request| answer(request, sources.clone()));
    let mut http = hyper::server::conn::http1::Builder::new();
    // A client that sends nothing is let go of after hyper's 30 s.
    let served = http.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection for metrics has ended");
    }
}

async fn answer(request: Request<Incoming>, sources: Sources) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::default();
    let headers = response.headers_mut();
    if request.uri().path() != "/metrics" {
        *response.status_mut() = StatusCode::NOT_FOUND;
        *response.body_mut() = Full::from("404 page not found\n");
    } else if !matches!(*request.method(), Method::GET | Method::HEAD) {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    } else {
        match text(&sources).await {
            Ok(text) => {
                let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                headers.insert(CONTENT_TYPE, kind);
                *response.body_mut() = Full::from(text);
            }
            Err(error) => {
                tracing::error!(%error, "the metrics cannot be gathered");
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                *response.body_mut() = Full::from(format!("the metrics cannot be gathered: {error}\n"));
            }
        }
    }
    Ok(response)
}

/// Everything, by name.
async fn text(sources: &Sources) -> Result<Vec<u8>, prometheus::Error> {
    let mut families = sources.engine.metrics().registry().gather();
    families.extend(engine::read(sources)?);
    families.extend(network::read(&sources.plane).await?);
    families.extend(swarm::read(&sources.node).await?);
    families.extend(process::read()?);
    // A family without a member has nothing to say, and no form.
    families.retain(|f| !f.get_metric().is_empty());
    families.sort_by(|a, b| a.name().cmp(b.name()));
    let mut out = Vec::new();
    TextEncoder::new().encode(&families, &mut out)?;
    Ok(out)
}

/// Gauges and counters of one scrape.
#[derive(Default)]
struct Snapshot(prometheus::Registry);

impl Snapshot {
    fn gauge(&self, name: &str, help: &str, value: f64) -> Result<(), prometheus::Error> {
        let gauge = prometheus::Gauge::new(name, help)?;
        gauge.set(value);
        self.0.register(Box::new(gauge))
    }

    fn counter(&self, name: &str, help: &str, value: f64) -> Result<(), prometheus::Error> {
        let counter = prometheus::Counter::new(name, help)?;
        counter.inc_by(value);
        self.0.register(Box::new(counter))
    }

    /// A gauge for each value of one label.
    fn gauges<'a>(
        &self,
        (name, help, label): (&str, &str, &str),
        values: impl IntoIterator<Item = (&'a str, f64)>,
    ) -> Result<(), prometheus::Error> {
        let family = prometheus::GaugeVec::new(prometheus::Opts::new(name, help), &[label])?;
        for (of, value) in values {
            family.get_metric_with_label_values(&[of])?.set(value);
        }
        self.0.register(Box::new(family))
    }

    /// A counter for each value of one label.
    fn counters<'a>(
        &self,
        (name, help, label): (&str, &str, &str),
        values: impl IntoIterator<Item = (&'a str, f64)>,
    ) -> Result<(), prometheus::Error> {
        let family = prometheus::CounterVec::new(prometheus::Opts::new(name, help), &[label])?;
        for (of, value) in values {
            family.get_metric_with_label_values(&[of])?.inc_by(value);
        }
        self.0.register(Box::new(family))
    }

    /// A gauge that is 1 and has its information in its labels.
    fn info(&self, name: &str, help: &str, labels: &[(&str, &str)]) -> Result<(), prometheus::Error> {
        let (names, values): (Vec<&str>, Vec<&str>) = labels.iter().copied().unzip();
        let family = prometheus::GaugeVec::new(prometheus::Opts::new(name, help), &names)?;
        family.get_metric_with_label_values(&values)?.set(1.0);
        self.0.register(Box::new(family))
    }

    fn families(&self) -> Vec<MetricFamily> {
        self.0.gather()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_resolved_and_bad_ones_named() {
        assert_eq!(addresses(":9323").expect("address"), ["0.0.0.0:9323".parse().expect("address")]);
        assert!(!addresses("localhost:1").expect("address").is_empty());
        for bad in ["9323", "127.0.0.1", "127.0.0.1:http", ""] {
            let error = format!("{:#}", addresses(bad).expect_err("bad"));
            assert!(error.contains(&format!("{bad:?}")), "{error}");
        }
    }
}
