//! How fast this node sends of its images.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Lets so many bytes a second pass.
#[derive(Debug)]
pub(super) struct Rate {
    /// None = as many as there are.
    bytes: Option<u64>,
    free: Mutex<Instant>,
}

impl Rate {
    pub(super) fn new(bytes: Option<u64>) -> Self {
        Self { bytes: bytes.filter(|b| *b > 0), free: Mutex::new(Instant::now()) }
    }

    /// Waits until it is these bytes' turn.
    pub(super) async fn pass(&self, bytes: usize) {
        let Some(rate) = self.bytes else { return };
        let turn = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            let turn = (*free).max(Instant::now());
            *free = turn + Duration::from_secs_f64(bytes as f64 / rate as f64);
            turn
        };
        tokio::time::sleep_until(turn).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn so_many_bytes_take_their_time() {
        let rate = Rate::new(Some(1_000_000));
        let began = Instant::now();
        for _ in 0..11 {
            rate.pass(10_000).await;
        }
        // The first does not wait.
        assert!(began.elapsed() >= Duration::from_millis(100), "{:?}", began.elapsed());
    }
}
