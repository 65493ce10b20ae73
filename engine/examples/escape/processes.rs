//! Processes, descriptors and sockets of others.

use std::io;
use std::os::fd::FromRawFd;

use super::{Outcome, Told, called};

fn pid(text: &str) -> i32 {
    text.parse().unwrap_or(0)
}

/// Attaches to a process, and lets it go at once.
fn trace(pid: i32) -> Outcome {
    // SAFETY: PTRACE_SEIZE neither stops it nor takes an address.
    let r = unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) };
    if r == 0 {
        // SAFETY: as above. It ends with this process anyhow.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, pid, 0, 0) };
    }
    called(r)
}

/// Reads memory of another process.
fn memory(pid: i32) -> Outcome {
    let mut byte = [0u8; 1];
    let local = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    // Static programs are not relocated, so this address is mapped in all of them.
    let remote = libc::iovec { iov_base: 0x40_0000 as *mut libc::c_void, iov_len: 1 };
    // SAFETY: one live buffer here; the other side's address is checked by the kernel.
    match unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) } {
        -1 => match io::Error::last_os_error().raw_os_error() {
            // It let us in; only the address was none.
            Some(libc::EFAULT) => Ok(()),
            Some(e) => Err(Told::Errno(e)),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

/// What the descriptors of a process lead to, but for its stdio.
fn descriptors(process: &str) -> Outcome {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{process}/fd"))?.flatten() {
        let number = entry.file_name().to_string_lossy().into_owned();
        // The last one is the listing's own.
        let leads = std::fs::read_link(entry.path())?.display().to_string();
        let own = process == "self" && leads.ends_with("/fd");
        if number.parse::<u32>().is_ok_and(|n| n > 2) && !own {
            found.push(format!("{number}={leads}"));
        }
    }
    match found.is_empty() {
        true => Err(Told::Words("none".into())),
        false => Err(Told::Words(found.join(" "))),
    }
}

/// Connects to a socket of an abstract name.
fn abstract_socket(name: &str) -> Outcome {
    use std::os::linux::net::SocketAddrExt;
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
    std::os::unix::net::UnixStream::connect_addr(&address)?;
    Ok(())
}

/// The network interfaces that a packet socket can be bound to.
fn packet() -> Outcome {
    // SAFETY: plain integers; the descriptor is owned at once.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error().into());
    }
    // SAFETY: just opened, known to nobody else.
    drop(unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) });
    let names = nix::net::if_::if_nameindex().map_err(io::Error::from)?;
    let names: Vec<String> = names.iter().map(|i| i.name().to_string_lossy().into_owned()).collect();
    Err(Told::Words(names.join(" ")))
}

/// Runs the probe of that name.
pub fn run(name: &str, argument: &str) -> Option<Outcome> {
    Some(match name {
        "trace" => trace(pid(argument)),
        "memory" => memory(pid(argument)),
        "descriptors" => descriptors(argument),
        "kill" => {
            // SAFETY: signal 0 only asks.
            called(unsafe { libc::kill(pid(argument), 0) }.into())
        }
        "abstract" => abstract_socket(argument),
        "packet" => packet(),
        _ => return None,
    })
}
