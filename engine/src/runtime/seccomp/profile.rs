//! Profiles: the built-in default, and Docker's JSON form.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::bpf::{Clause, Comparison, Condition, Instruction, Rules, assemble};
use super::default;
use super::tables;
use crate::runtime::capabilities::Capabilities;
use crate::runtime::error::Error;

/// `SECCOMP_RET_ALLOW`.
pub const ALLOW: u32 = 0x7fff_0000;
const KILL_PROCESS: u32 = 0x8000_0000;
const X32_BIT: u32 = 0x4000_0000;

/// `SECCOMP_RET_ERRNO` with `code`.
pub fn errno(code: i32) -> u32 {
    0x0005_0000 | (code as u32 & 0xffff)
}

/// An architecture with the names and numbers of its calls.
pub(super) struct Architecture {
    pub(super) name: &'static str,
    audit: u32,
    pub(super) table: Vec<(&'static str, u32)>,
}

/// What the host can run: filters that share an audit number are merged.
pub(super) fn architectures() -> Vec<Architecture> {
    let make =
        |name, audit, table: &[(&'static str, u32)]| Architecture { name, audit, table: table.to_vec() };
    if cfg!(target_arch = "aarch64") {
        return vec![
            make("SCMP_ARCH_AARCH64", 0xc000_00b7, tables::aarch64::TABLE),
            make("SCMP_ARCH_ARM", 0x4000_0028, tables::arm::TABLE),
        ];
    }
    vec![
        make("SCMP_ARCH_X86_64", 0xc000_003e, tables::x86_64::TABLE),
        make("SCMP_ARCH_X32", 0xc000_003e, &x32()),
        make("SCMP_ARCH_X86", 0x4000_0003, tables::x86::TABLE),
    ]
}

/// Calls of x32 with numbers of their own, from 512 up.
const X32_OWN: [&str; 36] = [
    "rt_sigaction",
    "rt_sigreturn",
    "ioctl",
    "readv",
    "writev",
    "recvfrom",
    "sendmsg",
    "recvmsg",
    "execve",
    "ptrace",
    "rt_sigpending",
    "rt_sigtimedwait",
    "rt_sigqueueinfo",
    "sigaltstack",
    "timer_create",
    "mq_notify",
    "kexec_load",
    "waitid",
    "set_robust_list",
    "get_robust_list",
    "vmsplice",
    "move_pages",
    "preadv",
    "pwritev",
    "rt_tgsigqueueinfo",
    "recvmmsg",
    "sendmmsg",
    "process_vm_readv",
    "process_vm_writev",
    "setsockopt",
    "getsockopt",
    "io_setup",
    "io_submit",
    "execveat",
    "preadv2",
    "pwritev2",
];

fn x32() -> Vec<(&'static str, u32)> {
    let own = X32_OWN.iter().enumerate().map(|(i, name)| (*name, X32_BIT | (512 + i as u32)));
    let shared = tables::x86_64::TABLE.iter().filter(|(name, _)| !X32_OWN.contains(name));
    shared.map(|(name, n)| (*name, X32_BIT | n)).chain(own).collect()
}

/// The default profile's program for a container with these capabilities.
pub fn default_program(capabilities: Capabilities) -> Vec<Instruction> {
    let mut sets: Vec<(u32, Rules)> = Vec::new();
    for a in architectures() {
        let rules = rules_of(&mut sets, &a, errno(libc::EPERM));
        for (name, number) in &a.table {
            rules.calls.insert(*number, default::clauses(name, capabilities));
        }
    }
    assemble(&sets, KILL_PROCESS)
}

fn rules_of<'a>(sets: &'a mut Vec<(u32, Rules)>, a: &Architecture, otherwise: u32) -> &'a mut Rules {
    let at = match sets.iter().position(|(audit, _)| *audit == a.audit) {
        Some(at) => at,
        None => {
            let rules = Rules { otherwise, newer: errno(libc::ENOSYS), ..Rules::default() };
            sets.push((a.audit, rules));
            sets.len() - 1
        }
    };
    let first = a.table.iter().map(|(_, n)| *n).min().unwrap_or(0);
    // The 32-bit ARM table has private calls far above the rest; they must not widen "known".
    let last = a.table.iter().map(|(_, n)| *n).filter(|n| n & !X32_BIT < 0xf_0000).max().unwrap_or(0);
    let rules = &mut sets[at].1;
    rules.known.push((first, last));
    if a.name == "SCMP_ARCH_ARM" {
        rules.known.push((0xf_0001, 0xf_0005));
    }
    rules
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Profile {
    pub(super) default_action: String,
    pub(super) default_errno_ret: Option<i32>,
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default)]
    arch_map: Vec<ArchMap>,
    #[serde(default)]
    flags: Vec<String>,
    #[serde(default)]
    pub(super) syscalls: Vec<Syscall>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ArchMap {
    architecture: String,
    sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Syscall {
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) names: Vec<String>,
    pub(super) action: String,
    pub(super) errno_ret: Option<i32>,
    args: Option<Vec<Arg>>,
    #[serde(default)]
    #[serde(rename = "comment")]
    _comment: String,
    #[serde(default)]
    includes: Filter,
    #[serde(default)]
    excludes: Filter,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Arg {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Filter {
    caps: Vec<String>,
    arches: Vec<String>,
    min_kernel: Option<String>,
}

fn refused(text: String) -> Error {
    Error::Refused(format!("seccomp profile: {text}"))
}

/// Reads a profile in Docker's JSON form.
pub(super) fn parse(json: &str) -> Result<Profile, Error> {
    let profile: Profile = serde_json::from_str(json).map_err(|e| refused(e.to_string()))?;
    if let Some(flag) = profile.flags.first() {
        return Err(refused(format!("flag {flag:?} is not supported")));
    }
    if !profile.architectures.is_empty() && !profile.arch_map.is_empty() {
        return Err(refused("use either architectures or archMap, not both".into()));
    }
    Ok(profile)
}

/// Compiles a profile in Docker's JSON form.
pub fn custom_program(json: &str, capabilities: Capabilities) -> Result<Vec<Instruction>, Error> {
    let profile = parse(json)?;
    let otherwise = action(&profile.default_action, profile.default_errno_ret)?;
    let all = architectures();
    let wanted = profile.wanted(&all);
    let mut sets: Vec<(u32, Rules)> = Vec::new();
    for a in all.iter().filter(|a| wanted.iter().any(|w| w == a.name)) {
        let numbers: BTreeMap<&str, u32> = a.table.iter().copied().collect();
        let rules = rules_of(&mut sets, a, otherwise);
        if matches!(otherwise, ALLOW | 0x7ffc_0000) {
            rules.newer = otherwise;
        }
        for call in &profile.syscalls {
            if !call.applies(capabilities) {
                continue;
            }
            let clause =
                Clause { conditions: call.conditions()?, action: action(&call.action, call.errno_ret)? };
            for name in call.names.iter().chain(Some(&call.name).filter(|n| !n.is_empty())) {
                // Names unknown on this architecture are ignored, as libseccomp does.
                let Some(number) = numbers.get(name.as_str()) else { continue };
                let clauses = rules.calls.entry(*number).or_default();
                // An unconditional clause comes after the conditional ones, whatever the order written.
                if clauses.last().is_some_and(|c| c.conditions.is_empty()) {
                    let at = clauses.len() - 1;
                    if clause.conditions.is_empty() {
                        clauses[at] = clause.clone();
                    } else {
                        clauses.insert(at, clause.clone());
                    }
                } else {
                    clauses.push(clause.clone());
                }
            }
        }
    }
    Ok(assemble(&sets, KILL_PROCESS))
}

impl Profile {
    pub(super) fn wanted(&self, all: &[Architecture]) -> Vec<String> {
        let native = all[0].name;
        if let Some(map) = self.arch_map.iter().find(|m| m.architecture == native) {
            let mut wanted = map.sub_architectures.clone().unwrap_or_default();
            wanted.push(native.to_owned());
            return wanted;
        }
        let mut wanted = self.architectures.clone();
        wanted.push(native.to_owned());
        wanted
    }
}

impl Syscall {
    pub(super) fn applies(&self, capabilities: Capabilities) -> bool {
        let has = |c: &String| capabilities.has(c.trim_start_matches("CAP_"));
        let native = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let arch = |a: &String| a == native;
        (self.includes.caps.iter().all(has))
            && (self.includes.arches.is_empty() || self.includes.arches.iter().any(arch))
            && self.includes.min_kernel.as_deref().is_none_or(kernel_is_at_least)
            && !self.excludes.caps.iter().any(has)
            && !self.excludes.arches.iter().any(arch)
            && !self.excludes.min_kernel.as_deref().is_some_and(kernel_is_at_least)
    }

    pub(super) fn conditions(&self) -> Result<Vec<Condition>, Error> {
        self.args.iter().flatten().map(Arg::condition).collect()
    }
}

impl Arg {
    fn condition(&self) -> Result<Condition, Error> {
        if self.index > 5 {
            return Err(refused(format!("argument index {} is above 5", self.index)));
        }
        let comparison = match self.op.as_str() {
            "SCMP_CMP_NE" => Comparison::Ne,
            "SCMP_CMP_LT" => Comparison::Lt,
            "SCMP_CMP_LE" => Comparison::Le,
            "SCMP_CMP_EQ" => Comparison::Eq,
            "SCMP_CMP_GE" => Comparison::Ge,
            "SCMP_CMP_GT" => Comparison::Gt,
            "SCMP_CMP_MASKED_EQ" => Comparison::MaskedEq(self.value_two),
            other => return Err(refused(format!("unknown operator {other:?}"))),
        };
        Ok(Condition { index: self.index, comparison, value: self.value })
    }
}

fn action(name: &str, code: Option<i32>) -> Result<u32, Error> {
    Ok(match name {
        "SCMP_ACT_ALLOW" => ALLOW,
        "SCMP_ACT_LOG" => 0x7ffc_0000,
        "SCMP_ACT_ERRNO" => errno(code.unwrap_or(libc::EPERM)),
        "SCMP_ACT_TRACE" => 0x7ff0_0000 | (code.unwrap_or(libc::EPERM) as u32 & 0xffff),
        "SCMP_ACT_TRAP" => 0x0003_0000,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => 0,
        "SCMP_ACT_KILL_PROCESS" => KILL_PROCESS,
        other => return Err(refused(format!("action {other:?} is not supported"))),
    })
}

fn kernel_is_at_least(wanted: &str) -> bool {
    let parse = |text: &str| -> (u32, u32) {
        let mut parts = text.split(|c: char| !c.is_ascii_digit()).map(|p| p.parse().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    };
    let release =
        nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default();
    parse(&release) >= parse(wanted)
}
