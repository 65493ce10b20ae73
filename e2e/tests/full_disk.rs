//! A disk that is full under the daemon's data: what cannot be written is refused and leaves nothing, what makes room is done, and all
//! goes on once there is room again, under the same daemon.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use skep_e2e::registry::{Registry, RegistryOptions};
use skep_e2e::swarm::path;
use skep_e2e::{Host, eventually};

/// What the daemon has told to be there.
#[derive(Clone, Debug, PartialEq)]
struct Told {
    volumes: BTreeSet<String>,
    containers: BTreeSet<String>,
    images: BTreeSet<String>,
}

impl Told {
    fn by(host: &Host) -> Result<Self> {
        let lines = |command: &[&str]| -> Result<BTreeSet<String>> {
            Ok(host.docker(command)?.lines().map(str::to_owned).collect())
        };
        Ok(Self {
            volumes: lines(&["volume", "ls", "-q"])?,
            containers: lines(&["ps", "-a", "--format", "{{.Names}}"])?,
            images: lines(&["images", "--format", "{{.Repository}}"])?,
        })
    }
}

/// An image larger than the room there is, pulled and loaded: nothing of it stays, and once there is room it comes whole.
fn no_half_image(host: &Host, data: &Path) -> Result<()> {
    let large = "127.0.0.1:5000/large:1";
    let _registry = Registry::start(host, "127.0.0.1:5000", &RegistryOptions::default())?;
    let (root, archive) = (host.dir.join("large.tar"), host.dir.join("saved.tar"));
    let fill = "d=$(mktemp -d) && head -c 12M /dev/urandom > $d/content && tar -C $d -cf $0 . && rm -r $d";
    host.exec(&["sh", "-c", fill, path(&root)])?;
    host.docker(&["import", path(&root), large])?;
    let id = host.docker(&["inspect", "-f", "{{.Id}}", large])?;
    host.docker(&["push", "-q", large])?;
    host.docker(&["save", "-o", path(&archive), large])?;
    host.docker(&["rmi", large])?;
    let held = || -> Result<BTreeSet<String>> {
        let dirs = ["tmp", "blobs", "layers"].map(|dir| data.join(dir));
        let found = host.exec(&[&["find"][..], &dirs.each_ref().map(|d| path(d))].concat())?;
        Ok(found.lines().map(str::to_owned).collect())
    };
    let ballast = data.join("ballast");
    let leave = "free=$(($(stat -f -c '%a * %S' $1))) && fallocate -l $((free - (6 << 20))) $0";
    host.exec(&["sh", "-c", leave, path(&ballast), path(data)])?;
    let (told, before) = (Told::by(host)?, held()?);
    let ways = [["pull", "-q", large], ["load", "-i", path(&archive)]];
    for way in &ways {
        let said = host.docker(way).err().context("no refusal")?.to_string();
        ensure!(said.to_lowercase().contains("no space left"), "{way:?}: {said}");
        ensure!(Told::by(host)? == told, "{way:?}: {:?} {told:?}", Told::by(host)?);
        let left = held()?;
        ensure!(left == before, "{way:?} left {:?}", left.symmetric_difference(&before));
    }
    host.exec(&["rm", path(&ballast)])?;
    for way in &ways {
        host.docker(way)?;
        ensure!(host.docker(&["inspect", "-f", "{{.Id}}", large])? == id, "{way:?}: another image");
        host.docker(&["rmi", large])?;
    }
    Ok(())
}

#[test]
fn what_is_refused_leaves_nothing_and_room_makes_all_go_on() -> Result<()> {
    let (lab, data) = skep_e2e::swarm::on_small_disk("fd", "64m")?;
    let host = lab.host(1);
    let archive = host.dir.join("busybox.tar");
    skep_e2e::busybox_image(&["sh", "cat", "sleep"], &archive)?;
    host.docker(&["import", path(&archive), "bb"])?;
    host.docker(&["tag", "bb", "other"])?;
    host.docker(&["volume", "create", "kept"])?;
    host.docker(&["run", "--rm", "-v", "kept:/v", "bb", "sh", "-c", "echo whole > /v/file"])?;
    host.docker(&["run", "-d", "--name", "first", "--restart", "always", "bb", "sleep", "1000"])?;
    let mut told = Told::by(host)?;

    // The file of the records may have room for some more. What is done is done, and what is refused is not, the second time too.
    let ballast = data.join("ballast");
    let fill = format!("head -c 200M /dev/zero > {} || true", path(&ballast));
    host.exec(&["sh", "-c", &fill])?;
    let mut refused = BTreeSet::new();
    for number in 0..1000 {
        let name = format!("volume-{number}");
        match host.docker(&["volume", "create", &name]) {
            Ok(_) => drop(told.volumes.insert(name)),
            Err(e) => {
                ensure!(e.to_string().to_lowercase().contains("no space left"), "{e}");
                refused.insert(name);
            }
        }
        if refused.len() == 3 {
            break;
        }
    }
    ensure!(refused.len() == 3, "the disk never filled");
    for (kind, old, new) in [("container", "first", "second"), ("container", "second", "third")] {
        match host.docker(&[kind, "rename", old, new]) {
            Ok(_) => {
                told.containers.remove(old);
                told.containers.insert(new.to_owned());
            }
            Err(e) => ensure!(told.containers.contains(old) == e.to_string().contains("pace left"), "{e}"),
        }
    }
    for name in ["tagged-1", "tagged-2", "tagged-3"] {
        match host.docker(&["tag", "bb", name]) {
            Ok(_) => drop(told.images.insert(name.to_owned())),
            Err(e) => ensure!(e.to_string().to_lowercase().contains("no space left"), "{e}"),
        }
    }
    // A container is files, too.
    let half = host.docker(&["create", "--name", "half", "bb", "sleep", "1"]).err().context("no refusal")?;
    ensure!(half.to_string().to_lowercase().contains("no space left"), "{half}");
    ensure!(Told::by(host)? == told, "{:?} {told:?}", Told::by(host)?);

    // What makes room is done all the same.
    host.docker(&["rmi", "other"])?;
    ensure!(told.images.remove("other"));
    let gone: Vec<String> = told.volumes.iter().filter(|v| *v != "kept").cloned().collect();
    for volume in gone {
        host.docker(&["volume", "rm", &volume])?;
        told.volumes.remove(&volume);
    }
    ensure!(Told::by(host)? == told, "{:?} {told:?}", Told::by(host)?);

    // With room again, nothing of what was refused is made after all, and new things are.
    host.exec(&["rm", path(&ballast)])?;
    ensure!(host.docker(&["run", "--rm", "-v", "kept:/v", "bb", "cat", "/v/file"])?.trim() == "whole");
    for name in &refused {
        host.docker(&["volume", "create", name])?;
    }
    host.docker(&["volume", "rm", refused.first().context("one")?])?;
    told.volumes.extend(refused.into_iter().skip(1));
    let reserve = host.exec(&["stat", "-c", "%s", path(&data.join("skep.reserve"))])?;
    ensure!(reserve.trim() == "2097152", "room is kept for the next time: {reserve}");
    ensure!(Told::by(host)? == told, "{:?} {told:?}", Told::by(host)?);
    // Nor by the next daemon.
    host.stop_daemon("-KILL")?;
    host.start_daemon()?;
    ensure!(Told::by(host)? == told, "{:?} {told:?}", Told::by(host)?);
    let container = told.containers.first().context("a container")?;
    eventually("it is up", Duration::from_secs(60), || {
        let state = host.docker(&["inspect", "-f", "{{.State.Status}}", container])?;
        ensure!(state.trim() == "running", "{state}");
        Ok(())
    })?;
    no_half_image(host, &data)?;
    lab.down()
}
