//! Addresses as `swarm init` and `swarm join` take them: `host`, `interface`, either with a port, or
//! nothing at all.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use nix::ifaddrs::getifaddrs;
use skep_api::swarm::SwarmError;

use skep_registry::resolve;

/// Address to listen on: `addr[:port]` or `interface[:port]`; empty = every address.
pub fn listen(text: &str, default_port: u16) -> Result<SocketAddr, SwarmError> {
    if text.is_empty() {
        return Ok((Ipv4Addr::UNSPECIFIED, default_port).into());
    }
    parse(text, default_port)
}

/// Address other nodes reach this host at; empty = found by looking at the host's routes and interfaces,
/// refused when the choice is not clear. `towards` is a manager this host is about to join.
pub fn advertise(text: &str, port: u16, towards: Option<SocketAddr>) -> Result<SocketAddr, SwarmError> {
    if !text.is_empty() {
        let addr = parse(text, port)?;
        if addr.ip().is_unspecified() {
            return Err(SwarmError::Invalid("advertise address must be a non-zero IP address or network interface (with optional port number)".into()));
        }
        return Ok(addr);
    }
    if let Some(ip) = towards.and_then(source_towards) {
        return Ok((ip, port).into());
    }
    let mut candidates = host_addresses()?;
    match candidates.len() {
        1 => Ok((candidates.remove(0).1, port).into()),
        0 => Err(SwarmError::Invalid(
            "could not find an address of this host to advertise: name one with --advertise-addr".into(),
        )),
        _ => {
            let shown: Vec<_> =
                candidates.iter().map(|(name, ip)| format!("{ip} on interface {name}")).collect();
            Err(SwarmError::Invalid(format!(
                "could not choose an IP address to advertise since this system has multiple addresses ({}) - specify one with --advertise-addr",
                shown.join(" and ")
            )))
        }
    }
}

/// Address of the data path: an IP address or an interface, without a port (that is the whole swarm's);
/// empty = the advertised one.
pub fn data_path(text: &str) -> Result<Option<IpAddr>, SwarmError> {
    if text.is_empty() {
        return Ok(None);
    }
    let ip = if let Ok(ip) = text.parse() { ip } else { of_interface(text)? };
    if ip.is_unspecified() {
        return Err(SwarmError::Invalid(
            "data path address must be a non-zero IP address or a network interface".into(),
        ));
    }
    Ok(Some(ip))
}

/// A manager's address as a user gives it: an IP address or a host name, with an optional port.
pub async fn remote(text: &str, default_port: u16) -> Result<SocketAddr, SwarmError> {
    let text = text.strip_prefix("tcp://").unwrap_or(text);
    let bad = |why: String| {
        SwarmError::Invalid(format!(
            "{text:?} is not the address of a manager: {why}; want an IP address or a host name, with an \
             optional port, like 192.0.2.1:{default_port}"
        ))
    };
    let (host, port) = split(text, default_port).ok_or_else(|| bad("its port is not a number".into()))?;
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, port));
    }
    let name = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    if host.is_empty() || !host.chars().all(name) {
        return Err(bad("that is neither an IP address nor a host name".into()));
    }
    let found = resolve(&host).await.map_err(|e| bad(format!("the name {host} cannot be resolved ({e})")))?;
    let first = found.first().ok_or_else(|| bad(format!("the name {host} has no address")))?;
    Ok(SocketAddr::new(*first, port))
}

fn split(text: &str, default_port: u16) -> Option<(String, u16)> {
    if let Ok(addr) = text.parse::<SocketAddr>() {
        return Some((addr.ip().to_string(), addr.port()));
    }
    if text.parse::<IpAddr>().is_ok() {
        return Some((text.to_owned(), default_port));
    }
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() => Some((host.to_owned(), port.parse().ok()?)),
        Some(_) => None,
        None => Some((text.to_owned(), default_port)),
    }
}

fn parse(text: &str, default_port: u16) -> Result<SocketAddr, SwarmError> {
    let bad = |why: String| {
        SwarmError::Invalid(format!(
            "address {text:?}: {why}; want an IP address or an interface, each with an optional :port"
        ))
    };
    let (host, port) = split(text, default_port).ok_or_else(|| bad("the port is not a number".into()))?;
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok((ip, port).into());
    }
    Ok((of_interface(&host).map_err(|e| bad(e.to_string()))?, port).into())
}

/// The one address of an interface.
fn of_interface(name: &str) -> Result<IpAddr, SwarmError> {
    let found: Vec<_> = interface_addresses()?.into_iter().filter(|(n, _)| n == name).collect();
    match found.as_slice() {
        [(_, ip)] => Ok(*ip),
        [] => Err(SwarmError::Invalid(format!("there is no interface {name:?} with an IPv4 address here"))),
        several => Err(SwarmError::Invalid(format!(
            "interface {name} has {} IPv4 addresses: name one",
            several.len()
        ))),
    }
}

/// The source address the kernel would use; a connected UDP socket sends nothing.
pub fn source_towards(to: SocketAddr) -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(to).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified()).then_some(ip)
}

/// Whether this host has an address.
pub fn is_here(ip: IpAddr) -> Result<bool, SwarmError> {
    let all = getifaddrs().map_err(|e| SwarmError::Failed(format!("list this host's addresses: {e}")))?;
    let mut own = all.filter_map(|i| {
        let addr = i.address?;
        let v4 = addr.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        v4.or_else(|| addr.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
    });
    Ok(own.any(|own| own == ip))
}

fn interface_addresses() -> Result<Vec<(String, IpAddr)>, SwarmError> {
    let all = getifaddrs().map_err(|e| SwarmError::Failed(format!("list this host's addresses: {e}")))?;
    Ok(all
        .filter_map(|i| {
            let addr = i.address?;
            let v4 = addr.as_sockaddr_in()?.ip();
            Some((i.interface_name, IpAddr::V4(v4)))
        })
        .collect())
}

/// Addresses of real interfaces: no loopback and none of a container network.
fn host_addresses() -> Result<Vec<(String, IpAddr)>, SwarmError> {
    let virtual_link = |name: &str| {
        ["sk", "wg-", "veth", "docker", "br-", "podman", "cni"].iter().any(|p| name.starts_with(p))
    };
    let real = |(name, ip): &(String, IpAddr)| !ip.is_loopback() && !virtual_link(name);
    Ok(interface_addresses()?.into_iter().filter(real).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_with_or_without_a_port() {
        for (text, want) in [
            ("", "0.0.0.0:2377"),
            ("10.0.0.1", "10.0.0.1:2377"),
            ("10.0.0.1:99", "10.0.0.1:99"),
            ("lo:7", "127.0.0.1:7"),
        ] {
            assert_eq!(listen(text, 2377).expect(text).to_string(), want);
        }
        for bad in ["nosuchif0", "10.0.0.1:x", ":1"] {
            let error = listen(bad, 2377).expect_err(bad).to_string();
            assert!(error.contains(&format!("{bad:?}")), "{error}");
        }
    }

    #[test]
    fn the_advertised_address_cannot_be_every_address() {
        assert!(advertise("0.0.0.0", 2377, None).is_err());
    }

    #[tokio::test]
    async fn a_remote_is_an_address_or_a_name_with_a_port() {
        for (text, want) in [
            ("tcp://10.0.0.1", "10.0.0.1:2377"),
            ("10.0.0.1:99", "10.0.0.1:99"),
            ("localhost:7", "127.0.0.1:7"),
            ("[::1]:7", "[::1]:7"),
        ] {
            assert_eq!(remote(text, 2377).await.expect(text).to_string(), want);
        }
        for bad in ["", ":1", "10.0.0.1:x", "http://10.0.0.1", "a b", "no-such-name.invalid"] {
            let error = remote(bad, 2377).await.expect_err(bad).to_string();
            assert!(error.contains(&format!("{bad:?}")), "{error}");
        }
    }

    #[test]
    fn the_data_path_has_an_address_or_an_interface_and_no_port() {
        assert_eq!(data_path("").expect("none"), None);
        assert_eq!(data_path("10.0.0.1").expect("address").expect("some").to_string(), "10.0.0.1");
        assert_eq!(data_path("lo").expect("interface").expect("some").to_string(), "127.0.0.1");
        for bad in ["10.0.0.1:4789", "nosuchif0", "0.0.0.0"] {
            assert!(data_path(bad).is_err(), "{bad}");
        }
    }
}
