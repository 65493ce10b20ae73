//! A service as the body that makes a container of it.

use anyhow::Result;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::super::compose_parts::{environment, healthcheck, nanoseconds, pairs, strings};
use super::super::create_body::without_empty;
use super::super::human::hex;
use super::found;
use super::project::Project;
use super::{endpoints, host_config, injected, mounts, service};
use crate::compose::depends;
use crate::compose::{Node, Problem};

/// What decides beside the files.
#[derive(Clone, Debug, Default)]
pub struct Made {
    pub number: u32,
    /// The container's name, which is also one of its names on its networks.
    pub named: String,
    /// A one-off's name for itself.
    pub one_off: Option<String>,
    /// ID of the image.
    pub image: String,
    /// IDs of containers whose namespaces or volumes are shared, by their services.
    pub others: std::collections::BTreeMap<String, String>,
    /// Volumes without names of the container that is replaced, by where they are mounted.
    pub inherited: std::collections::BTreeMap<String, String>,
    /// `SERVICE-NUMBER` of the container that is replaced.
    pub replaces: Option<String>,
}

/// The body, with the hash among its labels.
pub fn body(project: &Project, name: &str, service: &Node, made: &Made) -> Result<Value> {
    let mut body = bare(project, name, service, made)?;
    let hash = hash(project, name, service, made)?;
    let mut labels = pairs(service.get("labels"));
    let needs =
        depends::of(service).into_iter().filter(|n| service.path(&["depends_on", &n.service]).is_some());
    let needs: Vec<String> =
        needs.map(|n| format!("{}:{}:{}", n.service, n.condition.word(), n.restart)).collect();
    for (key, value) in [
        (found::PROJECT, project.name.clone()),
        (found::SERVICE, name.to_owned()),
        (found::VERSION, env!("CARGO_PKG_VERSION").to_owned()),
        (found::HASH, hash),
        (found::IMAGE, made.image.clone()),
        (found::NEEDS, needs.join(",")),
        (found::ONE_OFF, if made.one_off.is_some() { "True" } else { "False" }.to_owned()),
        (found::DIRECTORY, project.dir.display().to_string()),
        (found::FILES, project.files.join(",")),
    ] {
        labels.insert(key.into(), value.into());
    }
    match &made.one_off {
        Some(slug) => labels.insert("com.docker.compose.slug".into(), slug.as_str().into()),
        None => labels.insert(found::NUMBER.into(), made.number.to_string().into()),
    };
    if let Some(old) = &made.replaces {
        labels.insert("com.docker.compose.replace".into(), old.as_str().into());
    }
    body["Labels"] = labels.into();
    mounts::inherit(&mut body, &made.inherited);
    Ok(body)
}

/// A service's hash: another one means that its containers are not what the files say any more.
pub fn hash(project: &Project, name: &str, service: &Node, made: &Made) -> Result<String> {
    let mut hash = Sha256::new();
    let plain = Made { others: made.others.clone(), ..Made::default() };
    let body = bare(project, name, service, &plain)?;
    hash.update(serde_json::to_vec(&body)?);
    hash.update(serde_json::to_vec(&Value::Object(pairs(service.get("labels"))))?);
    for file in injected::of(project, service)? {
        hash.update(file.path.as_bytes());
        hash.update([0]);
        hash.update(&file.content);
        hash.update(format!("{} {} {:o}", file.uid, file.gid, file.mode));
    }
    Ok(hex(&hash.finalize()))
}

/// All but labels.
fn bare(project: &Project, name: &str, service: &Node, made: &Made) -> Result<Value> {
    let env = environment(service);
    let (exposed, bound) = ports(name, service)?;
    let mut body = json!({
        "Image": service::image(project, name, service),
        "Hostname": service.text_of("hostname"), "Domainname": service.text_of("domainname"),
        "User": service.text_of("user"), "WorkingDir": service.text_of("working_dir"),
        "StopSignal": service.text_of("stop_signal"), "Env": env.into_iter().filter(|e| e.contains('=')).collect::<Vec<_>>(),
        "Tty": service.is_set("tty"), "OpenStdin": service.is_set("stdin_open"), "ExposedPorts": exposed,
        "Healthcheck": healthcheck(service)?,
        "StopTimeout": nanoseconds(service, "stop_grace_period").map(|n| n.div_euclid(1_000_000_000)),
        "HostConfig": host_config::of(project, name, service, made)?,
    });
    body["HostConfig"]["PortBindings"] = bound.into();
    without_empty(&mut body);
    // No masked paths is something else than nothing said of them.
    host_config::security(project, name, service, &mut body["HostConfig"])?;
    for (field, key) in [("Cmd", "command"), ("Entrypoint", "entrypoint")] {
        if service.get(key).is_some() {
            body[field] = json!(strings(service.get(key)));
        }
    }
    let networks = endpoints::of(project, name, service, made);
    body["NetworkingConfig"] = json!({ "EndpointsConfig": networks });
    Ok(body)
}

/// `ExposedPorts` and `PortBindings`.
fn ports(name: &str, service: &Node) -> Result<(Map<String, Value>, Map<String, Value>)> {
    let (mut exposed, mut bound) = (Map::new(), Map::new());
    for expose in strings(service.get("expose")) {
        let (port, protocol) = expose.split_once('/').unwrap_or((expose, "tcp"));
        let (first, last) = port.split_once('-').unwrap_or((port, port));
        let range = (first.parse::<u16>(), last.parse::<u16>());
        let (Ok(first), Ok(last)) = range else {
            let at = service.get("expose").map_or(&service.at, |n| &n.at);
            let what = format!(
                "services.{name}.expose: {expose:?}: want a port from 1 to 65535, or a range of them"
            );
            return Err(Problem::new(at, what).into());
        };
        exposed.extend((first..=last).map(|p| (format!("{p}/{protocol}"), json!({}))));
    }
    for port in service.get("ports").map(Node::items).unwrap_or_default() {
        let target = port.text_of("target").and_then(|t| t.parse::<u16>().ok()).filter(|n| *n > 0);
        let Some(target) = target else {
            let what = format!("services.{name}.ports: target: want a port from 1 to 65535");
            return Err(Problem::new(&port.at, what).into());
        };
        let key = format!("{target}/{}", port.text_of("protocol").unwrap_or("tcp"));
        let published = port.text_of("published").unwrap_or_default();
        let binding = json!({ "HostIp": port.text_of("host_ip").unwrap_or_default(), "HostPort": published });
        exposed.insert(key.clone(), json!({}));
        match bound.get_mut(&key).and_then(Value::as_array_mut) {
            Some(list) => list.push(binding),
            None => drop(bound.insert(key, json!([binding]))),
        }
    }
    Ok((exposed, bound))
}
