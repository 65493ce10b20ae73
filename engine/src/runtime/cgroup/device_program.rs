//! Device rules on cgroups v2: a small eBPF program that the kernel asks before every open or mknod.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::runtime::devices::DeviceRule;

const BPF_PROG_LOAD: i32 = 5;
const BPF_PROG_ATTACH: i32 = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

const LOAD_WORD: u8 = 0x61;
const MOVE_IMMEDIATE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const AND_IMMEDIATE: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_NE_IMMEDIATE: u8 = 0x55;
const JUMP_NE_REGISTER: u8 = 0x5d;
const EXIT: u8 = 0x95;

#[repr(C)]
#[derive(Clone, Copy)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

fn op(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: dst | src << 4, offset, immediate }
}

/// Register 2: kind, 3: access wanted, 4: major, 5: minor.
fn assemble(rules: &[DeviceRule]) -> Vec<Instruction> {
    let mut program = vec![
        op(LOAD_WORD, 2, 1, 0, 0),
        op(MOVE_REGISTER, 3, 2, 0, 0),
        op(AND_IMMEDIATE, 2, 0, 0, 0xffff),
        op(SHIFT_RIGHT, 3, 0, 0, 16),
        op(LOAD_WORD, 4, 1, 4, 0),
        op(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules {
        let mut tests: Vec<Vec<Instruction>> = Vec::new();
        let kind = match rule.kind {
            'b' => Some(1),
            'c' => Some(2),
            _ => None,
        };
        tests.extend(kind.map(|k| vec![op(JUMP_NE_IMMEDIATE, 2, 0, 0, k)]));
        let access = rule.access.chars().fold(0, |bits, c| {
            bits | match c {
                'm' => 1,
                'r' => 2,
                _ => 4,
            }
        });
        if access != 7 {
            tests.push(vec![
                op(MOVE_REGISTER, 1, 3, 0, 0),
                op(AND_IMMEDIATE, 1, 0, 0, access),
                op(JUMP_NE_REGISTER, 1, 3, 0, 0),
            ]);
        }
        tests.extend(rule.major.map(|m| vec![op(JUMP_NE_IMMEDIATE, 4, 0, 0, m as i32)]));
        tests.extend(rule.minor.map(|m| vec![op(JUMP_NE_IMMEDIATE, 5, 0, 0, m as i32)]));
        let mut block: Vec<Instruction> = tests.concat();
        block.extend([op(MOVE_IMMEDIATE, 0, 0, 0, 1), op(EXIT, 0, 0, 0, 0)]);
        let end = block.len();
        for (at, i) in block.iter_mut().enumerate() {
            if matches!(i.code, JUMP_NE_IMMEDIATE | JUMP_NE_REGISTER) {
                i.offset = (end - at - 1) as i16;
            }
        }
        program.extend(block);
        if tests.is_empty() {
            // Everything is allowed. The kernel takes no program with a part that is never reached.
            return program;
        }
    }
    program.extend([op(MOVE_IMMEDIATE, 0, 0, 0, 0), op(EXIT, 0, 0, 0, 0)]);
    program
}

#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

fn bpf<T>(command: i32, attributes: &T) -> io::Result<i64> {
    // SAFETY: `attributes` is a live struct of the size given; the kernel zero-extends it.
    let r = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(r) }
}

/// Allows exactly `rules` to the processes of `cgroup`. The program lives as long as the group.
pub fn attach(cgroup: &OwnedFd, rules: &[DeviceRule]) -> io::Result<()> {
    let program = assemble(rules);
    let load = Load {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        instruction_count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..Load::default()
    };
    let fd = bpf(BPF_PROG_LOAD, &load)?;
    // SAFETY: the kernel just returned this descriptor to us and nobody else knows it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    let attach = Attach {
        target: cgroup.as_raw_fd() as u32,
        program: fd.as_raw_fd() as u32,
        kind: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    bpf(BPF_PROG_ATTACH, &attach).map(|_| ())
}
