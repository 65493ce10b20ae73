//! Repositories as the source of an `ADD` and as contexts, fetched by the host's git(1): without prompts, without the host's
//! configuration, one revision deep where the server lets us.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::Pid;
use skep_registry::Proxies;
use tokio::process::Command;

use super::authorization::{self, Secrets};
use super::credentials;
use super::ssh::Forwarded;
use crate::container::evaluate;
use crate::data_root::{make_dir, remove_tree};
use crate::error::{Error, blocking};
use crate::runtime::resolve::Root;

/// Longest that one command of git may take.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// What is said of a server that redirects whoever has a secret for it.
const REDIRECTED: &str =
    " (it redirects, and no secret is taken along: name the repository by the URL it redirects to)";
/// What of the daemon's environment git sees.
const SEEN: [&str; 4] = ["PATH", "all_proxy", "ALL_PROXY", "SSL_CERT_FILE"];

/// A repository, and what of it is wanted: `URL#REF:DIRECTORY`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Repository {
    url: String,
    /// Branch, tag or commit; none = what the repository has as its head.
    reference: Option<String>,
    /// Directory in it.
    directory: Option<String>,
}

impl Repository {
    /// What a source names, if that is a repository.
    pub(super) fn named(source: &str) -> Option<Self> {
        let (url, fragment) = source.split_once('#').unwrap_or((source, ""));
        let web = ["http://", "https://"].iter().any(|p| url.starts_with(p));
        let git = ["git://", "ssh://", "git@"].iter().any(|p| url.starts_with(p));
        let url = match url.strip_prefix("github.com/") {
            Some(_) => format!("https://{url}"),
            None if git || (web && url.ends_with(".git")) => url.to_owned(),
            None => return None,
        };
        let (reference, directory) = fragment.split_once(':').unwrap_or((fragment, ""));
        let some = |text: &str| Some(text.to_owned()).filter(|t| !t.is_empty());
        Some(Self { url, reference: some(reference), directory: some(directory) })
    }

    /// Fetches it into the new directory `work`; the directory of the files that are wanted. All of them have the time
    /// of the commit.
    ///
    /// # Errors
    /// There is no git, or it fails; the commit is not the one of `checksum`.
    pub(super) async fn fetch(
        &self,
        work: &Path,
        keep_git: bool,
        checksum: Option<&str>,
        access: Access<'_>,
    ) -> Result<PathBuf, Error> {
        let bad = |why: String| {
            let shown = credentials::hidden(&self.url);
            let why = credentials::hidden(&why.replace(&self.url, &shown));
            Error::Invalid(format!("cannot fetch the repository {shown}: {why}"))
        };
        let wanted = self.reference.as_deref().unwrap_or("HEAD");
        if wanted.starts_with('-') || self.url.starts_with('-') {
            return Err(bad(format!("{wanted:?} is no reference")));
        }
        let settings = authorization::of_repository(access.secrets, &self.url)?;
        let proxies = access.proxies.or_environment();
        let git = Git { work, agent: access.agent, proxies, settings, failed: &bad };
        let to = work.to_path_buf();
        blocking(move || make_dir(&to, 0o755)).await?;
        git.run(&["init", "-q", "--template="]).await?;
        git.run(&["remote", "add", "--", "origin", &self.url]).await?;
        let shallow = git.run(&["fetch", "-q", "--depth=1", "--", "origin", wanted]).await;
        let commit = match shallow {
            Ok(_) => "FETCH_HEAD".to_owned(),
            // Not every server gives out a commit by its name, nor a part of the history.
            Err(e) => {
                let all = "+refs/heads/*:refs/remotes/origin/*";
                git.run(&["fetch", "-q", "--tags", "--", "origin", all]).await.map_err(|_| e)?;
                let known = [wanted.to_owned(), format!("refs/remotes/origin/{wanted}")];
                let mut found = None;
                for name in known {
                    let asked = format!("{name}^{{commit}}");
                    if found.is_none() && git.run(&["rev-parse", "-q", "--verify", &asked]).await.is_ok() {
                        found = Some(name);
                    }
                }
                found.ok_or_else(|| bad(format!("it has no branch, tag or commit {wanted}")))?
            }
        };
        git.run(&["checkout", "-q", "--detach", &commit]).await?;
        let id = git.run(&["rev-parse", "HEAD"]).await?;
        if let Some(checksum) = checksum
            && !id.trim().starts_with(checksum)
        {
            return Err(bad(format!("its commit is {}, and {checksum} is wanted", id.trim())));
        }
        if work.join(".gitmodules").exists() {
            git.run(&["submodule", "-q", "update", "--init", "--recursive", "--depth=1"]).await?;
        }
        let time = git.run(&["log", "-1", "--format=%ct"]).await?;
        let time = time.trim().parse().map_err(|_| bad(format!("its commit is of {time:?}")))?;
        let (work, directory) = (work.to_path_buf(), self.directory.clone().unwrap_or_default());
        let files = blocking(move || {
            if keep_git {
                let git = work.join(".git");
                credentials::forget(&git).map_err(Error::io("take the credentials out of", &git))?;
            }
            tidy(&work, keep_git, time).map_err(Error::io("tidy up", &work))?;
            let root = Root::at(&work).map_err(Error::io("open", &work))?;
            let real = evaluate(&root, &Path::new("/").join(&directory)).ok();
            let real = real.map(|r| work.join(r.strip_prefix("/").unwrap_or(&r)));
            Ok(real.filter(|r| r.is_dir()))
        })
        .await?;
        files.ok_or_else(|| {
            bad(format!("it has no directory {}", self.directory.as_deref().unwrap_or_default()))
        })
    }
}

/// Gives all files one time, and takes git's own away.
fn tidy(dir: &Path, keep_git: bool, time: i64) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        if !keep_git && entry.file_name() == ".git" {
            remove_tree(&path).map_err(std::io::Error::other)?;
            continue;
        }
        if entry.file_type()?.is_dir() {
            tidy(&path, keep_git, time)?;
        }
        let at = TimeSpec::new(time, 0);
        utimensat(nix::fcntl::AT_FDCWD, &path, &at, &at, UtimensatFlags::NoFollowSymlink)?;
    }
    Ok(())
}

/// As whom, and by which way, it is asked.
pub(super) struct Access<'a> {
    pub(super) agent: Option<&'a Forwarded>,
    pub(super) proxies: &'a Proxies,
    pub(super) secrets: &'a Secrets,
}

/// How git is run.
struct Git<'a> {
    /// Where it works.
    work: &'a Path,
    agent: Option<&'a Forwarded>,
    proxies: Proxies,
    /// Of its configuration.
    settings: Vec<(String, String)>,
    failed: &'a (dyn Fn(String) -> Error + Sync),
}

/// Ends a command with all it started.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        let Some(group) = self.0 else { return };
        match killpg(group, Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(e) => tracing::warn!(error = %e, "a command of git is left"),
        }
    }
}

impl Git<'_> {
    /// Its standard output.
    async fn run(&self, args: &[&str]) -> Result<String, Error> {
        let mut command = Command::new("git");
        command.args(args).current_dir(self.work).env_clear();
        command.envs(SEEN.iter().filter_map(|name| Some((*name, std::env::var_os(name)?))));
        let Proxies { http, https, none } = &self.proxies;
        for (name, value) in [("http_proxy", http), ("https_proxy", https), ("no_proxy", none)] {
            if !value.is_empty() {
                command.env(name, value);
            }
        }
        // What a repository has is no configuration of ours.
        command.env("HOME", self.work.parent().unwrap_or(self.work)).env("LC_ALL", "C");
        command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
        command.env("GIT_TERMINAL_PROMPT", "0").env("GIT_ALLOW_PROTOCOL", "git:http:https:ssh");
        command.env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o StrictHostKeyChecking=accept-new");
        // git-config(1), ENVIRONMENT
        command.env("GIT_CONFIG_COUNT", self.settings.len().to_string());
        for (n, (name, value)) in self.settings.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{n}"), name).env(format!("GIT_CONFIG_VALUE_{n}"), value);
        }
        // What the daemon trusts, which curl(1) as Debian links it looks for elsewhere.
        if let Some(file) = std::env::var_os("SSL_CERT_FILE") {
            command.env("GIT_SSL_CAINFO", file);
        }
        if let Some(agent) = self.agent {
            command.env("SSH_AUTH_SOCK", agent.address());
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        let child = command.spawn().map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => (self.failed)("git is not installed on the daemon's host".into()),
            _ => (self.failed)(format!("git cannot be started: {e}")),
        })?;
        let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw));
        let ended = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
        let output = ended
            .map_err(|_| (self.failed)(format!("git {} took more than {} s", args[0], PATIENCE.as_secs())))?
            .map_err(|e| (self.failed)(e.to_string()))?;
        group.0 = None;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
            let redirected = !self.settings.is_empty() && said.contains("returned error: 30");
            let hint = if redirected { REDIRECTED } else { "" };
            return Err((self.failed)(format!("git {}: {said}{hint}", args[0])));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_told_from_other_sources() {
        let read = |text: &str| {
            let r = Repository::named(text)?;
            Some((r.url, r.reference.unwrap_or_default(), r.directory.unwrap_or_default()))
        };
        for (text, url, reference, directory) in [
            ("https://x/y.git", "https://x/y.git", "", ""),
            ("https://x/y.git#v1:a/b", "https://x/y.git", "v1", "a/b"),
            ("http://x/y.git#:a", "http://x/y.git", "", "a"),
            ("git@x:y.git#main", "git@x:y.git", "main", ""),
            ("git://x/y#main", "git://x/y", "main", ""),
            ("ssh://git@x/y", "ssh://git@x/y", "", ""),
            ("github.com/x/y", "https://github.com/x/y", "", ""),
        ] {
            assert_eq!(read(text), Some((url.into(), reference.into(), directory.into())), "{text}");
        }
        for text in ["https://x/y.tar", "a.git", "github.co/x", "/git@x", "https://x/y?z=.git#.git"] {
            assert!(read(text).is_none() || text.contains("?z"), "{text}");
        }
    }
}
