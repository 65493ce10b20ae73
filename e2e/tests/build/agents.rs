//! `RUN --mount=type=ssh`: agents that `skep build` forwards, asked by the real ssh-add(1).

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use skep_e2e::eventually;

use crate::{builder, docker_build, run};

/// An agent with one key; it ends with its owner.
struct Agent(Child);

impl Agent {
    fn start(dir: &Path) -> Result<(Self, std::path::PathBuf)> {
        let (socket, key) = (dir.join("agent"), dir.join("key"));
        let mut agent = Command::new("ssh-agent");
        agent.arg("-D").arg("-a").arg(&socket).stdout(Stdio::null());
        let agent = Self(agent.spawn().context("start ssh-agent")?);
        let mut generate = Command::new("ssh-keygen");
        generate.args(["-q", "-t", "ed25519", "-N", "", "-C", "the-forwarded-key", "-f"]).arg(&key);
        ensure!(generate.status()?.success(), "no key is made");
        eventually("the agent takes the key", Duration::from_secs(60), || {
            let mut add = Command::new("ssh-add");
            add.arg("-q").arg(&key).env("SSH_AUTH_SOCK", &socket).stderr(Stdio::null());
            ensure!(add.status()?.success(), "it does not");
            Ok(())
        })?;
        Ok((agent, socket))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// ssh-add with all it is linked with, below a directory.
fn ssh_add(to: &Path) -> Result<()> {
    let found = Command::new("sh").args(["-c", "command -v ssh-add"]).output()?;
    let program = String::from_utf8(found.stdout)?.trim().to_owned();
    let linked = Command::new("ldd").arg(&program).output()?;
    let linked = String::from_utf8(linked.stdout)?;
    let files = linked.split_whitespace().filter(|w| w.starts_with('/'));
    for file in files.chain([program.as_str()]) {
        let place = to.join(file.trim_start_matches('/'));
        fs::create_dir_all(place.parent().context("a parent")?)?;
        fs::copy(file, &place).with_context(|| format!("copy {file}"))?;
    }
    Ok(())
}

#[test]
fn an_agent_is_forwarded_to_the_command_that_asks_for_it() -> Result<()> {
    let (lab, context) = builder("bh")?;
    let host = lab.host(1);
    ssh_add(&context.join("root"))?;
    let (_agent, socket) = Agent::start(&host.dir)?;
    let build = |flags: &[&str], text: &str| {
        fs::write(context.join("Dockerfile"), format!("FROM bb\nCOPY root /\n{text}"))?;
        let mut command = host.skep_command();
        command.arg("build").args(flags).arg(&context).env("SSH_AUTH_SOCK", &socket);
        run(command)
    };
    let asks = "RUN --mount=type=ssh,required ssh-add -l && echo $SSH_AUTH_SOCK\n";
    let (ok, said) = build(&["--ssh", "default", "-t", "asked"], asks)?;
    ensure!(ok && said.contains("the-forwarded-key") && said.contains("/run/buildkit/ssh_agent.0"), "{said}");
    let files = host.docker(&["run", "--rm", "asked", "ls", "/"])?;
    ensure!(!files.lines().any(|l| l == "run"), "nothing of it is in the image: {files}");
    // By a name of its own, at a path of its own, for another user, quietly, and several at once.
    let named = format!("mine={}", socket.display());
    let asks = "RUN --mount=type=ssh,id=mine,target=/a,uid=7,required env ssh-add -l > /l && ssh-add -L > /k && test -s /k\n";
    let (ok, said) = build(&["-q", "--no-cache", "--ssh", &named], asks)?;
    ensure!(ok && said.trim().starts_with("sha256:") && said.lines().count() == 1, "{said}");
    // Where none is forwarded: who needs it fails, who does not goes without.
    let (ok, said) = build(&[], "RUN --mount=type=ssh test -z \"$SSH_AUTH_SOCK\"\n")?;
    ensure!(ok, "{said}");
    let (ok, said) = build(&["--ssh", &named], "RUN --mount=type=ssh,required true\n")?;
    ensure!(!ok && said.contains("no agent default of ssh is forwarded"), "{said}");
    let (ok, said) = run(docker_build(host, &[], &context))?;
    ensure!(!ok && said.contains("cannot forward one"), "{said}");
    let key = format!("default={}", host.dir.join("key").display());
    let (ok, said) = build(&["--ssh", &key], "")?;
    ensure!(!ok && said.contains("is no socket"), "{said}");
    lab.down()
}
