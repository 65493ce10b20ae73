//! The commands' words: `verb name key=value flag ...`.

use skep_manager::store::StoreView;
use skep_manager::store::change::put;
use skep_proto::features::Feature;
use skep_proto::v1;

use super::Result;

/// A command split into words.
pub struct Words<'a>(&'a str, Vec<&'a str>);

impl<'a> Words<'a> {
    pub fn new(command: &'a str) -> Self {
        Self(command, command.split_whitespace().collect())
    }
    /// The command without its first word.
    pub fn after_verb(&self) -> &'a str {
        self.0.split_once(' ').map_or("", |(_, rest)| rest)
    }
    pub fn verb(&self) -> &'a str {
        self.1.first().copied().unwrap_or_default()
    }
    pub fn name(&self) -> Result<&'a str> {
        self.1.get(1).copied().ok_or_else(|| "what is its name?".to_owned())
    }
    pub fn rest(&self) -> &[&'a str] {
        self.1.get(2..).unwrap_or_default()
    }
    pub fn has(&self, flag: &str) -> bool {
        self.1.contains(&flag)
    }
    fn all(&self, key: &str) -> impl Iterator<Item = &'a str> {
        self.1.iter().filter_map(move |w| w.strip_prefix(key)?.strip_prefix('='))
    }
    fn get(&self, key: &str) -> Option<&'a str> {
        self.all(key).next()
    }
    fn number(&self, key: &str) -> Result<Option<u64>> {
        self.get(key).map(|v| v.parse().map_err(|e| format!("{key}={v}: {e}"))).transpose()
    }
    fn duration_ns(&self, key: &str) -> Result<Option<i64>> {
        self.get(key).map(|v| duration_ms(v).map(|ms| ms * 1_000_000)).transpose()
    }
}

/// 500ms, 5s, 3m, 25h
pub fn duration_ms(text: &str) -> Result<i64> {
    let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
    units
        .iter()
        .find_map(|(unit, ms)| Some(text.strip_suffix(unit)?.parse::<i64>().ok()? * ms))
        .ok_or_else(|| format!("{text} is not a duration"))
}

fn annotations(name: &str) -> Option<v1::Annotations> {
    Some(v1::Annotations { name: name.to_owned(), ..Default::default() })
}

pub fn cluster(words: &Words) -> Result<v1::Cluster> {
    Ok(v1::Cluster {
        id: "cluster".into(),
        spec: Some(v1::ClusterSpec {
            task_history_limit: words.number("history")?.unwrap_or(5) as i64,
            ..Default::default()
        }),
        address_pools: words.all("pool").map(str::to_owned).collect(),
        subnet_size: words.number("size")?.unwrap_or(0) as u32,
        ..Default::default()
    })
}

pub fn node(view: &StoreView, words: &Words) -> Result<v1::Node> {
    let name = words.name()?;
    let mut node = view.node(name).map(|n| v1::Node::clone(n)).unwrap_or_else(|| v1::Node {
        id: name.to_owned(),
        state: v1::NodeState::Ready.into(),
        description: Some(v1::NodeDescription {
            hostname: name.to_owned(),
            platform: Some(v1::Platform { os: "linux".into(), architecture: "x86_64".into() }),
            resources: Some(v1::Resources { nano_cpus: 4_000_000_000, memory_bytes: 4096 << 20, pids: 0 }),
            ..Default::default()
        }),
        spec: Some(v1::NodeSpec { annotations: annotations(""), ..Default::default() }),
        ..Default::default()
    });
    let description = node.description.get_or_insert_default();
    let resources = description.resources.get_or_insert_default();
    if let Some(mib) = words.number("mem")? {
        resources.memory_bytes = (mib << 20) as i64;
    }
    if let Some(cpus) = words.number("cpus")? {
        resources.nano_cpus = (cpus * 1_000_000_000) as i64;
    }
    let generic = generic(words)?;
    if !generic.is_empty() {
        description.generic = generic;
    }
    if let Some(arch) = words.get("arch") {
        description.platform.get_or_insert_default().architecture = arch.to_owned();
    }
    // `older`: of a version that says nothing of what it knows.
    let all: Vec<String> = Feature::ALL.map(|f| f.word().to_owned()).into();
    description.knows = if words.has("older") { Vec::new() } else { all };
    description.allows.extend(words.all("allows").map(str::to_owned));
    description.default_runtime = words.get("runtime").unwrap_or_default().to_owned();
    let spec = node.spec.get_or_insert_default();
    if let Some((k, v)) = words.get("label").and_then(|l| l.split_once(':')) {
        spec.annotations.get_or_insert_default().labels.insert(k.to_owned(), v.to_owned());
    }
    if let Some(role) = words.get("role") {
        spec.role =
            v1::NodeRole::from_str_name(&format!("NODE_ROLE_{}", role.to_uppercase())).ok_or("role")?.into();
    }
    if let Some(a) = words.get("availability") {
        let a = format!("NODE_AVAILABILITY_{}", a.to_uppercase());
        spec.availability = v1::NodeAvailability::from_str_name(&a).ok_or("availability")?.into();
    }
    if let Some(state) = words.get("state") {
        node.state = v1::NodeState::from_str_name(&format!("NODE_STATE_{}", state.to_uppercase()))
            .ok_or("state")?
            .into();
    }
    Ok(node)
}

pub fn network(words: &Words) -> Result<v1::Network> {
    let name = words.name()?;
    Ok(v1::Network {
        id: name.to_owned(),
        spec: Some(v1::NetworkSpec {
            annotations: annotations(name),
            subnet: words.get("subnet").unwrap_or_default().to_owned(),
            ingress: words.has("ingress"),
            ipv6: words.has("ipv6"),
            subnet6: words.get("subnet6").unwrap_or_default().to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    })
}

/// Creates or updates a service as control does: another task spec makes another revision.
pub fn service(view: &StoreView, words: &Words, now_ms: i64) -> Result<Vec<v1::Change>> {
    let name = words.name()?;
    let before = view.service_by_name(name);
    let mut service = before.map(|s| v1::Service::clone(s)).unwrap_or_default();
    service.id = name.to_owned();
    let mut spec = service.spec.clone().unwrap_or_default();
    spec.annotations = annotations(name);
    if words.has("global") {
        spec.mode = Some(v1::service_spec::Mode::Global(v1::Global {}));
    } else if words.has("global-job") {
        spec.mode = Some(v1::service_spec::Mode::GlobalJob(v1::GlobalJob {}));
    } else if let Some(job) = words.get("job") {
        let numbers =
            job.split_once('/').and_then(|(max, total)| Some((max.parse().ok()?, total.parse().ok()?)));
        let (max_concurrent, total_completions) = numbers.ok_or("job=CONCURRENT/COMPLETIONS")?;
        let job = v1::ReplicatedJob { max_concurrent, total_completions };
        spec.mode = Some(v1::service_spec::Mode::ReplicatedJob(job));
    } else if let Some(replicas) = words.number("replicas")?.or(before.is_none().then_some(1)) {
        spec.mode = Some(v1::service_spec::Mode::Replicated(v1::Replicated { replicas }));
    }
    let task = spec.task.get_or_insert_default();
    task_spec(task, words)?;
    let config = |old: Option<v1::UpdateConfig>, prefix: &str| -> Result<Option<v1::UpdateConfig>> {
        let mut c = old.unwrap_or(v1::UpdateConfig { parallelism: 1, ..Default::default() });
        let key = |k: &str| format!("{prefix}{k}");
        c.parallelism = words.number(&key("parallelism"))?.unwrap_or(c.parallelism);
        c.delay_ns = words.duration_ns(&key("delay"))?.unwrap_or(c.delay_ns);
        c.monitor_ns = words.duration_ns(&key("monitor"))?.unwrap_or(c.monitor_ns);
        if let Some(percent) = words.number(&key("ratio"))? {
            c.max_failure_ratio = percent as f32 / 100.0;
        }
        match words.get(&key("order")) {
            Some("start-first") => c.set_order(v1::UpdateOrder::StartFirst),
            Some("stop-first") => c.set_order(v1::UpdateOrder::StopFirst),
            _ => {}
        }
        if let Some(action) = words.get(&key("on-failure")) {
            let action = format!("UPDATE_FAILURE_ACTION_{}", action.to_uppercase());
            c.failure_action = v1::UpdateFailureAction::from_str_name(&action).ok_or("on-failure")?.into();
        }
        Ok(Some(c))
    };
    spec.update = config(spec.update, "update-")?;
    spec.rollback = config(spec.rollback, "rollback-")?;
    let ports: Vec<_> = words.all("port").map(port).collect::<Result<_>>()?;
    if !ports.is_empty() || words.has("no-ports") {
        spec.endpoint.get_or_insert_default().ports = ports;
    }
    if words.has("dnsrr") {
        spec.endpoint.get_or_insert_default().set_mode(v1::EndpointMode::Dnsrr);
    }
    let rescheduled = schedule(&mut spec, words)?;
    if words.has("now") {
        service.spec = Some(spec.clone());
        skep_manager::orchestrator::schedule::begin_now(&mut service, now_ms);
    }
    if spec.schedule.is_some() {
        service.job_status.get_or_insert_default();
        if rescheduled {
            service.schedule_status.get_or_insert_default().considered_ms = now_ms;
        }
    } else if words.has("global-job") || words.get("job").is_some() || service.job_status.is_some() {
        let iteration = service.job_status.map_or(0, |job| job.iteration + 1);
        service.job_status = Some(v1::JobStatus { iteration, last_execution_ms: now_ms });
    }
    let after: Vec<_> =
        words.all("after").filter(|a| *a != "none").map(prerequisite).collect::<Result<_>>()?;
    if words.get("after").is_some() {
        spec.depends_on = Some(v1::Prerequisites { all: after });
    }
    if let Some(text) = words.get("rebalance") {
        spec.rebalance = match text.split_once('/') {
            Some((at_once, delay)) => Some(v1::Rebalance {
                enabled: true,
                parallelism: at_once.parse().map_err(|_| "rebalance=PARALLELISM/DELAY")?,
                delay_ns: Some(duration_ms(delay)? * 1_000_000),
            }),
            None => None,
        };
    }
    if let Some(policy) = words.get("data") {
        let policy = format!("DATA_PLACEMENT_{}", policy.to_uppercase());
        spec.data_placement = Some(v1::DataPlacement::from_str_name(&policy).ok_or("data")?.into());
    }
    let mut changes = Vec::new();
    let old_task = service.spec.as_ref().and_then(|s| s.task.as_ref());
    if old_task != spec.task.as_ref() {
        service.revision += 1;
        changes.push(put(v1::Revision {
            service_id: service.id.clone(),
            number: service.revision,
            spec: spec.task.clone(),
            ..Default::default()
        }));
    }
    service.previous_spec = service.spec.replace(spec);
    changes.push(put(service));
    Ok(changes)
}

/// cron=*/5_*_*_*_* tz=Europe/Berlin concurrency=allow deadline=10s keep=3 suspend resume; whether times changed.
fn schedule(spec: &mut v1::ServiceSpec, words: &Words) -> Result<bool> {
    let mut changed = false;
    if let Some(cron) = words.get("cron") {
        spec.schedule.get_or_insert_default().cron = cron.replace('_', " ");
        changed = true;
    }
    let Some(schedule) = &mut spec.schedule else { return Ok(false) };
    if let Some(zone) = words.get("tz") {
        schedule.time_zone = zone.to_owned();
    }
    if let Some(word) = words.get("concurrency") {
        let name = format!("SCHEDULE_CONCURRENCY_{}", word.to_uppercase());
        schedule.concurrency = v1::ScheduleConcurrency::from_str_name(&name).ok_or("concurrency")?.into();
    }
    schedule.starting_deadline_ns = words.duration_ns("deadline")?.or(schedule.starting_deadline_ns);
    schedule.history = words.number("keep")?.map(|n| n as u32).or(schedule.history);
    for (word, suspend) in [("suspend", true), ("resume", false)] {
        if words.has(word) {
            changed |= schedule.suspend != suspend;
            schedule.suspend = suspend;
        }
    }
    Ok(changed)
}

/// after=db:healthy
fn prerequisite(text: &str) -> Result<v1::Prerequisite> {
    let (service, condition) = text.split_once(':').ok_or("after=SERVICE:CONDITION")?;
    let condition = format!("PREREQUISITE_CONDITION_{}", condition.to_uppercase());
    let condition = v1::PrerequisiteCondition::from_str_name(&condition).ok_or("condition")?.into();
    Ok(v1::Prerequisite { service: service.to_owned(), condition, optional: false })
}

/// generic=apple:4 for an amount, generic=gpu:one for a named unit.
fn generic(words: &Words) -> Result<Vec<v1::GenericResource>> {
    let one = |text: &str| {
        let (kind, value) = text.split_once(':').ok_or("generic=KIND:AMOUNT or generic=KIND:NAME")?;
        let amount = value.parse().ok();
        let name = if amount.is_some() { "" } else { value };
        Ok(v1::GenericResource { kind: kind.into(), name: name.into(), amount: amount.unwrap_or(0) })
    };
    words.all("generic").map(one).collect()
}

fn task_spec(task: &mut v1::TaskSpec, words: &Words) -> Result<()> {
    if let Some(image) = words.get("image") {
        task.container.get_or_insert_default().image = image.to_owned();
    }
    if let Some(mib) = words.number("mem")? {
        task.reservations.get_or_insert_default().memory_bytes = (mib << 20) as i64;
    }
    if let Some(cpus) = words.number("cpus")? {
        task.reservations.get_or_insert_default().nano_cpus = (cpus * 1_000_000_000) as i64;
    }
    let generic = generic(words)?;
    if !generic.is_empty() {
        task.generic = generic;
    }
    let volume =
        |name: &str| v1::Mount { r#type: "volume".into(), source: name.into(), ..Default::default() };
    let mounts: Vec<_> = words.all("volume").map(volume).collect();
    if !mounts.is_empty() {
        task.container.get_or_insert_default().mounts = mounts;
    }
    run_options(words, task);
    let restart = task.restart.get_or_insert_default();
    match words.get("restart") {
        Some("none") => restart.set_condition(v1::RestartCondition::None),
        Some("on-failure") => restart.set_condition(v1::RestartCondition::OnFailure),
        _ => {}
    }
    restart.delay_ns = words.duration_ns("delay")?.or(restart.delay_ns);
    restart.max_attempts = words.number("attempts")?.unwrap_or(restart.max_attempts);
    restart.window_ns = words.duration_ns("window")?.unwrap_or(restart.window_ns);
    let placement = task.placement.get_or_insert_default();
    placement.max_replicas = words.number("max")?.unwrap_or(placement.max_replicas);
    placement.constraints.extend(words.all("constraint").map(str::to_owned));
    placement.preferences.extend(words.all("prefer").map(|d| v1::SpreadOver { descriptor: d.to_owned() }));
    placement.platforms.extend(
        words
            .all("platform")
            .filter_map(|p| p.split_once('/'))
            .map(|(os, arch)| v1::Platform { os: os.to_owned(), architecture: arch.to_owned() }),
    );
    task.networks.extend(
        words.all("network").map(|n| v1::NetworkAttachment { network: n.to_owned(), ..Default::default() }),
    );
    Ok(())
}

/// domainname=NAME annotation=KEY:VALUE storage=SIZE runtime=NAME
fn run_options(words: &Words, task: &mut v1::TaskSpec) {
    let pair = |a: &str| a.split_once(':').map(|(k, v)| (k.to_owned(), v.to_owned()));
    let run = v1::RunOptions {
        domainname: words.get("domainname").unwrap_or_default().to_owned(),
        annotations: words.all("annotation").filter_map(pair).collect(),
        storage_opt: words.all("storage").map(|s| ("size".to_owned(), s.to_owned())).collect(),
        runtime: words.get("runtime").unwrap_or_default().to_owned(),
        ..Default::default()
    };
    if run != v1::RunOptions::default() {
        task.container.get_or_insert_default().run = Some(run);
    }
}

/// 8080:80, 8080:80/udp, 8080:80/host; with @ADDRESS, open on that one alone
fn port(text: &str) -> Result<v1::PortConfig> {
    let (text, host_ip) = text.split_once('@').unwrap_or((text, ""));
    let (numbers, kind) = text.split_once('/').unwrap_or((text, "tcp"));
    let (published, target) = numbers.split_once(':').ok_or("port=PUBLISHED:TARGET")?;
    let mut port = v1::PortConfig {
        published_port: published.parse().map_err(|_| "published port")?,
        target_port: target.parse().map_err(|_| "target port")?,
        host_ip: host_ip.to_owned(),
        ..Default::default()
    };
    match kind {
        "udp" => port.set_protocol(v1::PortProtocol::Udp),
        "host" => port.set_mode(v1::PublishMode::Host),
        _ => {}
    }
    Ok(port)
}
