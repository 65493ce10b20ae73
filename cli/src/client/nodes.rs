//! `skep node`.

use anyhow::{Context, Result};
use clap::Subcommand;
use serde_json::Value;

use super::api::{Api, Query, encode};
use super::each;
use super::output::{self, Table};
use super::services;

#[derive(Subcommand)]
pub enum Nodes {
    /// List nodes
    #[command(alias = "list")]
    Ls {
        /// Only IDs
        #[arg(short, long)]
        quiet: bool,
        /// Filter, name=value
        #[arg(short, long)]
        filter: Vec<String>,
        /// Template for each line
        #[arg(long)]
        format: Option<String>,
    },
    /// Show all there is to know of nodes
    Inspect {
        /// Template
        #[arg(short, long)]
        format: Option<String>,
        /// IDs or host names; self is the node asked
        #[arg(required = true)]
        nodes: Vec<String>,
    },
    /// Change a node
    Update {
        /// active, pause or drain
        #[arg(long)]
        availability: Option<String>,
        /// worker or manager
        #[arg(long)]
        role: Option<String>,
        /// Add a label, name=value
        #[arg(long)]
        label_add: Vec<String>,
        /// Remove a label
        #[arg(long)]
        label_rm: Vec<String>,
        /// ID or host name
        node: String,
    },
    /// Make workers managers
    Promote {
        /// IDs or host names
        #[arg(required = true)]
        nodes: Vec<String>,
    },
    /// Make managers workers
    Demote {
        /// IDs or host names
        #[arg(required = true)]
        nodes: Vec<String>,
    },
    /// Remove nodes
    Rm {
        /// Also one that is not down
        #[arg(short, long)]
        force: bool,
        /// IDs or host names
        #[arg(required = true)]
        nodes: Vec<String>,
    },
    /// List the tasks of nodes
    Ps {
        /// IDs or host names [default: self]
        nodes: Vec<String>,
    },
}

pub async fn run(api: &Api, command: Nodes) -> Result<()> {
    match command {
        Nodes::Ls { quiet, filter, format } => list(api, quiet, &filter, format.as_deref()).await,
        Nodes::Inspect { format, nodes } => {
            let mut found = Vec::new();
            for node in &nodes {
                found.push(get(api, node).await?);
            }
            output::inspect(found, format.as_deref())
        }
        Nodes::Update { availability, role, label_add, label_rm, node } => {
            update(api, &node, |spec| {
                if let Some(a) = &availability {
                    spec["Availability"] = a.as_str().into();
                }
                if let Some(r) = &role {
                    spec["Role"] = r.as_str().into();
                }
                for label in &label_add {
                    let (name, value) = label.split_once('=').unwrap_or((label, ""));
                    spec["Labels"][name] = value.into();
                }
                if let Some(labels) = spec["Labels"].as_object_mut() {
                    labels.retain(|k, _| !label_rm.contains(k));
                }
            })
            .await?;
            println!("{node}");
            Ok(())
        }
        Nodes::Promote { nodes } => role(api, &nodes, "manager", "promoted to a manager").await,
        Nodes::Demote { nodes } => role(api, &nodes, "worker", "demoted").await,
        Nodes::Rm { force, nodes } => {
            each(&nodes, async |node| {
                let id = id_of(&get(api, &node).await?)?;
                api.delete(&format!("/nodes/{id}"), &Query::new().flag("force", force)).await?;
                println!("{node}");
                Ok(())
            })
            .await
        }
        Nodes::Ps { nodes } => {
            let nodes = if nodes.is_empty() { vec!["self".to_owned()] } else { nodes };
            let mut ids = Vec::new();
            for node in &nodes {
                ids.push(format!("node={}", id_of(&get(api, node).await?)?));
            }
            services::tasks(api, &ids, services::TaskFormat::default()).await
        }
    }
}

fn id_of(node: &Value) -> Result<String> {
    Ok(node["ID"].as_str().context("the daemon sent a node without an ID")?.to_owned())
}

async fn get(api: &Api, node: &str) -> Result<Value> {
    let own;
    let node = if node == "self" {
        let info = api.get("/info", &Query::new()).await?;
        own = info["Swarm"]["NodeID"].as_str().unwrap_or_default().to_owned();
        own.as_str()
    } else {
        node
    };
    api.get(&format!("/nodes/{}", encode(node)), &Query::new()).await
}

async fn update(api: &Api, node: &str, change: impl Fn(&mut Value)) -> Result<()> {
    let found = get(api, node).await?;
    let mut spec = found["Spec"].clone();
    change(&mut spec);
    let version = found["Version"]["Index"].as_u64().context("the node has no version")?;
    let path = format!("/nodes/{}/update", id_of(&found)?);
    api.post(&path, &Query::new().with("version", version.to_string()), Some(&spec)).await.map(drop)
}

async fn role(api: &Api, nodes: &[String], role: &str, done: &str) -> Result<()> {
    each(nodes, async |node| {
        let already = get(api, &node).await?["Spec"]["Role"] == role;
        if already {
            println!("Node {node} is already a {role}.");
            return Ok(());
        }
        update(api, &node, |spec| spec["Role"] = role.into()).await?;
        println!("Node {node} {done} in the swarm.");
        Ok(())
    })
    .await
}

async fn list(api: &Api, quiet: bool, filter: &[String], format: Option<&str>) -> Result<()> {
    let found = api.get("/nodes", &Query::new().filters(filter)?).await?;
    let info = api.get("/info", &Query::new()).await?;
    let own = info["Swarm"]["NodeID"].as_str().unwrap_or_default();
    let mut table =
        Table::new(&["ID", "HOSTNAME", "STATUS", "AVAILABILITY", "MANAGER STATUS", "ENGINE VERSION"]);
    for n in found.as_array().into_iter().flatten() {
        let id = n["ID"].as_str().unwrap_or_default();
        if quiet {
            println!("{id}");
            continue;
        }
        let capital = |v: &Value| {
            let s = v.as_str().unwrap_or_default();
            s.chars().take(1).flat_map(char::to_uppercase).chain(s.chars().skip(1)).collect::<String>()
        };
        let manager = match &n["ManagerStatus"] {
            Value::Null => String::new(),
            m if m["Leader"] == Value::Bool(true) => "Leader".into(),
            m => capital(&m["Reachability"]),
        };
        table.row(vec![
            if id == own { format!("{id} *") } else { id.to_owned() },
            n["Description"]["Hostname"].as_str().unwrap_or_default().into(),
            capital(&n["Status"]["State"]),
            capital(&n["Spec"]["Availability"]),
            manager,
            n["Description"]["Engine"]["EngineVersion"].as_str().unwrap_or_default().into(),
        ]);
    }
    if quiet { Ok(()) } else { table.print(format) }
}
