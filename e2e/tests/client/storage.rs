//! Volumes and files of containers: both clients side by side, and what comes of it on the disk.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use skep_e2e::Host;

use crate::compare::Compare;
use crate::{busybox, docker, lab, outcome};

const SH: [&str; 3] = ["busybox", "/bin/busybox", "sh"];

#[test]
fn volumes_are_made_listed_and_told_of_as_docker_does() -> Result<()> {
    let lab = lab("cv")?;
    let host = lab.host(1);
    busybox(host)?;
    host.docker(&["volume", "create", "--label", "tier=data", "data"])?;
    host.docker(&["volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m", "mem"])?;
    let run = [
        &["run", "--name", "user", "-v", "data:/data", "-v", "/anon", "-v", "/srv:/srv:ro,rprivate"][..],
        &[
            "--mount",
            "type=volume,source=mem,target=/mem,readonly",
            "--mount",
            "type=tmpfs,target=/tmp,tmpfs-size=1m",
        ],
        &["--tmpfs", "/run", "--volume-driver", "local"],
        &SH,
        &["-c", "echo kept > /data/file"],
    ]
    .concat();
    host.docker(&run)?;
    ensure!(
        host.skep(&["run", "--rm", "--volumes-from", "user:ro", SH[0], SH[1], "cat", "/data/file"])?
            == "kept\n"
    );
    let mut compare = Compare::new(host);
    for line in [
        "volume ls",
        "volume list",
        "volume ls -q",
        "volume ls --format json",
        "volume ls --format '{{.Name}} {{.Driver}} {{.Scope}} {{.Mountpoint}} {{.Labels}} {{.Label \"tier\"}} {{.Size}} {{.Links}}'",
        "volume ls --format 'table {{.Name}}\t{{.Scope}}'",
        "volume ls -f dangling=true",
        "volume ls -f dangling=false -q",
        "volume ls -f name=dat",
        "volume ls -f label=tier=data",
        "volume ls -f driver=nope",
        "volume ls -f nonsense=1",
        "volume inspect nope",
        "volume inspect -f '{{.Driver}} {{json .Labels}} {{json .Options}}' data mem",
        "volume rm nope",
        "volume rm data",
        "volume rm",
        "volume create a",
        "volume create --driver nope x-y",
        "volume create -o colour=red x-y",
        "volume create -o type=nfs x-y",
        "volume create a/b",
        "volume create data",
        "inspect -f '{{.Driver}}' --type volume data",
        "inspect -f '{{.Mountpoint}}' data",
        "inspect -f '{{range .Mounts}}{{.Type}} {{.Destination}} {{.Mode}} {{.RW}} {{.Propagation}}; {{end}}' user",
        "inspect -f '{{json .HostConfig.Binds}} {{json .Config.Volumes}} {{json .HostConfig.Tmpfs}}' user",
        "ps -a --format '{{.Names}} {{.Mounts}} {{.LocalVolumes}}'",
        "ps -a --no-trunc --format '{{.Names}} {{.Mounts}}'",
        "ps -aq --filter volume=data",
        "ps -aq --filter volume=/mem",
        "system df",
        "system df --format '{{.Type}} {{.TotalCount}} {{.Active}} {{.Size}} {{.Reclaimable}}'",
        "system df --format json",
        "system df -v",
        "ps -as",
    ] {
        compare.same(line)?;
    }
    for line in ["volume inspect data mem", "inspect user"] {
        compare.same_json(line)?;
    }
    for line in [
        "create -v /a:/b:nope busybox",
        "create -v a:/b:shared busybox",
        "create -v /:/ busybox",
        "create -v a-b:/c -v d-e:/c busybox",
        "create --mount type=bind,source=/nope,target=/x busybox",
        "create --mount type=volume,target=/x,readonly busybox",
        "create --mount type=bind,source=/srv,target=/x,volume-nocopy busybox",
        "create --mount type=bind,source=/srv busybox",
        "create --mount type=nope,source=/srv,target=/x busybox",
        "create --tmpfs /t:colour=red busybox",
        "create --volumes-from nope busybox",
        "create --volumes-from user:odd busybox",
    ] {
        compare.same(line)?;
    }
    for line in [
        "volume create x-@",
        "volume rm x-@",
        "volume create --label a=b x-@2",
        "volume rm -f x-@2 nope",
        "volume create",
        "volume prune -f --filter label=nope",
        "run --rm --name x-@ -v x-@3:/v busybox /bin/busybox touch /v/x",
        "volume rm x-@3",
        "container prune -f --filter until=1h",
    ] {
        compare.alike(line)?;
    }
    compare.end()?;
    let pruned = host.docker(&["image", "prune", "-f", "--filter", "until=1h"])?;
    ensure!(pruned.ends_with("Total reclaimed space: 0B\n"), "{pruned:?}");
    // What a no at the prompt leaves.
    for mut command in [host.docker_command(), host.skep_command()] {
        let out = outcome(&mut command, &["volume", "prune", "-a"])?;
        ensure!(out.code == Some(0) && out.stdout.contains("[y/N]"), "{out:?}");
    }
    ensure!(host.docker(&["volume", "ls", "-q"])?.contains("mem"));
    host.docker(&["rm", "-v", "user"])?;
    let left = host.docker(&["volume", "ls", "-q"])?;
    ensure!(
        left.lines().all(|l| l.len() < 64 || !l.chars().all(|c| c.is_ascii_hexdigit()))
            || left.contains("data"),
        "{left}"
    );
    let pruned = host.skep(&["volume", "prune", "-a", "-f"])?;
    ensure!(pruned.contains("Deleted Volumes:\n") && pruned.contains("mem"), "{pruned}");
    let events = host.docker(&["events", "--since", "1", "--until", &now()?, "--filter", "type=volume"])?;
    for action in ["volume create data", "volume mount data", "volume unmount data", "volume destroy data"] {
        ensure!(events.contains(action), "{action} is not in {events}");
    }
    lab.down()
}

/// Two seconds from now, as Docker's client takes it.
fn now() -> Result<String> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    Ok((now + 1).to_string())
}

/// Runs a command with bytes on its standard input.
fn fed(mut command: Command, args: &[&str], bytes: &[u8]) -> Result<std::process::Output> {
    let mut child =
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // It may refuse without reading.
    let _ = child.stdin.take().context("piped")?.write_all(bytes);
    Ok(child.wait_with_output()?)
}

fn tree(host: &Host, path: &Path) -> Result<String> {
    let script = format!("cd {} && find . -printf '%p %y %m %l\\n' | sort", path.display());
    host.exec(&["sh", "-c", &script])
}

#[test]
fn files_are_copied_compared_exported_and_committed_as_docker_does() -> Result<()> {
    let lab = lab("cf")?;
    let host = lab.host(1);
    busybox(host)?;
    let script =
        "mkdir -p /d/sub; echo one > /d/a; echo two > /d/sub/b; ln -s a /d/l; ln -s /d /dl; chmod 640 /d/a";
    host.docker(&[&["run", "--name", "box", "-v", "vol:/vol"][..], &SH, &["-c", script]].concat())?;
    let here = |name: &str| host.dir.join(name);
    for name in ["docker", "skep"] {
        std::fs::create_dir_all(here(name).join("there"))?;
        std::fs::write(here(name).join("file"), "old")?;
    }
    std::fs::create_dir_all(here("source/deep"))?;
    std::fs::write(here("source/deep/x"), "new")?;
    std::os::unix::fs::symlink("deep", here("source/link"))?;
    let both = |args: &dyn Fn(&str) -> Vec<String>| -> Result<()> {
        let mut outcomes = Vec::new();
        for (name, mut command) in [("docker", host.docker_command()), ("skep", host.skep_command())] {
            let args = args(name);
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let mut out = outcome(&mut command, &args)?;
            let said = out.stderr.replace("/skep/", "/DIR/").replace("side-skep", "side");
            // On its way to a failure, Docker's client says more than that. The sizes of archives differ.
            let last = said.lines().last().unwrap_or_default();
            out.stderr = match last.split_once("Successfully copied ") {
                Some((_, rest)) => format!("copied {}", rest.split_once(" to ").map_or("", |(_, to)| to)),
                None => last.to_owned(),
            };
            outcomes.push(out);
        }
        ensure!(outcomes[0] == outcomes[1], "{:?}: {outcomes:#?}", args("NAME"));
        Ok(())
    };
    let local = |name: &str, at: &str| format!("{}/{at}", here(name).display());
    for (from, to) in [
        ("/d", "new"),
        ("/d", "there"),
        ("/d/.", "content"),
        ("/d/a", "file"),
        ("/d/a", "there/"),
        ("/d/a", "none/"),
        ("/d/a", "no/where"),
        ("/d", "file"),
        ("/dl", "link"),
        ("/dl/", "followed"),
        ("/none", "x"),
        ("/vol", "volume"),
    ] {
        both(&|name| vec!["cp".into(), "-q=false".into(), format!("box:{from}"), local(name, to)])?;
    }
    both(&|name| vec!["cp".into(), "-L".into(), "box:/dl".into(), local(name, "real")])?;
    both(&|name| vec!["cp".into(), "-q".into(), "box:/d/sub".into(), local(name, "quiet")])?;
    let (theirs, ours) = (tree(host, &here("docker"))?, tree(host, &here("skep"))?);
    ensure!(theirs == ours, "{theirs}\n{ours}");
    for name in ["docker", "skep"] {
        host.docker(&[
            "create",
            "--name",
            &format!("side-{name}"),
            "-v",
            &format!("v-{name}:/vol"),
            "busybox",
            "/bin/busybox",
        ])?;
    }
    for (from, to) in [
        ("source", "/new"),
        ("source", "/bin"),
        ("source/.", "/vol"),
        ("source/deep/x", "/y"),
        ("source/deep/x", "/none/"),
        ("source/link", "/l"),
        ("source/none", "/z"),
        ("source", "/bin/busybox"),
        ("source/deep/x", "/bin"),
    ] {
        both(&|name| vec!["cp".into(), here(from).display().to_string(), format!("side-{name}:{to}")])?;
    }
    both(&|_| vec!["cp".into(), "box:/d".into(), "box:/e".into()])?;
    both(&|_| vec!["cp".into(), "/a".into(), "/b".into()])?;
    both(&|_| vec!["cp".into(), "nope:/a".into(), "/tmp/b".into()])?;
    for name in ["docker", "skep"] {
        let archive = docker(host, &["cp", &format!("side-{name}:/"), "-"])?;
        std::fs::write(here(name).join("side.tar"), &archive.stdout)?;
    }
    let diff = |name: &str| host.docker(&["diff", &format!("side-{name}")]);
    ensure!(diff("docker")? == diff("skep")? && diff("skep")?.contains("A /new/deep/x"), "{}", diff("skep")?);

    // Through our own standard streams, in a running container, into what is mounted in it.
    host.docker(
        &[
            &["run", "-d", "--name", "runs", "-v", "vol:/vol"][..],
            &SH,
            &["-c", "trap exit TERM; while :; do /bin/busybox sleep 0.1; done"],
        ]
        .concat(),
    )?;
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(4);
    header.set_mode(0o644);
    archive.append_data(&mut header, "typed", &b"text"[..])?;
    let archive = archive.into_inner()?;
    for command in [host.docker_command(), host.skep_command()] {
        let out = fed(command, &["cp", "-", "runs:/vol"], &archive)?;
        ensure!(out.status.success(), "{out:?}");
    }
    for command in [host.docker_command(), host.skep_command()] {
        let out = fed(command, &["cp", "runs:/vol/typed", "-"], b"")?;
        let mut entries = tar::Archive::new(out.stdout.as_slice());
        let entry = entries.entries()?.next().context("an entry")??;
        ensure!(entry.path()?.as_ref() == Path::new("typed") && entry.size() == 4, "{:?}", entry.path()?);
    }

    let mut compare = Compare::new(host);
    for line in ["diff box", "diff nope", "export nope", "commit nope", "diff", "cp box: /tmp/x"] {
        compare.same(line)?;
    }
    for line in [
        "commit -a me -m why -c 'ENV A=1' box x-@:1",
        "commit -p=false runs x-@:2",
        "image inspect -f '{{.Author}} {{.Comment}} {{.Config.Env}}' x-@:1",
    ] {
        compare.alike(line)?;
    }
    for line in ["cp", "cp box:/d"] {
        compare.same_code(line)?;
    }
    compare.end()?;
    let tar = here("export.tar").display().to_string();
    host.skep(&["export", "-o", &tar, "box"])?;
    host.docker(&["import", "-m", "why", "-c", "CMD [\"/bin/busybox\", \"cat\", \"/d/a\"]", &tar, "again"])?;
    ensure!(host.docker(&["run", "--rm", "again"])? == "one\n");
    ensure!(
        host.docker(&["run", "--rm", "x-b:1", "/bin/busybox", "sh", "-c", "echo $A; /bin/busybox cat /d/a"])?
            == "1\none\n"
    );
    // A committed image goes through the archive that Docker's client reads and writes.
    let saved = here("saved.tar").display().to_string();
    host.docker(&["save", "-o", &saved, "x-a:1"])?;
    let id = host.docker(&["image", "inspect", "-f", "{{.Id}}", "x-a:1"])?;
    host.docker(&["rmi", "x-a:1"])?;
    host.docker(&["load", "-i", &saved])?;
    ensure!(host.docker(&["image", "inspect", "-f", "{{.Id}}", "x-a:1"])? == id);
    host.docker(&["rm", "-f", "runs"])?;
    lab.down()
}
