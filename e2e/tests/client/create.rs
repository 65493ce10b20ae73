//! What `create` and `run` make of names that are not there, of what does not go together and of what the host has not,
//! and what becomes of containers that wait for their restart: by both clients, in Docker's words.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use skep_e2e::{Host, eventually};

use crate::compare::Compare;
use crate::{busybox, docker, lab, ok, skep};

const B: &str = "/bin/busybox";

#[test]
fn what_cannot_be_is_refused_before_it_is_made() -> Result<()> {
    let lab = lab("cr")?;
    let host = lab.host(1);
    busybox(host)?;
    ok(docker(host, &["network", "create", "--subnet", "10.97.0.0/24", "own"])?)?;
    ok(docker(host, &["create", "--name", "made", "busybox", "true"])?)?;
    let cpus = ok(docker(host, &["info", "-f", "{{.NCPU}}"])?)?;
    let cpus = cpus.trim();
    for (args, said) in [
        // Nothing of this may be taken for an image that is not there, and pulled.
        ("--network container:nope", "joining network namespace of container: No such container: nope"),
        ("--network container:made", "non running container: container made is created"),
        ("--volumes-from nope", "No such container: nope"),
        ("--pid container:nope", "No such container: nope"),
        ("--ipc container:nope", "No such container: nope"),
        ("--link nope", "could not get container for nope: No such container: nope"),
        // What this host has not.
        (
            "--cpus 1000",
            &format!("range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"),
        ),
        ("--storage-opt nope=1", "Unknown option nope"),
        ("--cpu-rt-runtime 2000 --cpu-rt-period 1000", "cpu real-time "),
        ("--cpuset-cpus 999", "Requested CPUs are not available - requested 999, available: "),
        ("--cpuset-mems 999", "Requested memory nodes are not available - requested 999, available: "),
        ("--cpuset-cpus x", "Invalid value x for cpuset cpus"),
        ("--cap-add NOPE", "invalid CapAdd: unknown capability: \"CAP_NOPE\""),
        ("--cap-drop nope", "invalid CapDrop: unknown capability: \"CAP_NOPE\""),
        ("--network host --sysctl net.x=1", "sysctl \"net.x\" not allowed in host network namespace"),
        ("-u nope", "daemon: unable to find user nope: no matching entries in passwd file"),
        ("-u 0:nope", "daemon: unable to find group nope: no matching entries in group file"),
        (
            "-v /tmp:/bin/busybox",
            "mount /bin/busybox: not a directory: Are you trying to mount a directory onto a file",
        ),
        ("-u 99999999999", "daemon: uids and gids must be in range 0-"),
        // What does not go together.
        (
            "-v /bin/busybox:/bin",
            "not a directory: Are you trying to mount a directory onto a file (or vice-versa)? Check if the specified host path exists and is the expected type",
        ),
        ("--memory 5m", "Minimum memory limit allowed is 6MB"),
        ("--memory-reservation 5m", "Minimum memory reservation allowed is 6MB"),
        ("--memory-swap 64m", "You should always set the Memory limit when using Memoryswap limit"),
        ("--cpus 0.5 --cpu-period 5000", "Nano CPUs and CPU Period cannot both be set"),
        ("--cpu-quota 10", "CPU cfs quota can not be less than 1ms (i.e. 1000)"),
        ("--blkio-weight 5", "Range of blkio weight is from 10 to 1000"),
        ("--oom-score-adj 2000", "Invalid value 2000, range for oom score adj is [-1000, 1000]"),
        (
            "--network none --ip 10.1.1.1",
            "user specified IP address is supported on user defined networks only",
        ),
        (
            "--network host --ip 10.1.1.1",
            "user specified IP address is supported on user defined networks only",
        ),
        ("--network bridge --network none", "one of the networks in private (none) mode"),
        ("--network bridge --network host", "container cannot be disconnected from host network"),
        ("--network host --network bridge", "container sharing network namespace with another container"),
    ] {
        let args: Vec<&str> = ["run", "--rm"].into_iter().chain(args.split(' ')).collect();
        for client in [docker, skep] {
            let out = client(host, &[&args[..], &["busybox", "true"]].concat())?;
            ensure!(out.code == Some(125) && out.stderr.contains(said), "{args:?}: {out:?}");
            ensure!(!out.stderr.contains("Unable to find image"), "{args:?}: {out:?}");
        }
    }
    let mut compare = Compare::new(host);
    for line in [
        "run --rm --network own --network host busybox true",
        "create --network own --network host busybox true",
        "run --rm --network own --network own busybox true",
        "create --sysctl nope=1 busybox true",
        "run --rm --sysctl kernel.nope=1 busybox true",
        "run --rm --network own --network bridge busybox true",
        "rmi busybox",
        "cp - made:/",
        "cp /etc/hostname made:/no/such",
    ] {
        compare.same(line)?;
    }
    compare.same_code("run --rm --device-read-bps /dev/nope:1mb busybox true")?;
    let code = docker(host, &["run", "--rm", "--device-read-bps", "/dev/nope:1mb", "busybox", "true"])?.code;
    ensure!(code == Some(127), "{code:?}");
    compare.alike("create --name x-@ --cap-add net_admin --cap-add NET_ADMIN --cap-drop CHOWN --cap-drop cap_net_admin --memory 64m busybox true")?;
    compare.end()?;
    for name in ["x-a", "x-b"] {
        let shown = "{{.HostConfig.CapAdd}} {{.HostConfig.CapDrop}} {{.HostConfig.MemorySwap}}";
        let shown = ok(docker(host, &["inspect", "-f", shown, name])?)?;
        ensure!(shown.trim() == "[CAP_NET_ADMIN] [CAP_CHOWN CAP_NET_ADMIN] 134217728", "{name}: {shown}");
    }
    let used = docker(host, &["rmi", "busybox"])?;
    ensure!(
        used.stderr.contains(
            "conflict: unable to remove repository reference \"busybox\" (must force) - container "
        ),
        "{used:?}"
    );
    lab.down()
}

#[test]
fn the_host_is_a_name_restarts_can_be_called_off_and_images_are_mounted() -> Result<()> {
    let lab = lab("hg")?;
    let host = lab.host(1);
    busybox(host)?;
    host_gateway(host)?;
    restarts(host)?;
    image_mounts(host)?;
    for (host_url, code) in [("unix:///no/such.sock", 125), ("tcp://127.0.0.1:1", 125)] {
        for client in [docker, skep] {
            let out = client(host, &["-H", host_url, "run", "busybox"])?;
            ensure!(out.code == Some(code) && out.stderr.contains("Cannot connect to the"), "{out:?}");
            let out = client(host, &["-H", host_url, "start", "busybox"])?;
            ensure!(out.code == Some(1), "{out:?}");
        }
    }
    lab.down()
}

/// `host-gateway` is where containers of any network reach the host, or what the daemon was told.
fn host_gateway(host: &Host) -> Result<()> {
    let gateway = ok(docker(
        host,
        &["network", "inspect", "-f", "{{range .IPAM.Config}}{{.Gateway}}{{end}}", "bridge"],
    )?)?;
    let gateway = gateway.trim();
    ok(docker(host, &["network", "create", "own"])?)?;
    let listener = "while :; do echo host | /bin/busybox nc -l -p 7070; done";
    ok(docker(
        host,
        &["run", "-d", "--name", "listener", "--network", "host", "busybox", "sh", "-c", listener],
    )?)?;
    for network in ["bridge", "own", "host"] {
        let script =
            format!("{B} grep hg /etc/hosts; until {B} nc -w 5 hg 7070 < /dev/null; do {B} sleep 0.2; done");
        for client in [docker, skep] {
            let run = ["run", "--rm", "--network", network, "--add-host", "hg:host-gateway", "busybox"];
            let said = ok(client(host, &[&run[..], &["sh", "-c", &script]].concat())?)?;
            ensure!(said == format!("{gateway}\thg\nhost\n"), "{network}: {said}");
        }
    }
    ok(docker(host, &["rm", "-f", "listener"])?)?;
    host.stop_daemon("-TERM")?;
    std::fs::write(
        host.dir.join("daemon.toml"),
        "ipv6 = true\nhost-gateway-ips = [\"10.9.9.9\", \"fd00:9::9\"]\n",
    )?;
    host.start_daemon()?;
    let run = ["run", "--rm", "--add-host", "hg=host-gateway", "busybox", B, "grep", "hg", "/etc/hosts"];
    let said = ok(docker(host, &run)?)?;
    ensure!(said == "10.9.9.9\thg\nfd00:9::9\thg\n", "{said}");
    host.stop_daemon("-TERM")?;
    std::fs::write(host.dir.join("daemon.toml"), "ipv6 = true\n")?;
    host.start_daemon()?;
    let said = ok(docker(host, &run)?)?;
    ensure!(said.lines().count() == 2 && said.starts_with(&format!("{gateway}\thg\nfd")), "{said}");
    Ok(())
}

/// A container that waits for its restart counts as running; what ends it ends the waiting.
fn restarts(host: &Host) -> Result<()> {
    let state =
        |name: &str| ok(docker(host, &["inspect", "-f", "{{.State.Status}} {{.RestartCount}}", name])?);
    // The last one is left alone.
    let names = ["w1", "w2", "w3", "w4", "on"];
    for name in names {
        ok(docker(
            host,
            &["run", "-d", "--name", name, "--restart", "always", "busybox", "sh", "-c", "exit 3"],
        )?)?;
    }
    // By then it waits for six seconds.
    eventually("a long wait", Duration::from_secs(60), || match state("w1")?.trim().split_once(' ') {
        Some(("restarting", n)) if n.parse::<u32>()? >= 6 => Ok(()),
        other => bail!("{other:?}"),
    })?;
    for (args, said) in [
        (&["pause", "w1"][..], "is restarting, wait until the container is running"),
        (&["exec", "w1", "true"], "is restarting, wait until the container is running"),
        (&["rm", "w1"], "container is restarting: stop the container before removing or force remove"),
    ] {
        let out = docker(host, args)?;
        ensure!(out.code == Some(1) && out.stderr.contains(said), "{args:?}: {out:?}");
    }
    for args in [
        &["start", "w1"][..],
        &["update", "--restart", "always", "w1"],
        &["kill", "-s", "HUP", "w1"],
        &["kill", "w2"],
        &["stop", "w3"],
        &["rm", "-f", "w4"],
    ] {
        ok(docker(host, args)?)?;
    }
    let all = || names[..3].iter().map(|name| state(name)).collect::<Result<Vec<_>>>();
    let ended = all()?;
    ensure!(ended.iter().all(|s| s.starts_with("exited")), "{ended:?}");
    // The one that began last waits on: once it has been started more often than they were, they would have been, too.
    let count =
        |state: &str| -> Result<u32> { Ok(state.trim().rsplit(' ').next().unwrap_or_default().parse()?) };
    let most = ended.iter().map(|s| count(s)).collect::<Result<Vec<_>>>()?.into_iter().max().unwrap_or(0);
    eventually("the next start of one that waits", Duration::from_secs(60), || {
        let started = count(&state("on")?)?;
        ensure!(started > most, "{started} times, and the others {most}");
        Ok(())
    })?;
    ensure!(all()? == ended, "started again: {:?}", all()?);
    let restarted = ok(docker(host, &["restart", "w1"])?)?;
    ensure!(restarted == "w1\n" && state("w1")? != ended[0], "{restarted}");
    ok(docker(host, &["rm", "-f", "on"])?)?;
    Ok(())
}

/// `--mount type=image`: what is in an image, and nothing of it goes while it is mounted.
fn image_mounts(host: &Host) -> Result<()> {
    ok(docker(host, &["run", "--name", "more", "busybox", "sh", "-c", "echo kept > /file"])?)?;
    ok(docker(host, &["commit", "more", "more:1"])?)?;
    ok(docker(host, &["rm", "more"])?)?;
    let script = format!("{B} cat /img/file; {B} ls /img/bin; : > /img/file");
    for client in [docker, skep] {
        for (mount, script, said, error) in [
            ("type=image,source=more:1,target=/img", &*script, "kept\nbusybox\nsh\ntrue\n", "Read-only"),
            (
                "type=image,src=busybox,dst=/img,image-subpath=bin",
                "/img/busybox ls /img",
                "busybox\nsh\ntrue\n",
                "",
            ),
        ] {
            let out = client(host, &["run", "--rm", "--mount", mount, "busybox", "sh", "-c", script])?;
            ensure!(out.stdout == said && out.stderr.contains(error), "{mount}: {out:?}");
        }
        for (mount, error) in [
            ("type=image,source=nope,target=/img", "No such image: nope"),
            ("type=image,source=busybox,target=/img,image-subpath=no/such", "image busybox has no no/such"),
            ("type=image,source=busybox,target=/img,image-subpath=../x", "subpath must be a relative path"),
        ] {
            let out = client(host, &["run", "--rm", "--mount", mount, "busybox", "true"])?;
            ensure!(out.code == Some(125) && out.stderr.contains(error), "{mount}: {out:?}");
            ensure!(!out.stderr.contains("Unable to find image"), "{mount}: {out:?}");
        }
    }
    let mount = "type=image,source=more:1,target=/img";
    ok(docker(host, &["run", "-d", "--name", "has", "--mount", mount, "whoami:1", "/skep", "whoami"])?)?;
    let shown = ok(docker(host, &["inspect", "-f", "{{json .Mounts}}", "has"])?)?;
    ensure!(
        shown.contains(r#""Type":"image","Name":"more:1""#) && shown.contains(r#""RW":false"#),
        "{shown}"
    );
    ok(docker(
        host,
        &["create", "--name", "too", "--volumes-from", "has", "busybox", B, "cat", "/img/file"],
    )?)?;
    // The next daemon knows of it, too.
    host.stop_daemon("-TERM")?;
    host.start_daemon()?;
    let used = docker(host, &["rmi", "more:1"])?;
    ensure!(used.code == Some(1) && used.stderr.contains("is using its referenced image"), "{used:?}");
    ok(docker(host, &["rm", "-f", "has"])?)?;
    ensure!(ok(docker(host, &["start", "-a", "too"])?)? == "kept\n", "the image is still there");
    let file = host.dir.join("copied");
    ok(docker(host, &["cp", "too:/img/file", file.to_str().unwrap_or_default()])?)?;
    ensure!(std::fs::read_to_string(&file)? == "kept\n");
    ok(docker(host, &["rm", "too"])?)?;
    ok(docker(host, &["rmi", "more:1"])?)?;
    Ok(())
}

#[test]
fn inspect_shows_what_the_image_gave_and_commit_keeps_it() -> Result<()> {
    let lab = lab("merged")?;
    let host = lab.host(1);
    busybox(host)?;
    let dockerfile = "FROM busybox\nENTRYPOINT [\"echo\"]\nCMD [\"x\"]\nUSER nobody\nWORKDIR /w\nSTOPSIGNAL INT\nVOLUME /vol\n";
    let dir = host.dir.join("merged");
    std::fs::create_dir_all(&dir)?;
    std::fs::write(dir.join("Dockerfile"), dockerfile)?;
    let context = dir.display().to_string();
    let mut build = host.docker_command();
    build.env("DOCKER_BUILDKIT", "0").args(["build", "-q", "-t", "full", &context]);
    ensure!(build.output()?.status.success(), "the image is built");
    let shown = |name: &str| {
        let format = "{{json .Config.Entrypoint}} {{json .Config.Cmd}} {{.Config.User}} {{.Config.WorkingDir}} {{.Config.StopSignal}} {{json .Config.Volumes}}";
        host.docker(&["inspect", "-f", format, name]).map(|out| out.trim().to_owned())
    };
    for (name, args, entrypoint, cmd) in [
        ("plain", &["full"][..], r#"["echo"]"#, r#"["x"]"#),
        ("cmd", &["full", "y"], r#"["echo"]"#, r#"["y"]"#),
        ("entry", &["--entrypoint", "cat", "full"], r#"["cat"]"#, "null"),
        ("none", &["--entrypoint", "", "full", "echo", "z"], "null", r#"["echo","z"]"#),
    ] {
        host.docker(&[&["create", "--name", name], args].concat())?;
        let rest = r#"nobody /w INT {"/vol":{}}"#;
        ensure!(shown(name)? == format!("{entrypoint} {cmd} {rest}"), "{name}: {}", shown(name)?);
        // What is made of it runs the same.
        host.docker(&["commit", name, &format!("of-{name}")])?;
        host.docker(&["create", "--name", &format!("again-{name}"), &format!("of-{name}")])
            .with_context(|| name.to_owned())?;
        ensure!(
            shown(&format!("again-{name}"))? == shown(name)?,
            "{name}: {}",
            shown(&format!("again-{name}"))?
        );
    }
    host.docker(&[
        "create",
        "--name",
        "own",
        "-u",
        "0",
        "-w",
        "/",
        "--stop-signal",
        "TERM",
        "-v",
        "/more",
        "full",
    ])?;
    ensure!(shown("own")? == r#"["echo"] ["x"] 0 / TERM {"/more":{},"/vol":{}}"#, "{}", shown("own")?);
    let hidden = "{{json .HostConfig.MaskedPaths}} {{json .HostConfig.ReadonlyPaths}}";
    ensure!(
        host.docker(&["inspect", "-f", hidden, "own"])?.contains("/proc/kcore"),
        "what is hidden is told"
    );
    host.docker(&["create", "--name", "priv", "--privileged", "full"])?;
    ensure!(host.docker(&["inspect", "-f", hidden, "priv"])?.trim() == "null null", "nothing is hidden");
    lab.down()
}
