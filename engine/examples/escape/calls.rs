//! System calls that a container must not make, each with arguments that change nothing where it may.

use std::io;

use super::{Outcome, Told, called};

const NEWUSER: i64 = libc::CLONE_NEWUSER as i64;
const NEWNS: i64 = libc::CLONE_NEWNS as i64;
const NOWHERE: *const libc::c_char = c"/nowhere".as_ptr();
const FAR: usize = 0;

fn call(number: libc::c_long, a: i64, b: i64, c: i64, d: i64, e: i64) -> Outcome {
    // SAFETY: arguments are integers or point to static strings; the kernel checks what it is given.
    called(unsafe { libc::syscall(number, a, b, c, d, e) })
}

fn child_of(r: libc::c_long) -> Outcome {
    if r == 0 {
        // SAFETY: the child of a clone ends at once.
        unsafe { libc::_exit(0) }
    }
    called(r)
}

fn clone(flags: i64) -> Outcome {
    // SAFETY: without CLONE_VM and a stack this is a fork.
    child_of(unsafe { libc::syscall(libc::SYS_clone, flags | i64::from(libc::SIGCHLD), 0, 0, 0, 0) })
}

fn clone3(flags: i64) -> Outcome {
    let mut args = [0u64; 11];
    args[0] = flags as u64;
    args[4] = libc::SIGCHLD as u64;
    // SAFETY: a live struct of the size given.
    child_of(unsafe { libc::syscall(libc::SYS_clone3, args.as_mut_ptr(), size_of_val(&args)) })
}

fn socket(domain: i32, kind: i32) -> Outcome {
    call(libc::SYS_socket, domain.into(), kind.into(), 0, 0, 0)
}

fn setns() -> Outcome {
    let own = std::fs::File::open("/proc/self/ns/net")?;
    call(libc::SYS_setns, std::os::fd::AsRawFd::as_raw_fd(&own).into(), 0, 0, 0, 0)
}

fn open_tree() -> Outcome {
    call(libc::SYS_open_tree, libc::AT_FDCWD.into(), c"/".as_ptr() as i64, 1, 0, 0)
}

/// A tmpfs over /tmp by mount(2).
fn mount() -> Outcome {
    let tmpfs = c"tmpfs".as_ptr() as i64;
    call(libc::SYS_mount, tmpfs, c"/tmp".as_ptr() as i64, tmpfs, 0, 0)
}

/// `mount -o remount,rw /proc/sys`.
fn remount() -> Outcome {
    let flags = (libc::MS_REMOUNT | libc::MS_BIND) as i64;
    call(libc::SYS_mount, 0, c"/proc/sys".as_ptr() as i64, 0, flags, 0)
}

/// Changes the MTU of the loopback interface.
fn set_mtu() -> Outcome {
    // SAFETY: plain integers; all zeroes is a valid ifreq.
    let (fd, mut request) =
        unsafe { (libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0), std::mem::zeroed::<libc::ifreq>()) };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_mtu = 4096;
    // SAFETY: a live ifreq.
    called(unsafe { libc::ioctl(fd, libc::SIOCSIFMTU, &raw const request) }.into())
}

/// The serial of the session keyring, which tells whose it is.
fn session() -> Outcome {
    // SAFETY: plain integers: KEYCTL_GET_KEYRING_ID of KEY_SPEC_SESSION_KEYRING.
    match unsafe { libc::syscall(libc::SYS_keyctl, 0, -3i64, 0) } {
        -1 => Err(io::Error::last_os_error().into()),
        serial => Err(Told::Words(serial.to_string())),
    }
}

/// Runs the probe of that name.
pub fn run(name: &str) -> Option<Outcome> {
    let path = NOWHERE as i64;
    let far = FAR as i64;
    let root = c"/".as_ptr() as i64;
    let key = c"user".as_ptr() as i64;
    Some(match name {
        "mount" => mount(),
        "remount" => remount(),
        "umount" => call(libc::SYS_umount2, c"/proc".as_ptr() as i64, libc::MNT_DETACH.into(), 0, 0, 0),
        "pivot_root" => call(libc::SYS_pivot_root, path, path, 0, 0, 0),
        "fsopen" => call(libc::SYS_fsopen, c"tmpfs".as_ptr() as i64, 0, 0, 0, 0),
        "fspick" => call(libc::SYS_fspick, libc::AT_FDCWD.into(), root, 0, 0, 0),
        "open_tree" => open_tree(),
        "move_mount" => call(libc::SYS_move_mount, -1, far, -1, far, 0),
        "mount_setattr" => call(libc::SYS_mount_setattr, -1, far, 0, far, 0),
        "unshare_user" => call(libc::SYS_unshare, NEWUSER, 0, 0, 0, 0),
        "unshare_mount" => call(libc::SYS_unshare, NEWNS, 0, 0, 0, 0),
        "clone_user" => clone(NEWUSER),
        "clone_mount" => clone(NEWNS),
        "clone3_user" => clone3(NEWUSER),
        "setns" => setns(),
        "keyctl" => call(libc::SYS_keyctl, 0, -3, 0, 0, 0),
        "session" => session(),
        "add_key" => call(libc::SYS_add_key, key, key, key, 1, -3),
        "request_key" => call(libc::SYS_request_key, key, path, 0, 0, 0),
        "bpf" => call(libc::SYS_bpf, -1, far, 0, 0, 0),
        "perf_event_open" => call(libc::SYS_perf_event_open, far, 0, -1, -1, 0),
        "userfaultfd" => call(libc::SYS_userfaultfd, 0, 0, 0, 0, 0),
        "io_uring_setup" => call(libc::SYS_io_uring_setup, 0, far, 0, 0, 0),
        "io_uring_enter" => call(libc::SYS_io_uring_enter, -1, 0, 0, 0, 0),
        "kexec_load" => call(libc::SYS_kexec_load, 0, 1 << 20, 0, -1, 0),
        "kexec_file_load" => call(libc::SYS_kexec_file_load, -1, -1, 0, far, 0),
        "init_module" => call(libc::SYS_init_module, far, 0, far, 0, 0),
        "finit_module" => call(libc::SYS_finit_module, -1, far, 0, 0, 0),
        "delete_module" => call(libc::SYS_delete_module, path, 0, 0, 0, 0),
        "reboot" => call(libc::SYS_reboot, 0, 0, 0, 0, 0),
        "swapon" => call(libc::SYS_swapon, path, 0, 0, 0, 0),
        "swapoff" => call(libc::SYS_swapoff, path, 0, 0, 0, 0),
        "settimeofday" => call(libc::SYS_settimeofday, 1, 0, 0, 0, 0),
        "clock_settime" => call(libc::SYS_clock_settime, 0, 1, 0, 0, 0),
        "acct" => call(libc::SYS_acct, path, 0, 0, 0, 0),
        "quotactl" => call(libc::SYS_quotactl, -1, path, 0, far, 0),
        "open_by_handle_at" => call(libc::SYS_open_by_handle_at, -1, far, 0, 0, 0),
        "syslog" => call(libc::SYS_syslog, 3, far, -1, 0, 0),
        "sethostname" => call(libc::SYS_sethostname, path, 4096, 0, 0, 0),
        "setdomainname" => call(libc::SYS_setdomainname, path, 4096, 0, 0, 0),
        "process_madvise" => call(libc::SYS_process_madvise, -1, far, 0, 0, 0),
        "pidfd_getfd" => call(libc::SYS_pidfd_getfd, -1, 0, 0, 0, 0),
        "personality" => call(libc::SYS_personality, 0x040_0000, 0, 0, 0, 0),
        "vsock" => socket(libc::AF_VSOCK, libc::SOCK_STREAM),
        "set_mtu" => set_mtu(),
        _ => return None,
    })
}
