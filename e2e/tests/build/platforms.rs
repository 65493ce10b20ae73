//! `--platform`: what an image is for is what was asked for, or what its base is for; and which image a container is made of.
//! Running what is of another platform needs an emulator: `e2e/tests/vm/emulation.rs`.

use std::fs;

use anyhow::{Result, ensure};
use skep_e2e::swarm::{path, plain};
use skep_e2e::{Host, busybox_image};

use super::{builder, docker_build, run};

fn platform(host: &Host, image: &str) -> Result<String> {
    let shown = host.docker(&["image", "inspect", "-f", "{{.Os}}/{{.Architecture}}/{{.Variant}}", image])?;
    Ok(shown.trim().to_owned())
}

#[test]
fn an_image_is_for_the_platform_that_was_asked_for_or_that_of_its_base() -> Result<()> {
    let (lab, context) = builder("bp")?;
    let host = lab.host(1);
    fs::write(context.join("f"), "the same for all")?;
    let build = |flags: &[&str], text: &str| {
        fs::write(context.join("Dockerfile"), text)?;
        let (ok, said) = run(docker_build(host, &[flags, &["-t", "made"]].concat(), &context))?;
        ensure!(ok, "{said}");
        platform(host, "made")
    };
    // The layer is the same one, and kept: whose it is depends on each build.
    let text = "FROM scratch\nCOPY f /f\n";
    for (flags, wanted) in [
        (&["--platform", "linux/arm64"][..], "linux/arm64/"),
        (&[], "linux/amd64/"),
        (&["--platform", "linux/arm/v6"], "linux/arm/v6"),
        (&["--platform", "linux/arm64"], "linux/arm64/"),
    ] {
        let found = build(flags, text)?;
        ensure!(found == wanted, "{flags:?}: {found}");
    }
    host.skep(&["build", "--squash", "--platform", "linux/s390x", "-t", "made", path(&context)])?;
    ensure!(platform(host, "made")? == "linux/s390x/", "squashed");
    let found = build(&[], "FROM --platform=linux/riscv64 scratch\nCOPY f /f\n")?;
    ensure!(found == "linux/riscv64/", "{found}");
    // That of the base, and of the stage that is the target.
    build(&["--platform", "linux/arm64"], text)?;
    host.docker(&["tag", "made", "base"])?;
    for (text, wanted) in [
        ("FROM base\nCOPY f /g\n", "linux/arm64/"),
        ("FROM base AS a\nFROM a\nLABEL x=y\n", "linux/arm64/"),
        ("FROM base AS a\nFROM bb\nCOPY --from=a /f /f\n", "linux/amd64/"),
    ] {
        let found = build(&[], text)?;
        ensure!(found == wanted, "{text}: {found}");
    }
    lab.down()
}

#[test]
fn a_container_is_made_of_an_image_for_the_platform_that_was_asked_for() -> Result<()> {
    let lab = plain("bpc", 1)?;
    let host = lab.host(1);
    let archive = host.dir.join("bb.tar");
    busybox_image(&["sh"], &archive)?;
    host.docker(&["import", path(&archive), "bb"])?;
    host.docker(&["import", "--platform", "linux/s390x", path(&archive), "other"])?;
    for client in [Host::docker_command, Host::skep_command] {
        let ask = |args: &[&str]| {
            let mut command = client(host);
            command.args([&["create", "--pull", "never"], args].concat());
            run(command)
        };
        let (ok, said) = ask(&["--platform", "linux/amd64", "bb", "sh"])?;
        ensure!(ok && !said.contains("WARNING"), "{said}");
        let (ok, said) = ask(&["--platform", "linux/s390x", "other", "sh"])?;
        ensure!(ok && !said.contains("WARNING"), "{said}");
        let (ok, said) = ask(&["other", "sh"])?;
        let warning = "The requested image's platform (linux/s390x) does not match the detected host platform (linux/amd64)";
        ensure!(ok && said.contains(warning), "{said}");
        let (ok, said) = ask(&["--platform", "linux/s390x", "bb", "sh"])?;
        let refusal = "platform (linux/amd64) does not match the specified platform (linux/s390x)";
        ensure!(!ok && said.contains(refusal), "{said}");
    }
    lab.down()
}
