//! `compose run`: one more container of a service, for one command.

use std::io::IsTerminal;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use super::super::api::{Query, encode};
use super::super::attach::{self, Ended, Exit};
use super::super::compose_parts::strings;
use super::super::create_body::{self, Streams};
use super::super::human::hex;
use super::super::output::say;
use super::super::{mount, ports};
use super::container::{self, Made};
use super::create::{self, Options};
use super::image::{self, Wanted};
use super::{Session, found, service, start};
use crate::compose::depends;

/// Flags of `compose run`.
#[derive(Args)]
pub struct RunFlags {
    /// Build image before starting container
    #[arg(long)]
    build: bool,
    /// Add Linux capabilities
    #[arg(long, value_name = "list")]
    cap_add: Vec<String>,
    /// Drop Linux capabilities
    #[arg(long, value_name = "list")]
    cap_drop: Vec<String>,
    /// Run container in background and print container ID
    #[arg(short, long)]
    detach: bool,
    /// Override the entrypoint of the image
    #[arg(long, value_name = "string")]
    entrypoint: Option<String>,
    /// Set environment variables
    #[arg(short, long, value_name = "stringArray")]
    env: Vec<String>,
    /// Set environment variables from file
    #[arg(long, value_name = "stringArray")]
    env_from_file: Vec<std::path::PathBuf>,
    /// Keep STDIN open even if not attached
    #[arg(short, long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    interactive: bool,
    /// Add or override a label
    #[arg(short, long, value_name = "stringArray")]
    label: Vec<String>,
    /// Assign a name to the container
    #[arg(long, value_name = "string")]
    name: Option<String>,
    /// Disable pseudo-TTY allocation (default: auto-detected)
    #[arg(short = 'T', long = "no-TTY", alias = "no-tty")]
    no_tty: bool,
    /// Allocate a pseudo-TTY, as is done anyway: out of habit from `docker run -it`
    #[arg(short, long, hide = true, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    tty: bool,
    /// Don't start linked services
    #[arg(long)]
    no_deps: bool,
    /// Publish a container's port(s) to the host
    #[arg(short, long, value_name = "stringArray")]
    publish: Vec<String>,
    /// Pull image before running ("always"|"missing"|"never")
    #[arg(long, value_name = "string", default_value = "policy", value_parser = ["policy", "always", "missing", "never"])]
    pull: String,
    /// Don't print anything to STDOUT
    #[arg(short, long)]
    quiet: bool,
    /// Suppress progress output from the build process
    #[arg(long)]
    quiet_build: bool,
    /// Pull without printing progress information
    #[arg(long)]
    quiet_pull: bool,
    /// Remove containers for services not defined in the Compose file
    #[arg(long)]
    remove_orphans: bool,
    /// Automatically remove the container when it exits
    #[arg(long)]
    rm: bool,
    /// Run command with all service's ports enabled and mapped to the host
    #[arg(short = 'P', long)]
    service_ports: bool,
    /// Use the service's network useAliases in the network(s) the container connects to
    #[arg(long)]
    use_aliases: bool,
    /// Run as specified username or uid
    #[arg(short, long, value_name = "string")]
    user: Option<String>,
    /// Bind mount a volume
    #[arg(short, long, value_name = "stringArray")]
    volume: Vec<String>,
    /// Working directory inside the container
    #[arg(short, long, value_name = "string")]
    workdir: Option<String>,
    #[arg(required = true, num_args = 1.., trailing_var_arg = true, allow_hyphen_values = true, value_name = "SERVICE [COMMAND] [ARGS...]")]
    words: Vec<String>,
}

/// Runs the command; its exit code.
pub async fn run(s: &Session<'_>, flags: RunFlags) -> Result<u8> {
    let (name, command) = flags.words.split_first().context("a service")?;
    let project = s.files.load(std::slice::from_ref(name))?;
    let service = project.service(name)?;
    if flags.service_ports && !flags.publish.is_empty() {
        bail!("--service-ports and --publish are incompatible");
    }
    let mut needed: Vec<String> = depends::of(service).into_iter().map(|n| n.service).collect();
    needed.retain(|n| project.service(n).is_ok());
    let wanted = Wanted {
        build: false,
        no_build: false,
        pull: Some(&flags.pull),
        quiet_pull: flags.quiet_pull || flags.quiet,
        quiet_build: flags.quiet_build || flags.quiet,
    };
    let own = Wanted { build: flags.build, ..wanted };
    image::ensure(s, &project, std::slice::from_ref(name), own).await?;
    let with = match flags.no_deps || needed.is_empty() {
        true => Vec::new(),
        false => project.selected(&needed, true)?,
    };
    image::ensure(s, &project, &with, wanted).await?;
    let options = Options { remove_orphans: flags.remove_orphans, ..Options::default() };
    create::all(s, &project, &with, &with, &options).await?;
    start::all(s, &project, &with).await?;
    if !flags.no_deps {
        start::needs(s, &project, name, service).await?;
    }
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let tty = terminal && flags.tty && !flags.no_tty && !flags.detach;
    let mut slug = [0_u8; 32];
    rand::fill(&mut slug);
    let slug = hex(&slug);
    let named = flags.name.clone().unwrap_or_else(|| {
        format!("{}{sep}{name}{sep}run{sep}{}", project.name, &slug[..12], sep = project.separator)
    });
    let image = image::id(s.api, &service::image(&project, name, service)).await?;
    let image = image.context("no such image")?;
    let mut made = Made { one_off: Some(slug), named: named.clone(), image, ..Made::default() };
    for container in found::of(s.api, &project.name, &needed).await? {
        made.others.entry(container.service).or_insert(container.id);
    }
    let mut body = container::body(&project, name, service, &made)?;
    change(&mut body, &flags, command, tty)?;
    if flags.use_aliases {
        let networks = body["NetworkingConfig"]["EndpointsConfig"].as_object_mut();
        let keys = service.get("networks").map(crate::compose::Node::entries).unwrap_or_default();
        for (network, endpoint) in networks.into_iter().flatten() {
            let key =
                keys.iter().find(|(k, _)| service::name_of(&project.root, "networks", &k.text) == *network);
            let aliases = key.map(|(_, n)| strings(n.get("aliases"))).unwrap_or_default();
            let all: Vec<&str> = [named.as_str(), name.as_str()].into_iter().chain(aliases).collect();
            endpoint["Aliases"] = json!(all);
        }
    }
    let id = create::from(s, &project, service, &named, &body).await?;
    let path = format!("/containers/{}", encode(&id));
    if flags.detach {
        s.api.post(&format!("{path}/start"), &Query::new(), None).await?;
        say!("{named}")?;
        return Ok(0);
    }
    let streams = Streams { stdin: flags.interactive, stdout: true, stderr: true };
    let attached = attach::attach(s.api, &path, streams, tty, None).await?;
    let exit = Exit::of(s.api, &path, if flags.rm { "removed" } else { "next-exit" }).await?;
    if let Err(e) = s.api.post(&format!("{path}/start"), &Query::new(), None).await {
        if flags.rm {
            let _ = s.api.delete(&path, &Query::new().flag("force", true)).await;
        }
        return Err(e);
    }
    match attached.join(s.api, &path, true).await? {
        Ended::Detached => Ok(0),
        Ended::Closed => exit.code().await,
    }
}

/// What the flags change of the service.
fn change(body: &mut Value, flags: &RunFlags, command: &[String], tty: bool) -> Result<()> {
    if !command.is_empty() {
        body["Cmd"] = json!(command);
    }
    if let Some(entrypoint) = &flags.entrypoint {
        let words =
            crate::compose::units::words(entrypoint).context("--entrypoint: a quote is not closed")?;
        body["Entrypoint"] = json!(words);
        if command.is_empty() {
            body["Cmd"] = json!([]);
        }
    }
    for (field, value) in [("User", &flags.user), ("WorkingDir", &flags.workdir)] {
        if let Some(value) = value {
            body[field] = value.as_str().into();
        }
    }
    let given = create_body::environment(&flags.env_from_file, &flags.env)?;
    let mut env: Vec<String> = strings_of(&body["Env"]);
    let name_of = |e: &str| e.split('=').next().unwrap_or_default().to_owned();
    env.retain(|e| !given.iter().any(|g| name_of(g) == name_of(e)));
    env.extend(given);
    body["Env"] = json!(env);
    for (key, value) in create_body::pairs(&flags.label) {
        body["Labels"][key] = value;
    }
    let host = &mut body["HostConfig"];
    host["RestartPolicy"] = json!({ "Name": "no" });
    host["AutoRemove"] = flags.rm.into();
    for (field, more) in [("CapAdd", &flags.cap_add), ("CapDrop", &flags.cap_drop)] {
        if !more.is_empty() {
            let mut all = strings_of(&host[field]);
            all.extend(more.iter().cloned());
            host[field] = json!(all);
        }
    }
    if !flags.volume.is_empty() {
        let cwd = std::env::current_dir()?;
        // As with `run -v`, but that a path may be relative.
        let whole = |text: &String| match text.split_once(':') {
            Some((source, rest)) if source.starts_with('.') => {
                format!("{}:{rest}", super::super::copy::clean(&cwd.join(source).to_string_lossy()))
            }
            _ => text.clone(),
        };
        let (binds, anonymous) = mount::volumes(&flags.volume.iter().map(whole).collect::<Vec<_>>())?;
        host["Binds"] = json!(binds);
        body["Volumes"] = json!(anonymous);
    }
    if !flags.service_ports {
        let (exposed, bound) = ports::bindings(&flags.publish, &[])?;
        body["HostConfig"]["PortBindings"] = json!(bound);
        for (port, _) in exposed.as_object().into_iter().flatten() {
            body["ExposedPorts"][port.as_str()] = json!({});
        }
    }
    body["Tty"] = tty.into();
    let stdin = flags.interactive && !flags.detach;
    body["OpenStdin"] = stdin.into();
    body["StdinOnce"] = stdin.into();
    for (field, set) in
        [("AttachStdin", stdin), ("AttachStdout", !flags.detach), ("AttachStderr", !flags.detach)]
    {
        body[field] = set.into();
    }
    Ok(())
}

fn strings_of(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}
