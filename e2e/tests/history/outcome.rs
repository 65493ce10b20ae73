//! What must be true at the end: every acknowledged change is there, every service has converged, and all hosts' kernels
//! hold what the managers computed.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use skep_e2e::Lab;
use skep_e2e::swarm::answers;

use crate::model::{Mode, Model, Spec};

/// What `skep system check` says of each host: nothing differs, and all that have a network know the same of it.
pub fn in_order(lab: &Lab) -> Result<()> {
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    for host in lab.hosts() {
        host.skep(&["system", "check"])?;
        let report: Value = serde_json::from_str(&host.skep(&["system", "check", "--format", "json"])?)?;
        let networks = report["Networks"].as_object().context("networks")?;
        let networks = networks.iter().map(|(name, digest)| (name.clone(), digest));
        for (name, digest) in networks.chain([("ports".to_owned(), &report["Ports"])]) {
            let digest = digest.as_str().unwrap_or_default().to_owned();
            let first = known.entry(name.clone()).or_insert_with(|| digest.clone());
            ensure!(*first == digest, "host {} knows another {name} than those before it", host.number);
        }
    }
    Ok(())
}

/// Everything that was acknowledged is there, and nothing else.
pub fn acknowledged(lab: &Lab, model: &Model) -> Result<()> {
    let manager = lab.host(*model.managers.first().context("a manager")?);
    let list = |args: &[&str]| -> Result<BTreeSet<String>> {
        Ok(manager.docker(args)?.lines().map(str::to_owned).collect())
    };
    let services = list(&["service", "ls", "--format", "{{.Name}}"])?;
    ensure!(services == model.services.keys().cloned().collect(), "services: {services:?}");
    let mut networks = list(&["network", "ls", "--filter", "driver=overlay", "--format", "{{.Name}}"])?;
    networks.remove("ingress");
    let of_stacks = model.stacks.iter().map(|s| format!("{s}_default"));
    let wanted: BTreeSet<_> = model.networks.iter().cloned().chain(of_stacks).collect();
    ensure!(networks == wanted, "networks: {networks:?}");
    // Those of stacks are called after their content, which is looked at in the containers.
    let in_stacks = |name: &String| model.stacks.iter().any(|s| name.starts_with(&format!("{s}_")));
    let mut secrets = list(&["secret", "ls", "--format", "{{.Name}}"])?;
    secrets.retain(|name| !in_stacks(name));
    ensure!(secrets == model.secrets.keys().cloned().collect(), "secrets: {secrets:?}");
    let mut configs = list(&["config", "ls", "--format", "{{.Name}}"])?;
    configs.retain(|name| !in_stacks(name));
    ensure!(configs == model.configs.keys().cloned().collect(), "configs: {configs:?}");
    for (number, value) in &model.labels {
        let node = &lab.host(*number).name;
        let label = manager.docker(&["node", "inspect", "-f", "{{.Spec.Labels.k}}", node])?;
        ensure!(label.trim() == value.to_string(), "host {number}: k={label}, not {value}");
    }
    if let Some(token) = &model.token {
        let now = manager.docker(&["swarm", "join-token", "-q", "worker"])?;
        ensure!(now.trim() == token, "token {now}, not {token}");
    }
    let locked =
        manager.docker(&["info", "-f", "{{.Swarm.Cluster.Spec.EncryptionConfig.AutoLockManagers}}"])?;
    ensure!(locked.trim() == model.locked.to_string(), "autolock is {locked}");
    if let Some(key) = model.keys.last().filter(|_| model.locked) {
        let now = manager.docker(&["swarm", "unlock-key", "-q"])?;
        ensure!(now.trim() == key, "unlock key {now}, not {key}");
    }
    for host in lab.hosts() {
        let role = manager.docker(&["node", "inspect", "-f", "{{.Spec.Role}}", &host.name])?;
        let wanted = if model.managers.contains(&host.number) { "manager" } else { "worker" };
        ensure!(role.trim() == wanted, "host {}: {role}, not {wanted}", host.number);
    }
    Ok(())
}

/// Every service runs as it was last asked for, on all hosts together, and no other container does.
pub fn converged(lab: &Lab, model: &Model) -> Result<()> {
    let mut running: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for host in lab.hosts() {
        let ids = host.docker(&["ps", "-q", "--no-trunc"])?;
        let ids: Vec<&str> = ids.lines().collect();
        if ids.is_empty() {
            continue;
        }
        let text = host.docker(&[&["inspect"], &ids[..]].concat())?;
        for mut container in serde_json::from_str::<Vec<Value>>(&text)? {
            container["HOST"] = host.number.into();
            let labels = &container["Config"]["Labels"];
            let name = labels["com.docker.swarm.service.name"].as_str().or(container["Name"].as_str());
            let name = name.unwrap_or_default().trim_start_matches('/').to_owned();
            running.entry(name).or_default().push(container);
        }
    }
    for (name, service) in &model.services {
        let containers = running.remove(name).unwrap_or_default();
        let wanted = match service.spec.mode {
            Mode::Replicated(n) => n as usize,
            Mode::Global => lab.hosts().len(),
            Mode::Job(n) => {
                job(lab, model, name, n)?;
                0
            }
        };
        let tasks = || {
            let manager = lab.host(model.managers.first().copied().unwrap_or(1));
            manager.docker(&["service", "ps", "--no-trunc", name]).unwrap_or_else(|e| format!("{e:#}"))
        };
        ensure!(
            containers.len() == wanted,
            "{name} has {} containers, not {wanted}: {}",
            containers.len(),
            tasks()
        );
        for container in &containers {
            as_asked(lab, model, &service.spec, container).with_context(|| format!("a task of {name}"))?;
        }
    }
    for (name, single) in &model.singles {
        let found = running.remove(name).unwrap_or_default();
        ensure!(
            found.len() == 1 && found[0]["HOST"] == single.host,
            "{name} should run on host {}",
            single.host
        );
        let networks = found[0]["NetworkSettings"]["Networks"].as_object().context("networks")?;
        ensure!(networks.contains_key(&single.network), "{name} is not in {}", single.network);
    }
    ensure!(running.is_empty(), "nobody asked for {:?}", running.keys());
    Ok(())
}

fn job(lab: &Lab, model: &Model, name: &str, completions: u32) -> Result<()> {
    let manager = lab.host(*model.managers.first().context("a manager")?);
    let replicas = manager.docker(&[
        "service",
        "ls",
        "--filter",
        &format!("name={name}"),
        "--format",
        "{{.Replicas}}",
    ])?;
    let wanted = format!("({completions}/{completions} completed)");
    ensure!(replicas.contains(&wanted), "{name}: {replicas}, not {wanted}");
    Ok(())
}

fn as_asked(lab: &Lab, model: &Model, spec: &Spec, container: &Value) -> Result<()> {
    let environment = container["Config"]["Env"].as_array().context("environment")?;
    let round = format!("ROUND={}", spec.round);
    ensure!(environment.iter().any(|e| *e == round.as_str()), "{environment:?} has no {round}");
    let image = container["Config"]["Image"].as_str().unwrap_or_default();
    let wanted = format!("whoami:{}", spec.tag);
    ensure!(image.starts_with(&wanted), "its image is {image}, not {wanted}");
    let networks = container["NetworkSettings"]["Networks"].as_object().context("networks")?;
    let networks: BTreeSet<_> = networks.keys().filter(|n| *n != "none" && *n != "bridge").cloned().collect();
    let mut wanted = spec.networks.clone();
    // A port that is closed later takes no task out of the network by which it was reached.
    if spec.port.is_some() || networks.contains("ingress") {
        wanted.insert("ingress".to_owned());
    }
    ensure!(networks == wanted, "it is in {networks:?}, not in {wanted:?}");
    let host = lab.host(container["HOST"].as_u64().context("host")? as u32);
    let id = container["Id"].as_str().context("ID")?;
    let files = [
        ("/run/secrets/secret", spec.secret.as_ref().map(|s| &model.secrets[s]).or(spec.files.as_ref())),
        ("/config", spec.config.as_ref().map(|c| &model.configs[c]).or(spec.files.as_ref())),
    ];
    for (file, content) in files {
        if let Some(content) = content {
            let seen = host.docker(&["exec", id, "/bin/busybox", "cat", file])?;
            ensure!(seen == *content, "{file} is {seen:?}, not {content:?}");
        }
    }
    Ok(())
}

/// Every published port is answered on every host, by all tasks of its service.
pub fn reachable(lab: &Lab, model: &Model) -> Result<()> {
    for (name, service) in &model.services {
        let (Some(port), tasks) = (service.spec.port, service.spec.mode) else { continue };
        let tasks = match tasks {
            Mode::Replicated(n) => n as usize,
            Mode::Global => lab.hosts().len(),
            Mode::Job(_) => 0,
        };
        if tasks == 0 {
            continue;
        }
        for host in lab.hosts() {
            let seen = answers(lab, &format!("http://{}:{port}/", host.addr), 8 * tasks)?;
            ensure!(
                seen.len() == tasks,
                "{name} through host {}: {} of {tasks} tasks answer",
                host.number,
                seen.len()
            );
        }
    }
    Ok(())
}
