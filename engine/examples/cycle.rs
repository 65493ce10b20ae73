//! Measures create, start, wait and remove of `busybox true`: `cycle [rounds]`; give it `examples/shim` beside it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use skep_engine::{ContainerConfig, Engine, EngineOptions, ImportRequest, NoNetworks, WaitCondition};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn root_file_system() -> Outcome<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_path_with_name("/bin/busybox", "bin/busybox")?;
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    link.set_mode(0o777);
    tar.append_link(&mut link, "bin/true", "busybox")?;
    Ok(tar.into_inner()?)
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let rounds: usize = std::env::args().nth(1).map_or(Ok(50), |n| n.parse())?;
    let dir = tempfile::tempdir()?;
    let helper_exe = std::env::current_exe()?.with_file_name("shim");
    let engine = Engine::open(EngineOptions {
        data_root: dir.path().join("data"),
        exec_root: dir.path().join("exec"),
        instance: format!("cycle{}", std::process::id()),
        cgroup_parent: None,
        helper_exe,
        default_log: Default::default(),
        runtimes: Default::default(),
        cdi_spec_dirs: Vec::new(),
        defaults: Default::default(),
        real_time: (0, 0),
        userns: None,
        networking: Arc::new(NoNetworks),
    })
    .await?;
    let bb = ImportRequest { reference: Some("bb".into()), ..Default::default() };
    engine.images().import(root_file_system()?.as_slice(), bb).await?;
    let mut times: [Vec<Duration>; 5] = Default::default();
    for _ in 0..rounds {
        let config =
            ContainerConfig { image: "bb".into(), cmd: Some(vec!["/bin/true".into()]), ..Default::default() };
        let began = Instant::now();
        let id = engine.create(None, config).await?;
        let created = Instant::now();
        let exit = engine.wait(id.as_str(), WaitCondition::NextExit)?;
        engine.start(id.as_str()).await?;
        let started = Instant::now();
        exit.await?;
        let ended = Instant::now();
        engine.remove(id.as_str(), false).await?;
        let removed = Instant::now();
        for (list, (from, to)) in times.iter_mut().zip([
            (began, created),
            (created, started),
            (started, ended),
            (ended, removed),
            (began, removed),
        ]) {
            list.push(to - from);
        }
    }
    for (name, list) in ["create", "start", "wait", "remove", "whole"].iter().zip(&mut times) {
        list.sort();
        println!(
            "{name:>7}: median {:6.2} ms, p95 {:6.2} ms",
            ms(list[rounds / 2]),
            ms(list[rounds * 95 / 100])
        );
    }
    engine.shutdown().await;
    Ok(())
}

fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1000.0
}
