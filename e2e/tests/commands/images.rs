//! `docker image ...` and `docker manifest ...`, and logging in and out, with a registry that wants a password.

use anyhow::{Result, bail, ensure};
use skep_e2e::Host;
use skep_e2e::tally::{Tally, docker, prints, refuses, says, words};

/// Address of the registry, on the host.
pub const REGISTRY: &str = "127.0.0.1:5000";

pub fn drive(tally: &mut Tally<'_>) -> Result<()> {
    let host = tally.host;
    let file = |name: &str| host.dir.join(name).display().to_string();
    let remote = format!("{REGISTRY}/team/bb:1");
    tally.drive("image import", |h| {
        let tar = h.dir.join("busybox.tar").display().to_string();
        says(h, &format!("import -m why -c 'CMD [\"/bin/hostname\"]' {tar} imported:1"), "sha256:")?;
        prints(h, "run --rm -h web imported:1", "web")
    });
    tally.drive("image tag", |h| {
        docker(h, &format!("tag imported:1 {remote}"))?;
        refuses(h, "tag nosuch other", "no such image: nosuch")
    });
    tally.drive("image ls", |h| {
        prints(h, "images --format '{{.Repository}}:{{.Tag}}' imported", "imported:1")?;
        says(h, "images", "REPOSITORY")?;
        says(h, "images -q --no-trunc imported", "sha256:")?;
        prints(h, "images -q --filter dangling=true", "")?;
        refuses(h, "images --filter colour=red", "invalid filter")
    });
    tally.drive("image inspect", |h| {
        prints(
            h,
            "image inspect -f '{{json .Config.Cmd}} {{.Comment}}' imported:1",
            r#"["/bin/hostname"] why"#,
        )?;
        refuses(h, "image inspect nosuch", "no such image: nosuch")
    });
    tally.drive("image history", |h| prints(h, "history --format '{{.Comment}}' imported:1", "why"));
    tally.drive("image save", |h| docker(h, &format!("save -o {} imported:1", file("saved.tar"))).map(drop));
    tally.drive("image rm", |h| {
        says(h, &format!("rmi imported:1 {remote}"), "Untagged: imported:1")?;
        refuses(h, "rmi imported:1", "no such image: imported:1")
    });
    tally.drive("image load", |h| {
        says(h, &format!("load -i {}", file("saved.tar")), "Loaded image: imported:1")?;
        prints(h, "run --rm -h web imported:1", "web")
    });
    docker(host, &format!("tag imported:1 {remote}"))?;
    tally.drive("image push", |h| refuses(h, &format!("push {remote}"), "no basic auth credentials"));
    tally.drive("login", |h| {
        refuses(h, &format!("login -u me -p wrong {REGISTRY}"), "unauthorized")?;
        says(h, &format!("login -u me -p secret {REGISTRY}"), "Login Succeeded")
    });
    tally.drive("image push", |h| says(h, &format!("push {remote}"), "digest: sha256:"));
    tally.drive("image pull", |h| {
        docker(h, &format!("rmi {remote} imported:1"))?;
        says(h, &format!("pull {remote}"), &format!("Status: Downloaded newer image for {remote}"))?;
        prints(h, &format!("run --rm -h web {remote}"), "web")?;
        refuses(h, &format!("pull {REGISTRY}/team/nosuch:1"), "not found")
    });
    // The client speaks to the registry by itself, and so has to be on the host.
    let list = format!("{REGISTRY}/team/list:1");
    tally.drive("manifest create", |h| {
        says_inside(
            h,
            &format!("manifest create --insecure {list} {remote}"),
            &format!("Created manifest list {list}"),
        )
    });
    tally.drive("manifest annotate", |h| {
        says_inside(h, &format!("manifest annotate --arch amd64 --os linux {list} {remote}"), "")
    });
    tally.drive("manifest push", |h| says_inside(h, &format!("manifest push --insecure {list}"), "sha256:"));
    tally.drive("manifest inspect", |h| {
        says_inside(h, &format!("manifest inspect --insecure {list}"), r#""architecture": "amd64""#)?;
        docker(h, &format!("pull {list}")).map(drop)
    });
    tally.drive("search", |h| {
        // Debian's registry has no search, which the client is told; e2e/tests/registry.rs plays one that has.
        refuses(h, &format!("search {REGISTRY}/bb"), "has no search")
    });
    tally.drive("logout", |h| {
        says(h, &format!("logout {REGISTRY}"), "Removing login credentials")?;
        refuses(h, &format!("pull {remote}"), "no basic auth credentials")
    });
    tally.drive("image prune", |h| {
        docker(h, "tag bb spare")?;
        says(h, "image prune -f", "Total reclaimed space: ")?;
        docker(h, "run -d --name user bb sleep 100000")?;
        says(h, "image prune -af", "untagged: ")?;
        // What a container uses is still there.
        prints(h, "exec user echo here", "here")?;
        docker(h, "rm -f user")?;
        let tar = h.dir.join("busybox.tar").display().to_string();
        docker(h, &format!("import {tar} bb")).map(drop)
    });
    Ok(())
}

fn says_inside(host: &Host, line: &str, expected: &str) -> Result<()> {
    let output = host.docker_inside()?.args(words(line)).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("`docker {line}`: {said}{}", String::from_utf8_lossy(&output.stderr));
    }
    ensure!(said.contains(expected), "`docker {line}` printed {said:?}, without {expected:?}");
    Ok(())
}
