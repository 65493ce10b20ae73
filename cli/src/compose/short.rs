//! The short forms of ports and volumes.

use super::node::{At, Kind, Node, Problem};

/// `[[ip:]published:]target[/protocol]`, each a port or a range, as one long form for each port.
pub fn ports(item: &Node, path: &str) -> Result<Vec<Node>, Problem> {
    let text = item.text().unwrap_or_default();
    let bad = |why: &str| Problem::new(&item.at, format!("{path}.ports: {text:?}: {why}"));
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    if !["tcp", "udp", "sctp"].contains(&protocol) {
        return Err(bad("want tcp, udp or sctp after the slash"));
    }
    let (front, target) = ports.rsplit_once(':').unwrap_or(("", ports));
    let (ip, published) = front.rsplit_once(':').unwrap_or(("", front));
    let ip = ip.trim_start_matches('[').trim_end_matches(']');
    if !ip.is_empty() && ip.parse::<std::net::IpAddr>().is_err() {
        return Err(bad("want an IP address before the published port"));
    }
    let targets = range(target).ok_or_else(|| bad("want a port from 1 to 65535, or a range of them"))?;
    let published = match published {
        "" => None,
        given => Some(range(given).ok_or_else(|| bad("the published port is not one from 1 to 65535"))?),
    };
    let count = targets.1 - targets.0;
    if published.is_some_and(|(first, last)| last - first != count) {
        return Err(bad("the two ranges of ports differ in length"));
    }
    let at = &item.at;
    let port = |i: u16| {
        let mut long = Node::map(at);
        long.set("mode", Node::string(at, "ingress"));
        if !ip.is_empty() {
            long.set("host_ip", Node::string(at, ip));
        }
        long.set("target", Node::int(at, targets.0 + i));
        if let Some((first, _)) = published {
            long.set("published", Node::int(at, first + i));
        }
        long.set("protocol", Node::string(at, protocol));
        long
    };
    Ok((0..=count).map(port).collect())
}

/// `80` or `80-82`.
fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    let (first, last): (u16, u16) =
        (digits(first) && digits(last)).then(|| Some((first.parse().ok()?, last.parse().ok()?)))??;
    (first > 0 && first <= last).then_some((first, last))
}

/// `[source:]target[:options]`.
pub fn volume(item: &Node, path: &str) -> Result<Node, Problem> {
    let text = item.text().unwrap_or_default();
    let at = &item.at;
    let bad = |why: &str| Problem::new(at, format!("{path}.volumes: {text:?}: {why}"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => ("", target, ""),
        [source, target] => (source, target, ""),
        [source, target, options] => (source, target, options),
        _ => return Err(bad("want [source:]target[:options]")),
    };
    if target.is_empty() || (parts.len() > 1 && source.is_empty()) {
        return Err(bad("a part of it is empty"));
    }
    let bind = source.starts_with(['/', '.', '~']);
    let mut long = Node::map(at);
    long.set("type", Node::string(at, if bind { "bind" } else { "volume" }));
    if !source.is_empty() {
        long.set("source", Node::string(at, source));
    }
    long.set("target", Node::string(at, target));
    for option in options.split(',').filter(|o| !o.is_empty()) {
        match option {
            "ro" => long.set("read_only", Node::bool(at, true)),
            "rw" => long.set("read_only", Node::bool(at, false)),
            "nocopy" => inner(&mut long, at, "volume", "nocopy", Node::bool(at, true)),
            "rprivate" | "private" | "rshared" | "shared" | "rslave" | "slave" => {
                inner(&mut long, at, "bind", "propagation", Node::string(at, option));
            }
            // They are for file systems that Linux nodes do not have, or for SELinux, which labels nothing here.
            "z" | "Z" | "cached" | "delegated" | "consistent" => {}
            _ => return Err(bad(&format!("unknown option {option:?}"))),
        }
    }
    Ok(long)
}

fn inner(long: &mut Node, at: &At, section: &str, name: &str, value: Node) {
    if long.get(section).is_none() {
        long.set(section, Node::map(at));
    }
    if let Some(section) = long.get_mut(section).filter(|s| matches!(s.kind, Kind::Map(_))) {
        section.set(name, value);
    }
}
