//! Ports that are open on one address of the hosts, or on one interface: what can be asked for.

use skep_proto::host_ip::HostIp;
use skep_proto::v1;
use tonic::Status;

use crate::store::StoreView;

/// Refuses what names neither, and an interface without a port where that is one of the host itself.
pub(super) fn check(port: &v1::PortConfig) -> Result<(), Status> {
    if port.host_ip.is_empty() {
        return Ok(());
    }
    let of = format!("host IP {:?} of published port {}", port.host_ip, port.published_port);
    match HostIp::read(&port.host_ip) {
        None => Err(Status::invalid_argument(format!(
            "{of} is neither an IP address nor the name of an interface: name one that the nodes have, or 0.0.0.0 for all"
        ))),
        Some(HostIp::Interface(_)) if port.mode() == v1::PublishMode::Host && port.published_port == 0 => {
            Err(Status::invalid_argument(format!(
                "{of} is an interface, whose addresses come and go: a port in mode=host that follows them needs a number \
                 (published=8080)"
            )))
        }
        Some(_) => Ok(()),
    }
}

/// Refuses an IPv6 address where the mesh has none.
pub(super) fn possible(view: &StoreView, spec: &v1::ServiceSpec) -> Result<(), Status> {
    let six = |p: &&v1::PortConfig| {
        p.mode() == v1::PublishMode::Ingress
            && matches!(HostIp::read(&p.host_ip), Some(HostIp::Address(addr)) if addr.is_ipv6() && !addr.is_unspecified())
    };
    let Some(port) = spec.endpoint.iter().flat_map(|e| &e.ports).find(six) else { return Ok(()) };
    if view.ingress_network().is_some_and(|n| !n.subnet6.is_empty()) {
        return Ok(());
    }
    Err(Status::failed_precondition(format!(
        "host IP {:?} of published port {} is IPv6, and the ingress network has none: remove it and make it anew with \
         `docker network create --ingress --driver overlay --ipv6`, or name an IPv4 address",
        port.host_ip, port.published_port
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_of_the_host_needs_a_number_and_is_told_so_in_one_line() {
        let mode = v1::PublishMode::Host.into();
        let port = v1::PortConfig { host_ip: "eth0".into(), mode, ..Default::default() };
        let refused = check(&port).expect_err("no number");
        assert!(refused.message().contains("needs a number (published=8080)"), "{refused}");
        check(&v1::PortConfig { published_port: 8080, ..port }).expect("a number");
    }
}
