//! What happens to containers, images, volumes and networks, told to whoever listens, and the last of it kept, so that
//! `events --since` can show what is past. What was told is in what is kept, so an answer never comes before its event.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::IntCounter;
use tokio::sync::broadcast;

/// Events a slow listener may fall behind before it loses some (it is told so by `Lagged`).
const BACKLOG: usize = 4096;
/// Events kept, as many as Docker keeps.
const KEPT: usize = 256;

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
    told: Arc<Mutex<Told>>,
    counter: IntCounter,
}

#[derive(Debug)]
struct Told {
    past: VecDeque<Event>,
    live: broadcast::Sender<Event>,
}

impl Events {
    /// `counter` counts them.
    pub(crate) fn new(counter: IntCounter) -> Self {
        let told = Told { past: VecDeque::with_capacity(KEPT), live: broadcast::channel(BACKLOG).0 };
        Self { told: Arc::new(Mutex::new(told)), counter }
    }

    pub(crate) fn listeners(&self) -> usize {
        self.told().live.receiver_count()
    }

    /// What is kept, and all that follows, with neither gap nor overlap.
    pub(crate) fn follow(&self) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let told = self.told();
        (told.past.iter().cloned().collect(), told.live.subscribe())
    }

    pub(crate) fn emit(&self, kind: &str, action: &str, id: &str, attributes: BTreeMap<String, String>) {
        self.send(kind, action, id, attributes, false);
    }

    /// What a prune has freed, in bytes.
    pub(crate) fn pruned(&self, kind: &str, freed: u64) {
        self.emit(kind, "prune", "", [("reclaimed".to_owned(), freed.to_string())].into());
    }

    pub(crate) fn send(
        &self,
        kind: &str,
        action: &str,
        id: &str,
        attributes: BTreeMap<String, String>,
        swarm: bool,
    ) {
        self.counter.inc();
        let (kind, action, id) = (kind.into(), action.into(), id.into());
        let mut told = self.told();
        // Under the lock: they are kept in the order of their times.
        let event = Event { time_ns: now_ns(), kind, action, id, attributes, swarm };
        if told.past.len() == KEPT {
            told.past.pop_front();
        }
        told.past.push_back(event.clone());
        // No listener is no error.
        let _ = told.live.send(event);
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nanoseconds since the Unix epoch.
pub(crate) fn now_ns() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
