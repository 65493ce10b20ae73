//! Garbage that is collected while others push, and a server that is killed meanwhile: what was accepted is whole.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use skep_e2e::eventually;
use skep_e2e::swarm::{LONG, binaries};

use crate::server::{At, Served, digest, manifest, random};

const CONFIG: &[u8] = b"{\"all\":\"share this\"}";
const PUSHERS: usize = 3;
const IMAGES: usize = 12;

/// An image as it was pushed.
struct Image {
    name: String,
    tag: String,
    layer: Vec<u8>,
}

/// Asks until the server is there: it is killed now and then.
fn ask(at: At, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Result<crate::server::Answer> {
    skep_e2e::eventually_some("an answer", LONG, || Ok(at.ask(method, path, headers, body).ok()))
}

impl Image {
    /// Pushes it as clients do: what is there is not sent. Begins anew where something of it was collected meanwhile.
    fn push(&self, at: At, attempts: &AtomicUsize) -> Result<()> {
        let text = manifest(CONFIG, &self.layer).to_string();
        for _ in 0..200 {
            attempts.fetch_add(1, Ordering::SeqCst);
            for blob in [CONFIG, &self.layer] {
                let digest = digest(blob);
                let there = ask(at, "HEAD", &format!("/v2/{}/blobs/{digest}", self.name), &[], b"")?;
                if there.status != 200 {
                    let to = format!("/v2/{}/blobs/uploads/?digest={digest}", self.name);
                    let sent = ask(at, "POST", &to, &[], blob)?;
                    ensure!(sent.status == 201, "{sent:?}");
                }
            }
            let to = format!("/v2/{}/manifests/{}", self.name, self.tag);
            let kind = "Content-Type: application/vnd.oci.image.manifest.v1+json";
            let answer = ask(at, "PUT", &to, &[kind], text.as_bytes())?;
            match (answer.status, answer.code().as_str()) {
                (201, _) => return Ok(()),
                (400, "MANIFEST_BLOB_UNKNOWN") => {}
                _ => bail!("{answer:?}"),
            }
        }
        bail!("{}:{} was collected again and again", self.name, self.tag)
    }

    /// All of it comes as it was sent.
    fn check(&self, at: At) -> Result<()> {
        let text = manifest(CONFIG, &self.layer).to_string();
        let got = ask(at, "GET", &format!("/v2/{}/manifests/{}", self.name, self.tag), &[], b"")?;
        ensure!(got.status == 200 && got.body == text.as_bytes(), "{}:{}: {got:?}", self.name, self.tag);
        for blob in [CONFIG, &self.layer] {
            let url = format!("/v2/{}/blobs/{}", self.name, digest(blob));
            let got = ask(at, "GET", &url, &[], b"")?;
            ensure!(
                got.status == 200 && got.body == blob,
                "{}:{}: a blob: {}",
                self.name,
                self.tag,
                got.status
            );
        }
        Ok(())
    }

    fn delete(&self, at: At) -> Result<()> {
        let text = manifest(CONFIG, &self.layer).to_string();
        let url = format!("/v2/{}/manifests/{}", self.name, digest(text.as_bytes()));
        let gone = ask(at, "DELETE", &url, &[], b"")?;
        // 404 where the server was killed before it answered.
        ensure!([202, 404].contains(&gone.status), "{gone:?}");
        Ok(())
    }
}

/// Pushes images, deletes every other one, and returns those that must be there.
fn push_all(number: usize, at: At, accepted: &AtomicUsize, attempts: &AtomicUsize) -> Result<Vec<Image>> {
    let mut kept = Vec::new();
    for n in 0..IMAGES {
        let (name, tag) = (format!("team/app{}", number % 2), format!("{number}-{n}"));
        let image = Image { name, tag, layer: random(20_000) };
        image.push(at, attempts)?;
        accepted.fetch_add(1, Ordering::SeqCst);
        image.check(at)?;
        if n % 2 == 0 {
            image.delete(at)?;
        } else {
            kept.push(image);
        }
    }
    Ok(kept)
}

/// Collects until told to stop; how many blobs went.
fn collect_all(data: &Path, over: &AtomicBool) -> Result<usize> {
    let skep = binaries()?.0;
    let mut gone = 0;
    loop {
        // What comes after this is one more collection of all.
        let last = over.load(Ordering::SeqCst);
        let mut gc = Command::new(&skep);
        gc.args(["registry", "gc", "--grace", "0s", "--delete-untagged", "--format", "json", "--data-dir"]);
        let out = gc.arg(data).output()?;
        ensure!(out.status.success(), "{out:?}");
        let found: serde_json::Value = serde_json::from_slice(&out.stdout)?;
        gone += found["blobs"].as_array().context("blobs")?.len();
        if last {
            return Ok(gone);
        }
    }
}

#[test]
fn what_was_accepted_is_whole_whatever_is_collected_or_killed() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    let mut served = Served::start(&data, &[])?;
    let at = *served;
    let (accepted, attempts, over) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let images = std::thread::scope(|scope| -> Result<Vec<Image>> {
        let collecting = scope.spawn(|| collect_all(&data, &over));
        let (count, tries) = (&accepted, &attempts);
        let pushers: Vec<_> =
            (0..PUSHERS).map(|n| scope.spawn(move || push_all(n, at, count, tries))).collect();
        let killed = (1..=3).try_for_each(|n| {
            eventually("some images were accepted", LONG * 2, || {
                let enough = accepted.load(Ordering::SeqCst) >= n * PUSHERS * IMAGES / 5;
                ensure!(enough || pushers.iter().all(|p| p.is_finished()), "not yet");
                Ok(())
            })?;
            served.kill()?;
            served = Served::start_at(&data, at, &[])?;
            anyhow::Ok(())
        });
        let pushed: Vec<_> = pushers.into_iter().map(|p| p.join()).collect();
        over.store(true, Ordering::SeqCst);
        let gone = collecting.join().map_err(|_| anyhow::anyhow!("the collector panicked"))??;
        killed?;
        let mut all = Vec::new();
        for one in pushed {
            all.extend(one.map_err(|_| anyhow::anyhow!("a pusher panicked"))??);
        }
        ensure!(gone >= PUSHERS * IMAGES / 2, "too little was collected: {gone}");
        Ok(all)
    })?;
    ensure!(images.len() == PUSHERS * IMAGES / 2, "an image is missing");
    for image in &images {
        image.check(at)?;
    }
    println!("{} attempts for {} images", attempts.into_inner(), PUSHERS * IMAGES);
    ensure!(served.end(Signal::SIGTERM)?.success(), "it ends by itself");
    Ok(())
}

/// A registry that collects by itself drops what nobody asks for.
#[test]
fn what_nobody_asks_for_goes() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    let r = Served::start(&data, &[])?;
    let images =
        ["old", "used"].map(|tag| Image { name: "team/app".into(), tag: tag.into(), layer: random(1000) });
    for image in &images {
        image.push(*r, &AtomicUsize::new(0))?;
    }
    ensure!(r.end(Signal::SIGTERM)?.success(), "it ends by itself");
    // As if all that were some days ago.
    let then = SystemTime::now() - Duration::from_secs(3 * 24 * 3600);
    let found = Command::new("find").arg(&data).args(["-type", "f"]).output()?;
    for file in String::from_utf8(found.stdout)?.lines() {
        std::fs::File::open(file)?.set_modified(then)?;
    }
    let r = Served::start(&data, &[])?;
    images[1].check(*r)?;
    ensure!(r.end(Signal::SIGTERM)?.success(), "it ends by itself");
    let r = Served::start(&data, &["--gc-every", "1s", "--gc-unused-for", "48h"])?;
    eventually("it is gone", LONG, || {
        let tags = r.ask("GET", "/v2/team/app/tags/list", &[], b"")?.json()?;
        ensure!(tags["tags"] == serde_json::json!(["used"]), "{tags}");
        ensure!(r.log()?.contains("garbage was collected"), "{}", r.log()?);
        Ok(())
    })?;
    images[1].check(*r)?;
    let gone = data.join("blobs/sha256").join(&digest(&images[0].layer)[7..]);
    ensure!(!gone.exists(), "its bytes stayed");
    Ok(())
}
