//! Flags of `service update`: what they change in a service's spec.

use anyhow::{Result, ensure};
use clap::Args;
use serde_json::{Map, Value, json};

use super::create_body::{pairs, ulimit, variable, without_empty};
use super::service_create::{host, network, preference};
use super::service_spec::{self, SpecFlags};
use super::{mount, ports};
use crate::generic_resource;

/// Flags of `service update`.
#[derive(Args)]
pub struct UpdateFlags {
    /// Service command args
    #[arg(long, value_name = "command", allow_hyphen_values = true)]
    args: Option<String>,
    /// Add Linux capabilities
    #[arg(long, value_name = "list")]
    cap_add: Vec<String>,
    /// Drop Linux capabilities
    #[arg(long, value_name = "list")]
    cap_drop: Vec<String>,
    /// Add or update a config file on a service
    #[arg(long, value_name = "config", value_parser = super::file_references::checked_config)]
    pub config_add: Vec<String>,
    /// Remove a configuration file
    #[arg(long, value_name = "list")]
    pub config_rm: Vec<String>,
    /// Add or update a placement constraint
    #[arg(long, value_name = "list")]
    constraint_add: Vec<String>,
    /// Remove a constraint
    #[arg(long, value_name = "list")]
    constraint_rm: Vec<String>,
    /// Add or update a container label
    #[arg(long, value_name = "list")]
    container_label_add: Vec<String>,
    /// Remove a container label by its key
    #[arg(long, value_name = "list")]
    container_label_rm: Vec<String>,
    /// Add or update a custom DNS server
    #[arg(long, value_name = "list")]
    dns_add: Vec<String>,
    /// Add or update a DNS option
    #[arg(long, value_name = "list")]
    dns_option_add: Vec<String>,
    /// Remove a DNS option
    #[arg(long, value_name = "list")]
    dns_option_rm: Vec<String>,
    /// Remove a custom DNS server
    #[arg(long, value_name = "list")]
    dns_rm: Vec<String>,
    /// Add or update a custom DNS search domain
    #[arg(long, value_name = "list")]
    dns_search_add: Vec<String>,
    /// Remove a DNS search domain
    #[arg(long, value_name = "list")]
    dns_search_rm: Vec<String>,
    /// Add or update an environment variable
    #[arg(long, value_name = "list")]
    env_add: Vec<String>,
    /// Remove an environment variable
    #[arg(long, value_name = "list")]
    env_rm: Vec<String>,
    /// Force update even if no changes require it
    #[arg(long)]
    force: bool,
    /// Add a Generic resource
    #[arg(long, value_name = "list", value_parser = crate::generic_resource::checked)]
    generic_resource_add: Vec<String>,
    /// Remove a Generic resource
    #[arg(long, value_name = "list")]
    generic_resource_rm: Vec<String>,
    /// Add an additional supplementary user group to the container
    #[arg(long, value_name = "list")]
    group_add: Vec<String>,
    /// Remove a previously added supplementary user group from the container
    #[arg(long, value_name = "list")]
    group_rm: Vec<String>,
    /// Add a custom host-to-IP mapping ("host:ip")
    #[arg(long, value_name = "list")]
    host_add: Vec<String>,
    /// Remove a custom host-to-IP mapping ("host:ip")
    #[arg(long, value_name = "list")]
    host_rm: Vec<String>,
    /// Service image tag
    #[arg(long, value_name = "string")]
    pub image: Option<String>,
    /// Add or update a service label
    #[arg(long, value_name = "list")]
    label_add: Vec<String>,
    /// Remove a label by its key
    #[arg(long, value_name = "list")]
    label_rm: Vec<String>,
    /// Add or update a mount on a service
    #[arg(long, value_name = "mount", value_parser = super::mount::checked)]
    mount_add: Vec<String>,
    /// Remove a mount by its target path
    #[arg(long, value_name = "list")]
    mount_rm: Vec<String>,
    /// Add a network
    #[arg(long, value_name = "network")]
    network_add: Vec<String>,
    /// Remove a network
    #[arg(long, value_name = "list")]
    network_rm: Vec<String>,
    /// Add a placement preference
    #[arg(long, value_name = "pref")]
    placement_pref_add: Vec<String>,
    /// Remove a placement preference
    #[arg(long, value_name = "pref")]
    placement_pref_rm: Vec<String>,
    /// Add or update a published port
    #[arg(long, value_name = "port")]
    publish_add: Vec<String>,
    /// Remove a published port by its target port
    #[arg(long, value_name = "port")]
    publish_rm: Vec<String>,
    /// Rollback to previous specification
    #[arg(long)]
    pub rollback: bool,
    /// Add or update a secret on a service
    #[arg(long, value_name = "secret", value_parser = super::file_references::checked_secret)]
    pub secret_add: Vec<String>,
    /// Remove a secret
    #[arg(long, value_name = "list")]
    pub secret_rm: Vec<String>,
    /// Add or update a Sysctl option
    #[arg(long, value_name = "list")]
    sysctl_add: Vec<String>,
    /// Remove a Sysctl option
    #[arg(long, value_name = "list")]
    sysctl_rm: Vec<String>,
    /// Add or update a ulimit option
    #[arg(long, value_name = "ulimit")]
    ulimit_add: Vec<String>,
    /// Remove a ulimit option
    #[arg(long, value_name = "list")]
    ulimit_rm: Vec<String>,
    #[command(flatten)]
    pub spec: SpecFlags,
    #[arg(value_name = "SERVICE")]
    pub service: String,
}

impl UpdateFlags {
    /// Names or IDs of the networks to remove.
    pub fn network_names(&self) -> &[String] {
        &self.network_rm
    }

    /// Changes `spec` as asked. `network_ids` are the IDs of the networks to remove, beside their names.
    pub fn apply(&self, spec: &mut Value, network_ids: &[String]) -> Result<()> {
        self.spec.apply(spec)?;
        let counted = spec["Mode"]["Replicated"].is_object() || spec["Mode"]["ReplicatedJob"].is_object();
        ensure!(counted || self.spec.replicas.is_none(), "replicas can only be used with replicated mode");
        self.spec.scale(&mut spec["Mode"])?;
        change_map(&mut spec["Labels"], &pairs(&self.label_add), &self.label_rm);
        let task = &mut spec["TaskTemplate"];
        change(
            &mut task["Placement"]["Constraints"],
            texts(&self.constraint_add),
            &self.constraint_rm,
            Value::clone,
        );
        let preferences = |list: &[String]| list.iter().map(|p| preference(p)).collect::<Result<Vec<_>>>();
        let gone = preferences(&self.placement_pref_rm)?;
        keep(&mut task["Placement"]["Preferences"], |p| !gone.contains(p));
        extend(&mut task["Placement"]["Preferences"], preferences(&self.placement_pref_add)?);
        let gone = |n: &Value| {
            let target = n["Target"].as_str().unwrap_or_default();
            self.network_rm.iter().chain(network_ids).any(|r| r == target)
        };
        keep(&mut task["Networks"], |n| !gone(n));
        extend(&mut task["Networks"], self.network_add.iter().map(|n| network(n)).collect::<Result<_>>()?);
        self.generic(&mut task["Resources"]["Reservations"]["GenericResources"])?;
        if self.force {
            task["ForceUpdate"] = (task["ForceUpdate"].as_u64().unwrap_or(0) + 1).into();
        }
        self.container(&mut task["ContainerSpec"])?;
        let ports = &mut spec["EndpointSpec"]["Ports"];
        for text in &self.publish_rm {
            let (target, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
            let target = target.rsplit(':').next().unwrap_or_default();
            let target: u16 = target.parse().map_err(|_| {
                anyhow::anyhow!(
                    "invalid port {text:?} for --publish-rm: want a target port such as 80 or 53/udp"
                )
            })?;
            keep(ports, |p| {
                !(p["TargetPort"] == target && p["Protocol"].as_str().unwrap_or("tcp") == protocol)
            });
        }
        for text in &self.publish_add {
            for port in ports::service(text)? {
                // Adding what is published already changes how it is.
                keep(ports, |p| {
                    !(p["TargetPort"] == port["TargetPort"]
                        && p["Protocol"] == port["Protocol"]
                        && p["PublishedPort"] == port["PublishedPort"])
                });
                extend(ports, vec![port]);
            }
        }
        let mode = spec["Mode"].take();
        // What is empty there says something.
        let run = spec["TaskTemplate"]["ContainerSpec"]["RunOptions"].take();
        without_empty(spec);
        // An empty list, which is not the same as none.
        if let Some(list) = self.spec.extras.depends_on()? {
            spec["DependsOn"] = list;
        }
        spec["Mode"] = mode;
        if !run.is_null() {
            spec["TaskTemplate"]["ContainerSpec"]["RunOptions"] = run;
        }
        self.spec.run.apply(spec)?;
        Ok(())
    }

    fn generic(&self, list: &mut Value) -> Result<()> {
        let kind = |r: &Value| r["DiscreteResourceSpec"]["Kind"].clone();
        let added = generic_resource::asked(&self.generic_resource_add)?;
        change(list, added.as_array().cloned().unwrap_or_default(), &[], kind);
        for gone in &self.generic_resource_rm {
            let known = list.as_array().is_some_and(|l| l.iter().any(|r| kind(r) == gone.as_str()));
            ensure!(known, "could not find generic-resource `{gone}` to remove it");
            keep(list, |r| kind(r) != gone.as_str());
        }
        Ok(())
    }

    fn container(&self, container: &mut Value) -> Result<()> {
        if let Some(image) = &self.image {
            container["Image"] = image.as_str().into();
        }
        if let Some(args) = &self.args {
            container["Args"] = json!(service_spec::words(args)?);
        }
        let env: Vec<_> = self.env_add.iter().filter_map(|e| variable(e)).collect();
        change(&mut container["Env"], texts(&env), &self.env_rm, |e| {
            e.as_str().unwrap_or_default().split('=').next().unwrap_or_default().into()
        });
        change_map(&mut container["Labels"], &pairs(&self.container_label_add), &self.container_label_rm);
        change_map(&mut container["Sysctls"], &pairs(&self.sysctl_add), &self.sysctl_rm);
        let none: &[String] = &[];
        for (name, added, removed) in [
            ("CapabilityAdd", &self.cap_add, none),
            ("CapabilityDrop", &self.cap_drop, none),
            ("Groups", &self.group_add, self.group_rm.as_slice()),
        ] {
            change(&mut container[name], texts(added), removed, Value::clone);
        }
        keep(&mut container["CapabilityDrop"], |c| !self.cap_add.iter().any(|a| c == a.as_str()));
        keep(&mut container["CapabilityAdd"], |c| !self.cap_drop.iter().any(|d| c == d.as_str()));
        let hosts = |list: &[String]| list.iter().map(|h| host(h)).collect::<Result<Vec<_>>>();
        change(&mut container["Hosts"], texts(&hosts(&self.host_add)?), &hosts(&self.host_rm)?, Value::clone);
        let dns = &mut container["DNSConfig"];
        change(&mut dns["Nameservers"], texts(&self.dns_add), &self.dns_rm, Value::clone);
        change(&mut dns["Options"], texts(&self.dns_option_add), &self.dns_option_rm, Value::clone);
        change(&mut dns["Search"], texts(&self.dns_search_add), &self.dns_search_rm, Value::clone);
        let mounts = self.mount_add.iter().map(|m| mount::mount(m)).collect::<Result<_>>()?;
        change(&mut container["Mounts"], mounts, &self.mount_rm, |m| m["Target"].clone());
        let limits = self.ulimit_add.iter().map(|u| ulimit(u)).collect::<Result<_>>()?;
        change(&mut container["Ulimits"], limits, &self.ulimit_rm, |u| u["Name"].clone());
        Ok(())
    }
}

fn texts(list: &[String]) -> Vec<Value> {
    list.iter().map(|t| t.as_str().into()).collect()
}

fn keep(list: &mut Value, wanted: impl Fn(&Value) -> bool) {
    if let Some(list) = list.as_array_mut() {
        list.retain(wanted);
    }
}

fn extend(list: &mut Value, added: Vec<Value>) {
    if added.is_empty() {
        return;
    }
    match list.as_array_mut() {
        Some(list) => list.extend(added),
        None => *list = added.into(),
    }
}

/// Removes by key, then adds; what has the key of something added is replaced.
fn change(list: &mut Value, added: Vec<Value>, removed: &[String], key: impl Fn(&Value) -> Value) {
    keep(list, |v| {
        let key_of = key(v);
        !removed.iter().any(|r| key_of == r.as_str()) && !added.iter().any(|a| key(a) == key_of)
    });
    extend(list, added);
}

fn change_map(map: &mut Value, added: &Map<String, Value>, removed: &[String]) {
    for (name, value) in added {
        map[name] = value.clone();
    }
    if let Some(map) = map.as_object_mut() {
        map.retain(|k, _| !removed.contains(k));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: UpdateFlags,
    }

    fn updated(mut spec: Value, words: &str) -> Value {
        let line =
            Line::try_parse_from(["update"].into_iter().chain(words.split(' ')).chain(["web"])).expect(words);
        line.flags.apply(&mut spec, &["n1".to_owned()]).expect(words);
        spec
    }

    #[test]
    fn flags_add_replace_and_remove() {
        let spec = json!({
            "Name": "web", "Labels": {"a": "1", "b": "2"}, "Mode": {"Global": {}},
            "TaskTemplate": {
                "ContainerSpec": {"Image": "i", "Env": ["A=1", "B=2"], "CapabilityAdd": ["NET_ADMIN"]},
                "Networks": [{"Target": "n1"}, {"Target": "n2"}], "ForceUpdate": 1,
                "Placement": {"Constraints": ["node.role==worker"]},
            },
            "EndpointSpec": {"Ports": [{"TargetPort": 80, "PublishedPort": 8080, "Protocol": "tcp", "PublishMode": "ingress"}]},
        });
        let got = updated(
            spec,
            "--label-add a=9 --label-rm b --env-add A=7 --env-add C=3 --env-rm B --network-rm front --network-add n3 \
             --publish-rm 80 --publish-add 81:81 --force --image j --constraint-rm node.role==worker --cap-drop NET_ADMIN",
        );
        assert_eq!(got["Labels"], json!({"a": "9"}));
        let task = &got["TaskTemplate"];
        assert_eq!(task["ContainerSpec"]["Env"], json!(["A=7", "C=3"]));
        assert_eq!(task["ContainerSpec"]["Image"], "j");
        assert_eq!(task["ContainerSpec"]["CapabilityDrop"], json!(["NET_ADMIN"]));
        assert!(task["ContainerSpec"]["CapabilityAdd"].is_null() && task["Placement"].is_null());
        assert_eq!(task["Networks"], json!([{"Target": "n2"}, {"Target": "n3"}]));
        assert_eq!(task["ForceUpdate"], 2);
        assert_eq!(got["EndpointSpec"]["Ports"].as_array().map(Vec::len), Some(1));
        assert_eq!(got["EndpointSpec"]["Ports"][0]["TargetPort"], 81);
        assert_eq!(got["Mode"], json!({"Global": {}}));
    }
}
