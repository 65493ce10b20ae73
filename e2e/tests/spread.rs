//! Images across the swarm without a registry: built on one node, run on all. Sources die half-way, lie, or are many.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use skep_e2e::swarm::{LONG, binaries, join, path, running, token};
use skep_e2e::{Host, Lab, LabOptions, eventually, eventually_some};

/// A swarm of so many hosts without any image, host 1 its only manager; `settings` go into each daemon's file.
fn swarm(name: &str, hosts: u32, settings: &str) -> Result<Lab> {
    let (skep, init) = binaries()?;
    let name = format!("{name}{}", std::process::id() % 10_000);
    let lab = Lab::bare(LabOptions { name, hosts, skep, init })?;
    for host in lab.hosts() {
        std::fs::write(host.dir.join("daemon.toml"), settings)?;
        host.start_daemon()?;
    }
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
    let lab = swarm("spread", 3, "")?;
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

/// Has other hosts have an image as this one does, by an archive.
fn copy_to(from: &Host, to: &[&Host], image: &str) -> Result<()> {
    let archive = from.dir.join("copy.tar");
    from.docker(&["save", "-o", path(&archive), image])?;
    to.iter().try_for_each(|host| host.docker(&["load", "-i", path(&archive)]).map(drop))
}

/// Bytes a host has sent.
fn sent(host: &Host) -> Result<u64> {
    let told = host.exec(&["ip", "-s", "-j", "link", "show", "eth0"])?;
    let told: serde_json::Value = serde_json::from_str(&told)?;
    told[0]["stats64"]["tx"]["bytes"].as_u64().with_context(|| told.to_string())
}

/// Waits until a transfer to a host is under way.
fn wait_under_way(host: &Host) -> Result<()> {
    eventually("an image is on its way", LONG, || {
        ensure!(under_way(host)?.contains("/share-"), "{}", under_way(host)?);
        Ok(())
    })
}

/// Waits until a service runs on a host, with this image.
fn wait_on(one: &Host, service: &str, host: &Host, id: &str) -> Result<()> {
    eventually(&format!("{service} runs on host {}", host.number), LONG, || {
        let errors = one.docker(&[
            "service",
            "ps",
            "--no-trunc",
            "--format",
            "{{.CurrentState}} {{.Error}}",
            service,
        ])?;
        ensure!(running(one, service)? == [host.name.clone()], "{errors}");
        Ok(())
    })?;
    let images =
        host.docker(&["ps", "-q", "-f", &format!("label=com.docker.swarm.service.name={service}")])?;
    let image = host.docker(&["inspect", "-f", "{{.Image}}", images.trim()])?;
    ensure!(image.trim() == id, "{image} runs, not {id}");
    Ok(())
}

/// Bytes of images that have come to a host and are none yet: room is made for all of them beforehand, and what is random
/// has one zero in 256.
fn come(host: &Host) -> Result<usize> {
    let tmp = host.dir.join("data/tmp");
    let blobs = host.exec(&["find", path(&tmp), "-path", "*/share-*/blob-*"])?;
    let mut bytes = 0;
    for blob in blobs.lines() {
        bytes += std::fs::read(blob)?.iter().filter(|b| **b != 0).count();
    }
    Ok(bytes)
}

#[test]
fn transfers_survive_what_happens_to_their_sources() -> Result<()> {
    const SIZE: usize = 12_000_000;
    let lab = swarm("spreadx", 4, "image-share-rate = \"2m\"\n")?;
    build(lab.host(2), "big:1", &[SIZE])?;
    let id = id_of(lab.host(2), "big:1")?;
    copy_to(lab.host(2), &[lab.host(3)], "big:1")?;
    let four = format!("node.hostname=={}", lab.host(4).name);
    let quick = ["--stop-grace-period", "1s", "--constraint", &four];

    // Two nodes have it: both send, and neither all of it.
    let before = (sent(lab.host(2))?, sent(lab.host(3))?);
    create(lab.host(1), "two", "big:1", &quick)?;
    wait_on(lab.host(1), "two", lab.host(4), &id)?;
    let by = (sent(lab.host(2))? - before.0, sent(lab.host(3))? - before.1);
    ensure!(by.0.min(by.1) > SIZE as u64 / 5, "host 2 sent {} bytes, host 3 {}", by.0, by.1);
    ensure!(by.0 + by.1 < SIZE as u64 * 3 / 2, "host 2 sent {} bytes, host 3 {}", by.0, by.1);

    // Removed half-way where it comes from: what is under way goes on.
    let forget = |lab: &Lab, service: &str| -> Result<()> {
        lab.host(1).docker(&["service", "rm", service])?;
        eventually("its image can go", LONG, || {
            let images = lab.host(4).docker(&["images", "-q", "--no-trunc"])?;
            images.lines().try_for_each(|image| lab.host(4).docker(&["rmi", "-f", image]).map(drop))
        })
    };
    forget(&lab, "two")?;
    create(lab.host(1), "removed", "big:1", &quick)?;
    wait_under_way(lab.host(4))?;
    for number in [2, 3] {
        lab.host(number).docker(&["rmi", "-f", &id])?;
        lab.host(number).docker(&["builder", "prune", "-af"])?;
    }
    wait_on(lab.host(1), "removed", lab.host(4), &id)?;
    eventually("the nodes it came from let it go", LONG, || {
        let blobs = lab.host(3).exec(&["find", path(&lab.host(3).dir.join("data/blobs")), "-type", "f"])?;
        ensure!(blobs.is_empty(), "{blobs}");
        Ok(())
    })?;

    // The receiving daemon is killed half-way: nothing of it is left, and it begins anew.
    copy_to(lab.host(4), &[lab.host(2), lab.host(3)], &format!("big@{id}"))?;
    forget(&lab, "removed")?;
    create(lab.host(1), "killed", &id_pin("big", &id), &quick)?;
    wait_under_way(lab.host(4))?;
    let half = under_way(lab.host(4))?;
    lab.host(4).stop_daemon("-KILL")?;
    lab.host(4).start_daemon()?;
    for left in half.lines() {
        ensure!(lab.host(4).exec(&["test", "-e", left]).is_err(), "{left} is left");
    }
    wait_on(lab.host(1), "killed", lab.host(4), &id)?;
    lab.down()
}

#[test]
fn what_has_come_of_a_transfer_is_not_sent_again_nor_the_rest_faster_than_allowed() -> Result<()> {
    const SIZE: usize = 12_000_000;
    // Three pieces at a time come from each of two nodes: half of it after six seconds, and six more for the rest.
    const RATE: usize = 500 << 10;
    let mut lab = swarm("spreadz", 4, "image-share-rate = \"500k\"\n")?;
    build(lab.host(2), "big:1", &[SIZE])?;
    let id = id_of(lab.host(2), "big:1")?;
    copy_to(lab.host(2), &[lab.host(3)], "big:1")?;
    let four = format!("node.hostname=={}", lab.host(4).name);
    create(lab.host(1), "cut", "big:1", &["--stop-grace-period", "1s", "--constraint", &four])?;
    eventually("a third has come", LONG, || {
        let come = come(lab.host(4))?;
        ensure!(come >= SIZE / 3, "{come} bytes of {SIZE}");
        Ok(())
    })?;

    // One is cut off half-way, and the other loses its power.
    lab.cut(3)?;
    lab.kill(2)?;
    let three = lab.host(3).addr.clone();
    eventually("the connections that bring nothing are given up", LONG, || {
        let held = lab.host(4).exec(&["ss", "-Htn", "state", "established", "dst", &three])?;
        ensure!(held.is_empty(), "{held}");
        Ok(())
    })?;
    let missing = SIZE - come(lab.host(4))?;
    ensure!(missing > SIZE / 4, "too much of it came before the cut to tell: {missing} bytes are missing");
    let before = sent(lab.host(3))?;
    let healed = Instant::now();
    lab.heal(3)?;
    wait_on(lab.host(1), "cut", lab.host(4), &id)?;
    let took = healed.elapsed();
    let again = sent(lab.host(3))? - before;
    ensure!(again < SIZE as u64 * 9 / 10, "{again} bytes were sent, where {missing} were missing");
    let least = Duration::from_secs_f64(missing as f64 / RATE as f64 / 2.0);
    ensure!(took >= least, "{missing} bytes came in {took:?}");
    lab.down()
}

/// An image by its name and ID, as `service create` pins it.
fn id_pin(name: &str, id: &str) -> String {
    format!("{name}@{id}")
}

#[test]
fn what_is_damaged_or_has_no_room_is_refused() -> Result<()> {
    let lab = swarm("spready", 4, "")?;
    let (one, two, three, four) = (lab.host(1), lab.host(2), lab.host(3), lab.host(4));
    build(three, "web:1", &[4_000_000])?;
    let id = id_of(three, "web:1")?;
    let archive = three.dir.join("copy.tar");
    three.docker(&["save", "-o", path(&archive), "web:1"])?;
    let blobs = three.exec(&["find", path(&three.dir.join("data/blobs")), "-size", "+3900k"])?;
    let blob = blobs.lines().next().context("a large blob")?.to_owned();
    let sound = std::fs::read(&blob)?;
    let on_four = ["--constraint", &format!("node.hostname=={}", four.name)];
    let refused = |times: usize| {
        eventually_some(&format!("{times} refusals are told of"), LONG, || {
            let log = std::fs::read_to_string(four.log())?;
            let told = log.matches("what other nodes sent of an image is refused").count();
            ensure!(told >= times, "{}", four.log_tail());
            Ok(Some(told))
        })
    };
    let elsewhere = |service: &str| -> Result<()> {
        two.docker(&["load", "-i", path(&archive)])?;
        wait_on(one, service, four, &id)?;
        one.docker(&["service", "rm", service])?;
        eventually("the image can go", LONG, || four.docker(&["rmi", "-f", &id]).map(drop))?;
        two.docker(&["rmi", "-f", &id]).map(drop)
    };

    // The only one that has it lost the end of a layer: it is refused, and comes from the next.
    std::fs::write(&blob, &sound[..sound.len() / 2])?;
    create(one, "cut", "web:1", &on_four)?;
    refused(1)?;
    elsewhere("cut")?;

    // Every piece of the layer is another than it was: it is refused, and comes from the next.
    let mut bytes = sound;
    bytes.iter_mut().step_by(1 << 18).for_each(|byte| *byte ^= 1);
    std::fs::write(&blob, &bytes)?;
    let before = refused(1)?;
    create(one, "web", "web:1", &on_four)?;
    refused(before + 1)?;
    elsewhere("web")?;

    // Where nobody else has it, nothing is left of it.
    let once = ["--restart-condition", "none", on_four[0], on_four[1]];
    create(one, "bad", &id_pin("web", &id), &once)?;
    eventually("the task is rejected", LONG, || {
        let error = one.docker(&["service", "ps", "--no-trunc", "--format", "{{.Error}}", "bad"])?;
        ensure!(error.contains("is damaged"), "{error}");
        Ok(())
    })?;
    eventually("nothing is left", LONG, || {
        ensure!(under_way(four)?.is_empty(), "{}", under_way(four)?);
        let stored = four.exec(&["find", path(&four.dir.join("data/blobs")), "-type", "f"])?;
        ensure!(stored.is_empty(), "{stored}");
        Ok(())
    })?;

    // A disk without room for all of it.
    build(two, "large:1", &[30_000_000])?;
    let tmp = four.dir.join("data/tmp");
    four.stop_daemon("-TERM")?;
    four.exec(&["mount", "-t", "tmpfs", "-o", "size=16m", "skep-lab", path(&tmp)])?;
    four.start_daemon()?;
    create(one, "large", "large:1", &on_four)?;
    eventually("the task is rejected", LONG, || {
        let error = one.docker(&["service", "ps", "--no-trunc", "--format", "{{.Error}}", "large"])?;
        ensure!(error.to_lowercase().contains("no space left"), "{error}");
        Ok(())
    })?;
    eventually("nothing is left", LONG, || {
        ensure!(four.docker(&["images", "-q"])?.is_empty(), "half an image");
        Ok(())
    })?;

    // A node that comes later, beside the one that has no room.
    one.docker(&["service", "rm", "large"])?;
    four.stop_daemon("-TERM")?;
    four.exec(&["umount", path(&tmp)])?;
    four.start_daemon()?;
    create(one, "late", "large:1", &["--mode", "global"])?;
    runs_on_all(&lab, "late")?;
    lab.down()
}
