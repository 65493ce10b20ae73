//! Finding a manager that answers, and keeping a session with it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use rand::Rng;
use skep_engine::Engine;
use skep_identity::{Identity, Network, Role};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::remotes::Remotes;
use crate::{AgentOptions, Connection, logs, session, tunnels};

/// First and longest pause between rounds of attempts to reach a manager.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// How long one manager may take before the next is tried beside it (RFC 8305, section 5: "Connection
/// Attempt Delay"). Dead hosts answer nothing at all, and a node in search of a manager is soon held for dead.
const STAGGER: Duration = Duration::from_millis(300);
/// Pause before a manager that refused is asked again.
const AGAIN: Duration = Duration::from_millis(500);

/// A connection to the first manager that answers, and its address. One that refuses is asked again while
/// others are yet to answer: it may be starting, and they may be gone.
pub(crate) async fn any_manager(
    identity: &Identity,
    network: &Arc<dyn Network>,
    remotes: &Remotes,
) -> Result<(String, Channel), String> {
    let attempt = |addr: String, delay: Duration| async move {
        tokio::time::sleep(delay).await;
        let connected = skep_identity::connected(identity, network, &addr, Role::Manager).await;
        (addr, connected)
    };
    let mut waiting = remotes.order().into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut unanswered = Vec::new();
    let mut errors = BTreeMap::new();
    loop {
        if let Some(addr) = waiting.next() {
            unanswered.push(addr.clone());
            attempts.push(attempt(addr, Duration::ZERO));
        } else if unanswered.is_empty() {
            break;
        }
        tokio::select! {
            biased;
            Some((addr, connected)) = attempts.next() => {
                unanswered.retain(|a| *a != addr);
                match connected {
                    Ok(channel) => {
                        // They had a head start.
                        unanswered.iter().for_each(|slower| remotes.failed(slower));
                        return Ok((addr, channel));
                    }
                    Err(e) => {
                        remotes.failed(&addr);
                        errors.insert(addr.clone(), format!("manager {addr}: {e}"));
                        attempts.push(attempt(addr, AGAIN));
                    }
                }
            }
            () = tokio::time::sleep(STAGGER), if waiting.len() > 0 => {}
        }
    }
    if errors.is_empty() {
        return Err("no manager is known: join the swarm again".to_owned());
    }
    Err(errors.into_values().collect::<Vec<_>>().join("; "))
}

/// Keeps a session with some manager, until this node is removed from the swarm.
pub(crate) async fn keep_session(
    options: AgentOptions,
    shared: session::Shared,
    connected: watch::Sender<Connection>,
) {
    let mut pause = RECONNECT.0;
    let mut rng = options.identity.host().rng();
    // They outlive a session: what a user is at should not end with it.
    let mut open = JoinSet::new();
    loop {
        let outcome = match any_manager(&options.identity, &options.network, &shared.remotes).await {
            Err(error) => Err((false, error)),
            Ok((addr, channel)) => {
                let mut reached = false;
                let held = {
                    let session = session::hold(channel.clone(), &shared, || {
                        reached = true;
                        shared.remotes.succeeded(&addr);
                        shared.channel.send_replace(Some(channel.clone()));
                        connected
                            .send_replace(Connection { manager: Some(addr.clone()), ..Default::default() });
                        tracing::info!(manager = %addr, "in touch with the swarm");
                    });
                    let logs = async {
                        match &options.engine {
                            Some(engine) => {
                                let node_id = options.identity.node_id().to_string();
                                publish_logs(channel.clone(), engine.clone(), node_id).await;
                            }
                            None => std::future::pending().await,
                        }
                    };
                    let tunnels = take_tunnels(channel.clone(), &options, &addr, &mut open);
                    // A connection to an address that is gone would be waited for.
                    let elsewhere = async {
                        shared.remotes.elsewhere_than(&addr).await;
                        Err(tonic::Status::cancelled("a manager says that there is none here any more"))
                    };
                    tokio::select! {
                        held = session => held,
                        moved = elsewhere => moved,
                        () = logs => Ok(()),
                        () = tunnels => Ok(()),
                    }
                };
                shared.channel.send_replace(None);
                if reached {
                    pause = RECONNECT.0;
                } else {
                    shared.remotes.failed(&addr);
                }
                held.map_err(|e| {
                    (
                        skep_identity::is_removed(&e),
                        format!("manager {addr}: {}", skep_identity::explain(&addr, &e)),
                    )
                })
            }
        };
        match outcome {
            Err((true, error)) => {
                tracing::error!(%error, "this node was removed from the swarm: its tasks end");
                connected.send_replace(Connection { manager: None, error, removed: true });
                // Node IDs are never given twice: there is nothing to come back to.
                shared.assignments.send_modify(crate::Assignments::clear);
                return;
            }
            Err((false, error)) => {
                tracing::warn!(%error, "not in touch with the swarm, running tasks go on");
                connected.send_replace(Connection { manager: None, error, removed: false });
            }
            Ok(()) => {}
        }
        tokio::time::sleep(pause.mul_f32(rng.random_range(0.5..1.5))).await;
        pause = (pause * 2).min(RECONNECT.1);
    }
}

/// Takes tunnels for as long as the channel is used.
async fn take_tunnels(channel: Channel, options: &AgentOptions, addr: &str, open: &mut JoinSet<()>) {
    let Some(served) = &options.tunnels else { return std::future::pending().await };
    let from = tunnels::From { identity: &options.identity, network: &options.network, addr, served };
    loop {
        if let Err(e) = tunnels::listen(channel.clone(), &from, open).await {
            tracing::debug!(error = %e, "offers of tunnels broke off");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Serves log subscriptions for as long as the channel is used; a broken stream is opened again.
async fn publish_logs(channel: Channel, engine: Engine, node_id: String) {
    loop {
        if let Err(e) = logs::serve(channel.clone(), engine.clone(), node_id.clone()).await {
            tracing::debug!(error = %e, "log subscriptions broke off");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
