//! Networks: the body of `create` read, swarm networks written, and the filters of `network ls`.

mod ipam;
pub mod members;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};
use skep_overlay::desired::Cidr6;
use skep_overlay::{BridgeInfo, BridgeSpec, ConfigNetwork, LocalDriver};
use skep_proto::v1::{Annotations, Network, NetworkSpec};

use super::created;
use crate::error::{ApiError, ApiResult};
use crate::fields::Fields;
use crate::filters::{Filters, Patterns};

/// The names `network ls --filter` knows.
pub const FILTERS: &[&str] = &["dangling", "driver", "id", "label", "name", "scope", "type"];

/// The networks every host has that are no network at all.
pub const FIXED: [&str; 2] = ["host", "none"];

/// What a `create` asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Create {
    /// A network of this host alone; with `config_from`, whose settings are those of another.
    Local(BridgeSpec),
    /// Settings for others.
    Config(BridgeSpec),
    /// A network of the swarm.
    Overlay(Box<NetworkSpec>),
}

/// Body of `POST /networks/create`.
pub fn read(mut f: Fields) -> ApiResult<Create> {
    let name = f.string("Name")?;
    if name.is_empty() {
        return Err(ApiError::bad_request("Name is missing: network name cannot be blank"));
    }
    if FIXED.contains(&name.as_str()) || name == "default" || name.starts_with("container:") {
        return Err(ApiError::new(
            axum::http::StatusCode::FORBIDDEN,
            format!("operation is not permitted on predefined {name} network: choose another name"),
        ));
    }
    let driver = f.opt_string("Driver")?.unwrap_or_else(|| "bridge".into());
    let scope = f.string("Scope")?;
    let ipam = ipam::read(f.object("IPAM")?)?;
    let labels: BTreeMap<String, String> = f.string_map("Labels")?;
    let options: BTreeMap<String, String> = f.string_map("Options")?;
    let (internal, attachable, ingress) = (f.bool("Internal")?, f.bool("Attachable")?, f.bool("Ingress")?);
    let without_ipv4 = f.opt_bool("EnableIPv4")? == Some(false);
    let ipv6 = f.bool("EnableIPv6")?;
    // Since API 1.44 a name is always checked for duplicates.
    f.drop_all(&["CheckDuplicate"]);
    let config_only = f.bool("ConfigOnly")?;
    let mut from = f.object("ConfigFrom")?;
    let config_from = from.string("Network")?;
    from.refuse_rest(&[])?;
    f.refuse_rest(&[])?;
    if config_only {
        if ingress || internal || attachable || !scope.is_empty() {
            return Err(forbidden(OPERATOR_FIELDS));
        }
        if !config_from.is_empty() {
            return Err(forbidden("a configuration network cannot depend on another configuration network"));
        }
    }
    if !config_from.is_empty() {
        if ipv6 || without_ipv4 || !labels.is_empty() || ipam.v4.is_given() || ipam.v6.is_given() {
            return Err(forbidden(
                "user specified configurations are not supported if the network depends on a configuration network",
            ));
        }
        if !options.is_empty() {
            return Err(forbidden(
                "network driver options are not supported if the network depends on a configuration network",
            ));
        }
        if driver == "overlay" {
            return Err(ApiError::bad_request(
                "ConfigFrom is not supported for an overlay: give the settings in the request",
            ));
        }
    }
    match driver.as_str() {
        // Whatever the driver: settings have none.
        _ if config_only => {
            Ok(Create::Config(BridgeSpec { name, without_ipv4, ipv6, labels, options, ..ipam.into_spec() }))
        }
        "bridge" | "macvlan" | "ipvlan" => {
            if ingress {
                return Err(ApiError::bad_request("Ingress is for swarm networks: add --driver overlay"));
            }
            if !matches!(scope.as_str(), "" | "local") {
                return Err(ApiError::bad_request(format!(
                    "Scope = {scope:?} is not supported for driver {driver}: leave it out, or use --driver overlay"
                )));
            }
            Ok(Create::Local(BridgeSpec {
                name,
                driver: match driver.as_str() {
                    "macvlan" => LocalDriver::Macvlan,
                    "ipvlan" => LocalDriver::Ipvlan,
                    _ => LocalDriver::Bridge,
                },
                without_ipv4,
                ipv6,
                internal,
                attachable,
                labels,
                options,
                config_from,
                ..ipam.into_spec()
            }))
        }
        "overlay" => {
            if !matches!(scope.as_str(), "" | "swarm") {
                return Err(ApiError::bad_request(format!(
                    "Scope = {scope:?} is not supported for an overlay: leave it out"
                )));
            }
            if without_ipv4 {
                return Err(ApiError::bad_request(
                    "IPv4 cannot be disabled in a Swarm scoped network: leave out EnableIPv4 = false (--ipv4=false)",
                ));
            }
            ipam.v4.is_subnet_alone()?;
            ipam.v6.is_subnet_alone()?;
            for key in options.keys() {
                // Every overlay is encrypted; saying so is no request for more.
                if key != "encrypted" {
                    return Err(ApiError::bad_request(format!(
                        "Options[{key:?}] is not supported for an overlay: leave it out"
                    )));
                }
            }
            let spec = NetworkSpec {
                annotations: Some(Annotations { name, labels: labels.into_iter().collect() }),
                driver,
                subnet: ipam.v4.subnet.map(|s| s.to_string()).unwrap_or_default(),
                ipv6,
                subnet6: ipam.v6.subnet.map(|s| s.to_string()).unwrap_or_default(),
                ingress,
                attachable,
                internal,
                driver_options: options.into_iter().collect(),
            };
            Ok(Create::Overlay(Box::new(spec)))
        }
        kind @ ("host" | "null") => Err(ApiError::new(
            axum::http::StatusCode::FORBIDDEN,
            format!("only one instance of \"{kind}\" network is allowed"),
        )),
        other => Err(ApiError::not_found(format!(
            "could not find plugin {other} in v1 plugin registry: use driver bridge, ipvlan, macvlan or overlay"
        ))),
    }
}

const OPERATOR_FIELDS: &str = "configuration network can only contain network specific fields. Network operator fields like [ ingress | internal | attachable | scope ] are not supported.";

fn forbidden(why: &str) -> ApiError {
    ApiError::new(axum::http::StatusCode::FORBIDDEN, why)
}

/// A network to make with the settings of a configuration network.
pub fn with_settings(spec: BridgeSpec, settings: &BridgeSpec) -> BridgeSpec {
    let BridgeSpec { name, driver, internal, attachable, config_from, .. } = spec;
    BridgeSpec { name, driver, internal, attachable, config_from, ..settings.clone() }
}

/// One of `IPAM.Config` as it is shown.
fn shown_range<A: ToString>(
    subnet: impl ToString,
    gateway: Option<A>,
    ip_range: Option<impl ToString>,
    aux_addresses: &BTreeMap<String, A>,
) -> Value {
    let mut config = json!({ "Subnet": subnet.to_string() });
    if let Some(gateway) = gateway {
        config["Gateway"] = gateway.to_string().into();
    }
    if let Some(range) = ip_range {
        config["IPRange"] = range.to_string().into();
    }
    if !aux_addresses.is_empty() {
        let aux = aux_addresses.iter().map(|(name, addr)| (name.clone(), addr.to_string().into()));
        config["AuxiliaryAddresses"] = Value::Object(aux.collect());
    }
    config
}

/// What every network is told apart by.
#[derive(Debug)]
pub struct Facts<'a> {
    /// Identifier.
    pub id: &'a str,
    /// Name.
    pub name: &'a str,
    /// Driver.
    pub driver: &'a str,
    /// `local` or `swarm`.
    pub scope: &'a str,
}

/// The names `network prune --filter` knows.
pub const PRUNE_FILTERS: &[&str] = &["label", "label!", "until"];

/// Whether `network prune` may remove it: a network of the user's own, made before `until_ns`. Whether it is in
/// use is another question.
pub fn prunable(filters: &Filters, until_ns: Option<i64>, created_ns: i64, shown: &Value) -> bool {
    let name = shown["Name"].as_str().unwrap_or_default();
    let builtin = FIXED.contains(&name) || name == "bridge" || shown["Ingress"] == true;
    // Settings are not in use by anybody but networks.
    let builtin = builtin || shown["ConfigOnly"] == true;
    let label = |k: &str| shown["Labels"][k].as_str();
    !builtin && until_ns.is_none_or(|until| created_ns < until) && filters.prunes(label)
}

/// Checks the values of the filters.
pub fn check(filters: &Filters) -> ApiResult<()> {
    filters.check("scope", &["swarm", "global", "local"])?;
    filters.check("type", &["custom", "builtin"])?;
    filters.flag("dangling").map(|_| ())
}

/// Whether `network ls` shows it, given as it would be shown; `names` are the patterns of the filter `name`.
pub fn matches(filters: &Filters, names: &Patterns, shown: &Value) -> bool {
    let text = |key: &str| shown[key].as_str().unwrap_or_default();
    let builtin = FIXED.contains(&text("Name")) || matches!(text("Name"), "bridge" | "ingress");
    let used = shown["Containers"].as_object().is_some_and(|c| !c.is_empty());
    let dangling = filters.flag("dangling").ok().flatten();
    filters.any("id", |v| text("Id").starts_with(v))
        && names.match_any(text("Name"))
        && filters.any("driver", |v| text("Driver") == v)
        && filters.any("scope", |v| text("Scope") == v)
        && filters.any("type", |v| (v == "builtin") == builtin)
        && filters.labels("label", |k| shown["Labels"][k].as_str())
        && dangling.is_none_or(|want| (!builtin && !used) == want)
}

/// The parts of a network's JSON that are the same for all.
pub fn shown(facts: &Facts<'_>, created: String) -> Value {
    json!({
        "Name": facts.name,
        "Id": facts.id,
        "Created": created,
        "Scope": facts.scope,
        "Driver": facts.driver,
        "EnableIPv4": true,
        "EnableIPv6": false,
        "IPAM": { "Driver": "default", "Options": null, "Config": [] },
        "Internal": false,
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": {},
        "Options": {},
        "Labels": {},
    })
}

/// A network of the swarm.
pub fn swarm(n: &Network) -> Value {
    let spec = n.spec.clone().unwrap_or_default();
    let annotations = spec.annotations.unwrap_or_default();
    let driver = if spec.driver.is_empty() { "overlay" } else { &spec.driver };
    let facts = Facts { id: &n.id, name: &annotations.name, driver, scope: "swarm" };
    let mut out = shown(&facts, created(n.meta.as_ref()));
    if !n.subnet.is_empty() {
        let v4 = json!({ "Subnet": n.subnet, "Gateway": n.gateway });
        out["IPAM"]["Config"] = std::iter::once(v4).chain(n.subnet6.parse().ok().map(shown6)).collect();
    }
    out["EnableIPv6"] = spec.ipv6.into();
    out["Internal"] = spec.internal.into();
    out["Attachable"] = spec.attachable.into();
    out["Ingress"] = spec.ingress.into();
    out["Options"] = json!(spec.driver_options);
    out["Labels"] = json!(annotations.labels);
    out
}

/// The IPv6 of a network of the swarm. Nobody has the gateway's address; containers are routed.
fn shown6(subnet: Cidr6) -> Value {
    let gateway = Ipv6Addr::from(u128::from(subnet.first()) + 1);
    shown_range(subnet, Some(gateway), None::<Cidr6>, &BTreeMap::new())
}

/// A network of the swarm as a worker knows it.
pub fn joined(n: &skep_overlay::desired::Network) -> Value {
    let facts = Facts { id: &n.id, name: &n.name, driver: "overlay", scope: "swarm" };
    let mut out = shown(&facts, super::time::NEVER.into());
    let gateway = Ipv4Addr::from(u32::from(n.subnet.first()).saturating_add(1));
    let v4 = json!({ "Subnet": n.subnet.to_string(), "Gateway": gateway.to_string() });
    out["IPAM"]["Config"] = std::iter::once(v4).chain(n.subnet6.map(shown6)).collect();
    out["EnableIPv6"] = n.subnet6.is_some().into();
    out["Internal"] = n.internal.into();
    out["Attachable"] = n.attachable.into();
    out["Ingress"] = n.ingress.into();
    out
}

/// A network of this host alone.
pub fn local(b: &BridgeInfo) -> Value {
    let facts = Facts { id: &b.id, name: &b.name, driver: b.driver.as_str(), scope: "local" };
    let mut out = shown(&facts, super::time::from_ns(b.created_at_ns));
    let v4 = b.subnet.map(|subnet| shown_range(subnet, b.gateway, b.ip_range, &b.aux_addresses));
    let v6 = b.v6.as_ref().map(|r| shown_range(r.subnet, r.gateway(), r.ip_range, &r.aux_addresses));
    out["EnableIPv4"] = v4.is_some().into();
    out["EnableIPv6"] = v6.is_some().into();
    out["IPAM"]["Config"] = v4.into_iter().chain(v6).collect();
    out["Internal"] = b.internal.into();
    out["Attachable"] = b.attachable.into();
    out["Options"] = if b.name == "bridge" { default_options(b) } else { json!(b.options) };
    out["Labels"] = json!(b.labels);
    out["ConfigFrom"]["Network"] = b.config_from.as_str().into();
    out
}

/// Settings for others.
pub fn config(c: &ConfigNetwork) -> Value {
    let s = &c.spec;
    let facts = Facts { id: &c.id, name: &s.name, driver: "null", scope: "local" };
    let mut out = shown(&facts, super::time::from_ns(c.created_at_ns));
    let v4 = s.subnet.map(|subnet| shown_range(subnet, s.gateway, s.ip_range, &s.aux_addresses));
    let v6 = s.subnet6.map(|subnet| shown_range(subnet, s.gateway6, s.ip_range6, &s.aux_addresses6));
    out["EnableIPv4"] = (!s.without_ipv4).into();
    out["EnableIPv6"] = s.ipv6.into();
    out["IPAM"]["Config"] = v4.into_iter().chain(v6).collect();
    out["ConfigOnly"] = true.into();
    out["Options"] = json!(s.options);
    out["Labels"] = json!(s.labels);
    out
}

/// What Docker says of the network that is always there.
fn default_options(b: &BridgeInfo) -> Value {
    let mut options = json!({
        "com.docker.network.bridge.default_bridge": "true",
        "com.docker.network.bridge.enable_icc": "true",
        "com.docker.network.bridge.enable_ip_masquerade": "true",
        "com.docker.network.bridge.host_binding_ipv4": "0.0.0.0",
        "com.docker.network.bridge.name": b.interface,
        "com.docker.network.driver.mtu": "1500",
    });
    for (name, value) in &b.options {
        options[name] = json!(value);
    }
    options
}

/// `host` or `none`. Their IDs are their names written in hexadecimal, filled up with zeros.
pub fn fixed(name: &str) -> Value {
    let hex: String = name.bytes().map(|b| format!("{b:02x}")).collect();
    let driver = if name == "none" { "null" } else { name };
    let facts = Facts { id: &format!("{hex:0<64}"), name, driver, scope: "local" };
    shown(&facts, super::time::NEVER.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn create_as_the_client_sends_it() {
        let read = |body: &[u8]| Fields::parse(body).and_then(read);
        let overlay = br#"{"CheckDuplicate":true,"Name":"back","Driver":"overlay","Scope":"","IPAM":{"Driver":"default","Options":{},"Config":[]},
            "Internal":false,"Attachable":true,"Ingress":false,"ConfigOnly":false,"ConfigFrom":{"Network":""},"Options":{},"Labels":{"a":"b"}}"#;
        let Ok(Create::Overlay(spec)) = read(overlay) else { panic!("an overlay") };
        assert!(spec.attachable && !spec.internal && !spec.ipv6);
        let both = br#"{"Name":"b","Driver":"overlay","EnableIPv6":true,"IPAM":{"Config":[{"Subnet":"fd09::/64"},{"Subnet":"10.9.0.0/24"}]}}"#;
        let Ok(Create::Overlay(spec)) = read(both) else { panic!("an overlay") };
        assert_eq!((spec.ipv6, &*spec.subnet, &*spec.subnet6), (true, "10.9.0.0/24", "fd09::/64"));
        let bridge = br#"{"Name":"b","Driver":"bridge","IPAM":{"Config":[{"Subnet":"10.9.0.0/24"}]},"EnableIPv6":false,"Attachable":true}"#;
        let Ok(Create::Local(b)) = read(bridge) else { panic!("a bridge") };
        assert!(b.attachable);
        assert_eq!(b.subnet.map(|s| s.to_string()).as_deref(), Some("10.9.0.0/24"));
    }

    #[test]
    fn wrong_requests_are_refused_by_name() {
        for (body, text) in [
            (r#"{"Name":""}"#, "Name"),
            (r#"{"Name":"host"}"#, "host"),
            (r#"{"Name":"a","Driver":"weave"}"#, "weave"),
            (r#"{"Name":"a","Driver":"macvlan","Scope":"swarm"}"#, "macvlan"),
            (r#"{"Name":"a","Ingress":true}"#, "Ingress"),
            (
                r#"{"Name":"a","Driver":"overlay","EnableIPv6":true,"IPAM":{"Config":[{"Subnet":"fd00::/64","Gateway":"fd00::9"}]}}"#,
                "Gateway",
            ),
            (
                r#"{"Name":"a","Driver":"overlay","EnableIPv4":false,"EnableIPv6":true}"#,
                "IPv4 cannot be disabled",
            ),
            (
                r#"{"Name":"a","IPAM":{"Config":[{"Subnet":"fd00::/64","Gateway":"10.0.0.1"}]}}"#,
                "invalid network config:\ninvalid gateway 10.0.0.1: parent subnet is an IPv6 block",
            ),
            (
                r#"{"Name":"a","IPAM":{"Config":[{"Subnet":"10.9.0.0/24"},{"Subnet":"10.8.0.0/24"}]}}"#,
                "multiple subnets",
            ),
            (
                r#"{"Name":"a","IPAM":{"Config":[{"Subnet":"10.9.0.0/40"}]}}"#,
                "invalid subnet 10.9.0.0/40: invalid CIDR block notation",
            ),
            (
                r#"{"Name":"a","IPAM":{"Config":[{"Subnet":"10.9.0.5/24","IPRange":"10.8.0.1/16"}]}}"#,
                "invalid network config:\n* invalid subnet 10.9.0.5/24: it should be 10.9.0.0/24\n* invalid ip-range 10.8.0.1/16: CIDR block is bigger than its parent subnet 10.9.0.5/24\n* invalid ip-range 10.8.0.1/16: it should be 10.8.0.0/16\n* invalid ip-range 10.8.0.1/16: parent subnet 10.9.0.5/24 doesn't contain ip-range",
            ),
            (
                r#"{"Name":"a","IPAM":{"Config":[{"Subnet":"10.9.0.0/24","AuxiliaryAddresses":{"r":"10.8.0.1"}}]}}"#,
                "invalid auxiliary address r: parent subnet 10.9.0.0/24 doesn't contain this address",
            ),
            (r#"{"Name":"a","Driver":"overlay","IPAM":{"Config":[{"IPRange":"10.9.0.0/28"}]}}"#, "IPRange"),
            (
                r#"{"Name":"a","IPAM":{"Config":[{"AuxiliaryAddresses":{"r":"x"}}]}}"#,
                "invalid auxiliary address r",
            ),
            (r#"{"Name":"a","Driver":"overlay","Options":{"x":"y"}}"#, "Options"),
            (r#"{"Name":"a","Driver":"overlay","ConfigFrom":{"Network":"b"}}"#, "ConfigFrom"),
            (r#"{"Name":"a","ConfigOnly":true,"ConfigFrom":{"Network":"b"}}"#, "cannot depend on another"),
            (r#"{"Name":"a","ConfigOnly":true,"Internal":true}"#, "Network operator fields"),
            (
                r#"{"Name":"a","Labels":{"a":"b"},"ConfigFrom":{"Network":"b"}}"#,
                "user specified configurations",
            ),
            (r#"{"Name":"a","Options":{"a":"b"},"ConfigFrom":{"Network":"b"}}"#, "network driver options"),
            (r#"{"Name":"a","IPAM":{"Driver":"weave"}}"#, "plugin weave"),
            (r#"{"Name":"a","IPAM":{"Options":{"a":"b"}}}"#, "Options"),
        ] {
            let e = Fields::parse(body.as_bytes()).and_then(read).expect_err(body);
            assert!(e.message.contains(text), "{}", e.message);
        }
    }

    #[test]
    fn fixed_networks_have_full_ids() {
        for name in FIXED {
            assert_eq!(fixed(name)["Id"].as_str().map(str::len), Some(64));
        }
        assert_eq!(fixed("none")["Driver"], "null");
    }

    #[test]
    fn listing_filters_by_what_is_shown() {
        let of = |f: &str, name: &str| {
            let f = Filters::parse(Some(f), FILTERS).expect("valid");
            matches(&f, &f.patterns("name"), &fixed(name))
        };
        assert!(of(r#"{"driver":["null"]}"#, "none"));
        assert!(!of(r#"{"driver":["null"]}"#, "host"));
        assert!(of(r#"{"type":["builtin"],"name":["ho"]}"#, "host"));
        assert!(!of(r#"{"type":["custom"]}"#, "host"));
        assert!(!of(r#"{"scope":["swarm"]}"#, "host"));
    }
}
