//! `compose port`.

use anyhow::{Result, bail};
use clap::Args;

use super::super::output::{say, text};
use super::{Session, found};

/// Flags of `compose port`.
#[derive(Args)]
pub struct PortFlags {
    /// Index of the container if service has multiple replicas
    #[arg(long, value_name = "int")]
    index: Option<u32>,
    /// tcp or udp
    #[arg(long, value_name = "string", default_value = "tcp")]
    protocol: String,
    #[arg(value_name = "SERVICE")]
    service: String,
    #[arg(value_name = "PRIVATE_PORT")]
    port: String,
}

pub async fn run(s: &Session<'_>, flags: &PortFlags) -> Result<()> {
    let subject = s.files.find(std::slice::from_ref(&flags.service))?;
    let (port, protocol) = flags.port.split_once('/').unwrap_or((&flags.port, &flags.protocol));
    let Ok(number) = port.parse::<u16>() else {
        bail!("invalid port {port:?}: want a number from 1 to 65535")
    };
    let container = found::one(s.api, &subject.name, &flags.service, flags.index).await?;
    let ports = container.raw["Ports"].as_array().into_iter().flatten();
    let mut bound = ports.filter(|p| {
        p["PrivatePort"] == number
            && text(p, "Type") == protocol
            && p["PublicPort"].as_u64().is_some_and(|n| n > 0)
    });
    let Some(bound) = bound.next() else {
        bail!("no port {number}/{protocol} for container {}", container.name);
    };
    let ip = text(bound, "IP");
    let ip = if ip.contains(':') { format!("[{ip}]") } else { ip };
    say!("{ip}:{}", bound["PublicPort"])
}
