//! Images that are brought in and made of containers, and what finds them again, with both clients.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use skep_e2e::{Host, eventually};

use crate::compare::Compare;
use crate::{busybox, docker, lab, skep};

/// Longest wait for what a loaded machine is slow at.
const LONG: std::time::Duration = std::time::Duration::from_secs(60);

fn clients(host: &Host) -> [Command; 2] {
    [host.docker_command(), host.skep_command()]
}

/// A command that is sent more than any socket holds, all of it: what it says, refused.
fn refused_upload(mut command: Command, args: &[&str], word: &str) -> Result<()> {
    let child = command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = child.spawn()?;
    let mut input = child.stdin.take().context("piped")?;
    // The client may have its answer, and leave, before all is written.
    let writer = std::thread::spawn(move || drop(input.write_all(&vec![0; 8 << 20])));
    let out = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(!out.status.success() && said.contains(word), "{args:?}: {said}");
    ensure!(writer.join().is_ok());
    Ok(())
}

/// The answer to a client that reads nothing before it has written all.
fn written_before_read(host: &Host, method: &str, path: &str) -> Result<String> {
    const LENGTH: usize = 8 << 20;
    let mut api = UnixStream::connect(host.socket())?;
    api.set_read_timeout(Some(LONG))?;
    api.set_write_timeout(Some(LONG))?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {LENGTH}\r\n\r\n"
    );
    api.write_all(head.as_bytes())?;
    api.write_all(&vec![0; LENGTH]).with_context(|| format!("{method} {path} broke while it was written"))?;
    let mut said = String::new();
    api.read_to_string(&mut said)?;
    Ok(said)
}

#[test]
fn images_are_imported_and_committed_as_docker_does() -> Result<()> {
    let lab = lab("im")?;
    let host = lab.host(1);
    busybox(host)?;
    host.docker(&["run", "-d", "-e", "X=1", "--name", "box", "busybox", "/bin/busybox", "sleep", "100000"])?;
    let since = host.docker(&["info", "-f", "{{.SystemTime}}"])?;
    for command in clients(host) {
        refused_upload(
            command,
            &["import", "--platform", "windows", "-", "x"],
            "operating system is not supported",
        )?;
    }
    for command in clients(host) {
        refused_upload(command, &["import", "-c", "RUN x", "-", "x"], "RUN is not a valid change command")?;
    }
    for (method, path, words) in [
        ("PUT", "/containers/nope/archive?path=/", "No such container: nope"),
        ("POST", "/images/load?platform=nonsense", "failed to parse platform"),
        ("POST", "/build?outputs=x", "outputs"),
        ("POST", "/nowhere", "page not found"),
    ] {
        let said = written_before_read(host, method, path)?;
        ensure!(said.contains(words), "{method} {path}: {said}");
    }

    let www = format!("{}:/www", host.dir.display());
    let serve = ["busybox", "/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/www"];
    host.docker(&[&["run", "-d", "--name", "www", "-p", "8090:80", "-v", &www][..], &serve].concat())?;
    let url = "http://127.0.0.1:8090/busybox.tar";
    eventually("the file is served", LONG, || {
        host.exec(&["curl", "-fsS", "-o", "/dev/null", url]).map(drop)
    })?;
    let mut compare = Compare::new(host);
    for line in [
        &format!("import -m why -c 'CMD [\"sh\"]' {url} x-@:url"),
        "image inspect -f '{{.Comment}} {{.Config.Cmd}} {{.Architecture}}' x-@:url",
        "run --rm x-@:url /bin/busybox echo ran",
        &format!("import --platform linux/arm64 {}/busybox.tar x-@:arm", host.dir.display()),
        "image inspect -f '{{.Os}}/{{.Architecture}}' x-@:arm",
        "commit -c 'HEALTHCHECK --interval=5s CMD true' -c 'ENV A=$X' -c 'ENTRYPOINT [\"/bin/sh\"]' box x-@:made",
        "image inspect -f '{{json .Config.Env}} {{json .Config.Entrypoint}} {{json .Config.Cmd}}' x-@:made",
        &format!("save --platform linux/arm64 -o {}/@.tar x-@:arm", host.dir.display()),
        "rmi x-@:arm",
        &format!("load --platform linux/arm64 -i {}/@.tar", host.dir.display()),
    ] {
        compare.alike(line)?;
    }
    for line in [
        "import http://127.0.0.1:8090/nope x",
        "import http://127.0.0.1:1/ x",
        "commit -c 'HEALTHCHECK x' box",
        "commit -c 'NOPE x' box",
        "save --platform linux/s390x -o /tmp/never busybox",
        &format!("load --platform linux/s390x -i {}/a.tar", host.dir.display()),
        "ps -q --filter publish=8000-8100/tcp",
        "ps -q --filter publish=8091-8100",
        "ps -q --filter expose=1-100",
        "ps --filter publish=2-1",
        "ps --filter publish=x",
        "network inspect -f '{{json .Options}}' bridge",
        &format!(
            "events --since {} --until {} --filter image=busybox --format '{{{{.Type}}}} {{{{.Action}}}}'",
            since.trim(),
            host.docker(&["info", "-f", "{{.SystemTime}}"])?.trim()
        ),
    ] {
        compare.same(line)?;
    }
    compare.end()?;
    for (line, wanted) in [
        (&["image", "inspect", "-f", "{{.Os}}/{{.Architecture}}", "x-a:arm"][..], "linux/arm64\n"),
        (
            &["image", "inspect", "-f", "{{json .Config.Healthcheck.Test}}", "x-b:made"],
            "[\"CMD-SHELL\",\"true\"]\n",
        ),
        (&["image", "inspect", "-f", "{{.Config.Env}}", "x-b:made"], "[X=1 A=1]\n"),
        (&["ps", "--filter", "publish=8000-8100/tcp", "--format", "{{.Names}}"], "www\n"),
        (&["ps", "--filter", "publish=8091-8100", "--format", "{{.Names}}"], ""),
    ] {
        for outcome in [docker(host, line)?, skep(host, line)?] {
            ensure!(outcome.stdout == wanted, "{line:?}: {outcome:?}");
        }
    }
    let options = host.docker(&["network", "inspect", "-f", "{{len .Options}}", "bridge"])?;
    ensure!(options == "6\n", "{options}");

    // What only programs send: a configuration with a commit.
    let body =
        r#"{"Cmd":["/bin/busybox","echo","from the body"],"Labels":{"made":"by body"},"Hostname":"x"}"#;
    let answer = host.request("POST", "/commit?container=box&repo=body&changes=ENV%20B=2", body)?;
    ensure!(answer.status == 201, "{answer:?}");
    ensure!(host.docker(&["run", "--rm", "body"])? == "from the body\n");
    let env = host.docker(&["image", "inspect", "-f", "{{json .Config.Labels}} {{.Config.Env}}", "body"])?;
    ensure!(env.contains("by body") && env.contains("B=2") && env.contains("X=1"), "{env}");
    let answer = host.request("POST", "/commit?container=box", r#"{"Nope":1}"#)?;
    ensure!(answer.status == 400 && answer.body.contains("Nope"), "{answer:?}");
    host.docker(&["rm", "-f", "box", "www"])?;
    lab.down()
}
