//! Ways around a filter that only looks at 64-bit calls: the x32 numbers and the old 32-bit gate.

use std::arch::asm;

use super::{Outcome, Told, called};

const X32: i64 = 0x4000_0000;
const NEWUSER: i32 = libc::CLONE_NEWUSER;

fn call(number: libc::c_long, a: i64, b: i64, c: i64, d: i64) -> Outcome {
    // SAFETY: the arguments are plain integers.
    called(unsafe { libc::syscall(number, a, b, c, d) })
}

/// A call by the 32-bit gate, with its own numbers.
fn gate32(number: u32, a: u32, b: u32, c: u32) -> Outcome {
    let mut r = u64::from(number);
    // SAFETY: the kernel keeps all registers but eax; rbx, which the compiler needs, is put back.
    unsafe {
        asm!(
            "xchg rbx, {a:r}",
            "int 0x80",
            "xchg rbx, {a:r}",
            a = inout(reg) u64::from(a) => _,
            inout("rax") r,
            in("rcx") u64::from(b),
            in("rdx") u64::from(c),
            in("rsi") 0u64,
            in("rdi") 0u64,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    match r as i32 {
        e @ -4095..=-1 => Err(Told::Errno(-e)),
        _ => Ok(()),
    }
}

/// Runs the probe of that name.
pub fn run(name: &str) -> Option<Outcome> {
    Some(match name {
        "x32_unshare" => call(X32 | libc::SYS_unshare, NEWUSER.into(), 0, 0, 0),
        "x32_keyctl" => call(X32 | libc::SYS_keyctl, 0, -3, 0, 0),
        "x32_kexec_load" => call(X32 | 528, 0, 1 << 20, 0, -1),
        "gate32_unshare" => gate32(310, NEWUSER as u32, 0, 0),
        "gate32_mount" => gate32(21, 0, 0, 0),
        "gate32_keyctl" => gate32(288, 0, 0xffff_fffd, 0),
        "gate32_bpf" => gate32(357, 0xffff_ffff, 0, 0),
        "gate32_vsock" => gate32(359, 40, 1, 0),
        "iopl" => call(libc::SYS_iopl, 9, 0, 0, 0),
        // Refused to nobody: they say whether this kernel has such calls at all.
        "gate32_getpid" => gate32(20, 0, 0, 0),
        "x32_getpid" => call(X32 | libc::SYS_getpid, 0, 0, 0, 0),
        _ => return None,
    })
}
