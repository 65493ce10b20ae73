//! Crashes, cut connections and full disks: uploads go on where they were, and nothing half-stored is ever a blob.

use std::io::Write;
use std::net::Shutdown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use skep_e2e::eventually;
use skep_e2e::swarm::path;

use crate::server::{Served, digest, manifest, random, read};

/// Files of a registry's content and of what is half-made.
fn files(data: &Path) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for dir in ["blobs/sha256", "uploads", "tmp"] {
        for entry in std::fs::read_dir(data.join(dir))? {
            all.push(format!("{dir}/{}", entry?.file_name().to_string_lossy()));
        }
    }
    all.sort();
    Ok(all)
}

#[test]
fn uploads_go_on_after_either_sides_crash() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    let bytes = random(3 << 20);
    let whole = digest(&bytes);
    let r = Served::start(&data, &[])?;
    let at = r.begin("a")?;
    let got = |r: &Served| -> Result<usize> {
        let answer = r.ask("GET", &at, &[], b"")?;
        ensure!(answer.status == 204, "{answer:?}");
        let range = answer.header("range").context("a range")?.to_owned();
        Ok(range.strip_prefix("0-").context("a range")?.parse::<usize>()? + 1)
    };
    // The client goes away in the middle of a piece.
    let stream = r.send("PATCH", &at, &[], bytes.len(), &bytes[..1 << 20])?;
    eventually("the first part is there", Duration::from_secs(60), || {
        ensure!(got(&r)? == 1 << 20, "not yet");
        Ok(())
    })?;
    stream.shutdown(Shutdown::Both)?;
    // Another is stuck; whoever goes on takes its place.
    let range = format!("Content-Range: {}-{}", 1 << 20, bytes.len() - 1);
    let mut stuck =
        r.send("PATCH", &at, &[&range], bytes.len() - (1 << 20), &bytes[1 << 20..(1 << 20) + 5])?;
    eventually("the stuck one has begun", Duration::from_secs(60), || {
        ensure!(got(&r)? == (1 << 20) + 5, "not yet");
        Ok(())
    })?;
    let from = (1 << 20) + 5;
    let range = format!("Content-Range: {from}-{}", (2 << 20) - 1);
    let piece = r.ask("PATCH", &at, &[&range], &bytes[from..2 << 20])?;
    ensure!(piece.status == 202, "{piece:?}");
    ensure!(read(&mut stuck)?.code() == "BLOB_UPLOAD_INVALID", "its place was taken");

    // The server is killed in the middle of a piece.
    let mut stream = r.send("PATCH", &at, &[], 1 << 20, &bytes[2 << 20..(2 << 20) + 300_000])?;
    stream.flush()?;
    eventually("some of it is there", Duration::from_secs(60), || {
        ensure!(got(&r)? > 2 << 20, "not yet");
        Ok(())
    })?;
    r.end(Signal::SIGKILL)?;
    ensure!(files(&data)?.iter().all(|f| f.starts_with("uploads/")), "{:?}", files(&data)?);
    let r = Served::start(&data, &[])?;
    let from = got(&r)?;
    ensure!(from > 2 << 20 && from < bytes.len(), "{from}");
    let range = format!("Content-Range: {from}-{}", bytes.len() - 1);
    let done = r.ask("PUT", &format!("{at}?digest={whole}"), &[&range], &bytes[from..])?;
    ensure!(done.status == 201, "{done:?}");
    ensure!(r.ask("GET", &format!("/v2/a/blobs/{whole}"), &[], b"")?.body == bytes);
    ensure!(files(&data)?.len() == 1, "{:?}", files(&data)?);

    // One that does not come whole in its only request leaves nothing.
    let once = format!("/v2/a/blobs/uploads/?digest={}", digest(b"12345"));
    let mut stream = r.send("POST", &once, &[], 5, b"123")?;
    eventually("it has begun", Duration::from_secs(60), || {
        ensure!(files(&data)?.len() > 1, "not yet");
        Ok(())
    })?;
    stream.shutdown(Shutdown::Write)?;
    let _ = read(&mut stream);
    eventually("nothing is left of it", Duration::from_secs(60), || {
        ensure!(files(&data)?.len() == 1, "{:?}", files(&data)?);
        Ok(())
    })?;
    // What nobody goes on with is swept.
    let at = r.begin("a")?;
    ensure!(r.end(Signal::SIGTERM)?.success());
    let r = Served::start(&data, &["--upload-max-age", "1ms"])?;
    ensure!(r.ask("GET", &at, &[], b"")?.code() == "BLOB_UPLOAD_UNKNOWN");
    ensure!(r.log()?.contains("swept an upload that nobody went on with"), "{}", r.log()?);
    ensure!(files(&data)?.len() == 1, "{:?}", files(&data)?);
    Ok(())
}

#[test]
fn a_damaged_blob_is_never_passed_on_whole_and_is_mended_by_the_next_push() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    let r = Served::start(&data, &[])?;
    let (config, layer) = (b"{}".as_slice(), random(1_000_000));
    let image = manifest(config, &layer);
    let push = || -> Result<()> {
        for blob in [config, &layer] {
            // As clients do: what is there is not sent.
            if r.ask("HEAD", &format!("/v2/a/blobs/{}", digest(blob)), &[], b"")?.status == 404 {
                r.push_blob("a", blob)?;
            }
        }
        let pushed = r.push_manifest("a", "1", &image)?;
        ensure!(pushed.status == 201, "{pushed:?}");
        Ok(())
    };
    push()?;
    let url = format!("/v2/a/blobs/{}", digest(&layer));
    let file = data.join("blobs/sha256").join(digest(&layer).trim_start_matches("sha256:"));
    let mut flipped = layer.clone();
    flipped[999_999] ^= 1;
    // Another byte, at the end: who asks for all of it gets less than that.
    std::fs::write(&file, &flipped)?;
    let mut stream = r.send("GET", &url, &[], 0, b"")?;
    ensure!(read(&mut stream).map_or(true, |got| got.body.len() < layer.len()), "it was passed on");
    ensure!(r.ask("HEAD", &url, &[], b"")?.status == 404, "it is not there any more");
    ensure!(r.log()?.contains("is damaged and was set aside: push it again"), "{}", r.log()?);
    ensure!(std::fs::read(data.join("damaged").join(file.file_name().context("name")?))? == flipped);
    push()?;
    ensure!(r.ask("GET", &url, &[], b"")?.body == layer, "mended");
    // One that was cut short is found by the manifest that names it, also where nobody read it.
    std::fs::write(&file, &layer[..10])?;
    let cut = r.push_manifest("a", "1", &image)?;
    ensure!(cut.status == 400 && cut.code() == "MANIFEST_BLOB_UNKNOWN", "{cut:?}");
    push()?;
    ensure!(r.ask("GET", &url, &[], b"")?.body == layer, "mended");
    // One that is pushed all the same takes the place of what is damaged.
    std::fs::write(&file, &flipped)?;
    r.push_blob("a", &layer)?;
    ensure!(r.ask("GET", &url, &[], b"")?.body == layer, "mended");
    Ok(())
}

/// A small disk, unmounted when dropped.
struct Disk(PathBuf);

impl Disk {
    fn new(at: PathBuf, size: &str) -> Result<Self> {
        std::fs::create_dir_all(&at)?;
        let out = Command::new("mount").args(["-t", "tmpfs", "-o", size, "tmpfs", path(&at)]).output()?;
        ensure!(out.status.success(), "{out:?}");
        Ok(Self(at))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_leaves_nothing_half_stored() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let disk = Disk::new(dir.path().join("disk"), "size=4m")?;
    let data = disk.0.join("data");
    let bytes = random(6 << 20);
    let r = Served::start(&data, &[])?;
    let small = r.push_blob("a", b"small")?;
    let url = format!("/v2/a/blobs/uploads/?digest={}", digest(&bytes));
    let full = r.ask("POST", &url, &[], &bytes)?;
    ensure!(full.status == 507, "{full:?}");
    ensure!(String::from_utf8_lossy(&full.body).contains("disk is full"), "{full:?}");
    ensure!(files(&data)?.len() == 1, "{:?}", files(&data)?);
    let at = r.begin("a")?;
    ensure!(r.ask("PATCH", &at, &[], &bytes)?.status == 507);
    ensure!(r.ask("GET", &at, &[], b"")?.status == 404, "it is over");
    ensure!(files(&data)?.len() == 1, "{:?}", files(&data)?);
    ensure!(
        r.ask("GET", &format!("/v2/a/blobs/{small}"), &[], b"")?.body == b"small",
        "what was there stays"
    );
    r.push_blob("a", &bytes[..2 << 20])?;
    ensure!(r.end(Signal::SIGTERM)?.success());
    Ok(())
}
