//! `network`.

use std::net::IpAddr;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::api::{Api, Query, encode};
use super::create_body::{pairs, without_empty};
use super::output::{self, Column, Listing, say, text};
use super::{each, human, prune};

/// Flags of `network create`.
#[derive(Args)]
pub struct CreateFlags {
    /// Enable manual container attachment
    #[arg(long)]
    attachable: bool,
    /// Auxiliary IPv4 or IPv6 addresses used by Network driver
    #[arg(long, value_name = "map")]
    aux_address: Vec<String>,
    /// The network from which to copy the configuration
    #[arg(long, value_name = "string")]
    config_from: Option<String>,
    /// Create a configuration only network
    #[arg(long)]
    config_only: bool,
    /// Driver to manage the Network
    #[arg(short, long, value_name = "string", default_value = "bridge")]
    driver: String,
    /// IPv4 or IPv6 Gateway for the master subnet
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    gateway: Vec<String>,
    /// Create swarm routing-mesh network
    #[arg(long)]
    ingress: bool,
    /// Restrict external access to the network
    #[arg(long)]
    internal: bool,
    /// Allocate container ip from a sub-range
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    ip_range: Vec<String>,
    /// IP Address Management Driver
    #[arg(long, value_name = "string", default_value = "default")]
    ipam_driver: String,
    /// Set IPAM driver specific options
    #[arg(long, value_name = "map")]
    ipam_opt: Vec<String>,
    /// Enable or disable IPv4 address assignment
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true",
          action = clap::ArgAction::Set)]
    ipv4: bool,
    /// Enable or disable IPv6 address assignment
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true",
          action = clap::ArgAction::Set)]
    ipv6: bool,
    /// Set metadata on a network
    #[arg(long, value_name = "list")]
    label: Vec<String>,
    /// Set driver specific options
    #[arg(short, long, value_name = "map")]
    opt: Vec<String>,
    /// Control the network's scope
    #[arg(long, value_name = "string")]
    scope: Option<String>,
    /// Subnet in CIDR format that represents a network segment
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    subnet: Vec<String>,
    #[arg(value_name = "NETWORK")]
    name: String,
}

/// Flags of `network connect`.
#[derive(Args)]
pub struct ConnectFlags {
    /// Add network-scoped alias for the container
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    alias: Vec<String>,
    /// driver options for the network
    #[arg(long, value_name = "strings")]
    driver_opt: Vec<String>,
    /// Highest gw-priority provides the default gateway. Accepts positive and negative values.
    #[arg(long, value_name = "int", allow_hyphen_values = true, default_value_t = 0)]
    gw_priority: i64,
    /// IPv4 address (e.g., "172.30.100.104")
    #[arg(long, value_name = "ip")]
    ip: Option<String>,
    /// IPv6 address (e.g., "2001:db8::33")
    #[arg(long, value_name = "ip")]
    ip6: Option<String>,
    /// Add link to another container
    #[arg(long, value_name = "list")]
    link: Vec<String>,
    /// Add a link-local address for the container
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    link_local_ip: Vec<String>,
    #[arg(value_name = "NETWORK")]
    network: String,
    #[arg(value_name = "CONTAINER")]
    container: String,
}

#[derive(Subcommand)]
pub enum Networks {
    /// Connect a container to a network
    Connect(Box<ConnectFlags>),
    /// Create a network
    Create(Box<CreateFlags>),
    /// Disconnect a container from a network
    Disconnect {
        /// Force the container to disconnect from a network
        #[arg(short, long)]
        force: bool,
        #[arg(value_name = "NETWORK")]
        network: String,
        #[arg(value_name = "CONTAINER")]
        container: String,
    },
    /// Remove all unused networks
    Prune {
        /// Provide filter values (e.g. "until=<timestamp>")
        #[arg(long, value_name = "filter", value_parser = super::usage::filter)]
        filter: Vec<String>,
        /// Do not prompt for confirmation
        #[arg(short, long)]
        force: bool,
    },
    /// List networks
    #[command(visible_alias = "list")]
    Ls {
        /// Provide filter values (e.g. "driver=bridge")
        #[arg(short, long, value_name = "filter", value_parser = super::usage::filter)]
        filter: Vec<String>,
        /// Format output: table, table TEMPLATE, json or a Go template
        #[arg(long, value_name = "string")]
        format: Option<String>,
        /// Do not truncate the output
        #[arg(long)]
        no_trunc: bool,
        /// Only display network IDs
        #[arg(short, long)]
        quiet: bool,
    },
    /// Display detailed information on one or more networks
    Inspect {
        /// Format output: json or a Go template
        #[arg(short, long, value_name = "string")]
        format: Option<String>,
        /// Verbose output for diagnostics
        #[arg(short, long)]
        verbose: bool,
        #[arg(required = true, value_name = "NETWORK")]
        names: Vec<String>,
    },
    /// Remove one or more networks
    #[command(visible_alias = "remove")]
    Rm {
        /// Do not error if the network does not exist
        #[arg(short, long)]
        force: bool,
        #[arg(required = true, value_name = "NETWORK")]
        names: Vec<String>,
    },
}

const COLUMNS: &[Column] = &[
    ("ID", "NETWORK ID"),
    ("Name", "NAME"),
    ("Driver", "DRIVER"),
    ("Scope", "SCOPE"),
    ("IPv4", "IPV4"),
    ("IPv6", "IPV6"),
    ("Internal", "INTERNAL"),
    ("Labels", "LABELS"),
    ("CreatedAt", "CREATED AT"),
];
const TABLE: &str = "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}";

pub async fn run(api: &Api, command: Networks) -> Result<()> {
    match command {
        Networks::Create(flags) => create(api, *flags).await,
        Networks::Connect(flags) => connect(api, *flags).await,
        Networks::Disconnect { force, network, container } => {
            let body = json!({ "Container": container, "Force": force });
            let path = format!("/networks/{}/disconnect", encode(&network));
            api.post(&path, &Query::new(), Some(&body)).await.map(drop)
        }
        Networks::Prune { filter, force } => prune(api, &filter, force).await,
        Networks::Ls { filter, format, no_trunc, quiet } => {
            let found = api.get("/networks", &Query::new().filters(&filter)?).await?;
            let mut networks = found.as_array().cloned().unwrap_or_default();
            networks.sort_by_key(|n| text(n, "Name"));
            let mut listing = Listing::new(COLUMNS, TABLE);
            for n in &networks {
                let flag = |name: &str| Value::from((n[name] == Value::Bool(true)).to_string());
                let row = vec![
                    human::short_id(&text(n, "Id"), no_trunc).into(),
                    text(n, "Name").into(),
                    text(n, "Driver").into(),
                    text(n, "Scope").into(),
                    flag("EnableIPv4"),
                    flag("EnableIPv6"),
                    flag("Internal"),
                    output::labels(&n["Labels"]).into(),
                    human::time(&text(n, "Created")).into(),
                ];
                listing.row(row, &n["Labels"]);
            }
            listing.print(quiet, format.as_deref())
        }
        Networks::Inspect { format, verbose, names } => {
            let query = Query::new().flag("verbose", verbose);
            let get = async |name: String| api.get(&format!("/networks/{}", encode(&name)), &query).await;
            output::inspect(&names, format.as_deref(), get).await
        }
        Networks::Rm { force, names } => {
            each(&names, async |name| {
                match api.delete(&format!("/networks/{}", encode(&name)), &Query::new()).await {
                    Err(e) if force && super::is_not_found(&e) => Ok(()),
                    Err(e) => Err(e),
                    Ok(_) => say!("{name}"),
                }
            })
            .await
        }
    }
}

async fn create(api: &Api, flags: CreateFlags) -> Result<()> {
    let CreateFlags {
        attachable,
        aux_address,
        config_from,
        config_only,
        driver,
        gateway,
        ingress,
        internal,
        ip_range,
        ipam_driver,
        ipam_opt,
        ipv4,
        ipv6,
        label,
        opt,
        scope,
        subnet,
        name,
    } = flags;
    let config = ipam(&subnet, &ip_range, &gateway, &aux_address)?;
    let mut body = json!({
        "Name": name, "Driver": driver, "Internal": internal, "Attachable": attachable, "Ingress": ingress,
        "ConfigOnly": config_only, "ConfigFrom": { "Network": config_from },
        "EnableIPv4": (!ipv4).then_some(false), "EnableIPv6": ipv6.then_some(true), "Scope": scope, "Options": pairs(&opt), "Labels": pairs(&label),
        "IPAM": { "Driver": ipam_driver, "Config": config, "Options": pairs(&ipam_opt) },
    });
    if let Some(list) = body["IPAM"]["Config"].as_array_mut() {
        list.iter_mut().for_each(without_empty);
    }
    without_empty(&mut body);
    let created = api.post("/networks/create", &Query::new(), Some(&body)).await?;
    if let Some(warning) = created["Warning"].as_str().filter(|w| !w.is_empty()) {
        eprintln!("WARNING: {warning}");
    }
    say!("{}", text(&created, "Id"))
}

/// `IPAM.Config`: each range and address goes to the subnet it lies in.
fn ipam(subnets: &[String], ranges: &[String], gateways: &[String], aux: &[String]) -> Result<Vec<Value>> {
    if subnets.len() < ranges.len() || subnets.len() < gateways.len() {
        anyhow::bail!("every ip-range or gateway must have a corresponding subnet");
    }
    let mut configs: Vec<(Subnet, Value)> = Vec::new();
    for text in subnets {
        let subnet = Subnet::parse(text)?;
        if configs.iter().any(|(other, _)| other.contains(subnet.addr) || subnet.contains(other.addr)) {
            anyhow::bail!("multiple overlapping subnet configuration is not supported");
        }
        configs.push((subnet, json!({ "Subnet": text })));
    }
    for text in ranges {
        let Some(config) = matching(&mut configs, Some(Subnet::parse(text)?.addr)) else {
            anyhow::bail!("no matching subnet for range {text}");
        };
        if let Some(other) = config["IPRange"].as_str() {
            anyhow::bail!(
                "cannot configure multiple ranges ({text}, {other}) on the same subnet ({})",
                self::text(config, "Subnet")
            );
        }
        config["IPRange"] = text.as_str().into();
    }
    for text in gateways {
        let Some(config) = matching(&mut configs, text.parse().ok()) else {
            anyhow::bail!("no matching subnet for gateway {text}");
        };
        if let Some(other) = config["Gateway"].as_str() {
            anyhow::bail!(
                "cannot configure multiple gateways ({text}, {other}) for the same subnet ({})",
                self::text(config, "Subnet")
            );
        }
        config["Gateway"] = text.as_str().into();
    }
    for (name, addr) in pairs(aux) {
        let text = addr.as_str().unwrap_or_default();
        let Some(config) = matching(&mut configs, text.parse().ok()) else {
            anyhow::bail!("no matching subnet for aux-address {text}");
        };
        config["AuxiliaryAddresses"][name] = addr;
    }
    Ok(configs.into_iter().map(|(_, config)| config).collect())
}

fn matching(configs: &mut [(Subnet, Value)], addr: Option<IpAddr>) -> Option<&mut Value> {
    let addr = addr?;
    configs.iter_mut().find(|(subnet, _)| subnet.contains(addr)).map(|(_, config)| config)
}

/// A subnet of either family.
struct Subnet {
    addr: IpAddr,
    len: u32,
}

impl Subnet {
    fn parse(text: &str) -> Result<Self> {
        let parts =
            text.split_once('/').and_then(|(addr, len)| Some((addr.parse().ok()?, len.parse().ok()?)));
        match parts {
            Some((addr @ IpAddr::V4(_), len)) if len <= 32 => Ok(Self { addr, len }),
            Some((addr @ IpAddr::V6(_), len)) if len <= 128 => Ok(Self { addr, len }),
            _ => anyhow::bail!("invalid CIDR address: {text}"),
        }
    }

    fn contains(&self, addr: IpAddr) -> bool {
        let bits = |addr: IpAddr| match addr {
            IpAddr::V4(a) => u128::from(u32::from(a)) << 96,
            IpAddr::V6(a) => u128::from(a),
        };
        let apart = bits(self.addr) ^ bits(addr);
        self.addr.is_ipv4() == addr.is_ipv4() && apart.leading_zeros() >= self.len
    }
}

async fn connect(api: &Api, flags: ConnectFlags) -> Result<()> {
    // Several in one, and commas within quotes.
    let mut driver_opts = Vec::new();
    for text in &flags.driver_opt {
        let split = super::devices::csv(text);
        driver_opts
            .extend(split.with_context(|| format!("invalid argument {text:?} for \"--driver-opt\" flag"))?);
    }
    let mut endpoint = json!({
        "Aliases": flags.alias, "Links": flags.link, "DriverOpts": pairs(&driver_opts),
        "IPAMConfig": { "IPv4Address": flags.ip, "IPv6Address": flags.ip6, "LinkLocalIPs": flags.link_local_ip },
    });
    if flags.gw_priority != 0 {
        endpoint["GwPriority"] = flags.gw_priority.into();
    }
    without_empty(&mut endpoint);
    let body = json!({ "Container": flags.container, "EndpointConfig": endpoint });
    let path = format!("/networks/{}/connect", encode(&flags.network));
    api.post(&path, &Query::new(), Some(&body)).await.map(drop)
}

async fn prune(api: &Api, filter: &[String], force: bool) -> Result<()> {
    const WARNING: &str = "WARNING! This will remove all custom networks not used by at least one container.";
    if !prune::confirmed(WARNING, force)? {
        return Ok(());
    }
    let pruned = api.post("/networks/prune", &Query::new().filters(filter)?, None).await?;
    prune::listed("Deleted Networks:", &pruned["NetworksDeleted"])
}
