//! `skep swarm`.

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use serde_json::{Value, json};

use super::api::{Api, Query};

#[derive(Subcommand)]
pub enum SwarmCommand {
    /// Start a swarm with this host as its first manager
    Init {
        /// Address others reach this host at: addr|interface[:port]
        #[arg(long, default_value = "")]
        advertise_addr: String,
        /// Address to listen on: addr|interface[:port]
        #[arg(long, default_value = "0.0.0.0:2377")]
        listen_addr: String,
        /// UDP port of the data path
        #[arg(long, default_value_t = 0)]
        data_path_port: u32,
        /// Pool overlay networks are cut from
        #[arg(long)]
        default_addr_pool: Vec<String>,
        /// Prefix length of each network
        #[arg(long, default_value_t = 0)]
        default_addr_pool_mask_length: u32,
        /// active, pause or drain
        #[arg(long, default_value = "active")]
        availability: String,
    },
    /// Join a swarm
    Join {
        /// Token from `swarm join-token`
        #[arg(long)]
        token: String,
        /// Address others reach this host at: addr|interface[:port]
        #[arg(long, default_value = "")]
        advertise_addr: String,
        /// Address to listen on: addr|interface[:port]
        #[arg(long, default_value = "0.0.0.0:2377")]
        listen_addr: String,
        /// active, pause or drain
        #[arg(long, default_value = "active")]
        availability: String,
        /// A manager, host:port
        manager: String,
    },
    /// Leave the swarm
    Leave {
        /// Also as a manager
        #[arg(short, long)]
        force: bool,
    },
    /// Show or change the token hosts join with
    JoinToken {
        /// Only the token
        #[arg(short, long)]
        quiet: bool,
        /// Make a new one; the old one no longer admits anybody
        #[arg(long)]
        rotate: bool,
        /// worker or manager
        #[arg(value_parser = ["worker", "manager"])]
        role: String,
    },
}

pub async fn run(api: &Api, command: SwarmCommand) -> Result<()> {
    match command {
        SwarmCommand::Init {
            advertise_addr,
            listen_addr,
            data_path_port,
            default_addr_pool,
            default_addr_pool_mask_length,
            availability,
        } => {
            let body = json!({
                "AdvertiseAddr": advertise_addr, "ListenAddr": listen_addr, "DataPathPort": data_path_port,
                "DefaultAddrPool": default_addr_pool, "SubnetSize": default_addr_pool_mask_length,
                "Availability": availability, "Spec": {},
            });
            let id = api.post("/swarm/init", &Query::new(), Some(&body)).await?;
            println!(
                "Swarm initialized: current node ({}) is now a manager.\n",
                id.as_str().unwrap_or_default()
            );
            token(api, "worker", false).await?;
            println!(
                "To add a manager to this swarm, run 'skep swarm join-token manager' and follow the instructions."
            );
            Ok(())
        }
        SwarmCommand::Join { token, advertise_addr, listen_addr, availability, manager } => {
            let body = json!({
                "RemoteAddrs": [manager], "JoinToken": token, "AdvertiseAddr": advertise_addr,
                "ListenAddr": listen_addr, "Availability": availability,
            });
            api.post("/swarm/join", &Query::new(), Some(&body)).await?;
            let info = api.get("/info", &Query::new()).await?;
            let manager = info["Swarm"]["ControlAvailable"] == Value::Bool(true);
            println!("This node joined a swarm as a {}.", if manager { "manager" } else { "worker" });
            Ok(())
        }
        SwarmCommand::Leave { force } => {
            api.post("/swarm/leave", &Query::new().flag("force", force), None).await?;
            println!("Node left the swarm.");
            Ok(())
        }
        SwarmCommand::JoinToken { quiet, rotate, role } => {
            if rotate {
                let swarm = api.get("/swarm", &Query::new()).await?;
                let flag = if role == "worker" { "rotateWorkerToken" } else { "rotateManagerToken" };
                let version = swarm["Version"]["Index"].as_u64().context("the swarm has no version")?;
                let query = Query::new().with("version", version.to_string()).with(flag, "true");
                api.post("/swarm/update", &query, Some(&swarm["Spec"])).await?;
                if !quiet {
                    println!("Successfully rotated {role} join token.\n");
                }
            }
            token(api, &role, quiet).await
        }
    }
}

async fn token(api: &Api, role: &str, quiet: bool) -> Result<()> {
    let swarm = api.get("/swarm", &Query::new()).await?;
    let name = if role == "worker" { "Worker" } else { "Manager" };
    let Some(token) = swarm["JoinTokens"][name].as_str() else { bail!("the daemon sent no {role} token") };
    if quiet {
        println!("{token}");
        return Ok(());
    }
    let info = api.get("/info", &Query::new()).await?;
    let own = info["Swarm"]["NodeID"].as_str().unwrap_or_default();
    let managers = info["Swarm"]["RemoteManagers"].as_array().cloned().unwrap_or_default();
    let this = managers.iter().find(|m| m["NodeID"] == own).or(managers.first());
    let addr = this.and_then(|m| m["Addr"].as_str()).unwrap_or("MANAGER:2377");
    println!(
        "To add a {role} to this swarm, run the following command:\n\n    skep swarm join --token {token} {addr}\n"
    );
    Ok(())
}
