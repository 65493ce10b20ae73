//! What containers do, use and may: `pause`, `top`, `stats`, `update`, health, namespaces and devices that
//! are shared, on the real kernel.

mod support;

use std::time::Duration;

use skep_engine::{
    ContainerConfig, ContainerState, DeviceConfig, Engine, Error, HealthConfig, HealthStatus, IpcMode,
    PidMode, ResourceLimits, RestartPolicy, WaitCondition,
};
use support::{Fixture, Outcome};

fn sh(script: &str) -> ContainerConfig {
    ContainerConfig {
        image: "bb:1".into(),
        cmd: Some(["sh", "-c", script].map(String::from).into()),
        stop_timeout: Some(Duration::ZERO),
        ..ContainerConfig::default()
    }
}

async fn started(engine: &Engine, name: &str, config: ContainerConfig) -> Result<String, Error> {
    let id = engine.create(Some(name.into()), config).await?.0;
    engine.start(&id).await?;
    Ok(id)
}

/// Runs to its end; the exit code and what it wrote.
async fn finish(engine: &Engine, config: ContainerConfig) -> Result<(i32, String), Error> {
    use futures::StreamExt;
    let id = engine.create(None, config).await?;
    let exit = engine.wait(id.as_str(), WaitCondition::NextExit)?;
    engine.start(id.as_str()).await?;
    let code = exit.await?.code;
    let options = skep_engine::LogOptions { stdout: true, stderr: true, ..Default::default() };
    let mut log = engine.logs(id.as_str(), options).await?;
    let mut text = String::new();
    while let Some(line) = log.next().await {
        text.push_str(&String::from_utf8_lossy(&line?.data));
    }
    engine.remove(id.as_str(), false).await?;
    Ok((code, text))
}

/// A look at a container once the host's processors together, idle or not, have had so much more time.
async fn later(engine: &Engine, id: &str, millis: u64) -> Result<skep_engine::Stats, Error> {
    let until = engine.stats(id).await?.system_cpu_ns + millis * 1_000_000;
    loop {
        let now = engine.stats(id).await?;
        if now.system_cpu_ns >= until {
            return Ok(now);
        }
    }
}

const IDLE: &str = "while :; do sleep 1000; done";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_paused_stands_still_and_can_be_ended() -> Outcome {
    let mut f = Fixture::new().await?;
    let id = started(&f.engine, "busy", sh("while :; do :; done")).await?;
    f.engine.pause(&id).await?;
    assert_eq!(f.engine.inspect(&id)?.state, ContainerState::Paused);
    let used = async |engine: &Engine| engine.stats(&id).await.map(|s| s.usage.cpu.total_ns);
    let before = used(&f.engine).await?;
    assert_eq!(later(&f.engine, &id, 400).await?.usage.cpu.total_ns, before, "it went on");
    for (refused, words) in [
        (f.engine.pause(&id).await, "is already paused"),
        (f.engine.start(&id).await, "cannot start a paused container"),
    ] {
        let error = refused.err().ok_or(words)?;
        assert!(matches!(&error, Error::Conflict(text) if text.contains(words)), "{error}");
    }
    let exec = skep_engine::ExecConfig { argv: vec!["true".into()], ..Default::default() };
    assert!(f.engine.exec_create(&id, exec).is_err());
    // A new daemon finds it as it is.
    f.crash().await?;
    f.reopen().await?;
    assert_eq!(f.engine.inspect(&id)?.state, ContainerState::Paused);
    f.engine.unpause(&id).await?;
    assert_eq!(f.engine.inspect(&id)?.state, ContainerState::Running);
    while used(&f.engine).await? <= before {}
    assert!(f.engine.unpause(&id).await.is_err());
    f.engine.pause(&id).await?;
    f.engine.stop(&id, Some(Duration::ZERO)).await?;
    assert_eq!(f.engine.inspect(&id)?.exit_code, Some(137));
    f.engine.start(&id).await?;
    f.engine.pause(&id).await?;
    f.engine.remove(&id, true).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_and_what_they_use_are_told() -> Outcome {
    let f = Fixture::new().await?;
    let e = &f.engine;
    let mut config = sh("sleep 1000 & cat /bin/busybox >/dev/null; while :; do :; done");
    config.resources.memory = Some(64 << 20);
    let id = started(e, "busy", config).await?;
    let rows = loop {
        let top = e.top(&id, "-o pid,ppid,user,args").await?;
        assert_eq!(top.titles, ["PID", "PPID", "USER", "COMMAND"]);
        if top.processes.iter().any(|p| p[3] == "sleep 1000") {
            break top.processes;
        }
    };
    let pid = e.inspect(&id)?.pid.ok_or("runs")?.to_string();
    assert!(rows.iter().any(|p| p[0] == pid && p[2] == "root" && p[3].starts_with("sh -c")), "{rows:?}");
    assert!(rows.iter().any(|p| p[1] == pid && p[3] == "sleep 1000"), "{rows:?}");
    assert_eq!(e.top(&id, "").await?.titles[..3], ["UID", "PID", "PPID"]);
    assert!(matches!(e.top(&id, "--forest").await, Err(Error::Invalid(_))));
    let first = e.stats(&id).await?;
    let second = later(e, &id, 600).await?;
    let used = second.usage.cpu.total_ns - first.usage.cpu.total_ns;
    let passed = second.system_cpu_ns - first.system_cpu_ns;
    assert!(used > 0 && passed > 0 && used <= passed + 100_000_000, "{used} of {passed}");
    assert!(second.usage.memory.usage > 0 && second.usage.memory.limit == Some(64 << 20), "{second:?}");
    assert!(second.usage.pids >= 2 && second.online_cpus > 0, "{second:?}");
    e.stop(&id, None).await?;
    assert_eq!(e.stats(&id).await?.read_ns, 0);
    assert!(matches!(e.top(&id, "").await, Err(Error::NotRunning { .. })));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_and_restart_policy_change_while_it_runs_and_stay_changed() -> Outcome {
    let mut f = Fixture::new().await?;
    let mut config = sh(IDLE);
    config.resources = ResourceLimits { memory: Some(64 << 20), ..ResourceLimits::default() };
    let id = started(&f.engine, "limited", config).await?;
    let cgroup = |controller: &str, v1: &str, v2: &str| {
        let parent = f.cgroup_parent();
        let v1 = format!("/sys/fs/cgroup/{controller}/{parent}/{id}/{v1}");
        let text = std::fs::read_to_string(v1)
            .or_else(|_| std::fs::read_to_string(format!("/sys/fs/cgroup/{parent}/{id}/{v2}")));
        text.unwrap_or_default().trim().to_owned()
    };
    let change = ResourceLimits {
        memory: Some(96 << 20),
        pids: Some(33),
        cpuset_cpus: Some("0".into()),
        cpu_shares: Some(512),
        ..ResourceLimits::default()
    };
    f.engine.update(&id, change, Some(RestartPolicy::Always)).await?;
    assert_eq!(cgroup("memory", "memory.limit_in_bytes", "memory.max"), (96 << 20).to_string());
    assert_eq!(cgroup("pids", "pids.max", "pids.max"), "33");
    assert_eq!(cgroup("cpuset", "cpuset.cpus", "cpuset.cpus"), "0");
    let pid = f.engine.inspect(&id)?.pid.ok_or("runs")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    assert!(status.lines().any(|l| l.starts_with("Cpus_allowed_list:") && l.ends_with("\t0")), "{status}");
    let free = ResourceLimits { pids: Some(-1), ..ResourceLimits::default() };
    f.engine.update(&id, free, None).await?;
    assert_eq!(cgroup("pids", "pids.max", "pids.max"), "max");
    let too_much = ResourceLimits { memory: Some(1 << 30), ..ResourceLimits::default() };
    let error = f.engine.update(&id, too_much, None).await.err().ok_or("above the swap")?;
    assert!(error.to_string().contains("already set memoryswap limit"), "{error}");
    f.crash().await?;
    f.reopen().await?;
    let c = f.engine.inspect(&id)?;
    assert_eq!((c.config.resources.memory, c.config.resources.cpu_shares), (Some(96 << 20), Some(512)));
    assert_eq!(c.config.restart, RestartPolicy::Always);
    f.engine.remove(&id, true).await?;
    Ok(())
}

fn every(ms: u64, test: &str) -> Option<HealthConfig> {
    Some(HealthConfig {
        test: vec!["CMD-SHELL".into(), test.into()],
        interval: Duration::from_millis(ms),
        retries: 2,
        ..HealthConfig::default()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_checked_told_and_kept() -> Outcome {
    let mut f = Fixture::new().await?;
    let health = every(50, "echo looked; test -e /tmp/well");
    let id = started(&f.engine, "patient", ContainerConfig { health, ..sh(IDLE) }).await?;
    let status = |engine: &Engine| Ok::<_, Error>(engine.inspect(&id)?.health.clone().unwrap_or_default());
    assert_eq!(status(&f.engine)?.status, HealthStatus::Starting);
    let known = f.engine.wait_for_health(&id, |s| s != HealthStatus::Starting)?;
    assert_eq!(known.await, Some(HealthStatus::Unhealthy));
    let found = status(&f.engine)?;
    assert!(found.failing_streak >= 2 && found.log.len() >= 2, "{found:?}");
    let last = found.log.last().ok_or("a result")?;
    assert_eq!((last.exit_code, last.output.as_str()), (1, "looked\n"));
    assert!(last.end_ns > last.start_ns);
    let mut events = f.engine.events();
    let exec = skep_engine::ExecConfig {
        argv: ["touch", "/tmp/well"].map(String::from).into(),
        ..Default::default()
    };
    let exec = f.engine.exec_create(&id, exec)?;
    f.engine.exec_start(&exec, None, false).await?;
    while events.recv().await?.action != "health_status: healthy" {}
    f.crash().await?;
    f.reopen().await?;
    assert_eq!(status(&f.engine)?.status, HealthStatus::Healthy, "known after the restart");
    let mut events = f.engine.events();
    while !events.recv().await?.action.starts_with("exec_die") {}
    f.engine.remove(&id, true).await?;

    // A check that hangs is ended and counts.
    let mut health = every(10, "echo begun; sleep 1000").ok_or("checks")?;
    health.timeout = Duration::from_millis(200);
    let id = started(&f.engine, "slow", ContainerConfig { health: Some(health), ..sh(IDLE) }).await?;
    let known = f.engine.wait_for_health(&id, |s| s == HealthStatus::Unhealthy)?;
    assert_eq!(known.await, Some(HealthStatus::Unhealthy));
    let c = f.engine.inspect(&id)?;
    let last = c.health.as_ref().and_then(|h| h.log.last()).ok_or("a result")?;
    assert_eq!(last.exit_code, -1);
    assert_eq!(last.output, "Health check exceeded timeout (200ms): begun\n");
    let gone = f.engine.wait_for_health(&id, |_| false)?;
    f.engine.remove(&id, true).await?;
    assert_eq!(gone.await, None);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_can_be_shared_and_nothing_is_left_running() -> Outcome {
    let f = Fixture::new().await?;
    let e = &f.engine;
    let host = |name: &str| std::fs::read_link(format!("/proc/self/ns/{name}"));
    let of = |pid: u32, name: &str| std::fs::read_link(format!("/proc/{pid}/ns/{name}"));
    let donor = ContainerConfig { ipc_mode: Some(IpcMode::Shareable), ..sh(IDLE) };
    let donor = started(e, "donor", donor).await?;
    let pid = e.inspect(&donor)?.pid.ok_or("runs")?;
    let joined = ContainerConfig {
        ipc_mode: Some(IpcMode::Container("donor".into())),
        pid_mode: PidMode::Container("donor".into()),
        ..sh("echo shared >/dev/shm/x; kill -0 1; while :; do sleep 1000; done")
    };
    let guest = started(e, "guest", joined).await?;
    let inside = e.inspect(&guest)?.pid.ok_or("runs")?;
    for name in ["pid", "ipc"] {
        assert_eq!(of(inside, name)?, of(pid, name)?, "{name}");
    }
    assert_ne!(of(inside, "mnt")?, of(pid, "mnt")?);
    let shared = format!("/proc/{pid}/root/dev/shm/x");
    while std::fs::read_to_string(&shared).unwrap_or_default() != "shared\n" {
        tokio::task::yield_now().await;
    }
    e.remove(&guest, true).await?;
    // With the donor's first process goes its PID namespace, and with it the guest.
    let refused = ContainerConfig { ipc_mode: Some(IpcMode::Container("plain".into())), ..sh("true") };
    started(e, "plain", sh(IDLE)).await?;
    let refused = e.create(None, refused).await?;
    let error = e.start(refused.as_str()).await.err().ok_or("not shareable")?;
    assert!(error.to_string().contains("non-shareable IPC"), "{error}");
    e.remove(&donor, true).await?;

    let all = ContainerConfig {
        pid_mode: PidMode::Host,
        ipc_mode: Some(IpcMode::Host),
        host_uts: true,
        host_cgroupns: Some(true),
        ..sh("sleep 1000 & sleep 2000")
    };
    let id = started(e, "open", all).await?;
    let pid = e.inspect(&id)?.pid.ok_or("runs")?;
    for name in ["pid", "ipc", "uts", "cgroup"] {
        assert_eq!(of(pid, name)?, host(name)?, "{name}");
    }
    let pids = loop {
        let top = e.top(&id, "").await?.processes;
        if top.len() == 2 {
            break top;
        }
    };
    let exec = skep_engine::ExecConfig { argv: vec!["sleep".into(), "3000".into()], ..Default::default() };
    let exec = e.exec_create(&id, exec)?;
    e.exec_start(&exec, None, false).await?;
    let also = e.exec_inspect(&exec)?.pid;
    e.kill(&id, "KILL").await?;
    for pid in pids.iter().map(|p| p[1].clone()).chain([also.to_string()]) {
        // The host's init may take its time to wait for what it has inherited.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(") Z "), "{pid} is left: {stat}");
    }
    assert_eq!(e.exec_inspect(&exec)?.exit_code, Some(137));
    let none =
        ContainerConfig { ipc_mode: Some(IpcMode::None), ..sh("test ! -d /dev/shm || ! touch /dev/shm/x") };
    assert_eq!(finish(e, none).await?.0, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_rules_and_paths_are_as_asked() -> Outcome {
    let f = Fixture::new().await?;
    let e = &f.engine;
    let device = |access: &str| {
        vec![DeviceConfig { host: "/dev/null".into(), inside: "/dev/hole".into(), access: access.to_owned() }]
    };
    let config =
        ContainerConfig { devices: device("rwm"), ..sh("echo x >/dev/hole && stat -c %t:%T /dev/hole") };
    assert_eq!(finish(e, config).await?, (0, "1:3\n".into()));
    // /dev/loop-control (10:237) is denied unless a rule says otherwise; the node can be made in any case.
    let make = "busybox mknod /tmp/d c 10 237 && cat </tmp/d 2>&1 | head -c 0; cat /tmp/d; exit 0";
    let denied = finish(e, sh(make)).await?.1;
    assert!(denied.contains("Operation not permitted"), "{denied}");
    let allowed = ContainerConfig { device_rules: vec!["c 10:237 rwm".into()], ..sh(make) };
    assert!(!finish(e, allowed).await?.1.contains("Operation not permitted"));
    for (config, words) in [
        (
            ContainerConfig { device_rules: vec!["x 1:1 r".into()], ..sh("true") },
            "invalid device cgroup rule",
        ),
        (
            ContainerConfig { host_uts: true, hostname: Some("x".into()), ..sh("true") },
            "hostname and the UTS mode",
        ),
        (ContainerConfig { cgroup_parent: Some("../x".into()), ..sh("true") }, "is not a cgroup path"),
    ] {
        let error = e.create(None, config).await.err().ok_or(words)?.to_string();
        assert!(error.contains(words), "{error:?} lacks {words:?}");
    }
    let gone = ContainerConfig {
        devices: vec![DeviceConfig { host: "/dev/nope".into(), inside: "/dev/x".into(), access: "r".into() }],
        ..sh("true")
    };
    let gone = e.create(None, gone).await?;
    let error = e.start(gone.as_str()).await.err().ok_or("no such device")?.to_string();
    assert!(
        error.contains("error gathering device information") && error.contains("no such file"),
        "{error}"
    );
    let look = "cat /proc/keys >/dev/null 2>&1 && test -s /proc/keys; echo $?; test -w /proc/sys/kernel/hostname; echo $?";
    let bare = ContainerConfig {
        masked_paths: Some(vec![]),
        readonly_paths: Some(vec!["/tmp".into()]),
        ..sh("touch /tmp/x 2>&1; grep -c . /proc/interrupts")
    };
    let (_, out) = finish(e, bare).await?;
    assert!(out.contains("Read-only file system") && !out.contains("\n0\n"), "{out}");
    let (_, out) = finish(e, sh(look)).await?;
    assert_eq!(out.lines().next(), Some("1"), "masked as a rule: {out}");
    Ok(())
}
