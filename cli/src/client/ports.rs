//! Published ports: how they are given on the command line, and how they are shown.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use skep_proto::host_ip::HostIp;

fn number(port: &str, text: &str) -> Result<u16> {
    port.parse().with_context(|| format!("invalid port {port:?} in {text:?}: want a number from 0 to 65535"))
}

/// `80` or `80-82`.
fn range(ports: &str) -> Option<std::ops::RangeInclusive<u16>> {
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some(first..=last)
}

/// One port asked for: where on the host, and which of the container.
struct Asked {
    ip: String,
    published: Option<u16>,
    /// Any free one from `published` to this, where they differ.
    last: Option<u16>,
    target: u16,
    protocol: String,
}

/// `[[ip:]published:]target[/protocol]`, each a port or a range. What is wrong is told in Docker's words.
fn short(text: &str) -> Result<Vec<Asked>> {
    let (front, last) = text.rsplit_once(':').unwrap_or(("", text));
    let mut parts = last.split('/');
    let (target, protocol) = (parts.next().unwrap_or_default(), parts.next().filter(|p| !p.is_empty()));
    let protocol = protocol.unwrap_or("tcp");
    let (ip, given) = front.rsplit_once(':').unwrap_or(("", front));
    let bare = match ip.strip_prefix('[') {
        Some(bare) => bare
            .strip_suffix(']')
            .with_context(|| format!("invalid IP address {ip}: address {ip}:: missing ']' in address"))?,
        None => ip,
    };
    if !bare.is_empty() && bare.parse::<std::net::IpAddr>().is_err() {
        bail!("invalid IP address: {bare}");
    }
    let ip = bare;
    if target.is_empty() {
        bail!("no port specified: {text}<empty>");
    }
    let targets = range(target).with_context(|| format!("invalid containerPort: {target}"))?;
    let host = match given {
        "" => None,
        given => Some(range(given).with_context(|| format!("invalid hostPort: {given}"))?),
    };
    if host.as_ref().is_some_and(|h| h.len() != targets.len()) && targets.len() > 1 {
        bail!("invalid ranges specified for container and host Ports: {target} and {given}");
    }
    let lower = protocol.to_ascii_lowercase();
    if !["tcp", "udp", "sctp"].contains(&lower.as_str()) {
        bail!("invalid proto: {protocol}");
    }
    let protocol = lower.as_str();
    let mut published: Vec<Option<u16>> = match host {
        None => vec![None; targets.len()],
        Some(host) => host.map(Some).collect(),
    };
    if targets.len() == 1 && published.len() > 1 {
        let (first, last) = (published[0], published[published.len() - 1]);
        let protocol = protocol.into();
        return Ok(vec![Asked { ip: ip.into(), published: first, last, target: *targets.start(), protocol }]);
    }
    let asked = |(target, published)| Asked {
        ip: ip.into(),
        published,
        last: published,
        target,
        protocol: protocol.into(),
    };
    Ok(targets.zip(published.drain(..)).map(asked).collect())
}

/// `published=8080,target=80,protocol=tcp` in the short form.
fn shortened(text: &str) -> Result<String> {
    if !text.contains('=') {
        return Ok(text.to_owned());
    }
    let mut given = BTreeMap::from([("protocol", "tcp")]);
    for part in text.split(',') {
        match part.split_once('=') {
            Some((name, value)) if !name.is_empty() => given.insert(name, value),
            _ => bail!("invalid publish opts format (should be name=value but got '{part}')"),
        };
    }
    let of = |name: &str| given.get(name).copied().unwrap_or_default();
    Ok(format!("{}:{}/{}", of("published"), of("target"), of("protocol")))
}

/// `-p` of `run`: the API's `ExposedPorts` and `PortBindings`.
pub fn bindings(publish: &[String], expose: &[String]) -> Result<(Value, Value)> {
    let (mut exposed, mut bound) = (serde_json::Map::new(), BTreeMap::<String, Vec<Value>>::new());
    for text in publish {
        for asked in short(&shortened(text)?)? {
            let port = format!("{}/{}", asked.target, asked.protocol);
            let host = match (asked.published, asked.last) {
                (Some(first), Some(last)) if first != last => format!("{first}-{last}"),
                (first, _) => first.map_or_else(String::new, |p| p.to_string()),
            };
            exposed.insert(port.clone(), json!({}));
            bound.entry(port).or_default().push(json!({ "HostIp": asked.ip, "HostPort": host }));
        }
    }
    for text in expose {
        if text.contains(':') {
            bail!("invalid port format for --expose: {text}");
        }
        let wrong = || format!("invalid range format for --expose: {text}");
        for asked in short(text).with_context(wrong)? {
            exposed.insert(format!("{}/{}", asked.target, asked.protocol), json!({}));
        }
    }
    Ok((exposed.into(), json!(bound)))
}

/// `-p` of a service: short, or `published=8080,target=80,protocol=tcp,mode=host`.
pub fn service(text: &str) -> Result<Vec<Value>> {
    if !text.contains('=') {
        let one = |a: Asked| {
            if a.last != a.published {
                bail!("invalid ranges specified for container and host ports: {text:?}");
            }
            let mut port = json!({ "Protocol": a.protocol, "PublishMode": "ingress",
                                   "PublishedPort": a.published.unwrap_or(0), "TargetPort": a.target });
            if !a.ip.is_empty() {
                port["HostIP"] = a.ip.into();
            }
            Ok(port)
        };
        return short(text)?.into_iter().map(one).collect();
    }
    let mut port = json!({ "Protocol": "tcp", "PublishMode": "ingress" });
    for part in text.split(',') {
        match part.split_once('=') {
            Some(("published", n)) => port["PublishedPort"] = number(n, text)?.into(),
            Some(("target", n)) => port["TargetPort"] = number(n, text)?.into(),
            Some(("host_ip", ip)) => {
                let plain = ip.trim_start_matches('[').trim_end_matches(']');
                if HostIp::read(plain).is_none() {
                    bail!(
                        "invalid host_ip {ip:?} in {text:?}: want an IP address or the name of an interface"
                    );
                }
                port["HostIP"] = plain.into();
            }
            Some(("protocol", p @ ("tcp" | "udp" | "sctp"))) => port["Protocol"] = p.into(),
            Some(("mode", m @ ("ingress" | "host"))) => port["PublishMode"] = m.into(),
            Some((name @ ("protocol" | "mode"), value)) => bail!("invalid {name} value '{value}' provided"),
            Some((name, _)) => {
                bail!("invalid field key '{name}': want published, target, protocol, mode or host_ip")
            }
            None => bail!("invalid field: {part:?}: want name=value"),
        }
    }
    if port["TargetPort"].is_null() {
        bail!("missing mandatory field 'target' in {text:?}");
    }
    Ok(vec![port])
}

/// A run of ports that follow each other on both sides.
struct Run {
    host: Option<(String, u64)>,
    inner: u64,
    length: u64,
    protocol: String,
}

impl Run {
    fn follows(&self, host: &Option<(String, u64)>, inner: u64, protocol: &str) -> bool {
        let host_follows = match (&self.host, host) {
            (None, None) => true,
            (Some((a, first)), Some((b, next))) => a == b && first + self.length == *next,
            _ => false,
        };
        host_follows && self.inner + self.length == inner && self.protocol == protocol
    }

    fn show(&self) -> String {
        let span = |first: u64| match self.length {
            1 => first.to_string(),
            n => format!("{first}-{}", first + n - 1),
        };
        let inner = format!("{}/{}", span(self.inner), self.protocol);
        match &self.host {
            Some((ip, first)) => format!("{ip}:{}->{inner}", span(*first)),
            None => inner,
        }
    }
}

fn show(mut ports: Vec<(String, Option<(String, u64)>, u64)>) -> String {
    ports.sort_by(|a, b| (&a.0, a.2, &a.1).cmp(&(&b.0, b.2, &b.1)));
    let mut runs = Vec::<Run>::new();
    for (protocol, host, inner) in ports {
        match runs.iter_mut().find(|r| r.follows(&host, inner, &protocol)) {
            Some(run) => run.length += 1,
            None => runs.push(Run { host, inner, length: 1, protocol }),
        }
    }
    runs.sort_by_key(|r| r.host.is_some());
    runs.iter().map(Run::show).collect::<Vec<_>>().join(", ")
}

/// Ports of a container as `ps` shows them: those that are the same outside, in runs, then those that are not.
pub fn of_container(ports: &Value) -> String {
    let mut list: Vec<_> = ports
        .as_array()
        .into_iter()
        .flatten()
        .map(|p| {
            let number = |name: &str| p[name].as_u64().unwrap_or(0);
            let text = |name: &str| super::output::text(p, name);
            (number("PrivatePort"), text("IP"), number("PublicPort"), text("Type"))
        })
        .collect();
    list.sort();
    let shown = |ip: &str| if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    let (mut runs, mut apart) = (Vec::<Run>::new(), Vec::new());
    for (inner, ip, public, protocol) in list {
        if !ip.is_empty() && public != inner {
            apart.push(format!("{}:{public}->{inner}/{protocol}", shown(&ip)));
            continue;
        }
        let host = (!ip.is_empty()).then(|| (shown(&ip), public));
        match runs.iter_mut().find(|r| r.follows(&host, inner, &protocol)) {
            Some(run) => run.length += 1,
            None => runs.push(Run { host, inner, length: 1, protocol }),
        }
    }
    runs.iter().map(Run::show).chain(apart).collect::<Vec<_>>().join(", ")
}

/// The order people read in: numbers by their value. Pieces of text, each with the number after it.
pub fn natural(line: &str) -> Vec<(String, u64)> {
    let mut pieces = Vec::new();
    let mut rest = line;
    while !rest.is_empty() {
        let (text, after) = rest.split_at(rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len()));
        let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
        pieces.push((text.to_owned(), after[..end].parse().unwrap_or(0)));
        rest = &after[end..];
    }
    pieces
}

/// Ports of a service or task as `service ls` and `ps` show them: those of one mode.
pub fn of_service(ports: &Value, mode: &str) -> String {
    let wanted = ports
        .as_array()
        .into_iter()
        .flatten()
        .filter(|p| p["PublishMode"].as_str().unwrap_or("ingress") == mode);
    let one = |p: &Value| {
        let host = p["HostIP"].as_str().filter(|ip| *ip != "0.0.0.0").unwrap_or("*");
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let host = Some((host, p["PublishedPort"].as_u64().unwrap_or(0)));
        (super::output::text(p, "Protocol"), host, p["TargetPort"].as_u64().unwrap_or(0))
    };
    show(wanted.map(one).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_come_short_long_or_as_ranges() {
        assert_eq!(service("8080:80").expect("a port")[0]["PublishedPort"], 8080);
        assert_eq!(service("53:53/udp").expect("a port")[0]["Protocol"], "udp");
        assert_eq!(service("published=1,target=2,mode=host").expect("a port")[0]["PublishMode"], "host");
        assert_eq!(service("1.2.3.4:80:80").expect("a port")[0]["HostIP"], "1.2.3.4");
        assert_eq!(service("target=2,host_ip=1.2.3.4").expect("a port")[0]["HostIP"], "1.2.3.4");
        assert_eq!(service("target=2,host_ip=eth0").expect("a port")[0]["HostIP"], "eth0");
        assert_eq!(service("target=2,host_ip=[::1]").expect("a port")[0]["HostIP"], "::1");
        assert_eq!(service("8080-8082:80-82").expect("ports").len(), 3);
        for bad in [
            "x",
            "1:y",
            "target=2,colour=red",
            "99999",
            "80-82:80",
            "82-80:82-80",
            "1.2.3:80:80",
            "target=2,host_ip=eth0/1",
            "target=2,host_ip=1.2.3",
            "80/icmp",
            "",
        ] {
            assert!(service(bad).is_err(), "{bad}");
        }
        let (exposed, bound) =
            bindings(&["127.0.0.1:80:8080".into(), "[::1]::53/udp".into()], &["9000-9001".into()])
                .expect("ports");
        assert_eq!(exposed.as_object().map(serde_json::Map::len), Some(4));
        assert_eq!(bound["8080/tcp"][0], json!({"HostIp": "127.0.0.1", "HostPort": "80"}));
        assert_eq!(bound["53/udp"][0], json!({"HostIp": "::1", "HostPort": ""}));
    }

    #[test]
    fn ports_that_follow_each_other_are_shown_as_one() {
        let port = |ip: &str, public: u64, private: u64| json!({"IP": ip, "PublicPort": public, "PrivatePort": private, "Type": "tcp"});
        let ports = json!([
            port("0.0.0.0", 81, 81), port("0.0.0.0", 80, 80), port("::", 8080, 80),
            {"PrivatePort": 443, "Type": "tcp"}, {"PrivatePort": 444, "Type": "tcp"},
        ]);
        assert_eq!(of_container(&ports), "0.0.0.0:80-81->80-81/tcp, 443-444/tcp, [::]:8080->80/tcp");
    }
}
