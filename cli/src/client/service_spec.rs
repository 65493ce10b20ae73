//! Flags of `service create` and `service update` as a service spec in the API's JSON.

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use super::networks::pairs;

/// Flags that create and update share.
#[derive(Args, Default)]
pub struct SpecArgs {
    /// Number of tasks
    #[arg(long)]
    replicas: Option<u64>,
    /// Placement constraint, like node.role==worker
    #[arg(long)]
    constraint: Vec<String>,
    /// Spread tasks over a node label, spread=node.labels.zone
    #[arg(long)]
    placement_pref: Vec<String>,
    /// Most tasks on one node
    #[arg(long)]
    replicas_max_per_node: Option<u64>,
    /// Memory a node must have to spare, like 256m
    #[arg(long)]
    reserve_memory: Option<String>,
    /// CPUs a node must have to spare
    #[arg(long)]
    reserve_cpu: Option<f64>,
    /// Memory limit, like 512m
    #[arg(long)]
    limit_memory: Option<String>,
    /// CPU limit
    #[arg(long)]
    limit_cpu: Option<f64>,
    /// Most processes of a task
    #[arg(long)]
    limit_pids: Option<i64>,
    /// When to restart: none, on-failure or any
    #[arg(long)]
    restart_condition: Option<String>,
    /// Pause before a restart, like 5s
    #[arg(long)]
    restart_delay: Option<String>,
    /// Most restarts
    #[arg(long)]
    restart_max_attempts: Option<u64>,
    /// Time in which restarts are counted
    #[arg(long)]
    restart_window: Option<String>,
    /// Tasks updated at once (0: all)
    #[arg(long)]
    update_parallelism: Option<u64>,
    /// Pause between updates
    #[arg(long)]
    update_delay: Option<String>,
    /// pause, continue or rollback
    #[arg(long)]
    update_failure_action: Option<String>,
    /// start-first or stop-first
    #[arg(long)]
    update_order: Option<String>,
    /// Time an updated task is watched
    #[arg(long)]
    update_monitor: Option<String>,
    /// Share of failures an update bears
    #[arg(long)]
    update_max_failure_ratio: Option<f64>,
    /// Time from the stop signal to SIGKILL
    #[arg(long)]
    stop_grace_period: Option<String>,
    /// User of the process
    #[arg(short, long)]
    user: Option<String>,
    /// Working directory
    #[arg(short, long)]
    workdir: Option<String>,
    /// Host name of the containers
    #[arg(long)]
    hostname: Option<String>,
    /// vip or dnsrr
    #[arg(long)]
    endpoint_mode: Option<String>,
}

/// Flags of `service create`.
#[derive(Args)]
pub struct CreateArgs {
    /// Name [default: made up]
    #[arg(long)]
    name: Option<String>,
    /// Set an environment variable, NAME=value
    #[arg(short, long)]
    env: Vec<String>,
    /// Label of the service, name=value
    #[arg(short, long)]
    label: Vec<String>,
    /// Network to join
    #[arg(long)]
    network: Vec<String>,
    /// Publish a port: published:target[/protocol], or published=N,target=N,protocol=tcp,mode=ingress|host
    #[arg(short, long)]
    publish: Vec<String>,
    #[command(flatten)]
    pub spec: SpecArgs,
    /// Do not wait until the tasks run
    #[arg(short, long)]
    pub detach: bool,
    /// Do not show progress
    #[arg(short, long)]
    pub quiet: bool,
    /// Image
    image: String,
    /// Command and arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Flags of `service update`.
#[derive(Args)]
pub struct UpdateArgs {
    /// Image
    #[arg(long)]
    image: Option<String>,
    /// Arguments of the command
    #[arg(long, allow_hyphen_values = true)]
    args: Option<String>,
    /// Set an environment variable, NAME=value
    #[arg(long)]
    env_add: Vec<String>,
    /// Remove an environment variable
    #[arg(long)]
    env_rm: Vec<String>,
    /// Set a label, name=value
    #[arg(long)]
    label_add: Vec<String>,
    /// Remove a label
    #[arg(long)]
    label_rm: Vec<String>,
    /// Publish another port
    #[arg(long)]
    publish_add: Vec<String>,
    /// No longer publish this target port
    #[arg(long)]
    publish_rm: Vec<u16>,
    /// Replace every task even when nothing changed
    #[arg(long)]
    force: bool,
    /// Go back to the spec before the last update
    #[arg(long)]
    pub rollback: bool,
    #[command(flatten)]
    pub spec: SpecArgs,
    /// Do not wait until the tasks run
    #[arg(short, long)]
    pub detach: bool,
    /// Do not show progress
    #[arg(short, long)]
    pub quiet: bool,
    /// Name or ID
    pub service: String,
}

impl CreateArgs {
    /// The spec asked for.
    pub fn to_spec(&self) -> Result<Value> {
        let networks: Vec<_> = self.network.iter().map(|n| json!({ "Target": n })).collect();
        let mut spec = json!({
            "Name": self.name.clone().unwrap_or_default(),
            "Labels": pairs(&self.label)?,
            "TaskTemplate": {
                "ContainerSpec": { "Image": self.image, "Env": self.env },
                "Networks": networks,
            },
            "Mode": { "Replicated": { "Replicas": 1 } },
            "EndpointSpec": { "Ports": self.publish.iter().map(|p| port(p)).collect::<Result<Vec<_>>>()? },
        });
        if !self.command.is_empty() {
            spec["TaskTemplate"]["ContainerSpec"]["Args"] = json!(self.command);
        }
        self.spec.apply(&mut spec)?;
        Ok(spec)
    }
}

impl UpdateArgs {
    /// Changes `spec` as asked.
    pub fn apply(&self, spec: &mut Value) -> Result<()> {
        let container = &mut spec["TaskTemplate"]["ContainerSpec"];
        if let Some(image) = &self.image {
            container["Image"] = image.as_str().into();
        }
        if let Some(args) = &self.args {
            container["Args"] = json!(words(args)?);
        }
        let mut env: Vec<String> = serde_json::from_value(container["Env"].take()).unwrap_or_default();
        let name = |e: &str| e.split('=').next().unwrap_or_default().to_owned();
        env.retain(|e| !self.env_rm.contains(&name(e)) && !self.env_add.iter().any(|a| name(a) == name(e)));
        env.extend(self.env_add.iter().cloned());
        container["Env"] = json!(env);
        for (k, v) in pairs(&self.label_add)? {
            spec["Labels"][&k] = v;
        }
        if let Some(labels) = spec["Labels"].as_object_mut() {
            labels.retain(|k, _| !self.label_rm.contains(k));
        }
        let mut ports: Vec<Value> =
            serde_json::from_value(spec["EndpointSpec"]["Ports"].take()).unwrap_or_default();
        ports.retain(|p| !self.publish_rm.iter().any(|t| p["TargetPort"] == *t));
        ports.extend(self.publish_add.iter().map(|p| port(p)).collect::<Result<Vec<_>>>()?);
        spec["EndpointSpec"]["Ports"] = json!(ports);
        if self.force {
            let raised = spec["TaskTemplate"]["ForceUpdate"].as_u64().unwrap_or(0) + 1;
            spec["TaskTemplate"]["ForceUpdate"] = raised.into();
        }
        self.spec.apply(spec)
    }
}

impl SpecArgs {
    fn apply(&self, spec: &mut Value) -> Result<()> {
        if let Some(n) = self.replicas {
            spec["Mode"]["Replicated"]["Replicas"] = n.into();
        }
        if let Some(mode) = &self.endpoint_mode {
            spec["EndpointSpec"]["Mode"] = mode.as_str().into();
        }
        let task = &mut spec["TaskTemplate"];
        if !self.constraint.is_empty() {
            task["Placement"]["Constraints"] = json!(self.constraint);
        }
        if !self.placement_pref.is_empty() {
            let one = |p: &String| match p.split_once('=') {
                Some(("spread", over)) => Ok(json!({ "Spread": { "SpreadDescriptor": over } })),
                _ => bail!("placement preference {p:?}: want spread=node.labels.NAME"),
            };
            task["Placement"]["Preferences"] =
                Value::Array(self.placement_pref.iter().map(one).collect::<Result<_>>()?);
        }
        set(&mut task["Placement"]["MaxReplicas"], self.replicas_max_per_node);
        let resources = &mut task["Resources"];
        set(&mut resources["Reservations"]["MemoryBytes"], bytes(self.reserve_memory.as_deref())?);
        set(&mut resources["Limits"]["MemoryBytes"], bytes(self.limit_memory.as_deref())?);
        set(&mut resources["Reservations"]["NanoCPUs"], self.reserve_cpu.map(|c| (c * 1e9) as i64));
        set(&mut resources["Limits"]["NanoCPUs"], self.limit_cpu.map(|c| (c * 1e9) as i64));
        set(&mut resources["Limits"]["Pids"], self.limit_pids);
        let restart = &mut task["RestartPolicy"];
        set(&mut restart["Condition"], self.restart_condition.clone());
        set(&mut restart["Delay"], duration(self.restart_delay.as_deref())?);
        set(&mut restart["MaxAttempts"], self.restart_max_attempts);
        set(&mut restart["Window"], duration(self.restart_window.as_deref())?);
        let container = &mut task["ContainerSpec"];
        set(&mut container["StopGracePeriod"], duration(self.stop_grace_period.as_deref())?);
        set(&mut container["User"], self.user.clone());
        set(&mut container["Dir"], self.workdir.clone());
        set(&mut container["Hostname"], self.hostname.clone());
        let update = &mut spec["UpdateConfig"];
        set(&mut update["Parallelism"], self.update_parallelism);
        set(&mut update["Delay"], duration(self.update_delay.as_deref())?);
        set(&mut update["FailureAction"], self.update_failure_action.clone());
        set(&mut update["Order"], self.update_order.clone());
        set(&mut update["Monitor"], duration(self.update_monitor.as_deref())?);
        set(&mut update["MaxFailureRatio"], self.update_max_failure_ratio);
        without_nulls(spec);
        Ok(())
    }
}

fn set(at: &mut Value, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        *at = value.into();
    }
}

/// Looking a field up to set it leaves nulls where nothing was set.
fn without_nulls(value: &mut Value) {
    if let Some(map) = value.as_object_mut() {
        map.values_mut().for_each(without_nulls);
        map.retain(|_, v| !v.is_null() && v.as_object().is_none_or(|o| !o.is_empty()));
    }
}

fn bytes(text: Option<&str>) -> Result<Option<u64>> {
    text.map(|t| skep_engine::parse_size(t).with_context(|| format!("{t:?} is not a size like 512m")))
        .transpose()
}

/// `1m30s`, `500ms`, `5s` in nanoseconds (Go's duration syntax).
fn duration(text: Option<&str>) -> Result<Option<i64>> {
    let Some(text) = text else { return Ok(None) };
    let bad = || format!("{text:?} is not a duration like 5s or 1m30s");
    let (mut total, mut rest) = (0f64, text);
    if rest == "0" {
        return Ok(Some(0));
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').with_context(bad)?;
        let number: f64 = rest[..digits].parse().ok().with_context(bad)?;
        let unit = &rest[digits..];
        let length = unit.find(|c: char| c.is_ascii_digit()).unwrap_or(unit.len());
        total += number
            * match &unit[..length] {
                "ns" => 1.0,
                "us" | "µs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                _ => bail!(bad()),
            };
        rest = &unit[length..];
    }
    Ok(Some(total as i64))
}

/// Splits words as a shell does: quotes and backslashes, nothing else.
fn words(text: &str) -> Result<Vec<String>> {
    let (mut out, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, Some(q)) if c == q => quote = None,
            ('\\', None | Some('"')) => word.get_or_insert_default().extend(chars.next()),
            (c, None) if c.is_whitespace() => out.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        bail!("{text:?}: a quote is not closed");
    }
    out.extend(word);
    Ok(out)
}

fn port(text: &str) -> Result<Value> {
    let number = |n: &str| n.parse::<u16>().with_context(|| format!("invalid port {n:?} in {text:?}"));
    if text.contains('=') {
        let mut port = json!({ "Protocol": "tcp", "PublishMode": "ingress" });
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("published", n)) => port["PublishedPort"] = number(n)?.into(),
                Some(("target", n)) => port["TargetPort"] = number(n)?.into(),
                Some(("protocol", p)) => port["Protocol"] = p.into(),
                Some(("mode", m)) => port["PublishMode"] = m.into(),
                _ => bail!("invalid field {part:?} in {text:?}: want published, target, protocol or mode"),
            }
        }
        return Ok(port);
    }
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (published, target) = match ports.split_once(':') {
        Some((p, t)) => (number(p)?, number(t)?),
        None => (0, number(ports)?),
    };
    Ok(
        json!({ "Protocol": protocol, "PublishMode": "ingress", "PublishedPort": published, "TargetPort": target }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_words_read_as_go_and_a_shell_do() {
        assert_eq!(duration(Some("1m30s")).expect("duration"), Some(90_000_000_000));
        assert_eq!(duration(Some("500ms")).expect("duration"), Some(500_000_000));
        assert!(duration(Some("5")).is_err());
        assert_eq!(words("a 'b c' \"d e\" f\\ g").expect("words"), ["a", "b c", "d e", "f g"]);
        assert!(words("'open").is_err());
    }

    #[test]
    fn ports_come_short_or_long() {
        assert_eq!(port("8080:80").expect("port")["PublishedPort"], 8080);
        assert_eq!(port("53:53/udp").expect("port")["Protocol"], "udp");
        assert_eq!(port("published=1,target=2,mode=host").expect("port")["PublishMode"], "host");
        for bad in ["x", "1:y", "target=2,colour=red", "99999"] {
            assert!(port(bad).is_err(), "{bad}");
        }
    }
}
