//! `swarm ca`: shows the root certificate, or has the swarm replace it; and the flags about certificate authorities
//! that other commands share.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::api::{Api, Query};
use super::create_body::set;
use super::output::{say, text};
use super::progress::{Screen, counter};
use super::service_spec::duration;
use super::swarm::update;

/// How often the nodes are looked at while the root is replaced.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Args)]
pub struct CaFlags {
    /// Path to the PEM-formatted root CA certificate to use for the new cluster
    #[arg(long, value_name = "pem-file")]
    ca_cert: Option<String>,
    /// Path to the PEM-formatted root CA key to use for the new cluster
    #[arg(long, value_name = "pem-file")]
    ca_key: Option<String>,
    /// Validity period for node certificates (ns|us|ms|s|m|h)
    #[arg(long, value_name = "duration")]
    cert_expiry: Option<String>,
    /// Exit immediately instead of waiting for the root rotation to converge
    #[arg(short, long)]
    detach: bool,
    /// Specifications of one or more certificate signing endpoints
    #[arg(long, value_name = "external-ca")]
    external_ca: Vec<String>,
    /// Suppress progress output
    #[arg(short, long)]
    quiet: bool,
    /// Rotate the swarm CA - if no certificate or key are provided, new ones will be generated
    #[arg(long)]
    rotate: bool,
}

pub async fn run(api: &Api, flags: CaFlags) -> Result<()> {
    let cert =
        flags.ca_cert.as_deref().map(|path| pem_file("ca-cert", path)).transpose()?.unwrap_or_default();
    let key = flags.ca_key.as_deref().map(|path| pem_file("ca-key", path)).transpose()?.unwrap_or_default();
    let external = external_cas(&flags.external_ca, &cert)?;
    let swarm = api.get("/swarm", &Query::new()).await?;
    if !flags.rotate {
        let given = [
            ("ca-cert", flags.ca_cert.is_some()),
            ("ca-key", flags.ca_key.is_some()),
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
    if flags.ca_cert.is_some() && external.is_none() && flags.ca_key.is_none() {
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

fn pem_file(flag: &str, path: &str) -> Result<String> {
    let read = std::fs::read_to_string(path);
    let contents =
        read.with_context(|| format!("invalid argument \"{path}\" for \"--{flag}\" flag: open {path}"))?;
    if !contents.contains("-----BEGIN ") {
        bail!("invalid argument \"{path}\" for \"--{flag}\" flag: file contents must be in PEM format");
    }
    Ok(contents)
}

/// What `--external-ca` names, for the authority whose certificate is `cert`; none if it names nothing.
pub fn external_cas(values: &[String], cert: &str) -> Result<Option<Value>> {
    if values.is_empty() {
        return Ok(None);
    }
    values
        .iter()
        .map(|value| external_ca(value, cert))
        .collect::<Result<Vec<_>>>()
        .map(|all| Some(all.into()))
}

fn external_ca(value: &str, cert: &str) -> Result<Value> {
    let (mut protocol, mut url, mut cert, mut options) = (None, None, cert.to_owned(), Map::new());
    for field in value.split(',') {
        let (key, value) = field
            .split_once('=')
            .with_context(|| format!("invalid field '{field}' must be a key=value pair"))?;
        match key {
            "protocol" if value.eq_ignore_ascii_case("cfssl") => protocol = Some("cfssl"),
            "protocol" => bail!("unrecognized external CA protocol {value}"),
            "url" => url = Some(value),
            "cacert" => {
                let read = std::fs::read_to_string(value);
                let file =
                    read.with_context(|| format!("unable to read CA cert for external CA: open {value}"))?;
                if !file.contains("-----BEGIN ") {
                    bail!("CA cert for external CA must be in PEM format");
                }
                if cert.is_empty() {
                    cert = file;
                }
            }
            _ => drop(options.insert(key.to_owned(), value.into())),
        }
    }
    let protocol = protocol.context("the external-ca option needs a protocol= parameter")?;
    let url = url.context("the external-ca option needs a url= parameter")?;
    Ok(json!({ "Protocol": protocol, "URL": url, "Options": options, "CACert": cert }))
}
