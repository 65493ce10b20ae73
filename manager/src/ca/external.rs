//! Servers that sign certificates in place of the managers: CFSSL's API, spoken over TLS that the root verifies and in
//! which this manager shows its own certificate. Requests are as Swarm makes them, with the names Skep's nodes check.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use skep_identity::{Role, external};
use skep_proto::v1;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::Status;

use super::roots::issuer;
use crate::context::Context;

/// Longest wait for one server: whoever asked waits for a write.
const LIMIT: Duration = Duration::from_secs(3);
/// Largest answer taken.
const MAX_ANSWER: usize = 1 << 20;

/// The servers that sign with the key of the root `ca_pem`.
pub(super) fn of<'a>(cluster: &'a v1::Cluster, ca_pem: &str) -> Vec<&'a v1::ExternalCa> {
    let all = cluster.spec.as_ref().map_or(&[][..], |s| &s.external_cas);
    let signs = |ca: &&v1::ExternalCa| match ca.ca_pem.as_str() {
        "" => cluster.root_ca_pem == ca_pem,
        own => skep_identity::normalized_pem(own).is_ok_and(|own| own == ca_pem),
    };
    all.iter().filter(signs).collect()
}

/// Has one of `servers` sign a node's request; what follows its certificate comes from the cluster.
pub(super) async fn sign(
    ctx: &Context,
    cluster: &v1::Cluster,
    servers: &[&v1::ExternalCa],
    csr_pem: &str,
    node: &v1::Node,
) -> Result<String, Status> {
    let (root, role) = (issuer(cluster), node.role());
    let unit = match role {
        Role::Worker => "swarm-worker",
        Role::Manager => "swarm-manager",
    };
    let body = json!({
        "certificate_request": csr_pem,
        "hosts": [cluster.id, node.id, unit],
        "subject": { "CN": node.id, "names": [{ "OU": unit, "O": cluster.id }] },
    });
    let mut failed = Vec::new();
    for server in servers {
        let signed = async {
            let certificate = ask(ctx, root, &server.url, &body).await?;
            let node_id = node.id.as_str().into();
            let expected = external::Expected { csr_pem, node_id: &node_id, role, cluster_id: &cluster.id };
            external::check(ctx.host(), &certificate, root, &expected).map_err(|e| e.to_string())
        };
        match signed.await {
            Ok(own) => {
                let rest = cluster.root_rotation.as_ref().map_or("", |r| &r.cross_signed_pem);
                return Ok(format!("{own}{rest}"));
            }
            Err(why) => {
                tracing::warn!(url = %server.url, %why, "an external CA did not sign a certificate");
                failed.push(format!("{}: {why}", server.url));
            }
        }
    }
    Err(Status::unavailable(format!("no external CA signed the certificate: {}", failed.join("; "))))
}

/// Fails unless one of the servers that sign with a root's key can be reached; `which` names the root. All are tried
/// at once: one that does not answer leaves no time for the next.
pub(super) async fn reachable(
    ctx: &Context,
    cluster: &v1::Cluster,
    ca_pem: &str,
    which: &str,
) -> Result<(), Status> {
    let mut tried = FuturesUnordered::new();
    for server in of(cluster, ca_pem) {
        tried.push(async move {
            match timeout(LIMIT, connect(ctx, ca_pem, &server.url)).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(why)) => Err(format!(" ({}: {why})", server.url)),
                Err(_) => Err(format!(" ({}: no answer within {LIMIT:?})", server.url)),
            }
        });
    }
    let mut failed = String::new();
    while let Some(outcome) = tried.next().await {
        match outcome {
            Ok(()) => return Ok(()),
            Err(why) => failed = why,
        }
    }
    Err(Status::invalid_argument(format!(
        "there must be at least one valid, reachable external CA corresponding to the {which} CA certificate{failed}"
    )))
}

async fn ask(ctx: &Context, root: &str, url: &str, body: &Value) -> Result<String, String> {
    let exchange = async {
        let (stream, url) = connect(ctx, root, url).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        let request = Request::post(url.path_and_query().map_or("/", |p| p.as_str()))
            .header(header::HOST, url.authority().map_or("", |a| a.as_str()))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.to_string())))
            .map_err(|e| e.to_string())?;
        // Ends with this future. A server may close the connection before its answer is read here.
        let mut driving = JoinSet::new();
        driving.spawn(connection);
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        Ok::<_, String>((status, body.map_err(|e| e.to_string())?.to_bytes()))
    };
    let answered = timeout(LIMIT, exchange).await.map_err(|_| format!("no answer within {LIMIT:?}"))?;
    let (status, bytes) = answered?;
    certificate(status, &bytes)
}

/// The certificate in an answer of CFSSL.
fn certificate(status: StatusCode, bytes: &[u8]) -> Result<String, String> {
    let answer: Value = serde_json::from_slice(bytes).unwrap_or_default();
    if let Some(certificate) = answer["result"]["certificate"].as_str().filter(|_| answer["success"] == true)
    {
        return Ok(certificate.to_owned());
    }
    let errors = answer["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
    let said: Vec<_> = errors.iter().filter_map(|e| e["message"].as_str()).collect();
    match said.is_empty() {
        true => Err(format!(
            "its answer ({status}) is none of CFSSL's API: is the URL that of .../api/v1/cfssl/sign?"
        )),
        false => Err(said.join(", ")),
    }
}

async fn connect(
    ctx: &Context,
    root: &str,
    url: &str,
) -> Result<(tokio_rustls::client::TlsStream<TcpStream>, Uri), String> {
    let url: Uri = url.parse().map_err(|_| "it is no URL".to_owned())?;
    let host = url.host().ok_or("the URL names no host")?.trim_matches(['[', ']']).to_owned();
    let port = url.port_u16().unwrap_or(443);
    let addrs = match host.parse() {
        Ok(addr) => vec![addr],
        Err(_) => skep_registry::resolve(&host).await?,
    };
    let addrs: Vec<_> = addrs.into_iter().map(|addr| SocketAddr::new(addr, port)).collect();
    let stream = TcpStream::connect(&addrs[..]).await.map_err(|e| e.to_string())?;
    let (config, name) = external::tls(&ctx.identity, root, &host).map_err(|e| e.to_string())?;
    let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await;
    Ok((stream.map_err(|e| e.to_string())?, url))
}

/// Refuses what cannot be such a server.
pub(crate) fn check_spec(ca: &v1::ExternalCa) -> Result<(), Status> {
    let refused = |why: String| Err(Status::invalid_argument(why));
    if !ca.protocol.eq_ignore_ascii_case("cfssl") {
        return refused(format!("invalid external CA protocol \"{}\": it is cfssl", ca.protocol));
    }
    let url: Result<Uri, _> = ca.url.parse();
    if !url.is_ok_and(|u| u.scheme_str() == Some("https") && u.host().is_some()) {
        return refused(format!("invalid external CA URL \"{}\": it begins with https://", ca.url));
    }
    if !ca.ca_pem.is_empty() {
        skep_identity::normalized_pem(&ca.ca_pem)
            .map_err(|e| Status::invalid_argument(format!("CA certificate of {}: {e}", ca.url)))?;
    }
    Ok(())
}
