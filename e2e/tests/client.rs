//! The `skep` client beside Docker's own, against the same daemon: the same tables, the same results of
//! `--format`, the same exit codes, the same words on what went wrong.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use skep_e2e::{Host, Lab, LabOptions, eventually, whoami_image};

const LONG: Duration = Duration::from_secs(60);

/// One host with the whoami image.
fn lab(name: &str) -> Result<Lab> {
    let init = PathBuf::from(env!("CARGO_BIN_EXE_skep-lab-init"));
    let skep = init.with_file_name("skep");
    let name = format!("{name}{}", std::process::id() % 10_000);
    let lab = Lab::up(LabOptions { name, hosts: 1, skep: skep.clone(), init })?;
    let host = lab.host(1);
    let archive = host.dir.join("whoami.tar");
    whoami_image(&skep, &archive)?;
    host.docker(&["import", archive.to_str().context("a UTF-8 path")?, "whoami:1"])?;
    host.docker(&["tag", "whoami:1", "registry.example:5000/team/whoami:two"])?;
    Ok(lab)
}

/// What a command came to.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn outcome(command: &mut Command, args: &[&str]) -> Result<Outcome> {
    let out = command.args(args).stdin(Stdio::null()).output()?;
    // The two clients call themselves by their own names.
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace("docker", "skep");
    Ok(Outcome { code: out.status.code(), stdout: text(&out.stdout), stderr: text(&out.stderr) })
}

fn docker(host: &Host, args: &[&str]) -> Result<Outcome> {
    outcome(&mut host.docker_command(), args)
}

fn skep_command(host: &Host) -> Command {
    let mut command = Command::new(&host.skep);
    command.env("DOCKER_HOST", host.docker_host());
    command
}

fn skep(host: &Host, args: &[&str]) -> Result<Outcome> {
    outcome(&mut skep_command(host), args)
}

/// Compares many commands; tells of all that differ.
struct Compare<'a> {
    host: &'a Host,
    differences: Vec<String>,
}

impl Compare<'_> {
    /// A command that changes nothing. Docker's runs before and after ours, since what is shown ages.
    fn same(&mut self, line: &str) -> Result<()> {
        let args = words(line);
        let (before, ours, after) =
            (docker(self.host, &args)?, skep(self.host, &args)?, docker(self.host, &args)?);
        if ours != before && ours != after {
            self.differences.push(format!("{line}\n  docker: {before:?}\n  skep:   {ours:?}"));
        }
        Ok(())
    }

    /// The same of a JSON document: Docker's client makes it anew of the fields it knows and leaves empty ones out.
    fn same_json(&mut self, line: &str) -> Result<()> {
        let args = words(line);
        let (theirs, ours) = (docker(self.host, &args)?, skep(self.host, &args)?);
        let read = |o: &Outcome| serde_json::from_str::<serde_json::Value>(&o.stdout);
        if !holds(&read(&ours)?, &read(&theirs)?) || theirs.code != ours.code {
            self.differences.push(format!("{line}\n  docker: {theirs:?}\n  skep:   {ours:?}"));
        }
        Ok(())
    }

    /// Refused by both with the same exit code, where Docker's words are Go's or say less than ours.
    fn same_code(&mut self, line: &str) -> Result<()> {
        let args = words(line);
        let (theirs, ours) = (docker(self.host, &args)?, skep(self.host, &args)?);
        if theirs.code != ours.code
            || theirs.stdout.is_empty() != ours.stdout.is_empty()
            || ours.stderr.is_empty()
        {
            self.differences.push(format!("{line}\n  docker: {theirs:?}\n  skep:   {ours:?}"));
        }
        Ok(())
    }

    /// A command that changes something: Docker's runs on `a`, ours on `b`, wherever the line says `@`.
    fn alike(&mut self, line: &str) -> Result<()> {
        let (theirs, ours) = (line.replace('@', "a"), line.replace('@', "b"));
        let theirs_out = docker(self.host, &words(&theirs))?;
        let mut ours_out = skep(self.host, &words(&ours))?;
        for text in [&mut ours_out.stdout, &mut ours_out.stderr] {
            *text = text.replace("x-b", "x-a");
        }
        if theirs_out.code != ours_out.code
            || ids(&theirs_out.stdout) != ids(&ours_out.stdout)
            || ids(&theirs_out.stderr) != ids(&ours_out.stderr)
        {
            self.differences.push(format!("{line}\n  docker: {theirs_out:?}\n  skep:   {ours_out:?}"));
        }
        Ok(())
    }

    fn end(self) -> Result<()> {
        ensure!(
            self.differences.is_empty(),
            "{} commands differ:\n{}",
            self.differences.len(),
            self.differences.join("\n")
        );
        Ok(())
    }
}

/// Whether a document holds all that another says. What is empty says nothing.
fn holds(ours: &serde_json::Value, theirs: &serde_json::Value) -> bool {
    use serde_json::Value;
    match (ours, theirs) {
        (_, Value::Null | Value::Bool(false)) => true,
        (_, Value::String(s)) if s.is_empty() => true,
        (_, Value::Number(n)) if n.as_f64() == Some(0.0) => true,
        (_, Value::Array(a)) if a.is_empty() => true,
        (Value::Object(o), Value::Object(t)) => {
            t.iter().all(|(k, v)| holds(o.get(k).unwrap_or(&Value::Null), v))
        }
        (Value::Null, Value::Object(t)) => t.values().all(|v| holds(&Value::Null, v)),
        (Value::Array(o), Value::Array(t)) => o.len() == t.len() && o.iter().zip(t).all(|(o, t)| holds(o, t)),
        (ours, theirs) => ours == theirs,
    }
}

/// Words of a line; what stands between single quotes is one.
fn words(line: &str) -> Vec<&str> {
    line.split('\'')
        .enumerate()
        .flat_map(|(i, part)| if i % 2 == 1 { vec![part] } else { part.split_whitespace().collect() })
        .collect()
}

/// A text with IDs, which differ by nature, made alike: long hexadecimal ones and base-36 ones.
fn ids(text: &str) -> String {
    let id = |w: &str| {
        w.len() >= 12
            && w.chars().all(|c| c.is_ascii_digit() || c.is_ascii_lowercase())
            && w.chars().any(|c| c.is_ascii_digit())
    };
    text.split_inclusive(|c: char| !c.is_ascii_alphanumeric())
        .map(|w| {
            let bare = w.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
            if id(bare) { w.replace(bare, "ID") } else { w.to_owned() }
        })
        .collect()
}

#[test]
fn containers_images_and_networks_are_listed_and_told_of_as_docker_does() -> Result<()> {
    let lab = lab("cl")?;
    let host = lab.host(1);
    host.docker(&[
        "run",
        "-d",
        "--name",
        "up",
        "-p",
        "8080:80",
        "-p",
        "127.0.0.1:9000-9001:9000-9001/tcp",
        "-l",
        "tier=front",
        "-l",
        "a=b",
        "whoami:1",
        "/skep",
        "whoami",
    ])?;
    host.docker(&[
        "create",
        "--name",
        "made",
        "-e",
        "A=1",
        "registry.example:5000/team/whoami:two",
        "/skep",
        "--version",
    ])?;
    host.docker(&["network", "create", "--label", "a=b", "front"])?;
    let mut compare = Compare { host, differences: Vec::new() };
    for line in [
        "ps",
        "ps -a",
        "ps -aq",
        "ps -a --no-trunc",
        "ps -q --no-trunc",
        "ps -a --format json",
        "ps -n 1",
        "ps -l",
        "ps -as",
        "container ls -a",
        "container list",
        "container ps -q",
        "ps --format 'table {{.Names}}\t{{.Ports}}'",
        "ps -a --format '{{.ID}}: {{.Command}} {{.State}} {{.Label \"tier\"}}'",
        "ps -a --format '{{.Names}}\\t{{.Labels}}\\t{{.Networks}}\\t{{.Mounts}}\\t{{.Size}}\\t{{.CreatedAt}}\\t{{.LocalVolumes}}'",
        "ps -a --format '{{upper .Names}} {{json .Image}} {{if eq .State \"running\"}}up{{else}}down{{end}}'",
        "ps --filter name=up",
        "ps -a --filter status=created -q",
        "ps --filter nonsense=1",
        "ps --filter name",
        "ps --format '{{.Names'",
        "ps --format '{{nope .Names}}'",
        "images",
        "images -q",
        "images --no-trunc",
        "images --digests",
        "images --format json",
        "image ls",
        "images whoami",
        "images --format '{{.Repository}}:{{.Tag}} {{.ID}} {{.Size}} {{.CreatedSince}} {{.CreatedAt}}'",
        "images --format 'table {{.ID}}\t{{.Tag}}'",
        "images --filter dangling=true",
        "images --filter reference=whoami",
        "network ls",
        "network ls -q",
        "network ls --no-trunc",
        "network ls --format json",
        "network ls --filter driver=bridge",
        "network ls --format '{{.Name}} {{.Driver}} {{.Internal}} {{.IPv4}} {{.IPv6}} {{.Labels}}'",
        "network list",
        "inspect nope",
        "container inspect nope",
        "image inspect nope",
        "network inspect nope",
        "inspect --type image nope",
        "inspect -f '{{.State.Running}} {{.Name}} {{.Config.Image}}' up made",
        "inspect -f '{{.Id}}' up nope",
        "inspect -f '{{json .Config.Env}}' made",
        "inspect -f '{{.Nope}}' up",
        "inspect -f '{{range $p, $c := .NetworkSettings.Ports}}{{$p}} {{end}}' up",
        "inspect -f '{{index .Config.Labels \"tier\"}}' up",
        "inspect -f '{{len .Mounts}}' up",
        "image inspect -f '{{.Os}} {{index .RepoTags 0}}' whoami:1",
        "network inspect -f '{{.Driver}} {{.Scope}}' front bridge",
        "container inspect up",
        "inspect made",
        "image inspect whoami:1",
        "port up",
        "port up 80",
        "port up 81",
        "port up 9000/tcp",
        "port nope",
        "logs nope",
        "stop nope",
        "start nope",
        "kill nope",
        "rm nope nada",
        "rm up",
        "restart nope",
        "wait nope",
        "rename nope other",
        "rename up made",
        "attach made",
        "attach nope",
        "rmi nope",
        "tag nope other",
        "network create front",
        "kill -s NOPE up",
        "kill made",
        "stop",
        "rm",
        "ps nonsense",
        "rename up",
        "ps --nonsense",
        "ps -Z",
        "nonsense",
        "network nonsense",
        "run",
        "run --name",
        "network create -d nope x",
        "run --restart always --rm whoami:1",
        "events --since 1 --until 2",
        "service ls",
        "node ls",
        "swarm leave",
        "swarm join-token worker",
        "node inspect self",
        "service ps nope",
        "info --format '{{.Swarm.LocalNodeState}} {{.Name}} {{.Containers}}'",
        "version --format '{{.Server.Version}} {{.Server.Os}}'",
        "service create nope",
    ] {
        compare.same(line)?;
    }
    for line in [
        "network rm nope",
        "inspect --type colour nope",
        "network rm bridge",
        "images --format '{{.Nope}}'",
        "stop -t x up",
        "run --rm -a nope whoami:1",
        "run -p 99999:1 whoami:1",
    ] {
        compare.same_code(line)?;
    }
    for line in ["network inspect front bridge", "inspect front", "network inspect -f json front"] {
        compare.same_json(line)?;
    }
    for line in [
        "create --name x-@ whoami:1 /skep --version",
        "rename x-@ x-@2",
        "start x-@2",
        "wait x-@2",
        "rm x-@2",
        "run --rm whoami:1 /skep --version",
        "run --rm whoami:1 /nope",
        "run --rm whoami:1 /skep nonsense",
        "run --name x-@ whoami:1 /skep --version",
        "logs x-@",
        "logs -n 0 x-@",
        "start -a x-@",
        "run --name x-@ whoami:1",
        "run -d --name x-@3 whoami:1 /skep whoami",
        "stop -t 1 x-@3",
        "start x-@3",
        "restart -t 0 x-@3",
        "kill x-@3",
        "rm -f x-@3 x-@",
        "run -d --rm --name x-@4 --network front --network-alias y whoami:1 /skep whoami",
        "stop x-@4",
        "network create x-@",
        "network rm x-@",
        "tag whoami:1 x-@:1",
        "rmi x-@:1",
        "network create --attachable=false x-@5",
        "network rm x-@5",
        "run --rm -e A whoami:1 /skep --version",
        "run --network nope whoami:1",
        "run --pull never nope",
    ] {
        compare.alike(line)?;
    }
    compare.end()?;
    lab.down()
}

#[test]
fn the_swarm_is_listed_and_told_of_as_docker_does() -> Result<()> {
    let lab = lab("cs")?;
    let host = lab.host(1);
    let init = host.skep(&["swarm", "init", "--advertise-addr", &host.addr])?;
    ensure!(
        init.contains("is now a manager") && init.contains("skep swarm join --token SWMTKN-1-"),
        "{init}"
    );
    host.docker(&["network", "create", "-d", "overlay", "back"])?;
    let created = host.skep(&[
        "service",
        "create",
        "--name",
        "web",
        "--replicas",
        "2",
        "--network",
        "back",
        "-p",
        "8080:80",
        "-l",
        "tier=front",
        "--update-monitor",
        "500ms",
        "whoami:1",
        "/skep",
        "whoami",
    ])?;
    ensure!(created.contains("overall progress: 2 out of 2 tasks"), "{created}");
    ensure!(created.contains("verify: Service") && created.contains("converged"), "{created}");
    host.docker(&[
        "service",
        "create",
        "-d",
        "--name",
        "wide",
        "--mode",
        "global",
        "--constraint",
        "node.labels.x==y",
        "whoami:1",
        "/skep",
        "whoami",
    ])?;
    let mut compare = Compare { host, differences: Vec::new() };
    for line in [
        "node ls",
        "node ls -q",
        "node ls --format json",
        "node ls --format '{{.ID}} {{.Self}} {{.TLSStatus}} {{.Hostname}}'",
        "node ls --filter role=manager",
        "node ls --filter nonsense=1",
        "node ps",
        "node ps self -q",
        "node inspect nope",
        "node rm nope",
        "node update --availability nope self",
        "node promote nope",
        "node update nope",
        "node inspect -f '{{.Spec.Role}} {{.Status.State}}' self",
        "service ls",
        "service ls -q",
        "service ls --format json",
        "service ls --format '{{.Name}} {{.Replicas}} {{.Ports}}'",
        "service ls --filter name=web",
        "service ls --filter mode=global",
        "service list",
        "service ps web",
        "service ps web wide",
        "service ps -q web",
        "service ps --no-trunc web",
        "service ps --format json web",
        "service ps --no-resolve web",
        "service ps nope",
        "service ps web --filter desired-state=running --format '{{.Name}} {{.Node}} {{.DesiredState}} {{.Image}} {{.Error}}'",
        "service inspect nope",
        "service inspect -f '{{.Spec.Name}} {{json .Spec.Labels}}' web",
        "service rm nope",
        "service scale nope=1",
        "service scale wide=2",
        "service update nope",
        "service rollback nope",
        "service logs nope",
        "service create --name web whoami:1",
        "service create --name 'a b' whoami:1",
        "service create --mode nope whoami:1",
        "service create",
        "service inspect",
        "network ls",
        "network ls --filter scope=swarm",
        "swarm join-token -q worker",
        "swarm join-token nope",
        "swarm join-token worker",
        "swarm leave",
        "swarm init",
        "service logs web --raw -n 1",
        "service logs web -n 1 --no-trunc",
        "swarm update --task-history-limit 3",
        "service ls --filter nonsense=1",
        "info --format '{{.Swarm.NodeID}} {{.Swarm.Managers}}'",
    ] {
        compare.same(line)?;
    }
    for line in ["network rm back", "service scale web=x", "service scale web", "service scale web=-1"] {
        compare.same_code(line)?;
    }
    for line in [
        "node inspect self",
        "service inspect web wide",
        "network inspect back",
        "service inspect -f json web",
    ] {
        compare.same_json(line)?;
    }
    for line in [
        "service create -d --no-resolve-image --name x-@ --replicas 1 -e A=1 whoami:1 /skep whoami",
        "service update -d --env-add B=2 x-@",
        "service scale -d x-@=2",
        "service update -d --label-add c=d --publish-add 81:80 nope",
        "service update -d --limit-memory 64m --args '/skep whoami' x-@",
        "service rollback -d x-@",
        "service rm x-@",
        "node update --label-add x-@=1 nope",
        "network create -d overlay --attachable x-@",
        "network rm x-@",
    ] {
        compare.alike(line)?;
    }
    let before = host.skep(&["swarm", "join-token", "-q", "worker"])?;
    let rotated = host.skep(&["swarm", "join-token", "--rotate", "-q", "worker"])?;
    ensure!(
        before != rotated && host.docker(&["swarm", "join-token", "-q", "worker"])? == rotated,
        "{before} {rotated}"
    );
    compare.end()?;
    lab.down()
}

#[test]
fn waiting_for_a_service_can_be_left_and_a_closed_pipe_is_no_error() -> Result<()> {
    let lab = lab("cw")?;
    let host = lab.host(1);
    host.skep(&["swarm", "init", "--advertise-addr", &host.addr])?;
    let mut command = skep_command(host);
    // No node has this label, so the service never converges.
    command.args(["service", "create", "--name", "stuck", "--constraint", "node.labels.x==y", "whoami:1"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut out = child.stdout.take().context("piped")?;
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    // The reason of the scheduler is part of the progress.
    while !String::from_utf8_lossy(&said).contains("1/1: ") {
        let n = out.read(&mut buffer)?;
        ensure!(n > 0, "ended: {}", String::from_utf8_lossy(&said));
        said.extend_from_slice(&buffer[..n]);
    }
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(child.id())?),
        nix::sys::signal::Signal::SIGINT,
    )?;
    out.read_to_end(&mut said)?;
    let said = String::from_utf8_lossy(&said);
    ensure!(child.wait()?.success(), "{said}");
    ensure!(
        said.contains("Operation continuing in background.") && said.contains("skep service ps "),
        "{said}"
    );
    ensure!(host.docker(&["service", "ls", "-q"])?.lines().count() == 1, "the service is gone");

    for args in [&["completion", "bash"][..], &["service", "ls"], &["--help"]] {
        let mut command = skep_command(host);
        let mut child =
            command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        drop(child.stdout.take());
        let out = child.wait_with_output()?;
        ensure!(out.stderr.is_empty(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        ensure!(out.status.signal().is_none(), "{args:?}: {}", out.status);
    }
    lab.down()
}

#[test]
fn a_terminal_is_handed_over_resized_and_left_by_its_keys() -> Result<()> {
    let lab = lab("ct")?;
    let host = lab.host(1);
    let pty = nix::pty::openpty(
        Some(&nix::pty::Winsize { ws_row: 33, ws_col: 77, ws_xpixel: 0, ws_ypixel: 0 }),
        None,
    )?;
    let mut command = skep_command(host);
    command.args(["run", "-it", "--name", "term", "whoami:1", "/skep", "whoami"]);
    command.stdin(pty.slave.try_clone()?).stdout(pty.slave.try_clone()?).stderr(pty.slave.try_clone()?);
    let mut child = command.spawn()?;
    drop(command);
    let mut master = std::fs::File::from(pty.master);
    eventually("it runs", LONG, || {
        let state = host.docker(&["inspect", "-f", "{{.State.Running}} {{.Config.Tty}}", "term"])?;
        ensure!(state.trim() == "true true", "{state}");
        Ok(())
    })?;
    let pid = host.docker(&["inspect", "-f", "{{.State.Pid}}", "term"])?;
    eventually("its terminal has our size", LONG, || {
        let size = host.exec(&["sh", "-c", &format!("stty size </proc/{}/fd/0", pid.trim())])?;
        ensure!(size.trim() == "33 77", "{size}");
        Ok(())
    })?;
    use std::io::Write;
    master.write_all(b"\x10\x11")?;
    let status = child.wait()?;
    ensure!(status.success(), "{status}");
    ensure!(
        host.docker(&["inspect", "-f", "{{.State.Running}}", "term"])?.trim() == "true",
        "it was stopped"
    );
    // Without a terminal of our own there is none to hand over.
    let refused = skep(host, &["run", "-it", "whoami:1"])?;
    if refused.code != Some(1) || !refused.stderr.contains("the input device is not a TTY") {
        bail!("{refused:?}");
    }
    lab.down()
}

/// An image of Debian's static busybox.
fn busybox(host: &Host) -> Result<()> {
    let archive = host.dir.join("busybox.tar");
    let mut tar = tar::Builder::new(std::fs::File::create(&archive)?);
    tar.append_path_with_name("/bin/busybox", "bin/busybox").context("busybox-static is installed")?;
    tar.into_inner()?.sync_all()?;
    host.docker(&["import", archive.to_str().context("a UTF-8 path")?, "busybox"])?;
    Ok(())
}

#[test]
fn what_is_typed_reaches_a_container_attached_in_every_way() -> Result<()> {
    let lab = lab("ci")?;
    let host = lab.host(1);
    busybox(host)?;
    let typed = |mut command: Command, args: &[&str], text: &[u8]| -> Result<std::process::Output> {
        use std::io::Write;
        let mut child =
            command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().context("piped")?.write_all(text)?;
        Ok(child.wait_with_output()?)
    };
    let cat = ["busybox", "/bin/busybox", "sh", "-c", "/bin/busybox cat; exit 7"];
    for command in [host.docker_command(), skep_command(host)] {
        let out = typed(command, &[&["run", "-i", "--rm"][..], &cat].concat(), b"through a pipe\n")?;
        ensure!(out.stdout == b"through a pipe\n" && out.status.code() == Some(7), "{out:?}");
    }
    host.docker(&[&["create", "-i", "--name", "kept"][..], &cat].concat())?;
    for command in [host.docker_command(), skep_command(host)] {
        let out = typed(command, &["start", "-a", "-i", "kept"], b"once more\n")?;
        ensure!(out.stdout == b"once more\n" && out.status.code() == Some(7), "{out:?}");
    }
    // Without asking for a connection of its own, the request's body is the input.
    host.docker(&["start", "kept"])?;
    let url = "http://skep/containers/kept/attach?stream=1&stdin=1&stdout=1";
    let mut curl = Command::new("curl");
    curl.arg("--unix-socket").arg(host.socket());
    let out = typed(curl, &["-sS", "--max-time", "20", "-X", "POST", "-T", "-", url], b"as a body\n")?;
    ensure!(out.status.success() && out.stdout.ends_with(b"as a body\n"), "{out:?}");
    // With neither, nothing could ever be typed: that is refused, and the container keeps its input.
    let mut curl = Command::new("curl");
    curl.arg("--unix-socket").arg(host.socket());
    let out = typed(curl, &["-sS", "--max-time", "20", "-X", "POST", url], b"")?;
    ensure!(out.stdout.starts_with(b"{\"message\":\"attach with stdin needs a way in"), "{out:?}");
    host.docker(&["rm", "-f", "kept"])?;

    // Events are told in the same words.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let until = (now + 1).to_string();
    let past = ["events", "--since", "1", "--until", &until];
    let (theirs, ours) = (docker(host, &past)?, skep(host, &past)?);
    let zone = |text: &str| text.replace("+00:00", "Z");
    ensure!(
        zone(&theirs.stdout) == zone(&ours.stdout) && ours.stdout.contains("container die"),
        "{theirs:?} {ours:?}"
    );
    lab.down()
}
