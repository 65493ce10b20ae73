//! What tasks use, for managers that ask because a service is scaled by it. Only those tasks are looked at, at an interval;
//! the last word goes with the next heartbeat.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use skep_proto::v1;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::assignments::Assignments;
use crate::task::TaskRuntime;

/// How often a task is looked at.
const EVERY: Duration = Duration::from_secs(5);
/// Processor time is an average over so long, where the task has been looked at for that long.
const OVER: Duration = Duration::from_secs(15);
/// Longest that one look may take: a metric is asked of the task itself.
const LOOK: Duration = Duration::from_secs(4);

/// What was asked and found, of one session.
pub(crate) struct Usage {
    wanted: watch::Sender<Vec<v1::UsageWanted>>,
    found: Mutex<Vec<v1::TaskUsage>>,
}

impl Default for Usage {
    fn default() -> Self {
        Self { wanted: watch::Sender::new(Vec::new()), found: Mutex::default() }
    }
}

impl Usage {
    /// A manager asks for these tasks, and no others.
    pub fn ask(&self, wanted: Vec<v1::UsageWanted>) {
        self.wanted.send_if_modified(|have| {
            let changed = *have != wanted;
            *have = wanted;
            changed
        });
    }

    /// What was found since the last time.
    pub fn take(&self) -> Vec<v1::TaskUsage> {
        std::mem::take(&mut *self.found.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks at what is asked for, as long as anything is.
    pub async fn follow(
        &self,
        runtime: Arc<dyn TaskRuntime>,
        assigned: watch::Receiver<Assignments>,
    ) -> Result<(), tonic::Status> {
        let mut wanted = self.wanted.subscribe();
        let mut seen: BTreeMap<String, Looks> = BTreeMap::new();
        loop {
            let closed = wanted.wait_for(|w| !w.is_empty()).await.is_err();
            if closed {
                return Err(tonic::Status::internal("nobody can ask for what tasks use any more"));
            }
            let asked = wanted.borrow_and_update().clone();
            seen.retain(|id, _| asked.iter().any(|w| w.task_id == *id));
            let looks = asked.iter().map(|w| {
                let task = assigned.borrow().tasks.get(&w.task_id).cloned();
                let runtime = runtime.clone();
                async move {
                    let look = runtime.usage(task.as_deref()?, w.metric.as_ref());
                    let found = tokio::time::timeout(LOOK, look).await.ok()??;
                    Some((w.task_id.clone(), found, Instant::now()))
                }
            });
            let mut told = Vec::new();
            for (id, found, at) in futures::future::join_all(looks).await.into_iter().flatten() {
                let looks = seen.entry(id.clone()).or_default();
                if let Some(nano_cpus) = looks.average(found.cpu_ns, at) {
                    told.push(v1::TaskUsage {
                        task_id: id,
                        nano_cpus,
                        memory_bytes: found.memory_bytes,
                        metric: found.metric,
                    });
                }
            }
            *self.found.lock().unwrap_or_else(PoisonError::into_inner) = told;
            tokio::time::sleep(EVERY).await;
        }
    }
}

/// Processor time of a task as it was at some moments.
#[derive(Default)]
struct Looks(VecDeque<(Instant, u64)>);

impl Looks {
    /// Billionths of a processor since the earliest look that counts; none at the first.
    fn average(&mut self, cpu_ns: u64, now: Instant) -> Option<u64> {
        // A counter that begins anew is another container's.
        if self.0.back().is_some_and(|(_, before)| *before > cpu_ns) {
            self.0.clear();
        }
        while self.0.len() > 1 && self.0.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= OVER) {
            self.0.pop_front();
        }
        self.0.push_back((now, cpu_ns));
        let (at, before) = *self.0.front()?;
        let passed = now.duration_since(at).as_nanos();
        (passed > 0).then(|| (u128::from(cpu_ns - before) * 1_000_000_000 / passed) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_an_average_over_the_last_moments() {
        let (mut looks, start) = (Looks::default(), Instant::now());
        let at = |s: u64| start + Duration::from_secs(s);
        let seconds = |n: u64| n * 1_000_000_000;
        assert_eq!(looks.average(seconds(1), at(0)), None);
        assert_eq!(looks.average(seconds(6), at(5)), Some(1_000_000_000));
        assert_eq!(looks.average(seconds(6), at(10)), Some(500_000_000));
        assert_eq!(looks.average(seconds(6), at(20)), Some(0));
        // Another container.
        assert_eq!(looks.average(0, at(25)), None);
        assert_eq!(looks.average(seconds(10), at(30)), Some(2_000_000_000));
    }
}
