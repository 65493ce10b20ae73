//! Places of this node's own containers (those outside services) in networks of the swarm: asked of a manager
//! when a container starts, given back when it stops. Managers keep what they gave as tasks of this node, so it
//! comes back with the assignments; whatever differs from what the containers here need is asked for again, or
//! given back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use skep_proto::v1::{self, dispatcher_client::DispatcherClient};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::assignments::Assignments;
use crate::plane::Applied;

/// How long a container's start waits for the swarm: for the session, for the answer, and for the network's
/// state to be in force here.
const SESSION: Duration = Duration::from_secs(3);
const ANSWER: Duration = Duration::from_secs(5);
const APPLIED: Duration = Duration::from_secs(20);
/// Pause before a difference that could not be removed is looked at again.
const RETRY: Duration = Duration::from_secs(2);

/// Why a container has no place in a network.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Neither this host nor the swarm has such a network.
    #[error("network {0} not found")]
    NoSuchNetwork(String),
    /// A manager said no. The words are Docker's, where clients know them.
    #[error("Could not attach to network {network}: rpc error: code = {code:?} desc = {reason}")]
    Refused {
        /// As asked for.
        network: String,
        /// The manager's code.
        code: Code,
        /// The manager's words.
        reason: String,
    },
    /// No manager answered.
    #[error(
        "Could not attach to network {network}: no manager of the swarm can be asked for an address ({reason}); try again when one is in reach"
    )]
    Unreachable {
        /// As asked for.
        network: String,
        /// What was tried.
        reason: String,
    },
    /// The manager gave a place, but its network did not come.
    #[error(
        "Could not attach to network {network}: its state was not in force on this node within {} s; see the daemon's log", APPLIED.as_secs()
    )]
    Late {
        /// As asked for.
        network: String,
    },
}

/// What a container asks for.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// ID, name, or unique beginning of an ID.
    pub network: String,
    /// Container ID.
    pub container_id: String,
    /// Container name.
    pub name: String,
    /// Further DNS names.
    pub aliases: Vec<String>,
    /// Address; empty = any.
    pub addr: String,
    /// The same of IPv6.
    pub addr6: String,
}

/// A place in a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Network ID.
    pub network_id: String,
    /// Address.
    pub addr: String,
    /// The same of IPv6; empty where the network has none.
    pub addr6: String,
    /// Name of the container and further names.
    pub name: String,
    /// Further DNS names.
    pub aliases: Vec<String>,
}

/// The handle; outlives memberships. Cheap to clone.
#[derive(Clone, Default)]
pub struct Attachments(Arc<Inner>);

#[derive(Default)]
struct Inner {
    membership: watch::Sender<Membership>,
    /// By container, then network ID: what containers that run here need.
    needed: Mutex<BTreeMap<String, BTreeMap<String, Place>>>,
    /// One call about a container at a time.
    turns: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
    changed: tokio::sync::Notify,
}

/// Where this host stands.
#[derive(Clone, Default)]
enum Membership {
    /// The daemon is starting; nobody knows yet.
    #[default]
    Starting,
    /// In no swarm.
    None,
    Member(Link),
}

/// What is asked of the agent.
#[derive(Clone)]
pub(crate) struct Link {
    /// To the manager that holds the session.
    pub channel: watch::Receiver<Option<Channel>>,
    pub assignments: watch::Receiver<Assignments>,
    pub applied: watch::Receiver<Applied>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Attachments {
    /// Says that this host is in no swarm (any more).
    pub fn alone(&self) {
        lock(&self.0.needed).clear();
        self.0.membership.send_replace(Membership::None);
    }

    pub(crate) fn join(&self, link: Link) {
        self.0.membership.send_replace(Membership::Member(link));
    }

    /// Takes up what containers that run already have.
    pub fn take_up(&self, container_id: &str, place: Place) {
        let mut needed = lock(&self.0.needed);
        needed.entry(container_id.to_owned()).or_default().insert(place.network_id.clone(), place);
    }

    /// The networks that containers here are attached to.
    pub(crate) fn networks(&self) -> BTreeSet<String> {
        lock(&self.0.needed).values().flat_map(|n| n.keys().cloned()).collect()
    }

    fn turn(&self, container_id: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = lock(&self.0.turns);
        turns.retain(|id, turn| id == container_id || Arc::strong_count(turn) > 1);
        turns.entry(container_id.to_owned()).or_default().clone()
    }

    /// Asks for a place, and waits until its network is in force here.
    pub async fn attach(&self, asked: Asked) -> Result<Place, AttachError> {
        let none = || AttachError::NoSuchNetwork(asked.network.clone());
        let mut membership = self.0.membership.subscribe();
        let known = membership.wait_for(|m| !matches!(m, Membership::Starting));
        let link = match timeout(APPLIED, known).await {
            Ok(Ok(known)) => match &*known {
                Membership::Member(link) => link.clone(),
                Membership::None | Membership::Starting => return Err(none()),
            },
            _ => return Err(none()),
        };
        let turn = self.turn(&asked.container_id);
        let _one = turn.lock().await;
        let task = match ask(&link, &asked).await {
            Ok(task) => task,
            // Managers are asked first: they alone know whether a place kept here is still ours.
            Err(AttachError::Unreachable { network, reason }) => {
                kept(&link, &asked).ok_or(AttachError::Unreachable { network, reason })?
            }
            Err(refused) => return Err(refused),
        };
        let given = task.addresses.first().cloned().unwrap_or_default();
        let place = Place {
            network_id: given.network_id,
            addr: given.addr,
            addr6: given.addr6,
            name: asked.name.clone(),
            aliases: asked.aliases.clone(),
        };
        if in_force(&link, &task.id, &place.network_id).await.is_none() {
            return Err(AttachError::Late { network: asked.network });
        }
        self.take_up(&asked.container_id, place.clone());
        Ok(place)
    }

    /// Has the managers tell all nodes a container's new name.
    pub async fn rename(&self, container_id: &str, name: &str) {
        {
            let turn = self.turn(container_id);
            let _one = turn.lock().await;
            let mut needed = lock(&self.0.needed);
            let Some(places) = needed.get_mut(container_id) else { return };
            places.values_mut().for_each(|place| place.name = name.to_owned());
        }
        self.0.changed.notify_one();
    }

    /// Gives back a container's place in a network, or in all.
    pub async fn detach(&self, container_id: &str, network_id: Option<&str>) {
        let turn = self.turn(container_id);
        let _one = turn.lock().await;
        let held = {
            let mut needed = lock(&self.0.needed);
            match network_id {
                None => needed.remove(container_id).is_some(),
                Some(network) => needed.get_mut(container_id).is_some_and(|n| n.remove(network).is_some()),
            }
        };
        let Membership::Member(link) = self.0.membership.borrow().clone() else { return };
        let concerned = |(container, network): (&str, &str)| {
            container == container_id && network_id.is_none_or(|n| n == network)
        };
        let assigned = given(&link.assignments.borrow()).any(concerned);
        if !held && !assigned {
            return;
        }
        let network = network_id.unwrap_or_default();
        if let Err(error) = give_back(&link, container_id, network).await {
            tracing::info!(container = container_id, %error, "a place in the swarm's networks is given back once a manager is in reach");
        }
        self.0.changed.notify_one();
    }

    /// Removes differences between what containers here need and what managers have given, for as long as it is
    /// let run.
    pub(crate) async fn settle(self, mut link: Link) {
        loop {
            link.assignments.borrow_and_update();
            let connected = link.channel.borrow_and_update().is_some();
            let settled = !connected || self.settle_once(&link).await;
            tokio::select! {
                r = link.assignments.changed() => if r.is_err() { return },
                r = link.channel.changed() => if r.is_err() { return },
                () = self.0.changed.notified() => {}
                () = sleep(RETRY), if !settled => {}
            }
        }
    }

    /// One comparison; false if something is left.
    async fn settle_once(&self, link: &Link) -> bool {
        let given: BTreeSet<(String, String)> =
            given(&link.assignments.borrow()).map(|(c, n)| (c.to_owned(), n.to_owned())).collect();
        let mut settled = true;
        for (container, network) in &given {
            let turn = self.turn(container);
            let _one = turn.lock().await;
            let needed = lock(&self.0.needed).get(container).is_some_and(|n| n.contains_key(network));
            let still =
                self::given(&link.assignments.borrow()).any(|g| g == (container.as_str(), network.as_str()));
            if !needed && still {
                tracing::info!(container, network, "giving back a place that no container here has");
                settled &= give_back(link, container, network).await.is_ok();
            }
        }
        let missing = self.missing(&link.assignments.borrow());
        for (container, place) in missing {
            let turn = self.turn(&container);
            let _one = turn.lock().await;
            let held =
                lock(&self.0.needed).get(&container).is_some_and(|n| n.contains_key(&place.network_id));
            if !held {
                continue;
            }
            let asked = Asked {
                network: place.network_id.clone(),
                container_id: container.clone(),
                name: place.name,
                aliases: place.aliases,
                addr: place.addr,
                addr6: place.addr6,
            };
            if let Err(error) = ask(link, &asked).await {
                tracing::warn!(container, %error, "a running container has no place in a network of the swarm, or its old name there");
                settled = false;
            }
        }
        settled
    }
}

impl Attachments {
    /// Places that containers here need and no manager has given, or not under the present name.
    fn missing(&self, set: &Assignments) -> Vec<(String, Place)> {
        let given: BTreeSet<(&str, &str, &str)> = set
            .attachments()
            .flat_map(|(task, a)| {
                let networks = task.addresses.iter().map(|at| at.network_id.as_str());
                networks.map(move |n| (a.container_id.as_str(), n, a.container_name.as_str()))
            })
            .collect();
        let mut missing = Vec::new();
        for (container, places) in lock(&self.0.needed).iter() {
            for (network, place) in places {
                if !given.contains(&(container.as_str(), network.as_str(), place.name.as_str())) {
                    missing.push((container.clone(), place.clone()));
                }
            }
        }
        missing
    }
}

/// Container and network of every place the managers have given this node.
fn given(set: &Assignments) -> impl Iterator<Item = (&str, &str)> {
    set.attachments().flat_map(|(task, attachment)| {
        task.addresses.iter().map(move |a| (attachment.container_id.as_str(), a.network_id.as_str()))
    })
}

async fn channel(link: &Link) -> Result<Channel, String> {
    let mut channel = link.channel.clone();
    let there = timeout(SESSION, channel.wait_for(Option::is_some)).await;
    let connected = there.ok().and_then(Result::ok).and_then(|c| c.clone());
    connected.ok_or_else(|| "this node is not in touch with the swarm".to_owned())
}

/// Asks a manager. It names the place a container has when it is asked again.
async fn ask(link: &Link, asked: &Asked) -> Result<v1::Task, AttachError> {
    let network = asked.network.clone();
    let unreachable = |reason| AttachError::Unreachable { network: asked.network.clone(), reason };
    let mut client = DispatcherClient::new(channel(link).await.map_err(unreachable)?);
    let request = v1::AttachRequest {
        node_id: String::new(),
        network: asked.network.clone(),
        attachment: Some(v1::Attachment {
            container_id: asked.container_id.clone(),
            container_name: asked.name.clone(),
            aliases: asked.aliases.clone(),
        }),
        addr: asked.addr.clone(),
        addr6: asked.addr6.clone(),
    };
    match answered(client.attach(request)).await {
        Ok(answer) => answer.into_inner().task.ok_or_else(|| unreachable("it gave no place".to_owned())),
        Err(e) if e.code() == Code::NotFound => Err(AttachError::NoSuchNetwork(network)),
        Err(e) if matches!(e.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled) => {
            Err(unreachable(e.message().to_owned()))
        }
        Err(e) => Err(AttachError::Refused { network, code: e.code(), reason: e.message().to_owned() }),
    }
}

async fn give_back(link: &Link, container: &str, network: &str) -> Result<(), String> {
    let mut client = DispatcherClient::new(channel(link).await?);
    let request = v1::DetachRequest {
        node_id: String::new(),
        container_id: container.to_owned(),
        network_id: network.to_owned(),
    };
    answered(client.detach(request)).await.map(drop).map_err(|e| e.message().to_owned())
}

async fn answered<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let late = |_| Status::deadline_exceeded(format!("no answer within {} s", ANSWER.as_secs()));
    timeout(ANSWER, call).await.map_err(late)?
}

/// The place that managers had given the container when they were last in reach.
fn kept(link: &Link, asked: &Asked) -> Option<v1::Task> {
    let set = link.assignments.borrow();
    let of_network =
        |id: &str| id == asked.network || set.networks.get(id).is_some_and(|view| view.name == asked.network);
    let found = set.attachments().find(|(task, attachment)| {
        attachment.container_id == asked.container_id
            && task.addresses.iter().any(|a| of_network(&a.network_id))
    });
    found.map(|(task, _)| task.clone())
}

/// Waits until this node has been told of the place, and its data plane holds the network as it is with it.
async fn in_force(link: &Link, task: &str, network: &str) -> Option<()> {
    let (mut assignments, mut applied) = (link.assignments.clone(), link.applied.clone());
    let wait = async {
        let version = {
            let told = assignments.wait_for(|set| set.tasks.contains_key(task)).await.ok()?;
            told.networks.get(network).map_or(0, |view| view.version)
        };
        applied.wait_for(|a| a.networks.get(network).is_some_and(|v| *v >= version)).await.ok()?;
        Some(())
    };
    timeout(APPLIED, wait).await.ok().flatten()
}
