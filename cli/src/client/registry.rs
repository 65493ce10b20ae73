//! Commands that have to do with registries: pull, push, login, logout, search.

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::Value;
use skep_registry::Credentials;

use super::api::{Api, Query, full};
use super::credentials::key_of;
use super::images::{familiar, full_name, split};
use super::messages::{self, Show};
use super::output::{Column, Listing, say, text};
use super::reference;
use super::service_image;

/// Commands that stand by themselves and under `image`.
#[derive(Subcommand)]
pub enum RegistryCommand {
    /// Download an image from a registry
    Pull {
        /// Download all tagged images in the repository
        #[arg(short, long)]
        all_tags: bool,
        /// Suppress verbose output
        #[arg(short, long)]
        quiet: bool,
        /// Set platform if server is multi-platform capable
        #[arg(long, value_name = "string")]
        platform: Option<String>,
        #[arg(value_name = "NAME[:TAG|@DIGEST]")]
        image: String,
    },
    /// Upload an image to a registry
    Push {
        /// Push all tags of an image to the repository
        #[arg(short, long)]
        all_tags: bool,
        /// Suppress verbose output
        #[arg(short, long)]
        quiet: bool,
        #[arg(value_name = "NAME[:TAG]")]
        image: String,
    },
}

/// Commands that stand by themselves only.
#[derive(Subcommand)]
pub enum AccountCommand {
    /// Authenticate to a registry
    Login(LoginArgs),
    /// Log out from a registry
    Logout {
        #[arg(value_name = "SERVER")]
        server: Option<String>,
    },
    /// Search Docker Hub for images
    Search(SearchArgs),
}

/// Flags of `login`.
#[derive(Args)]
pub struct LoginArgs {
    /// Password or Personal Access Token (PAT)
    #[arg(short, long, value_name = "string")]
    password: Option<String>,
    /// Take the Password or Personal Access Token (PAT) from stdin
    #[arg(long)]
    password_stdin: bool,
    /// Username
    #[arg(short, long, value_name = "string")]
    username: Option<String>,
    #[arg(value_name = "SERVER")]
    server: Option<String>,
}

/// Flags of `search`.
#[derive(Args)]
pub struct SearchArgs {
    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "filter", value_parser = super::usage::filter)]
    filter: Vec<String>,
    /// Format output: table, table TEMPLATE, json or a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Max number of search results
    #[arg(long, value_name = "int")]
    limit: Option<u32>,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    #[arg(value_name = "TERM")]
    term: String,
}

pub async fn run(api: &Api, command: RegistryCommand) -> Result<()> {
    match command {
        RegistryCommand::Pull { all_tags, quiet, platform, image } => {
            reference::check(&image)?;
            let show = if quiet { Show::Nowhere } else { Show::Out };
            if all_tags {
                let (name, tag) = split(&image);
                if image != name && !tag.is_empty() || image.contains('@') {
                    bail!("tag can't be used with --all-tags/-a");
                }
                fetch(api, name, "", platform.as_deref(), show).await?;
                return say!("{}", full_name(name).trim_end_matches(":latest"));
            }
            if !quiet && familiar(&image) != image && !image.contains('@') {
                say!("Using default tag: latest")?;
            }
            let (name, tag) = split(&image);
            fetch(api, name, tag, platform.as_deref(), show).await?;
            say!("{}", full_name(&image))
        }
        RegistryCommand::Push { all_tags, quiet, image } => push(api, &image, all_tags, quiet).await,
    }
}

/// Has the daemon push an image, with what it says on standard error.
pub async fn push_quietly(api: &Api, image: &str, quiet: bool) -> Result<()> {
    let (name, tag) = split(image);
    send(api, name, &Query::new().with("tag", tag), if quiet { Show::Nowhere } else { Show::Err }).await
}

async fn push(api: &Api, image: &str, all: bool, quiet: bool) -> Result<()> {
    reference::check(image)?;
    let (name, tag) = split(image);
    if all && familiar(image) == image {
        bail!("tag can't be used with --all-tags/-a");
    }
    let mut query = Query::new();
    if !all {
        if !quiet && familiar(image) != image {
            say!("Using default tag: latest")?;
        }
        query = query.with("tag", tag);
    }
    send(api, name, &query, if quiet { Show::Nowhere } else { Show::Out }).await?;
    if quiet { say!("{}", if all { full_repository(name) } else { full_name(image) }) } else { Ok(()) }
}

async fn send(api: &Api, name: &str, query: &Query, show: Show) -> Result<()> {
    // Docker's client sends the header always: a push needs somebody to be made as.
    let auth = api.credentials_for(name)?;
    let auth = if auth.is_empty() { "e30=" } else { &auth };
    let path = format!("/images/{}/push", full_repository(name));
    let response = api.send(Method::POST, &path, query, full(""), &[("X-Registry-Auth", auth)]).await?;
    messages::show(response, show, |_| {}).await
}

pub async fn account(api: &Api, command: AccountCommand) -> Result<()> {
    match command {
        AccountCommand::Login(args) => login(api, args).await,
        AccountCommand::Logout { server } => {
            let key = key_of(server.as_deref().unwrap_or_default());
            say!("Removing login credentials for {key}")?;
            api.store()?.remove(&key)
        }
        AccountCommand::Search(args) => search(api, &args).await,
    }
}

async fn login(api: &Api, args: LoginArgs) -> Result<()> {
    let key = key_of(args.server.as_deref().unwrap_or_default());
    let mut store = api.store()?;
    let mut credentials = Credentials { server_address: key.clone(), ..Default::default() };
    if args.password.is_some() {
        if args.password_stdin {
            bail!("--password and --password-stdin are mutually exclusive");
        }
        eprintln!("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
    }
    if args.password_stdin {
        if args.username.is_none() {
            bail!("Must provide --username with --password-stdin");
        }
        let mut text = String::new();
        std::io::Read::read_to_string(&mut std::io::stdin(), &mut text).context("read the password")?;
        let text = text.strip_suffix('\n').unwrap_or(&text);
        credentials.password = text.strip_suffix('\r').unwrap_or(text).to_owned();
    }
    let kept = store.get(&key)?;
    match (args.username, args.password) {
        (None, None) if kept.is_some() => {
            credentials = kept.unwrap_or_default();
            say!("Authenticating with existing credentials...")?;
        }
        (user, password) => {
            credentials.username = match user {
                Some(user) => user,
                None => ask("Username: ", true)?,
            };
            if !args.password_stdin {
                credentials.password = match password {
                    Some(password) => password,
                    None => ask("Password: ", false)?,
                };
            }
        }
    }
    if credentials.username.is_empty() && credentials.identity_token.is_empty() {
        bail!("username is empty");
    }
    let body = serde_json::to_value(&credentials)?;
    let answer = api.post("/auth", &Query::new(), Some(&body)).await?;
    if let Some(token) = answer["IdentityToken"].as_str().filter(|t| !t.is_empty()) {
        credentials.password.clear();
        credentials.identity_token = token.to_owned();
    }
    store.put(&credentials).context("Error saving credentials")?;
    if store.is_plain(&key) {
        eprintln!(
            "\nWARNING! Your credentials are stored unencrypted in '{}'.\nConfigure a credential helper to remove this warning. See\nhttps://docs.docker.com/go/credential-store/\n",
            store.path().display()
        );
    }
    say!("{}", answer["Status"].as_str().unwrap_or("Login Succeeded"))
}

/// Asks at the terminal; without `echo`, nothing that is typed is shown.
fn ask(prompt: &str, echo: bool) -> Result<String> {
    use std::io::{BufRead, IsTerminal};
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        bail!("Error: Cannot perform an interactive login from a non TTY device");
    }
    super::output::write(format_args!("{prompt}"))?;
    let quiet = (!echo).then(super::terminal::Silent::enter).transpose()?;
    let mut line = String::new();
    stdin.lock().read_line(&mut line).context("read from the terminal")?;
    if quiet.is_some() {
        say!()?;
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

const COLUMNS: &[Column] = &[
    ("Name", "NAME"),
    ("Description", "DESCRIPTION"),
    ("StarCount", "STARS"),
    ("IsOfficial", "OFFICIAL"),
    ("IsAutomated", "AUTOMATED"),
];
const TABLE: &str = "{{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}";

async fn search(api: &Api, args: &SearchArgs) -> Result<()> {
    let mut query = Query::new().with("term", &args.term).filters(&args.filter)?;
    if let Some(limit) = args.limit {
        query = query.with("limit", limit.to_string());
    }
    let auth = api.credentials_for(&args.term)?;
    let headers = [("X-Registry-Auth", auth.as_str())];
    let headers = if auth.is_empty() { &[][..] } else { &headers[..] };
    let response = api.send(Method::GET, "/images/search", &query, full(""), headers).await?;
    let bytes = http_body_util::BodyExt::collect(response.into_body()).await?.to_bytes();
    let found: Value = serde_json::from_slice(&bytes).context("the daemon's answer is not JSON")?;
    let mut listing = Listing::new(COLUMNS, TABLE);
    for one in found.as_array().into_iter().flatten() {
        let description = text(one, "description").replace(['\n', '\r'], " ");
        let description = if args.no_trunc { description } else { super::human::ellipsis(&description, 45) };
        let mark = |field: &str| if one[field].as_bool() == Some(true) { "[OK]" } else { "" };
        let row = vec![
            text(one, "name").into(),
            description.into(),
            one["star_count"].clone(),
            mark("is_official").into(),
            mark("is_automated").into(),
        ];
        listing.row(row, &Value::Null);
    }
    listing.print(false, args.format.as_deref())
}

/// Has the daemon pull an image for `run`, whose standard output is the container's.
pub async fn pull(api: &Api, image: &str, platform: Option<&str>, quiet: bool) -> Result<()> {
    let (name, tag) = split(image);
    let show = if quiet { Show::Nowhere } else { Show::Err };
    fetch(api, name, tag, platform, show).await
}

/// What an image's registry has under its name, asked as who would pull it.
pub async fn in_registry(api: &Api, image: &str) -> Result<Value> {
    let name = familiar(image);
    let auth = api.credentials_for(&name)?;
    service_image::told(api, &name, &auth).await
}

async fn fetch(api: &Api, name: &str, tag: &str, platform: Option<&str>, show: Show) -> Result<()> {
    let (name, tag) = name.split_once('@').unwrap_or((name, tag));
    let mut query = Query::new().with("fromImage", full_repository(name));
    if !tag.is_empty() {
        query = query.with("tag", tag);
    }
    if let Some(platform) = platform {
        query = query.with("platform", platform);
    }
    let auth = api.credentials_for(name)?;
    let headers = [("X-Registry-Auth", auth.as_str())];
    let headers = if auth.is_empty() { &[][..] } else { &headers[..] };
    let response = api.send(Method::POST, "/images/create", &query, full(""), headers).await?;
    messages::show(response, show, |_| {}).await
}

/// A name with its registry, without a tag.
fn full_repository(name: &str) -> String {
    full_name(name).trim_end_matches(":latest").to_owned()
}
