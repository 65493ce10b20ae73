//! Containers with a user namespace: their root is nobody on the host, and all of the rest is as without one.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use skep_engine::shim::{ExecSpec, Namespace, NetworkNamespace};
use skep_engine::{IdMaps, IdRange, MountConfig, MountKind};

use crate::fixture::{Bundle, ended};

/// Where the IDs of the container begin on the host.
const FIRST: u32 = 231_072;

fn script(text: &str) -> Bundle {
    let range = IdRange { container: 0, host: FIRST, count: 65536 };
    // A file system that knows id-mapped mounts, as a tmpfs does not before Linux 6.3.
    let mut b = Bundle::below(Path::new("/var/tmp"), &["sh", "-c", &format!("exec 2>&1; {text}")]);
    b.spec.id_maps = Some(IdMaps { uids: vec![range], gids: vec![range] });
    b
}

fn owner(path: &Path) -> (u32, u32) {
    let meta = path.symlink_metadata().expect("it is there");
    (meta.uid(), meta.gid())
}

#[tokio::test]
async fn root_is_root_inside_and_nobody_on_the_host() {
    let mut b = script(
        "id -u; id -g; stat -c %u:%g /bin/busybox /; echo mine > /made; stat -c %u:%g /made /dev /dev/null; \
         cat /proc/self/uid_map | tr -s ' '; cat /bind/secret; echo x > /bind/mine || echo no write; \
         stat -c %u /bind/secret; touch /bind/theirs/x; stat -c %u /bind/theirs; cat /proc/1/uid_map > /dev/null && echo seen; \
         echo x > /dev/null; echo x > /proc/sysrq-trigger || echo no trigger; mknod /node c 1 3 || echo no node; \
         hostname other || echo no name; ls /dev/pts | grep -c ptmx; chown 5:6 /made; stat -c %u:%g /made",
    );
    let bind = b.path("bind");
    std::fs::create_dir_all(bind.join("theirs")).expect("made");
    std::fs::write(bind.join("secret"), "of the host's root\n").expect("written");
    std::fs::set_permissions(bind.join("secret"), PermissionsExt::from_mode(0o600)).expect("closed");
    std::os::unix::fs::chown(bind.join("theirs"), Some(FIRST), Some(FIRST)).expect("given");
    b.spec.mounts.push(MountConfig::new(MountKind::bind(&bind), "/bind", false));
    let out = b.output().await.1;
    let wanted = "0\n0\n0:0\n0:0\n0:0\n0:0\n0:0\n 0 231072 65536\n\
        cat: can't open '/bind/secret': Permission denied\n\
        sh: can't create /bind/mine: Permission denied\nno write\n65534\n0\nseen\n";
    assert!(out.starts_with(wanted), "{out}");
    for said in ["no trigger\n", "no node\n", "no name\n", "1\n5:6\n"] {
        assert!(out.contains(said), "{said}: {out}");
    }
    // The disk has the container's own IDs; what is bound has the host's.
    assert_eq!(owner(&b.path("upper/made")), (5, 6));
    assert_eq!(owner(&bind.join("theirs/x")), (FIRST, FIRST));
}

#[tokio::test]
async fn users_terminals_and_limits_are_as_without() {
    let mut b = script(
        "id; echo out; echo err >&2; tty; cat /proc/self/oom_score_adj; stat -c %u /dev/console; touch /tmp/x || echo closed",
    );
    b.spec.user = "web".into();
    b.spec.tty = true;
    b.spec.read_only = true;
    b.spec.oom_score_adj = Some(200);
    let out = b.output().await.1.replace('\r', "");
    assert_eq!(
        out,
        "uid=33(web) gid=33(web) groups=33(web),40(logs)\nout\nerr\n/dev/pts/0\n200\n33\ntouch: /tmp/x: Read-only file system\nclosed\n"
    );
    let mut b = script(
        "id -u; echo x > /proc/self/fd/1; grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status | tr '\\t' ' '; cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null",
    );
    b.spec.user = "7:8".into();
    b.spec.resources.pids = Some(33);
    b.spec.no_new_privileges = true;
    assert_eq!(b.output().await.1, "7\nx\nCapEff: 0000000000000000\nNoNewPrivs: 1\nSeccomp: 2\n33\n");
}

#[tokio::test]
async fn its_namespaces_are_its_own_with_all_capabilities_in_them() {
    let mut b = script(
        "mount -t tmpfs tmpfs /tmp && echo mounted; ip link set lo mtu 1400 && echo changed; \
         umount /proc/sysrq-trigger || echo kept; umount /dev; mount -o remount,rw /sys || echo still read-only",
    );
    b.spec.cap_add = vec!["SYS_ADMIN".into(), "NET_ADMIN".into()];
    b.spec.sysctls.insert("net.ipv4.ip_forward".into(), "1".into());
    let out = b.output().await.1;
    assert!(out.starts_with("mounted\nchanged\n"), "{out}");
}

#[tokio::test]
async fn commands_enter_it_and_others_share_it() {
    let b = script("echo up; sleep 1000");
    let shim = b.launch().await.expect("launches");
    let pid = shim.start().await.expect("starts");
    let process = Path::new("/proc").join(pid.to_string());
    assert_eq!(owner(&process), (FIRST, FIRST));
    let command = "{ id -u; tr -s ' ' < /proc/self/uid_map; } > /by-exec";
    let argv = ["sh", "-c", command].map(String::from).to_vec();
    let exec = ExecSpec { id: "e1".into(), argv, ..ExecSpec::default() };
    assert_eq!(ended(shim.exec(&exec).await.expect("runs")).await, 0);
    let said = std::fs::read_to_string(b.path("upper/by-exec")).expect("written");
    assert_eq!(said, "0\n 0 231072 65536\n");
    assert_eq!(owner(&b.path("upper/by-exec")), (0, 0));
    let mut other =
        script("ps | grep -c 'sleep 1000'; readlink /proc/self/ns/user; readlink /proc/1/ns/user");
    other.spec.network = NetworkNamespace::Path(process.join("ns/net"));
    other.spec.pid = Namespace::Path(process.join("ns/pid"));
    let out = other.output().await.1;
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines.len() == 3 && lines[0] != "0" && lines[1] == lines[2], "{out}");
    let mut foreign = script("true");
    foreign.spec.network = NetworkNamespace::Path("/proc/self/ns/net".into());
    let refused = foreign.launch().await.expect_err("the host's");
    assert!(refused.to_string().contains("another user namespace"), "{refused}");
    shim.signal(9).await.expect("signalled");
    shim.wait().await.expect("ends");
}
