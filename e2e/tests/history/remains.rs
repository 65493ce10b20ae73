//! What a host holds that comes and goes with containers, networks and services: at the end it must be what it was before the
//! first of them.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use skep_e2e::Host;

/// Everything of one host.
pub struct Holdings(BTreeSet<String>);

/// What changes without anything having leaked: the swarm's log and state, locks, and images, which come from other nodes;
/// what has come of one whose transfer was broken off is kept for ten minutes.
const OWN: [&str; 4] = ["swarm", "lock", "blobs", "tmp/share-"];

pub fn holdings(host: &Host) -> Result<Holdings> {
    let instance = std::fs::read_to_string(host.dir.join("data/instance"))?;
    let instance = instance.trim();
    let mut all = BTreeSet::new();
    let mut add = |kind: &str, text: String| {
        all.insert(format!("{kind} {text}"));
    };
    for line in host.exec(&["ip", "-o", "link"])?.lines() {
        // Without its number and that of its peer.
        let name = line.split(": ").nth(1).unwrap_or(line);
        add("link", name.split('@').next().unwrap_or(name).to_owned());
    }
    for family in ["-4", "-6"] {
        for line in host.exec(&["ip", family, "route", "show", "table", "all"])?.lines() {
            // What the kernel makes of interfaces by itself says whether they are up.
            if !line.contains("fe80") && !line.contains("multicast") {
                add(&format!("route {family}"), line.trim().to_owned());
            }
        }
        host.exec(&["ip", family, "rule"])?
            .lines()
            .for_each(|l| add(&format!("rule {family}"), l.to_owned()));
    }
    for line in host.exec(&["nft", "-s", "list", "ruleset"])?.lines() {
        add("nft", line.trim().to_owned());
    }
    for line in host.exec(&["cat", "/proc/self/mounts"])?.lines() {
        let point = line.split(' ').nth(1).unwrap_or(line);
        // Others' mounts come and go on the machine.
        if Path::new(point).starts_with(&host.dir) {
            add("mount", point.to_owned());
        }
    }
    for root in std::fs::read_dir("/sys/fs/cgroup")?.flatten() {
        groups(&root.path().join(format!("skep-{instance}")), &mut |path| add("cgroup", path));
    }
    groups(&Path::new("/sys/fs/cgroup").join(format!("skep-{instance}")), &mut |path| add("cgroup", path));
    for sub in ["data", "exec"] {
        let dir = host.dir.join(sub);
        files(&dir, &dir, &mut |path| add(sub, path))?;
    }
    for process in processes(host)? {
        add("process", process);
    }
    Ok(Holdings(all))
}

/// Nothing has come to what there was. Whether something is missing is for `skep system check` to say.
pub fn nothing_new(before: &Holdings, host: &Host) -> Result<()> {
    let now = holdings(host)?;
    let left: Vec<_> = now.0.difference(&before.0).collect();
    ensure!(left.is_empty(), "host {}: {left:#?}", host.number);
    Ok(())
}

fn groups(dir: &Path, add: &mut impl FnMut(String)) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    add(dir.display().to_string());
    for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        groups(&entry.path(), add);
    }
}

fn files(root: &Path, dir: &Path, add: &mut impl FnMut(String)) -> Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let entry = entry?;
        let path = entry.path();
        let shown = path.strip_prefix(root)?.display().to_string();
        if OWN.iter().any(|own| shown.starts_with(own)) {
            continue;
        }
        // What lies in an image's layer is the image's.
        if entry.file_type()?.is_dir() && !shown.starts_with("layers/") {
            files(root, &path, add)?;
        }
        add(shown);
    }
    Ok(())
}

/// What runs on the host, by its command line; threads of the kernel and this look itself left out.
fn processes(host: &Host) -> Result<Vec<String>> {
    let script = "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline 2>/dev/null | head -c 60; echo; done";
    let text = host.exec(&["sh", "-c", script])?;
    Ok(text.lines().map(str::trim).filter(|l| l.contains("skep")).map(str::to_owned).collect())
}
