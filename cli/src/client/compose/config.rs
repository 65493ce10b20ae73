//! `compose config`: what the files come to.

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Map, Value, json};

use super::super::output::{say, write};
use super::container::{self, Made};
use super::project::Reading;
use super::{Session, digests, service};
use crate::compose::{self, Kind, Node, Type, Used};

/// Flags of `compose config`.
#[derive(Args)]
pub struct ConfigFlags {
    /// Print environment used for interpolation
    #[arg(long)]
    environment: bool,
    /// Format the output. Values: [yaml | json]
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Print the service config hash, one per line
    #[arg(long, value_name = "string")]
    hash: Option<String>,
    /// Print the image names, one per line
    #[arg(long)]
    images: bool,
    /// Produces an override file with image digests
    #[arg(long)]
    lock_image_digests: bool,
    /// Print the network names, one per line
    #[arg(long)]
    networks: bool,
    /// Don't check model consistency: what comes out may be no Compose file
    #[arg(long)]
    no_consistency: bool,
    /// Don't resolve service env files
    #[arg(long)]
    no_env_resolution: bool,
    /// Don't interpolate environment variables
    #[arg(long)]
    no_interpolate: bool,
    /// Don't normalize compose model
    #[arg(long)]
    no_normalize: bool,
    /// Don't resolve file paths
    #[arg(long)]
    no_path_resolution: bool,
    /// Save to file (default to stdout)
    #[arg(short, long, value_name = "string")]
    output: Option<std::path::PathBuf>,
    /// Print the profile names, one per line
    #[arg(long)]
    profiles: bool,
    /// Only validate the configuration, don't print anything
    #[arg(short, long)]
    quiet: bool,
    /// Pin image tags to digests
    #[arg(long)]
    resolve_image_digests: bool,
    /// Print the service names, one per line
    #[arg(long)]
    services: bool,
    /// Print model variables and default values
    #[arg(long)]
    variables: bool,
    /// Print the volume names, one per line
    #[arg(long)]
    volumes: bool,
    #[arg(value_name = "SERVICE")]
    names: Vec<String>,
}

pub async fn run(s: &Session<'_>, flags: &ConfigFlags) -> Result<()> {
    if flags.variables {
        return variables(s, flags);
    }
    if let Some(other) = flags.format.as_deref().filter(|f| !matches!(*f, "" | "yaml" | "json")) {
        bail!("unsupported format {other:?}");
    }
    let reading = Reading {
        interpolate: !flags.no_interpolate,
        env_files: !flags.no_env_resolution,
        whole_paths: !flags.no_path_resolution,
        consistent: !flags.no_consistency,
        complete: !flags.no_normalize,
        everything: false,
    };
    // Of services, all are listed.
    let named: &[String] = if flags.services { &[] } else { &flags.names };
    let mut project = s.files.load_as(named, reading)?;
    if !named.is_empty() {
        let wanted = project.selected(named, true)?;
        let others: Vec<String> =
            project.services().map(|(n, _)| n.to_owned()).filter(|n| !wanted.contains(n)).collect();
        if let Some(services) = project.root.get_mut("services") {
            others.iter().for_each(|n| drop(services.remove(n)));
        }
        let (name, all) = (project.name.clone(), s.files.all_resources);
        match reading.complete {
            true => service::complete(&mut project.root, &name, all),
            false => service::complete_sparsely(&mut project.root, &name, all),
        }
    }
    let names = |section: &str| -> Vec<String> {
        let entries = project.root.get(section).map(Node::entries).unwrap_or_default();
        entries.iter().map(|(k, _)| k.text.clone()).collect()
    };
    let lines = if flags.services {
        Some(names("services"))
    } else if flags.volumes {
        Some(names("volumes"))
    } else if flags.networks {
        Some(names("networks"))
    } else if flags.images {
        Some(project.services().map(|(n, s)| service::image(&project, n, s)).collect())
    } else if flags.profiles {
        let all = s.files.load_all()?;
        let of = |s: &Node| super::super::compose_parts::strings(s.get("profiles")).join("\n");
        let mut found: Vec<String> = all.services().map(|(_, s)| of(s)).filter(|p| !p.is_empty()).collect();
        found = found.iter().flat_map(|p| p.lines()).map(str::to_owned).collect();
        found.sort();
        found.dedup();
        Some(found)
    } else if flags.environment {
        Some(project.variables.iter().map(|(k, v)| format!("{k}={v}")).collect())
    } else if let Some(which) = &flags.hash {
        if which != "*"
            && let Some(other) = which.split(',').find(|w| project.service(w).is_err())
        {
            bail!("no such service: {other}: not found");
        }
        let wanted = |name: &str| which == "*" || which.split(',').any(|w| w == name);
        let hash = |(name, service): (&str, &Node)| {
            Ok(format!("{name} {}", container::hash(&project, name, service, &Made::default())?))
        };
        Some(project.services().filter(|(n, _)| wanted(n)).map(hash).collect::<Result<_>>()?)
    } else {
        None
    };
    if let Some(lines) = lines {
        return lines.iter().filter(|_| !flags.quiet).try_for_each(|l| say!("{l}"));
    }
    let mut root = project.root;
    if flags.resolve_image_digests || flags.lock_image_digests {
        digests::pin(s, &mut root).await?;
    }
    if flags.quiet {
        return Ok(());
    }
    if flags.lock_image_digests {
        root = digests::alone(&root);
    } else {
        defaults(&mut root);
    }
    let text = match flags.format.as_deref() {
        Some("json") => {
            said_in_json(&mut root);
            serde_json::to_string_pretty(&json(&root))? + "\n"
        }
        _ => compose::to_yaml(&root),
    };
    // What is printed can be read again.
    let text = if flags.no_interpolate { text } else { text.replace('$', "$$") };
    match &flags.output {
        Some(file) => std::fs::write(file, text).with_context(|| format!("write {}", file.display())),
        None => write(format_args!("{text}")),
    }
}

/// The variables of the files, whatever is used of them and named, and what is taken where they have no value.
fn variables(s: &Session<'_>, flags: &ConfigFlags) -> Result<()> {
    let reading = Reading {
        interpolate: false,
        consistent: false,
        complete: false,
        everything: true,
        ..Reading::default()
    };
    let project = s.files.load_as(&[], reading)?;
    let (mut found, mut todo) = (Vec::new(), vec![&project.root]);
    while let Some(node) = todo.pop() {
        match &node.kind {
            Kind::Map(entries) => todo.extend(entries.iter().map(|(_, value)| value)),
            Kind::List(items) => todo.extend(items),
            Kind::Scalar(_, text) => compose::used(text, &mut found),
        }
    }
    // Of one that is used in several ways, the way that says most.
    found.sort_by(|a, b| {
        let said = |u: &Used| (u.required, !u.default.is_empty(), !u.alternate.is_empty());
        a.name.cmp(&b.name).then(said(b).cmp(&said(a)))
    });
    found.dedup_by(|a, b| a.name == b.name);
    match flags.format.as_deref() {
        Some("json") => {
            let one = |u: &Used| {
                let value = json!({
                    "Name": u.name, "DefaultValue": u.default, "PresenceValue": u.alternate, "Required": u.required,
                });
                (u.name.clone(), value)
            };
            let all: Map<String, Value> = found.iter().map(one).collect();
            say!("{}", serde_json::to_string_pretty(&all)?)
        }
        Some("yaml") => {
            let at = &project.root.at;
            let mut all = Node::map(at);
            for u in found {
                let mut one = Node::map(at);
                one.set("name", Node::string(at, &u.name));
                one.set("defaultvalue", Node::string(at, u.default));
                one.set("presencevalue", Node::string(at, u.alternate));
                one.set("required", Node::bool(at, u.required));
                all.set(&u.name, one);
            }
            write(format_args!("{}", compose::to_yaml(&all)))
        }
        None | Some("" | "table" | "pretty") => {
            let row = |cells: [&str; 4]| {
                let last = cells.len() - 1;
                let padded = cells.iter().enumerate().map(|(i, c)| match i == last {
                    true => (*c).to_owned(),
                    false => format!("{c:w$}", w = widths(&found)[i]),
                });
                padded.collect::<String>()
            };
            say!("{}", row(["NAME", "REQUIRED", "DEFAULT VALUE", "ALTERNATE VALUE"]))?;
            found.iter().try_for_each(|u| {
                let required = if u.required { "true" } else { "false" };
                say!("{}", row([&u.name, required, &u.default, &u.alternate]))
            })
        }
        Some(other) => bail!("unsupported format {other:?}"),
    }
}

/// Widths of the columns of variables, but for the last.
fn widths(all: &[Used]) -> [usize; 3] {
    let widest = |of: &dyn Fn(&Used) -> usize| all.iter().map(of).max().unwrap_or(0);
    let (name, default) = (widest(&|u| u.name.chars().count()), widest(&|u| u.default.chars().count()));
    [name, 0, default].map(|w| (w + 3).max(20))
}

/// Says what Docker's own says of what was left out.
fn defaults(root: &mut Node) {
    for (_, service) in root.get_mut("services").map(Node::entries_mut).unwrap_or_default() {
        if let Some(Node { kind: Kind::List(ports), .. }) = service.get_mut("ports") {
            for published in ports.iter_mut().filter_map(|p| p.get_mut("published")) {
                if let Kind::Scalar(ty, _) = &mut published.kind {
                    *ty = Type::Str;
                }
            }
        }
        if service.get("profiles").is_some_and(|p| p.items().is_empty()) {
            service.remove("profiles");
        }
        number(service, &["cpus"]);
        for kind in ["limits", "reservations"] {
            number(service, &["deploy", "resources", kind, "cpus"]);
        }
        for volume in items(service, "volumes") {
            let at = volume.at.clone();
            match volume.text_of("type") {
                Some("volume") if volume.get("volume").is_none() => volume.set("volume", Node::map(&at)),
                Some("bind") if volume.get("bind").is_none() => {
                    let mut bind = Node::map(&at);
                    bind.set("create_host_path", Node::bool(&at, true));
                    volume.set("bind", bind);
                }
                _ => {}
            }
        }
        for secret in items(service, "secrets") {
            if secret.get("target").is_none() {
                let source = secret.text_of("source").unwrap_or_default().to_owned();
                secret.set("target", Node::string(&secret.at.clone(), format!("/run/secrets/{source}")));
            }
        }
        for section in ["secrets", "configs"] {
            let items = service.get_mut(section).and_then(|s| match &mut s.kind {
                Kind::List(items) => Some(items),
                _ => None,
            });
            for mode in items.into_iter().flatten().filter_map(|item| item.get_mut("mode")) {
                if let Some(bits) = mode.text().and_then(|t| t.parse::<u32>().ok()) {
                    *mode = Node::string(&mode.at.clone(), format!("0{bits:o}"));
                }
            }
        }
        for (_, need) in service.get_mut("depends_on").map(Node::entries_mut).unwrap_or_default() {
            let at = need.at.clone();
            if need.get("condition").is_none() {
                need.set("condition", Node::string(&at, "service_started"));
            }
            if need.get("required").is_none() {
                need.set("required", Node::bool(&at, true));
            }
        }
    }
    compose::sort(root);
}

/// Says what is a number as one, also where it was written as text.
fn number(service: &mut Node, path: &[&str]) {
    let node = path.iter().try_fold(service, |node, key| node.get_mut(key));
    if let Some(Node { kind: Kind::Scalar(ty, text), .. }) = node
        && text.parse::<f64>().is_ok()
    {
        *ty = Type::Float;
    }
}

/// The items of a list in a service.
fn items<'a>(service: &'a mut Node, name: &str) -> &'a mut [Node] {
    match service.get_mut(name).map(|n| &mut n.kind) {
        Some(Kind::List(items)) => items,
        _ => &mut [],
    }
}

/// What Docker's own says in JSON alone.
fn said_in_json(root: &mut Node) {
    for (_, service) in root.get_mut("services").map(Node::entries_mut).unwrap_or_default() {
        let at = service.at.clone();
        for key in ["command", "entrypoint"] {
            if service.get(key).is_none() {
                service.set(key, Node::null(&at));
            }
        }
        if let Some(deploy) = service.get_mut("deploy").filter(|d| d.get("placement").is_none()) {
            deploy.set("placement", Node::map(&at));
        }
    }
    for (_, network) in root.get_mut("networks").map(Node::entries_mut).unwrap_or_default() {
        if network.get("ipam").is_none() {
            let at = network.at.clone();
            network.set("ipam", Node::map(&at));
        }
    }
}

/// A tree as JSON.
fn json(node: &Node) -> Value {
    match &node.kind {
        Kind::Map(entries) => Value::Object(entries.iter().map(|(k, v)| (k.text.clone(), json(v))).collect()),
        Kind::List(items) => items.iter().map(json).collect(),
        Kind::Scalar(Type::Null, _) => Value::Null,
        Kind::Scalar(Type::Bool, text) => (text == "true").into(),
        Kind::Scalar(Type::Int | Type::Float, text) => text
            .parse::<i64>()
            .map(Value::from)
            .or_else(|_| text.parse::<f64>().map(Value::from))
            .unwrap_or_default(),
        Kind::Scalar(Type::Str, text) => text.as_str().into(),
    }
}
