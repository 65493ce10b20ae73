//! Dockerfiles of the shapes that projects have, built by `docker build`, looked at, run, and built again by `skep build`.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use skep_e2e::swarm::{path, plain};
use skep_e2e::{Host, busybox_image};

use crate::cases::{self, Case};
use crate::{all, check};

const PATH: &str = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What `busybox:1.35` has.
const APPLETS: &[&str] = &[
    "sh", "cat", "echo", "ls", "mkdir", "chown", "chmod", "touch", "test", "env", "id", "crond", "crontab",
    "sleep", "true", "cp", "rm", "ln", "wget", "adduser",
];

/// What `cargo xtask packages` made.
fn packages(name: &str) -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let found = exe.ancestors().map(|dir| dir.join(format!("tools/{name}.tar"))).find(|p| p.exists());
    found.with_context(|| {
        format!("the image {name} of Debian's packages is not there: run `cargo xtask packages` once, which makes it")
    })
}

#[test]
fn what_projects_have_is_built_as_they_mean_it() -> Result<()> {
    let lab = plain("bp", 1)?;
    let host = lab.host(1);
    for name in ["toolchains", "languages"] {
        host.docker(&["import", path(&packages(name)?), name])?;
    }
    let archive = host.dir.join("busybox.tar");
    busybox_image(APPLETS, &archive)?;
    host.docker(&["import", "-c", PATH, "-c", r#"CMD ["sh"]"#, path(&archive), "busybox:1.35"])?;
    let (bases, projects): (Vec<Case>, Vec<Case>) =
        cases::read(include_str!("projects.txt"))?.into_iter().partition(|c| c.name.starts_with("base "));
    ensure!(projects.len() >= 20, "there are {} projects", projects.len());
    // In order: they begin from each other.
    for base in &bases {
        let tag = base.name.trim_start_matches("base ");
        check(host, tag, base, 1).with_context(|| base.name.clone())?;
    }
    all(host, &projects, |n, case| {
        let tag = format!("project:{n}");
        check(host, &tag, case, 1)?;
        with_skep(host, &tag, case)
    })?;
    ensure!(host.docker(&["ps", "-aq"])?.trim().is_empty(), "no build leaves a container");
    lab.down()
}

/// `skep build` sends the same context, so it finds all of what `docker build` has just made, and it is the same image.
fn with_skep(host: &Host, tag: &str, case: &Case) -> Result<()> {
    let context = host.dir.join(tag.replace(':', "-"));
    let flags: Vec<&str> = case.flags.iter().map(String::as_str).collect();
    let built = host.skep(&[&["build", "-q"], flags.as_slice(), &[path(&context)]].concat())?;
    let id = host.docker(&["image", "inspect", "-f", "{{.Id}}", tag])?;
    ensure!(
        built.trim() == id.trim(),
        "skep build made {} of what docker build made {}",
        built.trim(),
        id.trim()
    );
    Ok(())
}
