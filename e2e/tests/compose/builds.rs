//! What `build` of a service says beyond a context and a Dockerfile.

use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use skep_e2e::eventually;
use skep_e2e::swarm::path;

use super::{Client, LONG, lab, skep, write};

#[test]
fn builds_take_from_other_services_directories_and_agents() -> Result<()> {
    let (lab, dir) = lab("cbuilds")?;
    let host = lab.host(1);
    let file = "services:\n  app:\n    build:\n      context: ./app\n      additional_contexts:\n        base: service:base\n        files: ./files\n        plain: docker-image://bb\n      privileged: true\n      entitlements: [network.host]\n      ssh: [default]\n      secrets: [tok]\n  base:\n    image: made-base\n    build: ./base\n    depends_on: [app]\nsecrets: {tok: {environment: TOKEN}}\n";
    let app = "FROM plain AS one\nRUN echo one > /one\nFROM base\nCOPY --from=one /one /\nCOPY --from=files f /\nRUN --security=insecure --network=host true\nRUN --mount=type=ssh,required test -S $SSH_AUTH_SOCK\nRUN --mount=type=secret,id=tok,required test $(cat /run/secrets/tok) = from-dotenv\n";
    write(
        &dir,
        &[
            ("compose.yaml", file),
            ("app/Dockerfile", app),
            ("files/f", "file"),
            (".env", "TOKEN=from-dotenv\n"),
            ("base/Dockerfile", "FROM bb\nRUN echo base > /base\n"),
        ],
    )?;
    let socket = host.dir.join("agent");
    let mut agent =
        Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn()?;
    let listening = eventually("the agent listens", LONG, || {
        ensure!(socket.exists());
        Ok(())
    });
    let mut build = Client::Skep.command(host, &dir)?;
    // The one that is named brings the one that it is built of.
    let built = build.args(["-p", "b", "build", "app"]).env("SSH_AUTH_SOCK", &socket).output();
    agent.kill()?;
    agent.wait()?;
    listening?;
    let built = built?;
    ensure!(built.status.success(), "{built:?}");
    let read = host.docker(&["run", "--rm", "b-app", "cat", "/base", "/one", "/f"])?;
    ensure!(read == "base\none\nfile", "{read}");
    // A context that the daemon fetches.
    let mut git = Command::new("sh");
    git.args(["-c", "git init -q && git add . && git -c user.name=n -c user.email=e commit -qm x"]);
    ensure!(git.current_dir(dir.join("base")).status()?.success());
    let mut server = host.command("git")?;
    server.args(["daemon", "--export-all", "--reuseaddr", "--listen=127.0.0.1"]);
    let mut server = server.arg(format!("--base-path={}", dir.display())).spawn()?;
    let served = eventually("the repository is served", LONG, || {
        host.exec(&["git", "ls-remote", "git://127.0.0.1/base"]).map(drop)
    });
    write(&dir, &[("compose.yaml", "services:\n  far: {build: \"git://127.0.0.1/base\"}\n")])?;
    let far = skep(host, &dir, &["-p", "b", "build"]);
    server.kill()?;
    server.wait()?;
    served?;
    far?;
    ensure!(host.docker(&["run", "--rm", "b-far", "cat", "/base"])? == "base\n");
    lab.down()
}

#[test]
fn builds_take_steps_from_images_that_are_named() -> Result<()> {
    let (lab, dir) = lab("ccache")?;
    let host = lab.host(1);
    let file = "services:\n  app:\n    image: app\n    build:\n      context: .\n      cache_from: [\"type=registry,ref=127.0.0.1:1/none\", yesterday]\n      cache_to: [type=inline]\n";
    let text = "FROM bb\nRUN cat /proc/sys/kernel/random/uuid > /uuid\n";
    write(&dir, &[("compose.yaml", file), ("Dockerfile", text)])?;
    host.skep(&["build", "-t", "yesterday", path(&dir)])?;
    let uuid = |image: &str| host.docker(&["run", "--rm", image, "cat", "/uuid"]);
    let built = uuid("yesterday")?;
    host.docker(&["builder", "prune", "-af"])?;
    // Docker's, without BuildKit, sends no such thing.
    let output = Client::Skep.command(host, &dir)?.arg("build").output()?;
    let said = format!("{output:?}");
    ensure!(output.status.success() && said.contains("Using cache"), "{said}");
    ensure!(said.contains("[Warning] cache-from 127.0.0.1:1/none is of no use"), "{said}");
    ensure!(!said.contains("has no effect"), "{said}");
    ensure!(uuid("app")? == built, "{said}");
    lab.down()
}
