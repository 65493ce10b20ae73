//! Images across the swarm without a registry: built on one node, run on all. Sources die half-way, lie, or are many.

use anyhow::{Result, ensure};
use skep_e2e::swarm::{LONG, join, path, plain, running, token};
use skep_e2e::{Host, Lab, eventually};

/// A swarm of so many hosts without any image, host 1 its only manager; `settings` go into each daemon's file.
fn swarm(name: &str, hosts: u32) -> Result<Lab> {
    let lab = plain(name, hosts)?;
    lab.host(1).docker(&["swarm", "init", "--advertise-addr", &lab.host(1).addr])?;
    let token = token(lab.host(1), "worker")?;
    for number in 2..=hosts {
        join(lab.host(number), &token, "10.99.0.1:2377")?;
    }
    Ok(lab)
}

/// Builds an image of busybox and so many random bytes in each of its layers, with Docker's client.
fn build(host: &Host, name: &str, layers: &[usize]) -> Result<()> {
    let context = host.dir.join(format!("context-{}", name.replace([':', '/'], "-")));
    std::fs::create_dir_all(&context)?;
    std::fs::copy("/bin/busybox", context.join("busybox"))?;
    let mut dockerfile = "FROM scratch\nCOPY busybox /bin/\n".to_owned();
    for (at, bytes) in layers.iter().enumerate() {
        let content: Vec<u8> = std::iter::repeat_with(rand::random::<u8>).take(*bytes).collect();
        std::fs::write(context.join(format!("content-{at}")), content)?;
        dockerfile.push_str(&format!("COPY content-{at} /\n"));
    }
    dockerfile.push_str("CMD [\"/bin/busybox\", \"sleep\", \"100000\"]\n");
    std::fs::write(context.join("Dockerfile"), dockerfile)?;
    let mut command = host.docker_command();
    command.env("DOCKER_BUILDKIT", "0").args(["build", "-q", "-t", name]).arg(&context);
    let done = command.output()?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// Waits until each host runs one task of a service.
fn runs_on_all(lab: &Lab, service: &str) -> Result<()> {
    eventually(&format!("{service} runs on every host"), LONG, || {
        let mut nodes = running(lab.host(1), service)?;
        nodes.sort();
        let errors =
            lab.host(1).docker(&["service", "ps", "--no-trunc", "--format", "{{.Error}}", service])?;
        ensure!(
            nodes == lab.hosts().iter().map(|h| h.name.clone()).collect::<Vec<_>>(),
            "{nodes:?}: {errors}"
        );
        Ok(())
    })
}

fn id_of(host: &Host, image: &str) -> Result<String> {
    Ok(host.docker(&["inspect", "-f", "{{.Id}}", image])?.trim().to_owned())
}

/// What is half-made.
fn under_way(host: &Host) -> Result<String> {
    host.exec(&["find", path(&host.dir.join("data/tmp")), "-mindepth", "1", "-maxdepth", "1"])
}

fn create(host: &Host, name: &str, image: &str, more: &[&str]) -> Result<String> {
    let args = [&["service", "create", "-d", "--name", name], more, &[image]].concat();
    let mut command = host.docker_command();
    let done = command.args(args).output()?;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    ensure!(done.status.success(), "{said}");
    Ok(said)
}

#[test]
fn what_is_built_on_one_node_runs_on_all() -> Result<()> {
    let lab = swarm("spread", 3)?;
    let one = lab.host(1);
    build(one, "web:1", &[3_000_000, 1_500_000])?;
    let id = id_of(one, "web:1")?;

    // No registry, and no word of one: the image is pinned by what it is.
    let said = create(one, "web", "web:1", &["--replicas", "3", "--stop-grace-period", "1s"])?;
    ensure!(!said.contains("could not be accessed"), "{said}");
    let image =
        one.docker(&["service", "inspect", "-f", "{{.Spec.TaskTemplate.ContainerSpec.Image}}", "web"])?;
    ensure!(image.trim() == format!("web:1@{id}"), "{image}");
    runs_on_all(&lab, "web")?;
    for number in [2, 3] {
        ensure!(id_of(lab.host(number), &format!("web@{id}"))? == id, "another image came");
        ensure!(under_way(lab.host(number))?.is_empty(), "{}", under_way(lab.host(number))?);
    }

    // The tag's next image is another one; the service keeps its own until it is updated.
    build(one, "web:1", &[100_000])?;
    let next = id_of(one, "web:1")?;
    ensure!(next != id, "the same image");
    one.docker(&["service", "scale", "-d", "web=4"])?;
    eventually("four tasks of the old image", LONG, || {
        let running = one.docker(&["service", "ps", "-q", "-f", "desired-state=running", "web"])?;
        let states = one.docker(&["service", "ps", "--format", "{{.CurrentState}}", "web"])?;
        ensure!(running.lines().count() == 4 && states.lines().all(|s| s.starts_with("Running")), "{states}");
        Ok(())
    })?;
    one.docker(&["service", "update", "-d", "--image", "web:1", "web"])?;
    eventually("the new image runs everywhere", LONG, || {
        for number in [2, 3] {
            let images = lab.host(number).docker(&["ps", "--no-trunc", "--format", "{{.Image}}"])?;
            ensure!(!images.is_empty() && images.lines().all(|i| i.ends_with(&next)), "{images}");
        }
        Ok(())
    })?;

    // By a mere name: what no registry knows comes from whoever has it.
    let said = create(one, "named", "web:1", &["--mode", "global", "--no-resolve-image"])?;
    ensure!(said.is_empty(), "{said}");
    runs_on_all(&lab, "named")?;
    ensure!(id_of(lab.host(3), "web:1")? == next, "another image came by its name");

    // What nobody has is said.
    create(one, "none", "nowhere/at-all:1", &["--restart-condition", "none"])?;
    eventually("the task is rejected", LONG, || {
        let error = one.docker(&["service", "ps", "--no-trunc", "--format", "{{.Error}}", "none"])?;
        ensure!(error.contains("No such image: nowhere/at-all:1"), "{error}");
        ensure!(error.contains("no node of the swarm in reach has it"), "{error}");
        Ok(())
    })?;
    // The image can be made on any node: a manager finds it there.
    let two = lab.host(2);
    build(two, "other:1", &[10_000])?;
    create(one, "other", "other:1", &["--mode", "global"])?;
    runs_on_all(&lab, "other")?;
    ensure!(
        id_of(one, &format!("other@{}", id_of(two, "other:1")?))? == id_of(two, "other:1")?,
        "not that one"
    );
    lab.down()
}
