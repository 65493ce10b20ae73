//! What happens to containers, images, volumes and networks, told to whoever listens.

use std::collections::BTreeMap;
use std::sync::Arc;

use prometheus::IntCounter;
use tokio::sync::broadcast;

/// Events a slow listener may fall behind before it loses some (it is told so by `Lagged`).
const BACKLOG: usize = 4096;

/// One thing that happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Nanoseconds since the Unix epoch.
    pub time_ns: i64,
    /// `container`, `image`, `volume`, `network`, `service`, `node` or `daemon`.
    pub kind: String,
    /// `create`, `start`, `die`, ...
    pub action: String,
    /// Identifier of the object.
    pub id: String,
    /// Name, image, exit code, labels.
    pub attributes: BTreeMap<String, String>,
    /// It happened in the swarm, not only on this host.
    pub swarm: bool,
}

/// The sending side.
#[derive(Clone, Debug)]
pub(crate) struct Events {
    sender: Arc<broadcast::Sender<Event>>,
    told: IntCounter,
}

impl Events {
    /// `told` counts them.
    pub(crate) fn new(told: IntCounter) -> Self {
        Self { sender: Arc::new(broadcast::channel(BACKLOG).0), told }
    }

    pub(crate) fn listeners(&self) -> usize {
        self.sender.receiver_count()
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.sender.subscribe()
    }

    pub(crate) fn emit(&self, kind: &str, action: &str, id: &str, attributes: BTreeMap<String, String>) {
        self.send(kind, action, id, attributes, false);
    }

    pub(crate) fn send(
        &self,
        kind: &str,
        action: &str,
        id: &str,
        attributes: BTreeMap<String, String>,
        swarm: bool,
    ) {
        self.told.inc();
        // No listener is no error.
        let _ = self.sender.send(Event {
            time_ns: now_ns(),
            kind: kind.into(),
            action: action.into(),
            id: id.into(),
            attributes,
            swarm,
        });
    }
}

/// Nanoseconds since the Unix epoch.
pub(crate) fn now_ns() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
