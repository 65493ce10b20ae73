//! Archives that are no images are refused, by what is wrong with them, and nothing of them is kept.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use skep_e2e::eventually;
use skep_e2e::swarm::{hosts, path};

/// A plain tar with one entry.
fn tar(entries: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        // By hand: the library would not write a name that leaves the archive.
        let field = &mut header.as_old_mut().name;
        field[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        tar.append(&header, *content)?;
    }
    Ok(tar.into_inner()?)
}

#[test]
fn archives_that_are_no_images_are_refused_whole() -> Result<()> {
    let lab = hosts("badtar", 1)?;
    let one = lab.host(1);
    let before = one.docker(&["images", "-a", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"])?;
    let blobs = one.exec(&["find", path(&one.dir.join("data")), "-path", "*blobs*", "-type", "f"])?;
    let file = one.dir.join("archive.tar");
    let saved = std::fs::read(one.dir.join("whoami.tar"))?;
    let manifest =
        |layers: &str| format!(r#"[{{"Config":"config.json","RepoTags":["x:1"],"Layers":[{layers}]}}]"#);
    let config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    let loads: Vec<(&str, Vec<u8>, &str)> = vec![
        ("text", b"this is no archive at all".to_vec(), "archive"),
        ("empty", Vec::new(), "archive"),
        ("a tar without a manifest", tar(&[("hello", b"world")])?, "manifest"),
        ("a truncated tar", saved[..saved.len() / 2].to_vec(), "archive"),
        ("a manifest that is no JSON", tar(&[("manifest.json", b"{")])?, "manifest.json"),
        (
            "a manifest that names a missing layer",
            tar(&[("config.json", config), ("manifest.json", manifest(r#""gone/layer.tar""#).as_bytes())])?,
            "layer",
        ),
        (
            "a manifest that leaves the archive",
            tar(&[("config.json", config), ("manifest.json", manifest(r#""../../etc/passwd""#).as_bytes())])?,
            "../../etc/passwd",
        ),
    ];
    for (what, bytes, word) in loads {
        std::fs::write(&file, &bytes)?;
        let said = one.docker(&["load", "-i", path(&file)]);
        let Err(e) = said else { bail!("{what} was loaded") };
        ensure!(format!("{e:#}").contains(word), "{what}: {e:#}");
    }
    let imports: Vec<(&str, Vec<u8>, &str)> = vec![
        ("text", b"this is no archive at all".to_vec(), "archive"),
        ("a path that leaves the root", tar(&[("../escape", b"x")])?, "../escape"),
        ("an absolute path through the root", tar(&[("/etc/../../escape", b"x")])?, "escape"),
        ("a truncated tar", saved[..saved.len() / 2].to_vec(), "archive"),
    ];
    for (what, bytes, word) in imports {
        std::fs::write(&file, &bytes)?;
        let Err(e) = one.docker(&["import", path(&file), "bad:1"]) else { bail!("{what} was imported") };
        ensure!(format!("{e:#}").contains(word), "{what}: {e:#}");
    }
    let mut early = one.docker_command();
    early.args(["import", "-", "bad:1"]).stdin(Stdio::piped()).stdout(Stdio::null());
    early.stderr(Stdio::null());
    let mut early = early.spawn()?;
    std::io::Write::write_all(early.stdin.as_mut().context("its input")?, &saved[..1 << 16])?;
    early.kill()?;
    early.wait()?;
    eventually("nothing of them is kept", Duration::from_secs(60), || {
        let now = one.docker(&["images", "-a", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"])?;
        ensure!(now == before, "{now}");
        let left = one.exec(&["find", path(&one.dir.join("data")), "-path", "*blobs*", "-type", "f"])?;
        ensure!(left == blobs, "{left}");
        Ok(())
    })?;
    one.docker(&["run", "--rm", "whoami:1", "/skep", "--version"])?;
    lab.down()
}
