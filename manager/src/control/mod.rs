//! The control service: what the REST API and other managers ask. Reads are answered from this manager's
//! own store once a quorum confirms how far it must be; writes happen on the leader, wherever it is.

mod cluster;
mod dependencies;
mod extras;
mod features;
mod foresight;
mod host_ip;
mod idle;
mod members;
mod networks;
mod nodes;
mod read;
pub(crate) mod roles;
mod run_options;
mod services;
mod validate;

use std::ops::RangeInclusive;
use std::sync::Arc;

use futures::future::BoxFuture;
use skep_proto::v1::control_client::ControlClient;
use skep_proto::v1::{self, control_server::Control};
use tonic::{Request, Response, Status};

use crate::context::{Context, forward, is_forwarded};
use crate::images;
use crate::store::{FORESEEN, LookupError};

pub(crate) use cluster::with_defaults;
pub(crate) use read::service_name;
pub use validate::MAX_REPLICAS;
pub(crate) use validate::cluster as check_cluster_spec;

/// The control service of this manager. Cheap to clone; in process it needs no connection.
#[derive(Clone)]
pub struct ControlHandle {
    ctx: Arc<Context>,
}

impl ControlHandle {
    pub(crate) fn new(ctx: Arc<Context>) -> Self {
        Self { ctx }
    }

    /// Refuses here what the leader, if it is of an older version, would not even see.
    async fn known(&self, spec: Option<&v1::ServiceSpec>, id: &str) -> Result<(), Status> {
        if !features::any(spec) {
            return Ok(());
        }
        let (view, _) = self.ctx.read().await;
        let before = read::find_service(&view, id).ok().and_then(|s| s.spec.as_ref());
        features::possible(&view, spec, before)
    }
}

/// Runs `$local(ctx, message)` where the leader is.
macro_rules! on_leader {
    ($self:ident, $request:ident, $method:ident, $local:path) => {{
        let forwarded = is_forwarded($request.metadata());
        let message = $request.into_inner();
        let ctx = $self.ctx.clone();
        let again = message.clone();
        let local = move || -> BoxFuture<'static, _> {
            let (ctx, message) = (ctx.clone(), message.clone());
            Box::pin(async move { $local(&ctx, message).await })
        };
        let remote = move |channel| -> BoxFuture<'static, _> {
            let (mut client, request) = (ControlClient::new(channel), forward(again.clone()));
            Box::pin(async move { client.$method(request).await.map(Response::into_inner) })
        };
        $self.ctx.on_leader(forwarded, local, remote).await.map(Response::new)
    }};
}

#[tonic::async_trait]
impl Control for ControlHandle {
    async fn get_cluster(
        &self,
        _: Request<v1::GetClusterRequest>,
    ) -> Result<Response<v1::ClusterResponse>, Status> {
        let (view, stale) = self.ctx.read().await;
        Ok(Response::new(v1::ClusterResponse { cluster: cluster::read(&view)?, stale }))
    }
    async fn update_cluster(
        &self,
        request: Request<v1::UpdateClusterRequest>,
    ) -> Result<Response<v1::ClusterResponse>, Status> {
        on_leader!(self, request, update_cluster, cluster::update)
    }
    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        let (view, stale) = self.ctx.read().await;
        let nodes = read::nodes(&self.ctx, &view, &request.into_inner().ids_or_names)?;
        Ok(Response::new(v1::ListNodesResponse { nodes, stale }))
    }
    async fn update_node(
        &self,
        request: Request<v1::UpdateNodeRequest>,
    ) -> Result<Response<v1::NodeResponse>, Status> {
        on_leader!(self, request, update_node, nodes::update)
    }
    async fn remove_node(
        &self,
        request: Request<v1::RemoveNodeRequest>,
    ) -> Result<Response<v1::Empty>, Status> {
        on_leader!(self, request, remove_node, nodes::remove)
    }
    async fn create_service(
        &self,
        request: Request<v1::CreateServiceRequest>,
    ) -> Result<Response<v1::ServiceResponse>, Status> {
        if !is_forwarded(request.metadata()) {
            self.known(request.get_ref().spec.as_ref(), "").await?;
        }
        on_leader!(self, request, create_service, services::create)
    }
    async fn update_service(
        &self,
        request: Request<v1::UpdateServiceRequest>,
    ) -> Result<Response<v1::ServiceResponse>, Status> {
        let asked = request.get_ref();
        if !is_forwarded(request.metadata()) && !asked.rollback && !asked.rebalance {
            self.known(asked.spec.as_ref(), &asked.id).await?;
        }
        on_leader!(self, request, update_service, services::update)
    }
    async fn remove_service(
        &self,
        request: Request<v1::RemoveRequest>,
    ) -> Result<Response<v1::Empty>, Status> {
        on_leader!(self, request, remove_service, services::remove)
    }
    async fn list_services(
        &self,
        request: Request<v1::ListServicesRequest>,
    ) -> Result<Response<v1::ListServicesResponse>, Status> {
        let (view, stale) = self.ctx.read().await;
        let services = read::services(&view, &request.into_inner().ids_or_names)?;
        Ok(Response::new(v1::ListServicesResponse { services, stale }))
    }
    async fn list_tasks(
        &self,
        request: Request<v1::ListTasksRequest>,
    ) -> Result<Response<v1::ListTasksResponse>, Status> {
        let (view, stale) = self.ctx.read().await;
        let tasks = read::tasks(&view, &request.into_inner())?;
        Ok(Response::new(v1::ListTasksResponse { tasks, stale }))
    }
    async fn create_network(
        &self,
        request: Request<v1::CreateNetworkRequest>,
    ) -> Result<Response<v1::NetworkResponse>, Status> {
        features::possible_of_network(&self.ctx.read().await.0, request.get_ref().spec.as_ref())?;
        on_leader!(self, request, create_network, networks::create)
    }
    async fn remove_network(
        &self,
        request: Request<v1::RemoveRequest>,
    ) -> Result<Response<v1::Empty>, Status> {
        if !is_forwarded(request.metadata()) {
            networks::left(&self.ctx, &request.get_ref().id).await;
        }
        on_leader!(self, request, remove_network, networks::remove)
    }
    async fn list_networks(
        &self,
        request: Request<v1::ListNetworksRequest>,
    ) -> Result<Response<v1::ListNetworksResponse>, Status> {
        let (view, stale) = self.ctx.read().await;
        let networks = read::networks(&view, &request.into_inner().ids_or_names)?;
        Ok(Response::new(v1::ListNetworksResponse { networks, stale }))
    }
    async fn describe_network(
        &self,
        request: Request<v1::DescribeNetworkRequest>,
    ) -> Result<Response<v1::DescribeNetworkResponse>, Status> {
        let (view, stale) = self.ctx.read().await;
        let described = members::describe(&view, &request.into_inner().id)?;
        Ok(Response::new(v1::DescribeNetworkResponse { stale, ..described }))
    }
    async fn create_dependency(
        &self,
        request: Request<v1::CreateDependencyRequest>,
    ) -> Result<Response<v1::DependencyResponse>, Status> {
        on_leader!(self, request, create_dependency, dependencies::create)
    }
    async fn update_dependency(
        &self,
        request: Request<v1::UpdateDependencyRequest>,
    ) -> Result<Response<v1::DependencyResponse>, Status> {
        on_leader!(self, request, update_dependency, dependencies::update)
    }
    async fn remove_dependency(
        &self,
        request: Request<v1::RemoveDependencyRequest>,
    ) -> Result<Response<v1::Empty>, Status> {
        on_leader!(self, request, remove_dependency, dependencies::remove)
    }
    async fn list_dependencies(
        &self,
        request: Request<v1::ListDependenciesRequest>,
    ) -> Result<Response<v1::ListDependenciesResponse>, Status> {
        let (view, stale) = self.ctx.read().await;
        let dependencies = dependencies::list(&view, &request.into_inner())?;
        Ok(Response::new(v1::ListDependenciesResponse { dependencies, stale }))
    }
    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainResponse>, Status> {
        let (view, stale) = self.ctx.read().await;
        let (request, now_ms) = (request.into_inner(), self.ctx.now_ms());
        let explained = aside(move || foresight::explanations(&view, &request, now_ms)).await?;
        Ok(Response::new(v1::ExplainResponse { stale, ..explained }))
    }
    async fn plan(&self, request: Request<v1::PlanRequest>) -> Result<Response<v1::PlanResponse>, Status> {
        let (view, stale) = self.ctx.read().await;
        let (ctx, request) = (self.ctx.clone(), request.into_inner());
        let planned = aside(move || foresight::plan(&ctx, &view, request)).await?;
        Ok(Response::new(v1::PlanResponse { stale, ..planned }))
    }
    async fn find_image(
        &self,
        request: Request<v1::FindImageRequest>,
    ) -> Result<Response<v1::FindImageResponse>, Status> {
        let holders = images::find(&self.ctx, &request.into_inner().image).await;
        Ok(Response::new(v1::FindImageResponse { holders }))
    }
}

/// Computes what may take long on another thread than those that heartbeats wait for.
async fn aside<T: Send + 'static>(
    compute: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    tokio::task::spawn_blocking(compute)
        .await
        .unwrap_or_else(|e| Err(Status::internal(format!("the computation broke off: {e}"))))
}

fn lookup(error: LookupError) -> Status {
    match error {
        LookupError::NotFound { .. } => Status::not_found(error.to_string()),
        LookupError::Ambiguous { .. } => Status::invalid_argument(error.to_string()),
    }
}

/// An update must name the version it was based on. Clients look for the first words of the refusal.
fn check_version(what: &str, meta: Option<&v1::Meta>, version: u64) -> Result<(), Status> {
    let now = meta.map_or(0, |m| m.version);
    check_between(what, now..=now, version)
}

/// The same where it may be based on any of these versions, the last of which is the present one.
fn check_between(what: &str, versions: RangeInclusive<u64>, version: u64) -> Result<(), Status> {
    if versions.contains(&version) {
        return Ok(());
    }
    let now = *versions.end();
    // One that is being written has no version of its own yet.
    let now = if now > FORESEEN { "being changed".to_owned() } else { format!("at version {now}") };
    Err(Status::aborted(format!(
        "update out of sequence: {what} is {now}, the update was made for {version}; \
         inspect it again and repeat the update on what it is now"
    )))
}
