//! System calls.

use skep_engine::Seccomp;

use super::{others, privileged, these, tried};

const CALLS: [&str; 42] = [
    "mount",
    "remount",
    "pivot_root",
    "fsopen",
    "fspick",
    "open_tree",
    "move_mount",
    "mount_setattr",
    "unshare_user",
    "unshare_mount",
    "clone_user",
    "clone_mount",
    "setns",
    "keyctl",
    "add_key",
    "request_key",
    "bpf",
    "perf_event_open",
    "userfaultfd",
    "io_uring_setup",
    "io_uring_enter",
    "kexec_load",
    "kexec_file_load",
    "init_module",
    "finit_module",
    "delete_module",
    "reboot",
    "swapon",
    "swapoff",
    "settimeofday",
    "clock_settime",
    "acct",
    "quotactl",
    "open_by_handle_at",
    "syslog",
    "sethostname",
    "setdomainname",
    "process_madvise",
    "pidfd_getfd",
    "personality",
    "vsock",
    "set_mtu",
];

#[tokio::test]
async fn calls_that_reach_beyond_a_container_are_refused() {
    let found = tried(&CALLS, |_| {}).await;
    assert!(others(&found, &["EPERM"]).is_empty(), "{:?}", others(&found, &["EPERM"]));
    // The kernel's own checks of the arguments come into sight.
    let lifted = tried(&CALLS, privileged).await;
    assert!(these(&lifted, "EPERM").is_empty(), "{:?}", these(&lifted, "EPERM"));

    // Programs fall back to clone, whose flags can be seen.
    assert_eq!(tried(&["clone3_user"], |_| {}).await["clone3_user"], "ENOSYS");
    assert_eq!(tried(&["umount"], |_| {}).await["umount"], "EPERM");
    let lifted = tried(&["clone3_user", "umount"], privileged).await;
    assert_eq!(these(&lifted, "ok").len(), 2, "{lifted:?}");
}

#[tokio::test]
async fn a_filter_alone_keeps_what_root_could_do() {
    let calls = ["unshare_user", "clone_user", "keyctl", "io_uring_enter", "personality"];
    for change in [&["SYS_ADMIN"][..], &["ALL"]] {
        let found = tried(&["keyctl", "userfaultfd", "io_uring_enter", "vsock"], |s| {
            s.cap_add = change.iter().map(|c| (*c).to_owned()).collect();
        });
        let found = found.await;
        assert!(others(&found, &["EPERM"]).is_empty(), "{change:?}: {found:?}");
    }
    let lifted = tried(&calls, |s| s.seccomp = Seccomp::Unconfined).await;
    assert!(these(&lifted, "EPERM").is_empty(), "{lifted:?}");
}

#[cfg(target_arch = "x86_64")]
#[tokio::test]
async fn the_filter_sees_calls_by_other_gates() {
    let calls = [
        "x32_unshare",
        "x32_keyctl",
        "x32_kexec_load",
        "gate32_unshare",
        "gate32_mount",
        "gate32_keyctl",
        "gate32_bpf",
        "gate32_vsock",
        "iopl",
    ];
    let found = tried(&calls, |_| {}).await;
    assert!(others(&found, &["EPERM"]).is_empty(), "{found:?}");
    let lifted = tried(&[&calls[..], &["gate32_getpid", "x32_getpid"]].concat(), privileged).await;
    // A kernel built without such calls ends the process or has none of that number.
    let gate32 = lifted["gate32_getpid"] == "ok";
    let x32 = lifted["x32_getpid"] == "ok";
    let reached = lifted.iter().filter(|(probe, _)| match probe.split_once('_') {
        Some(("gate32", _)) => gate32,
        Some(("x32", _)) => x32,
        _ => true,
    });
    let refused: Vec<_> = reached.filter(|(_, r)| *r == "EPERM").collect();
    assert!(refused.is_empty(), "{refused:?} of {lifted:?}");
}
