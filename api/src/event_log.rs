//! The last events of the engine, so that `events --since` can show what is past.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use skep_engine::Event;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::broadcast::{self, Receiver, Sender};

/// Events kept, as many as Docker keeps.
const KEPT: usize = 256;
/// Events a slow client may fall behind.
const BACKLOG: usize = 4096;

/// A recorder that events are read from; ends with its last clone.
#[derive(Clone, Debug)]
pub struct EventLog(Arc<Mutex<Recorded>>);

#[derive(Debug)]
struct Recorded {
    past: VecDeque<Event>,
    live: Sender<Event>,
}

impl EventLog {
    /// Starts to record.
    pub fn start(mut source: Receiver<Event>) -> Self {
        let (live, _) = broadcast::channel(BACKLOG);
        let recorded = Arc::new(Mutex::new(Recorded { past: VecDeque::with_capacity(KEPT), live }));
        let log = Arc::downgrade(&recorded);
        tokio::spawn(async move {
            loop {
                let event = match source.recv().await {
                    Ok(event) => event,
                    Err(RecvError::Lagged(missed)) => {
                        tracing::warn!(missed, "events came faster than they were recorded");
                        continue;
                    }
                    Err(RecvError::Closed) => return,
                };
                let Some(log) = log.upgrade() else { return };
                let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                if log.past.len() == KEPT {
                    log.past.pop_front();
                }
                log.past.push_back(event.clone());
                // No client is no error.
                let _ = log.live.send(event);
            }
        });
        Self(recorded)
    }

    /// What is recorded, and all that follows, with neither gap nor overlap.
    pub fn follow(&self) -> (Vec<Event>, Receiver<Event>) {
        let log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (log.past.iter().cloned().collect(), log.live.subscribe())
    }
}
