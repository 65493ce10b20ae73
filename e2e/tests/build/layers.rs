//! What becomes of the layers that steps make: they are kept as directories, go out as archives, survive what they are to
//! survive, and become one by `--squash`.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use skep_e2e::swarm::path;
use skep_e2e::{Host, eventually};

use crate::image::Image;
use crate::{builder, cached, docker_build, run};

/// Sorted names of the files of an image, with their modes, owners, links and contents.
fn tree(host: &Host, name: &str) -> Result<Vec<String>> {
    let container = host.docker(&["create", name, "x"])?.trim().to_owned();
    let exported = host.docker_command().args(["export", &container]).output()?;
    host.docker(&["rm", &container])?;
    let mut all = Vec::new();
    for entry in tar::Archive::new(exported.stdout.as_slice()).entries()? {
        let mut entry = entry?;
        let name = entry.path()?.to_string_lossy().into_owned();
        // What each start makes.
        if name.starts_with("etc/") || name.starts_with("dev") || name.starts_with(".dockerenv") {
            continue;
        }
        let header = entry.header().clone();
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        all.push(format!(
            "{name} {:o} {}:{} {} {:?} {:?}",
            header.mode()?,
            header.uid()?,
            header.gid()?,
            header.mtime()?,
            entry.link_name()?,
            content.len()
        ));
    }
    all.sort();
    Ok(all)
}

const WORK: &str = "FROM bb\n\
    RUN mkdir -p /d/e && echo one > /d/e/one && echo two > /d/two && ln /d/two /d/twin && ln -s two /d/link && chown 3:4 /d/two\n\
    RUN busybox rm -r /d/e && mkdir /d/e && echo new > /d/e/new && busybox rm /d/twin\n\
    COPY a /c/\n\
    RUN busybox rm /bin/env && echo longer >> /d/two && touch /gone\n\
    RUN busybox rm /gone\n";

#[test]
fn layers_leave_as_archives_and_come_back_the_same() -> Result<()> {
    let (lab, context) = builder("by")?;
    let host = lab.host(1);
    fs::write(context.join("a"), "1")?;
    fs::write(context.join("Dockerfile"), WORK)?;
    let (ok, said) = run(docker_build(host, &["-t", "made"], &context))?;
    ensure!(ok, "{said}");
    let before = tree(host, "made")?;
    let id = host.docker(&["images", "-q", "--no-trunc", "made"])?;
    // Nothing but the base's archive has been written so far.
    let archives = |host: &Host| -> Result<usize> {
        let blobs = fs::read_dir(host.dir.join("data").join("blobs/sha256"))?;
        Ok(blobs
            .flatten()
            .filter(|b| fs::read(b.path()).is_ok_and(|b| b.get(257..262) == Some(b"ustar")))
            .count())
    };
    ensure!(archives(host)? <= 1, "{} archives", archives(host)?);
    // A daemon that starts again, and one that was killed, still have it.
    for signal in ["-TERM", "-9"] {
        host.stop_daemon(signal)?;
        host.start_daemon()?;
        let (_, again) = run(docker_build(host, &["-t", "made"], &context))?;
        ensure!(cached(&again) == 5, "{again}");
    }
    let archive = host.dir.join("made.tar");
    host.docker(&["save", "-o", path(&archive), "made"])?;
    host.docker(&["rmi", "made"])?;
    host.docker(&["builder", "prune", "-af"])?;
    host.docker(&["load", "-i", path(&archive)])?;
    ensure!(host.docker(&["images", "-q", "--no-trunc", "made"])? == id, "the same image");
    let after = tree(host, "made")?;
    ensure!(before == after, "before: {before:#?}\nafter: {after:#?}");
    lab.down()
}

#[test]
fn squashed_layers_are_one_that_has_the_same_files() -> Result<()> {
    let (lab, context) = builder("bq")?;
    let host = lab.host(1);
    fs::write(context.join("a"), "1")?;
    fs::write(context.join("Dockerfile"), WORK)?;
    let base = Image::read(host, "bb", &[])?;
    let (ok, said) = run(docker_build(host, &["-t", "many"], &context))?;
    ensure!(ok, "{said}");
    let squash = |tag: &str| host.skep(&["build", "--squash", "-t", tag, path(&context)]);
    squash("one")?;
    let (many, one) = (Image::read(host, "many", &[])?, Image::read(host, "one", &[])?);
    ensure!(
        (many.layers, one.layers) == (base.layers + 5, base.layers + 1),
        "{} {}",
        many.layers,
        one.layers
    );
    let (left, right) = (tree(host, "many")?, tree(host, "one")?);
    ensure!(left == right, "{left:#?}\n{right:#?}");
    let history: Vec<Value> = host
        .docker(&["history", "--no-trunc", "--format", "{{json .}}", "one"])?
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    ensure!(history.len() == many.history.len() + 1, "{history:#?}");
    let comment = history[0]["Comment"].as_str().context("a comment")?;
    let parent = host.docker(&["images", "-q", "--no-trunc", "bb"])?;
    ensure!(
        comment.starts_with("merge sha256:") && comment.ends_with(&format!(" to {}", parent.trim())),
        "{comment}"
    );
    ensure!(history[1]["Size"] == "0B" && history[0]["Size"] != "0B", "{history:#?}");
    // The same again is the same image; what is deleted in the end was never there.
    let id = host.docker(&["images", "-q", "--no-trunc", "one"])?;
    squash("again")?;
    ensure!(host.docker(&["images", "-q", "--no-trunc", "again"])? == id, "the same image");
    fs::write(
        context.join("Dockerfile"),
        "FROM scratch\nCOPY a /x/\nCOPY --from=bb /bin /bin\nRUN busybox rm -r /x\n",
    )?;
    squash("scratch")?;
    let scratch = Image::read(host, "scratch", &[])?;
    ensure!(scratch.layers == 1 && scratch.file("/x").is_err(), "{}", scratch.layers);
    // Docker's client asks for it where the daemon says that it may.
    let docker = || run(docker_build(host, &["--squash", "-t", "theirs"], &context));
    let (ok, said) = docker()?;
    ensure!(
        !ok && said.contains("only supported on a Docker daemon with experimental features enabled"),
        "{said}"
    );
    fs::write(host.dir.join("daemon.toml"), "experimental = true\n")?;
    host.stop_daemon("-TERM")?;
    host.start_daemon()?;
    let (ok, said) = docker()?;
    ensure!(ok, "{said}");
    ensure!(host.docker(&["info", "-f", "{{.ExperimentalBuild}}"])?.trim() == "true");
    let id = host.docker(&["images", "-q", "--no-trunc", "scratch"])?;
    ensure!(host.docker(&["images", "-q", "--no-trunc", "theirs"])? == id, "the same image");
    lab.down()
}

#[test]
fn containers_of_steps_stay_where_they_are_not_to_go() -> Result<()> {
    let (lab, context) = builder("bw")?;
    let host = lab.host(1);
    fs::write(context.join("Dockerfile"), "FROM bb\nRUN echo x > /x\nRUN test -e /x && echo y > /y\n")?;
    let (ok, said) = run(docker_build(host, &["--rm=false", "-t", "kept"], &context))?;
    ensure!(ok && !said.contains("Removed intermediate container"), "{said}");
    let kept = host.docker(&["ps", "-aq"])?;
    ensure!(kept.lines().count() == 2, "{kept}");
    // They have what they made, also after a daemon that was killed.
    host.stop_daemon("-9")?;
    host.start_daemon()?;
    let last = kept.lines().next().context("a container")?;
    let changes = host.docker(&["diff", last])?;
    ensure!(changes.contains("A /y"), "{changes}");
    host.docker(&["commit", last, "committed"])?;
    Image::read(host, "committed", &[])?.file("/x")?;
    lab.down()
}

#[test]
fn steps_do_not_wait_for_the_disk() -> Result<()> {
    let (lab, context) = builder("bx")?;
    let host = lab.host(1);
    // overlayfs's `volatile`: no fsync in there, and no unmounting, waits.
    fs::write(
        context.join("Dockerfile"),
        "FROM bb\nRUN busybox grep ' / overlay' /proc/mounts > /of-step\n",
    )?;
    host.docker(&["build", "-t", "looked", path(&context)])?;
    let volatile = |said: String| {
        let mut options = said.lines().flat_map(|l| l.split([' ', ',']));
        options.any(|o| o == "volatile" || o == "fsync=volatile")
    };
    ensure!(volatile(host.docker(&["run", "--rm", "looked", "cat", "/of-step"])?), "a step");
    let mounts = ["looked", "busybox", "grep", " / overlay", "/proc/mounts"];
    let other = host.docker(&[&["run", "--rm"], &mounts[..]].concat())?;
    ensure!(!other.trim().is_empty() && !volatile(other), "what anybody else writes is as safe as the disk");
    // A step's container that is left is started again, as any other.
    host.docker(&["build", "--rm=false", "--no-cache", path(&context)])?;
    let left = host.docker(&["ps", "-alq"])?;
    host.docker(&["start", "-a", left.trim()])?;
    // What removes itself does not do so over a restart.
    let script = "cat /x; echo >> /x; sleep 1000";
    host.docker(&["create", "--rm", "--name", "again", "looked", "sh", "-c", script])?;
    fs::write(context.join("x"), "copied\n")?;
    host.docker(&["cp", path(&context.join("x")), "again:/x"])?;
    host.docker(&["start", "again"])?;
    for said in ["copied\n", "copied\ncopied\n\n"] {
        eventually("what was written before is there", Duration::from_secs(20), || {
            // The line that comes after it was read.
            let there = host.docker(&["exec", "again", "cat", "/x"])?;
            ensure!(host.docker(&["logs", "again"])? == said && there.ends_with("\n\n"), "{there:?}");
            Ok(())
        })?;
        host.docker(&["restart", "-t", "0", "again"])?;
    }
    host.docker(&["rm", "-f", "again"])?;
    lab.down()
}

/// Bytes that a directory takes.
fn bytes(dir: &Path) -> Result<u64> {
    let output = std::process::Command::new("du").arg("-sk").arg(dir).output()?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.split_whitespace().next().context("a number")?.parse::<u64>()? << 10)
}

#[test]
fn a_build_that_is_killed_leaves_nothing_half_made() -> Result<()> {
    let (lab, context) = builder("bz")?;
    let host = lab.host(1);
    // Several MB in each step, so that all of it can be missed.
    let steps: String = (0..4).map(|n| format!("RUN cat /bin/busybox /bin/busybox > /f{n}\n")).collect();
    fs::write(context.join("Dockerfile"), format!("FROM bb\n{steps}RUN sleep 1000\n"))?;
    let settled = |host: &Host| -> Result<(u64, String)> {
        let root = host.dir.join("data");
        Ok((bytes(&root.join("layers"))? + bytes(&root.join("tmp"))?, host.docker(&["images", "-aq"])?))
    };
    host.stop_daemon("-TERM")?;
    host.start_daemon()?;
    let before = settled(host)?;
    let mut cut = docker_build(host, &[], &context).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    eventually("the last step runs", Duration::from_secs(60), || {
        let running = host.docker(&["ps", "--no-trunc", "--format", "{{.Command}}"])?;
        ensure!(running.contains("sleep 1000"), "{running}");
        Ok(())
    })?;
    host.stop_daemon("-9")?;
    cut.wait()?;
    host.start_daemon()?;
    let after = settled(host)?;
    ensure!(after.1 == before.1 && host.docker(&["ps", "-aq"])?.trim().is_empty(), "{after:?}");
    // What was finished may have been kept for the next build; what was not may not.
    let kept = host.docker(&["system", "df", "-v", "--format", "json"])?;
    let kept: Value = serde_json::from_str(&kept)?;
    let kept = kept["BuildCache"].as_array().map_or(0, Vec::len);
    ensure!(kept > 0 || after.0 <= before.0 + (1 << 20), "{before:?} {after:?}");
    fs::write(context.join("Dockerfile"), format!("FROM bb\n{steps}RUN test -s /f3\n"))?;
    let (ok, said) = run(docker_build(host, &["-t", "whole"], &context))?;
    ensure!(ok, "{said}");
    lab.down()
}

#[test]
fn a_full_disk_leaves_no_half_image() -> Result<()> {
    let (lab, data) = skep_e2e::swarm::on_small_disk("bf", "64m")?;
    let host = lab.host(1);
    let (archive, context) = (host.dir.join("busybox.tar"), host.dir.join("context"));
    skep_e2e::busybox_image(&["sh", "cat", "head", "test"], &archive)?;
    host.docker(&["import", path(&archive), "bb"])?;
    fs::create_dir_all(&context)?;
    let used = || -> Result<u64> {
        let shown = host.exec(&["df", "-k", "--output=used", path(&data)])?;
        Ok(shown.lines().last().context("a line")?.trim().parse()?)
    };
    let before = used()?;
    let text =
        "FROM bb\nRUN head -c 20000000 /dev/urandom > /one\nRUN head -c 100000000 /dev/urandom > /two\n";
    fs::write(context.join("Dockerfile"), text)?;
    let (ok, said) = run(docker_build(host, &["--force-rm", "-t", "big"], &context))?;
    ensure!(!ok && said.contains("(step 3/3, Dockerfile:3)"), "{said}");
    // What is sent does not fit either.
    fs::write(context.join("large"), vec![1; 70 << 20])?;
    let (ok, said) = run(docker_build(host, &["--force-rm", "-t", "big"], &context))?;
    ensure!(!ok && said.to_lowercase().contains("no space left"), "{said}");
    fs::remove_file(context.join("large"))?;
    ensure!(
        host.docker(&["images", "-q", "big"])?.is_empty() && host.docker(&["ps", "-aq"])?.is_empty(),
        "a half"
    );
    // What was whole may be kept; all of it can be given back.
    host.docker(&["builder", "prune", "-af"])?;
    eventually("the room is free again", Duration::from_secs(60), || {
        let now = used()?;
        ensure!(now < before + 2000, "{before} KiB before, {now} KiB now");
        Ok(())
    })?;
    fs::write(context.join("Dockerfile"), "FROM bb\nRUN head -c 20000000 /dev/urandom > /one\n")?;
    let (ok, said) = run(docker_build(host, &["-t", "small"], &context))?;
    ensure!(ok, "{said}");
    host.docker(&["run", "--rm", "small", "test", "-s", "/one"])?;
    lab.down()
}
