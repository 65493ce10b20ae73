//! `system df`, `system prune`, `container prune` and `builder prune`.

use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Value, json};

use super::api::{Api, Query};
use super::output::{Column, Listing, say, text};
use super::{container_list, human, prune, volumes};

/// Flags of `system df`.
#[derive(Args)]
pub struct UsageArgs {
    /// Format output: table, table TEMPLATE, json or a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Show detailed information on space usage
    #[arg(short, long)]
    verbose: bool,
}

/// Flags of the prunes that take filters and ask first.
#[derive(Args)]
pub struct PruneArgs {
    /// Provide filter values (e.g. "until=<timestamp>")
    #[arg(long, value_name = "filter", value_parser = super::usage::filter)]
    filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
}

/// Flags of `system prune`.
#[derive(Args)]
pub struct SystemPruneArgs {
    /// Remove all unused images not just dangling ones
    #[arg(short, long)]
    all: bool,
    /// Provide filter values (e.g. "label=<key>=<value>")
    #[arg(long, value_name = "filter", value_parser = super::usage::filter)]
    filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
    /// Prune anonymous volumes
    #[arg(long)]
    volumes: bool,
}

/// Flags of `builder prune`.
#[derive(Args)]
pub struct BuilderPruneArgs {
    /// Remove all unused build cache, not just dangling ones
    #[arg(short, long)]
    all: bool,
    /// Provide filter values (e.g. "until=24h")
    #[arg(long, value_name = "filter", value_parser = super::usage::filter)]
    filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
    /// Amount of disk space always allowed to keep for cache
    #[arg(long, visible_alias = "keep-storage", value_name = "bytes")]
    reserved_space: Option<String>,
    /// Maximum amount of disk space allowed to keep for cache
    #[arg(long, value_name = "bytes")]
    max_used_space: Option<String>,
    /// Target amount of free disk space after pruning
    #[arg(long, value_name = "bytes")]
    min_free_space: Option<String>,
}

const COLUMNS: &[Column] = &[
    ("Type", "TYPE"),
    ("TotalCount", "TOTAL"),
    ("Active", "ACTIVE"),
    ("Size", "SIZE"),
    ("Reclaimable", "RECLAIMABLE"),
];
const TABLE: &str = "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}";

/// Shows what takes room.
pub async fn show(api: &Api, args: &UsageArgs) -> Result<()> {
    let found = api.get("/system/df", &Query::new()).await?;
    if args.verbose {
        return match args.format.as_deref().filter(|f| !f.is_empty() && *f != "table") {
            None => verbose(&found),
            Some("json") => say!("{}", document(&found)),
            Some(format) => super::output::one(&document(&found), format),
        };
    }
    let list = |name: &str| found[name].as_array().cloned().unwrap_or_default();
    let number = |v: &Value| v.as_i64().unwrap_or(0);
    let (images, containers, volumes) = (list("Images"), list("Containers"), list("Volumes"));
    let layers = number(&found["LayersSize"]);
    let used_images: i64 = images
        .iter()
        .filter(|i| number(&i["Containers"]) != 0)
        .map(|i| number(&i["Size"]) - number(&i["SharedSize"]))
        .sum();
    let runs = |c: &&Value| ["running", "paused", "restarting"].contains(&text(c, "State").as_str());
    let container_size: i64 = containers.iter().map(|c| number(&c["SizeRw"])).sum();
    let idle: i64 = containers.iter().filter(|c| !runs(c)).map(|c| number(&c["SizeRw"])).sum();
    let usage = |v: &Value, name: &str| number(&v["UsageData"][name]);
    let volume_size: i64 = volumes.iter().map(|v| usage(v, "Size")).sum();
    let unused: i64 = volumes.iter().filter(|v| usage(v, "RefCount") == 0).map(|v| usage(v, "Size")).sum();
    let active_images = images.iter().filter(|i| number(&i["Containers"]) > 0).count();
    let active_volumes = volumes.iter().filter(|v| usage(v, "RefCount") > 0).count();
    let mut listing = Listing::new(COLUMNS, TABLE);
    for (name, total, active, size, free) in [
        ("Images", images.len(), active_images, layers, layers - used_images),
        ("Containers", containers.len(), containers.iter().filter(runs).count(), container_size, idle),
        ("Local Volumes", volumes.len(), active_volumes, volume_size, unused),
        ("Build Cache", 0, 0, 0, 0),
    ] {
        let share = match size {
            1.. => format!("{} ({}%)", human::long_size(free), free * 100 / size),
            _ => human::long_size(free),
        };
        let cells = [name.to_owned(), total.to_string(), active.to_string(), human::long_size(size), share];
        listing.row(cells.map(Value::from).to_vec(), &Value::Null);
    }
    listing.print(false, args.format.as_deref())
}

const IMAGES: &[Column] = &[
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("CreatedSince", "CREATED"),
    ("Size", "SIZE"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("Containers", "CONTAINERS"),
];
const IMAGE_TABLE: &str = "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}";
const CONTAINER_TABLE: &str = "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}";
const VOLUME_TABLE: &str = "{{.Name}}\t{{.Links}}\t{{.Size}}";
const CACHE: &[Column] = &[
    ("ID", "CACHE ID"),
    ("CacheType", "CACHE TYPE"),
    ("Size", "SIZE"),
    ("CreatedSince", "CREATED"),
    ("LastUsedSince", "LAST USED"),
    ("UsageCount", "USAGE"),
    ("Shared", "SHARED"),
];
const CACHE_TABLE: &str =
    "{{.ID}}\t{{.CacheType}}\t{{.Size}}\t{{.CreatedSince}}\t{{.LastUsedSince}}\t{{.UsageCount}}\t{{.Shared}}";

fn image_rows(found: &Value) -> Vec<Vec<Value>> {
    let mut rows = Vec::new();
    for i in found["Images"].as_array().into_iter().flatten() {
        let number = |name: &str| i[name].as_i64().unwrap_or(0);
        let references: Vec<&str> =
            i["RepoTags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        // As Docker's client, only by the first of its names.
        let reference = references.first().copied().unwrap_or("<none>:<none>");
        let (repository, tag) = reference.rsplit_once(':').unwrap_or((reference, "<none>"));
        rows.push(vec![
            human::short_id(&text(i, "Id"), false).into(),
            repository.into(),
            tag.into(),
            format!("{} ago", human::duration(human::since_unix(number("Created")))).into(),
            human::size(number("Size")).into(),
            human::long_size(number("SharedSize")).into(),
            human::long_size(number("Size") - number("SharedSize")).into(),
            number("Containers").to_string().into(),
        ]);
    }
    rows
}

fn verbose(found: &Value) -> Result<()> {
    say!("Images space usage:\n")?;
    let mut images = Listing::new(IMAGES, IMAGE_TABLE);
    image_rows(found).into_iter().for_each(|r| images.row(r, &Value::Null));
    images.print(false, None)?;
    say!("\nContainers space usage:\n")?;
    let mut containers = Listing::new(container_list::COLUMNS, CONTAINER_TABLE);
    for c in found["Containers"].as_array().into_iter().flatten() {
        // The size of its own files alone.
        let mut own = c.clone();
        own["SizeRootFs"] = Value::Null;
        containers.row(container_list::row(&own, false), &c["Labels"]);
    }
    containers.print(false, None)?;
    say!("\nLocal Volumes space usage:\n")?;
    let mut listing = Listing::new(volumes::COLUMNS, VOLUME_TABLE);
    for v in found["Volumes"].as_array().into_iter().flatten() {
        listing.row(volumes::row(v), &v["Labels"]);
    }
    listing.print(false, None)?;
    say!("\nBuild cache usage: 0B\n")?;
    Listing::new(CACHE, CACHE_TABLE).print(false, None)
}

/// The same as one document.
fn document(found: &Value) -> Value {
    let object = |columns: &[Column], row: Vec<Value>| -> Value {
        columns.iter().map(|(name, _)| (*name).to_owned()).zip(row).collect::<serde_json::Map<_, _>>().into()
    };
    let of = |name: &str| found[name].as_array().cloned().unwrap_or_default();
    json!({
        "Images": image_rows(found).into_iter().map(|r| object(IMAGES, r)).collect::<Vec<_>>(),
        "Containers": of("Containers").iter().map(|c| object(container_list::COLUMNS, container_list::row(c, false))).collect::<Vec<_>>(),
        "Volumes": of("Volumes").iter().map(|v| object(volumes::COLUMNS, volumes::row(v))).collect::<Vec<_>>(),
        "BuildCache": [],
    })
}

/// Removes containers that do not run.
pub async fn prune_containers(api: &Api, args: &PruneArgs) -> Result<()> {
    if !prune::confirmed("WARNING! This will remove all stopped containers.", args.force)? {
        return Ok(());
    }
    let pruned = api.post("/containers/prune", &Query::new().filters(&args.filter)?, None).await?;
    prune::told("Deleted Containers:", &pruned["ContainersDeleted"], &pruned)
}

/// Removes the build cache, but for what was used last and is to be kept.
pub async fn prune_builds(api: &Api, args: &BuilderPruneArgs) -> Result<()> {
    let warning = match args.all {
        true => "WARNING! This will remove all build cache.",
        false => "WARNING! This will remove all dangling build cache.",
    };
    if !prune::confirmed(warning, args.force)? {
        return Ok(());
    }
    let mut query = Query::new().flag("all", args.all).filters(&args.filter)?;
    for (name, size) in [
        ("reserved-space", &args.reserved_space),
        ("max-used-space", &args.max_used_space),
        ("min-free-space", &args.min_free_space),
    ] {
        let Some(size) = size else { continue };
        let Some(bytes) = skep_engine::parse_size(size) else { bail!("invalid size of --{name}: '{size}'") };
        query = query.with(name, bytes.to_string());
    }
    let pruned = api.post("/build/prune", &query, None).await?;
    prune::told("Deleted build cache objects:", &pruned["CachesDeleted"], &pruned)
}

/// Removes all that nothing uses.
pub async fn prune_all(api: &Api, args: &SystemPruneArgs) -> Result<()> {
    if args.volumes && args.filter.iter().any(|f| f.starts_with("until=")) {
        bail!("ERROR: The \"until\" filter is not supported with \"--volumes\"");
    }
    let mut what = vec!["all stopped containers", "all networks not used by at least one container"];
    if args.volumes {
        what.push("all anonymous volumes not used by at least one container");
    }
    what.push(match args.all {
        true => "all images without at least one container associated to them",
        false => "all dangling images",
    });
    what.push(if args.all { "all build cache" } else { "unused build cache" });
    let mut warning = "WARNING! This will remove:\n".to_owned();
    what.iter().for_each(|w| warning += &format!("  - {w}\n"));
    if !args.filter.is_empty() {
        warning += "\n  Items to be pruned will be filtered with:\n";
        args.filter.iter().for_each(|f| warning += &format!("  - {f}\n"));
    }
    if !prune::confirmed(&warning, args.force)? {
        return Ok(());
    }
    let query = Query::new().filters(&args.filter)?;
    let mut freed = 0;
    let mut steps = vec![
        ("/containers/prune", query.clone(), "Deleted Containers:", "ContainersDeleted"),
        ("/networks/prune", query.clone(), "Deleted Networks:", "NetworksDeleted"),
    ];
    if args.volumes {
        steps.push(("/volumes/prune", query, "Deleted Volumes:", "VolumesDeleted"));
    }
    for (path, query, heading, field) in steps {
        let pruned = api.post(path, &query, None).await?;
        prune::listed(heading, &pruned[field])?;
        freed += pruned["SpaceReclaimed"].as_i64().unwrap_or(0);
    }
    freed += super::image_prune::remove(api, &args.filter, args.all).await?;
    let pruned = api.post("/build/prune", &Query::new().flag("all", args.all), None).await?;
    prune::listed("Deleted build cache objects:", &pruned["CachesDeleted"])?;
    prune::freed(freed + pruned["SpaceReclaimed"].as_i64().unwrap_or(0))
}
