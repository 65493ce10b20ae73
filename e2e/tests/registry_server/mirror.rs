//! A mirror of Debian's docker-registry: what it has is kept, what it changes is noticed, what is wrong is refused, and
//! when it is away the mirror goes on.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use skep_e2e::registry::{CutProxy, Registry, RegistryOptions};
use skep_e2e::swarm::{path, plain, refused};

use crate::clients::{context, forget, pushed};
use crate::server::{Served, digest};

#[test]
fn a_mirror_keeps_what_debians_registry_has() -> Result<()> {
    let lab = plain("regm", 1)?;
    let one = lab.host(1);
    let upstream =
        Registry::start(one, "127.0.0.1:5000", &RegistryOptions { password: true, ..Default::default() })?;
    let line = CutProxy::start(one, "127.0.0.1:5003", "127.0.0.1:5000", 300_000)?;
    let password = one.dir.join("password");
    std::fs::write(&password, "secret\n")?;
    let data = one.dir.join("skep-registry-127-0-0-1-5001");
    let more = [
        "--mirror-of",
        "http://127.0.0.1:5003",
        "--mirror-username",
        "me",
        "--mirror-password-file",
        path(&password),
    ];
    let mirror = Served::start_on(one, "127.0.0.1:5001", &more)?;
    let dir = one.dir.join("context");
    context(&dir, 2 << 20)?;
    let (there, here) = ("127.0.0.1:5000/team/app:1", "127.0.0.1:5001/team/app:1");
    one.docker(&["login", "-u", "me", "-p", "secret", "127.0.0.1:5000"])?;
    one.skep(&["build", "-q", "-t", there, path(&dir)])?;
    let first = pushed(&one.docker(&["push", there])?)?;
    let pull = |name: &str| -> Result<String> {
        forget(one)?;
        one.docker(&["pull", name])
    };
    // Connections to it are cut now and then: the rest is asked for.
    line.cut(3);
    let said = pull(here)?;
    ensure!(said.contains(&first), "{said}");
    ensure!(line.ranges() > 0, "nothing was cut");
    line.cut(0);
    ensure!(one.docker(&["run", "--rm", here])? == "hello\n");
    refused(one, &["push", here], &["this registry is a mirror"])?;
    refused(one, &["pull", "127.0.0.1:5001/team/none:1"], &["not found"])?;
    ensure!(one.exec(&["curl", "-sS", "http://127.0.0.1:5001/v2/team/app/tags/list"])?.contains("\"1\""));
    let blobs = || -> Result<Vec<PathBuf>> {
        let all = std::fs::read_dir(data.join("blobs/sha256"))?;
        let mut all = all.map(|e| Ok(e?.path())).collect::<Result<Vec<_>>>()?;
        all.sort();
        Ok(all)
    };
    for blob in blobs()? {
        let name = blob.file_name().context("a name")?.to_string_lossy().into_owned();
        ensure!(digest(&std::fs::read(&blob)?) == format!("sha256:{name}"));
    }

    // The tag is another image by now.
    context(&dir, 1 << 20)?;
    one.skep(&["build", "-q", "-t", there, path(&dir)])?;
    let second = pushed(&one.docker(&["push", there])?)?;
    ensure!(second != first && pull(here)?.contains(&second), "the old one came");

    // A manifest of its own that is damaged is fetched again, by tag and by digest.
    let kept = data.join("blobs/sha256").join(second.trim_start_matches("sha256:"));
    let whole = std::fs::read(&kept)?;
    for name in [here.to_owned(), format!("127.0.0.1:5001/team/app@{second}")] {
        std::fs::write(&kept, &whole[..whole.len() / 2])?;
        let said = pull(&name)?;
        ensure!(said.contains(&second) && std::fs::read(&kept)? == whole, "{name}: {said}");
    }

    // What was put in place of a blob there does not come through whole, nor stay.
    let lies = "127.0.0.1:5000/team/lies:1";
    context(&dir, 500_000)?;
    one.skep(&["build", "-q", "-t", lies, path(&dir)])?;
    one.docker(&["push", lies])?;
    let manifest = one.exec(&[
        "curl",
        "-sS",
        "-u",
        "me:secret",
        "-H",
        "Accept: application/vnd.docker.distribution.manifest.v2+json",
        "http://127.0.0.1:5000/v2/team/lies/manifests/1",
    ])?;
    let manifest: serde_json::Value = serde_json::from_str(&manifest)?;
    let layer = manifest["layers"].as_array().and_then(|l| l.last()).context("a layer")?["digest"]
        .as_str()
        .context("a digest")?
        .to_owned();
    let hex = layer.trim_start_matches("sha256:");
    let file = Registry::directory(one, "127.0.0.1:5000")
        .join(format!("data/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]));
    let mut bytes = std::fs::read(&file)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, &bytes)?;
    let before = blobs()?;
    let url = format!("http://127.0.0.1:5001/v2/team/lies/blobs/{layer}");
    let got = one.dir.join("got");
    let cut = one.exec(&["curl", "-sS", "--fail", "-o", path(&got), &url]);
    ensure!(
        cut.is_err() && std::fs::metadata(&got).map_or(0, |m| m.len()) < bytes.len() as u64,
        "it came through: {cut:?}"
    );
    ensure!(blobs()? == before, "it stayed");
    ensure!(std::fs::read_dir(data.join("tmp"))?.next().is_none(), "half of it stayed");
    ensure!(mirror.log()?.contains("the registry that is mirrored sent something else"), "{}", mirror.log()?);

    // Away: what is here is served, and said to be old; what is not is not.
    upstream.kill(one)?;
    ensure!(pull(here)?.contains(&second), "the kept one");
    let head = one.exec(&["curl", "-sSI", "http://127.0.0.1:5001/v2/team/app/manifests/1"])?;
    ensure!(head.to_lowercase().contains("warning: 110"), "{head}");
    ensure!(pull(&format!("127.0.0.1:5001/team/app@{first}"))?.contains(&first), "the first is kept too");
    refused(one, &["pull", "127.0.0.1:5001/team/lies:2"], &["unknown: http://127.0.0.1:5003"])?;
    lab.down()
}
