//! Why the kernel does not run a program that is there: it is for another platform, and no emulator for that is
//! registered, or none that the container reaches.
//!
//! What the kernel runs by an emulator is registered with its module binfmt_misc
//! (Documentation/admin-guide/binfmt-misc.rst). Registered with the flag `F` an emulator is opened there and then, and found
//! from within every container; without it, it is looked for among the container's own files.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use skep_registry::Platform;

/// Interpreters of interpreters, as many as the kernel follows (`exec_binprm` of fs/exec.c).
const MOST: usize = 5;
/// What of a file is looked at: more than the kernel does of a script (`BINPRM_BUF_SIZE`).
const HEAD: usize = 256;

/// What to say beside the kernel's "exec format error"; empty for a program of this host.
pub fn unregistered(program: &Path) -> String {
    let Some((foreign, host)) = platforms(program) else { return String::new() };
    format!(
        ": it is a program for {foreign}, this host is {host}, and no emulator for {foreign} is registered with it \
         (binfmt_misc): install one, such as Debian's package qemu-user-static, or use an image for {host}"
    )
}

/// What to say beside the kernel's "no such file" of a program that is there; empty for one of this host.
pub fn unreachable(program: &Path) -> String {
    let Some((foreign, host)) = platforms(program) else { return String::new() };
    format!(
        ": it is a program for {foreign}, this host is {host}, and either its dynamic loader or the emulator that is \
         registered for {foreign} is not among the container's files: register the emulator with the flag F \
         (binfmt_misc), as Debian's package qemu-user-static does"
    )
}

/// The platform that a program is for, where that is another than this host's, and this host's.
fn platforms(program: &Path) -> Option<(String, String)> {
    let mut path = program.to_owned();
    for _ in 0..MOST {
        let mut head = Vec::with_capacity(HEAD);
        // Of whoever made the image: a pipe keeps nobody waiting.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path).ok()?;
        file.take(HEAD as u64).read_to_end(&mut head).ok()?;
        match interpreter(&head) {
            Some(next) => path = next,
            None => {
                let host = Platform::host();
                let architecture = architecture(&head).filter(|a| *a != host.architecture)?;
                return Some((format!("linux/{architecture}"), host.to_string()));
            }
        }
    }
    None
}

/// What reads a script, by its first line (execve(2)).
fn interpreter(head: &[u8]) -> Option<PathBuf> {
    let line = head.strip_prefix(b"#!")?.split(|b| *b == b'\n').next()?;
    let word = line.split(|b| b" \t".contains(b)).find(|w| !w.is_empty())?;
    Some(PathBuf::from(std::str::from_utf8(word).ok()?))
}

/// Go's name of the architecture of an ELF file, by `e_machine` of its header (elf(5)).
fn architecture(head: &[u8]) -> Option<&'static str> {
    let [0x7f, b'E', b'L', b'F', class, data, ..] = head else { return None };
    let machine = [*head.get(18)?, *head.get(19)?];
    let (little, wide) = (*data == 1, *class == 2);
    let machine = if little { u16::from_le_bytes(machine) } else { u16::from_be_bytes(machine) };
    Some(match (machine, wide, little) {
        (3, ..) => "386",
        (8, false, false) => "mips",
        (8, false, true) => "mipsle",
        (8, true, false) => "mips64",
        (8, true, true) => "mips64le",
        (21, _, false) => "ppc64",
        (21, _, true) => "ppc64le",
        (22, ..) => "s390x",
        (40, ..) => "arm",
        (62, ..) => "amd64",
        (183, ..) => "arm64",
        (243, ..) => "riscv64",
        (258, ..) => "loong64",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(class: u8, data: u8, machine: [u8; 2]) -> Vec<u8> {
        let mut head = vec![0x7f, b'E', b'L', b'F', class, data, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0];
        head.extend(machine);
        head
    }

    #[test]
    fn programs_tell_their_architecture() {
        for (head, name) in [
            (elf(2, 1, [183, 0]), Some("arm64")),
            (elf(2, 1, [62, 0]), Some("amd64")),
            (elf(2, 2, [0, 22]), Some("s390x")),
            (elf(2, 2, [0, 8]), Some("mips64")),
            (elf(1, 1, [8, 0]), Some("mipsle")),
            (elf(2, 1, [0, 99]), None),
            (elf(2, 1, [183, 0])[..19].to_vec(), None),
            (b"#!/bin/sh\n".to_vec(), None),
            (Vec::new(), None),
        ] {
            assert_eq!(architecture(&head), name, "{head:?}");
        }
    }

    #[test]
    fn scripts_are_followed_to_what_reads_them() {
        let dir = tempfile::tempdir().expect("a directory");
        let (program, script, round) = (dir.path().join("p"), dir.path().join("s"), dir.path().join("r"));
        std::fs::write(&program, elf(2, 2, [0, 22])).expect("write");
        std::fs::write(&script, format!("#! {} -e\nx\n", program.display())).expect("write");
        std::fs::write(&round, format!("#!{}\n", round.display())).expect("write");
        for path in [&program, &script] {
            let said = unregistered(path);
            assert!(
                said.contains("a program for linux/s390x") && said.contains("qemu-user-static"),
                "{said}"
            );
        }
        for other in [&round, &dir.path().join("none"), Path::new("/proc/self/exe")] {
            assert_eq!(unregistered(other) + &unreachable(other), "", "{}", other.display());
        }
    }
}
