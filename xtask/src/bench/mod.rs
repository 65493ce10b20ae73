//! `cargo xtask bench`: every figure that Skep promises, with its peer measured in the same run.
//!
//! Ours and the peer's take turns, so that a busy machine is unfair to neither: read the ratios. A bench
//! asserts nothing; it prints the target beside the figure and writes everything into `target/bench/`.

mod build;
mod cargo;
mod container;
mod docker;
mod engine;
mod failover;
mod hosts;
mod http;
mod idle;
mod large_image;
mod peers;
mod pull;
mod push;
mod registry;
mod restart;
mod service;
mod spread;
mod table;
mod update;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use crate::packages;
use table::Row;

#[derive(Args)]
pub struct BenchArgs {
    /// What to measure; everything unless named.
    names: Vec<Bench>,
    /// Leave Docker out (its figures take most of the time).
    #[arg(long)]
    no_docker: bool,
    /// Measure this binary instead of building one.
    #[arg(long, value_name = "FILE")]
    skep: Option<PathBuf>,
    /// Turns of the container bench.
    #[arg(long, default_value_t = 40)]
    rounds: usize,
    /// Times that a leader is killed.
    #[arg(long, default_value_t = 20)]
    kills: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Bench {
    /// One container, against raw runc and `docker run --rm`.
    Container,
    /// 200 containers at once, `exec`, `logs` of 1 GB, `ps` with 1,000 containers, against Docker; names after a restart.
    Engine,
    /// An image of 300 MB from a registry, against Docker and podman.
    Pull,
    /// An image of 300 MB to a registry, against Docker and podman.
    Push,
    /// Builds of ten steps, of two branches and of a context of 50,000 files, against Docker's own builder.
    Build,
    /// 300 MB to `skep registry` and back, against Debian's docker-registry.
    Registry,
    /// A service of 100 replicas on one host, against Docker's swarm mode.
    Service,
    /// 10, 50 and 100 replicas, a rolling update, a killed task, against Docker's swarm mode; an update under load.
    Update,
    /// An image of 300 MB from one node to four others, against one plain copy.
    Spread,
    /// A killed leader, a dead host.
    Failover,
    /// An idle swarm of three managers: CPU and memory.
    Idle,
    /// TCP through the encrypted overlay, against wireguard-go.
    Overlay,
    /// Tasks placed and written to the store.
    Scheduler,
}

/// What the benches have in common.
struct Setup {
    skep: PathBuf,
    init: PathBuf,
    /// Debian's Docker, unpacked; none when it is left out.
    docker: Option<PathBuf>,
    rounds: usize,
    kills: usize,
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn interrupt(_: i32) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Fails after ctrl-C, so that laboratories are taken down on the way out.
fn go_on() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}

pub fn run(args: BenchArgs) -> Result<()> {
    // SAFETY: the handler only stores to an atomic.
    unsafe {
        nix::sys::signal::signal(
            nix::sys::signal::Signal::SIGINT,
            nix::sys::signal::SigHandler::Handler(interrupt),
        )
    }?;
    let names = match args.names.as_slice() {
        [] => Bench::value_variants(),
        some => some,
    };
    packages::install(packages::LAB)?;
    packages::install(packages::BENCH)?;
    let skep = match args.skep {
        Some(file) => std::path::absolute(file)?,
        None => {
            println!("Building skep (release; the first time takes a few minutes) ...");
            crate::build::binary("skep", "skep", true)?
        }
    };
    let setup = Setup {
        skep,
        init: crate::build::binary("skep-lab-init", "skep-e2e", false)?,
        docker: if args.no_docker { None } else { Some(peers::docker()?) },
        rounds: args.rounds.max(1),
        kills: args.kills.max(1),
    };
    let mut rows = Vec::new();
    let mut failures = Vec::new();
    for name in names {
        let before = table::load();
        println!("\n{name:?} (load {before}) ...");
        let measured = match name {
            Bench::Container => container::run(&setup),
            Bench::Engine => engine::run(&setup),
            Bench::Pull => pull::run(&setup),
            Bench::Push => push::run(&setup),
            Bench::Build => build::run(&setup),
            Bench::Registry => registry::run(&setup),
            Bench::Service => service::run(&setup),
            Bench::Update => update::run(&setup),
            Bench::Spread => spread::run(&setup),
            Bench::Failover => failover::run(&setup),
            Bench::Idle => idle::run(&setup),
            Bench::Overlay => cargo::overlay(),
            Bench::Scheduler => cargo::scheduler(),
        };
        match measured {
            Ok(measured) => {
                let load = format!("{before} to {}", table::load());
                rows.extend(measured.into_iter().map(|row| Row { load: load.clone(), ..row }));
                println!("\n{}", table::markdown(&rows));
            }
            // The others are worth measuring all the same.
            Err(e) => failures.push(format!("{name:?}: {e:#}")),
        }
        go_on()?;
    }
    let path = table::write(&rows)?;
    println!("written to {}", path.display());
    if failures.is_empty() { Ok(()) } else { bail!("not measured: {}", failures.join("; ")) }
}
