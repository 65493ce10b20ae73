//! Build arguments: those that are declared, those that are always there, and what commands see of them.

use std::collections::BTreeMap;

use super::BuildRequest;
use crate::error::Error;
use crate::log_config::parse_bool;

/// Arguments that commands see without `ARG`, and that no image nor cache key tells of unless there is one.
const PROXIES: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// Asks for `.git` of a repository that is the context.
/// <https://docs.docker.com/reference/dockerfile/#buildkit-built-in-build-args>
const KEEP_GIT_DIR: &str = "BUILDKIT_CONTEXT_KEEP_GIT_DIR";

/// Whether the image carries what its steps are known by, for `--cache-from`. It does unless it is told not to.
/// <https://docs.docker.com/build/cache/backends/inline/>
const INLINE_CACHE: &str = "BUILDKIT_INLINE_CACHE";

/// The time that an image and its files tell of, in seconds since 1970.
/// <https://reproducible-builds.org/specs/source-date-epoch/>
pub(super) const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// Whether `.git` of a repository stays.
///
/// # Errors
/// It is neither true nor false.
pub(super) fn keeps_git_dir(request: &BuildRequest) -> Result<bool, Error> {
    flag(request, KEEP_GIT_DIR, false)
}

/// Whether the image is to say what its steps are known by.
///
/// # Errors
/// It is neither true nor false.
pub(super) fn carries_inline_cache(request: &BuildRequest) -> Result<bool, Error> {
    flag(request, INLINE_CACHE, true)
}

/// A switch, in the words of Go's `ParseBool`.
fn flag(request: &BuildRequest, name: &str, otherwise: bool) -> Result<bool, Error> {
    let Some(given) = request.args.get(name).and_then(Option::as_deref) else { return Ok(otherwise) };
    parse_bool(given)
        .ok_or_else(|| Error::Invalid(format!("build argument {name}: want true or false, not {given:?}")))
}

/// What `FROM` knows without `ARG`, and stages with it.
pub(super) fn platform(request: &BuildRequest) -> BTreeMap<&'static str, String> {
    let build = &skep_registry::Platform::host().architecture;
    let target = request.platform.as_ref();
    let os = target.map_or("linux", |p| &p.os).to_owned();
    let arch = target.map_or(build, |p| &p.architecture).clone();
    let variant = target.map(|p| p.variant.clone()).unwrap_or_default();
    let whole = match variant.is_empty() {
        true => format!("{os}/{arch}"),
        false => format!("{os}/{arch}/{variant}"),
    };
    BTreeMap::from([
        ("TARGETPLATFORM", whole),
        ("TARGETOS", os),
        ("TARGETARCH", arch),
        ("TARGETVARIANT", variant),
        ("BUILDPLATFORM", format!("linux/{build}")),
        ("BUILDOS", "linux".to_owned()),
        ("BUILDARCH", build.clone()),
        ("BUILDVARIANT", String::new()),
    ])
}

/// The arguments of a stage as far as it has come.
#[derive(Clone, Debug, Default)]
pub(super) struct Arguments {
    /// Declared, in order.
    declared: Vec<(String, Option<String>)>,
    /// Proxies that were given.
    proxies: Vec<(String, String)>,
}

impl Arguments {
    pub(super) fn new(request: &BuildRequest) -> Self {
        let given = |name: &str| request.args.get(name).cloned().flatten();
        let proxies = PROXIES.iter().filter_map(|n| given(n).map(|v| ((*n).to_owned(), v)));
        Self { declared: Vec::new(), proxies: proxies.collect() }
    }

    /// `ARG name[=default]`: what was given counts, then the default, then what was declared before the first `FROM`.
    pub(super) fn declare(
        &mut self,
        name: &str,
        default: Option<String>,
        request: &BuildRequest,
        global: &BTreeMap<String, Option<String>>,
    ) {
        let given = request.args.get(name).cloned().flatten();
        let known = || {
            let outer = global.get(name).cloned().flatten();
            outer.or_else(|| platform(request).get(name).cloned())
        };
        let value = given.or(default).or_else(known);
        self.declared.retain(|(n, _)| n != name);
        self.declared.push((name.to_owned(), value));
    }

    /// The value of a declared one.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        self.declared.iter().find(|(n, _)| n == name).and_then(|(_, v)| v.clone())
    }

    /// `NAME=value` of those with a value that are not in the environment, for cache keys and histories.
    pub(super) fn told(&self, env: &[String]) -> Vec<String> {
        let in_env = |n: &str| env.iter().any(|e| e.split('=').next() == Some(n));
        let mut told: Vec<String> = self
            .declared
            .iter()
            .filter(|(n, _)| !in_env(n))
            .filter_map(|(n, v)| v.as_ref().map(|v| format!("{n}={v}")))
            .collect();
        told.sort();
        told
    }

    /// What a command sees besides the environment.
    pub(super) fn seen(&self, env: &[String]) -> Vec<String> {
        let told = self.told(env);
        let proxies = self.proxies.iter().map(|(n, v)| format!("{n}={v}"));
        proxies.filter(|p| !told.contains(p)).chain(told.iter().cloned()).collect()
    }

    /// Build arguments that no `ARG` asked for.
    pub(super) fn unused<'a>(request: &'a BuildRequest, asked: &[String]) -> Vec<&'a str> {
        let known = platform(request);
        let ours = |n: &str| {
            PROXIES.contains(&n) || [KEEP_GIT_DIR, INLINE_CACHE, EPOCH].contains(&n) || known.contains_key(n)
        };
        let wanted = |n: &str| asked.iter().any(|a| a == n) || ours(n);
        request.args.keys().map(String::as_str).filter(|n| !wanted(n)).collect()
    }
}
