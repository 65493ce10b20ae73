//! Creation, start, exit codes, limits, and life without a daemon.

use skep_engine::shim::{ExecSpec, Shim, ShimSpec};

use crate::fixture::{Bundle, ended};

#[tokio::test]
async fn exit_codes_are_reported() {
    for (script, code) in [("exit 0", 0), ("exit 3", 3), ("kill -9 $$; sleep 9", 137)] {
        let mut bundle = Bundle::script(script);
        // PID 1 cannot kill itself; under the reaper the command can.
        bundle.spec.init = code == 137;
        assert_eq!(bundle.run().await.code, code, "{script}");
    }
}

#[tokio::test]
async fn commands_that_cannot_run_are_named() {
    let cases = [
        ("nonesuch", 127, "exec: \"nonesuch\": executable file not found in $PATH"),
        ("", 127, "exec: \"\": executable file not found in $PATH"),
        ("/bin/nonesuch", 127, "exec: \"/bin/nonesuch\": stat /bin/nonesuch: no such file or directory"),
        ("/bin/data", 126, "exec: \"/bin/data\": permission denied"),
        ("/bin", 126, "exec: \"/bin\": is a directory: permission denied"),
    ];
    for (command, code, text) in cases {
        let error = Bundle::new(&[command]).launch().await.expect_err("refused");
        assert_eq!((error.exit_code(), error.to_string().as_str()), (code, text));
    }
}

#[tokio::test]
async fn a_kill_ends_a_container_started_or_not() {
    for start in [true, false] {
        let bundle = Bundle::new(&["sleep", "1000"]);
        let shim = bundle.launch().await.expect("created");
        if start {
            shim.start().await.expect("started");
        }
        shim.signal(libc::SIGKILL).await.expect("signalled");
        assert_eq!(shim.wait().await.expect("ended").code, 137);
    }
}

#[tokio::test]
async fn a_new_daemon_adopts_what_an_old_one_left() {
    let mut bundle = Bundle::script("echo before; read word; echo \"after $word\"; exit 7");
    bundle.spec.open_stdin = true;
    // The first daemon's handle is dropped, as by a crash: nothing of it is needed.
    drop(bundle.launch().await.expect("created"));
    let shim = Shim::connect(&bundle.path("bundle")).await.expect("reached").expect("still there");
    shim.start().await.expect("started");
    let mut stdio = shim.attach(true, false, false, false).await.expect("attached");
    drop(shim);
    let again = Shim::connect(&bundle.path("bundle")).await.expect("reached").expect("still there");
    tokio::io::AsyncWriteExt::write_all(&mut stdio.input, b"word\n").await.expect("written");
    assert_eq!(again.wait().await.expect("ended").code, 7);
    let late = Shim::connect(&bundle.path("bundle")).await.expect("reached").expect("left an exit status");
    assert_eq!(late.wait().await.expect("recorded").code, 7);
    let text: String = bundle.log().into_iter().map(|(_, t)| t).collect();
    assert_eq!(text, "before\nafter word\n");
}

#[tokio::test]
async fn a_killed_shim_takes_its_container_along() {
    let bundle = Bundle::new(&["sleep", "1000"]);
    let shim = bundle.launch().await.expect("created");
    shim.start().await.expect("started");
    let pids = std::fs::read_to_string(bundle.path("bundle/pids")).expect("process IDs");
    let pid: i32 = pids.split_whitespace().next().and_then(|p| p.parse().ok()).expect("the shim's");
    // SAFETY: plain integers.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    assert!(shim.wait().await.is_err(), "nobody knows how it ended");
    while std::path::Path::new(&format!("/proc/{}", shim.pid())).exists() {
        tokio::task::yield_now().await;
    }
    assert!(Shim::connect(&bundle.path("bundle")).await.expect("looked").is_none());
    Shim::sweep(&bundle.path("bundle")).await.expect("swept");
}

#[tokio::test]
async fn limits_hold() {
    let mut hungry = Bundle::script("exec dd if=/dev/zero of=/dev/null bs=200M count=1");
    hungry.spec.resources.memory = Some(32 << 20);
    hungry.spec.resources.memory_swap = Some(32 << 20);
    let exit = hungry.run().await;
    assert_eq!((exit.code, exit.oom_killed), (137, true));

    let mut forking = Bundle::script("for i in 1 2 3 4 5 6 7 8; do sleep 5 & done; wait");
    forking.spec.resources.pids = Some(4);
    let (code, text) = forking.output().await;
    assert!(code != 0 && text.contains("fork"), "{code} {text}");

    let mut open = Bundle::script("ulimit -n");
    open.spec.ulimits = vec![nofile(100, 200)];
    assert_eq!(open.output().await, (0, "100\n".into()));
}

fn nofile(soft: i64, hard: i64) -> skep_engine::UlimitConfig {
    skep_engine::UlimitConfig { name: "nofile".into(), soft, hard }
}

/// What sets a container up has descriptors of its own, and takes none of those that its command may have.
#[tokio::test]
async fn few_files_may_be_open() {
    let plain = |_: &mut ShimSpec| {};
    let ways: [(&str, fn(&mut ShimSpec)); 6] = [
        ("plain", plain),
        ("a terminal", |spec| spec.tty = true),
        ("a reaper", |spec| spec.init = true),
        ("a user", |spec| spec.user = "web".into()),
        ("privileged", |spec| spec.privileged = true),
        ("no privileges", |spec| spec.no_new_privileges = true),
    ];
    for (way, change) in ways {
        for (soft, hard) in [(1, 1), (3, 3), (4, 15), (16, 31), (31, 4096)] {
            // A word of the shell's own, which opens nothing.
            let waits = ["sh", "-c", "read word; exit 5"];
            let mut b = Bundle::new(&waits);
            b.spec.ulimits = vec![nofile(soft, hard)];
            b.spec.open_stdin = true;
            change(&mut b.spec);
            let shim = b.launch().await.expect("created");
            let pid = shim.start().await.unwrap_or_else(|e| panic!("{way}, {soft}:{hard}: {e}"));
            let exec = ExecSpec {
                id: "e".into(),
                argv: waits.map(str::to_owned).into(),
                user: b.spec.user.clone(),
                open_stdin: true,
                ..ExecSpec::default()
            };
            let command =
                shim.exec(&exec).await.unwrap_or_else(|e| panic!("exec, {way}, {soft}:{hard}: {e}"));
            for pid in [pid, command.pid] {
                let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("runs");
                let line = limits.lines().find(|l| l.starts_with("Max open files")).expect("a limit");
                let shown: Vec<&str> = line.split_whitespace().skip(3).take(2).collect();
                assert_eq!(shown, [soft.to_string(), hard.to_string()], "{way}");
            }
            assert_eq!(ended(command).await, 5, "exec, {way}");
            let mut stdio = shim.attach(true, false, false, false).await.expect("attached");
            tokio::io::AsyncWriteExt::write_all(&mut stdio.input, b"word\n").await.expect("written");
            assert_eq!(shim.wait().await.expect("ended").code, 5, "{way}");
        }
    }
}

#[tokio::test]
async fn the_cgroup_is_gone_afterwards() {
    let bundle = Bundle::new(&["true"]);
    assert_eq!(bundle.run().await.code, 0);
    let top = std::path::Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(top).expect("cgroups").flatten().map(|h| h.path());
    assert!(!hierarchies.chain([top.to_owned()]).any(|h| h.join(&bundle.spec.cgroup).exists()));
}
