//! Another address of this host: found where nobody named one and the host has got another, or named by the operator
//! (`skep swarm readdress`). Kept first, then told to the managers, and on a manager to the others.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use skep_api::swarm::{ReaddressRequest, SwarmError};
use skep_manager::Start;
use skep_proto::defaults;
use tokio::time::MissedTickBehavior;

use super::super::address;
use super::super::membership::Membership;
use super::{Member, Node, failed, lock, reached_at};

/// Between two looks at a manager's address.
const LOOK: Duration = Duration::from_secs(1);
/// Looks that do not find it before another one is taken: an address that is renewed is away for a moment.
const MISSED: u32 = 2;

impl Node {
    /// Looks at a worker's address whenever it has come in touch with a manager, since connections break with the old
    /// one, and at a manager's again and again: it may be in touch with itself alone.
    pub(super) async fn follow_address(self, member: Arc<Member>) {
        let mut connection = member.agent.connection();
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut missed = 0;
        loop {
            let reached = connection.borrow_and_update().manager.clone().and_then(|m| m.parse().ok());
            {
                // Not in the midst of another change of the membership, whose record this would undo.
                let _one = self.inner.changing.lock().await;
                if let Err(e) = self.follow_host(&member, reached, &mut missed).await {
                    tracing::warn!(error = %e, "this host's new address is not kept");
                }
            }
            tokio::select! {
                changed = connection.changed() => if changed.is_err() { return },
                _ = look.tick() => {}
            }
        }
    }

    async fn follow_host(
        &self,
        member: &Member,
        reached: Option<SocketAddr>,
        missed: &mut u32,
    ) -> Result<(), SwarmError> {
        let mut membership = lock(&member.membership).clone();
        if !membership.advertise_found {
            return Ok(());
        }
        let before = membership.advertise_addr.ip();
        let found = if lock(&member.manager).is_none() {
            reached.and_then(address::source_towards)
        } else if address::is_here(before)? {
            *missed = 0;
            None
        } else {
            *missed += 1;
            (*missed >= MISSED).then(|| elsewhere(member, &membership)).flatten()
        };
        let Some(now) = found.filter(|now| *now != before) else { return Ok(()) };
        tracing::info!(%before, %now, "this host's address has changed");
        membership.advertise_addr.set_ip(now);
        self.go_to(member, membership).await
    }

    /// What the operator names.
    pub(super) async fn try_readdress(&self, request: ReaddressRequest) -> Result<(), SwarmError> {
        if self.is_locked() {
            return Err(SwarmError::Locked);
        }
        let member = lock(&self.inner.state).member.clone().ok_or(SwarmError::NotMember)?;
        let before = lock(&member.membership).clone();
        let mut membership = before.clone();
        if !request.advertise_addr.is_empty() {
            let port = before.advertise_addr.port();
            membership.advertise_addr = address::advertise(&request.advertise_addr, port, None)?;
            membership.advertise_found = false;
            if before.listen_addr.ip() == before.advertise_addr.ip() {
                membership.listen_addr.set_ip(membership.advertise_addr.ip());
            }
        }
        if !request.data_path_addr.is_empty() {
            membership.data_path_addr = address::data_path(&request.data_path_addr)?;
        }
        let mut managers = Vec::with_capacity(request.remote_addrs.len());
        for text in &request.remote_addrs {
            managers.push(address::remote(text, defaults::MANAGER_PORT).await?.to_string());
        }
        member.agent.try_managers(managers.clone());
        if membership != before {
            self.go_to(&member, membership.clone()).await?;
        }
        if let Some(manager) = lock(&member.manager).as_ref() {
            manager.readdress(&membership.advertise_addr.to_string(), managers);
        }
        Ok(())
    }

    async fn go_to(&self, member: &Member, membership: Membership) -> Result<(), SwarmError> {
        membership.save(&self.inner.options.dir).map_err(failed)?;
        let before = std::mem::replace(&mut *lock(&member.membership), membership.clone());
        let own = membership.advertise_addr.to_string();
        let manager = lock(&member.manager).clone();
        let mut moved = Ok(());
        if let Some(manager) = manager {
            member.agent.try_managers([own.clone()]);
            if before.listen_addr == membership.listen_addr {
                manager.readdress(&own, []);
            } else {
                manager.stop().await;
                moved = self.listen_elsewhere(member, &membership).await;
            }
        }
        member.addresses.send_replace(reached_at(&membership));
        moved
    }

    /// Starts the manager, which has stopped, where it is to listen now.
    async fn listen_elsewhere(&self, member: &Member, membership: &Membership) -> Result<(), SwarmError> {
        match self.start_manager(&member.identity, membership, Start::Restart).await {
            Ok(manager) => {
                *lock(&member.manager) = Some(manager);
                Ok(())
            }
            Err(e) => {
                *lock(&member.manager) = None;
                *lock(&member.manager_error) = e.to_string();
                Err(e)
            }
        }
    }
}

/// The address on the way to another manager, or the only one that the host has.
fn elsewhere(member: &Member, membership: &Membership) -> Option<IpAddr> {
    let own = membership.advertise_addr;
    let others = member.agent.managers().into_iter().filter_map(|m| m.parse::<SocketAddr>().ok());
    let towards = others.filter(|m| *m != own).find_map(address::source_towards);
    towards.or_else(|| address::advertise("", own.port(), None).ok().map(|a| a.ip()))
}
