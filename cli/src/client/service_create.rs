//! Flags of `service create`, as a service spec in the API's JSON.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use super::create_body::{self, pairs, without_empty};
use super::service_spec::SpecFlags;
use super::{mount, ports};
use crate::generic_resource;

/// Flags of `service create`.
#[derive(Args)]
pub struct CreateFlags {
    /// Add Linux capabilities
    #[arg(long, value_name = "list")]
    cap_add: Vec<String>,
    /// Drop Linux capabilities
    #[arg(long, value_name = "list")]
    cap_drop: Vec<String>,
    /// Specify configurations to expose to the service
    #[arg(long, value_name = "config", value_parser = super::file_references::checked_config)]
    pub config: Vec<String>,
    /// Placement constraints
    #[arg(long, value_name = "list")]
    constraint: Vec<String>,
    /// Container labels
    #[arg(long, value_name = "list")]
    container_label: Vec<String>,
    /// Set custom DNS servers
    #[arg(long, value_name = "list")]
    dns: Vec<String>,
    /// Set DNS options
    #[arg(long, value_name = "list")]
    dns_option: Vec<String>,
    /// Set custom DNS search domains
    #[arg(long, value_name = "list")]
    dns_search: Vec<String>,
    /// Set environment variables
    #[arg(short, long, value_name = "list")]
    env: Vec<String>,
    /// Read in a file of environment variables
    #[arg(long, value_name = "list")]
    env_file: Vec<PathBuf>,
    /// User defined resources
    #[arg(long, value_name = "list", value_parser = crate::generic_resource::checked)]
    generic_resource: Vec<String>,
    /// Set one or more supplementary user groups for the container
    #[arg(long, value_name = "list")]
    group: Vec<String>,
    /// Set one or more custom host-to-IP mappings (host:ip)
    #[arg(long, value_name = "list")]
    host: Vec<String>,
    /// Service labels
    #[arg(short, long, value_name = "list")]
    label: Vec<String>,
    /// Service mode ("replicated", "global", "replicated-job", "global-job")
    #[arg(long, value_name = "string", default_value = "replicated")]
    mode: String,
    /// Attach a filesystem mount to the service
    #[arg(long, value_name = "mount", value_parser = super::mount::checked)]
    mount: Vec<String>,
    /// Service name
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    name: String,
    /// Network attachments
    #[arg(long, value_name = "network")]
    network: Vec<String>,
    /// Add a placement preference
    #[arg(long, value_name = "pref")]
    placement_pref: Vec<String>,
    /// Publish a port as a node port
    #[arg(short, long, value_name = "port")]
    publish: Vec<String>,
    /// Specify secrets to expose to the service
    #[arg(long, value_name = "secret", value_parser = super::file_references::checked_secret)]
    pub secret: Vec<String>,
    /// Sysctl options
    #[arg(long, value_name = "list")]
    sysctl: Vec<String>,
    /// Ulimit options
    #[arg(long, value_name = "ulimit")]
    ulimit: Vec<String>,
    #[command(flatten)]
    pub spec: SpecFlags,
    /// Image, command and arguments. Flags end at the image: what follows is the container's.
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "IMAGE [COMMAND] [ARG...]"
    )]
    pub words: Vec<String>,
}

impl CreateFlags {
    /// The spec asked for.
    pub fn to_spec(&self) -> Result<Value> {
        let (image, args) = self.words.split_first().context("no image")?;
        let mut mode = match self.mode.as_str() {
            "replicated" => json!({ "Replicated": { "Replicas": 1 } }),
            "global" => json!({ "Global": {} }),
            // Without a limit of its own, all of them at once.
            "replicated-job" => {
                json!({ "ReplicatedJob": { "MaxConcurrent": self.spec.replicas.unwrap_or(1) } })
            }
            "global-job" => json!({ "GlobalJob": {} }),
            other => {
                bail!("Unknown mode: {other}, only replicated and global supported");
            }
        };
        self.spec.scale(&mut mode)?;
        let mut env = create_body::lines(&self.env_file)?;
        env.extend(self.env.iter().cloned());
        let mut published = Vec::new();
        for text in &self.publish {
            published.extend(ports::service(text)?);
        }
        let mut spec = json!({
            "Name": self.name, "Labels": pairs(&self.label),
            "TaskTemplate": {
                "ContainerSpec": {
                    "Image": image, "Args": args, "Labels": pairs(&self.container_label),
                    "Env": env.iter().filter_map(|e| create_body::variable(e)).collect::<Vec<_>>(),
                    "CapabilityAdd": self.cap_add, "CapabilityDrop": self.cap_drop, "Groups": self.group,
                    "Hosts": self.host.iter().map(|h| host(h)).collect::<Result<Vec<_>>>()?,
                    "DNSConfig": { "Nameservers": self.dns, "Options": self.dns_option, "Search": self.dns_search },
                    "Mounts": self.mount.iter().map(|m| mount::mount(m)).collect::<Result<Vec<_>>>()?,
                    "Sysctls": pairs(&self.sysctl),
                    "Ulimits": self.ulimit.iter().map(|u| create_body::ulimit(u)).collect::<Result<Vec<_>>>()?,
                },
                "Networks": self.network.iter().map(|n| network(n)).collect::<Result<Vec<_>>>()?,
                "Placement": {
                    "Constraints": self.constraint,
                    "Preferences": self.placement_pref.iter().map(|p| preference(p)).collect::<Result<Vec<_>>>()?,
                },
            },
            "EndpointSpec": { "Ports": published },
        });
        spec["TaskTemplate"]["Resources"]["Reservations"]["GenericResources"] =
            generic_resource::asked(&self.generic_resource)?;
        self.spec.apply(&mut spec)?;
        without_empty(&mut spec);
        if self.mode.ends_with("-job")
            && !(spec["UpdateConfig"].is_null() && spec["RollbackConfig"].is_null())
        {
            bail!("update and rollback configuration is not supported for jobs");
        }
        spec["Mode"] = mode;
        self.spec.run.apply(&mut spec)?;
        Ok(spec)
    }
}

/// `NET`, or `name=NET,alias=A`.
pub fn network(text: &str) -> Result<Value> {
    if !text.contains('=') {
        return Ok(json!({ "Target": text }));
    }
    let (mut target, mut aliases, mut options) = (None, Vec::new(), serde_json::Map::new());
    for field in text.split(',') {
        match field.split_once('=') {
            Some(("name", name)) => target = Some(name),
            Some(("alias", alias)) => aliases.push(alias),
            Some(("driver-opt", option)) => {
                let (k, v) = option.split_once('=').unwrap_or((option, ""));
                options.insert(k.to_owned(), v.into());
            }
            _ => bail!("invalid field {field:?} in {text:?}: want name, alias or driver-opt"),
        }
    }
    let target = target.with_context(|| format!("network {text:?}: name is missing"))?;
    Ok(json!({ "Target": target, "Aliases": aliases, "DriverOpts": options }))
}

/// `spread=node.labels.NAME`.
pub fn preference(text: &str) -> Result<Value> {
    match text.split_once('=') {
        Some(("spread", over)) => Ok(json!({ "Spread": { "SpreadDescriptor": over } })),
        Some((strategy, _)) => {
            bail!("unsupported placement preference {strategy} (only spread is supported)")
        }
        None => bail!("placement preference must be of the format \"<strategy>=<arg>\""),
    }
}

/// `name:ip` as a service keeps it: `ip name`.
pub fn host(text: &str) -> Result<String> {
    let pair = create_body::host(text)?;
    let (name, ip) = pair.split_once(':').context("a name and an address")?;
    Ok(format!("{ip} {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_come_by_name_or_with_aliases() {
        assert_eq!(network("front").expect("a network"), json!({"Target": "front"}));
        let read = network("name=front,alias=a,alias=b").expect("a network");
        assert_eq!(read["Aliases"], json!(["a", "b"]));
        assert!(network("alias=a").is_err() && network("name=x,colour=red").is_err());
    }
}
