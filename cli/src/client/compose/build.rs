//! `compose build`: the build sections of services as builds of their own.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use clap::Args;

use super::super::build::{self as one, BuildArgs};
use super::super::compose_parts::strings;
use super::project::Project;
use super::{Session, graph, pull, service};
use crate::compose::{Node, Problem};

/// Flags of `compose build`.
#[derive(Args)]
pub struct BuildFlags {
    /// Set build-time variables for services
    #[arg(long, value_name = "stringArray")]
    build_arg: Vec<String>,
    /// Set memory limit for the build container
    #[arg(short, long, value_name = "bytes")]
    memory: Option<String>,
    /// Do not use cache when building the image
    #[arg(long)]
    no_cache: bool,
    /// Always attempt to pull a newer version of the image
    #[arg(long)]
    pull: bool,
    /// Push service images
    #[arg(long)]
    push: bool,
    /// Suppress the build output
    #[arg(short, long)]
    quiet: bool,
    /// SSH agents to forward to the builds: default|ID[=SOCKET]
    #[arg(long, value_name = "string")]
    ssh: Vec<String>,
    /// Also build dependencies (transitively)
    #[arg(long)]
    with_dependencies: bool,
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

/// What is asked for beside the files.
#[derive(Default)]
pub struct Options {
    pub args: Vec<String>,
    pub memory: Option<String>,
    pub no_cache: bool,
    pub pull: bool,
    pub quiet: bool,
    pub ssh: Vec<String>,
    pub to_stderr: bool,
}

pub async fn run(s: &Session<'_>, flags: &BuildFlags) -> Result<()> {
    let project = s.files.load(&flags.services)?;
    let mut names = project.selected(&flags.services, flags.with_dependencies)?;
    names.retain(|n| project.service(n).is_ok_and(|s| s.get("build").is_some()));
    if names.is_empty() {
        eprintln!("No services to build");
        return Ok(());
    }
    let options = Options {
        args: flags.build_arg.clone(),
        memory: flags.memory.clone(),
        no_cache: flags.no_cache,
        pull: flags.pull,
        quiet: flags.quiet,
        ssh: flags.ssh.clone(),
        to_stderr: false,
    };
    all(s, &project, &names, &options).await?;
    if flags.push {
        for name in &names {
            let image = service::image(&project, name, project.service(name)?);
            pull::push_one(s, &image, flags.quiet).await?;
        }
    }
    Ok(())
}

/// Builds services, those side by side that do not need each other. Where there are several, each line of output says
/// whose it is.
pub async fn all(s: &Session<'_>, project: &Project, names: &[String], options: &Options) -> Result<()> {
    // Each is checked before any is begun.
    for name in names {
        words(project, name, options)?;
    }
    let (names, edges) = in_order(project, names)?;
    let names = &names;
    graph::walk(names, &edges, false, async |name| {
        let words = words(project, &name, options)?;
        let mut args = BuildArgs::from_words(&words.flags)?;
        (args.inline, args.secrets) = (words.inline, words.secrets);
        args.to_stderr = options.to_stderr;
        args.named = (names.len() > 1).then(|| name.clone());
        let _place = s.place().await;
        s.report.tell("Service", &name, "Building");
        match &s.rehearsal {
            Some(rehearsal) => {
                rehearsal.has_image(&service::image(project, &name, project.service(&name)?));
            }
            None => {
                // What it says comes below.
                let _aside = s.report.aside();
                one::build(s.api, &args)
                    .await
                    .map(drop)
                    .with_context(|| format!("service {name:?}: build"))?;
            }
        }
        s.report.tell("Service", &name, "Built");
        Ok(())
    })
    .await
}

/// The services whose images a service's build begins with or takes from.
fn bases<'a>(project: &'a Project, name: &str) -> Result<Vec<&'a str>> {
    let others = project.service(name)?.path(&["build", "additional_contexts"]);
    let others = others.map(Node::entries).unwrap_or_default();
    Ok(others.iter().filter_map(|(_, v)| v.text()?.strip_prefix("service:")).collect())
}

/// What is built, with the services whose images it is built of, and which come before which.
fn in_order(project: &Project, names: &[String]) -> Result<(Vec<String>, graph::Edges)> {
    let (mut edges, mut all, mut next) = (graph::Edges::new(), names.to_vec(), 0);
    while let Some(name) = all.get(next).cloned() {
        for base in bases(project, &name)? {
            if project.service(base)?.get("build").is_none() {
                continue;
            }
            if !graph::join(&mut edges, &name, base) {
                bail!(
                    "the builds of {name:?} and {base:?} wait for each other: see their additional_contexts"
                );
            }
            if !all.iter().any(|n| n == base) {
                all.push(base.to_owned());
            }
        }
        next += 1;
    }
    // Else as they are started.
    for (name, needs) in graph::of_files(project.services()) {
        for need in needs {
            graph::join(&mut edges, &name, &need);
        }
    }
    Ok((all, edges))
}

/// A build section as `skep build` takes it.
struct Words {
    flags: Vec<String>,
    /// The Dockerfile that is in the file itself.
    inline: Option<String>,
    /// Secrets that are the project's variables, by their IDs: no command line shows them.
    secrets: BTreeMap<String, Vec<u8>>,
}

fn words(project: &Project, name: &str, options: &Options) -> Result<Words> {
    let service = project.service(name)?;
    let build = service.get("build").with_context(|| format!("service {name:?} has no build section"))?;
    let mut out = Vec::new();
    let mut put = |flag: &str, value: &str| out.extend([format!("--{flag}={value}")]);
    put("tag", &service::image(project, name, service));
    for tag in strings(build.get("tags")) {
        put("tag", tag);
    }
    let given = |list: &[String], key: &str| list.iter().any(|a| a.split('=').next() == Some(key));
    for (key, value) in build.get("args").map(Node::entries).unwrap_or_default() {
        let held = value.text().or_else(|| project.variables.get(&key.text).map(String::as_str));
        if let Some(value) = held.filter(|_| !given(&options.args, &key.text)) {
            put("build-arg", &format!("{}={value}", key.text));
        }
    }
    for arg in &options.args {
        put("build-arg", arg);
    }
    for (key, value) in build.get("labels").map(Node::entries).unwrap_or_default() {
        put("label", &format!("{}={}", key.text, value.text().unwrap_or_default()));
    }
    for (label, value) in
        [("project", project.name.as_str()), ("service", name), ("version", env!("CARGO_PKG_VERSION"))]
    {
        put("label", &format!("com.docker.compose.{label}={value}"));
    }
    for image in strings(build.get("cache_from")) {
        put("cache-from", image);
    }
    for host in strings(build.get("extra_hosts")) {
        put("add-host", host);
    }
    for (key, limit) in build.get("ulimits").map(Node::entries).unwrap_or_default() {
        let soft = limit.text().or(limit.text_of("soft")).unwrap_or("0");
        let hard = limit.text().or(limit.text_of("hard")).unwrap_or(soft);
        put("ulimit", &format!("{}={soft}:{hard}", key.text));
    }
    for (flag, key) in [("target", "target"), ("network", "network"), ("shm-size", "shm_size")] {
        if let Some(value) = build.text_of(key) {
            put(flag, value);
        }
    }
    for (other, value) in build.get("additional_contexts").map(Node::entries).unwrap_or_default() {
        let text = value.text().unwrap_or_default();
        let value = match text.strip_prefix("service:") {
            Some(base) => {
                let of = project.service(base)?;
                format!("docker-image://{}", service::image(project, base, of))
            }
            None => text.to_owned(),
        };
        put("build-context", &format!("{}={value}", other.text));
    }
    for (id, socket) in build.get("ssh").map(Node::entries).unwrap_or_default() {
        match socket.text().filter(|s| !s.is_empty()) {
            Some(socket) => put("ssh", &format!("{}={socket}", id.text)),
            None => put("ssh", &id.text),
        }
    }
    options.ssh.iter().for_each(|agent| put("ssh", agent));
    for entitlement in strings(build.get("entitlements")) {
        put("allow", entitlement);
    }
    if build.is_set("privileged") {
        put("allow", "security.insecure");
    }
    platform(name, service, build)?.iter().for_each(|p| put("platform", p));
    if let Some(memory) = &options.memory {
        put("memory", memory);
    }
    let mut secrets = BTreeMap::new();
    for item in build.get("secrets").map(Node::items).unwrap_or_default() {
        match secret(project, name, item)? {
            (id, Secret::File(file)) => put("secret", &format!("id={id},src={file}")),
            (id, Secret::Value(value)) => drop(secrets.insert(id.to_owned(), value.as_bytes().to_vec())),
        }
    }
    for (flag, set) in [
        ("no-cache", options.no_cache || build.is_set("no_cache")),
        ("pull", options.pull || build.is_set("pull")),
        ("quiet", options.quiet),
    ] {
        if set {
            out.push(format!("--{flag}"));
        }
    }
    let context = build.text_of("context").unwrap_or(".");
    let inline = build.text_of("dockerfile_inline").map(str::to_owned);
    if let (None, Some(file)) = (&inline, build.text_of("dockerfile")) {
        // Of what is fetched it is a path in that.
        let beside = match std::path::Path::new(context).is_dir() {
            true => std::path::Path::new(context).join(file),
            false => file.into(),
        };
        out.push(format!("--file={}", beside.display()));
    }
    out.push(context.to_owned());
    Ok(Words { flags: out, inline, secrets })
}

/// The one platform that is built for.
fn platform(name: &str, service: &Node, build: &Node) -> Result<Option<String>> {
    let listed = strings(build.get("platforms"));
    match (service.text_of("platform"), listed.as_slice()) {
        (Some(own), list) if list.is_empty() || list.contains(&own) => Ok(Some(own.to_owned())),
        (None, []) => Ok(None),
        (None, [one]) => Ok(Some((*one).to_owned())),
        (own, _) => {
            let at = build.get("platforms").map_or(&build.at, |n| &n.at);
            let what = match own {
                Some(own) => format!("services.{name}.build.platforms: {own} of platform is not among them"),
                None => {
                    format!("services.{name}.build.platforms: images of several platforms are not supported")
                }
            };
            Err(Problem::new(at, what).into())
        }
    }
}

/// Where a build's secret is from.
enum Secret<'a> {
    File(&'a str),
    Value(&'a str),
}

/// The ID of a build's secret, and where it is from. Variables are the project's, `.env` with them.
fn secret<'a>(project: &'a Project, name: &str, item: &'a Node) -> Result<(&'a str, Secret<'a>)> {
    let source = item.text_of("source").unwrap_or_default();
    let id = item.text_of("target").unwrap_or(source);
    let Some(declared) = project.root.path(&["secrets", source]) else {
        let what = format!("services.{name}.build.secrets: undefined secret {source:?}");
        return Err(Problem::new(&item.at, what).into());
    };
    match (declared.text_of("file"), declared.text_of("environment")) {
        (Some(file), _) => Ok((id, Secret::File(file))),
        (None, Some(variable)) => match project.variables.get(variable) {
            Some(value) => Ok((id, Secret::Value(value))),
            None => bail!("secret {source:?}: environment variable {variable:?} is not set"),
        },
        (None, None) => bail!("secret {source:?} of the build of {name:?} has neither a file nor a variable"),
    }
}
