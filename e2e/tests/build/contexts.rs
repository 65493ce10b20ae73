//! What a stage may begin with beside images of the daemon: an image of an OCI image layout, and the files of a context.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use skep_e2e::Host;
use skep_e2e::swarm::path;

use crate::image::Image;
use crate::{builder, cached, run};

/// Builds with contexts by names; whether it succeeded, and what it said.
fn build(host: &Host, context: &Path, named: &[&str], text: &str) -> Result<(bool, String)> {
    fs::write(context.join("Dockerfile"), text)?;
    let mut command = host.skep_command();
    command.args(["build", "-t", "got"]);
    for one in named {
        command.args(["--build-context", one]);
    }
    command.arg(context);
    run(command)
}

/// All images that lists show.
fn listed(host: &Host) -> Result<String> {
    host.docker(&["images", "-a", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"])
}

#[test]
fn a_stage_begins_with_an_image_of_a_layout_which_no_list_shows() -> Result<()> {
    let (lab, context) = builder("bol")?;
    let host = lab.host(1);
    // Two images, of which the layout calls one `1` and one `2`; the daemon has neither afterwards.
    let (archive, layout) = (host.dir.join("saved.tar"), host.dir.join("layout"));
    for (tag, text) in [("made:1", "one"), ("made:2", "two")] {
        fs::write(context.join("Dockerfile"), format!("FROM bb\nENV A={text}\nRUN echo {text} > /base\n"))?;
        host.skep(&["build", "-t", tag, path(&context)])?;
    }
    host.docker(&["save", "-o", path(&archive), "made:1", "made:2"])?;
    fs::create_dir(&layout)?;
    let status = Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&layout).status()?;
    ensure!(status.success(), "tar: {status}");
    host.docker(&["rmi", "made:1", "made:2"])?;
    host.docker(&["builder", "prune", "-af"])?;
    let before = listed(host)?;
    let of = |suffix: &str| format!("base=oci-layout://{}{suffix}", path(&layout));
    let text = "FROM base\nRUN echo $A > /a\nCOPY --from=base /base /copied\n";
    let (ok, said) = build(host, &context, &[&of(":2")], text)?;
    ensure!(ok, "{said}");
    let image = Image::read(host, "got", &[])?;
    for file in ["/base", "/a", "/copied"] {
        ensure!(image.file(file)?.content == b"two\n", "{file}");
    }
    let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json"))?)?;
    let all = index["manifests"].as_array().context("manifests")?;
    let one = all.iter().find(|m| m["annotations"]["org.opencontainers.image.ref.name"] == "1");
    let digest = one.and_then(|m| m["digest"].as_str()).context("a digest")?;
    let (ok, said) = build(host, &context, &[&of(&format!("@{digest}"))], text)?;
    ensure!(ok && Image::read(host, "got", &[])?.file("/base")?.content == b"one\n", "{said}");
    // Kept by its content, as all else.
    let (ok, said) = build(host, &context, &[&of(":2")], text)?;
    ensure!(ok && cached(&said) == 2, "{said}");
    let own = listed(host)?.lines().filter(|l| !l.starts_with("got:")).count();
    ensure!(
        own == before.lines().filter(|l| !l.starts_with("got:")).count() + 1,
        "{before}{}",
        listed(host)?
    );
    // One that is loaded is there like any other, with its name.
    host.docker(&["load", "-i", path(&archive)])?;
    ensure!(host.docker(&["run", "--rm", "made:2", "cat", "/base"])? == "two\n");
    ensure!(listed(host)?.contains("made:2 "), "{}", listed(host)?);
    for (suffix, words) in [
        ("", "has no image \"latest\": it has 2 image(s)"),
        (":9", "has no image \"9\""),
        ("@sha256:12", "invalid digest"),
    ] {
        let (ok, said) = build(host, &context, &[&of(suffix)], text)?;
        ensure!(!ok && said.contains(words), "{suffix}: {said}");
    }
    // A blob that is not what its name says, and one that is not there.
    let manifest: Value = serde_json::from_slice(&fs::read(blob(&layout, digest))?)?;
    let layer = manifest["layers"][0]["digest"].as_str().context("a layer")?;
    host.docker(&["rmi", "-f", "made:1", "made:2", "got"])?;
    let kept = fs::read(blob(&layout, layer))?;
    let mut damaged = kept.clone();
    damaged[600] ^= 1;
    fs::write(blob(&layout, layer), damaged)?;
    let one = of(&format!("@{digest}"));
    let (ok, said) = build(host, &context, &[&one], text)?;
    ensure!(!ok && said.contains("is damaged: its content has digest"), "{said}");
    fs::remove_file(blob(&layout, layer))?;
    let (ok, said) = build(host, &context, &[&one], text)?;
    ensure!(!ok && said.contains("it is incomplete: the manifest names"), "{said}");
    let (ok, said) = build(host, &context, &["base=oci-layout:///none"], text)?;
    ensure!(!ok && said.contains("\"/none\" is not an OCI image layout"), "{said}");
    lab.down()
}

fn blob(layout: &Path, digest: &str) -> std::path::PathBuf {
    layout.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))
}

#[test]
fn a_stage_begins_with_the_files_of_a_context() -> Result<()> {
    let (lab, context) = builder("bof")?;
    let host = lab.host(1);
    let root = host.dir.join("root");
    fs::create_dir_all(root.join("bin"))?;
    fs::create_dir_all(root.join("etc"))?;
    for (name, text) in [("etc/who", "files"), ("left", "out"), (".dockerignore", "left\n.dockerignore\n")] {
        fs::write(root.join(name), text)?;
    }
    // A busybox of its own: commands run in it.
    fs::copy("/bin/busybox", root.join("bin/busybox"))?;
    for name in ["sh", "cat"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name))?;
    }
    let named = format!("rootfs={}", path(&root));
    let text = "FROM rootfs\nENV B=c\nRUN cat /etc/who > /read\n";
    let (ok, said) = build(host, &context, &[&named], text)?;
    ensure!(ok, "{said}");
    let image = Image::read(host, "got", &[])?;
    ensure!(image.file("/read")?.content == b"files" && image.file("/left").is_err(), "{said}");
    ensure!(image.file("/etc/who")?.owner == "0:0", "what is of no image is root's");
    let env = host.docker(&["image", "inspect", "-f", "{{.Config.Env}} {{len .RootFS.Layers}}", "got"])?;
    ensure!(env.starts_with("[PATH=/usr/local/sbin:") && env.trim().ends_with("B=c] 2"), "{env}");
    // Kept by what is in the files, and by nothing else of them.
    let (ok, said) = build(host, &context, &[&named], text)?;
    ensure!(ok && cached(&said) == 2, "{said}");
    fs::write(root.join("etc/who"), "others")?;
    let (ok, said) = build(host, &context, &[&named], text)?;
    ensure!(ok && cached(&said) == 0, "{said}");
    ensure!(Image::read(host, "got", &[])?.file("/read")?.content == b"others");
    lab.down()
}
