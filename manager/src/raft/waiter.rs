//! Who waits for an entry of the log, and how each is answered.

use skep_proto::v1;

use super::core::Reply;
use super::error::{MembershipError, ProposeError};

/// Who waits for an entry.
pub(super) enum Waiter {
    Proposal(Reply<u64, ProposeError>),
    Join(v1::RaftJoinResponse, Reply<v1::RaftJoinResponse, MembershipError>),
    Change(Reply<(), MembershipError>),
    Nobody,
}

impl Waiter {
    pub(super) fn fail(self, error: ProposeError) {
        // A caller that gave up is not an error.
        match self {
            Self::Proposal(reply) => drop(reply.send(Err(error))),
            Self::Join(_, reply) => drop(reply.send(Err(error.into()))),
            Self::Change(reply) => drop(reply.send(Err(error.into()))),
            Self::Nobody => {}
        }
    }

    pub(super) fn done(self, index: u64, verdict: Result<(), ProposeError>) {
        match (self, verdict) {
            (waiter, Err(error)) => waiter.fail(error),
            (Self::Proposal(reply), Ok(())) => drop(reply.send(Ok(index))),
            (Self::Join(response, reply), Ok(())) => drop(reply.send(Ok(response))),
            (Self::Change(reply), Ok(())) => drop(reply.send(Ok(()))),
            (Self::Nobody, Ok(())) => {}
        }
    }
}
