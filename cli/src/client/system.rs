//! Commands on the daemon itself: info, version, events.

use anyhow::Result;
use clap::Subcommand;
use serde_json::Value;

use super::api::{Api, Query};
use super::output;

#[derive(Subcommand)]
pub enum System {
    /// Show what the daemon says of its host and swarm
    Info {
        /// Template
        #[arg(short, long)]
        format: Option<String>,
    },
    /// Show the versions of this client and of the daemon
    Version {
        /// Template
        #[arg(short, long)]
        format: Option<String>,
    },
}

pub async fn run(api: &Api, command: System) -> Result<u8> {
    match command {
        System::Info { format } => {
            let info = api.get("/info", &Query::new()).await?;
            match format.as_deref() {
                Some("json") => println!("{info}"),
                Some(format) => println!("{}", output::render(format, &info)?),
                None => show_info(&info),
            }
            Ok(0)
        }
        System::Version { format } => version(api, format.as_deref()).await,
    }
}

fn show_info(info: &Value) {
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let swarm = &info["Swarm"];
    println!("Server:");
    for (label, name) in [
        ("Containers", "Containers"),
        (" Running", "ContainersRunning"),
        (" Stopped", "ContainersStopped"),
        ("Images", "Images"),
        ("Server Version", "ServerVersion"),
        ("Storage Driver", "Driver"),
        ("Cgroup Driver", "CgroupDriver"),
        ("Cgroup Version", "CgroupVersion"),
        ("Kernel Version", "KernelVersion"),
        ("Operating System", "OperatingSystem"),
        ("Architecture", "Architecture"),
        ("CPUs", "NCPU"),
        ("Name", "Name"),
        ("Root Dir", "DockerRootDir"),
    ] {
        println!(" {label}: {}", text(&info[name]));
    }
    println!(" Total Memory: {}", output::size(info["MemTotal"].as_i64().unwrap_or(0)));
    println!(" Swarm: {}", text(&swarm["LocalNodeState"]));
    if swarm["NodeID"].as_str().is_some_and(|id| !id.is_empty()) {
        println!("  NodeID: {}", text(&swarm["NodeID"]));
        println!("  Is Manager: {}", swarm["ControlAvailable"]);
        for (label, name) in [("Managers", "Managers"), ("Nodes", "Nodes")] {
            if !swarm[name].is_null() {
                println!("  {label}: {}", swarm[name]);
            }
        }
        println!("  Node Address: {}", text(&swarm["NodeAddr"]));
    }
    if let Some(error) = swarm["Error"].as_str().filter(|e| !e.is_empty()) {
        println!("  Error: {error}");
    }
    for warning in info["Warnings"].as_array().into_iter().flatten() {
        eprintln!("WARNING: {}", text(warning));
    }
}

async fn version(api: &Api, format: Option<&str>) -> Result<u8> {
    let client = serde_json::json!({ "Version": env!("CARGO_PKG_VERSION"), "Os": std::env::consts::OS, "Arch": std::env::consts::ARCH });
    let server = api.get("/version", &Query::new()).await;
    if let Some(format) = format {
        let both = serde_json::json!({ "Client": client, "Server": server? });
        println!("{}", if format == "json" { both.to_string() } else { output::render(format, &both)? });
        return Ok(0);
    }
    println!(
        "Client: skep\n Version: {}\n OS/Arch: {}/{}",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH
    );
    match server {
        Ok(s) => {
            let text = |name: &str| s[name].as_str().unwrap_or_default().to_owned();
            println!(
                "\nServer: skep ({})\n Version: {}\n API version: {} (minimum version {})\n OS/Arch: {}/{}\n Kernel: {}",
                api.host(),
                text("Version"),
                text("ApiVersion"),
                text("MinAPIVersion"),
                text("Os"),
                text("Arch"),
                text("KernelVersion")
            );
            Ok(0)
        }
        Err(e) => {
            eprintln!("{e:#}");
            Ok(1)
        }
    }
}
