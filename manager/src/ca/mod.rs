//! The certificate authority as a service: hands out the root, first certificates to holders of a join
//! token, and renewals, whose role is the one the cluster gives the node now.

mod change;
mod external;
mod roots;
pub(crate) mod rotation;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use skep_identity::{JoinToken, require_any};
use skep_proto::v1::ca_client::CaClient;
use skep_proto::v1::{self, NodeRole, ca_server::Ca};
use tonic::{Request, Response, Status};

use crate::authority::removed;
use crate::context::{Context, forward, is_forwarded};
use crate::store::StoreView;
use crate::store::change::put;

pub(crate) use change::{Asked, apply, check};
pub(crate) use external::check_spec as check_external_ca;
pub(crate) use roots::{trust, wanted};

/// The service.
#[derive(Clone)]
pub(crate) struct CaService {
    ctx: Arc<Context>,
}

impl CaService {
    pub fn new(ctx: Arc<Context>) -> Self {
        Self { ctx }
    }
}

#[tonic::async_trait]
impl Ca for CaService {
    async fn get_root(
        &self,
        _: Request<v1::GetRootRequest>,
    ) -> Result<Response<v1::GetRootResponse>, Status> {
        // Tokens and root change together: one that was rotated a moment ago must find its root.
        let (view, _) = self.ctx.read().await;
        Ok(Response::new(v1::GetRootResponse { root_ca_pem: cluster(&view)?.root_ca_pem.clone() }))
    }

    async fn issue_certificate(
        &self,
        request: Request<v1::IssueCertificateRequest>,
    ) -> Result<Response<v1::IssueCertificateResponse>, Status> {
        let forwarded = is_forwarded(request.metadata());
        let message = request.into_inner();
        let (ctx, again) = (self.ctx.clone(), message.clone());
        let local = move || -> BoxFuture<'static, _> {
            let (ctx, message) = (ctx.clone(), message.clone());
            Box::pin(async move { issue(&ctx, message).await })
        };
        let remote = move |channel| -> BoxFuture<'static, _> {
            let (mut client, request) = (CaClient::new(channel), forward(again.clone()));
            Box::pin(async move { client.issue_certificate(request).await.map(Response::into_inner) })
        };
        self.ctx.on_leader(forwarded, local, remote).await.map(Response::new)
    }

    async fn renew_certificate(
        &self,
        request: Request<v1::RenewCertificateRequest>,
    ) -> Result<Response<v1::IssueCertificateResponse>, Status> {
        let peer = require_any(request.extensions())?;
        let (view, _) = self.ctx.read().await;
        let node = view.node(peer.node_id.as_str()).ok_or_else(|| removed(peer.node_id.as_str()))?;
        sign(&self.ctx, &view, &request.into_inner().csr_pem, node).await.map(Response::new)
    }
}

async fn issue(
    ctx: &Context,
    request: v1::IssueCertificateRequest,
) -> Result<v1::IssueCertificateResponse, Status> {
    let token: JoinToken =
        request.token.parse().map_err(|e: skep_identity::Error| Status::invalid_argument(e.to_string()))?;
    if v1::NodeAvailability::try_from(request.availability).is_err() {
        return Err(Status::invalid_argument(format!("availability {} is not known", request.availability)));
    }
    let id = ctx.new_id();
    loop {
        // One that leads since a moment ago may not have applied yet what made the token good.
        let (view, _) = ctx.read().await;
        let role = role_of(&view, &token)?;
        let mut node = new_node(&id, role, request.availability, &request.hostname);
        // Proves that the request can be signed before the node exists.
        let response = sign(ctx, &view, &request.csr_pem, &node).await?;
        // It holds what it is given here, whether or not it ever says so: no rotation waits for it.
        node.description.get_or_insert_default().tls = Some(wanted(cluster(&view)?)?);
        let view = ctx
            .write(|view| {
                // The token may have been rotated meanwhile, and the root: then it is signed again.
                let same =
                    role_of(view, &token)? == role && cluster(view)?.trust_epoch == response.trust_epoch;
                Ok(if same { vec![put(node.clone())] } else { Vec::new() })
            })
            .await?;
        if view.node(&id).is_some() {
            tracing::info!(node = %id, hostname = %request.hostname, ?role, "a node joins the swarm");
            return Ok(response);
        }
    }
}

fn role_of(view: &StoreView, token: &JoinToken) -> Result<NodeRole, Status> {
    let cluster = cluster(view)?;
    let is = |text: &str| text.parse::<JoinToken>().is_ok_and(|t| t.matches(token));
    if is(&cluster.worker_token) {
        Ok(NodeRole::Worker)
    } else if is(&cluster.manager_token) {
        Ok(NodeRole::Manager)
    } else {
        Err(Status::permission_denied("it is neither the worker nor the manager token of this swarm"))
    }
}

fn cluster(view: &StoreView) -> Result<&v1::Cluster, Status> {
    view.cluster().map(|c| &**c).ok_or_else(|| Status::unavailable("the cluster object is not there yet"))
}

/// A node object for a host that joins. The allocator gives it its overlay address.
pub(crate) fn new_node(id: &str, role: NodeRole, availability: i32, hostname: &str) -> v1::Node {
    v1::Node {
        id: id.to_owned(),
        spec: Some(v1::NodeSpec { annotations: None, role: role.into(), availability }),
        description: Some(v1::NodeDescription { hostname: hostname.to_owned(), ..Default::default() }),
        message: "joined, has not reported yet".to_owned(),
        role: role.into(),
        ..Default::default()
    }
}

/// Signed by the servers that are to; where there are none, or none that does, by this manager if it has the key.
async fn sign(
    ctx: &Context,
    view: &StoreView,
    csr_pem: &str,
    node: &v1::Node,
) -> Result<v1::IssueCertificateResponse, Status> {
    let cluster = cluster(view)?;
    let trust = trust(cluster);
    let life = cluster.spec.as_ref().map_or(0, |s| s.cert_expiry_s);
    let life = if life == 0 { skep_proto::defaults::CERT_EXPIRY } else { Duration::from_secs(life) };
    let servers = external::of(cluster, roots::issuer(cluster));
    let signed = match servers.is_empty() {
        true => None,
        false => Some(external::sign(ctx, cluster, &servers, csr_pem, node).await),
    };
    let certificate_pem = match signed {
        Some(Ok(signed)) => signed,
        Some(Err(error)) if !roots::has_key(cluster) => return Err(error),
        _ => roots::signer(ctx.host(), cluster)?
            .issue(csr_pem, &node.id.as_str().into(), node.role(), life)
            .map_err(|e| Status::invalid_argument(e.to_string()))?,
    };
    Ok(v1::IssueCertificateResponse {
        node_id: node.id.clone(),
        role: node.role,
        certificate_pem,
        root_ca_pem: trust.roots_pem,
        trust_epoch: trust.epoch,
    })
}
