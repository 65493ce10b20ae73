//! Requests that are carried to their end though their client leaves, as far as a daemon that stops lets them.

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Cheap handle to all of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct UnderWay {
    tasks: TaskTracker,
    cut: CancellationToken,
}

impl UnderWay {
    /// Begins one; none = it was cut off.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<Option<T>> {
        let cut = self.cut.clone();
        self.tasks.spawn(async move { cut.run_until_cancelled(work).await })
    }

    pub(crate) fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Waits until none is left.
    pub(crate) async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Cuts off those that there are and all that begin.
    pub(crate) fn cut(&self) {
        self.cut.cancel();
    }
}
