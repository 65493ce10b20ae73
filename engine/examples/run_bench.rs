//! Measures create + start + wait of busybox `true` against raw `runc run` of the same root, in one
//! run, and the memory of a shim. Needs root, busybox-static and runc; build the example `shim` first.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use skep_engine::shim::{Rootfs, Shim, ShimSpec};

const RUNS: usize = 40;

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(measure())
}

async fn measure() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let lower = directory.path().join("lower");
    std::fs::create_dir_all(lower.join("bin"))?;
    std::fs::copy("/bin/busybox", lower.join("bin/busybox"))
        .context("busybox is missing: install busybox-static")?;
    std::os::unix::fs::symlink("busybox", lower.join("bin/true"))?;
    std::os::unix::fs::symlink("busybox", lower.join("bin/sleep"))?;
    let helper = std::env::current_exe()?.with_file_name("shim");

    let (mut whole, mut create) = (Vec::new(), Vec::new());
    for i in 0..RUNS {
        let place = directory.path().join(format!("c{i}"));
        let began = Instant::now();
        let shim = launch(&helper, &place, &lower, &["true"]).await?;
        create.push(began.elapsed());
        shim.start().await?;
        let exit = shim.wait().await?;
        std::fs::remove_dir_all(&place)?;
        whole.push(began.elapsed());
        anyhow::ensure!(exit.code == 0, "exit code {}", exit.code);
    }
    let mut peer = Vec::new();
    let bundle = runc_bundle(directory.path(), &lower)?;
    for i in 0..RUNS {
        let began = Instant::now();
        let status = Command::new("runc")
            .arg("run")
            .arg("-b")
            .arg(&bundle)
            .arg(format!("skep-bench-{}-{i}", std::process::id()))
            .status()?;
        peer.push(began.elapsed());
        anyhow::ensure!(status.success(), "runc: {status}");
    }
    let (ours, theirs) = (median(whole), median(peer));
    println!(
        "create {:.1} ms; create+start+wait+remove {ours:.1} ms; runc run {theirs:.1} ms; ratio {:.2}",
        median(create),
        ours / theirs
    );

    let place = directory.path().join("idle");
    let shim = launch(&helper, &place, &lower, &["sleep", "1000"]).await?;
    shim.start().await?;
    let pids = std::fs::read_to_string(place.join("pids"))?;
    let pid = pids.split(' ').next().unwrap_or_default();
    let memory = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    for line in memory.lines().filter(|l| ["Rss:", "Pss:", "Private_Dirty:"].iter().any(|k| l.starts_with(k)))
    {
        println!("idle shim {line}");
    }
    shim.signal(libc::SIGKILL).await?;
    shim.wait().await?;
    Ok(())
}

async fn launch(helper: &Path, place: &Path, lower: &Path, argv: &[&str]) -> Result<Shim> {
    for name in ["upper", "work"] {
        std::fs::create_dir_all(place.join(name))?;
    }
    let id = place.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let spec = ShimSpec {
        cgroup: format!("skep-bench-{}/{id}", std::process::id()),
        rootfs: Rootfs::Overlay {
            lowers: vec![lower.to_owned()],
            upper: place.join("upper"),
            work: place.join("work"),
            volatile: false,
        },
        argv: argv.iter().map(|a| (*a).to_owned()).collect(),
        log_path: place.join("json.log"),
        hostname: "bench".into(),
        id,
        ..ShimSpec::default()
    };
    Ok(Shim::launch(helper, place, &spec).await?)
}

fn runc_bundle(directory: &Path, lower: &Path) -> Result<PathBuf> {
    let bundle = directory.join("runc");
    std::fs::create_dir_all(&bundle)?;
    anyhow::ensure!(Command::new("runc").arg("spec").arg("-b").arg(&bundle).status()?.success(), "runc spec");
    let path = bundle.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = serde_json::json!(["true"]);
    config["root"]["path"] = lower.to_string_lossy().into_owned().into();
    config["root"]["readonly"] = false.into();
    std::fs::write(&path, serde_json::to_vec(&config)?)?;
    Ok(bundle)
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e3
}
