//! The flags of `run` and `create` as the API's request.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use super::create_flags::CreateFlags;
use super::service_spec::duration;
use super::{create_values as values, devices, mount, ports};

/// Streams to attach to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Streams {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

impl CreateFlags {
    /// Image, and the command that replaces its own.
    pub fn image(&self) -> (&str, &[String]) {
        self.words.split_first().map_or(("", &[]), |(image, command)| (image.as_str(), command))
    }

    /// What `-a`, `-i` and `-d` make of the streams.
    pub fn streams(&self, detach: bool) -> Result<Streams> {
        if detach && !self.attach.is_empty() {
            bail!("conflicting options: cannot specify both --attach and --detach");
        }
        if self.attach.is_empty() {
            return Ok(Streams { stdin: self.interactive && !detach, stdout: !detach, stderr: !detach });
        }
        let asked = |name: &str| self.attach.iter().any(|a| a.eq_ignore_ascii_case(name));
        Ok(Streams { stdin: asked("stdin"), stdout: asked("stdout"), stderr: asked("stderr") })
    }

    /// The body of `POST /containers/create`.
    pub fn body(&self, streams: Streams) -> Result<Value> {
        let (image, command) = self.image();
        let (exposed, bound) = ports::bindings(&self.publish, &self.expose)?;
        let mut labels = lines(&self.label_file)?;
        labels.extend(self.label.iter().cloned());
        let (policy, retries) = restart(&self.restart)?;
        if self.rm && policy != "no" && !policy.is_empty() {
            bail!("conflicting options: cannot specify both --restart and --rm");
        }
        self.check()?;
        let (binds, anonymous) = mount::volumes(&self.volume)?;
        let security = security(&self.security_opt)?;
        let (devices, requests) = devices::asked(&self.device, &self.gpus)?;
        let network = self.network.first().map_or("default", |text| network_name(text));
        let mut body = json!({
            "Image": image, "Cmd": (!command.is_empty()).then_some(command), "Env": environment(&self.env_file, &self.env)?,
            "Labels": pairs(&labels), "Tty": self.tty, "OpenStdin": self.interactive,
            "StdinOnce": self.interactive && streams.stdin,
            "AttachStdin": streams.stdin, "AttachStdout": streams.stdout, "AttachStderr": streams.stderr,
            "ExposedPorts": exposed, "Volumes": anonymous,
            "HostConfig": {
                "AutoRemove": self.rm, "NetworkMode": network, "PortBindings": bound, "PublishAllPorts": self.publish_all,
                "Binds": binds, "VolumesFrom": self.volumes_from,
                "Mounts": self.mount.iter().map(|m| mount::mount(m)).collect::<Result<Vec<_>>>()?,
                "RestartPolicy": { "Name": policy, "MaximumRetryCount": retries },
                "CapAdd": capabilities(&self.cap_add), "CapDrop": capabilities(&self.cap_drop), "Privileged": self.privileged,
                "ReadonlyRootfs": self.read_only, "Dns": self.dns, "DnsOptions": self.dns_option,
                "DnsSearch": self.dns_search, "ExtraHosts": self.add_host.iter().map(|h| host(h)).collect::<Result<Vec<_>>>()?,
                "GroupAdd": self.group_add, "Links": self.link, "SecurityOpt": security.options,
                "LogConfig": { "Type": self.log_driver.as_deref().unwrap_or_default(), "Config": pairs(&self.log_opt) },
                "Tmpfs": split(&self.tmpfs, ':'), "Sysctls": pairs(&self.sysctl), "Annotations": pairs(&self.annotation),
                "StorageOpt": pairs(&self.storage_opt), "Ulimits": self.ulimit.iter().map(|u| ulimit(u)).collect::<Result<Vec<_>>>()?,
                "Devices": devices, "DeviceRequests": requests,
                "DeviceCgroupRules": self.device_cgroup_rule,
            },
        });
        for (name, value) in [
            ("User", &self.user),
            ("WorkingDir", &self.workdir),
            ("Hostname", &self.hostname),
            ("Domainname", &self.domainname),
            ("StopSignal", &self.stop_signal),
        ] {
            set(&mut body[name], value.clone());
        }
        set(&mut body["StopTimeout"], self.stop_timeout);
        match self.entrypoint.as_deref() {
            Some("") => body["Entrypoint"] = json!([""]),
            Some(entrypoint) => body["Entrypoint"] = json!([entrypoint]),
            None => {}
        }
        if let Some(check) = self.health()? {
            body["Healthcheck"] = check;
        }
        self.resources(&mut body["HostConfig"])?;
        without_empty(&mut body);
        // A network of which nothing more is asked is joined all the same.
        body["NetworkingConfig"] = json!({ "EndpointsConfig": self.endpoints()? });
        if security.unconfined_paths {
            // Empty lists, which are not the same as none.
            body["HostConfig"]["MaskedPaths"] = json!([]);
            body["HostConfig"]["ReadonlyPaths"] = json!([]);
        }
        Ok(body)
    }

    /// What Docker's client finds wrong before it asks.
    pub fn check(&self) -> Result<()> {
        let other = |mode: &str| mode.strip_prefix("container:").is_some_and(|name| !name.is_empty());
        let modes: [(&Option<String>, &[&str], &str); 4] = [
            (&self.pid, &["", "host"], "--pid: invalid PID mode"),
            (&self.uts, &["", "host"], "--uts: invalid UTS mode"),
            (&self.userns, &["", "host"], "--userns: invalid USER mode"),
            (&self.cgroupns, &["", "host", "private"], "--cgroupns: invalid CGROUP mode"),
        ];
        for (mode, known, wrong) in modes {
            let Some(mode) = mode.as_deref() else { continue };
            if !(known.contains(&mode) || wrong.starts_with("--pid") && other(mode)) {
                bail!(wrong);
            }
        }
        if let Some(n) = self.memory_swappiness.filter(|n| !(-1..=100).contains(n)) {
            bail!("invalid value: {n}. Valid memory swappiness range is 0-100");
        }
        if self.storage_opt.iter().any(|o| !o.contains('=')) {
            bail!("invalid storage option");
        }
        if self.health_retries.is_some_and(|n| n < 0) {
            bail!("--health-retries cannot be negative");
        }
        let checked = [
            &self.health_cmd,
            &self.health_interval,
            &self.health_timeout,
            &self.health_start_period,
            &self.health_start_interval,
        ];
        if self.no_healthcheck && (checked.iter().any(|f| f.is_some()) || self.health_retries.is_some()) {
            bail!("--no-healthcheck conflicts with --health-* options");
        }
        let bare = |o: &&String| !o.contains(['=', ':']) && *o != "no-new-privileges";
        if let Some(bad) = self.security_opt.iter().find(bare) {
            bail!("Invalid --security-opt: {bad:?}");
        }
        Ok(())
    }

    /// Sets the limits and namespaces that are given.
    pub fn resources(&self, host: &mut Value) -> Result<()> {
        for (name, value) in [
            ("Memory", &self.memory),
            ("MemoryReservation", &self.memory_reservation),
            ("ShmSize", &self.shm_size),
        ] {
            set(&mut host[name], value.as_deref().map(|v| bytes(name, v)).transpose()?);
        }
        match self.memory_swap.as_deref() {
            Some("-1") => host["MemorySwap"] = (-1).into(),
            Some(text) => host["MemorySwap"] = bytes("MemorySwap", text)?.into(),
            None => {}
        }
        for (name, value) in [
            ("CpuPeriod", self.cpu_period),
            ("CpuQuota", self.cpu_quota),
            ("CpuRealtimePeriod", self.cpu_rt_period),
            ("CpuRealtimeRuntime", self.cpu_rt_runtime),
            ("CpuShares", self.cpu_shares),
            ("MemorySwappiness", self.memory_swappiness),
            ("OomScoreAdj", self.oom_score_adj),
            ("PidsLimit", self.pids_limit),
            ("BlkioWeight", self.blkio_weight.map(i64::from)),
            ("NanoCpus", self.cpus.map(|c| (c * 1e9) as i64)),
        ] {
            set(&mut host[name], value);
        }
        for (name, value) in [
            ("CgroupParent", &self.cgroup_parent),
            ("CgroupnsMode", &self.cgroupns),
            ("CpusetCpus", &self.cpuset_cpus),
            ("CpusetMems", &self.cpuset_mems),
            ("IpcMode", &self.ipc),
            ("PidMode", &self.pid),
            ("Runtime", &self.runtime),
            ("UsernsMode", &self.userns),
            ("UTSMode", &self.uts),
            ("VolumeDriver", &self.volume_driver),
        ] {
            set(&mut host[name], value.clone());
        }
        let weight = |text: &str| -> Result<u64> { Ok(text.parse()?) };
        let rate = |text: &str| bytes("rate", text);
        let of = |list: &[String], key: &str, read: &dyn Fn(&str) -> Result<u64>| -> Result<Value> {
            let one = |text: &String| -> Result<Value> {
                let found = text.split_once(':').filter(|(path, _)| path.starts_with("/dev/"));
                let (path, value) = found.with_context(|| format!("bad format for path: {text}"))?;
                let value = read(value).with_context(|| format!("invalid rate for device: {text}"))?;
                Ok(json!({ "Path": path, key: value }))
            };
            list.iter().map(one).collect::<Result<Vec<_>>>().map(Value::from)
        };
        host["BlkioWeightDevice"] = of(&self.blkio_weight_device, "Weight", &weight)?;
        host["BlkioDeviceReadBps"] = of(&self.device_read_bps, "Rate", &rate)?;
        host["BlkioDeviceWriteBps"] = of(&self.device_write_bps, "Rate", &rate)?;
        host["BlkioDeviceReadIOps"] = of(&self.device_read_iops, "Rate", &weight)?;
        host["BlkioDeviceWriteIOps"] = of(&self.device_write_iops, "Rate", &weight)?;
        set(&mut host["Init"], self.init.then_some(true));
        set(&mut host["OomKillDisable"], self.oom_kill_disable.then_some(true));
        Ok(())
    }

    /// Networks with what is asked of the container's place in them. Flags for one network mean the first.
    fn endpoints(&self) -> Result<Value> {
        let mut out = Map::new();
        for (i, text) in self.network.iter().enumerate() {
            let mut endpoint = json!({});
            let mut name = text.clone();
            if text.contains('=') {
                let fields = devices::csv(text)
                    .with_context(|| format!("invalid argument {text:?} for \"--network\" flag"))?;
                // In small letters, keys and values, as Docker's client sends them.
                for field in fields.iter().map(|f| f.to_lowercase()) {
                    match field.split_once('=') {
                        Some(("name", n)) => name = n.to_owned(),
                        Some(("alias", a)) => push(&mut endpoint["Aliases"], a),
                        Some(("ip", ip)) => endpoint["IPAMConfig"]["IPv4Address"] = ip.into(),
                        Some(("ip6", ip)) => endpoint["IPAMConfig"]["IPv6Address"] = ip.into(),
                        Some(("link-local-ip", ip)) => push(&mut endpoint["IPAMConfig"]["LinkLocalIPs"], ip),
                        Some(("mac-address", mac)) => endpoint["MacAddress"] = mac.into(),
                        Some(("gw-priority", n)) => {
                            let number: i64 =
                                n.parse().with_context(|| format!("invalid gw-priority ({n})"))?;
                            endpoint["GwPriority"] = number.into();
                        }
                        Some(("driver-opt", option)) => {
                            let (key, value) = option
                                .split_once('=')
                                .context("invalid key value pair format in driver options")?;
                            endpoint["DriverOpts"][key] = value.into();
                        }
                        _ => bail!(
                            "invalid field {field:?} in --network {text:?}: want name, alias, ip, ip6, link-local-ip, mac-address, gw-priority or driver-opt"
                        ),
                    }
                }
            }
            if i == 0 {
                self.network_alias.iter().for_each(|a| push(&mut endpoint["Aliases"], a));
                if let Some(ip) = &self.ip {
                    endpoint["IPAMConfig"]["IPv4Address"] = ip.as_str().into();
                }
                if let Some(ip) = &self.ip6 {
                    endpoint["IPAMConfig"]["IPv6Address"] = ip.as_str().into();
                }
                if !self.link_local_ip.is_empty() {
                    endpoint["IPAMConfig"]["LinkLocalIPs"] = json!(self.link_local_ip);
                }
                set(&mut endpoint["MacAddress"], self.mac_address.clone());
                if own_network(&name) && !self.link.is_empty() {
                    endpoint["Links"] = json!(self.link);
                }
            }
            without_empty(&mut endpoint);
            if out.contains_key(&name) {
                bail!("network {name:?} is specified multiple times");
            }
            if endpoint.as_object().is_some_and(|e| !e.is_empty()) || self.network.len() > 1 {
                out.insert(name, endpoint);
            }
        }
        if out.keys().any(|n| own_network(n)) && !out.keys().all(|n| own_network(n)) {
            bail!("conflicting options: cannot attach both user-defined and non-user-defined network-modes");
        }
        if let Some(mac) = self.mac_address.as_deref().filter(|m| !m.is_empty() && !values::is_mac(m.trim()))
        {
            bail!("{mac} is not a valid mac address");
        }
        let first = self.network.first().map_or("default", |text| network_name(text));
        if !self.network_alias.is_empty() && !own_network(first) {
            bail!("network-scoped aliases are only supported for user-defined networks");
        }
        if self.network.is_empty() {
            let mut endpoint = json!({});
            set(&mut endpoint["MacAddress"], self.mac_address.clone());
            set(&mut endpoint["IPAMConfig"]["IPv4Address"], self.ip.clone());
            set(&mut endpoint["IPAMConfig"]["IPv6Address"], self.ip6.clone());
            if !self.link_local_ip.is_empty() {
                endpoint["IPAMConfig"]["LinkLocalIPs"] = json!(self.link_local_ip);
            }
            without_empty(&mut endpoint);
            if endpoint.as_object().is_some_and(|e| !e.is_empty()) {
                out.insert(first.into(), endpoint);
            }
        }
        Ok(out.into())
    }

    fn health(&self) -> Result<Option<Value>> {
        if self.no_healthcheck {
            return Ok(Some(json!({ "Test": ["NONE"] })));
        }
        let mut check = json!({});
        set(&mut check["Test"], self.health_cmd.as_ref().map(|c| json!(["CMD-SHELL", c])));
        for (name, value) in [
            ("Interval", &self.health_interval),
            ("Timeout", &self.health_timeout),
            ("StartPeriod", &self.health_start_period),
            ("StartInterval", &self.health_start_interval),
        ] {
            set(&mut check[name], duration(value.as_deref())?);
        }
        set(&mut check["Retries"], self.health_retries);
        without_empty(&mut check);
        Ok(check.as_object().is_some_and(|c| !c.is_empty()).then_some(check))
    }
}

/// Capabilities as Docker's client sends them: whole names, once each and in order.
fn capabilities(names: &[String]) -> BTreeSet<String> {
    let whole = |name: &String| match name.trim().to_ascii_uppercase() {
        name if name == "ALL" || name.starts_with("CAP_") => name,
        name => format!("CAP_{name}"),
    };
    let names: BTreeSet<String> = names.iter().map(whole).collect();
    if names.contains("ALL") { BTreeSet::from(["ALL".to_owned()]) } else { names }
}

/// The network of `--network`, which may come with its options.
fn network_name(text: &str) -> &str {
    let named = text.split(',').find_map(|field| field.strip_prefix("name="));
    if text.contains('=') { named.unwrap_or(text) } else { text }
}

/// Whether a network is one that the user made.
fn own_network(name: &str) -> bool {
    !matches!(name, "default" | "bridge" | "host" | "none") && !name.starts_with("container:")
}

/// Sets a field if there is something to set it to.
pub fn set(at: &mut Value, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        *at = value.into();
    }
}

fn push(list: &mut Value, text: &str) {
    match list.as_array_mut() {
        Some(list) => list.push(text.into()),
        None => *list = json!([text]),
    }
}

/// Takes out what says nothing: nulls, and lists and objects that are empty.
pub fn without_empty(value: &mut Value) {
    if let Some(map) = value.as_object_mut() {
        map.values_mut().for_each(without_empty);
        map.retain(|name, v| match v {
            Value::Null => false,
            Value::Object(o) => !o.is_empty() || name.contains('/'),
            Value::Array(a) => !a.is_empty(),
            _ => true,
        });
    }
}

/// The variables of `--env-file` and `-e`.
pub fn environment(files: &[impl AsRef<Path>], given: &[String]) -> Result<Vec<String>> {
    let mut env = lines(files)?;
    env.extend(given.iter().cloned());
    Ok(env.iter().filter_map(|e| variable(e)).collect())
}

/// `name=value` words as an object; a bare name has an empty value.
pub fn pairs(words: &[String]) -> Map<String, Value> {
    split(words, '=')
}

fn split(words: &[String], at: char) -> Map<String, Value> {
    words.iter().map(|w| w.split_once(at).unwrap_or((w, ""))).map(|(k, v)| (k.to_owned(), v.into())).collect()
}

/// Lines of files of variables or labels, without blank lines and comments.
pub fn lines(files: &[impl AsRef<Path>]) -> Result<Vec<String>> {
    let mut out = Vec::new();
    for file in files {
        let file = file.as_ref();
        let text = std::fs::read_to_string(file).with_context(|| format!("open {}", file.display()))?;
        let kept = text.lines().map(str::trim_start).filter(|l| !l.is_empty() && !l.starts_with('#'));
        for line in kept {
            let name = line.split('=').next().unwrap_or_default();
            if name.is_empty() || name.contains(char::is_whitespace) {
                bail!("{}: {line:?}: variable {name:?} contains whitespaces or has no name", file.display());
            }
            out.push(line.to_owned());
        }
    }
    Ok(out)
}

/// A bare `NAME` takes its value from our own environment, and is left out if it has none there.
pub fn variable(text: &str) -> Option<String> {
    if text.contains('=') {
        Some(text.to_owned())
    } else {
        std::env::var(text).ok().map(|v| format!("{text}={v}"))
    }
}

/// A size like `512m`.
pub fn bytes(name: &str, text: &str) -> Result<u64> {
    skep_engine::parse_size(text).with_context(|| format!("invalid {name} {text:?}: want a size like 512m"))
}

pub fn restart(text: &str) -> Result<(&str, u32)> {
    match text.split_once(':') {
        Some((name, count)) => Ok((
            name,
            count.parse().with_context(|| {
                format!("invalid restart policy format: {text:?}: {count:?} is not a number")
            })?,
        )),
        None => Ok((text, 0)),
    }
}

/// What `--security-opt` asks for.
pub struct Security {
    /// As the daemon takes them.
    pub options: Vec<String>,
    /// Nothing in /proc and /sys is masked.
    pub unconfined_paths: bool,
}

/// Puts a seccomp profile in the place of its file's name, as the daemon may be elsewhere.
pub fn security(given: &[String]) -> Result<Security> {
    let mut found = Security { options: Vec::new(), unconfined_paths: false };
    for text in given {
        let (name, value) = text.split_once('=').or_else(|| text.split_once(':')).unwrap_or((text, ""));
        match (name, value) {
            ("systempaths", "unconfined") => found.unconfined_paths = true,
            ("seccomp", "unconfined" | "builtin") => found.options.push(text.clone()),
            ("seccomp", file) => {
                let profile = std::fs::read_to_string(file);
                let profile = profile.with_context(|| format!("opening seccomp profile ({file}) failed"))?;
                let json: Value = serde_json::from_str(&profile)
                    .with_context(|| format!("compacting json for seccomp profile ({file}) failed"))?;
                found.options.push(format!("seccomp={json}"));
            }
            _ => found.options.push(text.clone()),
        }
    }
    Ok(found)
}

/// `name:ip` or `name=ip`.
pub fn host(text: &str) -> Result<String> {
    let split = text.split_once('=').or_else(|| text.split_once(':'));
    let (name, ip) = split.with_context(|| format!("bad format for add-host: {text:?}"))?;
    let plain = ip.trim_start_matches('[').trim_end_matches(']');
    if name.is_empty() || (plain != "host-gateway" && plain.parse::<std::net::IpAddr>().is_err()) {
        bail!("invalid IP address in add-host: {ip:?}");
    }
    Ok(format!("{name}:{plain}"))
}

/// `nofile=soft[:hard]`.
pub fn ulimit(text: &str) -> Result<Value> {
    let bad = || format!("invalid ulimit argument: {text}: want type=soft[:hard]");
    let (name, limits) = text.split_once('=').with_context(bad)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let (soft, hard) =
        (soft.parse::<i64>().ok().with_context(bad)?, hard.parse::<i64>().ok().with_context(bad)?);
    Ok(json!({ "Name": name, "Soft": soft, "Hard": hard }))
}
