//! 300 MB in six blobs, pushed to a registry on loopback and pulled from it by curl: `skep registry` and Debian's
//! docker-registry, each on a directory of its own on the same disk.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use skep_e2e::registry::{Registry, RegistryOptions};
use skep_e2e::{Host, eventually};

use super::peers::digest;
use super::table::{Row, Target, timed};
use super::{Setup, go_on, hosts};
use crate::packages;

const OURS: &str = "127.0.0.1:5001";
const THEIRS: &str = "127.0.0.1:5000";
const BLOBS: usize = 6;
const SIZE: u64 = 50_000_000;
const TURNS: usize = 5;

/// Ends with its host.
struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn run(setup: &Setup) -> Result<Vec<Row>> {
    packages::unpack(packages::UNPACKED)?;
    let lab = hosts::lab(setup, 1)?;
    let host = lab.host(1);
    let _theirs = Registry::start(host, THEIRS, &RegistryOptions::default())?;
    let _ours = serve(host)?;
    let blobs: Vec<PathBuf> = (0..BLOBS).map(|n| host.dir.join(format!("blob-{n}"))).collect();
    for blob in &blobs {
        let mut random = std::fs::File::open("/dev/urandom")?.take(SIZE);
        std::io::copy(&mut random, &mut std::fs::File::create(blob)?)?;
    }
    let (mut pushes, mut pulls) = ([vec![], vec![]], [vec![], vec![]]);
    for turn in 0..=TURNS {
        // Neither has it yet.
        for blob in &blobs {
            let mut file = std::fs::File::options().write(true).open(blob)?;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&u64::try_from(turn)?.to_le_bytes())?;
        }
        let digests = blobs.iter().map(|b| digest(b)).collect::<Result<Vec<_>>>()?;
        for (which, registry) in [OURS, THEIRS].into_iter().enumerate() {
            let push =
                timed(|| blobs.iter().zip(&digests).try_for_each(|(b, d)| push(host, registry, b, d)))?;
            let pull = timed(|| digests.iter().try_for_each(|d| pull(host, registry, d)))?;
            if turn > 0 {
                pushes[which].push(push / 1e3);
                pulls[which].push(pull / 1e3);
            }
        }
        go_on()?;
    }
    let megabytes = BLOBS as u64 * SIZE / 1_000_000;
    let row = |what: &str, [ours, theirs]: [Vec<f64>; 2]| {
        let what = format!("{what} a registry of {megabytes} MB in {BLOBS} blobs, by curl");
        Row::new(what, "s", ours, Target::None).beside("docker-registry", theirs)
    };
    Ok(vec![row("push to", pushes), row("pull from", pulls)])
}

fn serve(host: &Host) -> Result<Served> {
    let mut command = host.command(&host.skep)?;
    command.args(["registry", "--log-level", "warn", "--listen", OURS, "--data-dir"]);
    command.arg(host.dir.join("registry")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let served = Served(command.spawn().context("start skep registry")?);
    let url = format!("http://{OURS}/v2/");
    eventually("skep registry answers", Duration::from_secs(30), || {
        host.exec(&["curl", "-sS", "--fail", "-o", "/dev/null", &url]).map(drop)
    })?;
    Ok(served)
}

/// Begins an upload, and sends it in one piece.
fn push(host: &Host, registry: &str, blob: &Path, digest: &str) -> Result<()> {
    let begin = format!("http://{registry}/v2/bench/big/blobs/uploads/");
    let begun = host.exec(&["curl", "-sS", "--fail", "-D", "-", "-o", "/dev/null", "-X", "POST", &begin])?;
    let location = begun.lines().find_map(|l| {
        let (name, value) = l.split_once(':')?;
        name.eq_ignore_ascii_case("location").then(|| value.trim().to_owned())
    });
    let location = location.context("the registry does not say where to upload to")?;
    let location = if location.starts_with('/') { format!("http://{registry}{location}") } else { location };
    let separator = if location.contains('?') { '&' } else { '?' };
    let url = format!("{location}{separator}digest={digest}");
    let file = blob.display().to_string();
    host.exec(&["curl", "-sS", "--fail", "-o", "/dev/null", "-H", "Expect:", "-T", &file, &url]).map(drop)
}

fn pull(host: &Host, registry: &str, digest: &str) -> Result<()> {
    let url = format!("http://{registry}/v2/bench/big/blobs/{digest}");
    host.exec(&["curl", "-sS", "--fail", "-o", "/dev/null", &url]).map(drop)
}
