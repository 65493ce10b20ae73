//! Agents that listen at this manager to what it has for them at any time.

use std::collections::HashMap;

use tokio::sync::mpsc;
use tonic::Status;

/// Where an agent's stream is fed.
pub(crate) type Sender<T> = mpsc::Sender<Result<T, Status>>;

/// By node. One that listens anew, after a broken connection, takes the place of its old stream.
pub(crate) struct Listeners<T> {
    by_node: HashMap<String, (u64, Sender<T>)>,
    next: u64,
}

impl<T> Default for Listeners<T> {
    fn default() -> Self {
        Self { by_node: HashMap::new(), next: 0 }
    }
}

impl<T> Listeners<T> {
    /// Takes a node in; the number is for [`Self::leave`].
    pub fn enter(&mut self, node: &str, tx: Sender<T>) -> u64 {
        self.next += 1;
        self.by_node.insert(node.to_owned(), (self.next, tx));
        self.next
    }

    /// Forgets a stream that has ended. False if the node has another by now.
    pub fn leave(&mut self, node: &str, number: u64) -> bool {
        let own = self.by_node.get(node).is_some_and(|(n, _)| *n == number);
        if own {
            self.by_node.remove(node);
        }
        own
    }

    /// Whether the node listens and was told. A full queue means that the agent hangs; its connection will end.
    pub fn tell(&self, node: &str, message: T) -> bool {
        self.by_node.get(node).is_some_and(|(_, tx)| tx.try_send(Ok(message)).is_ok())
    }

    /// Those that listen.
    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        self.by_node.keys().map(String::as_str)
    }
}
