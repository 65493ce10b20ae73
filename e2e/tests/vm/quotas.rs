//! `--storage-opt size=`: on a file system that keeps projects to their quotas, a container's changes do.

use anyhow::{Context, Result, bail, ensure};
use skep_e2e::busybox_image;
use skep_e2e::swarm::{bare, path};

/// Makes ext4 with project quotas on a device of the machine's memory, for the daemon's data.
const DISK: &str = r#"set -e
number=$(cat /sys/class/zram-control/hot_add)
echo 256M >"/sys/block/zram$number/disksize"
mkfs.ext4 -q -O quota,project -E quotatype=prjquota "/dev/zram$number"
mkdir -p "$1"
mount -t ext4 -o prjquota "/dev/zram$number" "$1"
"#;

#[test]
fn changes_of_a_container_take_no_more_than_its_size() -> Result<()> {
    let lab = bare("qt")?;
    let host = lab.host(1);
    let data = host.dir.join("data");
    host.exec(&["sh", "-c", DISK, "sh", path(&data)]).context("a disk with quotas")?;
    host.start_daemon()?;
    let archive = host.dir.join("bb.tar");
    busybox_image(&["sh", "dd", "df", "tail", "echo", "ls", "cat", "rm"], &archive)?;
    host.docker(&["import", path(&archive), "bb"])?;
    let sized = ["--storage-opt", "size=20m"];
    let run = |more: &[&str], script: &str| {
        host.docker(&[&["run", "--rm"][..], more, &["bb", "sh", "-c", script]].concat())
    };
    let shown = run(&sized, "df -k / | tail -n 1")?;
    ensure!(shown.split_whitespace().nth(1) == Some("20480"), "{shown}");
    let fill = "dd if=/dev/zero of=/big bs=1M count=40";
    let Err(full) = run(&sized, fill) else { bail!("40 MiB were written into 20") };
    let full = format!("{full:#}");
    ensure!(full.contains("No space left on device") || full.contains("quota exceeded"), "{full}");
    run(&[], fill).context("without a size")?;
    // What it has is kept over restarts, and two do not share theirs.
    host.docker(
        &[
            &["create", "--name", "kept"][..],
            &sized,
            &["bb", "sh", "-c", "cat /big | dd of=/dev/null; dd if=/dev/zero of=/big bs=1M count=15"],
        ]
        .concat(),
    )?;
    for _ in 0..2 {
        host.docker(&["start", "-a", "kept"])?;
    }
    host.docker(
        &[
            &["run", "--name", "other"][..],
            &sized,
            &["bb", "sh", "-c", "dd if=/dev/zero of=/big bs=1M count=15"],
        ]
        .concat(),
    )?;
    let shown = host.docker(&["inspect", "-f", "{{.HostConfig.StorageOpt}}", "kept"])?;
    ensure!(shown.trim() == "map[size:20m]", "{shown}");
    host.docker(&["rm", "kept", "other"])?;
    host.stop_daemon("-TERM")?;
    host.exec(&["umount", path(&data)])?;
    lab.down()
}
