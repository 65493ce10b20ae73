//! The gRPC service that other managers talk to.

use std::sync::Arc;

use skep_proto::v1;
use skep_proto::v1::raft_server::RaftServer;
use tonic::metadata::MetadataValue;
use tonic::{Extensions, Request, Response, Status, Streaming, async_trait};

use super::error::{MembershipError, ProposeError, ReadError};
use super::grpc::{MESSAGE_LIMIT, REMOVED};
use super::handle::Raft;

/// Decides from a request's extensions (the peer's identity).
pub type Decide = Arc<dyn Fn(&Extensions) -> Result<(), Status> + Send + Sync>;

/// Who may use the service. Asked at every call, and at every message of a stream.
#[derive(Clone)]
pub struct Authorize {
    /// Who may join, leave and ask for read indexes.
    pub manager: Decide,
    /// Whose raft messages are taken.
    pub peer: Decide,
    /// The node that says where it is reached.
    pub member: Arc<dyn Fn(&Extensions) -> Result<String, Status> + Send + Sync>,
}

/// Metadata key that names the leader's address when this manager is not it.
pub const LEADER: &str = "skep-leader";

/// The raft service of one manager.
pub struct RaftService {
    raft: Raft,
    authorize: Authorize,
}

impl RaftService {
    /// The tonic service over a node.
    pub fn server(raft: Raft, authorize: Authorize) -> RaftServer<Self> {
        RaftServer::new(Self { raft, authorize })
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(MESSAGE_LIMIT)
    }

    fn refuse_removed(&self, from: u64) -> Result<(), Status> {
        if !self.raft.is_removed(from) {
            return Ok(());
        }
        let mut status = Status::failed_precondition("this manager was removed from the swarm");
        status.metadata_mut().insert(REMOVED, MetadataValue::from_static("1"));
        Err(status)
    }
}

fn leader_status(message: String, leader: &Option<v1::RaftPeer>) -> Status {
    let mut status = Status::failed_precondition(message);
    if let Some(value) = leader.as_ref().and_then(|peer| peer.addr.parse().ok()) {
        status.metadata_mut().insert(LEADER, value);
    }
    status
}

impl From<ProposeError> for Status {
    fn from(error: ProposeError) -> Self {
        let message = error.to_string();
        match error {
            ProposeError::NotLeader { leader } => leader_status(message, &leader),
            ProposeError::Rejected(_) => Status::aborted(message),
            ProposeError::TooLarge { .. } => Status::invalid_argument(message),
            ProposeError::DiskFull { .. } => Status::resource_exhausted(message),
            ProposeError::Unknown { .. } => Status::unknown(message),
            ProposeError::QuorumLost { .. } | ProposeError::Stopped(_) => Status::unavailable(message),
        }
    }
}

impl From<MembershipError> for Status {
    fn from(error: MembershipError) -> Self {
        let message = error.to_string();
        match error {
            MembershipError::NotLeader { leader } => leader_status(message, &leader),
            MembershipError::AlreadyMember { .. } => Status::already_exists(message),
            MembershipError::NotMember { .. } => Status::not_found(message),
            MembershipError::Busy | MembershipError::IsLeader { .. } => Status::unavailable(message),
            MembershipError::WouldLoseQuorum { .. }
            | MembershipError::LastManager { .. }
            | MembershipError::NoSuccessor => Status::failed_precondition(message),
            MembershipError::Propose(error) => error.into(),
        }
    }
}

impl From<ReadError> for Status {
    fn from(error: ReadError) -> Self {
        Status::unavailable(error.to_string())
    }
}

#[async_trait]
impl v1::raft_server::Raft for RaftService {
    async fn send(
        &self,
        request: Request<Streaming<v1::RaftMessage>>,
    ) -> Result<Response<v1::Empty>, Status> {
        let (_, from, mut stream) = request.into_parts();
        while let Some(message) = stream.message().await? {
            self.refuse_removed(message.from)?;
            (self.authorize.peer)(&from)?;
            self.raft.receive(message).map_err(|error| Status::invalid_argument(error.to_string()))?;
        }
        Ok(Response::new(v1::Empty {}))
    }

    async fn join(
        &self,
        request: Request<v1::RaftJoinRequest>,
    ) -> Result<Response<v1::RaftJoinResponse>, Status> {
        (self.authorize.manager)(request.extensions())?;
        let request = request.into_inner();
        Ok(Response::new(self.raft.join(&request.node_id, &request.addr).await?))
    }

    async fn leave(&self, request: Request<v1::RaftLeaveRequest>) -> Result<Response<v1::Empty>, Status> {
        (self.authorize.manager)(request.extensions())?;
        self.raft.remove(&request.into_inner().node_id).await?;
        Ok(Response::new(v1::Empty {}))
    }

    async fn readdress(
        &self,
        request: Request<v1::RaftReaddressRequest>,
    ) -> Result<Response<v1::RaftReaddressResponse>, Status> {
        let node_id = (self.authorize.member)(request.extensions())?;
        let own = self.raft.identity().node_id.clone();
        let mut response = v1::RaftReaddressResponse { node_id: own, written: true, ..Default::default() };
        match self.raft.readdress(&node_id, &request.into_inner().addr).await {
            Ok(()) => {}
            Err(MembershipError::NotLeader { leader }) => {
                response.written = false;
                response.leader_addr = leader.map(|l| l.addr).unwrap_or_default();
            }
            Err(error) => return Err(error.into()),
        }
        Ok(Response::new(response))
    }

    async fn read_index(
        &self,
        request: Request<v1::Empty>,
    ) -> Result<Response<v1::ReadIndexResponse>, Status> {
        (self.authorize.manager)(request.extensions())?;
        Ok(Response::new(v1::ReadIndexResponse { index: self.raft.read_index().await? }))
    }
}
