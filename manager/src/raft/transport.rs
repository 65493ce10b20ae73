//! How raft messages leave a node. Loss is fine; order within a pair of nodes is kept where it can be.

use skep_proto::v1;
use tokio::sync::mpsc::UnboundedSender;

/// Sends messages to peers without waiting. What cannot be sent is dropped and reported.
pub trait Transport: Send + Sync + 'static {
    /// Sends messages to a peer, in order.
    fn send(&self, to: &v1::RaftPeer, messages: Vec<v1::RaftMessage>, reports: &Reports);
}

#[derive(Debug)]
pub(crate) enum TransportReport {
    Unreachable(u64),
    Snapshot { to: u64, arrived: bool },
    Removed,
}

/// Where a transport says how its sending went.
#[derive(Clone)]
pub struct Reports(pub(crate) UnboundedSender<TransportReport>);

impl Reports {
    fn report(&self, report: TransportReport) {
        // A node that has stopped needs no reports.
        let _ = self.0.send(report);
    }

    /// A peer could not be reached: raft probes it from now on.
    pub fn unreachable(&self, raft_id: u64) {
        self.report(TransportReport::Unreachable(raft_id));
    }

    /// A snapshot arrived, or did not. Every snapshot sent must be reported.
    pub fn snapshot(&self, raft_id: u64, arrived: bool) {
        self.report(TransportReport::Snapshot { to: raft_id, arrived });
    }

    /// A peer says that this node was removed from the group.
    pub fn removed(&self) {
        self.report(TransportReport::Removed);
    }
}
