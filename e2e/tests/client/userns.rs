//! A daemon with `--userns-remap`: what is root in a container is a subordinate ID on the host, whoever looks, and all
//! that a container is asked for still works; what cannot be had is refused in Docker's words.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use skep_e2e::{Host, Lab, LabOptions};

use crate::{busybox, docker, ok, skep};

/// Where the IDs of containers begin on the host.
const FIRST: u32 = 420_000;
const B: &str = "/bin/busybox";

fn prepared() -> Result<Lab> {
    let init = PathBuf::from(env!("CARGO_BIN_EXE_skep-lab-init"));
    let name = format!("un{}", std::process::id() % 10_000);
    let lab = Lab::bare(LabOptions { name, hosts: 1, skep: init.with_file_name("skep"), init })?;
    let host = lab.host(1);
    let ranges = host.dir.join("ranges");
    std::fs::write(&ranges, format!("other:1000:5\ndockremap:{FIRST}:65536\n"))?;
    for file in ["/etc/subuid", "/etc/subgid"] {
        host.exec(&["mount", "--bind", ranges.to_str().context("UTF-8")?, file])?;
    }
    std::fs::write(
        host.dir.join("daemon.toml"),
        "userns-remap = \"default\"\n[runtimes.runc]\npath = \"runc\"\n",
    )?;
    host.start_daemon()?;
    busybox(host)?;
    Ok(lab)
}

/// `RUN` has its caches, binds and here-documents with the owners that the Dockerfile says, and layers have those of
/// containers.
fn builds(host: &Host) -> Result<()> {
    let context = host.dir.join("context");
    std::fs::create_dir_all(&context)?;
    std::fs::write(context.join("private"), "mine")?;
    std::fs::set_permissions(context.join("private"), std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let b = "/bin/busybox";
    let text = format!(
        "FROM busybox\nSHELL [\"{b}\", \"sh\", \"-ec\"]\nCOPY private /copied\n\
         RUN --mount=type=cache,target=/root-cache --mount=type=cache,target=/own,uid=7,gid=8,mode=0700 \
         echo x >> /root-cache/f; {b} stat -c %u:%g /root-cache /root-cache/f /own\n\
         RUN --mount=type=bind,target=/ctx {b} cat /ctx/private; {b} stat -c %u:%g:%a /ctx/private /copied\n\
         RUN <<E\n{b} id -u\nE\n\
         RUN --mount=type=bind,target=/rw,rw echo y > /rw/private\n"
    );
    std::fs::write(context.join("Dockerfile"), text)?;
    for _ in 0..2 {
        let out = skep(host, &["build", "--no-cache", "-t", "remapped", context.to_str().context("UTF-8")?])?;
        let said = ok(out)?;
        for line in ["0:0\n0:0\n7:8\n", "mine0:0:600\n0:0:600\n"] {
            ensure!(said.contains(line), "{line:?}: {said}");
        }
    }
    let out = docker(host, &["run", "--rm", "remapped", b, "stat", "-c", "%u:%g", "/copied"])?;
    ensure!(ok(out)? == "0:0\n");
    Ok(())
}

#[test]
fn root_of_containers_is_a_subordinate_id_and_everything_works_with_it() -> Result<()> {
    let lab = prepared()?;
    let host = lab.host(1);
    let run = |args: &[&str]| docker(host, &[&["run", "--rm"], args].concat()).and_then(ok);
    let info = ok(docker(host, &["info", "-f", "{{.SecurityOptions}}"])?)?;
    ensure!(info.contains("name=userns"), "{info}");
    refusals(host)?;
    builds(host)?;

    let script = "b=/bin/busybox; $b id -u; $b stat -c %u:%g / /bin/sh /etc/hosts /etc/resolv.conf; echo '1.2.3.4 x' >> /etc/hosts; $b cat /proc/sys/net/ipv4/ip_forward; $b ping -c 1 -W 5 127.0.0.1 > /dev/null && echo heard";
    let out = run(&["--sysctl", "net.ipv4.ip_forward=0", "busybox", "sh", "-c", script])?;
    ensure!(out == "0\n0:0\n0:0\n0:0\n0:0\n0\nheard\n", "{out}");

    // One that others talk to by its name, on a network whose namespace is its own.
    ok(docker(host, &["network", "create", "net1"])?)?;
    let serve = "echo mine > /mine; mkdir /d; while :; do echo here | /bin/busybox nc -l -p 80; done";
    let serve = serve.replace("mkdir", "/bin/busybox mkdir");
    ok(docker(
        host,
        &[
            "run",
            "-d",
            "--name",
            "up",
            "--network",
            "net1",
            "-v",
            "data:/v",
            "-v",
            "filled:/bin",
            "-m",
            "64m",
            "busybox",
            "sh",
            "-c",
            &serve,
        ],
    )?)?;
    let pid = ok(docker(host, &["inspect", "-f", "{{.State.Pid}}", "up"])?)?;
    let owner = host.exec(&["stat", "-c", "%u:%g", &format!("/proc/{}", pid.trim())])?;
    ensure!(owner.trim() == format!("{FIRST}:{FIRST}"), "{owner}");
    let ask = format!("until {B} nc -w 5 up 80 < /dev/null | {B} grep here; do {B} sleep 0.2; done");
    ensure!(run(&["--network", "net1", "busybox", "sh", "-c", &ask])?.contains("here"), "no answer");
    // Between two answers nobody listens.
    let shared = format!(
        "until {B} nc -w 5 127.0.0.1 80 < /dev/null; do {B} sleep 0.2; done; {B} ip link set lo mtu 1400 && echo changed"
    );
    let shared =
        run(&["--network", "container:up", "--cap-add", "NET_ADMIN", "busybox", "sh", "-c", &shared])?;
    ensure!(shared == "here\nchanged\n", "{shared}");
    let seen = run(&["--pid", "container:up", "busybox", B, "cat", "/proc/1/cmdline"])?;
    ensure!(seen.contains("nc -l -p 80"), "{seen}");
    let image = "type=image,source=busybox,target=/img";
    let seen = run(&["--mount", image, "busybox", B, "stat", "-c", "%u:%g", "/img", "/img/bin/busybox"])?;
    ensure!(seen == "0:0\n0:0\n", "{seen}");

    files(host)?;
    // The next daemon takes it up as it is.
    host.stop_daemon("-KILL")?;
    host.start_daemon()?;
    for client in [docker, skep] {
        let out = ok(client(
            host,
            &["exec", "up", "sh", "-c", "/bin/busybox id -u; /bin/busybox cat /mine; echo x > /v/by-exec"],
        )?)?;
        ensure!(out == "0\nmine\n", "{out}");
    }
    copies(host, "up")?;
    ok(docker(host, &["stop", "-t", "0", "up"])?)?;
    copies(host, "up")?;
    ok(docker(host, &["start", "up"])?)?;
    let top = ok(docker(host, &["top", "up"])?)?;
    ensure!(top.contains(&FIRST.to_string()), "{top}");
    ok(docker(host, &["stats", "--no-stream", "up"])?)?;

    // An image of it is like any other.
    ok(docker(host, &["commit", "up", "made"])?)?;
    let seen = run(&["--userns", "host", "--privileged", "made", B, "stat", "-c", "%u:%g", "/mine", "/d"])?;
    ensure!(seen == "0:0\n0:0\n", "{seen}");
    let seen = run(&["made", B, "stat", "-c", "%u:%g", "/mine"])?;
    ensure!(seen == "0:0\n", "{seen}");
    let diff = ok(docker(host, &["diff", "up"])?)?;
    ensure!(diff.contains("A /mine"), "{diff}");
    ok(docker(host, &["rm", "-fv", "up"])?)?;
    ok(docker(host, &["volume", "rm", "data", "filled"])?)?;
    ok(docker(host, &["network", "rm", "net1"])?)?;
    lab.down()
}

fn refusals(host: &Host) -> Result<()> {
    for client in [docker, skep] {
        for (args, said) in [
            (
                &["--privileged"][..],
                "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when running privileged mode",
            ),
            (
                &["--network", "host"],
                "cannot share the host's network namespace when user namespaces are enabled",
            ),
            (&["--pid", "host"], "cannot share the host PID namespace when user namespaces are enabled"),
            (&["--runtime", "runc"], "user namespaces are not given to containers of another runtime yet"),
            (&["--userns", "other"], "--userns: invalid USER mode"),
            (&["--user", "70000"], "cannot set uid to unmapped user in user namespace"),
            (&["--user", "1:70000"], "cannot set gid to unmapped user in user namespace"),
        ] {
            let refused = client(host, &[&["run", "--rm"], args, &["busybox", "true"]].concat())?;
            ensure!(refused.code == Some(125) && refused.stderr.contains(said), "{args:?}: {refused:?}");
        }
        let all = [
            "run",
            "--rm",
            "--userns",
            "host",
            "--privileged",
            "--network",
            "host",
            "--pid",
            "host",
            "busybox",
        ];
        let map = ok(client(host, &[&all[..], &[B, "cat", "/proc/self/uid_map"]].concat())?)?;
        ensure!(map.split_whitespace().eq(["0", "0", "4294967295"]), "{map}");
    }
    Ok(())
}

/// Volumes are its root's on the host; what is bound is whose it was.
fn files(host: &Host) -> Result<()> {
    let place = |volume: &str| ok(docker(host, &["volume", "inspect", "-f", "{{.Mountpoint}}", volume])?);
    let (data, filled) = (place("data")?, place("filled")?);
    ok(docker(host, &["exec", "up", "sh", "-c", "echo x > /v/x; /bin/busybox chown 7:8 /v/x"])?)?;
    let owner = |path: PathBuf| -> Result<(u32, u32)> {
        let meta = path.symlink_metadata().with_context(|| path.display().to_string())?;
        Ok((meta.uid(), meta.gid()))
    };
    let root = (FIRST, FIRST);
    ensure!(owner(data.trim().into())? == root, "the volume's root");
    ensure!(owner(PathBuf::from(data.trim()).join("x"))? == (FIRST + 7, FIRST + 8), "a file of it");
    ensure!(owner(PathBuf::from(filled.trim()).join("busybox"))? == root, "what it began with");
    let secret = host.dir.join("secret");
    std::fs::write(&secret, "of the host's root")?;
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let bind = format!("{}:/secret", secret.display());
    let out = docker(host, &["run", "--rm", "-v", &bind, "busybox", B, "cat", "/secret"])?;
    ensure!(out.code == Some(1) && out.stderr.contains("Permission denied"), "{out:?}");
    let out =
        ok(docker(host, &["run", "--rm", "--userns", "host", "-v", &bind, "busybox", B, "cat", "/secret"])?)?;
    ensure!(out == "of the host's root", "{out}");
    Ok(())
}

/// Owners in archives are the container's.
fn copies(host: &Host, name: &str) -> Result<()> {
    let tar = host.dir.join("in.tar");
    let mut builder = tar::Builder::new(std::fs::File::create(&tar)?);
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    header.set_mode(0o644);
    header.set_uid(11);
    header.set_gid(12);
    builder.append_data(&mut header, "new/given", &b"given"[..])?;
    builder.into_inner()?.sync_all()?;
    for to in ["/", "/v"] {
        let mut command = host.docker_command();
        let copied = command
            .args(["cp", "-a", "-", &format!("{name}:{to}")])
            .stdin(std::fs::File::open(&tar)?)
            .output()?;
        ensure!(copied.status.success(), "{to}: {copied:?}");
        let out = host.docker_command().args(["cp", &format!("{name}:{to}/new"), "-"]).output()?;
        ensure!(out.status.success(), "{to}: {out:?}");
        let mut archive = tar::Archive::new(&out.stdout[..]);
        let mut owners = Vec::new();
        for entry in archive.entries()? {
            let entry = entry?;
            owners.push((entry.path()?.display().to_string(), entry.header().uid()?, entry.header().gid()?));
        }
        owners.sort();
        let wanted = [("new/".to_owned(), 0, 0), ("new/given".to_owned(), 11, 12)];
        ensure!(owners.iter().map(|(p, u, g)| (p.clone(), *u, *g)).eq(wanted.clone()), "{to}: {owners:?}");
    }
    let out = host.docker_command().args(["export", name]).output()?;
    let mut archive = tar::Archive::new(&out.stdout[..]);
    for entry in archive.entries()? {
        let entry = entry?;
        ensure!(entry.header().uid()? < 65536, "{:?}", entry.path()?);
    }
    Ok(())
}
