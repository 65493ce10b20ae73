//! What containers have that say nothing of it themselves: flags of `skep daemon` and keys of its file, with dockerd's names.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Deserialize;
use skep_engine::{Defaults, UlimitConfig};

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
}

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
pub fn decide(args: DefaultArgs, file: &File) -> Result<Defaults> {
    let dns = [file.dns.clone(), args.dns].concat();
    let server = |text: &String| {
        text.parse().map_err(|_| anyhow::anyhow!("--dns {text:?}: want the IP address of a name server"))
    };
    let size = args.default_shm_size.map(Size::Text).or_else(|| file.default_shm_size.clone());
    Ok(Defaults {
        ulimits: ulimits(file.default_ulimits.clone(), args.default_ulimits)?,
        dns: dns.iter().map(server).collect::<Result<_>>()?,
        dns_search: [file.dns_search.clone(), args.dns_search].concat(),
        dns_options: [file.dns_opts.clone(), args.dns_opts].concat(),
        init: args.init || file.init,
        shm_size: size.map(shm_size).transpose()?,
        no_new_privileges: args.no_new_privileges || file.no_new_privileges,
    })
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
            decide(DefaultArgs { default_ulimits, ..Default::default() }, &File::default())
        };
        let all = with(&["nofile=1:2", "core=0", "nofile=3:-1"]).expect("valid").ulimits;
        assert_eq!((all.len(), all[1].soft, all[1].hard), (2, 3, -1));
        for bad in ["nofile", "nofile=x", "nofile=2:1", "nope=1"] {
            assert!(error(with(&[bad])).contains("--default-ulimit"), "{bad}");
        }
        let tables = |json: &str| {
            let default_ulimits = serde_json::from_str(json).expect("read");
            decide(DefaultArgs::default(), &File { default_ulimits, ..Default::default() })
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
        let decided = decide(args(), &file).expect("valid");
        assert_eq!(
            decided.dns.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.0.0.53", "fd00::53"]
        );
        assert_eq!(decided.shm_size, Some(1 << 20));
        let own = DefaultArgs { default_shm_size: Some("2m".into()), ..args() };
        assert_eq!(decide(own, &file).expect("valid").shm_size, Some(2 << 20));
        for (flag, bad) in [
            ("--dns \"here\"", DefaultArgs { dns: strings(&["here"]), ..Default::default() }),
            ("--default-shm-size \"0\"", DefaultArgs { default_shm_size: Some("0".into()), ..args() }),
            ("--default-shm-size \"big\"", DefaultArgs { default_shm_size: Some("big".into()), ..args() }),
        ] {
            assert!(error(decide(bad, &file)).contains(flag), "{flag}");
        }
    }
}
