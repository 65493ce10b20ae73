//! What networks have that say nothing of it: `default-address-pools` and `default-network-opts`.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Deserialize;
use skep_overlay::desired::{Cidr, Cidr6};
use skep_overlay::{Pool, Pools};

use super::file::File;

/// The flags.
#[derive(Args, Clone, Debug, Default)]
pub struct NetworkArgs {
    /// Range that networks of this host are cut from, and how long their prefixes are [default: Docker's]
    #[arg(long = "default-address-pool", value_name = "base=SUBNET,size=BITS")]
    pub default_address_pools: Vec<String>,
    /// Option of new networks of a driver that do not give it themselves
    #[arg(long = "default-network-opt", value_name = "DRIVER=NAME=VALUE")]
    pub default_network_opts: Vec<String>,
}

/// A pool in a file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolEntry {
    base: String,
    size: u8,
    #[serde(default)]
    scope: String,
}

/// Options by driver.
pub type Options = BTreeMap<String, BTreeMap<String, String>>;

/// Decides from both: the file's pools come first, and options of flags win.
pub fn decide(args: NetworkArgs, file: &File) -> Result<(Pools, Options)> {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    let flags = args.default_address_pools.iter().map(|text| entry(text)).collect::<Result<Vec<_>>>()?;
    for PoolEntry { base, size, scope } in file.default_address_pools.iter().chain(&flags) {
        let told = || format!("--default-address-pool base={base},size={size}");
        if !matches!(scope.as_str(), "" | "local") {
            bail!(
                "{}: scope {scope:?} is none of this host's: the swarm's pools are given to swarm init",
                told()
            );
        }
        match (base.parse::<Cidr>(), base.parse::<Cidr6>()) {
            (Ok(base), _) => v4.push(Pool::new(base, *size).with_context(told)?),
            (_, Ok(base)) => v6.push(Pool::new(base, *size).with_context(told)?),
            (Err(e), _) => bail!("{}: {e}", told()),
        }
    }
    Ok((Pools::new(v4, v6), options(args.default_network_opts, file.default_network_opts.clone())?))
}

fn entry(text: &str) -> Result<PoolEntry> {
    let bad = || format!("--default-address-pool {text:?}: want base=SUBNET,size=BITS");
    let fields: BTreeMap<&str, &str> =
        text.split(',').map(|f| f.split_once('=')).collect::<Option<_>>().with_context(bad)?;
    let field = |name: &str| fields.get(name).with_context(bad);
    let size = field("size")?.parse().with_context(bad)?;
    if fields.len() > 2 {
        bail!("{}", bad());
    }
    Ok(PoolEntry { base: (*field("base")?).to_owned(), size, scope: String::new() })
}

fn options(flags: Vec<String>, mut all: Options) -> Result<Options> {
    for text in flags {
        let mut parts = text.splitn(3, '=');
        let (Some(driver), Some(name), Some(value)) = (parts.next(), parts.next(), parts.next()) else {
            bail!(
                "--default-network-opt {text:?}: want DRIVER=NAME=VALUE, like bridge=com.docker.network.driver.mtu=1400"
            );
        };
        all.entry(driver.to_owned()).or_default().insert(name.to_owned(), value.to_owned());
    }
    for (driver, options) in &all {
        match driver.as_str() {
            "bridge" => skep_overlay::check_options(options).context("--default-network-opt bridge")?,
            "macvlan" | "ipvlan" => {}
            _ => bail!(
                "--default-network-opt: networks of this host have driver bridge, macvlan or ipvlan, and not {driver:?}"
            ),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_and_options_are_read_from_both_or_refused_by_name() {
        let with = |json: &str, pools: &[&str], options: &[&str]| {
            let file: File = serde_json::from_str(json).expect("a file");
            let own = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect();
            let args = NetworkArgs { default_address_pools: own(pools), default_network_opts: own(options) };
            decide(args, &file).map_err(|e| format!("{e:#}"))
        };
        let (pools, options) = with(
            r#"{ "default-address-pools": [{ "base": "10.9.0.0/16", "size": 24 }],
                "default-network-opts": { "bridge": { "com.docker.network.driver.mtu": "1300" } } }"#,
            &["base=fd09::/48,size=64", "size=28,base=10.10.0.0/16"],
            &["bridge=com.docker.network.driver.mtu=1400", "macvlan=parent=eth0"],
        )
        .expect("all of them");
        let pool = |base: &str, size| Pool::new(base.parse().expect("range"), size).expect("pool");
        let six = Pool::new("fd09::/48".parse().expect("range"), 64).expect("pool");
        assert_eq!(pools, Pools::new(vec![pool("10.9.0.0/16", 24), pool("10.10.0.0/16", 28)], vec![six]));
        assert_eq!(options["bridge"]["com.docker.network.driver.mtu"], "1400");
        assert_eq!(with("{}", &[], &[]), Ok((Pools::default(), Options::new())));
        for (pool, option, told) in [
            ("10.0.0.0/8", None, "want base=SUBNET,size=BITS"),
            ("base=10.0.0.0/8", None, "want base="),
            ("base=10.0.0.0/8,size=x", None, "want base="),
            ("base=10.0.0.0/8,size=4", None, "size of an address pool"),
            ("base=here,size=4", None, "base=here"),
            ("base=10.0.0.0/8,size=24", Some("bridge=mtu"), "DRIVER=NAME=VALUE"),
            ("base=10.0.0.0/8,size=24", Some("overlay=a=b"), "\"overlay\""),
            ("base=10.0.0.0/8,size=24", Some("bridge=com.docker.network.driver.mtu=9"), "\"9\""),
        ] {
            let error = with("{}", &[pool], &option.into_iter().collect::<Vec<_>>()).expect_err(told);
            assert!(error.contains(told), "{error}");
        }
    }
}
