//! What `docker save` writes is a docker-archive and an OCI layout at once, for other tools to read as either.

use anyhow::{Context, Result, ensure};

use crate::{busybox, lab};

#[test]
fn skopeo_and_podman_read_saved_archives_in_both_forms() -> Result<()> {
    let lab = lab("sv")?;
    let host = lab.host(1);
    busybox(host)?;
    host.docker(&["tag", "busybox", "busybox:two"])?;
    let file = |name: &str| host.dir.join(name).display().to_string();
    let id = host.docker(&["inspect", "-f", "{{.Id}}", "busybox"])?;
    // A bare name is all its tags.
    host.docker(&["save", "-o", &file("docker.tar"), "busybox"])?;
    host.skep(&["save", "-o", &file("skep.tar"), "busybox"])?;
    ensure!(std::fs::read(file("docker.tar"))? == std::fs::read(file("skep.tar"))?, "the same each time");
    let list = host.exec(&["tar", "tf", &file("docker.tar")])?;
    for name in ["blobs/sha256/", "index.json", "manifest.json", "oci-layout", "repositories"] {
        ensure!(list.lines().any(|l| l == name), "{name} is not in {list}");
    }
    let of = |name: &str| -> Result<serde_json::Value> {
        Ok(serde_json::from_str(&host.exec(&["tar", "xOf", &file("docker.tar"), name])?)?)
    };
    let (index, manifest) = (of("index.json")?, of("manifest.json")?);
    let tags = ["latest", "two"];
    for (place, tag) in tags.iter().enumerate() {
        let notes = &index["manifests"][place]["annotations"];
        ensure!(notes["io.containerd.image.name"] == format!("docker.io/library/busybox:{tag}"), "{index}");
        ensure!(notes["org.opencontainers.image.ref.name"] == *tag, "{index}");
        let top = manifest[0]["Layers"][0].as_str().context("a layer")?.to_owned();
        ensure!(
            top.ends_with(of("repositories")?["busybox"][tag].as_str().context("its layer")?),
            "{manifest}"
        );
    }
    let copy = |from: &str, to: &str| host.exec(&["skopeo", "--insecure-policy", "copy", "-q", from, to]);
    for source in [
        format!("oci-archive:{}:two", file("docker.tar")),
        format!("docker-archive:{}:busybox:two", file("docker.tar")),
    ] {
        let to = file("copied");
        copy(&source, &format!("dir:{to}"))?;
        let copied: serde_json::Value =
            serde_json::from_slice(&std::fs::read(format!("{to}/manifest.json"))?)?;
        ensure!(copied["config"]["digest"] == id.trim(), "{source}: {copied}");
        std::fs::remove_dir_all(to)?;
    }
    let (root, run) = (file("podman"), file("podman-run"));
    let podman = |args: &[&str]| {
        let global = ["podman", "--root", &root, "--runroot", &run, "--storage-driver", "vfs"];
        host.exec(&[&global[..], args].concat())
    };
    // `podman load` of this version keeps no names of what is an OCI archive too, Docker's included.
    let loaded = podman(&["load", "-i", &file("docker.tar")])?;
    let named = loaded.trim().rsplit(' ').next().unwrap_or_default();
    let theirs = podman(&["inspect", "-f", "{{.Id}}", named.trim_start_matches("sha256:")])?;
    ensure!(id.trim().ends_with(theirs.trim()), "{theirs} of {loaded} is not {id}");
    // An image without a name is in the layout too; and all of it is loaded again here.
    host.docker(&["save", "-o", &file("bare.tar"), id.trim()])?;
    copy(&format!("oci-archive:{}", file("bare.tar")), &format!("dir:{}", file("bare")))?;
    host.docker(&["rmi", "-f", id.trim()])?;
    let loaded = host.docker(&["load", "-i", &file("docker.tar")])?;
    ensure!(loaded.contains("busybox:latest") && loaded.contains("busybox:two"), "{loaded}");
    ensure!(host.docker(&["inspect", "-f", "{{.Id}}", "busybox:two"])? == id, "it is another image");
    // What skopeo makes an OCI archive of is loaded as well.
    let two = format!("docker-archive:{}:busybox:two", file("docker.tar"));
    copy(&two, &format!("oci-archive:{}:again:1", file("again.tar")))?;
    ensure!(host.docker(&["load", "-i", &file("again.tar")])?.contains("again:1"), "its name is lost");
    lab.down()
}
