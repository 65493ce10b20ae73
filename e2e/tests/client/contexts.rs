//! `context`: both clients make, show and use the same store, each in its own directory and then in the other's.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use skep_e2e::Host;

use super::{Outcome, lab, outcome};

/// A client with a directory of its own and no other settings.
struct Client<'a> {
    host: &'a Host,
    program: &'a Path,
    config: PathBuf,
    /// Where its files lie, called % in a line.
    dir: PathBuf,
}

impl Client<'_> {
    fn run(&self, line: &str, env: &[(&str, &str)]) -> Result<Outcome> {
        let mut command = self.host.command(self.program)?;
        for name in ["DOCKER_HOST", "SKEP_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"] {
            command.env_remove(name);
        }
        command.env("DOCKER_CONFIG", &self.config).envs(env.iter().copied());
        self.plain(&mut command, &line.replace('%', &self.dir.display().to_string()))
    }

    /// What it says, without what is only its own: its directory, its socket, its name, the width of columns.
    fn plain(&self, command: &mut Command, line: &str) -> Result<Outcome> {
        let out = outcome(command, &line.split_whitespace().collect::<Vec<_>>())?;
        let config = self.config.display().to_string().replace("docker", "skep");
        let dir = self.dir.display().to_string().replace("docker", "skep");
        let plain = |text: &str| {
            let text = text
                .replace(&config, "CONFIG")
                .replace(&dir, "DIR")
                .replace("unix:///var/run/skep.sock", "SOCKET");
            let text = text.replace("unix:///run/skep/skep.sock", "SOCKET");
            let lines = text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "));
            lines.collect::<Vec<_>>().join("\n")
        };
        Ok(Outcome { code: out.code, stdout: plain(&out.stdout), stderr: plain(&out.stderr) })
    }

    /// Every file in its directory: mode and content by path.
    fn tree(&self) -> Result<BTreeMap<String, (u32, String)>> {
        let mut all = BTreeMap::new();
        let mut open = vec![self.config.clone()];
        while let Some(dir) = open.pop() {
            for entry in std::fs::read_dir(&dir)? {
                let path = entry?.path();
                let mode = path.metadata()?.permissions().mode() & 0o777;
                let name = path.strip_prefix(&self.config)?.display().to_string();
                if path.is_dir() {
                    open.push(path);
                } else {
                    let text = std::fs::read_to_string(&path)?;
                    all.insert(
                        name,
                        (mode, text.replace("unix:///run/skep/skep.sock", "unix:///var/run/docker.sock")),
                    );
                }
            }
        }
        Ok(all)
    }
}

/// Lines for both; what is in brackets before one are its environment variables.
const LINES: &str = "
context ls
context ls -q
context show
context inspect
context create aa --docker host=tcp://127.0.0.1:1
context create aa --docker host=tcp://127.0.0.1:1
context create a
context create default
context create a/b
context create
context create bb --docker host=tcp://127.0.0.1:2,ca=%/pem,cert=%/pem,key=%/key --description secure
context create bad1 --docker host=tcp://127.0.0.1:2,ca=%/bad
context create bad2 --docker host=tcp://127.0.0.1:2,ca=%/pem,cert=%/pem,key=%/bad
context create bad3 --docker host=tcp://127.0.0.1:2,ca=%/nothing
context create bad4 --docker host=ssh://h?x=y
context create bad5 --docker host=nowhere
context create b3 --docker skip-tls-verify=true,host=tcp://127.0.0.1:3
context create b4 --docker skip-tls-verify=maybe
context create b5 --docker colour=red
context create b6 --docker red
context create b7 --from nothing
context create b8 --from bb --docker host=tcp://127.0.0.1:4
context create b9 --from bb
context create b10 --from bb --description other
context create b11 --docker from=bb
context create b12 --docker from=nothing
context create cc
context create c2 --from default
context create c3 --from default --description three
[DOCKER_HOST=tcp://10.0.0.1:1] context create c4
context ls
context ls --format {{.Name}}|{{.Current}}|{{.Description}}|{{.DockerEndpoint}}|{{.Error}}
[DOCKER_HOST=unix:///x] context ls
[DOCKER_HOST=unix:///x] context ls -q
[DOCKER_CONTEXT=aa] context ls -q
[DOCKER_CONTEXT=aa] context show
[DOCKER_HOST=unix:///x] context show
--context bb context show
-H unix:///x --context bb context show
-H unix:///x context show
context use aa
context show
context use nothing
context use a
[DOCKER_HOST=unix:///x] context use bb
context ls
context update aa --description new
context update aa --docker host=tcp://127.0.0.1:9
context update b9 --docker host=tcp://127.0.0.1:9
context update nothing --description new
context update default --description new
context update aa --docker colour=red
context update aa
context rm bb
context rm nothing
context rm default
context rm b10 nothing b11
context rm -f bb nothing
context show
context ls extra
context export b9 %/b9.tar
context export b9 %/b9.tar
context export nothing %/x
context export b9 /no/such/dir
context import dd %/b9.tar
context import dd %/b9.tar
context import default %/b9.tar
context import d2 %/nothing
context import d2 %/bad
context import d2
context use dd
context use default
context ls
";

#[test]
fn both_clients_have_the_same_contexts() -> Result<()> {
    let lab = lab("cx")?;
    let host = lab.host(1);
    let key = rcgen::KeyPair::generate()?;
    let certificate = rcgen::CertificateParams::new(vec!["x".to_owned()])?.self_signed(&key)?;
    let at = |name: &str| -> Result<(PathBuf, PathBuf)> {
        let (config, dir) = (host.dir.join(format!("{name}-config")), host.dir.join(format!("{name}-dir")));
        std::fs::create_dir(&config)?;
        std::fs::create_dir(&dir)?;
        std::fs::write(dir.join("bad"), "no certificate\n")?;
        std::fs::write(dir.join("pem"), certificate.pem())?;
        std::fs::write(dir.join("key"), key.serialize_pem())?;
        Ok((config, dir))
    };
    let (config, dir) = at("theirs")?;
    let theirs = Client { host, program: Path::new("docker"), config, dir };
    let (config, dir) = at("ours")?;
    let ours = Client { host, program: &host.skep, config, dir };
    let mut differences = Vec::new();
    for line in LINES.lines().filter(|l| !l.is_empty()) {
        let (env, args) = match line.strip_prefix('[').and_then(|l| l.split_once("] ")) {
            Some((env, args)) => (env.split_once('='), args),
            None => (None, line),
        };
        let env: Vec<_> = env.into_iter().collect();
        let (theirs, mut ours) = (theirs.run(args, &env)?, ours.run(args, &env)?);
        if args.ends_with("inspect") {
            // Fields are in another order.
            let read = |o: &Outcome| serde_json::from_str::<serde_json::Value>(&o.stdout);
            ensure!(read(&theirs)? == read(&ours)?, "{ours:?}");
            ours.stdout.clone_from(&theirs.stdout);
        }
        if theirs != ours {
            differences.push(format!("{line}\n  docker: {theirs:?}\n  skep:   {ours:?}"));
        }
    }
    ensure!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n"));
    let (written, expected) = (ours.tree()?, theirs.tree()?);
    ensure!(written == expected, "{written:#?}\nis not\n{expected:#?}");
    // Each reads what the other wrote.
    for (from, to) in [(&theirs, &ours), (&ours, &theirs)] {
        std::fs::copy(from.dir.join("b9.tar"), to.dir.join("other"))?;
        let out = to.run("context import ee %/other", &[])?;
        ensure!(out.code == Some(0), "{out:?}");
    }
    ensure!(ours.tree()? == theirs.tree()?, "the imported contexts differ");
    let (config, dir) = (&theirs.config, &theirs.dir);
    let both = [
        Client { host, program: Path::new("docker"), config: config.clone(), dir: dir.clone() },
        Client { host, program: &host.skep, config: config.clone(), dir: dir.clone() },
    ];
    connected(host, &both)?;
    lab.down()
}

/// Commands go where the context leads.
fn connected(host: &Host, both: &[Client<'_>; 2]) -> Result<()> {
    let socket = host.docker_host();
    let ok = |client: &Client<'_>, line: &str, env: &[(&str, &str)]| -> Result<String> {
        let out = client.run(line, env)?;
        ensure!(out.code == Some(0), "{line}: {out:?}");
        Ok(out.stdout)
    };
    let id = ok(&both[0], &format!("-H {socket} info -f {{{{.ID}}}}"), &[])?;
    ok(&both[0], &format!("context create here --docker host={socket}"), &[])?;
    ok(&both[1], "context create far --docker host=ssh://someone@elsewhere:2222", &[])?;
    // In the place of ssh: what is to run on the other host runs here.
    let bin = host.dir.join("bin");
    std::fs::create_dir(&bin)?;
    let script = format!(
        "#!/bin/sh\necho \"$*\" >> {}\nwhile [ \"$1\" != -- ]; do shift; done\nshift 2\nexec env DOCKER_HOST={socket} \"$@\"\n",
        host.dir.join("ssh.log").display()
    );
    std::fs::write(bin.join("ssh"), script)?;
    std::fs::set_permissions(bin.join("ssh"), std::fs::Permissions::from_mode(0o755))?;
    let skep = host.skep.parent().context("the binary's directory")?;
    let usual = std::env::var("PATH")?;
    let path = format!("{}:{}:{usual}", bin.display(), skep.display());
    let ssh: &[(&str, &str)] = &[("PATH", &path)];
    for client in both {
        ensure!(ok(client, "--context here info -f {{.ID}}", &[])? == id);
        ensure!(ok(client, "info -f {{.ID}}", &[("DOCKER_CONTEXT", "here")])? == id);
        ok(client, "context use here", &[])?;
        ensure!(ok(client, "info -f {{.ID}}", &[])? == id);
        ensure!(ok(client, "--context far info -f {{.ID}}", ssh)? == id);
        // Streams too: what is sent, and half a connection closed.
        let ran = ok(client, "--context far run --rm whoami:1 /skep --version", ssh)?;
        ensure!(ran.contains("skep"), "{ran}");
        let out = client.run("--context nothing ps", &[])?;
        ensure!(out.code == Some(1) && out.stderr.contains("context not found"), "{out:?}");
    }
    let asked = std::fs::read_to_string(host.dir.join("ssh.log"))?;
    for name in ["docker", "skep"] {
        let wanted =
            format!("-o ConnectTimeout=30 -T -l someone -p 2222 -- elsewhere {name} system dial-stdio");
        ensure!(asked.lines().any(|l| l == wanted), "{asked}");
    }
    // What ssh says is told.
    std::fs::write(bin.join("ssh"), "#!/bin/sh\nread -r line\necho no route to elsewhere >&2\nexit 255\n")?;
    for client in both {
        let out = client.run("--context far ps", ssh)?;
        let told = out.stderr.contains("error during connect")
            && out.stderr.contains("has exited with exit status 255")
            && out.stderr.contains("no route to elsewhere");
        ensure!(out.code == Some(1) && told, "{out:?}");
    }
    let mut command = host.command("env")?;
    command
        .args(["-u", "DOCKER_HOST", "PATH=/nowhere"])
        .arg(&host.skep)
        .env("DOCKER_CONFIG", &both[1].config);
    let out = both[1].plain(&mut command, "--context far ps")?;
    ensure!(out.code == Some(1) && out.stderr.contains("not on PATH"), "{out:?}");
    Ok(())
}
