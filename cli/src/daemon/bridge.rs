//! The default bridge network: flags of `skep daemon` and keys of its file, with dockerd's names.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use anyhow::{Result, bail};
use clap::Args;
use skep_overlay::DefaultBridge;
use skep_overlay::desired::{Address, Cidr};

use super::file::File;

/// The least MTU of a link that IPv6 goes over (RFC 8200, section 5).
const MTU_OF_IPV6: u32 = 1280;

/// The flags.
#[derive(Args, Clone, Debug, Default)]
pub struct BridgeArgs {
    /// Bridge of this host that the default bridge network is on [default: one of our own], or none to have no such network
    #[arg(short = 'b', long, value_name = "BRIDGE")]
    pub bridge: Option<String>,
    /// The host's IPv4 address in the default bridge network, with the length of its prefix [default: in a free range]
    #[arg(long, value_name = "ADDRESS/BITS")]
    pub bip: Option<String>,
    /// The host's IPv6 address there, with the length of its prefix
    #[arg(long, value_name = "ADDRESS/BITS")]
    pub bip6: Option<String>,
    /// Part of that network that containers get their IPv4 addresses from; without --bip, its range
    #[arg(long, value_name = "SUBNET")]
    pub fixed_cidr: Option<String>,
    /// The same of IPv6 [default: a unique local range]
    #[arg(long, value_name = "SUBNET")]
    pub fixed_cidr_v6: Option<String>,
    /// By which address containers there send to others by IPv4 [default: the host's]
    #[arg(long, value_name = "IP")]
    pub default_gateway: Option<String>,
    /// The same by IPv6
    #[arg(long, value_name = "IP")]
    pub default_gateway_v6: Option<String>,
    /// Give the default bridge network IPv6
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub ipv6: Option<bool>,
    /// MTU of the default bridge network [default: 1500]
    #[arg(long, value_name = "BYTES")]
    pub mtu: Option<u32>,
    /// Let containers of the default bridge network reach each other [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub icc: Option<bool>,
    /// Give what leaves that network the host's address [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub ip_masq: Option<bool>,
    /// Address of the host that ports of its containers are published on which name none [default: all]
    #[arg(long, value_name = "IP")]
    pub ip: Option<String>,
}

/// Decides from both; flags win.
pub fn decide(args: BridgeArgs, file: &File) -> Result<DefaultBridge> {
    let text = |flag: Option<String>, key: &Option<String>| flag.or(key.clone()).filter(|t| !t.is_empty());
    let interface = text(args.bridge, &file.bridge);
    let absent = interface.as_deref() == Some("none");
    let addr: Option<Cidr> = host("bip", text(args.bip, &file.bip))?;
    let addr6: Option<Cidr<Ipv6Addr>> = host("bip6", text(args.bip6, &file.bip6))?;
    let fixed: Option<Cidr> = read("fixed-cidr", text(args.fixed_cidr, &file.fixed_cidr))?;
    let fixed6: Option<Cidr<Ipv6Addr>> =
        read("fixed-cidr-v6", text(args.fixed_cidr_v6, &file.fixed_cidr_v6))?;
    let way: Option<Ipv4Addr> = read("default-gateway", text(args.default_gateway, &file.default_gateway))?;
    let way6: Option<Ipv6Addr> =
        read("default-gateway-v6", text(args.default_gateway_v6, &file.default_gateway_v6))?;
    let ipv6 = args.ipv6.or(file.ipv6).unwrap_or(false);
    let of_ipv6 = [
        ("bip6", addr6.is_some()),
        ("fixed-cidr-v6", fixed6.is_some()),
        ("default-gateway-v6", way6.is_some()),
    ];
    if let Some((name, _)) = of_ipv6.iter().find(|(_, given)| *given && !ipv6) {
        bail!("--{name} does nothing without --ipv6");
    }
    if interface.is_some() && (addr.is_some() || addr6.is_some()) {
        bail!("specified --bridge & --bip, mutually exclusive options: the bridge has its addresses");
    }
    part("fixed-cidr", addr, fixed)?;
    part("fixed-cidr-v6", addr6, fixed6)?;
    within("default-gateway", addr.or(fixed), way)?;
    within("default-gateway-v6", addr6.or(fixed6), way6)?;
    let mtu = args.mtu.or(file.mtu).filter(|mtu| *mtu != 0);
    if let Some(mtu) = mtu.filter(|mtu| !(576..=65_535).contains(mtu)) {
        bail!("--mtu {mtu}: want 576 to 65535 bytes");
    }
    if let Some(mtu) = mtu.filter(|mtu| ipv6 && *mtu < MTU_OF_IPV6) {
        bail!(
            "--mtu {mtu}: with --ipv6 want at least {MTU_OF_IPV6} bytes, the least that IPv6 goes over (RFC 8200, section 5)"
        );
    }
    let isolated = !args.icc.or(file.icc).unwrap_or(true);
    let unmasked = !args.ip_masq.or(file.ip_masq).unwrap_or(true);
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let binding = read("ip", text(args.ip, &file.ip))?.filter(|addr| *addr != any);
    let of_a_network = [
        ("fixed-cidr", fixed.is_some()),
        ("fixed-cidr-v6", fixed6.is_some()),
        ("default-gateway", way.is_some()),
        ("default-gateway-v6", way6.is_some()),
        ("ipv6", ipv6),
        ("mtu", mtu.is_some()),
        ("icc=false", isolated),
        ("ip-masq=false", unmasked),
        ("ip", binding.is_some()),
    ];
    if let Some((name, _)) = of_a_network.iter().find(|(_, given)| absent && *given) {
        bail!(
            "--{name} does nothing with --bridge=none: there is no default bridge network; leave one of them out"
        );
    }
    if let Some(bridge) = interface.as_deref().filter(|_| isolated && !absent) {
        bail!(
            "--icc=false does not go with --bridge={bridge}: the host would answer for others on a bridge of yours, which may \
             lead to more than containers; leave one of them out, or make a network with \
             -o com.docker.network.bridge.enable_icc=false"
        );
    }
    Ok(DefaultBridge {
        absent,
        interface: interface.filter(|_| !absent),
        addr,
        addr6,
        fixed,
        fixed6,
        way,
        way6,
        ipv6,
        mtu,
        isolated,
        unmasked,
        binding,
    })
}

fn read<T: FromStr<Err: Display>>(name: &str, text: Option<String>) -> Result<Option<T>> {
    let read = |text: String| text.parse().map_err(|e| anyhow::anyhow!("--{name} {text:?}: {e}"));
    text.map(read).transpose()
}

/// An address of the host with its range.
fn host<A: Address>(name: &str, text: Option<String>) -> Result<Option<Cidr<A>>> {
    let cidr: Option<Cidr<A>> = read(name, text)?;
    if let Some(cidr) = cidr
        && !cidr.hosts(cidr.addr)
    {
        bail!("--{name} {cidr}: want the host's own address in the network, like its first");
    }
    Ok(cidr)
}

fn part<A: Address>(name: &str, whole: Option<Cidr<A>>, part: Option<Cidr<A>>) -> Result<()> {
    match whole.zip(part) {
        Some((whole, part)) if !whole.contains(part.first()) || !whole.contains(part.last()) => {
            bail!("--{name} {part} is not within {}", whole.network())
        }
        _ => Ok(()),
    }
}

fn within<A: Address>(name: &str, range: Option<Cidr<A>>, addr: Option<A>) -> Result<()> {
    match range.zip(addr) {
        Some((range, addr)) if !range.contains(addr) => {
            bail!("--{name} {addr} is not within {}", range.network())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(json: &str) -> Result<DefaultBridge, String> {
        let file: File = serde_json::from_str(json).expect("a file");
        decide(BridgeArgs::default(), &file).map_err(|e| format!("{e:#}"))
    }

    #[test]
    fn settings_go_together_or_are_refused_by_name() {
        assert_eq!(told("{}"), Ok(DefaultBridge::default()));
        let all = r#"{ "bip": "10.7.0.1/24", "fixed-cidr": "10.7.0.128/25", "default-gateway": "10.7.0.9", "mtu": 1400,
            "ipv6": true, "bip6": "fd07::1/64", "fixed-cidr-v6": "fd07::80/121", "icc": false, "ip-masq": false, "ip": "127.0.0.1" }"#;
        let all = told(all).expect("all of them");
        assert_eq!((all.isolated, all.unmasked, all.mtu), (true, true, Some(1400)));
        assert_eq!(all.addr.map(|a| a.to_string()).as_deref(), Some("10.7.0.1/24"));
        assert_eq!(all.binding, Some(IpAddr::from([127, 0, 0, 1])));
        let none = told(r#"{ "bridge": "none", "ip": "0.0.0.0", "mtu": 0, "bip": "" }"#).expect("none");
        assert_eq!(none, DefaultBridge { absent: true, ..DefaultBridge::default() });
        told(r#"{ "bip": "10.7.0.0/31" }"#).expect("either of a pair");
        told(r#"{ "mtu": 1280, "ipv6": true }"#).expect("the least of IPv6");
        told(r#"{ "bridge": "br0", "mtu": 1279 }"#).expect("IPv4 alone");
        for (bad, told_of) in [
            (r#"{ "bip": "10.7.0.0/24" }"#, "--bip 10.7.0.0/24: want the host's own address"),
            (r#"{ "bip": "10.7.0.1" }"#, "--bip"),
            (r#"{ "bip": "10.7.0.1/24", "bridge": "br0" }"#, "mutually exclusive"),
            (
                r#"{ "bip": "10.7.0.1/24", "fixed-cidr": "10.8.0.0/25" }"#,
                "--fixed-cidr 10.8.0.0/25 is not within",
            ),
            (
                r#"{ "fixed-cidr": "10.7.0.0/24", "default-gateway": "10.8.0.1" }"#,
                "--default-gateway 10.8.0.1",
            ),
            (r#"{ "bip6": "fd07::1/64" }"#, "--bip6 does nothing without --ipv6"),
            (r#"{ "fixed-cidr-v6": "fd07::/64" }"#, "--fixed-cidr-v6 does nothing without --ipv6"),
            (r#"{ "mtu": 100 }"#, "--mtu 100"),
            (r#"{ "mtu": 1279, "ipv6": true }"#, "--mtu 1279: with --ipv6 want at least 1280"),
            (r#"{ "bridge": "br0", "icc": false }"#, "--icc=false does not go with --bridge=br0"),
            (r#"{ "bridge": "none", "mtu": 1400 }"#, "--mtu does nothing with --bridge=none"),
            (r#"{ "bridge": "none", "icc": false }"#, "--icc=false does nothing with --bridge=none"),
            (r#"{ "bridge": "none", "ip-masq": false }"#, "--ip-masq=false does nothing with --bridge=none"),
            (
                r#"{ "bridge": "none", "fixed-cidr": "10.7.0.0/24" }"#,
                "--fixed-cidr does nothing with --bridge=none",
            ),
            (r#"{ "bridge": "none", "ip": "127.0.0.1" }"#, "--ip does nothing with --bridge=none"),
            (r#"{ "bridge": "none", "ipv6": true }"#, "--ipv6 does nothing with --bridge=none"),
            (r#"{ "ip": "here" }"#, "--ip \"here\""),
        ] {
            let error = told(bad).expect_err(bad);
            assert!(error.contains(told_of), "{error}");
        }
    }
}
