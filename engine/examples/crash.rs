//! The daemon that `tests/crash.rs` kills: `crash work DIR SEED` opens an engine and does one random thing after
//! another, telling each before and after; `crash look DIR` opens it again, tells all there is, and ends.

#[path = "../tests/support/registry.rs"]
mod registry;
#[path = "../tests/support/mod.rs"]
mod support;

use std::path::Path;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use skep_engine::{
    Commit, ContainerConfig, CopyIn, Engine, MountConfig, MountKind, NewVolume, PullRequest, Reference,
};
use support::{Tar, busybox, docker_archive};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().collect();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "work", dir, seed] => work(Path::new(dir), seed.parse()?).await,
        [_, "look", dir] => look(Path::new(dir)).await,
        _ => Err("usage: crash work DIR SEED | crash look DIR".into()),
    }
}

/// What the image of that number has in `/f`.
fn content(number: u64) -> Vec<u8> {
    let mut random = StdRng::seed_from_u64(number);
    (0..20_000).map(|_| random.random::<u8>()).collect()
}

fn config(image: &str, seed: u64, random: &mut StdRng) -> ContainerConfig {
    let volume = |name: String, at: &str| MountConfig::new(MountKind::volume(name), at, false);
    ContainerConfig {
        image: image.into(),
        cmd: Some(["sh", "-c", "echo up; exec sleep 1000"].map(String::from).into()),
        stop_timeout: Some(std::time::Duration::ZERO),
        mounts: vec![
            volume(String::new(), "/etc"),
            volume(format!("shared{seed}-{}", random.random_range(0..2)), "/d"),
        ],
        ..ContainerConfig::default()
    }
}

async fn work(dir: &Path, seed: u64) -> Outcome<()> {
    let mut random = StdRng::seed_from_u64(seed);
    let e = support::engine(dir).await?;
    if e.images().resolve("bb:1").is_err() {
        e.images().load(docker_archive("bb:1", &[&busybox()], serde_json::json!({})).as_slice()).await?;
    }
    let from = registry::serve(content)?;
    println!("ready");
    for number in seed * 1000.. {
        // A failure is an answer too: what is not there any more cannot be used.
        if let Err(error) = step(&e, (seed, number), &from, &mut random).await {
            tracing::debug!(%error, "a step was refused");
        }
    }
    Ok(())
}

async fn step(e: &Engine, (seed, number): (u64, u64), registry: &str, random: &mut StdRng) -> Outcome<()> {
    let images: Vec<String> = e.images().list().into_iter().flat_map(|i| i.references).collect();
    let other: Vec<&String> = images.iter().filter(|i| *i != "bb:1").collect();
    let containers: Vec<String> = e.list().iter().map(|c| c.name.clone()).collect();
    let image = images.choose(random).cloned().unwrap_or_default();
    let container = containers.choose(random).cloned().unwrap_or_default();
    let step = match random.random_range(0..100) {
        0..9 => format!("+image img:{number}"),
        9..18 => format!("+image {registry}/pulled:{number}"),
        18..35 => format!("+container c{number} {image}"),
        35..50 => format!("start {container}"),
        50..58 => format!("+image made:{number} {container}"),
        58..73 => format!("-container {container}"),
        73..81 => format!("+volume v{number}"),
        81..88 => format!("-image {}", other.choose(random).map_or("", |i| i.as_str())),
        88..92 => "prune volumes".to_owned(),
        92..96 => "prune images".to_owned(),
        _ => "prune containers".to_owned(),
    };
    println!("doing {step}");
    match step.split(' ').collect::<Vec<_>>()[..] {
        ["+image", name] if name.contains("/pulled:") => {
            let (reference, credentials) = (Reference::parse(name)?, Default::default());
            e.images().pull(PullRequest { reference, platform: None, credentials }, &|_| {}).await?;
        }
        ["+image", name] => {
            let layer = Tar::default().dir("d/", 0o755).file("f", 0o644, &content(number)).bytes();
            let archive = docker_archive(name, &[&busybox(), &layer], serde_json::json!({}));
            drop(e.images().load(archive.as_slice()).await?);
        }
        ["+image", name, from] => {
            let made = Tar::default().file("made", 0o644, name.as_bytes()).bytes();
            e.copy_in(from, "/", CopyIn::default(), made.as_slice()).await?;
            e.commit(from, Commit { reference: Some(name.into()), ..Commit::default() }).await?;
        }
        ["+container", name, image] => {
            e.create(Some(name.into()), config(image, seed, random)).await?;
        }
        ["+volume", name] => {
            e.volumes().create(NewVolume { name: name.into(), ..NewVolume::default() }).await?;
        }
        ["start", name] => e.start(name).await?,
        ["-container", name] => e.remove_with(name, true, true).await?,
        ["-image", name] => drop(e.images().remove(name, false).await?),
        ["prune", "volumes"] => drop(e.volumes().prune(|v| v.is_anonymous()).await?),
        ["prune", "images"] => drop(e.images().prune(false, |_| true).await?),
        ["prune", _] => drop(e.prune(|_| true).await?),
        _ => {}
    }
    println!("did {step}");
    Ok(())
}

async fn look(dir: &Path) -> Outcome<()> {
    let e = support::engine(dir).await?;
    for image in e.images().list() {
        let chains: Vec<&str> = image.chain_ids.iter().map(|c| c.trim_start_matches("sha256:")).collect();
        // A pull that was cut off before its last step has made an image and not named it yet.
        let unnamed = || vec![format!("unnamed-{}", image.id)];
        let names = if image.references.is_empty() { unnamed() } else { image.references };
        for name in names {
            println!("image {name} {} {}", image.id.trim_start_matches("sha256:"), chains.join(","));
        }
    }
    for c in e.list() {
        println!("container {} {} {:?} {}", c.name, c.id, c.state, c.image_id.trim_start_matches("sha256:"));
        for volume in c.config.mounts.iter().filter_map(MountConfig::volume) {
            e.volumes().get(volume)?;
        }
        // It can be used: what it consists of is there.
        e.stat_path(c.id.as_str(), "/bin/busybox").await?;
    }
    for v in e.volumes().list() {
        println!("volume {}", v.name);
    }
    // A container of each kind of image still runs.
    let ids: Vec<String> = e.images().list().into_iter().rev().take(2).map(|i| i.id).collect();
    for image in ids {
        let cmd = Some(["test", "-x", "/bin/busybox"].map(String::from).into());
        let id = e.create(None, ContainerConfig { image, cmd, ..ContainerConfig::default() }).await?;
        let exit = e.wait(id.as_str(), skep_engine::WaitCondition::NextExit)?;
        e.start(id.as_str()).await?;
        let code = exit.await?.code;
        e.remove(id.as_str(), true).await?;
        if code != 0 {
            return Err(format!("a container of an image that is there ended with {code}").into());
        }
    }
    e.shutdown().await;
    println!("all told");
    Ok(())
}
