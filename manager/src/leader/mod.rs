//! The leader's loop: it gathers what changed, runs the pure logic over the parts of the state that may need
//! it, and writes the result. Every pass is computed inside the store's writer, on the state all earlier
//! writes leave, so it cannot undo what control or an agent did meanwhile.

mod dirty;
mod pass;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio_util::sync::CancellationToken;

pub use dirty::Dirty;
pub use pass::pass;

use crate::store::{ProposeError, Update, Watch, WriteError, Writer};

/// What the leader's loop works with.
#[derive(Clone)]
pub struct Options {
    /// Where it reads and writes.
    pub writer: Writer,
    /// Milliseconds since the epoch.
    pub clock: Arc<dyn Fn() -> i64 + Send + Sync>,
    /// Seed of everything random, so that simulations replay.
    pub seed: u64,
}

/// Leads until `stop` is cancelled (`Ok`) or a write shows that this manager no longer leads (`Err`).
/// Start it once the manager has applied everything its predecessors wrote.
pub async fn run(options: Options, stop: CancellationToken) -> Result<(), ProposeError> {
    let Options { writer, clock, seed } = options;
    let mut rng = StdRng::seed_from_u64(seed);
    let (view, mut watch) = writer.store().subscribe();
    let mut dirty = Dirty::all(&view);
    // Whether the work is done a piece at a time: all of it together did not fit into one entry of the log.
    let mut pieces = false;
    loop {
        dirty.due(clock());
        pieces &= dirty.any();
        if dirty.any() {
            let mut work = if pieces { dirty.piece() } else { dirty.take() };
            let piece = pieces.then(|| work.clone());
            let allocates = piece.as_ref().is_some_and(|p| p.allocate);
            let compute = |view: &_| {
                let mut changes = pass(view, &mut work, clock(), &mut rng);
                // What is allocated stands each for itself; the changes for a service belong together.
                if allocates && changes.len() > 1 {
                    changes.truncate(1);
                    work.allocate = true;
                }
                Ok::<_, Infallible>(changes)
            };
            let written = tokio::select! {
                written = writer.write(compute) => written,
                () = stop.cancelled() => return Ok(()),
            };
            if let Err(WriteError::Propose(error @ ProposeError::TooLarge { .. })) = &written {
                match piece {
                    // Looked at again once it changes: the others must not wait for it.
                    Some(piece) => {
                        let services = piece.services;
                        tracing::error!(%error, ?services, "the leader's work is left undone");
                    }
                    None => {
                        tracing::warn!(%error, "the leader's work is written a piece at a time");
                        dirty.merge(Dirty::all(&writer.store().view()));
                        pieces = true;
                    }
                }
                continue;
            }
            dirty.merge(work);
            match written {
                Ok(_) => {}
                Err(WriteError::Refused(never)) => match never {},
                // Somebody wrote past the writer: look at everything again.
                Err(WriteError::Propose(ProposeError::Stale { .. })) => {
                    dirty.merge(Dirty::all(&writer.store().view()));
                }
                Err(WriteError::Propose(e)) => return Err(e),
            }
        }
        if drain(&mut watch, &mut dirty) || dirty.any() {
            continue;
        }
        let wait =
            dirty.next_wake().map(|at| Duration::from_millis(at.saturating_sub(clock()).max(1) as u64));
        tokio::select! {
            update = watch.next() => match update {
                Some(update) => follow(&mut dirty, &update),
                None => return Ok(()),
            },
            () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
}

/// Takes in what has been told already; true if there was anything.
fn drain(watch: &mut Watch, dirty: &mut Dirty) -> bool {
    let mut any = false;
    while let Some(update) = watch.try_next() {
        follow(dirty, &update);
        any = true;
    }
    any
}

fn follow(dirty: &mut Dirty, update: &Update) {
    match update {
        Update::Commit(commit) => commit.events.iter().for_each(|e| dirty.event(&commit.view, e)),
        Update::Resync(view) => dirty.merge(Dirty::all(view)),
    }
}

#[cfg(test)]
mod tests {
    use futures::future::BoxFuture;
    use prost::Message as _;
    use skep_proto::v1;
    use v1::service_spec::Mode;

    use super::*;
    use crate::store::change::put;
    use crate::store::{Propose, Store};

    /// A log of one manager whose entries are small.
    struct Log(Store);
    const LIMIT: usize = 20_000;

    impl Propose for Log {
        fn propose(
            &self,
            based_on: u64,
            changes: Vec<v1::Change>,
        ) -> BoxFuture<'static, Result<u64, ProposeError>> {
            let (store, batch) = (self.0.clone(), v1::Batch { changes, based_on, ..Default::default() });
            Box::pin(async move {
                let bytes = batch.encoded_len();
                if bytes > LIMIT {
                    return Err(ProposeError::TooLarge { bytes, limit: LIMIT });
                }
                let index = store.view().index + 1;
                store
                    .apply(index, batch)
                    .map_err(|s| ProposeError::Stale { based_on: s.based_on, actual: s.actual })?;
                Ok(index)
            })
        }
    }

    #[tokio::test]
    async fn what_fits_into_no_entry_holds_nobody_else_up() {
        let store = Store::new();
        let mut changes = Vec::new();
        // Some that are too much together, and one that is too much by itself.
        for (name, replicas) in [("a", 60), ("b", 60), ("big", 5000), ("c", 60), ("d", 60)] {
            let spec = v1::ServiceSpec {
                annotations: Some(v1::Annotations { name: name.into(), ..Default::default() }),
                task: Some(v1::TaskSpec::default()),
                mode: Some(Mode::Replicated(v1::Replicated { replicas })),
                ..Default::default()
            };
            let task = spec.task.clone();
            let id = name.to_owned();
            changes.push(put(v1::Revision {
                service_id: id.clone(),
                number: 1,
                spec: task,
                ..Default::default()
            }));
            changes.push(put(v1::Service { id, spec: Some(spec), revision: 1, ..Default::default() }));
        }
        store.apply(1, v1::Batch { changes, ..Default::default() }).expect("applies");
        let writer = Writer::new(store.clone(), Log(store.clone()));
        let (stop, seen) = (CancellationToken::new(), store.clone());
        let leading = run(Options { writer, clock: Arc::new(|| 1), seed: 1 }, stop.clone());
        let others = async {
            let (mut view, mut watch) = seen.subscribe();
            let made = |view: &crate::store::StoreView, id: &str| view.tasks_of_service(id).count();
            while !["a", "b", "c", "d"].iter().all(|id| made(&view, id) == 60) {
                watch.next().await.expect("the store is there");
                view = seen.view();
            }
            assert_eq!(made(&view, "big"), 0);
            stop.cancel();
        };
        let limit = Duration::from_secs(60);
        let (led, ()) =
            tokio::time::timeout(limit, futures::future::join(leading, others)).await.expect("done");
        assert_eq!(led, Ok(()));
    }
}
