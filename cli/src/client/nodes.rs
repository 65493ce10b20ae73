//! `node`.

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use serde_json::Value;

use super::api::{Api, Query, encode};
use super::output::{self, Column, Listing, say, text};
use super::tasks::{self, TaskFlags};
use super::{each, human, pretty};

#[derive(Subcommand)]
pub enum Nodes {
    /// Demote one or more nodes from manager in the swarm
    Demote {
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<String>,
    },
    /// Display detailed information on one or more nodes
    Inspect {
        /// Format output: json or a Go template
        #[arg(short, long, value_name = "string")]
        format: Option<String>,
        /// Print the information in a human friendly format
        #[arg(long)]
        pretty: bool,
        #[arg(required = true, value_name = "self|NODE")]
        nodes: Vec<String>,
    },
    /// List nodes in the swarm
    #[command(visible_alias = "list")]
    Ls {
        /// Filter output based on conditions provided
        #[arg(short, long, value_name = "filter", value_parser = super::usage::filter)]
        filter: Vec<String>,
        /// Format output: table, table TEMPLATE, json or a Go template
        #[arg(long, value_name = "string")]
        format: Option<String>,
        /// Only display IDs
        #[arg(short, long)]
        quiet: bool,
    },
    /// Promote one or more nodes to manager in the swarm
    Promote {
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<String>,
    },
    /// List tasks running on one or more nodes, defaults to current node
    Ps {
        #[command(flatten)]
        show: TaskFlags,
        #[arg(value_name = "NODE")]
        nodes: Vec<String>,
    },
    /// Remove one or more nodes from the swarm
    #[command(visible_alias = "remove")]
    Rm {
        /// Force remove a node from the swarm
        #[arg(short, long)]
        force: bool,
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<String>,
    },
    /// Update a node
    Update {
        /// Availability of the node ("active", "pause", "drain")
        #[arg(long, value_name = "string")]
        availability: Option<String>,
        /// Show what would come of it, and change nothing (Skep's own)
        #[arg(long)]
        dry_run: bool,
        /// Add or update a node label (key=value)
        #[arg(long, value_name = "list")]
        label_add: Vec<String>,
        /// Remove a node label if exists
        #[arg(long, value_name = "list")]
        label_rm: Vec<String>,
        /// Role of the node ("worker", "manager")
        #[arg(long, value_name = "string")]
        role: Option<String>,
        #[arg(value_name = "NODE")]
        node: String,
    },
}

pub async fn run(api: &Api, command: Nodes) -> Result<()> {
    match command {
        Nodes::Ls { filter, format, quiet } => list(api, quiet, &filter, format.as_deref()).await,
        Nodes::Inspect { format, pretty: nice, nodes } => {
            let get = async |name: String| get(api, &name).await;
            if nice {
                return each(&nodes, async |name| pretty::node(&get(name).await?)).await;
            }
            output::inspect(&nodes, format.as_deref(), get).await
        }
        Nodes::Update { availability, dry_run, label_add, label_rm, role, node } => {
            let change = |spec: &mut Value| {
                if let Some(a) = &availability {
                    spec["Availability"] = a.as_str().into();
                }
                if let Some(r) = &role {
                    spec["Role"] = r.as_str().into();
                }
                for (name, value) in super::create_body::pairs(&label_add) {
                    spec["Labels"][name] = value;
                }
                for name in &label_rm {
                    if spec["Labels"].as_object_mut().and_then(|l| l.remove(name)).is_none() {
                        bail!("key {name} doesn't exist in node's labels");
                    }
                }
                Ok(())
            };
            if dry_run {
                let (api, plan) = api.planning();
                update(&api, &node, change).await?;
                return plan.show(&api).await;
            }
            update(api, &node, change).await?;
            say!("{node}")
        }
        Nodes::Promote { nodes } => role(api, &nodes, "manager").await,
        Nodes::Demote { nodes } => role(api, &nodes, "worker").await,
        Nodes::Rm { force, nodes } => {
            each(&nodes, async |node| {
                let query = Query::new().flag("force", force);
                api.delete(&format!("/nodes/{}", encode(&node)), &query).await?;
                say!("{node}")
            })
            .await
        }
        Nodes::Ps { show, nodes } => {
            let nodes = if nodes.is_empty() { vec!["self".to_owned()] } else { nodes };
            let mut filters = show.filter.clone();
            for node in &nodes {
                filters.push(format!("node={}", text(&get(api, node).await?, "ID")));
            }
            tasks::list(api, &filters, &show).await
        }
    }
}

async fn get(api: &Api, node: &str) -> Result<Value> {
    let own;
    let node = if node == "self" {
        own = text(&api.get("/info", &Query::new()).await?["Swarm"], "NodeID");
        if own.is_empty() {
            // The daemon's own words on why there is no node.
            api.get("/nodes", &Query::new()).await?;
        }
        own.as_str()
    } else {
        node
    };
    api.get(&format!("/nodes/{}", encode(node)), &Query::new()).await
}

async fn update(api: &Api, node: &str, change: impl Fn(&mut Value) -> Result<()>) -> Result<()> {
    let found = api.get(&format!("/nodes/{}", encode(node)), &Query::new()).await?;
    let mut spec = found["Spec"].clone();
    change(&mut spec)?;
    let version = found["Version"]["Index"].as_u64().context("the node has no version")?;
    let path = format!("/nodes/{}/update", text(&found, "ID"));
    api.post(&path, &Query::new().with("version", version.to_string()), Some(&spec)).await.map(drop)
}

async fn role(api: &Api, nodes: &[String], role: &str) -> Result<()> {
    each(nodes, async |node| {
        let found = api.get(&format!("/nodes/{}", encode(&node)), &Query::new()).await?;
        if found["Spec"]["Role"] == role {
            return say!("Node {node} is already a {role}.");
        }
        let change = |spec: &mut Value| {
            spec["Role"] = role.into();
            Ok(())
        };
        update(api, &node, change).await?;
        match role {
            "manager" => say!("Node {node} promoted to a manager in the swarm."),
            _ => say!("Manager {node} demoted in the swarm."),
        }
    })
    .await
}

const COLUMNS: &[Column] = &[
    ("ID", "ID"),
    ("Self", ""),
    ("Hostname", "HOSTNAME"),
    ("Status", "STATUS"),
    ("Availability", "AVAILABILITY"),
    ("ManagerStatus", "MANAGER STATUS"),
    ("EngineVersion", "ENGINE VERSION"),
    ("TLSStatus", "TLS STATUS"),
];
const TABLE: &str = "{{.ID}} {{if .Self}}*{{else}} {{end}}\t{{.Hostname}}\t{{.Status}}\t{{.Availability}}\t{{.ManagerStatus}}\t{{.EngineVersion}}";

async fn list(api: &Api, quiet: bool, filter: &[String], format: Option<&str>) -> Result<()> {
    let found = api.get("/nodes", &Query::new().filters(filter)?).await?;
    let info = api.get("/info", &Query::new()).await?;
    let own = text(&info["Swarm"], "NodeID");
    let root = &info["Swarm"]["Cluster"]["TLSInfo"];
    let mut nodes = found.as_array().cloned().unwrap_or_default();
    nodes.sort_by_key(|n| text(&n["Description"], "Hostname"));
    let mut listing = Listing::new(COLUMNS, TABLE);
    for n in &nodes {
        let id = text(n, "ID");
        let manager = match &n["ManagerStatus"] {
            Value::Null => String::new(),
            m if m["Leader"] == Value::Bool(true) => "Leader".into(),
            m => human::capital(&text(m, "Reachability")),
        };
        let tls = match &n["Description"]["TLSInfo"] {
            held if held.as_object().is_none_or(|o| o.is_empty()) => "Unknown",
            held if held == root => "Ready",
            _ => "Needs Rotation",
        };
        let row = vec![
            id.clone().into(),
            (id == own).into(),
            text(&n["Description"], "Hostname").into(),
            human::capital(&text(&n["Status"], "State")).into(),
            human::capital(&text(&n["Spec"], "Availability")).into(),
            manager.into(),
            text(&n["Description"]["Engine"], "EngineVersion").into(),
            tls.into(),
        ];
        listing.row(row, &n["Spec"]["Labels"]);
    }
    listing.print(quiet, format)
}
