//! Profiles in the form of the OCI runtime specification (config-linux.md, "Seccomp"), for other runtimes: what
//! does not apply to this container is left out, and the rest is as in the profile.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::bpf::{Comparison, Condition};
use super::profile::{ALLOW, architectures, errno, parse};
use super::{Seccomp, default};
use crate::runtime::capabilities::Capabilities;
use crate::runtime::error::Error;

/// What the configuration asks for; none for an unconfined or privileged container.
pub fn profile(
    seccomp: &Seccomp,
    capabilities: Capabilities,
    privileged: bool,
) -> Result<Option<Value>, Error> {
    match seccomp {
        _ if privileged => Ok(None),
        Seccomp::Unconfined => Ok(None),
        Seccomp::Default | Seccomp::Builtin => Ok(Some(built_in(capabilities))),
        Seccomp::Profile(json) => custom(json, capabilities).map(Some),
    }
}

fn built_in(capabilities: Capabilities) -> Value {
    let all = architectures();
    let names: BTreeSet<&str> = all.iter().flat_map(|a| a.table.iter().map(|(name, _)| *name)).collect();
    let mut always = Vec::new();
    let mut syscalls = Vec::new();
    for name in names {
        for clause in default::clauses(name, capabilities) {
            match clause.action {
                ALLOW if clause.conditions.is_empty() => always.push(name),
                ALLOW => {
                    let args: Vec<Value> = clause.conditions.iter().map(argument).collect();
                    syscalls.push(json!({ "names": [name], "action": "SCMP_ACT_ALLOW", "args": args }));
                }
                action if action == errno(libc::EPERM) => {}
                action => syscalls.push(
                    json!({ "names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": action & 0xffff }),
                ),
            }
        }
    }
    syscalls.push(json!({ "names": always, "action": "SCMP_ACT_ALLOW" }));
    let architectures: Vec<&str> = all.iter().map(|a| a.name).collect();
    json!({
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": libc::EPERM,
        "architectures": architectures, "syscalls": syscalls,
    })
}

fn custom(json: &str, capabilities: Capabilities) -> Result<Value, Error> {
    let profile = parse(json)?;
    let mut syscalls = Vec::new();
    for call in profile.syscalls.iter().filter(|c| c.applies(capabilities)) {
        let args: Vec<Value> = call.conditions()?.iter().map(argument).collect();
        let names: Vec<&String> =
            call.names.iter().chain(Some(&call.name).filter(|name| !name.is_empty())).collect();
        let mut out = json!({ "names": names, "action": call.action });
        if let Some(code) = call.errno_ret {
            out["errnoRet"] = code.into();
        }
        if !args.is_empty() {
            out["args"] = args.into();
        }
        syscalls.push(out);
    }
    let mut out = json!({
        "defaultAction": profile.default_action, "architectures": profile.wanted(&architectures()),
        "syscalls": syscalls,
    });
    if let Some(code) = profile.default_errno_ret {
        out["defaultErrnoRet"] = code.into();
    }
    Ok(out)
}

fn argument(c: &Condition) -> Value {
    let (op, second) = match c.comparison {
        Comparison::Ne => ("SCMP_CMP_NE", 0),
        Comparison::Lt => ("SCMP_CMP_LT", 0),
        Comparison::Le => ("SCMP_CMP_LE", 0),
        Comparison::Eq => ("SCMP_CMP_EQ", 0),
        Comparison::Ge => ("SCMP_CMP_GE", 0),
        Comparison::Gt => ("SCMP_CMP_GT", 0),
        Comparison::MaskedEq(value) => ("SCMP_CMP_MASKED_EQ", value),
    };
    json!({ "index": c.index, "value": c.value, "valueTwo": second, "op": op })
}
