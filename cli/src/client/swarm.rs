//! `swarm`.

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::api::{Api, Query};
use super::create_body::set;
use super::output::{say, text};
use super::service_spec::duration;
use super::swarm_ca::{self, CaFlags};
use super::unlock_key;

#[derive(Subcommand)]
pub enum SwarmCommand {
    /// Display and rotate the root CA
    Ca(CaFlags),
    /// Initialize a swarm
    Init {
        /// Advertised address (format: "<ip|interface>[:port]")
        #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
        advertise_addr: String,
        /// Availability of the node ("active", "pause", "drain")
        #[arg(long, value_name = "string", default_value = "active")]
        availability: String,
        /// Address or interface to use for data path traffic (format: "<ip|interface>")
        #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
        data_path_addr: String,
        /// Port number to use for data path traffic (1024 - 49151)
        #[arg(long, value_name = "uint32", default_value_t = 0, hide_default_value = true)]
        data_path_port: u32,
        /// Default address pool in CIDR format
        #[arg(long, value_name = "ipNetSlice", value_delimiter = ',')]
        default_addr_pool: Vec<String>,
        /// Default address pool subnet mask length
        #[arg(long, value_name = "uint32", default_value_t = 24)]
        default_addr_pool_mask_length: u32,
        /// Force create a new cluster from current state
        #[arg(long)]
        force_new_cluster: bool,
        /// Listen address (format: "<ip|interface>[:port]")
        #[arg(long, value_name = "node-addr", default_value = "0.0.0.0:2377")]
        listen_addr: String,
        #[command(flatten)]
        spec: SpecFlags,
    },
    /// Join a swarm as a node and/or manager
    Join {
        /// Advertised address (format: "<ip|interface>[:port]")
        #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
        advertise_addr: String,
        /// Availability of the node ("active", "pause", "drain")
        #[arg(long, value_name = "string", default_value = "active")]
        availability: String,
        /// Address or interface to use for data path traffic (format: "<ip|interface>")
        #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
        data_path_addr: String,
        /// Listen address (format: "<ip|interface>[:port]")
        #[arg(long, value_name = "node-addr", default_value = "0.0.0.0:2377")]
        listen_addr: String,
        /// Token for entry into the swarm
        #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
        token: String,
        #[arg(value_name = "HOST:PORT")]
        manager: String,
    },
    /// Manage join tokens
    JoinToken {
        /// Only display token
        #[arg(short, long)]
        quiet: bool,
        /// Rotate join token
        #[arg(long)]
        rotate: bool,
        #[arg(value_name = "worker|manager")]
        role: String,
    },
    /// Leave the swarm
    Leave {
        /// Force this node to leave the swarm, ignoring warnings
        #[arg(short, long)]
        force: bool,
    },
    /// Have this node reached at another address, or find its managers again (Skep's own)
    Readdress {
        /// Address that others reach this node at from now on (format: "<ip|interface>[:port]")
        #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
        advertise_addr: String,
        /// Address or interface to use for data path traffic from now on (format: "<ip|interface>")
        #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
        data_path_addr: String,
        /// A manager of the swarm, where this node does not know the addresses that they have now
        #[arg(long, value_name = "HOST:PORT")]
        manager: Vec<String>,
    },
    /// Unlock swarm
    Unlock,
    /// Manage the unlock key
    UnlockKey {
        /// Only display token
        #[arg(short, long)]
        quiet: bool,
        /// Rotate unlock key
        #[arg(long)]
        rotate: bool,
    },
    /// Update the swarm
    Update {
        #[command(flatten)]
        spec: SpecFlags,
    },
}

/// What a swarm's spec holds.
#[derive(Args)]
pub struct SpecFlags {
    /// Enable manager autolocking (requiring an unlock key to start a stopped manager)
    #[arg(long, value_name = "bool", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    autolock: Option<bool>,
    /// Validity period for node certificates (ns|us|ms|s|m|h)
    #[arg(long, value_name = "duration")]
    cert_expiry: Option<String>,
    /// Dispatcher heartbeat period (ns|us|ms|s|m|h)
    #[arg(long, value_name = "duration")]
    dispatcher_heartbeat: Option<String>,
    /// Specifications of one or more certificate signing endpoints
    #[arg(long, value_name = "external-ca", value_parser = swarm_ca::external_ca)]
    external_ca: Vec<Value>,
    /// Number of additional Raft snapshots to retain
    #[arg(long, value_name = "uint")]
    max_snapshots: Option<u64>,
    /// Number of log entries between Raft snapshots
    #[arg(long, value_name = "uint")]
    snapshot_interval: Option<u64>,
    /// Task history retention limit
    #[arg(long, value_name = "int", allow_hyphen_values = true)]
    task_history_limit: Option<i64>,
}

impl SpecFlags {
    fn is_empty(&self) -> bool {
        let mut spec = json!({});
        self.external_ca.is_empty()
            && self.apply(&mut spec, "").is_ok()
            && spec.as_object().is_some_and(|s| s.is_empty())
    }

    /// Writes what was given into `spec`; `root` is the swarm's present root.
    fn apply(&self, spec: &mut Value, root: &str) -> Result<()> {
        set(&mut spec["CAConfig"]["ExternalCAs"], swarm_ca::for_root(&self.external_ca, root));
        set(&mut spec["EncryptionConfig"]["AutoLockManagers"], self.autolock);
        set(&mut spec["CAConfig"]["NodeCertExpiry"], duration(self.cert_expiry.as_deref())?);
        set(&mut spec["Dispatcher"]["HeartbeatPeriod"], duration(self.dispatcher_heartbeat.as_deref())?);
        set(&mut spec["Raft"]["KeepOldSnapshots"], self.max_snapshots);
        set(&mut spec["Raft"]["SnapshotInterval"], self.snapshot_interval);
        set(&mut spec["Orchestration"]["TaskHistoryRetentionLimit"], self.task_history_limit);
        super::create_body::without_empty(spec);
        Ok(())
    }
}

pub async fn run(api: &Api, command: SwarmCommand) -> Result<()> {
    match command {
        SwarmCommand::Init {
            advertise_addr,
            availability,
            data_path_addr,
            data_path_port,
            default_addr_pool,
            default_addr_pool_mask_length,
            force_new_cluster,
            listen_addr,
            spec,
        } => {
            let mut asked = json!({});
            spec.apply(&mut asked, "")?;
            let body = json!({
                "AdvertiseAddr": advertise_addr, "ListenAddr": listen_addr, "DataPathAddr": data_path_addr,
                "DataPathPort": data_path_port, "DefaultAddrPool": default_addr_pool,
                "SubnetSize": default_addr_pool_mask_length, "ForceNewCluster": force_new_cluster,
                "Availability": availability, "Spec": asked,
            });
            let id = api.post("/swarm/init", &Query::new(), Some(&body)).await?;
            say!(
                "Swarm initialized: current node ({}) is now a manager.\n",
                id.as_str().unwrap_or_default()
            )?;
            instructions(api, "worker").await?;
            say!(
                "To add a manager to this swarm, run 'skep swarm join-token manager' and follow the instructions.\n"
            )?;
            if asked["EncryptionConfig"]["AutoLockManagers"] == true {
                unlock_key::show(api).await
            } else {
                Ok(())
            }
        }
        SwarmCommand::Readdress { advertise_addr, data_path_addr, manager } => {
            let body = json!({
                "AdvertiseAddr": advertise_addr, "DataPathAddr": data_path_addr, "RemoteAddrs": manager,
            });
            api.post("/swarm/readdress", &Query::new(), Some(&body)).await.map(drop)
        }
        SwarmCommand::Join { advertise_addr, availability, data_path_addr, listen_addr, token, manager } => {
            let body = json!({
                "RemoteAddrs": [manager], "JoinToken": token, "AdvertiseAddr": advertise_addr,
                "DataPathAddr": data_path_addr, "ListenAddr": listen_addr, "Availability": availability,
            });
            api.post("/swarm/join", &Query::new(), Some(&body)).await?;
            let info = api.get("/info", &Query::new()).await?;
            let manager = info["Swarm"]["ControlAvailable"] == Value::Bool(true);
            say!("This node joined a swarm as a {}.", if manager { "manager" } else { "worker" })
        }
        SwarmCommand::Leave { force } => {
            api.post("/swarm/leave", &Query::new().flag("force", force), None).await?;
            say!("Node left the swarm.")
        }
        SwarmCommand::Update { spec } => {
            if spec.is_empty() {
                return say!("{}", super::help(&["swarm", "update"]).trim_end());
            }
            let swarm = api.get("/swarm", &Query::new()).await?;
            let mut asked = swarm["Spec"].clone();
            spec.apply(&mut asked, &text(&swarm["TLSInfo"], "TrustRoot"))?;
            update(api, &swarm, &asked, &Query::new()).await?;
            say!("Swarm updated.")?;
            let locks = |spec: &Value| spec["EncryptionConfig"]["AutoLockManagers"] == true;
            if locks(&asked) && !locks(&swarm["Spec"]) { unlock_key::show(api).await } else { Ok(()) }
        }
        SwarmCommand::Ca(flags) => swarm_ca::run(api, flags).await,
        SwarmCommand::Unlock => unlock_key::unlock(api).await,
        SwarmCommand::UnlockKey { quiet, rotate } => unlock_key::run(api, quiet, rotate).await,
        SwarmCommand::JoinToken { quiet, rotate, role } => {
            let (flag, name) = match role.as_str() {
                "worker" => ("rotateWorkerToken", "Worker"),
                "manager" => ("rotateManagerToken", "Manager"),
                other => bail!("unknown role {other}"),
            };
            if rotate {
                let swarm = api.get("/swarm", &Query::new()).await?;
                update(api, &swarm, &swarm["Spec"], &Query::new().with(flag, "true")).await?;
                if !quiet {
                    say!("Successfully rotated {role} join token.\n")?;
                }
            }
            if quiet {
                return say!("{}", text(&api.get("/swarm", &Query::new()).await?["JoinTokens"], name));
            }
            instructions(api, &role).await
        }
    }
}

pub(super) async fn update(api: &Api, swarm: &Value, spec: &Value, query: &Query) -> Result<()> {
    let version = swarm["Version"]["Index"].as_u64().context("the swarm has no version")?;
    let query = query.clone().with("version", version.to_string());
    api.post("/swarm/update", &query, Some(spec)).await.map(drop)
}

/// How to add a node of a role.
async fn instructions(api: &Api, role: &str) -> Result<()> {
    let swarm = api.get("/swarm", &Query::new()).await?;
    let token = text(&swarm["JoinTokens"], if role == "worker" { "Worker" } else { "Manager" });
    let info = api.get("/info", &Query::new()).await?;
    let own = text(&info["Swarm"], "NodeID");
    let managers = info["Swarm"]["RemoteManagers"].as_array().cloned().unwrap_or_default();
    let this = managers.iter().find(|m| m["NodeID"] == own.as_str()).or(managers.first());
    let addr = this.map_or_else(|| "MANAGER:2377".into(), |m| text(m, "Addr"));
    say!(
        "To add a {role} to this swarm, run the following command:\n\n    skep swarm join --token {token} {addr}\n"
    )
}
