//! `skep registry`: a registry of images, and the collection of its garbage.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use skep_distribution::{
    AuthOptions, GcOptions, MirrorOptions, Options, Server, TlsFiles, TokenOptions, collect,
};
use skep_registry::Credentials;
use tokio::signal::unix::{SignalKind, signal};

use crate::client::size;
use crate::daemon::start_logging;

/// Where content is, unless somebody says otherwise.
const DATA_DIR: &str = "/var/lib/skep-registry";
/// What was used so shortly ago stays, unless somebody says otherwise (an hour; see `--grace`).
const GRACE: Duration = Duration::from_secs(3600);

/// Flags of `skep registry`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct RegistryArgs {
    #[command(subcommand)]
    command: Option<RegistryCommand>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Subcommand, Debug)]
enum RegistryCommand {
    /// Remove content that no manifest names; the registry may be serving meanwhile
    ///
    /// A blob goes once no manifest of its repository names it (deleted manifests, abandoned pushes), its bytes once no
    /// repository has it. What was pushed, mounted or asked for (HEAD) within the time of grace stays: a push under way
    /// sends blobs before the manifest that names them.
    Gc(GcArgs),
}

#[derive(Args, Debug)]
struct GcArgs {
    /// Directory of the registry
    #[arg(long, value_name = "DIR", default_value = DATA_DIR)]
    data_dir: PathBuf,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Also remove manifests that have no tag and belong to nothing that has: no index, no subject
    #[arg(short = 'm', long)]
    delete_untagged: bool,
    /// Also remove manifests, with their tags, that nobody has pulled, pushed or asked for for so long, such as 720h
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    unused_for: Option<Duration>,
    /// Data root of a daemon of this host: of a blob that lies here and there, the registry takes the daemon's file for
    /// its own, so that it lies once; both must be on one file system
    #[arg(long, value_name = "DIR")]
    daemon_data_root: Option<PathBuf>,
    /// Keep what was used so shortly ago, such as 90m or 1h30m; with 0s, a push that goes on meanwhile may have to be repeated
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    grace: Duration,
    /// Print what was found as JSON
    #[arg(long, value_parser = ["json"], value_name = "json")]
    format: Option<String>,
}

#[derive(Args, Debug)]
struct ServeArgs {
    /// Address and port to listen on; `:5000` means all addresses
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:5000", value_parser = address)]
    listen: SocketAddr,
    /// Directory of all that is kept; made if it is not there
    #[arg(long, value_name = "DIR", default_value = DATA_DIR)]
    data_dir: PathBuf,
    /// Data root of a daemon of this host (such as /var/lib/skep), whose blobs need not be sent: one file has a name in
    /// both stores, or is copied where no hard link can be made. Whoever may push can ask for a blob of the daemon by its
    /// digest, and then read it: everybody, where neither users nor tokens are asked for
    #[arg(long, value_name = "DIR")]
    daemon_data_root: Option<PathBuf>,
    /// Certificate chain to serve TLS with (PEM); it and its key are read again when they change
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key of the certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Serve without TLS on an address that other hosts reach; on loopback that needs no flag
    #[arg(long, conflicts_with = "tls_cert")]
    plain_http: bool,
    /// Ask for users of this file, lines of NAME:BCRYPT as `htpasswd -B` writes them; it is read again when it changes
    #[arg(long, value_name = "FILE", conflicts_with = "auth_token_realm")]
    htpasswd: Option<PathBuf>,
    /// What clients are told they log in to, with --htpasswd
    #[arg(long, value_name = "NAME", default_value = "skep registry")]
    auth_realm: String,
    /// Ask for a token, which clients get from this URL (Docker's token authentication)
    #[arg(long, value_name = "URL", requires_all = ["auth_token_service", "auth_token_issuer", "token_keys"])]
    auth_token_realm: Option<String>,
    /// Name of this registry at the token server: a token's `aud`
    #[arg(long, value_name = "NAME", requires = "auth_token_realm")]
    auth_token_service: Option<String>,
    /// Name of the token server: a token's `iss`
    #[arg(long, value_name = "NAME", requires = "auth_token_realm")]
    auth_token_issuer: Option<String>,
    /// Certificates (PEM) of the keys that sign tokens, or of who signs the certificates that come with tokens (x5c)
    #[arg(long, value_name = "FILE", group = "token_keys", requires = "auth_token_realm")]
    auth_token_rootcertbundle: Option<PathBuf>,
    /// Keys that sign tokens, as a JSON Web Key Set (RSA, or EC with P-256 or P-384)
    #[arg(long, value_name = "FILE", group = "token_keys", requires = "auth_token_realm")]
    auth_token_jwks: Option<PathBuf>,
    /// Mirror another registry: what clients ask for is fetched from there, verified and kept; pushes are refused
    #[arg(long, value_name = "URL")]
    mirror_of: Option<String>,
    /// User there; whatever that user may read, every client of the mirror may
    #[arg(long, value_name = "NAME", requires_all = ["mirror_of", "mirror_password_file"])]
    mirror_username: Option<String>,
    /// File with that user's password
    #[arg(long, value_name = "FILE", requires = "mirror_username")]
    mirror_password_file: Option<PathBuf>,
    /// Refuse pushes and deletions
    #[arg(long)]
    read_only: bool,
    /// Remove uploads that nobody has gone on with for so long; looked for at the start and every hour
    #[arg(long, value_name = "DURATION", default_value = "168h", value_parser = duration)]
    upload_max_age: Duration,
    /// Collect garbage so often, as `skep registry gc` does; never unless this is given
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    gc_every: Option<Duration>,
    /// Collect manifests without a tag too, as `skep registry gc --delete-untagged` does
    #[arg(long, requires = "gc_every")]
    gc_delete_untagged: bool,
    /// Collect what nobody has pulled or pushed for so long too, which keeps a mirror from growing without end
    #[arg(long, value_name = "DURATION", requires = "gc_every", value_parser = duration)]
    gc_unused_for: Option<Duration>,
    /// How much to log: trace, debug, info (every request), warn or error; SKEP_LOG wins
    #[arg(short = 'l', long, value_name = "LEVEL", default_value = "info")]
    log_level: tracing::Level,
}

/// Serves, or collects.
pub fn run(args: RegistryArgs) -> Result<()> {
    match args.command {
        Some(RegistryCommand::Gc(args)) => gc(&args),
        None => serve(args.serve),
    }
}

fn serve(args: ServeArgs) -> Result<()> {
    let _ = start_logging(args.log_level, false);
    let options = options(args)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("skep-registry").build();
    let runtime = runtime.context("start the registry's runtime")?;
    let served = runtime.block_on(async {
        // In a container it is PID 1, which no signal ends by itself.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let server = Server::bind(&options).await?;
        server
            .serve(async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            })
            .await;
        anyhow::Ok(())
    });
    // A collection under way may be cut off anywhere, and must not keep the process.
    runtime.shutdown_background();
    served
}

fn options(args: ServeArgs) -> Result<Options> {
    if args.gc_every.is_some_and(|every| every < Duration::from_secs(1)) {
        bail!("--gc-every: want 1s at the least");
    }
    let auth = match (args.htpasswd, args.auth_token_realm) {
        (Some(file), _) => AuthOptions::Htpasswd { file, realm: args.auth_realm },
        (None, Some(realm)) => AuthOptions::Token(TokenOptions {
            realm,
            service: args.auth_token_service.unwrap_or_default(),
            issuer: args.auth_token_issuer.unwrap_or_default(),
            root_certs: args.auth_token_rootcertbundle,
            jwks: args.auth_token_jwks,
        }),
        (None, None) => AuthOptions::Open,
    };
    let mirror = match args.mirror_of {
        None => None,
        Some(url) => {
            let mut credentials = Credentials::default();
            if let (Some(user), Some(file)) = (args.mirror_username, args.mirror_password_file) {
                let password = std::fs::read_to_string(&file)
                    .with_context(|| format!("read the mirror's password from {}", file.display()))?;
                credentials.username = user;
                credentials.password = password.trim_end_matches(['\r', '\n']).to_owned();
            }
            let certificates = ["/etc/docker/certs.d", "/etc/skep/certs.d"].map(PathBuf::from).to_vec();
            Some(MirrorOptions { url, credentials, certificates })
        }
    };
    Ok(Options {
        listen: args.listen,
        data_dir: args.data_dir,
        daemon_data_root: args.daemon_data_root.clone(),
        tls: args.tls_cert.zip(args.tls_key).map(|(cert, key)| TlsFiles { cert, key }),
        plain_http: args.plain_http,
        auth,
        mirror,
        read_only: args.read_only,
        upload_age: args.upload_max_age,
        collect: args.gc_every.map(|every| {
            let (untagged, unused) = (args.gc_delete_untagged, args.gc_unused_for);
            let daemon_data_root = args.daemon_data_root.clone();
            (every, GcOptions { dry_run: false, untagged, unused, grace: GRACE, daemon_data_root })
        }),
    })
}

fn gc(args: &GcArgs) -> Result<()> {
    let _ = start_logging(tracing::Level::WARN, false);
    let options = GcOptions {
        dry_run: args.dry_run,
        untagged: args.delete_untagged,
        unused: args.unused_for,
        grace: args.grace,
        daemon_data_root: args.daemon_data_root.clone(),
    };
    let found = collect(&args.data_dir, &options)?;
    if args.format.is_some() {
        println!("{}", serde_json::to_string(&found)?);
        return Ok(());
    }
    let verb = if args.dry_run { "would be removed" } else { "removed" };
    for (what, all) in [("manifest", &found.manifests), ("link", &found.links), ("blob", &found.blobs)] {
        for one in all {
            println!("{what} {one} {verb}");
        }
    }
    let bytes = |n: u64| size(i64::try_from(n).unwrap_or(i64::MAX));
    let free = if args.dry_run { "would be reclaimed" } else { "reclaimed" };
    println!("{} blobs, {} {free}", found.blobs.len(), bytes(found.bytes));
    if let Some(shared) = &found.shared {
        let (verb, saved) =
            if args.dry_run { ("would be shared", "would be saved") } else { ("shared", "saved") };
        for one in &shared.blobs {
            println!("blob {one} {verb} with the daemon");
        }
        println!("{} blobs {verb} with the daemon, {} {saved}", shared.blobs.len(), bytes(shared.bytes));
    }
    Ok(())
}

/// Reads `ADDRESS:PORT` or `:PORT`.
fn address(text: &str) -> Result<SocketAddr, String> {
    let whole =
        if text.starts_with(':') { format!("[::]{text}") } else { text.replace("localhost:", "127.0.0.1:") };
    whole.parse().map_err(|_| {
        format!("{text:?} is no ADDRESS:PORT: want an IP address, such as 0.0.0.0:5000 or [::1]:5000")
    })
}

fn duration(text: &str) -> Result<Duration> {
    skep_engine::parse_duration(text)
        .with_context(|| format!("{text:?} is no duration: want numbers with units, such as 90m or 1h30m"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        for (text, read) in [
            (":5000", Some("[::]:5000")),
            ("0.0.0.0:1", Some("0.0.0.0:1")),
            ("[::1]:2", Some("[::1]:2")),
            ("localhost:3", Some("127.0.0.1:3")),
            ("5000", None),
            ("registry:5000", None),
        ] {
            assert_eq!(address(text).ok().map(|a| a.to_string()).as_deref(), read, "{text}");
        }
    }
}
