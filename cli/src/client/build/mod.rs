//! `build`: a directory packed and sent to the daemon, which builds an image of it.

mod agent;
mod along;
mod context;
mod debug;
mod layout;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use hyper::Method;

use super::api::{Api, Query};
use super::create_body;
use super::create_values as values;
use super::messages::{self, Failed, Messages, Show};
use super::output::say;

pub use context::ignore as ignored;

/// Flags of `build`, which is `image build` and `builder build`.
#[derive(Args)]
pub struct BuildArgs {
    /// Add a custom host-to-IP mapping (host:ip)
    #[arg(long, value_name = "list", value_parser = values::host)]
    add_host: Vec<String>,
    /// Allow extra privileges: security.insecure, network.host
    #[arg(long, value_name = "entitlement")]
    allow: Vec<String>,
    /// Set build-time variables (SOURCE_DATE_EPOCH is taken from the environment where it is not given)
    #[arg(long, value_name = "list", value_parser = values::variable)]
    build_arg: Vec<String>,
    /// Images to take steps from besides what was built here: IMAGE or type=registry,ref=IMAGE
    #[arg(long, value_name = "strings")]
    cache_from: Vec<String>,
    /// Cache for other builds: type=inline, which every image has
    #[arg(long, value_name = "strings")]
    cache_to: Vec<String>,
    /// Set the parent cgroup for the "RUN" instructions during build
    #[arg(long, value_name = "string")]
    cgroup_parent: Option<String>,
    /// Limit the CPU CFS (Completely Fair Scheduler) period
    #[arg(long, value_name = "int")]
    cpu_period: Option<u64>,
    /// Limit the CPU CFS (Completely Fair Scheduler) quota
    #[arg(long, value_name = "int", allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// CPU shares (relative weight)
    #[arg(short, long, value_name = "int")]
    cpu_shares: Option<u64>,
    /// CPUs in which to allow execution (0-3, 0,1)
    #[arg(long, value_name = "string")]
    cpuset_cpus: Option<String>,
    /// MEMs in which to allow execution (0-3, 0,1)
    #[arg(long, value_name = "string")]
    cpuset_mems: Option<String>,
    /// Another context, which FROM, COPY and RUN know by its name: a directory, docker-image://REFERENCE, oci-layout://PATH[:TAG|@DIGEST], a URL or a repository
    #[arg(long, value_name = "NAME=PATH")]
    build_context: Vec<String>,
    /// Open a shell in the state that a failed step left
    #[arg(long, conflicts_with = "quiet")]
    debug: bool,
    /// Name of the Dockerfile (default is "PATH/Dockerfile")
    #[arg(short, long, value_name = "string")]
    file: Option<PathBuf>,
    /// Always remove intermediate containers
    #[arg(long)]
    force_rm: bool,
    /// Write the image ID to the file
    #[arg(long, value_name = "string")]
    iidfile: Option<PathBuf>,
    /// Container isolation technology (default: there is no other on Linux)
    #[arg(long, value_name = "string")]
    isolation: Option<String>,
    /// Set metadata for an image
    #[arg(long, value_name = "list", value_parser = values::label)]
    label: Vec<String>,
    /// Memory limit
    #[arg(short, long, value_name = "bytes", value_parser = values::size)]
    memory: Option<String>,
    /// Swap limit equal to memory plus swap: -1 to enable unlimited swap
    #[arg(long, value_name = "bytes", allow_hyphen_values = true, value_parser = values::swap)]
    memory_swap: Option<String>,
    /// Set the networking mode for the RUN instructions during build
    #[arg(long, value_name = "string", default_value = "default")]
    network: String,
    /// Do not use cache when building the image
    #[arg(long)]
    no_cache: bool,
    /// Set platform if server is multi-platform capable
    #[arg(long, value_name = "string")]
    platform: Option<String>,
    /// Always attempt to pull a newer version of the image
    #[arg(long)]
    pull: bool,
    /// Suppress the build output and print image ID on success
    #[arg(short, long)]
    quiet: bool,
    /// Remove intermediate containers after a successful build
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    rm: bool,
    /// Secret to expose to the build: id=NAME[,src=FILE|,env=VARIABLE]; HTTP_AUTH_TOKEN_HOST and GIT_AUTH_TOKEN are for servers
    #[arg(long, value_name = "secret")]
    secret: Vec<String>,
    /// Security options
    #[arg(long, value_name = "strings")]
    security_opt: Vec<String>,
    /// Size of "/dev/shm"
    #[arg(long, value_name = "bytes", value_parser = values::size)]
    shm_size: Option<String>,
    /// Name and optionally a tag in the "name:tag" format
    #[arg(short, long, value_name = "list")]
    tag: Vec<String>,
    /// Squash newly built layers into a single new layer
    #[arg(long)]
    squash: bool,
    /// SSH agent to expose to the build: default|ID[=SOCKET]
    #[arg(long, value_name = "list")]
    ssh: Vec<String>,
    /// Set the target build stage to build
    #[arg(long, value_name = "string")]
    target: Option<String>,
    /// Ulimit options
    #[arg(long, value_name = "ulimit", value_parser = values::ulimit)]
    ulimit: Vec<String>,
    /// Directory that is sent, or URL or repository that the daemon fetches; "-" for an archive or a Dockerfile on standard input
    #[arg(value_name = "PATH | URL | -")]
    path: PathBuf,
    /// A Dockerfile given as text, not as a file.
    #[arg(skip)]
    pub inline: Option<String>,
    /// Secrets given as they are, by their IDs.
    #[arg(skip)]
    pub secrets: BTreeMap<String, Vec<u8>>,
    /// Our standard output is for something else.
    #[arg(skip)]
    pub to_stderr: bool,
    /// What each line of output begins with: others are built at the same time.
    #[arg(skip)]
    pub named: Option<String>,
}

impl BuildArgs {
    /// Where its output goes.
    fn show(&self) -> Show {
        match (&self.named, self.to_stderr) {
            (Some(name), err) => Show::Named { name: name.clone(), err },
            (None, true) => Show::Err,
            (None, false) => Show::Out,
        }
    }

    /// Reads flags and the path as a command line has them.
    pub fn from_words(words: &[String]) -> Result<Self> {
        let command = Self::augment_args(clap::Command::new("build").no_binary_name(true));
        Ok(<Self as clap::FromArgMatches>::from_arg_matches(&command.try_get_matches_from(words)?)?)
    }
}

/// Longest header that secrets go in, each of them in base64 twice: what a daemon reads of a request's head has an end.
const LONGEST_SECRETS: usize = 300 << 10;

/// Builds; the exit code.
pub async fn run(api: &Api, args: &BuildArgs) -> Result<u8> {
    let id = match build(api, args).await {
        Ok(id) => id,
        Err(e) => {
            let Some(failed) = e.downcast_ref::<Failed>() else { return Err(e) };
            eprintln!("{failed}");
            return Ok(u8::try_from(failed.code).ok().filter(|c| *c != 0).unwrap_or(1));
        }
    };
    if args.quiet {
        say!("{id}")?;
    }
    Ok(0)
}

/// Builds; the image's ID.
pub async fn build(api: &Api, args: &BuildArgs) -> Result<String> {
    if args.debug
        && (args.path.as_os_str() == "-" || args.file.as_deref().is_some_and(|f| f.as_os_str() == "-"))
    {
        bail!(
            "--debug opens a shell on standard input, which the context or the Dockerfile comes from here: give a file"
        );
    }
    let remote = match &args.inline {
        Some(_) => None,
        None => context::remote(&args.path, args.file.as_deref())?,
    };
    let (named, along) = along::named(&args.build_context)?;
    let context::Sent { body, dockerfile, dockerignore } = match (&remote, &args.inline) {
        (Some((_, dockerfile)), _) => context::Sent::whole(context::alone(along)?, dockerfile),
        (None, Some(text)) => context::with_dockerfile(&args.path, text, along)?,
        (None, None) => context::open(&args.path, args.file.as_deref(), along)?,
    };
    let agents = agent::Agents::read(&args.ssh)?;
    let query = query(args, &dockerfile)?.with("skep-ssh", agents.ids());
    let query = remote.iter().fold(query, |q, (url, _)| q.with("remote", url));
    let query = dockerignore.iter().fold(query, |q, name| q.with("skep-dockerignore", name));
    let query = match named.is_empty() {
        true => query,
        false => query.with("skep-contexts", serde_json::to_string(&named)?),
    };
    let mut headers = vec![("Content-Type", "application/x-tar".to_owned())];
    let known = api.store()?.all();
    if !known.is_empty() {
        headers.push(("X-Registry-Config", STANDARD.encode(serde_json::to_vec(&known)?)));
    }
    let mut secrets = secrets(&args.secret)?;
    secrets.extend(args.secrets.iter().map(|(id, content)| (id.clone(), STANDARD.encode(content))));
    if !secrets.is_empty() {
        let text = STANDARD.encode(serde_json::to_vec(&secrets)?);
        if text.len() > LONGEST_SECRETS {
            bail!("the secrets of a build are too large: about 160 KiB in all at most");
        }
        headers.push(("X-Skep-Build-Secrets", text));
    }
    let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
    let response = api.send(Method::POST, "/build", &query, body, &headers).await?;
    let mut id = String::new();
    let shown = match args.quiet && agents.is_empty() {
        true => messages::collect(response).await.map(|said| id = said.trim().to_owned()),
        false => {
            let mut messages = Messages::of(response, if args.quiet { Show::Nowhere } else { args.show() });
            follow(api, &mut messages, &agents, &mut id).await
        }
    };
    shown?;
    if let Some(path) = &args.iidfile {
        std::fs::write(path, &id).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(id)
}

/// Shows what a build says, and does what it asks for meanwhile.
async fn follow(api: &Api, messages: &mut Messages, agents: &agent::Agents, id: &mut String) -> Result<()> {
    while let Some(result) = messages.next().await? {
        if let Some(made) = result["ID"].as_str() {
            made.clone_into(id);
        }
        if let Some(wanted) = result.get("Skep.Agent") {
            agents.connect(api, wanted);
        }
        if let Some(failed) = result.get("Skep.Debug") {
            debug::shell(api, messages, agents, failed).await?;
        }
    }
    Ok(())
}

fn query(args: &BuildArgs, dockerfile: &str) -> Result<Query> {
    let size = |name: &str, value: &Option<String>| match value.as_deref() {
        None => Ok(String::new()),
        Some("-1") => Ok("-1".to_owned()),
        Some(text) => create_body::bytes(name, text).map(|n| n.to_string()),
    };
    let hosts = args.add_host.iter().map(|h| create_body::host(h)).collect::<Result<Vec<_>>>()?;
    let mut q = Query::new().with("dockerfile", dockerfile);
    for tag in &args.tag {
        q = q.with("t", tag);
    }
    let text = |v: &Option<String>| v.clone().unwrap_or_default();
    for (name, value) in [
        ("target", text(&args.target)),
        ("platform", text(&args.platform)),
        ("cgroupparent", text(&args.cgroup_parent)),
        ("isolation", text(&args.isolation)),
        ("cpusetcpus", text(&args.cpuset_cpus)),
        ("cpusetmems", text(&args.cpuset_mems)),
        ("networkmode", args.network.clone()),
        ("extrahosts", hosts.join(",")),
        ("cpuperiod", args.cpu_period.map_or_else(String::new, |n| n.to_string())),
        ("cpuquota", args.cpu_quota.map_or_else(String::new, |n| n.to_string())),
        ("cpushares", args.cpu_shares.map_or_else(String::new, |n| n.to_string())),
        ("memory", size("memory", &args.memory)?),
        ("memswap", size("memory-swap", &args.memory_swap)?),
        ("shmsize", size("shm-size", &args.shm_size)?),
    ] {
        if !value.is_empty() {
            q = q.with(name, value);
        }
    }
    q = q
        .flag("squash", args.squash)
        .flag("nocache", args.no_cache)
        .flag("pull", args.pull)
        .flag("q", args.quiet && args.ssh.is_empty());
    if args.debug {
        q = q.with("skep-debug", if debug::at_terminal() { "tty" } else { "1" });
    }
    q = q.flag("forcerm", args.force_rm).with("rm", if args.rm { "1" } else { "0" });
    for entitlement in &args.allow {
        match entitlement.as_str() {
            "security.insecure" => q = q.with("insecure", "1"),
            "network.host" => q = q.with("host-network", "1"),
            other => bail!("invalid entitlement {other:?}: security.insecure or network.host"),
        }
    }
    if !args.security_opt.is_empty() {
        let security = create_body::security(&args.security_opt)?;
        if security.unconfined_paths {
            bail!("--security-opt systempaths=unconfined is not for builds: use RUN --security=insecure");
        }
        q = security.options.iter().fold(q, |q, option| q.with("securityopt", option));
    }
    let given = build_args(&args.build_arg);
    if !given.is_empty() {
        q = q.with("buildargs", serde_json::to_string(&given)?);
    }
    if !args.label.is_empty() {
        q = q.with("labels", serde_json::to_string(&create_body::pairs(&args.label))?);
    }
    if !args.cache_from.is_empty() {
        q = q.with("cachefrom", serde_json::to_string(&args.cache_from)?);
    }
    if let Some(to) = args.cache_to.iter().find(|to| *to != "type=inline") {
        bail!(
            "--cache-to {to} is not supported: every image carries what its steps are known by (type=inline); push the image, and name it with --cache-from where it is to be of use"
        );
    }
    if !args.ulimit.is_empty() {
        let list = args.ulimit.iter().map(|u| create_body::ulimit(u)).collect::<Result<Vec<_>>>()?;
        q = q.with("ulimits", serde_json::to_string(&list)?);
    }
    Ok(q)
}

/// Taken from the environment where no flag gives it, as by buildx.
/// <https://reproducible-builds.org/specs/source-date-epoch/>
const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// Build arguments; what has no value is unset.
fn build_args(given: &[String]) -> BTreeMap<String, Option<String>> {
    let mut all: BTreeMap<_, _> = given
        .iter()
        .map(|arg| match arg.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (arg.clone(), std::env::var(arg).ok()),
        })
        .collect();
    if let Some(time) = std::env::var(EPOCH).ok().filter(|time| !time.is_empty()) {
        all.entry(EPOCH.to_owned()).or_insert(Some(time));
    }
    all
}

/// Secrets by their IDs, their contents in base64.
fn secrets(given: &[String]) -> Result<BTreeMap<String, String>> {
    let mut out = BTreeMap::new();
    for secret in given {
        let (mut id, mut file, mut variable) = (String::new(), None, None);
        for field in secret.split(',') {
            let (key, value) = field.split_once('=').with_context(|| format!("invalid secret {secret:?}"))?;
            match key {
                "id" => value.clone_into(&mut id),
                "src" | "source" => file = Some(PathBuf::from(value)),
                "env" => variable = Some(value.to_owned()),
                "type" if value == "file" => {}
                "type" if value == "env" => variable = variable.or(Some(String::new())),
                _ => bail!("invalid secret {secret:?}: unexpected key {key:?}"),
            }
        }
        if id.is_empty() {
            bail!("invalid secret {secret:?}: it wants id=NAME");
        }
        let variable = variable.map(|v| if v.is_empty() { id.clone() } else { v });
        let content = match (file, variable) {
            (Some(path), _) => {
                std::fs::read(&path).with_context(|| format!("read the secret {}", path.display()))?
            }
            (None, Some(name)) => std::env::var(&name)
                .with_context(|| format!("the secret {id} is to come from the variable {name}"))?
                .into_bytes(),
            (None, None) => match std::env::var(&id) {
                Ok(value) => value.into_bytes(),
                Err(_) => std::fs::read(&id).with_context(|| format!("read the secret {id}"))?,
            },
        };
        out.insert(id, STANDARD.encode(content));
    }
    Ok(out)
}

/// Whether something is typed into the context.
fn is_typed() -> bool {
    std::io::stdin().is_terminal()
}
