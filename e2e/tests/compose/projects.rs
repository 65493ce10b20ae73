//! What `skep compose` does with projects over their life.

use std::io::Read;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use skep_e2e::eventually;

use super::{Client, LONG, changed, containers, field, lab, skep, write};

#[test]
fn only_what_changed_is_made_anew() -> Result<()> {
    let (lab, dir) = lab("crec")?;
    let host = lab.host(1);
    let file = "services:\n  a: {image: bb, init: true, command: sleep 1000, environment: {V: \"${V:-1}\"}, volumes: [/anon]}\n  b: {image: bb, init: true, command: sleep 1000, depends_on: [a]}\n  c: {image: bb, init: true, command: sleep 1000, network_mode: \"service:a\"}\n";
    write(&dir, &[("compose.yaml", file)])?;
    skep(host, &dir, &["-p", "rec", "up", "-d"])?;
    let first = containers(host)?;
    ensure!(first.keys().eq(["rec-a-1", "rec-b-1", "rec-c-1"]), "{first:?}");
    let volume = field(host, "rec-a-1", "{{range .Mounts}}{{.Name}}{{end}}")?;
    let up = |args: &[&str], v: &str| -> Result<_> {
        let mut command = Client::Skep.command(host, &dir)?;
        let out = command.args(["-p", "rec", "up", "-d"]).args(args).env("V", v).output()?;
        ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        containers(host)
    };
    ensure!(up(&[], "1")? == first, "nothing changed, and nothing is touched");
    // A changed service, and what shares its network, are new; the rest stays; its anonymous volume too.
    let second = up(&[], "2")?;
    let same = |name: &str| first.get(name) == second.get(name);
    ensure!(
        !same("rec-a-1") && same("rec-b-1") && !same("rec-c-1") && second.len() == 3,
        "{first:?} {second:?}"
    );
    ensure!(field(host, "rec-a-1", "{{range .Mounts}}{{.Name}}{{end}}")? == volume, "the volume is kept");
    ensure!(up(&["--no-recreate"], "3")? == second, "--no-recreate");
    let forced = up(&["--force-recreate", "-V", "b"], "2")?;
    ensure!(
        forced["rec-b-1"] != second["rec-b-1"] && forced["rec-a-1"] == second["rec-a-1"],
        "--force-recreate of one"
    );
    // Another image of the same name.
    host.docker(&["tag", "bb", "bb:keep"])?;
    host.docker(&[
        "import",
        "-c",
        "CMD [\"sh\"]",
        &host.dir.join("busybox.tar").display().to_string(),
        "bb",
    ])?;
    let renewed = up(&[], "2")?;
    ensure!(renewed.iter().all(|(n, id)| forced[n] != *id), "{forced:?} {renewed:?}");
    // Scaled up and down; a service that is not in the file any more is an orphan.
    let scaled = up(&["--scale", "b=3"], "2")?;
    ensure!(scaled.len() == 5 && scaled["rec-b-1"] == renewed["rec-b-1"], "{scaled:?}");
    ensure!(up(&[], "2")?.len() == 3, "one each again");
    write(&dir, &[("compose.yaml", "services:\n  a: {image: bb, init: true, command: sleep 1000}\n")])?;
    let (_, _, told) = Client::Skep.run(host, &dir, &["-p", "rec", "up", "-d"])?;
    ensure!(told.contains("Found orphan containers ([rec-b-1 rec-c-1])"), "{told}");
    ensure!(up(&["--remove-orphans"], "2")?.len() == 1, "orphans are gone");
    // Without the file, by name alone.
    let other = dir.join("elsewhere");
    std::fs::create_dir_all(&other)?;
    std::fs::remove_file(dir.join("compose.yaml"))?;
    let (code, _, told) = Client::Skep.run(host, &other, &["ps"])?;
    ensure!(code == 1 && told.contains("no configuration file provided: not found"), "{told}");
    skep(host, &other, &["-p", "rec", "down", "-t", "2"])?;
    ensure!(containers(host)?.is_empty(), "all gone");
    for client in [Client::Docker, Client::Skep] {
        changed::parts(client, host, &dir)?;
    }
    lab.down()
}

#[test]
fn in_the_foreground_all_is_shown_and_ends_together() -> Result<()> {
    let (lab, dir) = lab("cfg")?;
    let host = lab.host(1);
    let file = "services:\n  loop: {image: bb, command: sh -c \"trap 'echo stopping; exit 0' TERM; echo up; touch /s/up; while true; do sleep 0.1; done\", volumes: [\"s:/s\"]}\n  once: {image: bb, command: sh -c \"echo one; until test -e /s/up; do sleep 0.1; done; rm /s/up; echo two >&2; exit 3\", volumes: [\"s:/s\"]}\nvolumes: {s: {}}\n";
    write(&dir, &[("compose.yaml", file)])?;
    let (code, out, err) = Client::Skep.run(host, &dir, &["-p", "fg", "up", "--abort-on-container-exit"])?;
    for line in [
        "Attaching to loop-1, once-1",
        "loop-1  | up",
        "once-1  | one",
        "once-1 exited with code 3",
        "loop-1  | stopping",
        "loop-1 exited with code 0",
    ] {
        ensure!(out.lines().any(|l| l == line), "{line:?} is not in {out}");
    }
    ensure!(
        err.lines().any(|l| l == "once-1  | two") && err.contains("Aborting on container exit..."),
        "{err}"
    );
    ensure!(code == 3, "{code}");
    let (code, ..) = Client::Skep.run(host, &dir, &["-p", "fg", "up", "--exit-code-from", "loop"])?;
    ensure!(code == 0, "of the other service: {code}");
    // Interrupted once: stopped in good order.
    let mut child = Client::Skep.command(host, &dir)?;
    let mut child =
        child.args(["-p", "fg", "up", "loop"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    eventually("it runs", LONG, || {
        ensure!(field(host, "fg-loop-1", "{{.State.Running}}")? == "true");
        let logs = skep(host, &dir, &["-p", "fg", "logs", "--tail", "1", "loop"])?;
        ensure!(logs.contains("up"), "{logs}");
        Ok(())
    })?;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id())?);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT)?;
    let status = child.wait()?;
    let mut said = String::new();
    child.stdout.take().context("its output")?.read_to_string(&mut said)?;
    ensure!(status.code() == Some(130) && said.contains("loop-1  | stopping"), "{status} {said}");
    ensure!(field(host, "fg-loop-1", "{{.State.Status}}")? == "exited");
    skep(host, &dir, &["-p", "fg", "down"])?;
    lab.down()
}

#[test]
fn services_wait_for_what_they_need() -> Result<()> {
    let (lab, dir) = lab("cdep")?;
    let host = lab.host(1);
    let needs =
        |condition: &str, more: &str| format!("    depends_on: {{a: {{condition: {condition}{more}}}}}\n");
    let b = "  b:\n    image: bb\n    init: true\n    command: sleep 1000\n";
    for (project, a, condition, more, wanted) in [
        (
            "sick",
            "command: sleep 1000, healthcheck: {test: [\"CMD\", \"false\"], interval: 200ms, retries: 2}",
            "service_healthy",
            "",
            "dependency failed to start: container sick-a-1 is unhealthy",
        ),
        (
            "none",
            "command: sleep 1000",
            "service_healthy",
            "",
            "container none-a-1 has no healthcheck configured",
        ),
        (
            "bad",
            "command: sh -c \"exit 4\"",
            "service_completed_successfully",
            "",
            "service \"a\" didn't complete successfully: exit 4",
        ),
        ("opt", "command: sh -c \"exit 4\"", "service_completed_successfully", ", required: false", ""),
        (
            "well",
            "command: sleep 1000, healthcheck: {test: [\"CMD\", \"true\"], interval: 200ms}",
            "service_healthy",
            "",
            "",
        ),
    ] {
        let file = format!("services:\n  a: {{image: bb, init: true, {a}}}\n{b}{}", needs(condition, more));
        write(&dir, &[("compose.yaml", &file)])?;
        let (code, _, err) = Client::Skep.run(host, &dir, &["-p", project, "up", "-d"])?;
        let state = field(host, &format!("{project}-b-1"), "{{.State.Status}}")?;
        match wanted {
            "" => ensure!(code == 0 && state == "running", "{project}: {state} {err}"),
            wanted => {
                ensure!(code == 1 && state == "created" && err.contains(wanted), "{project}: {state} {err}")
            }
        }
        skep(host, &dir, &["-p", project, "down", "-t", "1"])?;
    }
    // What is left out is not waited for.
    let file = format!("services:\n  a: {{image: bb}}\n{b}{}", needs("service_healthy", ""));
    write(&dir, &[("compose.yaml", &file)])?;
    skep(host, &dir, &["-p", "alone", "up", "-d", "--no-deps", "b"])?;
    ensure!(field(host, "alone-b-1", "{{.State.Status}}")? == "running");
    skep(host, &dir, &["-p", "alone", "down", "-t", "1"])?;
    // What a service that is started needs is started with it.
    let a = "command: sleep 1000, healthcheck: {test: [\"CMD\", \"true\"], interval: 200ms}";
    let file = format!("services:\n  a: {{image: bb, init: true, {a}}}\n{b}{}", needs("service_healthy", ""));
    write(&dir, &[("compose.yaml", &file)])?;
    skep(host, &dir, &["-p", "two", "create"])?;
    skep(host, &dir, &["-p", "two", "start", "b"])?;
    for name in ["two-a-1", "two-b-1"] {
        ensure!(field(host, name, "{{.State.Status}}")? == "running", "{name}");
    }
    skep(host, &dir, &["-p", "two", "down", "-t", "1"])?;
    lab.down()
}
