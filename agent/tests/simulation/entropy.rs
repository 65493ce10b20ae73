//! Makes what no parameter reaches repeatable: the keys of hash maps, and from them the generator by which
//! tokio picks among ready branches. Both ask the C library's `getrandom`, and this file is it for the
//! simulation's binary. Only a thread that asked for it gets seeded bytes; others get the kernel's.

#![allow(unsafe_code, reason = "the C library's getrandom has C's interface")]

use std::cell::Cell;

thread_local! {
    static SEEDED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// From now on this thread's entropy comes from `seed`.
pub fn seed(seed: u64) {
    SEEDED.set(Some(seed));
}

/// SplitMix64, a step.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// See getrandom(2).
///
/// # Safety
/// `buffer` must be valid for `length` bytes, as the C library asks of its callers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(
    buffer: *mut libc::c_void,
    length: libc::size_t,
    flags: libc::c_uint,
) -> libc::ssize_t {
    let Some(mut state) = SEEDED.try_with(Cell::get).ok().flatten() else {
        // SAFETY: the caller's promise is the system call's.
        return unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) as libc::ssize_t };
    };
    // SAFETY: the caller vouches for the buffer.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&next(&mut state).to_le_bytes()[..chunk.len()]);
    }
    SEEDED.set(Some(state));
    length as libc::ssize_t
}
