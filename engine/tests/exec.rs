//! Further commands in containers that run, on the real kernel.

mod support;

use futures::StreamExt;
use skep_engine::{
    Attached, ContainerConfig, Engine, Error, ExecConfig, LogOptions, StdStream, WaitCondition,
};
use support::{Fixture, Outcome};
use tokio::io::AsyncWriteExt;

/// A container that waits to be killed; its ID.
async fn idle(engine: &Engine, config: ContainerConfig) -> Result<String, Error> {
    let config = ContainerConfig {
        image: "bb:1".into(),
        cmd: Some(["sh", "-c", "echo up; while :; do sleep 1000; done"].map(String::from).into()),
        stop_timeout: Some(std::time::Duration::ZERO),
        ..config
    };
    let id = engine.create(None, config).await?.0;
    engine.start(&id).await?;
    Ok(id)
}

fn sh(script: &str) -> ExecConfig {
    ExecConfig {
        argv: ["sh", "-c", script].map(String::from).into(),
        stdout: true,
        stderr: true,
        ..ExecConfig::default()
    }
}

/// Reads to the end: stdout and stderr.
async fn read(attached: Attached) -> Result<(String, String), Error> {
    let mut output = attached.output;
    let (mut out, mut err) = (String::new(), String::new());
    while let Some(frame) = output.next().await {
        let frame = frame?;
        let to = if frame.stream == StdStream::Stderr { &mut err } else { &mut out };
        to.push_str(&String::from_utf8_lossy(&frame.data));
    }
    Ok((out, err))
}

/// Runs to its end: exit code, stdout, stderr.
async fn run(engine: &Engine, id: &str, config: ExecConfig) -> Result<(i32, String, String), Error> {
    let exec = engine.exec_create(id, config)?;
    let (out, err) = read(engine.exec_start(&exec, None, true).await?).await?;
    let info = engine.exec_inspect(&exec)?;
    assert!(!info.running && info.pid > 0, "who has read to the end finds it ended: {info:?}");
    Ok((info.exit_code.unwrap_or(-1), out, err))
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_in_the_containers_surroundings_and_tells_how_it_ended() -> Outcome {
    let f = Fixture::new().await?;
    let e = &f.engine;
    let config = ContainerConfig {
        hostname: Some("box".into()),
        env: vec!["B=2".into()],
        working_dir: Some("/tmp".into()),
        ..ContainerConfig::default()
    };
    let id = idle(e, config).await?;
    let mut events = e.events();
    let (code, out, err) =
        run(e, &id, sh("hostname; echo $A$B$HOME; pwd; id -u; echo wrong >&2; exit 7")).await?;
    assert_eq!((code, out.as_str(), err.as_str()), (7, "box\n12/root\n/tmp\n0\n", "wrong\n"));
    let mut actions = Vec::new();
    while actions.len() < 3 {
        let event = events.recv().await?;
        let exec = event.attributes.get("execID").map_or(0, String::len);
        actions.push((event.action, exec, event.attributes.get("exitCode").cloned()));
    }
    let script = "sh -c hostname; echo $A$B$HOME; pwd; id -u; echo wrong >&2; exit 7";
    let expected = [
        (format!("exec_create: {script}"), 64, None),
        (format!("exec_start: {script}"), 64, None),
        ("exec_die".to_owned(), 64, Some("7".to_owned())),
    ];
    assert_eq!(actions, expected);
    let other = ExecConfig {
        env: vec!["B=3".into(), "A".into(), "C=4".into()],
        working_dir: "/etc".into(),
        user: "user".into(),
        ..sh("echo $A$B$C$HOME; pwd; id -u; id -g; touch /etc/x || echo kept out")
    };
    let (code, out, _) = run(e, &id, other).await?;
    assert_eq!((code, out.as_str()), (0, "34/home/user\n/etc\n1000\n1000\nkept out\n"));
    assert_eq!(run(e, &id, sh("kill -9 $$")).await?.0, 137);
    // It is seen while it runs, and not in the container's log.
    let exec = e.exec_create(&id, ExecConfig { stdin: true, ..sh("echo begun; read x; echo $x") })?;
    assert_eq!(e.exec_ids(&id), std::slice::from_ref(&exec));
    let mut attached = e.exec_start(&exec, None, true).await?;
    assert!(e.exec_inspect(&exec)?.running);
    let again = e.exec_start(&exec, None, true).await.err().ok_or("started twice")?;
    assert!(again.to_string().ends_with("is already running"), "{again}");
    let mut input = attached.input.take().ok_or("input")?;
    input.write_all(b"typed\n").await?;
    input.flush().await?;
    assert_eq!(read(attached).await?.0, "begun\ntyped\n");
    assert!(e.exec_ids(&id).is_empty());
    let again = e.exec_start(&exec, None, true).await.err().ok_or("started twice")?;
    assert!(again.to_string().ends_with("has already run"), "{again}");
    let options = LogOptions { stdout: true, stderr: true, ..LogOptions::default() };
    let mut log = e.logs(&id, options).await?;
    let mut logged = String::new();
    while let Some(line) = log.next().await {
        logged.push_str(&String::from_utf8_lossy(&line?.data));
    }
    assert_eq!(logged, "up\n");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn is_confined_as_the_container_is() -> Outcome {
    let f = Fixture::new().await?;
    let e = &f.engine;
    let config = ContainerConfig {
        no_new_privileges: Some(true),
        cap_drop: vec!["CHOWN".into()],
        oom_score_adj: Some(500),
        ulimits: vec![skep_engine::UlimitConfig { name: "nofile".into(), soft: 77, hard: 99 }],
        ..ContainerConfig::default()
    };
    let id = idle(e, config).await?;
    let pid = e.inspect(&id)?.pid.ok_or("runs")?;
    let of = |pid: u32, file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}"));
    let exec = e.exec_create(&id, ExecConfig { stdin: true, ..sh("read x") })?;
    let attached = e.exec_start(&exec, None, true).await?;
    let inside = e.exec_inspect(&exec)?.pid;
    for name in ["cgroup", "oom_score_adj"] {
        assert_eq!(of(inside, name)?, of(pid, name)?, "{name}");
    }
    let kept = |status: String| {
        let wanted = ["Cap", "Seccomp:", "NoNewPrivs", "Uid", "Gid", "Groups"];
        status
            .lines()
            .filter(|l| wanted.iter().any(|w| l.starts_with(w)))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(kept(of(inside, "status")?), kept(of(pid, "status")?));
    for name in ["mnt", "ipc", "uts", "net", "pid", "cgroup"] {
        let link = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/{name}"));
        assert_eq!(link(inside)?, link(pid)?, "{name}");
    }
    assert!(of(inside, "limits")?.lines().any(|l| l.starts_with("Max open files") && l.contains("99")));
    // Nothing of the shim's is left open.
    assert_eq!(std::fs::read_dir(format!("/proc/{inside}/fd"))?.count(), 3);
    drop(attached);
    // The end of its input is its end.
    let (code, out, _) =
        run(e, &id, ExecConfig { privileged: true, ..sh("grep CapEff /proc/self/status") }).await?;
    let all = u64::from_str_radix(out.trim().rsplit('\t').next().unwrap_or_default(), 16)?;
    assert!(code == 0 && all & 1 == 1 && all & 1 << 21 != 0, "{out}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_run_is_told_with_its_exit_code() -> Outcome {
    let f = Fixture::new().await?;
    let e = &f.engine;
    let id = idle(e, ContainerConfig::default()).await?;
    const NOBODY: &str = "unable to find user nobody: no matching entries in passwd file";
    let argv = |word: &str| ExecConfig { argv: vec![word.into()], ..ExecConfig::default() };
    for (config, code, words) in [
        (argv("nope"), 127, "exec: \"nope\": executable file not found in $PATH"),
        (argv("/etc/passwd"), 126, "exec: \"/etc/passwd\": permission denied"),
        (argv("/etc"), 126, "is a directory"),
        (ExecConfig { working_dir: "/none".into(), ..argv("true") }, 127, "chdir to cwd (\"/none\")"),
        (ExecConfig { user: "nobody".into(), ..argv("true") }, 126, NOBODY),
    ] {
        let exec = e.exec_create(&id, config)?;
        let error = e.exec_start(&exec, None, true).await.err().ok_or(words)?;
        // Of who is looked up before the runtime is asked, Docker says so without its words.
        let bare = words == NOBODY;
        assert_eq!(error.to_string().starts_with("OCI runtime exec failed: exec failed: "), !bare, "{error}");
        assert!(error.to_string().contains(words), "{error} lacks {words}");
        let info = e.exec_inspect(&exec)?;
        assert_eq!((info.running, info.exit_code), (false, Some(code)), "{words}");
    }
    assert!(matches!(e.exec_create(&id, ExecConfig::default()), Err(Error::Invalid(_))));
    assert!(matches!(e.exec_create("none", argv("true")), Err(Error::NoSuchContainer { .. })));
    assert!(matches!(e.exec_inspect("none"), Err(Error::NoSuchExec { .. })));
    let late = e.exec_create(&id, argv("true"))?;
    e.stop(&id, None).await?;
    assert!(matches!(e.exec_create(&id, argv("true")), Err(Error::NotRunning { .. })));
    assert!(matches!(e.exec_start(&late, None, true).await, Err(Error::NotRunning { .. })));
    e.remove(&id, false).await?;
    assert!(matches!(e.exec_inspect(&late), Err(Error::NoSuchExec { .. })));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn has_a_terminal_of_its_own_and_takes_all_that_is_written() -> Outcome {
    let f = Fixture::new().await?;
    let e = &f.engine;
    let id = idle(e, ContainerConfig::default()).await?;
    let tty = ExecConfig { tty: true, stdin: true, ..sh("test -t 0 && stty size; read x; stty size; tty") };
    let exec = e.exec_create(&id, tty)?;
    let mut attached = e.exec_start(&exec, Some((33, 77)), true).await?;
    e.exec_resize(&exec, 44, 88).await?;
    let mut input = attached.input.take().ok_or("input")?;
    input.write_all(b"x\n").await?;
    input.flush().await?;
    let (out, _) = read(attached).await?;
    assert!(out.contains("44 88\r\n") && out.contains("/dev/pts/"), "{out:?}");
    // More than any pipe holds, both ways at once, and the end of the input.
    let exec = e.exec_create(&id, ExecConfig { stdin: true, ..sh("cat; echo end") })?;
    let mut attached = e.exec_start(&exec, None, true).await?;
    let mut input = attached.input.take().ok_or("input")?;
    let data = vec![b'x'; 1 << 20];
    let write = async {
        input.write_all(&data).await?;
        input.shutdown().await
    };
    let (wrote, out) = tokio::join!(write, read(attached));
    wrote?;
    assert_eq!(out?.0.len(), data.len() + 4);
    // Nobody listens, and it still comes to its end.
    let exec = e.exec_create(&id, sh("seq 1 100000; touch /tmp/done"))?;
    drop(e.exec_start(&exec, None, false).await?);
    let mut events = e.events();
    while e.exec_inspect(&exec)?.running {
        events.recv().await?;
    }
    assert_eq!(run(e, &id, sh("test -e /tmp/done")).await?.0, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_with_its_container_and_outlives_the_daemon() -> Outcome {
    let mut f = Fixture::new().await?;
    let id = idle(&f.engine, ContainerConfig::default()).await?;
    let long = || ExecConfig { stdin: true, ..sh("read x; exit 5") };
    let exec = f.engine.exec_create(&id, long())?;
    let attached = f.engine.exec_start(&exec, None, true).await?;
    let exited = f.engine.wait(&id, WaitCondition::NotRunning)?;
    f.engine.kill(&id, "KILL").await?;
    exited.await?;
    assert_eq!(read(attached).await?.0, "");
    assert_eq!(f.engine.exec_inspect(&exec)?.exit_code, Some(137));

    f.engine.start(&id).await?;
    let (sleeps, exits) = (sh("sleep 1000"), sh("sleep 1; exit 9"));
    let (sleeps, exits) = (f.engine.exec_create(&id, sleeps)?, f.engine.exec_create(&id, exits)?);
    for exec in [&sleeps, &exits] {
        drop(f.engine.exec_start(exec, None, false).await?);
    }
    let pid = f.engine.exec_inspect(&sleeps)?.pid;
    f.crash().await?;
    f.reopen().await?;
    let mut events = f.engine.events();
    let info = f.engine.exec_inspect(&sleeps)?;
    assert_eq!((info.running, info.pid, info.config.argv[0].as_str()), (true, pid, "sh"));
    while f.engine.exec_inspect(&exits)?.running {
        events.recv().await?;
    }
    assert_eq!(f.engine.exec_inspect(&exits)?.exit_code, Some(9));
    f.engine.remove(&id, true).await?;
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    Ok(())
}
