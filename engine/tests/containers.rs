//! Containers through the public handle, on the real kernel.

#[path = "containers/networked.rs"]
mod networked;
mod support;

use std::time::{Duration, Instant};

use futures::StreamExt;
use serde_json::json;
use skep_engine::{
    AttachOptions, AttachSpan, ContainerConfig, ContainerState, Engine, Error, LogConfig, LogOptions,
    NetworkMode, RestartPolicy, StdStream, WaitCondition,
};
use support::{Fixture, Outcome, docker_archive};
use tokio::io::AsyncWriteExt;

fn run(cmd: &[&str]) -> ContainerConfig {
    ContainerConfig {
        image: "bb:1".into(),
        cmd: Some(cmd.iter().map(|s| (*s).to_owned()).collect()),
        ..Default::default()
    }
}

fn sh(script: &str) -> ContainerConfig {
    run(&["sh", "-c", script])
}

/// Runs to its end; the exit code and what it wrote.
async fn finish(engine: &Engine, config: ContainerConfig) -> Result<(i32, String), Error> {
    let id = engine.create(None, config).await?;
    let exit = engine.wait(id.as_str(), WaitCondition::NextExit)?;
    engine.start(id.as_str()).await?;
    let code = exit.await?.code;
    let text =
        text(engine, id.as_str(), LogOptions { stdout: true, stderr: true, ..Default::default() }).await?;
    engine.remove(id.as_str(), false).await?;
    Ok((code, text))
}

async fn text(engine: &Engine, id: &str, o: LogOptions) -> Result<String, Error> {
    let mut frames = engine.logs(id, o).await?;
    let mut out = String::new();
    while let Some(frame) = frames.next().await {
        out.push_str(&String::from_utf8_lossy(&frame?.data));
    }
    Ok(out)
}

fn both() -> LogOptions {
    LogOptions { stdout: true, stderr: true, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_what_it_was_asked_with_its_surroundings() -> Outcome {
    let f = Fixture::new().await?;
    let e = &f.engine;
    assert_eq!(finish(e, sh("exit 7")).await?.0, 7);
    let config = ContainerConfig {
        hostname: Some("box".into()),
        env: vec!["B=2".into()],
        working_dir: Some("/tmp".into()),
        user: Some("user".into()),
        extra_hosts: vec!["other:10.1.2.3".into()],
        ..sh("hostname; echo $A$B; pwd; id -u; cat /etc/hosts /etc/hostname; touch /tmp/x && echo wrote")
    };
    let (code, out) = finish(e, config).await?;
    assert_eq!(code, 0, "{out}");
    for part in ["box\n12\n/tmp\n1000\n", "10.1.2.3\tother", "wrote\n"] {
        assert!(out.contains(part), "{out:?} lacks {part:?}");
    }
    assert_eq!(finish(e, sh("sh -c 'kill -9 $$'; exit $?")).await?.0, 137);
    assert!(e.list().is_empty());
    assert_eq!(std::fs::read_dir(f.dir().join("data/containers"))?.count(), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_what_cannot_be_and_says_so() -> Outcome {
    let f = Fixture::new().await?;
    let e = &f.engine;
    let id = e.create(Some("web".into()), run(&["true"])).await?;
    let conflict =
        e.create(Some("/web".into()), run(&["true"])).await.err().ok_or("taken twice")?.to_string();
    assert!(
        conflict.contains(&format!("The container name \"/web\" is already in use by container \"{id}\"")),
        "{conflict}"
    );
    let bind = skep_engine::MountConfig::new(skep_engine::MountKind::bind("/no/such"), "/x", false);
    for (config, words) in [
        (ContainerConfig { image: "none".into(), ..Default::default() }, "No such image"),
        (ContainerConfig { cmd: Some(vec![]), ..run(&[]) }, "no command"),
        (
            ContainerConfig {
                log: LogConfig { driver: "splunk".into(), ..Default::default() },
                ..run(&["true"])
            },
            "no log driver named 'splunk' is registered",
        ),
        (ContainerConfig { stop_signal: Some("SIGWHAT".into()), ..run(&["true"]) }, "SIGWHAT"),
        (ContainerConfig { mounts: vec![bind], ..run(&["true"]) }, "does not exist: /no/such"),
        (ContainerConfig { working_dir: Some("tmp".into()), ..run(&["true"]) }, "absolute"),
        (ContainerConfig { extra_hosts: vec!["x".into()], ..run(&["true"]) }, "add-host"),
    ] {
        let error = e.create(None, config).await.err().ok_or(words)?.to_string();
        assert!(error.contains(words), "{error:?} lacks {words:?}");
    }
    assert_eq!(e.list().len(), 1, "what was refused leaves nothing");
    let missing = e.create(None, run(&["/no/such/program"])).await?;
    let error = e.start(missing.as_str()).await.err().ok_or("started nothing")?;
    assert!(matches!(&error, Error::StartFailed { code: 127, .. }), "{error}");
    assert_eq!(e.inspect(missing.as_str())?.exit_code, Some(127));
    assert!(matches!(e.stop("web", None).await, Err(Error::NotRunning { .. })));
    assert!(matches!(e.start("nope").await, Err(Error::NoSuchContainer { .. })));
    let joined = e
        .create(None, ContainerConfig { network: NetworkMode::Container("web".into()), ..run(&["true"]) })
        .await?;
    assert!(e.start(joined.as_str()).await.err().ok_or("joined")?.to_string().contains("non running"));
    e.rename("web", "site").await?;
    assert_eq!(e.inspect(&id.as_str()[..10])?.name, "site");
    e.create(Some("web".into()), run(&["true"])).await?;
    assert!(matches!(e.rename("web", "site").await, Err(Error::NameInUse { .. })));
    assert!(
        e.images().remove("bb:1", false).await.err().ok_or("removed")?.to_string().contains("(must force)")
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_stops_kills_and_removes() -> Outcome {
    let f = Fixture::new().await?;
    let e = &f.engine;
    let id =
        e.create(Some("ww".into()), sh("trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done")).await?;
    assert_eq!(e.wait("ww", WaitCondition::NotRunning)?.await?.code, 0, "a created container does not run");
    let next = e.wait("ww", WaitCondition::NextExit)?;
    let gone = e.wait("ww", WaitCondition::Removed)?;
    e.start("ww").await?;
    assert!(matches!(e.start("ww").await, Err(Error::AlreadyStarted { .. })));
    assert!(e.remove("ww", false).await.err().ok_or("removed")?.to_string().contains("container is running"));
    let mut log = e.logs("ww", LogOptions { follow: true, ..both() }).await?;
    assert_eq!(log.next().await.ok_or("no log")??.data, "up\n");
    e.stop("ww", None).await?;
    assert_eq!(next.await?.code, 5);
    assert!(log.next().await.is_none(), "following ends with the container");
    assert_eq!(e.inspect("ww")?.state, ContainerState::Exited);
    e.start("ww").await?;
    e.kill("ww", "KILL").await?;
    assert_eq!(e.wait(id.as_str(), WaitCondition::NotRunning)?.await?.code, 137);
    e.start("ww").await?;
    e.remove("ww", true).await?;
    assert_eq!(gone.await?.code, 137);
    assert!(matches!(e.inspect("ww"), Err(Error::NoSuchContainer { .. })));

    let stubborn = e.create(None, sh("trap '' TERM; echo up; while :; do sleep 0.05; done")).await?;
    e.start(stubborn.as_str()).await?;
    e.stop(stubborn.as_str(), Some(Duration::from_millis(200))).await?;
    assert_eq!(e.inspect(stubborn.as_str())?.exit_code, Some(137));

    let own = e.create(None, ContainerConfig { auto_remove: true, ..sh("exit 3") }).await?;
    let removed = e.wait(own.as_str(), WaitCondition::Removed)?;
    e.start(own.as_str()).await?;
    assert_eq!(removed.await?.code, 3);
    assert!(e.inspect(own.as_str()).is_err());

    // Over a restart it stays, and goes with the next end, however early that comes.
    for _ in 0..20 {
        let script = "test -e /once && exit 4; touch /once; echo up; while :; do sleep 0.05; done";
        let own = e.create(None, ContainerConfig { auto_remove: true, ..sh(script) }).await?;
        let stdout = AttachOptions { stdout: true, ..AttachOptions::default() };
        let mut attached = e.attach(own.as_str(), stdout).await?;
        e.start(own.as_str()).await?;
        assert!(attached.output.next().await.is_some(), "it says that it is up");
        let removed = e.wait(own.as_str(), WaitCondition::Removed)?;
        let restarting = e.restarting(own.as_str()).await?;
        e.stop(own.as_str(), Some(Duration::ZERO)).await?;
        e.start(own.as_str()).await?;
        restarting.done();
        assert_eq!(removed.await?.code, 4);
    }
    // One that was stopped for a restart that never came to its start.
    let own = e.create(None, ContainerConfig { auto_remove: true, ..run(&["sleep", "1000"]) }).await?;
    e.start(own.as_str()).await?;
    let removed = e.wait(own.as_str(), WaitCondition::Removed)?;
    let restarting = e.restarting(own.as_str()).await?;
    e.stop(own.as_str(), Some(Duration::ZERO)).await?;
    assert!(e.inspect(own.as_str()).is_ok());
    drop(restarting);
    removed.await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn attaches_before_the_start_and_misses_nothing() -> Outcome {
    let f = Fixture::new().await?;
    let e = &f.engine;
    let config =
        ContainerConfig { open_stdin: true, stdin_once: true, ..sh("echo first; cat; echo last >&2") };
    let id = e.create(None, config).await?;
    let all = AttachOptions { stdin: true, stdout: true, stderr: true, ..AttachOptions::default() };
    let mut attached = e.attach(id.as_str(), all).await?;
    let mut input = attached.input.take().ok_or("no input")?;
    input.write_all(b"typed\n").await?;
    input.shutdown().await?;
    let exit = e.wait(id.as_str(), WaitCondition::NextExit)?;
    e.start(id.as_str()).await?;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some(frame) = attached.output.next().await {
        let frame = frame?;
        if frame.stream == StdStream::Stderr { &mut err } else { &mut out }.extend_from_slice(&frame.data);
    }
    assert_eq!(exit.await?.code, 0);
    assert_eq!((out.as_slice(), err.as_slice()), (&b"first\ntyped\n"[..], &b"last\n"[..]));

    let quiet = e.create(None, run(&["true"])).await?;
    let attached = e.attach(quiet.as_str(), AttachOptions { stdout: true, ..Default::default() }).await?;
    e.remove(quiet.as_str(), false).await?;
    assert_eq!(attached.output.count().await, 0, "removal ends what waited for a start");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn attaches_with_the_log_and_has_each_piece_once() -> Outcome {
    let f = Fixture::new().await?;
    let e = &f.engine;
    let script = "printf begun; read go; echo; seq 1 60000; cat";
    let id = e.create(None, ContainerConfig { open_stdin: true, ..sh(script) }).await?;
    let live = AttachOptions { stdin: true, stdout: true, ..AttachOptions::default() };
    let mut first = e.attach(id.as_str(), live).await?;
    e.start(id.as_str()).await?;
    let begun = first.output.next().await.ok_or("it ended")??;
    assert_eq!(begun.data, "begun");

    // One meets an unfinished line, the others a log that grows; nobody reads, so the container is held back.
    let all = AttachOptions { stdout: true, span: AttachSpan::All, ..AttachOptions::default() };
    let mut outputs = vec![e.attach(id.as_str(), all).await?.output];
    let mut input = first.input.take().ok_or("no input")?;
    input.write_all(b"go\n").await?;
    for _ in 0..5 {
        outputs.push(e.attach(id.as_str(), all).await?.output);
    }
    let wanted: String =
        std::iter::once("begun\n".to_owned()).chain((1..=60000).map(|n| format!("{n}\n"))).collect();
    outputs.push(first.output);
    let wanted_len = wanted.len();
    let last = outputs.len() - 1;
    let read = outputs.into_iter().enumerate().map(|(i, mut output)| async move {
        let mut got = if i == last { b"begun".to_vec() } else { Vec::new() };
        while got.len() < wanted_len {
            got.extend_from_slice(&output.next().await.ok_or("it ended")??.data);
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(String::from_utf8_lossy(&got).into_owned())
    });
    for (i, got) in futures::future::try_join_all(read).await?.into_iter().enumerate() {
        let differs = got.bytes().zip(wanted.bytes()).position(|(a, b)| a != b);
        assert_eq!((got.len(), differs), (wanted.len(), None), "reader {i}");
    }

    // The log alone ends by itself.
    let logged = AttachOptions { stdout: true, span: AttachSpan::Logged, ..AttachOptions::default() };
    let mut output = e.attach(id.as_str(), logged).await?.output;
    let mut got = 0;
    while let Some(frame) = output.next().await {
        got += frame?.data.len();
    }
    assert_eq!(got, wanted.len());
    drop(input);
    e.remove(id.as_str(), true).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_by_policy_until_stopped() -> Outcome {
    let f = Fixture::new().await?;
    let e = &f.engine;
    let mut events = e.events();
    let config = ContainerConfig { restart: RestartPolicy::OnFailure(2), ..sh("exit 4") };
    let id = e.create(None, config).await?;
    e.start(id.as_str()).await?;
    let done = e.wait(id.as_str(), WaitCondition::NotRunning)?;
    assert_eq!(done.await?.code, 4);
    assert_eq!(e.inspect(id.as_str())?.restart_count, 2);
    let mut starts = 0;
    while let Ok(event) = events.try_recv() {
        starts += usize::from(event.action == "start");
    }
    assert_eq!(starts, 3);

    let always =
        e.create(None, ContainerConfig { restart: RestartPolicy::Always, ..run(&["false"]) }).await?;
    let first = e.wait(always.as_str(), WaitCondition::NextExit)?;
    e.start(always.as_str()).await?;
    first.await?;
    e.stop(always.as_str(), Some(Duration::from_secs(1))).await?;
    e.wait(always.as_str(), WaitCondition::NotRunning)?.await?;
    assert_eq!(e.inspect(always.as_str())?.state, ContainerState::Exited);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_rotated_damaged_and_growing_logs() -> Outcome {
    let f = Fixture::new().await?;
    let e = &f.engine;
    let log = LogConfig::from_options("json-file", [("max-size", "20000"), ("max-file", "100")])?;
    let id = e.create(Some("ll".into()), ContainerConfig { log, ..run(&["seq", "1", "2000"]) }).await?;
    let exit = e.wait("ll", WaitCondition::NextExit)?;
    e.start("ll").await?;
    let followed = text(e, "ll", LogOptions { follow: true, ..both() }).await?;
    exit.await?;
    let wanted: String = (1..=2000).map(|n| format!("{n}\n")).collect();
    assert!(
        std::path::PathBuf::from(format!("{}.1", e.inspect("ll")?.log_path.display())).exists(),
        "it was rotated"
    );
    assert_eq!(text(e, "ll", both()).await?, wanted);
    assert_eq!(followed, wanted);
    for (tail, wanted) in
        [(0, String::new()), (1, "2000\n".into()), (700, (1301..=2000).map(|n| format!("{n}\n")).collect())]
    {
        assert_eq!(text(e, "ll", LogOptions { tail: Some(tail), ..both() }).await?, wanted, "tail {tail}");
    }
    assert_eq!(text(e, "ll", LogOptions { since_ns: Some(i64::MAX), ..both() }).await?, "");
    assert_eq!(text(e, "ll", LogOptions { until_ns: Some(1), ..both() }).await?, "");
    assert_eq!(text(e, "ll", LogOptions { stderr: true, ..Default::default() }).await?, "");
    assert!(e.logs("ll", LogOptions::default()).await.is_err());

    // One byte flipped, and the last line cut short.
    let path = e.inspect("ll")?.log_path.clone();
    let mut bytes = std::fs::read(&path)?;
    bytes[0] = b'#';
    bytes.truncate(bytes.len() - 5);
    std::fs::write(&path, &bytes)?;
    let frames: Vec<_> = e.logs(id.as_str(), both()).await?.collect().await;
    let damaged = frames.iter().filter(|r| matches!(r, Err(Error::DamagedLog { .. }))).count();
    assert_eq!((frames.len(), damaged), (2000, 2));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_daemon_takes_up_running_containers_and_finds_exits() -> Outcome {
    let mut f = Fixture::new().await?;
    let going = f
        .engine
        .create(
            Some("going".into()),
            sh("echo one; while ! test -e /tmp/go; do sleep 0.05; done; echo two; exit 9"),
        )
        .await?;
    let ends = f
        .engine
        .create(Some("ends".into()), sh("while ! test -e /tmp/go; do sleep 0.05; done; echo done; exit 6"))
        .await?;
    let idle = f.engine.create(Some("idle".into()), run(&["true"])).await?;
    for id in [&going, &ends] {
        f.engine.start(id.as_str()).await?;
    }
    let pid = f.engine.inspect("going")?.pid;
    let upper = |id: &skep_engine::ContainerId| f.dir().join("data/containers").join(id.as_str());
    let (go_upper, end_upper) = (upper(&going), upper(&ends));
    f.crash().await?;
    // While no daemon runs, one of them ends.
    let exec = f.dir().join("exec/containers").join(ends.as_str()).join("exit.json");
    std::fs::write(root_of(&f, "ends", &end_upper)?.join("tmp/go"), b"")?;
    let deadline = Instant::now() + Duration::from_secs(60);
    while !exec.exists() {
        assert!(Instant::now() < deadline, "the container never ends");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    f.reopen().await?;
    let e = &f.engine;
    let c = e.inspect("going")?;
    assert_eq!((c.state, c.pid), (ContainerState::Running, pid));
    assert_eq!(e.wait("ends", WaitCondition::NotRunning)?.await?.code, 6);
    assert_eq!(text(e, "ends", both()).await?, "done\n");
    assert_eq!(e.inspect(idle.as_str())?.state, ContainerState::Created);
    let exit = e.wait("going", WaitCondition::NextExit)?;
    std::fs::write(root_of(&f, "going", &go_upper)?.join("tmp/go"), b"")?;
    assert_eq!(exit.await?.code, 9);
    assert_eq!(text(e, "going", both()).await?, "one\ntwo\n");
    for name in ["going", "ends", "idle"] {
        e.remove(name, false).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_removes_itself_is_removed_after_its_host_was_restarted() -> Outcome {
    let mut f = Fixture::new().await?;
    let itself = ContainerConfig { auto_remove: true, ..run(&["sleep", "1000"]) };
    f.engine.create(Some("itself".into()), itself).await?;
    f.engine.start("itself").await?;
    // Written down with what was waiting to be.
    f.engine.create(Some("stays".into()), run(&["true"])).await?;
    f.crash().await?;
    support::end_containers(f.dir());
    std::fs::remove_dir_all(f.dir().join("exec"))?;
    f.reopen().await?;
    let mut events = f.engine.events();
    let gone = async {
        while f.engine.inspect("itself").is_ok() {
            events.recv().await?;
        }
        Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), gone).await;
    waited.map_err(|_| format!("it stays: {:?}", f.engine.inspect("itself")))??;
    f.engine.remove("stays", false).await?;
    Ok(())
}

/// What is on the disk at this moment is what a power cut leaves.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_is_not_undone_by_a_power_cut() -> Outcome {
    let f = Fixture::new().await?;
    let policy =
        |name: &str, restart| (Some(name.to_owned()), ContainerConfig { restart, ..run(&["sleep", "1000"]) });
    let policies = [
        ("always", RestartPolicy::Always),
        ("unless", RestartPolicy::UnlessStopped),
        ("failure", RestartPolicy::OnFailure(0)),
        ("none", RestartPolicy::No),
    ];
    for (name, restart) in &policies {
        let (name, config) = policy(name, restart.clone());
        f.engine.create(name, config).await?;
    }
    // One that was stopped, and is started again.
    f.engine.start("unless").await?;
    f.engine.stop("unless", Some(Duration::ZERO)).await?;
    for (name, restart) in &policies {
        f.engine.start(name).await?;
        let after = f.dir().join(format!("after-{name}"));
        std::fs::create_dir(&after)?;
        let copied =
            std::process::Command::new("cp").arg("-a").arg(f.dir().join("data")).arg(&after).status()?;
        assert!(copied.success());
        let e = support::engine(&after).await?;
        let mut events = e.events();
        let running = async {
            while e.inspect(name)?.state != ContainerState::Running {
                events.recv().await?;
            }
            Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
        };
        if *restart == RestartPolicy::No {
            let c = e.inspect(name)?;
            assert!(c.state == ContainerState::Exited && c.started_at_ns != 0, "{c:?}");
        } else {
            let waited = tokio::time::timeout(Duration::from_secs(60), running).await;
            waited.map_err(|_| format!("{name} is not started again"))??;
        }
        for c in e.list() {
            e.remove(c.id.as_str(), true).await?;
        }
        e.shutdown().await;
    }
    for (name, _) in &policies {
        f.engine.remove(name, true).await?;
    }
    Ok(())
}

/// The container's root as its own process sees it.
fn root_of(
    f: &Fixture,
    name: &str,
    _upper: &std::path::Path,
) -> Result<std::path::PathBuf, Box<dyn std::error::Error + Send + Sync>> {
    let pid = f
        .pids
        .get(name)
        .copied()
        .or(f.engine.inspect(name).ok().and_then(|c| c.pid))
        .ok_or("it does not run")?;
    Ok(format!("/proc/{pid}/root").into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declared_volume_begins_with_the_images_content() -> Outcome {
    let f = Fixture::new().await?;
    let e = &f.engine;
    let layer = support::Tar::default()
        .dir("data/", 0o755)
        .file("data/a", 0o644, b"a")
        .file("data/b", 0o644, b"b")
        .bytes();
    let over = support::Tar::default().file("data/.wh.a", 0, b"").file("data/c", 0o600, b"c").bytes();
    let archive =
        docker_archive("vol:1", &[&support::busybox(), &layer, &over], json!({"Volumes": {"/data": {}}}));
    e.images().load(archive.as_slice()).await?;
    let config = ContainerConfig { image: "vol:1".into(), auto_remove: true, ..sh("ls /data; exit 0") };
    let id = e.create(None, config).await?;
    let mut out = e.attach(id.as_str(), AttachOptions { stdout: true, ..Default::default() }).await?.output;
    let removed = e.wait(id.as_str(), WaitCondition::Removed)?;
    assert_eq!(std::fs::read_dir(f.dir().join("data/volumes"))?.count(), 1);
    e.start(id.as_str()).await?;
    let mut text = Vec::new();
    while let Some(frame) = out.next().await {
        text.extend_from_slice(&frame?.data);
    }
    assert_eq!(text, b"b\nc\n");
    removed.await?;
    assert_eq!(std::fs::read_dir(f.dir().join("data/volumes"))?.count(), 0);
    Ok(())
}
