//! One subscription as this manager serves it.

use std::collections::BTreeSet;

use skep_identity::Host;
use skep_proto::v1;
use tokio::sync::mpsc;
use tonic::Status;

pub(super) struct Active {
    id: String,
    selector: v1::LogSelector,
    pub options: v1::LogOptions,
    pub tx: mpsc::Sender<Result<v1::SubscribeLogsMessage, Status>>,
    /// Agents that are at it.
    pub served: BTreeSet<String>,
    /// Agents that were asked once: they have sent what was there before.
    asked: BTreeSet<String>,
}

impl Active {
    pub fn new(
        id: String,
        selector: v1::LogSelector,
        options: v1::LogOptions,
        tx: mpsc::Sender<Result<v1::SubscribeLogsMessage, Status>>,
    ) -> Self {
        Self { id, selector, options, tx, served: BTreeSet::new(), asked: BTreeSet::new() }
    }

    /// What to ask `node`; one that comes back after a broken connection goes on from now.
    pub fn open_for(&mut self, node: &str, host: &Host) -> v1::Subscription {
        let mut options = self.options;
        if !self.asked.insert(node.to_owned()) {
            options.since_ns = host.now_ms().saturating_mul(1_000_000);
            options.tail = -1;
        }
        v1::Subscription {
            id: self.id.clone(),
            selector: Some(self.selector.clone()),
            options: Some(options),
            close: false,
        }
    }

    /// Whether that was the last agent of a subscription that does not wait for more.
    pub fn node_done(&mut self, node: &str) -> bool {
        self.served.remove(node) && self.served.is_empty() && !self.options.follow
    }
}
