//! `swarm ca`: shows the root certificate, or has the swarm replace it; and the flags about certificate authorities
//! that other commands share.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::api::{Api, Query};
use super::create_body::set;
use super::output::{os, say, text};
use super::progress::{Screen, counter};
use super::service_spec::duration;
use super::swarm::update;

/// How often the nodes are looked at while the root is replaced.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Args)]
pub struct CaFlags {
    /// Path to the PEM-formatted root CA certificate to use for the new cluster
    #[arg(long, value_name = "pem-file", value_parser = pem_file)]
    ca_cert: Option<String>,
    /// Path to the PEM-formatted root CA key to use for the new cluster
    #[arg(long, value_name = "pem-file", value_parser = pem_file)]
    ca_key: Option<String>,
    /// Validity period for node certificates (ns|us|ms|s|m|h)
    #[arg(long, value_name = "duration")]
    cert_expiry: Option<String>,
    /// Exit immediately instead of waiting for the root rotation to converge
    #[arg(short, long)]
    detach: bool,
    /// Specifications of one or more certificate signing endpoints
    #[arg(long, value_name = "external-ca", value_parser = external_ca)]
    external_ca: Vec<Value>,
    /// Suppress progress output
    #[arg(short, long)]
    quiet: bool,
    /// Rotate the swarm CA - if no certificate or key are provided, new ones will be generated
    #[arg(long)]
    rotate: bool,
}

pub async fn run(api: &Api, flags: CaFlags) -> Result<()> {
    let cert = flags.ca_cert.clone().unwrap_or_default();
    let key = flags.ca_key.unwrap_or_default();
    let has_key = !key.is_empty();
    let external = for_root(&flags.external_ca, &cert);
    let swarm = api.get("/swarm", &Query::new()).await?;
    if !flags.rotate {
        let given = [
            ("ca-cert", flags.ca_cert.is_some()),
            ("ca-key", has_key),
            ("cert-expiry", flags.cert_expiry.is_some()),
            ("external-ca", !flags.external_ca.is_empty()),
        ];
        if let Some((flag, _)) = given.iter().find(|(_, given)| *given) {
            bail!("`--{flag}` flag requires the `--rotate` flag to update the CA");
        }
        return show(&swarm);
    }
    if external.is_some() && flags.ca_cert.is_none() {
        bail!(
            "rotating to an external CA requires the `--ca-cert` flag to specify the external CA's cert - to add an \
             external CA with the current root CA certificate, use the `update` command instead"
        );
    }
    if flags.ca_cert.is_some() && external.is_none() && !has_key {
        bail!(
            "the --ca-cert flag requires that a --ca-key flag and/or --external-ca flag be provided as well"
        );
    }
    let mut spec = swarm["Spec"].clone();
    set(&mut spec["CAConfig"]["NodeCertExpiry"], duration(flags.cert_expiry.as_deref())?);
    set(&mut spec["CAConfig"]["ExternalCAs"], external);
    if cert.is_empty() && key.is_empty() {
        spec["CAConfig"]["ForceRotate"] = (spec["CAConfig"]["ForceRotate"].as_u64().unwrap_or(0) + 1).into();
    }
    spec["CAConfig"]["SigningCACert"] = cert.into();
    spec["CAConfig"]["SigningCAKey"] = key.into();
    update(api, &swarm, &spec, &Query::new()).await?;
    if flags.detach {
        return Ok(());
    }
    let swarm = converge(api, flags.quiet).await?;
    if flags.quiet { Ok(()) } else { show(&swarm) }
}

fn show(swarm: &Value) -> Result<()> {
    let root = text(&swarm["TLSInfo"], "TrustRoot");
    if root.is_empty() {
        bail!("No CA information available");
    }
    say!("{}", root.trim())
}

/// Waits until every node has a certificate of the new root and trusts nothing else.
async fn converge(api: &Api, quiet: bool) -> Result<Value> {
    let mut screen = Screen::new(quiet);
    loop {
        let swarm = api.get("/swarm", &Query::new()).await?;
        let nodes = api.get("/nodes", &Query::new()).await?;
        let nodes = nodes.as_array().map(Vec::as_slice).unwrap_or_default();
        let wanted = &swarm["TLSInfo"];
        let right = |fields: &[&str]| {
            let held = |n: &&Value| fields.iter().all(|f| n["Description"]["TLSInfo"][f] == wanted[f]);
            nodes.iter().filter(held).count()
        };
        let issued = right(&["CertIssuerSubject", "CertIssuerPublicKey"]);
        let over = issued == nodes.len() && swarm["RootRotationInProgress"] != Value::Bool(true);
        let trusted = if over { right(&["TrustRoot"]) } else { 0 };
        let digest = Sha256::digest(text(wanted, "TrustRoot"));
        screen.show(&[
            format!("desired root digest: sha256:{digest:x}"),
            format!("  rotated TLS certificates:  {}", counter(issued, nodes.len(), "nodes")),
            format!("  rotated CA certificates:   {}", counter(trusted, nodes.len(), "nodes")),
        ])?;
        if over && trusted == nodes.len() {
            return Ok(swarm);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The contents of a file that a flag names.
fn pem_file(path: &str) -> Result<String, String> {
    let contents = std::fs::read_to_string(path).map_err(|e| os("open", path, &e).to_string())?;
    if contents.contains("-----BEGIN ") {
        Ok(contents)
    } else {
        Err("file contents must be in PEM format".into())
    }
}

/// What `--external-ca` names, `protocol=cfssl,url=https://...`, as the API has it.
pub fn external_ca(value: &str) -> Result<Value, String> {
    let (mut protocol, mut url, mut cert, mut options) = (None, None, String::new(), Map::new());
    for field in value.split(',') {
        let (key, value) = field
            .split_once('=')
            .ok_or_else(|| format!("invalid field '{field}' must be a key=value pair"))?;
        match key {
            "protocol" if value.eq_ignore_ascii_case("cfssl") => protocol = Some("cfssl"),
            "protocol" => return Err(format!("unrecognized external CA protocol {value}")),
            "url" => url = Some(value),
            "cacert" => {
                cert = std::fs::read_to_string(value).map_err(|e| {
                    format!("unable to read CA cert for external CA: {}", os("open", value, &e))
                })?;
                if !cert.contains("-----BEGIN ") {
                    return Err("CA cert for external CA must be in PEM format".into());
                }
            }
            _ => drop(options.insert(key.to_owned(), value.into())),
        }
    }
    let protocol = protocol.ok_or("the external-ca option needs a protocol= parameter")?;
    let url = url.ok_or("the external-ca option needs a url= parameter")?;
    Ok(json!({ "Protocol": protocol, "URL": url, "Options": options, "CACert": cert }))
}

/// The same for the authority whose certificate is `root`, which goes before one of their own; none if there is none.
pub fn for_root(all: &[Value], root: &str) -> Option<Value> {
    let one = |ca: &Value| {
        let mut ca = ca.clone();
        if !root.is_empty() {
            ca["CACert"] = root.into();
        }
        ca
    };
    (!all.is_empty()).then(|| all.iter().map(one).collect())
}
