//! The default profile: what Docker's default profile allows, written as what is kept from a
//! container. Every call in our tables is allowed except those below; calls newer than the tables
//! answer ENOSYS, so that programs fall back to older ones.

use super::bpf::{Clause, Comparison, Condition};
use super::profile::{ALLOW, errno};
use crate::runtime::capabilities::Capabilities;

/// Allowed only with one of these capabilities.
const WITH_CAPABILITY: &[(&[&str], &[&str])] = &[
    (&["DAC_READ_SEARCH"], &["open_by_handle_at"]),
    (
        &["SYS_ADMIN"],
        &[
            "clone",
            "clone3",
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "lookup_dcookie",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "open_tree_attr",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "umount",
            "umount2",
            "unshare",
        ],
    ),
    (&["SYS_ADMIN", "BPF"], &["bpf"]),
    (&["SYS_ADMIN", "PERFMON"], &["perf_event_open"]),
    (&["SYS_ADMIN", "SYSLOG"], &["syslog"]),
    (&["SYS_BOOT"], &["reboot"]),
    (&["SYS_CHROOT"], &["chroot"]),
    (&["SYS_MODULE"], &["delete_module", "finit_module", "init_module"]),
    (&["SYS_PACCT"], &["acct"]),
    (&["SYS_PTRACE"], &["kcmp", "pidfd_getfd", "process_madvise"]),
    (&["SYS_RAWIO"], &["ioperm", "iopl"]),
    (&["SYS_TIME"], &["clock_settime", "clock_settime64", "settimeofday", "stime"]),
    (&["SYS_TTY_CONFIG"], &["vhangup"]),
    (&["SYS_NICE"], &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
];

/// Never allowed: not namespaced, obsolete, or a way around the other rules.
const NEVER: &[&str] = &[
    "_sysctl",
    "add_key",
    "afs_syscall",
    "bdflush",
    "break",
    "create_module",
    "ftime",
    "get_kernel_syms",
    "getpmsg",
    "gtty",
    "idle",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "lock",
    "migrate_pages",
    "move_pages",
    "mpx",
    "nfsservctl",
    "pciconfig_iobase",
    "pciconfig_read",
    "pciconfig_write",
    "pivot_root",
    "prof",
    "profil",
    "putpmsg",
    "query_module",
    "request_key",
    "security",
    "stty",
    "swapoff",
    "swapon",
    "sysfs",
    "tuxcall",
    "ulimit",
    "uretprobe",
    "uselib",
    "userfaultfd",
    "usr26",
    "usr32",
    "ustat",
    "vm86",
    "vm86old",
    "vserver",
];

/// The clone flags that make namespaces: all of them but CLONE_NEWTIME, which shares a bit with the exit signal.
const NEW_NAMESPACES: u64 = 0x7e02_0000;
/// The execution domains harmless to ask for: Linux, Linux32, both with UNAME26 where it exists, and "tell me".
const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];
const AF_VSOCK: u64 = 40;

/// The clauses for the call `name`.
pub fn clauses(name: &str, capabilities: Capabilities) -> Vec<Clause> {
    let always = |action| vec![Clause { conditions: Vec::new(), action }];
    let when = |index, comparison, value| Clause {
        conditions: vec![Condition { index, comparison, value }],
        action: ALLOW,
    };
    if NEVER.contains(&name) {
        return always(errno(libc::EPERM));
    }
    let capable = WITH_CAPABILITY
        .iter()
        .find(|(_, calls)| calls.contains(&name))
        .is_none_or(|(any, _)| any.iter().any(|c| capabilities.has(c)));
    match name {
        "personality" => PERSONALITIES.iter().map(|p| when(0, Comparison::Eq, *p)).collect(),
        // Reaches the hypervisor, which no namespace separates.
        "socket" => vec![when(0, Comparison::Ne, AF_VSOCK)],
        "clone" if !capable => vec![when(0, Comparison::MaskedEq(0), NEW_NAMESPACES)],
        // Its flags are in memory, out of a filter's sight: programs fall back to clone.
        "clone3" if !capable => always(errno(libc::ENOSYS)),
        _ if capable => always(ALLOW),
        _ => always(errno(libc::EPERM)),
    }
}
