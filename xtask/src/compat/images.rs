//! The images that the tests of bollard pull, each made of Debian's static busybox: no registry of the internet is asked.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use skep_e2e::Host;

/// `/hello` of Docker's `hello-world`, as far as the tests look.
const HELLO: &str = "#!/bin/sh\necho; echo 'Hello from Docker!'\n";

/// The web server of `fussybeaver/uhttpd`.
const UHTTPD: &str = "#!/bin/sh\nexec /bin/busybox httpd \"$@\"\n";

/// Makes them and pushes them to a registry of the host.
pub fn push(host: &Host, registry: &str) -> Result<()> {
    let archive = host.dir.join("busybox.tar");
    rootfs(&archive)?;
    let archive = archive.to_str().context("a UTF-8 path")?;
    for (name, change) in [
        ("alpine:latest", "CMD [\"/bin/sh\"]"),
        ("hello-world:linux", "CMD [\"/hello\"]"),
        ("fussybeaver/uhttpd:latest", "CMD [\"/usr/sbin/run_uhttpd\"]"),
    ] {
        let name = format!("{registry}/{name}");
        host.docker(&["import", "-c", change, archive, &name])?;
        host.docker(&["push", &name])?;
    }
    Ok(())
}

fn rootfs(to: &Path) -> Result<()> {
    let list = std::process::Command::new("/bin/busybox").arg("--list").output().context("run busybox")?;
    ensure!(list.status.success(), "busybox --list: {}", list.status);
    let mut tar = tar::Builder::new(std::io::BufWriter::new(std::fs::File::create(to)?));
    let header = |kind: tar::EntryType, mode: u32, size: usize| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size as u64);
        header
    };
    for (dir, mode) in [("tmp", 0o1777), ("var", 0o755), ("www", 0o755), ("root", 0o700)] {
        tar.append_data(&mut header(tar::EntryType::Directory, mode, 0), dir, std::io::empty())?;
    }
    for (path, mode, text) in [
        ("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
        ("etc/group", 0o644, "root:x:0:\nnobody:x:65534:\n"),
        ("www/index.html", 0o644, "hello\n"),
        ("etc/config/uhttpd", 0o644, "\nconfig uhttpd main\n"),
        ("hello", 0o755, HELLO),
        ("usr/sbin/run_uhttpd", 0o755, UHTTPD),
    ] {
        tar.append_data(&mut header(tar::EntryType::Regular, mode, text.len()), path, text.as_bytes())?;
    }
    tar.append_path_with_name("/bin/busybox", "bin/busybox").context("busybox-static is installed")?;
    for applet in String::from_utf8(list.stdout)?.lines().filter(|a| *a != "busybox") {
        let mut link = header(tar::EntryType::Symlink, 0o777, 0);
        tar.append_link(&mut link, format!("bin/{applet}"), "busybox")?;
    }
    tar.into_inner()?.into_inner()?.sync_all()?;
    Ok(())
}
