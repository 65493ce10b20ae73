//! Capabilities: Docker's default set, additions and removals, and dropping the rest.

use std::io;

use super::error::{Context, Error};

/// Names by number, without `CAP_`.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// A set of capabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities(u64);

impl Capabilities {
    /// What a container may keep: Docker's default set with `add` and `drop` applied.
    pub fn resolve(add: &[String], drop: &[String], privileged: bool) -> Result<Self, Error> {
        let all = (1u64 << NAMES.len()) - 1;
        let mut set = if privileged || has_all(add) {
            all
        } else if has_all(drop) {
            0
        } else {
            DEFAULT.iter().filter_map(|n| number(n)).fold(0, |set, n| set | 1 << n)
        };
        for name in drop.iter().filter(|n| !is_all(n)) {
            set &= !(1 << parse(name)?);
        }
        for name in add.iter().filter(|n| !is_all(n)) {
            set |= 1 << parse(name)?;
        }
        Ok(Self(set))
    }

    /// Whether `name` (without `CAP_`) is in the set.
    pub fn has(self, name: &str) -> bool {
        number(name).is_some_and(|n| self.0 & (1 << n) != 0)
    }

    /// Their names, with `CAP_`.
    pub fn names(self) -> Vec<String> {
        let held = NAMES.iter().enumerate().filter(|(n, _)| self.0 & (1 << n) != 0);
        held.map(|(_, name)| format!("CAP_{name}")).collect()
    }

    /// Those of this set that this process may hand on: nobody can give what they do not have.
    pub fn possible(self) -> Self {
        let held = (0..NAMES.len()).filter(|n| bounding(*n) == 1).fold(0, |set, n| set | 1 << n);
        Self(self.0 & held)
    }

    /// Removes everything else from the bounding set, for good.
    pub fn bound(self) -> Result<(), Error> {
        for n in 0..64usize {
            match bounding(n) {
                1 if self.0 & (1 << n) == 0 => {
                    // SAFETY: plain integers.
                    let r = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, n as libc::c_ulong, 0, 0, 0) };
                    if r != 0 {
                        return Err(io::Error::last_os_error()).on("drop capability", n);
                    }
                }
                0 | 1 => {}
                _ => break,
            }
        }
        Ok(())
    }

    /// Sets permitted and effective to this set, inheritable and ambient to nothing.
    pub fn apply(self) -> Result<(), Error> {
        // SAFETY: plain integers.
        unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
        set(self.0, self.0).on("set", "capabilities")
    }

    /// No capability at all, the way a container's unprivileged user starts.
    pub fn none() -> Self {
        Self(0)
    }
}

/// Makes all that is permitted effective again, after a change of user.
pub fn raise_permitted() -> Result<(), Error> {
    let permitted = permitted().on("read", "capabilities")?;
    set(permitted, permitted).on("raise", "capabilities")
}

/// Refuses a name that is none.
pub fn check(names: &[String]) -> Result<(), Error> {
    names.iter().filter(|n| !is_all(n)).try_for_each(|n| parse(n).map(drop))
}

fn is_all(name: &str) -> bool {
    name.eq_ignore_ascii_case("all") || name.eq_ignore_ascii_case("cap_all")
}

fn has_all(names: &[String]) -> bool {
    names.iter().any(|n| is_all(n))
}

fn number(name: &str) -> Option<usize> {
    NAMES.iter().position(|n| *n == name)
}

fn parse(name: &str) -> Result<usize, Error> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    number(bare).ok_or_else(|| Error::Refused(format!("unknown capability: \"CAP_{bare}\"")))
}

fn bounding(n: usize) -> i32 {
    // SAFETY: plain integers.
    unsafe { libc::prctl(libc::PR_CAPBSET_READ, n as libc::c_ulong, 0, 0, 0) }
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const VERSION_3: u32 = 0x2008_0522;

fn permitted() -> io::Result<u64> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let mut data = [Data::default(); 2];
    // SAFETY: version 3 takes two data structs.
    let r = unsafe { libc::syscall(libc::SYS_capget, std::ptr::from_mut(&mut header), data.as_mut_ptr()) };
    if r != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u64::from(data[0].permitted) | u64::from(data[1].permitted) << 32)
}

fn set(permitted: u64, effective: u64) -> io::Result<()> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let half = |shift: u32| Data {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: 0,
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 takes two data structs.
    let r = unsafe { libc::syscall(libc::SYS_capset, std::ptr::from_mut(&mut header), data.as_ptr()) };
    if r != 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
