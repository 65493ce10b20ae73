//! Takes in where managers are, from managers that this node does not find any more: the only one may have another address
//! now. What they say is no more than where to look; who is found there has to have a manager's certificate.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use skep_identity::{Role, require};
use skep_proto::v1::whereabouts_server::Whereabouts;
use skep_proto::v1::{ManagersAtRequest, ManagersAtResponse};
use tonic::{Request, Response, Status};

use super::Exchange;
use crate::remotes::MOST;

#[tonic::async_trait]
impl Whereabouts for Exchange {
    async fn managers(
        &self,
        request: Request<ManagersAtRequest>,
    ) -> Result<Response<ManagersAtResponse>, Status> {
        let peer = require(request.extensions(), Role::Manager)?;
        let addrs: BTreeSet<String> = request.into_inner().addrs.into_iter().collect();
        if addrs.is_empty() || addrs.len() > MOST {
            return Err(Status::invalid_argument(format!("{} addresses, not 1 to {MOST}", addrs.len())));
        }
        if let Some(bad) = addrs.iter().find(|a| a.parse::<SocketAddr>().is_err()) {
            return Err(Status::invalid_argument(format!("{bad:?} is no address with a port")));
        }
        let remotes = self.state().link.as_ref().map(|(_, link)| link.remotes.clone());
        let remotes = remotes.ok_or_else(|| Status::unavailable("this node is not part of a swarm now"))?;
        tracing::info!(node = %peer.node_id, ?addrs, "a manager tells where managers are");
        remotes.told(addrs);
        Ok(Response::new(ManagersAtResponse {}))
    }
}
