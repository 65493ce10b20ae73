//! Changes of membership: starting a swarm, joining one, going on alone, leaving.

use std::net::SocketAddr;

use skep_api::swarm::{InitRequest, JoinRequest, SwarmError};
use skep_identity::{Bootstrap, Host, Identity, JoinToken, Role};
use skep_manager::{InitOptions, Manager, Start};
use skep_proto::defaults;

use super::super::address;
use super::super::description::hostname;
use super::super::membership::Membership;
use super::lock::Keys;
use super::{Member, Node, failed, lock, reached_at, swarm_events};

impl Node {
    /// Where others reach this node: as it was asked for, else as the daemon was told.
    fn advertised(&self, asked: &mut String) {
        if asked.is_empty() {
            *asked = self.inner.options.advertise_addr.clone().unwrap_or_default();
        }
    }

    pub(super) async fn try_init(&self, mut request: InitRequest) -> Result<String, SwarmError> {
        self.advertised(&mut request.advertise_addr);
        let (listen, advertise) = addresses(&request.listen_addr, &request.advertise_addr, None)?;
        let data_path_addr = address::data_path(&request.data_path_addr)?;
        let init = InitOptions {
            spec: request.spec,
            availability: request.availability,
            hostname: hostname(),
            address_pools: request.address_pools,
            subnet_size: request.subnet_size,
            data_path_port: request.data_path_port,
            ..Default::default()
        };
        let membership = Membership {
            listen_addr: listen,
            advertise_addr: advertise,
            advertise_found: is_found(&request.advertise_addr, listen),
            data_path_addr,
            managers: Vec::new(),
        };
        let (manager, identity) = Manager::init(
            self.dir("manager"),
            &self.dir("identity"),
            self.inner.network.clone(),
            listen.to_string(),
            advertise.to_string(),
            init,
        )
        .await
        .map_err(failed)?;
        swarm_events::tell(self.inner.options.engine.clone(), &manager.store());
        membership.save(&self.inner.options.dir).map_err(failed)?;
        let id = identity.node_id().to_string();
        self.become_member(identity, membership, Some(manager)).await?;
        Ok(id)
    }

    /// `init --force-new-cluster`: the other managers are lost, and this one goes on alone with all its log
    /// holds. Tasks go on meanwhile. On a host in no swarm it is a plain `init`, as in Docker.
    pub(super) async fn try_force_new_cluster(&self, request: InitRequest) -> Result<String, SwarmError> {
        let member = lock(&self.inner.state).member.clone();
        let Some(member) = member else { return self.force_from_disk(request).await };
        if member.identity.role() != Role::Manager {
            return Err(SwarmError::NotManager);
        }
        let before = lock(&member.membership).clone();
        let membership = readdressed(&before, &request)?;
        if let Some(following) = lock(&member.role_watch).take() {
            following.abort();
        }
        let manager = lock(&member.manager).take();
        if let Some(manager) = manager {
            manager.stop().await;
        }
        let alone = match self.start_manager(&member.identity, &membership, Start::ForceNewCluster).await {
            Ok(manager) => self.go_on_with(&member, manager, membership).await,
            // Nothing is lost by it: the manager goes on as it was, if it can.
            Err(e) => {
                match self.start_manager(&member.identity, &before, Start::Restart).await {
                    Ok(manager) => *lock(&member.manager) = Some(manager),
                    Err(e) => *lock(&member.manager_error) = e.to_string(),
                }
                Err(e)
            }
        };
        self.follow(&member);
        alone.map(|()| member.identity.node_id().to_string())
    }

    async fn go_on_with(
        &self,
        member: &Member,
        manager: Manager,
        membership: Membership,
    ) -> Result<(), SwarmError> {
        *lock(&member.manager) = Some(manager);
        lock(&member.manager_error).clear();
        membership.save(&self.inner.options.dir).map_err(failed)?;
        member.agent.only_manager(membership.advertise_addr.to_string()).await;
        member.addresses.send_replace(reached_at(&membership));
        *lock(&member.membership) = membership;
        Ok(())
    }

    /// The same for a membership that could not be resumed.
    async fn force_from_disk(&self, request: InitRequest) -> Result<String, SwarmError> {
        let membership = Membership::load(&self.inner.options.dir).map_err(failed)?;
        let (Some(membership), Keys::Open(Some(identity))) = (membership, self.keys(None)?) else {
            self.begin()?;
            let outcome = self.try_init(request).await;
            return self.finish(outcome).await;
        };
        if identity.role() != Role::Manager || !self.dir("manager").exists() {
            return Err(SwarmError::NotManager);
        }
        let membership = readdressed(&membership, &request)?;
        let manager = self.start_manager(&identity, &membership, Start::ForceNewCluster).await?;
        membership.save(&self.inner.options.dir).map_err(failed)?;
        let id = identity.node_id().to_string();
        self.become_member(identity, membership, Some(manager)).await?;
        Ok(id)
    }

    pub(super) async fn try_join(&self, mut request: JoinRequest) -> Result<(), SwarmError> {
        self.advertised(&mut request.advertise_addr);
        if request.remote_addrs.is_empty() {
            return Err(SwarmError::Invalid("name at least one manager of the swarm to join".into()));
        }
        let token: JoinToken = request.token.parse().map_err(|e| SwarmError::Invalid(format!("{e}")))?;
        let data_path_addr = address::data_path(&request.data_path_addr)?;
        let port = defaults::MANAGER_PORT;
        let mut last = SwarmError::Unavailable(String::new());
        for text in &request.remote_addrs {
            let remote = address::remote(text, port).await?;
            let (listen, advertise) = addresses(&request.listen_addr, &request.advertise_addr, Some(remote))?;
            let name = hostname();
            let join = Bootstrap {
                host: &Host::system(),
                addr: &remote.to_string(),
                token: &token,
                availability: request.availability,
                hostname: &name,
            };
            match skep_identity::bootstrap(&self.inner.network, &self.dir("identity"), join).await {
                Ok(identity) => {
                    let managers = vec![remote.to_string()];
                    let membership = Membership {
                        listen_addr: listen,
                        advertise_addr: advertise,
                        advertise_found: is_found(&request.advertise_addr, listen),
                        data_path_addr,
                        managers,
                    };
                    membership.save(&self.inner.options.dir).map_err(failed)?;
                    return self.enter(identity, membership, remote).await;
                }
                Err(e) => last = refused(&e),
            }
        }
        Err(last)
    }

    async fn enter(
        &self,
        identity: Identity,
        membership: Membership,
        remote: SocketAddr,
    ) -> Result<(), SwarmError> {
        let manager = if identity.role() == Role::Manager {
            let start = Start::Join { remote: remote.to_string() };
            Some(self.start_manager(&identity, &membership, start).await?)
        } else {
            None
        };
        self.become_member(identity, membership, manager).await
    }

    pub(super) async fn try_leave(&self, force: bool) -> Result<(), SwarmError> {
        if self.is_locked() {
            return self.leave_locked(force).await;
        }
        let member = lock(&self.inner.state).member.clone();
        let Some(member) = member else {
            // A membership that could not be resumed is left by removing what there is of it.
            let broken = !std::mem::take(&mut lock(&self.inner.state).error).is_empty();
            return if broken { self.wipe().await } else { Err(SwarmError::NotMember) };
        };
        let manager = member.manager();
        let manages = manager.is_some();
        if let Some(manager) = &manager
            && !force
        {
            return Err(SwarmError::ManagerNeedsForce(manager.leave_warning()));
        }
        if let Some(following) = lock(&member.role_watch).take() {
            following.abort();
        }
        if let Some(manager) = manager
            && let Err(e) = manager.leave().await
        {
            tracing::warn!(error = %e, "left without the other managers' consent: remove this node there with `node rm --force`");
        }
        let outdated = lock(&member.manager).take().filter(|_| !manages);
        if let Some(outdated) = outdated {
            outdated.stop().await;
        }
        member.agent.drain().await;
        lock(&self.inner.state).member = None;
        self.inner.options.attachments.alone();
        drop(member);
        let plane = self.inner.options.plane.leave_swarm().await.map_err(failed);
        self.wipe().await.and(plane)
    }
}

/// Port 0 asks for any free port; the manager's address is told to others before it listens, so the port
/// is chosen here.
fn with_port(mut addr: SocketAddr) -> Result<SocketAddr, SwarmError> {
    if addr.port() == 0 {
        let free = std::net::TcpListener::bind(addr).and_then(|l| l.local_addr());
        addr = free.map_err(|e| SwarmError::Failed(format!("find a free port on {}: {e}", addr.ip())))?;
    }
    Ok(addr)
}

fn addresses(
    listen: &str,
    advertise: &str,
    towards: Option<SocketAddr>,
) -> Result<(SocketAddr, SocketAddr), SwarmError> {
    let listen = with_port(address::listen(listen, defaults::MANAGER_PORT)?)?;
    let advertise = if advertise.is_empty() && !is_found(advertise, listen) {
        listen
    } else {
        address::advertise(advertise, listen.port(), towards)?
    };
    Ok((listen, advertise))
}

/// Whether the advertised address is looked for: nothing that was said names one.
fn is_found(advertise: &str, listen: SocketAddr) -> bool {
    advertise.is_empty() && listen.ip().is_unspecified()
}

/// The membership with the addresses that a request names; the client always names a listen address.
fn readdressed(membership: &Membership, request: &InitRequest) -> Result<Membership, SwarmError> {
    let mut new = membership.clone();
    let unsaid = ["".to_owned(), format!("0.0.0.0:{}", defaults::MANAGER_PORT)];
    if !unsaid.contains(&request.listen_addr) {
        new.listen_addr = with_port(address::listen(&request.listen_addr, defaults::MANAGER_PORT)?)?;
    }
    if !request.advertise_addr.is_empty() {
        new.advertise_addr = address::advertise(&request.advertise_addr, new.listen_addr.port(), None)?;
        new.advertise_found = false;
    }
    if !request.data_path_addr.is_empty() {
        new.data_path_addr = address::data_path(&request.data_path_addr)?;
    }
    Ok(new)
}

/// A join that failed: by the token, which the user gave, or because nobody let us in.
fn refused(e: &skep_identity::Error) -> SwarmError {
    use skep_identity::Error;
    match e {
        Error::Token(_) | Error::TokenRefused(_) | Error::DigestMismatch { .. } => {
            SwarmError::Invalid(e.to_string())
        }
        _ => SwarmError::Unavailable(e.to_string()),
    }
}
