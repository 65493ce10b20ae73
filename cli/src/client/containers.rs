//! Commands on containers: ps, start, stop, kill, rm, logs, inspect, wait.

use anyhow::{Result, bail};
use clap::Subcommand;
use hyper::Method;
use serde_json::Value;

use super::api::{Api, Query, encode, full};
use super::output::{self, Table, short_id};
use super::{each, is_not_found, stream};

#[derive(Subcommand)]
pub enum Containers {
    /// List containers
    Ps {
        /// Also those that do not run
        #[arg(short, long)]
        all: bool,
        /// Only IDs
        #[arg(short, long)]
        quiet: bool,
        /// Whole IDs
        #[arg(long)]
        no_trunc: bool,
        /// Filter, name=value
        #[arg(short, long)]
        filter: Vec<String>,
        /// Template for each line
        #[arg(long)]
        format: Option<String>,
    },
    /// Start stopped containers
    Start {
        /// Names or IDs
        #[arg(required = true)]
        containers: Vec<String>,
    },
    /// Stop containers
    Stop {
        /// Seconds until SIGKILL
        #[arg(short, long, alias = "time")]
        timeout: Option<u32>,
        /// Names or IDs
        #[arg(required = true)]
        containers: Vec<String>,
    },
    /// Send containers a signal
    Kill {
        /// Signal
        #[arg(short, long, default_value = "KILL")]
        signal: String,
        /// Names or IDs
        #[arg(required = true)]
        containers: Vec<String>,
    },
    /// Remove containers
    Rm {
        /// Kill it first if it runs
        #[arg(short, long)]
        force: bool,
        /// Also its anonymous volumes
        #[arg(short, long)]
        volumes: bool,
        /// Names or IDs
        #[arg(required = true)]
        containers: Vec<String>,
    },
    /// Show what a container wrote
    Logs {
        /// Go on with what it writes
        #[arg(short, long)]
        follow: bool,
        /// Show times
        #[arg(short, long)]
        timestamps: bool,
        /// Last lines only
        #[arg(short = 'n', long, default_value = "all")]
        tail: String,
        /// Name or ID
        container: String,
    },
    /// Show all there is to know of containers, images, networks, services or nodes
    Inspect {
        /// Template
        #[arg(short, long)]
        format: Option<String>,
        /// Names or IDs
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Wait until containers have stopped and print their exit codes
    Wait {
        /// Names or IDs
        #[arg(required = true)]
        containers: Vec<String>,
    },
}

pub async fn run(api: &Api, command: Containers) -> Result<u8> {
    match command {
        Containers::Ps { all, quiet, no_trunc, filter, format } => {
            let query = Query::new().flag("all", all).filters(&filter)?;
            list(&api.get("/containers/json", &query).await?, quiet, no_trunc, format.as_deref())?;
        }
        Containers::Start { containers } => act(api, &containers, "start", &Query::new()).await?,
        Containers::Stop { timeout, containers } => {
            let query = timeout.map_or_else(Query::new, |t| Query::new().with("t", t.to_string()));
            act(api, &containers, "stop", &query).await?;
        }
        Containers::Kill { signal, containers } => {
            act(api, &containers, "kill", &Query::new().with("signal", signal)).await?;
        }
        Containers::Rm { force, volumes, containers } => {
            let query = Query::new().flag("force", force).flag("v", volumes);
            each(&containers, async |name| {
                api.delete(&format!("/containers/{}", encode(&name)), &query).await?;
                println!("{name}");
                Ok(())
            })
            .await?;
        }
        Containers::Logs { follow, timestamps, tail, container } => {
            let path = format!("/containers/{}", encode(&container));
            let tty =
                api.get(&format!("{path}/json"), &Query::new()).await?["Config"]["Tty"] == Value::Bool(true);
            let query = Query::new().flag("stdout", true).flag("stderr", true).flag("follow", follow);
            let query = query.flag("timestamps", timestamps).with("tail", tail);
            copy(api, &format!("{path}/logs"), &query, tty).await?;
        }
        Containers::Inspect { format, names } => inspect_any(api, &names, format.as_deref()).await?,
        Containers::Wait { containers } => {
            each(&containers, async |name| {
                let path = format!("/containers/{}/wait", encode(&name));
                println!("{}", api.post(&path, &Query::new(), None).await?["StatusCode"]);
                Ok(())
            })
            .await?;
        }
    }
    Ok(0)
}

async fn act(api: &Api, names: &[String], verb: &str, query: &Query) -> Result<()> {
    each(names, async |name| {
        api.post(&format!("/containers/{}/{verb}", encode(&name)), query, None).await?;
        println!("{name}");
        Ok(())
    })
    .await
}

/// Copies a stream of the API to our own output.
pub async fn copy(api: &Api, path: &str, query: &Query, raw: bool) -> Result<()> {
    use futures::TryStreamExt;
    let response = api.send(Method::GET, path, query, full(""), &[]).await?;
    let bytes = http_body_util::BodyDataStream::new(response.into_body()).map_err(std::io::Error::other);
    stream::copy(tokio_util::io::StreamReader::new(bytes), raw).await
}

fn list(found: &Value, quiet: bool, whole: bool, format: Option<&str>) -> Result<()> {
    let mut table = Table::new(&["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"]);
    for c in found.as_array().into_iter().flatten() {
        let text = |name: &str| c[name].as_str().unwrap_or_default().to_owned();
        let id = short_id(&text("Id"), whole);
        if quiet {
            println!("{id}");
            continue;
        }
        let names: Vec<_> = c["Names"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let names = names.iter().map(|n| n.trim_start_matches('/')).collect::<Vec<_>>().join(",");
        let mut command = text("Command");
        if !whole && command.chars().count() > 20 {
            command = format!("{}…", command.chars().take(19).collect::<String>());
        }
        table.row(vec![
            id,
            text("Image"),
            format!("\"{command}\""),
            format!("{} ago", output::duration(output::since_unix(c["Created"].as_i64().unwrap_or(0)))),
            text("Status"),
            ports(&c["Ports"]),
            names,
        ]);
    }
    if quiet { Ok(()) } else { table.print(format) }
}

fn ports(list: &Value) -> String {
    let one = |p: &Value| {
        let inner = format!("{}/{}", p["PrivatePort"], p["Type"].as_str().unwrap_or("tcp"));
        match p["PublicPort"].as_u64() {
            Some(public) => format!("{}:{public}->{inner}", p["IP"].as_str().unwrap_or("0.0.0.0")),
            None => inner,
        }
    };
    list.as_array().into_iter().flatten().map(one).collect::<Vec<_>>().join(", ")
}

/// Tries every kind of object for each name, as Docker's `inspect` does.
async fn inspect_any(api: &Api, names: &[String], format: Option<&str>) -> Result<()> {
    let mut found = Vec::new();
    let mut missing = Vec::new();
    'names: for name in names {
        let at = encode(name);
        for path in [
            format!("/containers/{at}/json"),
            format!("/images/{at}/json"),
            format!("/networks/{at}"),
            format!("/services/{at}"),
            format!("/nodes/{at}"),
            format!("/tasks/{at}"),
        ] {
            match api.get(&path, &Query::new()).await {
                Ok(object) => {
                    found.push(object);
                    continue 'names;
                }
                // Outside a swarm its objects are not there to be found.
                Err(e) if is_not_found(&e) || e.to_string().contains("not a swarm manager") => {}
                Err(e) => return Err(e),
            }
        }
        missing.push(format!("Error: No such object: {name}"));
    }
    output::inspect(found, format)?;
    if missing.is_empty() { Ok(()) } else { bail!(missing.join("\n")) }
}
