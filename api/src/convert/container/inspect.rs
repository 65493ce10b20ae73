//! A container as `docker inspect` shows it.

use std::path::PathBuf;

use serde_json::{Map, Value, json};
use skep_engine::{
    BoundPort, Container, ContainerState, Endpoint, Endpoint6, HostFiles, IpcMode, NetworkJoin, NetworkMode,
    PidMode, RestartPolicy,
};

use crate::convert::{mounts, time};

/// The whole of it. `mountpoint` tells where a volume lies on the host, `execs` are the commands in it that have not
/// ended, `links` its links as Docker writes them, `files` those of the host over its own.
pub fn inspect(
    c: &Container,
    mountpoint: impl Fn(&str) -> PathBuf,
    execs: &[String],
    links: &[String],
    files: &HostFiles,
) -> Value {
    let shown = |path: &Option<PathBuf>| path.as_ref().map(|p| p.display().to_string()).unwrap_or_default();
    let state = c.state;
    let mut argv = c.argv.iter();
    let path = argv.next().cloned().unwrap_or_default();
    let mut out = json!({
        "Id": c.id,
        "Created": time::from_ns(c.created_at_ns),
        "Path": path,
        "Args": argv.collect::<Vec<_>>(),
        "State": {
            "Status": state.word(),
            "Running": matches!(state, ContainerState::Running | ContainerState::Paused | ContainerState::Restarting),
            "Paused": state == ContainerState::Paused,
            "Restarting": state == ContainerState::Restarting,
            "OOMKilled": c.oom_killed,
            "Dead": state == ContainerState::Dead,
            "Pid": c.pid.unwrap_or(0),
            "ExitCode": c.exit_code.unwrap_or(0),
            "Error": c.error,
            "StartedAt": time::from_ns(c.started_at_ns),
            "FinishedAt": time::from_ns(c.finished_at_ns),
        },
        "Image": c.image_id,
        "ResolvConfPath": shown(&files.resolv_conf),
        "HostnamePath": shown(&files.hostname),
        "HostsPath": shown(&files.hosts),
        "LogPath": if c.config.log.driver == "json-file" { c.log_path.display().to_string() } else { String::new() },
        "Name": format!("/{}", c.name),
        "RestartCount": c.restart_count,
        "Driver": "overlayfs",
        "Platform": "linux",
        "MountLabel": c.confined.mount_label,
        "ProcessLabel": c.confined.process_label,
        "AppArmorProfile": c.confined.apparmor,
        "ExecIDs": if execs.is_empty() { Value::Null } else { json!(execs) },
        "HostConfig": host_config(c),
        "GraphDriver": { "Data": null, "Name": "overlayfs" },
        "Mounts": mounts(c, mountpoint),
        "Config": config(c),
        "NetworkSettings": network_settings(c),
    });
    out["HostConfig"]["Links"] = if links.is_empty() { Value::Null } else { json!(links) };
    if let Some(health) = &c.health {
        out["State"]["Health"] = super::health::state(health);
    }
    out
}

fn config(c: &Container) -> Value {
    let g = &c.config;
    let asked = |key: &str| g.api_request.as_ref().and_then(|r| r.get(key)).cloned();
    let mut volumes = match asked("Volumes") {
        Some(Value::Object(asked)) => asked,
        _ => Map::new(),
    };
    volumes.extend(g.image_volumes.iter().map(|v| (v.clone(), json!({}))));
    let volumes = Some(volumes).filter(|v| !v.is_empty());
    let given = |words: &Option<Vec<String>>| words.clone().filter(|w| !w.is_empty());
    let hostname = g.hostname.clone().unwrap_or_else(|| c.id.as_str().chars().take(12).collect());
    let mut out = json!({
        "Hostname": hostname,
        "Domainname": g.domainname.as_deref().unwrap_or(""),
        "User": g.user.as_deref().unwrap_or(""),
        "AttachStdin": asked("AttachStdin").unwrap_or(json!(false)),
        "AttachStdout": asked("AttachStdout").unwrap_or(json!(false)),
        "AttachStderr": asked("AttachStderr").unwrap_or(json!(false)),
        "Tty": g.tty,
        "OpenStdin": g.open_stdin,
        "StdinOnce": g.stdin_once,
        "Env": c.env,
        "Cmd": given(&g.cmd),
        "Image": g.image,
        "Volumes": volumes,
        "WorkingDir": g.working_dir.as_deref().unwrap_or(""),
        "Entrypoint": given(&g.entrypoint),
        "OnBuild": null,
        "Labels": g.labels,
    });
    if !g.exposed.is_empty() {
        // As it was asked for: "80" stays "80".
        let asked = asked("ExposedPorts").unwrap_or_default();
        let name = |port: &String| match port.strip_suffix("/tcp") {
            Some(bare) if asked.get(bare).is_some() => bare.to_owned(),
            _ => port.clone(),
        };
        out["ExposedPorts"] = g.exposed.iter().map(|p| (name(p), json!({}))).collect::<Map<_, _>>().into();
    }
    if let Some(health) = &g.health {
        out["Healthcheck"] = super::health::config(health);
    }
    if let Some(signal) = &g.stop_signal {
        out["StopSignal"] = json!(signal);
    }
    if let Some(timeout) = g.stop_timeout {
        out["StopTimeout"] =
            if timeout >= skep_engine::PATIENT { json!(-1) } else { json!(timeout.as_secs()) };
    }
    out
}

/// What was asked, with what Skep made of it written over.
fn host_config(c: &Container) -> Value {
    let g = &c.config;
    let asked = g.api_request.as_ref().and_then(|r| r.get("HostConfig")).cloned();
    let mut out = asked.filter(Value::is_object).unwrap_or_else(|| json!({}));
    let (restart, tries) = match g.restart {
        RestartPolicy::No => ("no", 0),
        RestartPolicy::Always => ("always", 0),
        RestartPolicy::UnlessStopped => ("unless-stopped", 0),
        RestartPolicy::OnFailure(n) => ("on-failure", n),
    };
    let mut bindings: Map<String, Value> = Map::new();
    for p in &g.ports {
        let host = json!({
            "HostIp": p.host_ip.map(|ip| ip.to_string()).or(p.interface.clone()).unwrap_or_default(),
            "HostPort": match (p.host_port, p.host_port_end) {
                (0, _) => String::new(),
                (port, 0) => port.to_string(),
                (first, last) => format!("{first}-{last}"),
            },
        });
        push(&mut bindings, format!("{}/{}", p.container_port, p.protocol), host);
    }
    let some = |list: &[String]| if list.is_empty() { Value::Null } else { json!(list) };
    let r = &g.resources;
    let [masked, read_only] = c.protected_paths().map_or([None, None], |[m, r]| [Some(m), Some(r)]);
    let computed = json!({
        "NetworkMode": network_mode(c),
        "PortBindings": bindings,
        "PublishAllPorts": g.publish_all,
        "RestartPolicy": { "Name": restart, "MaximumRetryCount": tries },
        "AutoRemove": g.auto_remove,
        "LogConfig": { "Type": g.log.driver, "Config": g.log.options },
        "CapAdd": some(&g.cap_add),
        "CapDrop": some(&g.cap_drop),
        "Dns": g.dns.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "DnsOptions": g.dns_options,
        "DnsSearch": g.dns_search,
        "ExtraHosts": some(&g.extra_hosts),
        "GroupAdd": some(&g.groups),
        "OomScoreAdj": g.oom_score_adj.unwrap_or(0),
        "Privileged": g.privileged,
        "ReadonlyRootfs": g.read_only,
        "ShmSize": g.shm_size.unwrap_or(64 << 20),
        "CgroupnsMode": if g.host_cgroupns == Some(true) { "host" } else { "private" },
        "IpcMode": match g.ipc_mode.as_ref().unwrap_or(&IpcMode::Private) {
            IpcMode::Private => "private".to_owned(),
            IpcMode::None => "none".to_owned(),
            IpcMode::Shareable => "shareable".to_owned(),
            IpcMode::Host => "host".to_owned(),
            IpcMode::Container(other) => format!("container:{other}"),
        },
        "PidMode": match &g.pid_mode {
            PidMode::Private => String::new(),
            PidMode::Host => "host".to_owned(),
            PidMode::Container(other) => format!("container:{other}"),
        },
        "Memory": r.memory.unwrap_or(0),
        "MemorySwap": r.memory_swap.unwrap_or(0),
        "NanoCpus": r.nano_cpus.unwrap_or(0),
        "CpuShares": r.cpu_shares.unwrap_or(0),
        "PidsLimit": r.pids,
        "MemoryReservation": r.memory_reservation.unwrap_or(0),
        "CpuQuota": r.cpu_quota.unwrap_or(0),
        "CpuPeriod": r.cpu_period.unwrap_or(0),
        "CpuRealtimePeriod": r.cpu_rt_period.unwrap_or(0),
        "CpuRealtimeRuntime": r.cpu_rt_runtime.unwrap_or(0),
        "CpusetCpus": r.cpuset_cpus.as_deref().unwrap_or(""),
        "CpusetMems": r.cpuset_mems.as_deref().unwrap_or(""),
        "BlkioWeight": r.blkio_weight.unwrap_or(0),
        "MemorySwappiness": r.memory_swappiness,
        "MaskedPaths": masked,
        "ReadonlyPaths": read_only,
        "Runtime": g.runtime.as_deref().unwrap_or(skep_engine::OWN),
    });
    if let (Some(out), Value::Object(computed)) = (out.as_object_mut(), computed) {
        out.extend(computed);
    }
    match g.init {
        Some(init) => out["Init"] = json!(init),
        // Left out where nobody has said, as with Docker.
        None => drop(out.as_object_mut().map(|o| o.remove("Init"))),
    }
    if g.api_request.is_none() {
        // A task's: there is no request to show.
        let device = |d: &skep_engine::DeviceConfig| json!({ "PathOnHost": d.host, "PathInContainer": d.inside, "CgroupPermissions": d.access });
        out["Devices"] = g.devices.iter().map(device).collect();
        out["DeviceCgroupRules"] = some(&g.device_rules);
        out["UTSMode"] = json!(if g.host_uts { "host" } else { "" });
        out["UsernsMode"] = json!(if g.host_userns { "host" } else { "" });
    }
    out
}

fn push(map: &mut Map<String, Value>, key: String, item: Value) {
    match map.get_mut(&key).and_then(Value::as_array_mut) {
        Some(list) => list.push(item),
        None => {
            map.insert(key, json!([item]));
        }
    }
}

/// `HostConfig.NetworkMode`: what the container was made with, whatever it was connected to since.
pub(super) fn network_mode(c: &Container) -> String {
    let made_with = || {
        let asked = c.config.api_request.as_ref()?.get("HostConfig")?.get("NetworkMode")?.as_str()?;
        (!matches!(asked, "" | "default")).then(|| asked.to_owned())
    };
    match &c.config.network {
        NetworkMode::None => "none".into(),
        NetworkMode::Host => "host".into(),
        NetworkMode::Container(id) => format!("container:{id}"),
        NetworkMode::Networks(list) => made_with()
            .or_else(|| list.first().map(|join| join.network.clone()))
            .unwrap_or_else(|| super::networking::DEFAULT.to_owned()),
    }
}

/// `Mounts`, in the short form both listings use.
pub(super) fn mounts(c: &Container, mountpoint: impl Fn(&str) -> PathBuf) -> Vec<Value> {
    c.config.mounts.iter().filter_map(|m| mounts::shown(m, &mountpoint)).collect()
}

fn network_settings(c: &Container) -> Value {
    let networks = networks(c);
    let mut ports: Map<String, Value> = Map::new();
    // Docker tells of them once there is something to be reached.
    for port in c.config.exposed.iter().filter(|_| !c.endpoints.is_empty()) {
        ports.insert(port.clone(), Value::Null);
    }
    for p in &c.ports {
        let BoundPort { protocol, container_port, host_ip, host_port } = p;
        // None where the port is open at the container's own address.
        let number = if *host_port == 0 { String::new() } else { host_port.to_string() };
        let host = json!({ "HostIp": host_ip.to_string(), "HostPort": number });
        push(&mut ports, format!("{container_port}/{protocol}"), host);
    }
    // Fields of the default bridge that older clients read at this level.
    let on_bridge = c.endpoints.iter().find(|e| e.network == super::networking::DEFAULT);
    let v6 = on_bridge.and_then(|e| e.v6.as_ref());
    json!({
        "Bridge": "",
        "SandboxID": if c.endpoints.is_empty() { "" } else { c.id.as_str() },
        "SandboxKey": c.netns.display().to_string(),
        "Ports": ports,
        "HairpinMode": false,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": null,
        "SecondaryIPv6Addresses": null,
        "EndpointID": on_bridge.map_or("", |e| &e.endpoint_id),
        "Gateway": on_bridge.and_then(|e| e.gateway).map(|g| g.to_string()).unwrap_or_default(),
        "GlobalIPv6Address": v6.map(|e| e.addr.to_string()).unwrap_or_default(),
        "GlobalIPv6PrefixLen": v6.map_or(0, |e| e.prefix_len),
        "IPAddress": on_bridge.and_then(|e| e.addr).map(|a| a.to_string()).unwrap_or_default(),
        "IPPrefixLen": on_bridge.map_or(0, |e| e.prefix_len),
        "IPv6Gateway": gateway6(v6),
        "MacAddress": on_bridge.map_or("", |e| &e.mac),
        "Networks": networks,
    })
}

/// `NetworkSettings.Networks`: as joined, and what the next start is to join.
pub(super) fn networks(c: &Container) -> Map<String, Value> {
    let mut out = Map::new();
    let joins = match &c.config.network {
        NetworkMode::Networks(joins) => joins.as_slice(),
        NetworkMode::None => return Map::from_iter([("none".to_owned(), asked(&NetworkJoin::default()))]),
        NetworkMode::Host => return Map::from_iter([("host".to_owned(), asked(&NetworkJoin::default()))]),
        NetworkMode::Container(_) => return out,
    };
    let is = |e: &Endpoint, join: &NetworkJoin| {
        join.network == e.network || (!join.network.is_empty() && e.network_id.starts_with(&join.network))
    };
    for join in joins {
        let Some(e) = c.endpoints.iter().find(|e| is(e, join)) else {
            out.insert(join.network.clone(), asked(join));
            continue;
        };
        let mut shown = asked(join);
        shown["MacAddress"] = json!(e.mac);
        shown["NetworkID"] = json!(e.network_id);
        shown["EndpointID"] = json!(e.endpoint_id);
        shown["Gateway"] = json!(e.gateway.map(|g| g.to_string()).unwrap_or_default());
        shown["IPAddress"] = json!(e.addr.map(|a| a.to_string()).unwrap_or_default());
        shown["IPPrefixLen"] = json!(e.prefix_len);
        if let Some(v6) = &e.v6 {
            shown["GlobalIPv6Address"] = json!(v6.addr.to_string());
            shown["GlobalIPv6PrefixLen"] = json!(v6.prefix_len);
            shown["IPv6Gateway"] = json!(gateway6(Some(v6)));
        }
        if e.network != super::networking::DEFAULT {
            let mut names = vec![c.name.clone()];
            names.extend(join.aliases.iter().cloned());
            names.push(c.id.as_str().chars().take(12).collect());
            names.extend(c.config.hostname.clone().filter(|h| !h.is_empty()));
            let mut seen = std::collections::BTreeSet::new();
            names.retain(|n| seen.insert(n.clone()));
            shown["DNSNames"] = json!(names);
        }
        out.insert(e.network.clone(), shown);
    }
    out
}

fn gateway6(v6: Option<&Endpoint6>) -> String {
    v6.and_then(|e| e.gateway).map(|g| g.to_string()).unwrap_or_default()
}

/// A place in a network as it is asked for.
fn asked(join: &NetworkJoin) -> Value {
    let links: Vec<String> = join.links.iter().map(|(name, alias)| format!("{name}:{alias}")).collect();
    let mut ipam = Map::new();
    ipam.extend(join.addr.map(|a| ("IPv4Address".to_owned(), json!(a.to_string()))));
    ipam.extend(join.addr6.map(|a| ("IPv6Address".to_owned(), json!(a.to_string()))));
    if !join.link_local.is_empty() {
        ipam.insert("LinkLocalIPs".to_owned(), json!(join.link_local));
    }
    let ipam = if ipam.is_empty() { Value::Null } else { ipam.into() };
    let list = |items: &[String]| if items.is_empty() { Value::Null } else { json!(items) };
    json!({
        "IPAMConfig": ipam,
        "Links": list(&links),
        "Aliases": list(&join.aliases),
        "MacAddress": join.mac.map(|m| m.map(|b| format!("{b:02x}")).join(":")).unwrap_or_default(),
        "DriverOpts": if join.driver_opts.is_empty() { Value::Null } else { json!(join.driver_opts) },
        "GwPriority": join.gw_priority,
        "NetworkID": "",
        "EndpointID": "",
        "Gateway": "",
        "IPAddress": "",
        "IPPrefixLen": 0,
        "IPv6Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "DNSNames": null,
    })
}
