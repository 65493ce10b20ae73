//! What containers do and use, and what they may: `top`, `stats`, `update`.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Value, json};

use super::api::{Api, Query, encode};
use super::create_body::{bytes, restart, set, without_empty};
use super::create_values;
use super::output::{self, Column, Listing, say, text};
use super::{each, human};

/// Flags of `stats`.
#[derive(Args)]
pub struct StatsArgs {
    /// Show all containers (default shows just running)
    #[arg(short, long)]
    pub all: bool,
    /// Format output: table, table TEMPLATE, json or a Go template
    #[arg(long, value_name = "string")]
    pub format: Option<String>,
    /// Disable streaming stats and only pull the first result
    #[arg(long)]
    pub no_stream: bool,
    /// Do not truncate output
    #[arg(long)]
    pub no_trunc: bool,
    #[arg(value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

/// Arguments of `top`.
#[derive(Args)]
#[command(disable_help_flag = true)]
pub struct TopArgs {
    /// Print usage
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    /// Container, and options of ps
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "CONTAINER [ps OPTIONS]"
    )]
    words: Vec<String>,
}

/// Flags of `update`.
#[derive(Args)]
pub struct UpdateArgs {
    /// Block IO weight, 10 to 1000 (0: not changed)
    #[arg(long, value_name = "uint16")]
    blkio_weight: Option<u16>,
    /// CPU CFS period in microseconds
    #[arg(long, value_name = "int")]
    cpu_period: Option<i64>,
    /// CPU CFS quota in microseconds
    #[arg(long, value_name = "int", allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// CPU real-time period in microseconds
    #[arg(long, value_name = "int", allow_hyphen_values = true)]
    cpu_rt_period: Option<i64>,
    /// CPU real-time runtime in microseconds
    #[arg(long, value_name = "int", allow_hyphen_values = true)]
    cpu_rt_runtime: Option<i64>,
    /// CPU shares (relative weight)
    #[arg(short, long, value_name = "int")]
    cpu_shares: Option<i64>,
    /// Number of CPUs, like 1.5
    #[arg(long, value_name = "decimal", value_parser = create_values::cpus)]
    cpus: Option<f64>,
    /// CPUs to run on (0-3, 0,1)
    #[arg(long, value_name = "string")]
    cpuset_cpus: Option<String>,
    /// Memory nodes to run on (0-3, 0,1)
    #[arg(long, value_name = "string")]
    cpuset_mems: Option<String>,
    /// Memory limit
    #[arg(short, long, value_name = "bytes", value_parser = create_values::size)]
    memory: Option<String>,
    /// Memory soft limit
    #[arg(long, value_name = "bytes", value_parser = create_values::size)]
    memory_reservation: Option<String>,
    /// Limit of memory and swap together; -1: no limit of swap
    #[arg(long, value_name = "bytes", allow_hyphen_values = true, value_parser = create_values::swap)]
    memory_swap: Option<String>,
    /// Limit of processes (-1: no limit)
    #[arg(long, value_name = "int", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// Restart policy to apply when a container exits
    #[arg(long, value_name = "string")]
    restart: Option<String>,
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

const COLUMNS: &[Column] = &[
    ("Container", "CONTAINER"),
    ("ID", "CONTAINER ID"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
];

const TABLE: &str =
    "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}";

/// The head of a table without rows.
pub fn no_stats(format: Option<&str>) -> Result<()> {
    Listing::new(COLUMNS, TABLE).print(false, format)
}

/// Shows what containers use, once or again and again.
pub async fn stats(api: &Api, args: &StatsArgs) -> Result<()> {
    let mut before = BTreeMap::<String, Value>::new();
    loop {
        let names = match args.containers.is_empty() {
            true => listed(api, args.all).await?,
            false => args.containers.clone(),
        };
        // The first look of a stream waits as long as a rate takes to show.
        let looks = names.iter().map(|name| {
            let known = before.contains_key(name);
            async move {
                let query = Query::new().with("stream", "0").flag("one-shot", known);
                api.get(&format!("/containers/{}/stats", encode(name)), &query).await
            }
        });
        let looks = futures::future::join_all(looks).await;
        let mut listing = Listing::new(COLUMNS, TABLE);
        let mut now = BTreeMap::new();
        for (name, look) in names.iter().zip(looks) {
            let mut look = match look {
                Ok(look) => look,
                // Among all of them one may have gone in the meantime.
                Err(e) if super::is_not_found(&e) && args.containers.is_empty() => continue,
                Err(e) => return Err(e),
            };
            if let Some(then) = before.get(name) {
                look["precpu_stats"] = then["cpu_stats"].clone();
            }
            listing.row(row(name, &look, args.no_trunc), &Value::Null);
            now.insert(name.clone(), look);
        }
        before = now;
        if args.no_stream {
            return listing.print(false, args.format.as_deref());
        }
        output::write(format_args!("\x1b[H\x1b[J"))?;
        listing.print(false, args.format.as_deref())?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn listed(api: &Api, all: bool) -> Result<Vec<String>> {
    let found = api.get("/containers/json", &Query::new().flag("all", all)).await?;
    Ok(found.as_array().into_iter().flatten().map(|c| text(c, "Id")).collect())
}

fn row(name: &str, s: &Value, whole: bool) -> Vec<Value> {
    let (usage, limit) = memory(&s["memory_stats"]);
    let percent = if limit == 0.0 { 0.0 } else { usage / limit * 100.0 };
    let networks = s["networks"].as_object();
    let network = |key: &str| networks.into_iter().flatten().map(|(_, n)| number(&n[key])).sum::<f64>();
    let block = |letter: char| {
        let entries = s["blkio_stats"]["io_service_bytes_recursive"].as_array();
        let of = |e: &&Value| text(e, "op").to_lowercase().starts_with(letter);
        entries.into_iter().flatten().filter(of).map(|e| number(&e["value"])).sum::<f64>()
    };
    vec![
        name.into(),
        human::short_id(&text(s, "id"), whole).into(),
        text(s, "name").trim_start_matches('/').into(),
        format!("{:.2}%", cpu(s)).into(),
        format!("{} / {}", human::binary_size(usage as i64), human::binary_size(limit as i64)).into(),
        format!("{percent:.2}%").into(),
        pair(network("rx_bytes"), network("tx_bytes")).into(),
        pair(block('r'), block('w')).into(),
        format!("{}", number(&s["pids_stats"]["current"])).into(),
    ]
}

fn pair(a: f64, b: f64) -> String {
    format!("{} / {}", human::size(a as i64), human::size(b as i64))
}

fn number(v: &Value) -> f64 {
    v.as_f64().unwrap_or(0.0)
}

/// Percent of one processor.
fn cpu(s: &Value) -> f64 {
    let (now, before) = (&s["cpu_stats"], &s["precpu_stats"]);
    let used = number(&now["cpu_usage"]["total_usage"]) - number(&before["cpu_usage"]["total_usage"]);
    let passed = number(&now["system_cpu_usage"]) - number(&before["system_cpu_usage"]);
    if used > 0.0 && passed > 0.0 { used / passed * number(&now["online_cpus"]) * 100.0 } else { 0.0 }
}

/// Use without the page cache that can be dropped, and the limit.
fn memory(m: &Value) -> (f64, f64) {
    let usage = number(&m["usage"]);
    // Cgroups v1 call it so, v2 otherwise.
    let droppable = ["total_inactive_file", "inactive_file"].iter().find_map(|k| m["stats"][*k].as_f64());
    (droppable.filter(|d| *d < usage).map_or(usage, |d| usage - d), number(&m["limit"]))
}

/// Shows the processes of a container.
pub async fn top(api: &Api, args: &TopArgs) -> Result<()> {
    let (name, options) = args.words.split_first().map_or(("", &[][..]), |(n, o)| (n.as_str(), o));
    let mut query = Query::new();
    if !options.is_empty() {
        query = query.with("ps_args", options.join(" "));
    }
    let found = api.get(&format!("/containers/{}/top", encode(name)), &query).await?;
    let cells = |v: &Value| -> Vec<String> {
        v.as_array().into_iter().flatten().map(|c| c.as_str().unwrap_or_default().to_owned()).collect()
    };
    let rows = found["Processes"].as_array().into_iter().flatten().map(cells);
    let rows: Vec<_> = std::iter::once(cells(&found["Titles"])).chain(rows).collect();
    let columns = rows[0].len();
    let width = |i: usize| {
        rows.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count() + 3).max().unwrap_or(0).max(20)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    for row in &rows {
        let line: String = row.iter().zip(&widths).map(|(c, w)| format!("{c:w$}")).collect();
        // The last cell ends the line.
        let last = row.last().map_or(0, |c| widths.last().map_or(0, |w| w - c.chars().count()));
        say!("{}", &line[..line.len() - last])?;
    }
    Ok(())
}

/// Changes limits and restart policy.
pub async fn update(api: &Api, args: &UpdateArgs) -> Result<()> {
    let mut body = json!({});
    for (name, value) in [("Memory", &args.memory), ("MemoryReservation", &args.memory_reservation)] {
        set(&mut body[name], value.as_deref().map(|v| bytes(name, v)).transpose()?);
    }
    match args.memory_swap.as_deref() {
        Some("-1") => body["MemorySwap"] = (-1).into(),
        Some(text) => body["MemorySwap"] = bytes("MemorySwap", text)?.into(),
        None => {}
    }
    for (name, value) in [
        ("BlkioWeight", args.blkio_weight.map(i64::from)),
        ("CpuPeriod", args.cpu_period),
        ("CpuQuota", args.cpu_quota),
        ("CpuRealtimePeriod", args.cpu_rt_period),
        ("CpuRealtimeRuntime", args.cpu_rt_runtime),
        ("CpuShares", args.cpu_shares),
        ("NanoCpus", args.cpus.map(|c| (c * 1e9) as i64)),
        ("PidsLimit", args.pids_limit),
    ] {
        set(&mut body[name], value);
    }
    set(&mut body["CpusetCpus"], args.cpuset_cpus.clone());
    set(&mut body["CpusetMems"], args.cpuset_mems.clone());
    if let Some(policy) = &args.restart {
        let (name, tries) = restart(policy)?;
        body["RestartPolicy"] = json!({ "Name": name, "MaximumRetryCount": tries });
    }
    without_empty(&mut body);
    if body.as_object().is_none_or(serde_json::Map::is_empty) {
        bail!("you must provide one or more flags when using this command");
    }
    each(&args.containers, async |name| {
        let path = format!("/containers/{}/update", encode(&name));
        let answer = api.post(&path, &Query::new(), Some(&body)).await?;
        for warning in answer["Warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            eprintln!("{warning}");
        }
        say!("{name}")
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_shares_are_those_of_docker() {
        let look = json!({
            "id": "0123456789abcdef", "name": "/web",
            "cpu_stats": { "cpu_usage": { "total_usage": 300 }, "system_cpu_usage": 2000, "online_cpus": 2 },
            "precpu_stats": { "cpu_usage": { "total_usage": 100 }, "system_cpu_usage": 1000 },
            "memory_stats": { "usage": 3 << 20, "limit": 8 << 20, "stats": { "inactive_file": 1 << 20 } },
            "networks": { "eth0": { "rx_bytes": 1000, "tx_bytes": 1 }, "eth1": { "rx_bytes": 500 } },
            "blkio_stats": { "io_service_bytes_recursive": [
                { "op": "Read", "value": 2_000_000 }, { "op": "write", "value": 5 }, { "op": "Total", "value": 9 },
            ] },
            "pids_stats": { "current": 4 },
        });
        let cells: Vec<_> =
            row("web", &look, false).iter().map(|c| c.as_str().unwrap_or_default().to_owned()).collect();
        assert_eq!(
            cells,
            ["web", "0123456789ab", "web", "40.00%", "2MiB / 8MiB", "25.00%", "1.5kB / 1B", "2MB / 5B", "4"]
        );
    }
}
