//! Programs of another platform: run by an emulator that is registered with the kernel, in containers and in builds; and what
//! is said where there is none, or none that a container reaches.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use skep_e2e::swarm::{path, plain, refused};
use skep_e2e::{Host, busybox_image, busybox_image_of};

/// Both are put into the machine by `cargo xtask vm`.
const FOREIGN_BUSYBOX: &str = "/usr/bin/busybox.arm64";
const EMULATOR: &str = "/usr/bin/qemu-aarch64-static";

/// How the kernel knows a program for it: magic and mask of an ELF header with `e_machine` 183 (elf(5)).
const MAGIC: &str = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00";
const MASK: &str = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff";

/// The kernel's files of registered emulators (Documentation/admin-guide/binfmt-misc.rst), mounted until it is dropped.
struct Emulators {
    dir: PathBuf,
}

impl Emulators {
    fn mount(host: &Host) -> Result<Self> {
        let dir = host.dir.join("binfmt");
        fs::create_dir_all(&dir)?;
        let status =
            std::process::Command::new("mount").args(["-t", "binfmt_misc", "none"]).arg(&dir).status()?;
        ensure!(status.success(), "the kernel has no binfmt_misc, which is among the machine's modules");
        Ok(Self { dir })
    }

    fn register(&self, flags: &str) -> Result<()> {
        let line = format!(":skep-e2e:M::{MAGIC}:{MASK}:{EMULATOR}:{flags}");
        fs::write(self.dir.join("register"), line).context("register the emulator")
    }

    fn remove(&self) -> Result<()> {
        fs::write(self.dir.join("skep-e2e"), "-1").context("remove the emulator")
    }
}

impl Drop for Emulators {
    fn drop(&mut self) {
        // One that a failed test left.
        let _ = self.remove();
        let _ = std::process::Command::new("umount").arg(&self.dir).status();
    }
}

fn build(host: &Host, flags: &[&str], text: &str) -> Result<String> {
    let context = host.dir.join("context");
    fs::create_dir_all(&context)?;
    fs::write(context.join("Dockerfile"), text)?;
    let mut command = host.docker_command();
    command.env("DOCKER_BUILDKIT", "0").arg("build").args(flags).arg(&context);
    let output = command.output()?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    match output.status.success() {
        true => Ok(said),
        false => bail!("{said}"),
    }
}

#[test]
fn images_of_another_platform_run_where_an_emulator_is_registered() -> Result<()> {
    let lab = plain("emu", 1)?;
    let host = lab.host(1);
    let (own, foreign) = (host.dir.join("own.tar"), host.dir.join("foreign.tar"));
    let applets = ["sh", "uname", "cat", "sleep"];
    busybox_image(&applets, &own)?;
    busybox_image_of(Path::new(FOREIGN_BUSYBOX), &applets, &foreign)?;
    host.docker(&["import", path(&own), "bb"])?;
    host.docker(&["import", "--platform", "linux/arm64", path(&foreign), "foreign"])?;
    let emulators = Emulators::mount(host)?;

    // Without one: whose platform, why, and what to do.
    let run = ["run", "--rm", "--platform", "linux/arm64", "foreign", "uname", "-m"];
    let missing = ["exec format error", "linux/arm64", "no emulator", "qemu-user-static"];
    refused(host, &run, &missing)?;
    let text = "FROM foreign\nARG TARGETARCH\nRUN uname -m > /machine && echo $TARGETARCH >> /machine\n\
                CMD [\"cat\", \"/machine\"]\n";
    let Err(said) = build(host, &["--platform", "linux/arm64"], text) else { bail!("there is no emulator") };
    let said = format!("{said:#}");
    ensure!(missing.iter().all(|w| said.contains(w)) && said.contains("Dockerfile:3"), "{said}");
    // One that is looked for in the container, where it is not.
    emulators.register("POC")?;
    refused(host, &run, &["no such file or directory", "linux/arm64", "flag F"])?;
    emulators.remove()?;

    // As Debian registers it.
    emulators.register("POCF")?;
    ensure!(host.docker(&run)?.trim() == "aarch64");
    ensure!(host.skep(&run)?.trim() == "aarch64");
    host.docker(&["run", "-d", "--init", "--name", "up", "foreign", "sleep", "1000"])?;
    ensure!(host.docker(&["exec", "up", "uname", "-m"])?.trim() == "aarch64");
    host.docker(&["rm", "-f", "up"])?;
    build(host, &["--platform", "linux/arm64", "-t", "built"], text)?;
    ensure!(host.docker(&["run", "--rm", "--platform", "linux/arm64", "built"])? == "aarch64\narm64\n");
    let platform = host.docker(&["image", "inspect", "-f", "{{.Os}}/{{.Architecture}}", "built"])?;
    ensure!(platform.trim() == "linux/arm64", "{platform}");
    // Stages of both platforms, and one that begins with nothing.
    let text = "FROM --platform=$BUILDPLATFORM bb AS tools\nRUN uname -m > /tools\nFROM foreign AS files\nRUN uname -m > /files\n\
                FROM scratch\nCOPY --from=files / /\nCOPY --from=tools /tools /tools\nRUN cat /tools /files > /all && uname -m >> /all\n";
    build(host, &["--platform", "linux/arm64", "-t", "mixed"], text)?;
    let mixed = host.docker(&["run", "--rm", "--platform", "linux/arm64", "mixed", "cat", "/all"])?;
    ensure!(mixed == "x86_64\naarch64\naarch64\n", "{mixed}");
    emulators.remove()?;
    drop(emulators);
    lab.down()
}
