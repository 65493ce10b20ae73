//! What a container runs, from its configuration and its image, as Docker merges them; and refusing by
//! name what cannot be.

use std::net::IpAddr;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use crate::config::{ContainerConfig, NetworkMode};
use crate::error::Error;
use crate::image::ImageConfig;
use crate::mount::MountKind;
use crate::runtime::{capabilities, parse_rule, sysctls};
use crate::shim::NetworkNamespace;

/// The configuration and the image taken together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) argv: Vec<String>,
    pub(super) env: Vec<String>,
    pub(super) cwd: String,
    pub(super) user: String,
    pub(super) stop_signal: i32,
    /// What runs a line of a health check; empty = /bin/sh.
    #[serde(default)]
    pub(super) shell: Vec<String>,
}

pub(super) fn plan(config: &ContainerConfig, image: &ImageConfig) -> Result<Plan, Error> {
    check(config)?;
    let argv = argv(config, image);
    if argv.is_empty() {
        return Err(Error::Invalid(
            "no command specified: neither the request nor the image names one".into(),
        ));
    }
    let filled = |ours: &Option<String>, theirs: &str| {
        ours.clone().filter(|s| !s.is_empty()).unwrap_or_else(|| theirs.to_owned())
    };
    let cwd = filled(&config.working_dir, &image.working_dir);
    if !cwd.is_empty() && !cwd.starts_with('/') {
        return Err(Error::Invalid(format!(
            "the working directory '{cwd}' is invalid, it needs to be an absolute path"
        )));
    }
    let stop_signal = match filled(&config.stop_signal, &image.stop_signal) {
        s if s.is_empty() => libc::SIGTERM,
        s => signal(&s)?,
    };
    Ok(Plan {
        argv,
        env: env(&image.env, &config.env)?,
        cwd,
        user: filled(&config.user, &image.user),
        stop_signal,
        shell: image.shell.clone(),
    })
}

/// Takes from the image what the request left open, as Docker shows a container's configuration. The image's command
/// belongs to its entrypoint.
pub(super) fn merge(config: &mut ContainerConfig, image: &ImageConfig) {
    let open = |text: &Option<String>| text.as_ref().is_none_or(String::is_empty);
    let some = |text: &String| Some(text.clone()).filter(|t| !t.is_empty());
    let list = |list: &Vec<String>| Some(list.clone()).filter(|l| !l.is_empty());
    if config.cmd.as_ref().is_none_or(Vec::is_empty) && config.entrypoint.as_ref().is_none_or(cleared) {
        config.cmd = list(&image.cmd);
    }
    if config.entrypoint.is_none() {
        config.entrypoint = list(&image.entrypoint);
    }
    for (ours, theirs) in [
        (&mut config.user, &image.user),
        (&mut config.working_dir, &image.working_dir),
        (&mut config.stop_signal, &image.stop_signal),
    ] {
        if open(ours) {
            *ours = some(theirs);
        }
    }
    config.image_volumes.clone_from(&image.volumes);
}

/// An entrypoint that is to be none.
#[allow(clippy::ptr_arg, reason = "it is mapped over options of vectors")]
fn cleared(entrypoint: &Vec<String>) -> bool {
    entrypoint.is_empty() || (entrypoint.len() == 1 && entrypoint[0].is_empty())
}

fn argv(config: &ContainerConfig, image: &ImageConfig) -> Vec<String> {
    let cmd = config.cmd.clone().filter(|c| !c.is_empty());
    let (entrypoint, cmd) = match &config.entrypoint {
        Some(e) if cleared(e) => (Vec::new(), cmd.unwrap_or_else(|| image.cmd.clone())),
        Some(e) => (e.clone(), cmd.unwrap_or_default()),
        None => (image.entrypoint.clone(), cmd.unwrap_or_else(|| image.cmd.clone())),
    };
    entrypoint.into_iter().chain(cmd).collect()
}

/// The image's, overridden; a bare `NAME` removes.
pub(super) fn env(image: &[String], ours: &[String]) -> Result<Vec<String>, Error> {
    let key = |e: &str| e.split('=').next().unwrap_or_default().to_owned();
    let mut out: Vec<String> = image.to_vec();
    for e in ours {
        let k = key(e);
        if k.is_empty() || e.contains('\0') {
            return Err(Error::Invalid(format!("invalid environment variable: {e:?}")));
        }
        match (out.iter().position(|o| key(o) == k), e.contains('=')) {
            (Some(i), true) => out[i].clone_from(e),
            (Some(i), false) => drop(out.remove(i)),
            (None, true) => out.push(e.clone()),
            (None, false) => {}
        }
    }
    Ok(out)
}

fn check(c: &ContainerConfig) -> Result<(), Error> {
    let bad = |why: String| Err(Error::Invalid(why));
    c.log.check().map_err(Error::Invalid)?;
    super::limits::check(&c.resources, false)?;
    if c.auto_remove && c.restart != crate::config::RestartPolicy::No {
        return bad("can't create 'AutoRemove' container with restart policy".into());
    }
    for (field, names) in [("CapAdd", &c.cap_add), ("CapDrop", &c.cap_drop)] {
        capabilities::check(names).map_err(|e| Error::Invalid(format!("invalid {field}: {e}")))?;
    }
    let network = match c.network {
        NetworkMode::Host => NetworkNamespace::Host,
        _ => NetworkNamespace::New,
    };
    sysctls::check(&c.sysctls, &network).map_err(|e| Error::Invalid(e.to_string()))?;
    super::device_requests::check(&c.device_requests)?;
    for rule in &c.device_rules {
        parse_rule(rule).map_err(|e| Error::Invalid(e.to_string()))?;
    }
    let mut paths = c.masked_paths.iter().chain(&c.readonly_paths).flatten();
    if let Some(path) = paths.find(|p| !p.starts_with('/')) {
        return bad(format!("masked and read-only paths must be absolute, and {path:?} is not"));
    }
    if let Some(device) = c.devices.iter().find(|d| !d.host.is_absolute() || !d.inside.is_absolute()) {
        return bad(format!("\"{}\" is not an absolute path", device.host.display()));
    }
    if c.host_uts && c.hostname.is_some() {
        return bad("conflicting options: hostname and the UTS mode".into());
    }
    if let Some(parent) = &c.cgroup_parent {
        crate::runtime::cgroup::Cgroup::at(parent).map_err(|e| Error::Invalid(e.to_string()))?;
    }
    if let Some(health) = &c.health {
        health.check().map_err(Error::Invalid)?;
    }
    let mut targets = std::collections::BTreeSet::new();
    for m in &c.mounts {
        let shown = m.target.display();
        let plain = m.target.is_absolute() && !m.target.components().any(|p| p == Component::ParentDir);
        if !plain || m.target == Path::new("/") {
            return bad(format!(
                "invalid mount path: '{shown}': it must be absolute, without \"..\", and not '/'"
            ));
        }
        if !targets.insert(&m.target) {
            return bad(format!("Duplicate mount point: {shown}"));
        }
        if let MountKind::Bind { source, options } = &m.kind {
            if !source.is_absolute() {
                return bad(format!(
                    "invalid mount config for type \"bind\": source path {} must be absolute",
                    source.display()
                ));
            }
            if !options.create && !source.exists() {
                return bad(format!(
                    "invalid mount config for type \"bind\": bind source path does not exist: {}",
                    source.display()
                ));
            }
        }
    }
    for h in &c.extra_hosts {
        extra_host(h)?;
    }
    Ok(())
}

/// The word for the host as containers reach it, where a further host's address is asked for.
const HOST_GATEWAY: &str = "host-gateway";

/// `name:IP`; no address is the host's own.
pub fn extra_host(text: &str) -> Result<(&str, Option<IpAddr>), Error> {
    let parsed = text.split_once([':', '=']).and_then(|(name, ip)| {
        let addr = match ip {
            HOST_GATEWAY => None,
            ip => Some(ip.trim_matches(['[', ']']).parse().ok()?),
        };
        (!name.is_empty() && !name.contains(char::is_whitespace)).then_some((name, addr))
    });
    parsed.ok_or_else(|| Error::Invalid(format!("bad format for add-host: {text:?}; give name:IP")))
}

/// The lines of /etc/hosts that further hosts make; `gateway` tells the host's addresses as containers reach it.
pub(super) fn host_lines(hosts: &[String], gateway: impl Fn() -> Vec<IpAddr>) -> Result<Vec<String>, Error> {
    let mut lines = Vec::new();
    for text in hosts {
        let (name, addr) = extra_host(text)?;
        let addrs = addr.map_or_else(&gateway, |addr| vec![addr]);
        if addrs.is_empty() {
            return Err(Error::Missing(format!(
                "unable to derive the IP value for {HOST_GATEWAY}: there is no default bridge network, and the daemon was given no --host-gateway-ip"
            )));
        }
        lines.extend(addrs.iter().map(|addr| format!("{addr}\t{name}\n")));
    }
    Ok(lines)
}

/// A signal by number or name, with or without `SIG`.
pub(crate) fn signal(text: &str) -> Result<i32, Error> {
    let bad = || Error::Invalid(format!("Invalid signal: {text}"));
    if let Ok(n) = text.parse::<i32>() {
        return (1..=64).contains(&n).then_some(n).ok_or_else(bad);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |base: i32, rest: &str, sign: i32| match rest.get(1..) {
        None => Some(base),
        Some(n) => n.parse::<i32>().ok().map(|n| base + sign * n),
    };
    // 34 is where glibc begins, whose numbers users know.
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => real_time(34, rest, 1),
        (_, Some(rest)) => real_time(64, rest, -1),
        _ => format!("SIG{name}").parse::<nix::sys::signal::Signal>().ok().map(|s| s as i32),
    };
    number.filter(|n| (1..=64).contains(n)).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(s: &[&str]) -> Vec<String> {
        s.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn merges_commands_as_docker_does() {
        let image =
            ImageConfig { entrypoint: strings(&["/e"]), cmd: strings(&["c"]), ..ImageConfig::default() };
        for (entrypoint, cmd, wanted) in [
            (None, None, vec!["/e", "c"]),
            (None, Some(vec!["x"]), vec!["/e", "x"]),
            (Some(vec!["/o"]), None, vec!["/o"]),
            (Some(vec!["/o"]), Some(vec!["x"]), vec!["/o", "x"]),
            (Some(vec![]), None, vec!["c"]),
            (Some(vec![""]), Some(vec!["x"]), vec!["x"]),
        ] {
            let c = ContainerConfig {
                entrypoint: entrypoint.as_deref().map(strings),
                cmd: cmd.as_deref().map(strings),
                ..ContainerConfig::default()
            };
            assert_eq!(argv(&c, &image), strings(&wanted), "{entrypoint:?} {cmd:?}");
        }
        assert!(plan(&ContainerConfig::default(), &ImageConfig::default()).is_err());
    }

    #[test]
    fn environment_signals_and_hosts() {
        assert_eq!(
            env(&strings(&["A=1", "B=2"]), &strings(&["A=3", "B", "C=4", "D"])).expect("merges"),
            strings(&["A=3", "C=4"])
        );
        for (text, n) in [
            ("TERM", 15),
            ("SIGKILL", 9),
            ("9", 9),
            ("sigint", 2),
            ("RTMIN+3", 37),
            ("SIGRTMAX-1", 63),
            ("RTMIN", 34),
        ] {
            assert_eq!(signal(text).expect(text), n, "{text}");
        }
        for text in ["", "0", "65", "SIGNOPE", "RTMIN+99", "-1"] {
            assert!(signal(text).is_err(), "{text}");
        }
        let gateway: [IpAddr; 2] = ["10.0.0.1".parse().expect("IPv4"), "fd00::1".parse().expect("IPv6")];
        let hosts = strings(&["a:1.2.3.4", "b:::1", "c=host-gateway"]);
        let wanted = ["1.2.3.4\ta\n", "::1\tb\n", "10.0.0.1\tc\n", "fd00::1\tc\n"];
        assert_eq!(host_lines(&hosts, || gateway.into()).expect("parses"), wanted);
        assert!(host_lines(&hosts, Vec::new).expect_err("no gateway").to_string().contains("host-gateway"));
        assert!(extra_host("a").is_err() && extra_host("a:b").is_err());
    }
}
