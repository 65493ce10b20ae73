//! Volumes of the local driver on a server of NFS: the kernel's own, on the same host.

use anyhow::{Context, Result, ensure};
use skep_e2e::Host;
use skep_e2e::swarm::refused;

use crate::one;

/// Says beforehand what the kernel would ask rpc.mountd: one client, and one export, which is the root of NFSv4
/// (fsid 0). The flags: any port, writes unsynced, whole file system, the number is ours (`linux/nfsd/export.h`).
const SERVE: &str = r#"set -e
mkdir -p "$1/nfsd" "$1/exported" /var/lib/nfs/v4recovery
mount -t nfsd nfsd "$1/nfsd"
until=$(($(date +%s) + 100000))
echo "nfsd 127.0.0.1 $until lab" >/proc/net/rpc/auth.unix.ip/channel
echo "lab $1/exported $until 9234 65534 65534 0" >/proc/net/rpc/nfsd.export/channel
printf '%s\n' "lab 1 \\x00000000 $until $1/exported" >/proc/net/rpc/nfsd.fh/channel
echo 10 >"$1/nfsd/nfsv4leasetime"
echo 10 >"$1/nfsd/nfsv4gracetime"
echo "-2 -3 +4" >"$1/nfsd/versions"
echo "tcp 2049" >"$1/nfsd/portlist"
echo 2 >"$1/nfsd/threads"
"#;
const END: &str = "echo 0 >\"$1/nfsd/threads\"; umount \"$1/nfsd\"";

fn script(host: &Host, text: &str) -> Result<()> {
    let dir = host.dir.display().to_string();
    host.exec(&["sh", "-c", text, "sh", &dir]).map(drop)
}

fn volume(host: &Host, name: &str, more: &str) -> Result<()> {
    let o = format!("o=addr=127.0.0.1,nfsvers=4.2,{more}");
    host.docker(&["volume", "create", "-o", "type=nfs", "-o", "device=:/", "-o", &o, name]).map(drop)
}

fn mounted(host: &Host) -> Result<usize> {
    let all = host.exec(&["cat", "/proc/self/mounts"])?;
    Ok(all.lines().filter(|l| l.split(' ').nth(2) == Some("nfs4")).count())
}

#[test]
fn volumes_lie_on_a_server_of_nfs() -> Result<()> {
    let lab = one("nfs")?;
    let host = lab.host(1);
    script(host, SERVE).context("the kernel's server")?;
    let exported = host.dir.join("exported");
    volume(host, "far", "rw")?;
    let write = "echo there >/v/x && mkdir /v/d && cat /v/x";
    let said = host.docker(&["run", "--rm", "-v", "far:/v", "bb", "sh", "-c", write])?;
    ensure!(said == "there\n", "{said}");
    ensure!(std::fs::read_to_string(exported.join("x"))? == "there\n" && exported.join("d").is_dir());
    ensure!(mounted(host)? == 0, "it stays mounted after its last container");

    // Two have it, one goes; another daemon finds it.
    for name in ["a1", "a2"] {
        host.docker(&["run", "-d", "--name", name, "-v", "far:/v", "bb", "sleep", "100000"])?;
    }
    ensure!(mounted(host)? == 1);
    host.stop_daemon("-KILL")?;
    host.start_daemon()?;
    host.docker(&["rm", "-f", "a1"])?;
    std::fs::write(exported.join("y"), "new")?;
    ensure!(host.docker(&["exec", "a2", "cat", "/v/y"])? == "new");
    host.docker(&["rm", "-f", "a2"])?;
    ensure!(mounted(host)? == 0, "the other daemon leaves it mounted");

    // Read-only, a part of it, and what cannot be had.
    volume(host, "look", "ro")?;
    let part = "type=volume,src=look,dst=/v,volume-subpath=d,volume-nocopy";
    refused(host, &["run", "--rm", "--mount", part, "bb", "mkdir", "/v/e"], &["Read-only file system"])?;
    volume(host, "none", "soft,timeo=10,retrans=1,port=2050")?;
    refused(
        host,
        &["run", "--rm", "-v", "none:/v", "bb", "cat"],
        &["failed to mount local volume", "addr=127.0.0.1"],
    )?;
    ensure!(mounted(host)? == 0, "what is left is mounted");
    host.docker(&["volume", "rm", "far", "look", "none"])?;
    ensure!(exported.join("x").exists(), "to remove a volume is not to remove what it shows");
    script(host, END)?;
    lab.down()
}
