//! AppArmor: the default profile, and which profiles the kernel has (apparmor(7), securityfs).
//!
//! The kernel takes profiles in a compiled form, which is `apparmor_parser`'s business: without that program there is
//! no default profile.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use crate::error::Error;

/// What containers run in that name no profile: Docker's name, so that one which Docker has loaded serves both.
pub const DEFAULT: &str = "docker-default";
/// No profile at all.
pub const UNCONFINED: &str = "unconfined";

const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";
const PROFILES: &str = "/sys/kernel/security/apparmor/profiles";
const TEXT: &str = include_str!("docker-default.profile");

/// Whether the kernel enforces profiles, and says which it has.
pub fn is_enabled() -> bool {
    super::read(ENABLED).is_some_and(|t| t.starts_with('Y')) && std::path::Path::new(PROFILES).exists()
}

/// The profile that a container is to run in. `chosen` = what was asked for; empty = AppArmor is not there, or has no
/// default profile.
pub fn profile(chosen: Option<&str>, privileged: bool) -> Result<String, Error> {
    let there = is_enabled();
    match chosen {
        Some(UNCONFINED) if !there => Ok(String::new()),
        Some(UNCONFINED) => Ok(UNCONFINED.into()),
        Some(name) if !there => Err(Error::Invalid(format!(
            "AppArmor profile {name:?} cannot be applied: this host has no AppArmor (or securityfs is not mounted)"
        ))),
        Some(name) if name != DEFAULT => match is_loaded(name)? {
            true => Ok(name.into()),
            false => Err(Error::Invalid(format!(
                "AppArmor profile {name:?} is not loaded: load it with apparmor_parser first"
            ))),
        },
        Some(_) => load_default().map(|()| DEFAULT.into()),
        None if !there => Ok(String::new()),
        None if privileged => Ok(UNCONFINED.into()),
        None => match load_default() {
            Ok(()) => Ok(DEFAULT.into()),
            Err(error) => {
                tracing::warn!(%error, "a container runs unconfined by AppArmor");
                Ok(UNCONFINED.into())
            }
        },
    }
}

/// What keeps the default profile from being applied, where AppArmor is enabled.
pub fn trouble() -> Option<String> {
    let there = is_enabled();
    load_default().err().filter(|_| there).map(|e| e.to_string())
}

fn is_loaded(name: &str) -> Result<bool, Error> {
    let text = std::fs::read_to_string(PROFILES).map_err(Error::io("read", PROFILES))?;
    Ok(lists(&text, name))
}

/// Each line has a name and a mode: `NAME (enforce)`.
fn lists(profiles: &str, name: &str) -> bool {
    profiles.lines().filter_map(|l| l.rsplit_once(" (")).any(|(n, _)| n == name)
}

/// Has the kernel know the default profile; nothing when it does.
fn load_default() -> Result<(), Error> {
    static LOADING: Mutex<()> = Mutex::new(());
    let _one = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    if is_loaded(DEFAULT)? {
        return Ok(());
    }
    let program = parser().ok_or_else(|| {
        Error::Invalid(format!(
            "AppArmor profile {DEFAULT:?} cannot be loaded: apparmor_parser is not installed (package apparmor)"
        ))
    })?;
    let failed =
        |why: String| Error::Invalid(format!("AppArmor profile {DEFAULT:?} cannot be loaded: {why}"));
    let mut command = Command::new(&program);
    command.args(["--skip-cache", "--replace", "--quiet"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| failed(format!("{}: {e}", program.display())))?;
    // One that ends before it has read all says why.
    let _ = child.stdin.take().map(|mut input| input.write_all(TEXT.as_bytes()));
    let done = child.wait_with_output().map_err(|e| failed(e.to_string()))?;
    match done.status.success() {
        true => Ok(()),
        false => Err(failed(String::from_utf8_lossy(&done.stderr).trim().to_owned())),
    }
}

fn parser() -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = path.split(':').filter(|f| f.starts_with('/')).chain(["/usr/sbin", "/sbin"]);
    folders.map(|f| PathBuf::from(f).join("apparmor_parser")).find(|p| p.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_profiles_may_have_spaces() {
        let text = "docker-default (enforce)\n/usr/bin/x y (complain)\nnvidia (modprobe) (enforce)\n";
        for name in ["docker-default", "/usr/bin/x y", "nvidia (modprobe)"] {
            assert!(lists(text, name), "{name}");
        }
        assert!(!lists(text, "docker") && !lists(text, "nvidia") && !lists("", ""));
    }

    #[test]
    fn the_profile_defines_what_it_is_called() {
        assert!(TEXT.contains(&format!("\nprofile {DEFAULT} ")));
    }
}
