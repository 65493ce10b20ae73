//! Services of a stack that come after others, with real containers: they wait, say for what, go on waiting over a
//! killed leader, and begin once it is there.

use anyhow::{Result, bail, ensure};
use skep_e2e::swarm::{LONG, begun, path, wait_running};
use skep_e2e::{Host, busybox_image, eventually};

const FILE: &str = r#"services:
  web:
    image: box:1
    command: sleep 1000000
    stop_grace_period: 1s
    depends_on:
      db: {condition: service_healthy}
      migrate: {condition: service_completed_successfully}
  migrate:
    image: box:1
    command: ["/bin/sh", "-c", "until test -e /gate/migrate; do sleep 0.1; done"]
    volumes: ["GATE:/gate"]
    deploy: {mode: replicated-job}
    depends_on: [db]
  db:
    image: box:1
    command: sleep 1000000
    stop_grace_period: 1s
    volumes: ["GATE:/gate"]
    healthcheck: {test: ["CMD", "/bin/sh", "-c", "test -e /gate/db"], interval: 200ms, retries: 1000}
"#;

/// Waits until the one task of web says this.
fn waits(host: &Host, why: &str) -> Result<()> {
    eventually(&format!("web {why}"), LONG, || {
        let seen = host.docker(&[
            "service",
            "ps",
            "--no-trunc",
            "--format",
            "{{.CurrentState}} {{.Error}}",
            "s_web",
        ])?;
        ensure!(seen.starts_with("Pending") && seen.contains(why), "{seen}");
        Ok(())
    })
}

#[test]
fn tasks_wait_for_what_they_depend_on() -> Result<()> {
    let lab = begun("after", 1)?;
    let host = lab.host(1);
    let archive = host.dir.join("box.tar");
    busybox_image(&["sh", "sleep"], &archive)?;
    host.docker(&["import", path(&archive), "box:1"])?;
    let gate = host.dir.join("gate");
    std::fs::create_dir_all(&gate)?;
    let file = host.dir.join("c.yml");
    let write = |text: &str| std::fs::write(&file, text.replace("GATE", path(&gate)));
    let deploy = ["stack", "deploy", "--resolve-image", "never", "-c", path(&file), "s"];
    let refused = |args: &[&str], words: &[&str]| -> Result<()> {
        let Err(e) = host.skep(args) else { bail!("{args:?} was not refused") };
        let text = format!("{e:#}");
        ensure!(words.iter().all(|w| text.contains(w)), "{args:?} should say {words:?}: {text}");
        Ok(())
    };

    // What cannot be is told with its line, and nothing is made.
    write(&FILE.replace("    depends_on: [db]\n", "    depends_on: [web]\n"))?;
    refused(&deploy, &["c.yml:8:7: dependency cycle detected: migrate -> web -> migrate"])?;
    write(&FILE.replace("    depends_on: [db]\n", "    depends_on: [nothing]\n"))?;
    refused(&deploy, &["c.yml:14:", "\"nothing\""])?;
    ensure!(host.docker(&["service", "ls", "-q"])?.is_empty(), "something was made");

    write(FILE)?;
    let said = host.skep(&deploy)?;
    let made = ["db", "migrate", "web"].map(|s| said.find(&format!("Creating service s_{s}")));
    ensure!(made.is_sorted() && made[0].is_some(), "made in another order: {said}");
    waits(host, "waits for service s_db to be healthy")?;
    let shown = host.skep(&["service", "inspect", "--format", "{{json .Spec.DependsOn}}", "s_migrate"])?;
    ensure!(shown.trim() == r#"[{"Condition":"started","Service":"s_db"}]"#, "{shown}");
    refused(
        &["service", "update", "--depends-on", "s_web", "s_db"],
        &["services would wait for each other: s_db, s_web, s_db"],
    )?;
    std::fs::write(gate.join("db"), "")?;
    waits(host, "waits for service s_migrate to complete")?;

    // The next leader goes on waiting; an update by Docker's client changes nothing of it.
    host.stop_daemon("-KILL")?;
    host.start_daemon()?;
    eventually("the swarm is led again", LONG, || {
        host.docker(&["service", "update", "-d", "--label-add", "a=b", "s_web"]).map(drop)
    })?;
    waits(host, "waits for service s_migrate to complete")?;
    std::fs::write(gate.join("migrate"), "")?;
    wait_running(host, "s_web", 1)?;

    host.skep(&["service", "update", "-d", "--depends-on", "", "s_web"])?;
    let shown = host.skep(&["service", "inspect", "--format", "{{json .Spec}}", "s_web"])?;
    ensure!(!shown.contains("DependsOn"), "{shown}");
    host.docker(&["stack", "rm", "s"])?;
    lab.down()
}
