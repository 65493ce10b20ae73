//! Containers whose network is a played one, which can hold up what it is asked at the moment that matters.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use skep_engine::{
    Attachment, ContainerConfig, ContainerId, Linked, NetworkError, NetworkJoin, NetworkMode, Networking,
    RestartPolicy, Userns,
};
use tokio::sync::watch;

use super::run;
use super::support::{Fixture, Outcome};

/// More than anything here takes, on whatever machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a new daemon's networks see while it takes up what the last one left.
#[derive(Default)]
struct Played {
    /// Taken up first, and then killed while the other one is.
    first: Mutex<Option<(ContainerId, Pid)>>,
    /// Whether the first one has begun to be connected anew.
    reconnecting: watch::Sender<bool>,
    /// Those whose networks were to stay, once that has been said.
    retained: watch::Sender<Option<Vec<ContainerId>>>,
}

impl Played {
    fn first(&self) -> Option<(ContainerId, Pid)> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn wait<T: Clone>(on: &watch::Sender<T>, done: impl FnMut(&T) -> bool) -> Result<(), NetworkError> {
    tokio::time::timeout(PATIENCE, on.subscribe().wait_for(done)).await??;
    Ok(())
}

#[async_trait::async_trait]
impl Networking for Played {
    async fn attach(
        &self,
        id: &ContainerId,
        _: &str,
        _: &ContainerConfig,
        _: Option<&Userns>,
        _: Vec<Linked>,
    ) -> Result<Attachment, NetworkError> {
        if self.first().is_some_and(|(first, _)| first == *id) {
            self.reconnecting.send_replace(true);
            wait(&self.retained, Option::is_some).await?;
        }
        // The one that this test is in.
        let netns = PathBuf::from(format!("/proc/{}/ns/net", std::process::id()));
        Ok(Attachment { netns, ..Attachment::default() })
    }

    /// Asked of each that is taken up, one after the other.
    async fn attached(&self, id: &ContainerId) -> Option<Attachment> {
        let (first, pid) = self.first()?;
        if first != *id {
            kill(pid, Signal::SIGKILL).expect("the first one runs");
            wait(&self.reconnecting, |begun| *begun).await.expect("it is started again");
        }
        None
    }

    async fn connect(
        &self,
        _: &ContainerId,
        _: &str,
        _: &ContainerConfig,
        _: &NetworkJoin,
    ) -> Result<Attachment, NetworkError> {
        Err("nothing is connected here".into())
    }

    async fn disconnect(&self, _: &ContainerId, _: &str) -> Result<Attachment, NetworkError> {
        Err("nothing is disconnected here".into())
    }

    async fn ports_changed(&self) -> ContainerId {
        std::future::pending().await
    }

    fn host_gateway(&self) -> Vec<std::net::IpAddr> {
        Vec::new()
    }

    async fn relink(&self, _: &ContainerId, _: Vec<Linked>) -> Result<(), NetworkError> {
        Ok(())
    }

    async fn rename(&self, _: &ContainerId, _: &str) -> Result<(), NetworkError> {
        Ok(())
    }

    async fn detach(&self, _: &ContainerId) -> Result<(), NetworkError> {
        Ok(())
    }

    async fn retain(&self, running: &[ContainerId]) -> Result<(), NetworkError> {
        self.retained.send_replace(Some(running.to_vec()));
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_dies_while_others_are_taken_up_keeps_the_network_of_its_next_run() -> Outcome {
    let mut f = Fixture::with(Arc::new(Played::default())).await?;
    for name in ["one", "two"] {
        let network =
            NetworkMode::Networks(vec![NetworkJoin { network: "net".into(), ..Default::default() }]);
        let config = ContainerConfig { restart: RestartPolicy::Always, network, ..run(&["sleep", "1000"]) };
        let id = f.engine.create(Some(name.into()), config).await?;
        f.engine.start(id.as_str()).await?;
    }
    // In the order in which they are taken up.
    let mut ids: Vec<_> = f.engine.list().iter().map(|c| (c.id.clone(), c.name.clone())).collect();
    ids.sort_by(|a, b| a.0.as_str().cmp(b.0.as_str()));
    let (first, name) = ids[0].clone();
    f.crash().await?;
    let pid = Pid::from_raw(f.pids[&name].try_into()?);
    let played = Arc::new(Played::default());
    *played.first.lock().unwrap_or_else(PoisonError::into_inner) = Some((first.clone(), pid));
    f.reopen_with(played.clone()).await?;
    let retained = played.retained.borrow().clone().ok_or("what stays was never said")?;
    assert!(retained.contains(&first), "{first:?} is not among {retained:?}");
    assert_eq!(retained.len(), 2, "{retained:?}");
    for name in ["one", "two"] {
        f.engine.remove(name, true).await?;
    }
    Ok(())
}
