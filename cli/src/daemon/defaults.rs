//! What containers have that say nothing of it themselves: flags of `skep daemon` and keys of its file, with dockerd's names.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Deserialize;
use skep_engine::{Defaults, Seccomp, UlimitConfig};

use super::file::File;

/// The flags.
#[derive(Args, Clone, Debug, Default)]
pub struct DefaultArgs {
    /// Limit of containers' processes that ask for no other, NAME=SOFT[:HARD]
    #[arg(long = "default-ulimit", value_name = "ULIMIT")]
    pub default_ulimits: Vec<String>,
    /// Name server of containers that have none of their own [default: the host's]
    #[arg(long, value_name = "IP")]
    pub dns: Vec<String>,
    /// Domain that they look names up in
    #[arg(long, value_name = "DOMAIN")]
    pub dns_search: Vec<String>,
    /// Option of their resolver, as in resolv.conf(5)
    #[arg(long = "dns-opt", value_name = "OPTION")]
    pub dns_opts: Vec<String>,
    /// Run an init in containers that do not say whether they want one
    #[arg(long)]
    pub init: bool,
    /// Size of /dev/shm of containers that name none, such as 64m [default: 64m]
    #[arg(long, value_name = "BYTES")]
    pub default_shm_size: Option<String>,
    /// Keep containers' processes from gaining privileges, unless they say otherwise
    #[arg(long)]
    pub no_new_privileges: bool,
    /// Seccomp profile (JSON) of containers that name none, builtin or unconfined [default: builtin]
    #[arg(long, value_name = "FILE")]
    pub seccomp_profile: Option<String>,
    /// IPC namespace of containers that do not say which: private or shareable [default: private]
    #[arg(long, value_name = "MODE")]
    pub default_ipc_mode: Option<String>,
    /// Cgroup namespace of containers that do not say which: private or host [default: private, under cgroups v1 host]
    #[arg(long, value_name = "MODE")]
    pub default_cgroupns_mode: Option<String>,
    /// Program that is the init of containers which run one, statically linked [default: our own]
    #[arg(long, value_name = "FILE")]
    pub init_path: Option<PathBuf>,
    /// Option of storage: overlay2.size=BYTES, the size of containers' writable layers that name none
    #[arg(long = "storage-opt", value_name = "NAME=VALUE")]
    pub storage_opts: Vec<String>,
}

/// What is told of the default seccomp filter.
pub const BUILTIN: &str = "builtin";

/// Limits in a file: texts like the flag's, or tables, as dockerd has them.
#[derive(Clone, Debug)]
pub enum Ulimits {
    Texts(Vec<String>),
    Tables(BTreeMap<String, Ulimit>),
}

impl Default for Ulimits {
    fn default() -> Self {
        Self::Texts(Vec::new())
    }
}

/// Not by serde's own way of trying one form after the other, which says of none what is wrong.
impl<'de> Deserialize<'de> for Ulimits {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Forms;
        impl<'de> serde::de::Visitor<'de> for Forms {
            type Value = Ulimits;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of NAME=SOFT[:HARD], or a table of NAME with Soft and Hard")
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Ulimits, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = list.next_element()? {
                    texts.push(text);
                }
                Ok(Ulimits::Texts(texts))
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Ulimits, A::Error> {
                let mut tables = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    let limit = map.next_value().map_err(|e| {
                        serde::de::Error::custom(format!("limit {name:?} of default-ulimits: {e}"))
                    })?;
                    tables.insert(name, limit);
                }
                Ok(Ulimits::Tables(tables))
            }
        }
        from.deserialize_any(Forms)
    }
}

/// A limit as dockerd writes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Ulimit {
    #[serde(default)]
    name: String,
    soft: i64,
    hard: i64,
}

/// A size in a file: bytes, or a text such as `64m`.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Size {
    Bytes(u64),
    Text(String),
}

/// Decides from both; flags win, and lists are joined, the file's first.
///
/// Answers also what is told of the seccomp filter.
pub fn decide(args: DefaultArgs, file: &File) -> Result<(Defaults, String)> {
    let seccomp_profile = args.seccomp_profile.or(file.seccomp_profile.clone()).filter(|p| !p.is_empty());
    let seccomp_profile = seccomp_profile.unwrap_or_else(|| BUILTIN.into());
    let dns = [file.dns.clone(), args.dns].concat();
    let server = |text: &String| {
        text.parse().map_err(|_| anyhow::anyhow!("--dns {text:?}: want the IP address of a name server"))
    };
    let size = args.default_shm_size.map(Size::Text).or_else(|| file.default_shm_size.clone());
    let defaults = Defaults {
        ulimits: ulimits(file.default_ulimits.clone(), args.default_ulimits)?,
        dns: dns.iter().map(server).collect::<Result<_>>()?,
        dns_search: [file.dns_search.clone(), args.dns_search].concat(),
        dns_options: [file.dns_opts.clone(), args.dns_opts].concat(),
        init: args.init || file.init,
        shm_size: size.map(shm_size).transpose()?,
        no_new_privileges: args.no_new_privileges || file.no_new_privileges,
        seccomp: seccomp(&seccomp_profile)?,
        shareable_ipc: match args
            .default_ipc_mode
            .as_ref()
            .or(file.default_ipc_mode.as_ref())
            .map(String::as_str)
        {
            None | Some("" | "private") => false,
            Some("shareable") => true,
            Some(mode) => bail!("--default-ipc-mode {mode:?}: use private or shareable"),
        },
        host_cgroupns: skep_engine::cgroup_namespace(
            args.default_cgroupns_mode
                .as_ref()
                .or(file.default_cgroupns_mode.as_ref())
                .map_or("", String::as_str),
        )
        .map_err(|e| anyhow::anyhow!("--default-cgroupns-mode: {e}: use private or host"))?,
        init_path: args.init_path.or(file.init_path.clone()).map(init_path).transpose()?,
        storage_size: storage_size(file.storage_opts.iter().chain(&args.storage_opts))?,
        own_oom_score: false,
    };
    Ok((defaults, seccomp_profile))
}

fn seccomp(profile: &str) -> Result<Seccomp> {
    match profile {
        BUILTIN => Ok(Seccomp::Default),
        "unconfined" => Ok(Seccomp::Unconfined),
        path => {
            let text = std::fs::read_to_string(path).with_context(|| format!("--seccomp-profile {path}"))?;
            let profile = Seccomp::Profile(text);
            profile.check().map_err(|e| anyhow::anyhow!("--seccomp-profile {path}: {e}"))?;
            Ok(profile)
        }
    }
}

fn init_path(path: PathBuf) -> Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let found = path.canonicalize().with_context(|| format!("--init-path {}", path.display()))?;
    let runs = std::fs::metadata(&found).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    match runs {
        true => Ok(found),
        false => bail!("--init-path {}: no program can be run there", path.display()),
    }
}

/// What overlay2 knew that is of use: a size. Kernels that have to be told that they can are too old for all else.
fn storage_size<'a>(options: impl Iterator<Item = &'a String>) -> Result<Option<u64>> {
    let mut size = None;
    for option in options {
        match option.split_once('=').map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim())) {
            Some((name, value)) if name == "overlay2.size" => {
                let bytes = skep_engine::parse_size(value);
                size = Some(
                    bytes.with_context(|| format!("--storage-opt {option:?}: want bytes, such as 10g"))?,
                );
            }
            Some((name, "true" | "1")) if name == "overlay2.override_kernel_check" => {}
            _ => bail!(
                "--storage-opt {option:?}: want overlay2.size=BYTES: there is no other option of storage"
            ),
        }
    }
    Ok(size.filter(|n| *n > 0))
}

fn shm_size(size: Size) -> Result<u64> {
    let (size, told) = match size {
        Size::Bytes(n) => (Some(n), n.to_string()),
        Size::Text(text) => (skep_engine::parse_size(&text), text),
    };
    size.filter(|n| *n > 0)
        .with_context(|| format!("--default-shm-size {told:?}: want bytes, more than none, such as 64m"))
}

/// The last of one name counts.
fn ulimits(file: Ulimits, flags: Vec<String>) -> Result<Vec<UlimitConfig>> {
    let mut all: Vec<UlimitConfig> = Vec::new();
    let mut put = |limit: UlimitConfig| {
        all.retain(|u| u.name != limit.name);
        all.push(limit);
    };
    let texts = match file {
        Ulimits::Texts(texts) => texts,
        Ulimits::Tables(tables) => {
            for (key, Ulimit { name, soft, hard }) in tables {
                if !name.is_empty() && name != key {
                    bail!("default-ulimits: {key:?} says that its name is {name:?}");
                }
                put(UlimitConfig { name: key, soft, hard });
            }
            Vec::new()
        }
    };
    for text in texts.into_iter().chain(flags) {
        let bad = || format!("--default-ulimit {text:?}: want NAME=SOFT[:HARD]");
        let (name, limits) = text.split_once('=').with_context(bad)?;
        let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
        let (soft, hard) = (soft.parse().with_context(bad)?, hard.parse().with_context(bad)?);
        put(UlimitConfig { name: name.to_owned(), soft, hard });
    }
    skep_engine::runtime::check_ulimits(&all).context("--default-ulimit")?;
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error<T: std::fmt::Debug>(decided: Result<T>) -> String {
        format!("{:#}", decided.expect_err("refused"))
    }

    #[test]
    fn default_ulimits_have_names_and_values_that_go_together() {
        let with = |texts: &[&str]| {
            let default_ulimits = texts.iter().map(|t| (*t).to_owned()).collect();
            decide(DefaultArgs { default_ulimits, ..Default::default() }, &File::default()).map(|d| d.0)
        };
        let all = with(&["nofile=1:2", "core=0", "nofile=3:-1"]).expect("valid").ulimits;
        assert_eq!((all.len(), all[1].soft, all[1].hard), (2, 3, -1));
        for bad in ["nofile", "nofile=x", "nofile=2:1", "nope=1"] {
            assert!(error(with(&[bad])).contains("--default-ulimit"), "{bad}");
        }
        let tables = |json: &str| {
            let default_ulimits = serde_json::from_str(json).expect("read");
            decide(DefaultArgs::default(), &File { default_ulimits, ..Default::default() }).map(|d| d.0)
        };
        let docker = r#"{ "nofile": { "Name": "nofile", "Hard": 64000, "Soft": 32000 } }"#;
        let limit = UlimitConfig { name: "nofile".into(), soft: 32000, hard: 64000 };
        assert_eq!(tables(docker).expect("dockerd's form").ulimits, [limit]);
        let half = serde_json::from_str::<Ulimits>(r#"{ "core": { "Soft": 1 } }"#).map_err(|e| e.to_string());
        let half = half.expect_err("no hard limit");
        assert!(half.contains("\"core\"") && half.contains("`Hard`"), "{half}");
        let crossed = r#"{ "core": { "Name": "nofile", "Hard": 1, "Soft": 1 } }"#;
        assert!(error(tables(crossed)).contains("\"core\" says that its name is \"nofile\""));
    }

    #[test]
    fn lists_are_joined_and_what_is_no_value_is_refused_by_its_flag() {
        let strings = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        let args = || DefaultArgs { dns: strings(&["fd00::53"]), ..Default::default() };
        let file = File {
            dns: strings(&["10.0.0.53"]),
            default_shm_size: Some(Size::Text("1m".into())),
            ..Default::default()
        };
        let decided = decide(args(), &file).expect("valid").0;
        assert_eq!(
            decided.dns.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.0.0.53", "fd00::53"]
        );
        assert_eq!(decided.shm_size, Some(1 << 20));
        let own = DefaultArgs { default_shm_size: Some("2m".into()), ..args() };
        assert_eq!(decide(own, &file).expect("valid").0.shm_size, Some(2 << 20));
        for (flag, bad) in [
            ("--dns \"here\"", DefaultArgs { dns: strings(&["here"]), ..Default::default() }),
            ("--default-shm-size \"0\"", DefaultArgs { default_shm_size: Some("0".into()), ..args() }),
            ("--default-shm-size \"big\"", DefaultArgs { default_shm_size: Some("big".into()), ..args() }),
        ] {
            assert!(error(decide(bad, &file)).contains(flag), "{flag}");
        }
    }

    #[test]
    fn what_confines_containers_is_checked_before_any_is_made() {
        let with = |json: &str| {
            let file: File = serde_json::from_str(json).expect("a file");
            decide(DefaultArgs::default(), &file)
        };
        let (usual, told) = with("{}").expect("nothing");
        assert_eq!((usual.seccomp, told.as_str(), usual.host_cgroupns), (Seccomp::Default, "builtin", None));
        let (other, told) = with(
            r#"{ "seccomp-profile": "unconfined", "default-ipc-mode": "shareable", "default-cgroupns-mode": "host",
                "storage-opts": ["overlay2.size=1g", "overlay2.override_kernel_check=true"], "init-path": "/bin/sh" }"#,
        )
        .expect("all of them");
        assert_eq!((other.seccomp, told.as_str()), (Seccomp::Unconfined, "unconfined"));
        assert_eq!((other.shareable_ipc, other.host_cgroupns), (true, Some(true)));
        assert_eq!(other.storage_size, Some(1 << 30));
        assert!(other.init_path.is_some_and(|p| p.is_absolute()));
        for (bad, told) in [
            (r#"{ "seccomp-profile": "/etc/passwd" }"#, "--seccomp-profile /etc/passwd"),
            (r#"{ "seccomp-profile": "/no/such" }"#, "/no/such"),
            (r#"{ "default-ipc-mode": "host" }"#, "--default-ipc-mode \"host\""),
            (r#"{ "default-cgroupns-mode": "none" }"#, "--default-cgroupns-mode"),
            (r#"{ "init-path": "/etc/passwd" }"#, "--init-path /etc/passwd"),
            (r#"{ "storage-opts": ["dm.basesize=1g"] }"#, "dm.basesize=1g"),
        ] {
            assert!(error(with(bad)).contains(told), "{bad}");
        }
    }
}
