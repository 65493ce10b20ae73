//! The program that judges the use of devices.

use anyhow::{Result, bail, ensure};

use crate::one;

#[test]
fn a_container_can_use_the_harmless_devices_only() -> Result<()> {
    let lab = one("dev")?;
    let host = lab.host(1);
    let run = |more: &[&str], script: &str| {
        host.docker(&[&["run", "--rm"][..], more, &["bb", "sh", "-c", script]].concat())
    };
    let harmless = "echo x > /dev/null && dd if=/dev/zero of=/dev/null count=1 && dd if=/dev/urandom of=/dev/null count=1";
    run(&[], harmless)?;
    run(&["-t"], "echo seen > /dev/tty")?;
    // Tunnels, and the machine's swap: their nodes can be made, and not opened.
    for node in ["tun c 10 200", &zram()?] {
        let script = format!("mknod /tmp/{node} && echo made && dd if=/tmp/{} count=1", name(node));
        let Err(e) = run(&[], &script) else { bail!("{node} could be read") };
        let text = format!("{e:#}");
        ensure!(text.contains("made") && text.contains("Operation not permitted"), "{node}: {text}");
    }
    run(&["--privileged"], "dd if=/dev/zram0 of=/dev/null count=1")?;
    lab.down()
}

fn name(node: &str) -> &str {
    node.split(' ').next().unwrap_or_default()
}

/// The machine's one block device, as mknod(1) wants it.
fn zram() -> Result<String> {
    let number = std::fs::read_to_string("/sys/block/zram0/dev")?;
    Ok(format!("zram b {}", number.trim().replace(':', " ")))
}
