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
    loop {
        dirty.due(clock());
        if dirty.any() {
            let mut work = dirty.take();
            let compute = |view: &_| Ok::<_, Infallible>(pass(view, &mut work, clock(), &mut rng));
            let written = tokio::select! {
                written = writer.write(compute) => written,
                () = stop.cancelled() => return Ok(()),
            };
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
