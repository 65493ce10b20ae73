//! What containers have that say nothing of it, beyond what `defaults.rs` looks at; and settings that have one value.

use std::os::unix::fs::PermissionsExt;

use anyhow::{Result, ensure};

use super::{logged, shown, told};
use crate::{busybox, docker, lab, ok};

const B: &str = "/bin/busybox";

/// Refuses to make directories, and nothing else.
const PROFILE: &str = r#"{ "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1 }] }"#;

#[test]
fn containers_are_confined_as_the_daemon_was_told() -> Result<()> {
    let lab = lab("sd")?;
    let host = lab.host(1);
    busybox(host)?;
    let (profile, init) = (host.dir.join("seccomp.json"), host.dir.join("init"));
    std::fs::write(&profile, PROFILE)?;
    std::fs::write(&init, "#!/bin/sh\nshift\nexport BEGUN_BY=init\n\"$@\"\n")?;
    std::fs::set_permissions(&init, std::fs::Permissions::from_mode(0o755))?;
    let (profile, init) = (profile.display().to_string(), init.display().to_string());
    told(
        host,
        &format!(
            "seccomp-profile = {profile:?}\ninit-path = {init:?}\ndefault-ipc-mode = \"shareable\"\n\
             default-cgroupns-mode = \"private\"\noom-score-adjust = 100\nstorage-driver = \"overlay2\"\n\
             exec-opts = [\"native.cgroupdriver=cgroupfs\"]\nallow-nondistributable-artifacts = [\"r.example\"]\n\
             features = {{ buildkit = false, cdi = false }}\niptables = true\nuserland-proxy = true\ngroup = \"daemon\"\n"
        ),
    )?;
    let run = |flags: &[&str], script: &str| {
        docker(host, &[&["run", "--rm"], flags, &["busybox", "sh", "-c", script]].concat())
    };
    let made = format!("{B} mkdir /made && echo made");
    ensure!(run(&[], &made)?.stderr.contains("Operation not permitted"), "seccomp-profile");
    ensure!(ok(run(&["--security-opt", "seccomp=builtin"], &made)?)? == "made\n", "seccomp=builtin");
    ensure!(ok(run(&["--privileged"], &made)?)? == "made\n", "privileged");
    let info = host.docker(&["info", "-f", "{{.SecurityOptions}} {{.InitBinary}} {{.CDISpecDirs}}"])?;
    ensure!(
        info.contains(&format!("profile={profile}")) && info.contains(&init) && info.ends_with("[]\n"),
        "{info}"
    );
    let begun =
        ok(run(&["--init"], &format!("{B} cat /proc/1/cmdline | {B} tr '\\0' ' '; echo $BEGUN_BY"))?)?;
    ensure!(begun.contains("-init -- ") && begun.contains("init\n"), "init-path: {begun}");
    ensure!(ok(run(&[], "echo \"<$BEGUN_BY>\"")?)? == "<>\n", "init-path is for those that run an init");

    let own = ok(run(&[], &format!("{B} readlink /proc/self/ns/cgroup"))?)?;
    let of_host = host.exec(&["readlink", "/proc/1/ns/cgroup"])?;
    ensure!(own != of_host, "default-cgroupns-mode: {own}");
    let shared = ok(run(&["--cgroupns", "host"], &format!("{B} readlink /proc/self/ns/cgroup"))?)?;
    ensure!(shared == of_host, "{shared} {of_host}");
    host.docker(&["run", "-d", "--name", "donor", "busybox", B, "sleep", "1000"])?;
    host.docker(&["create", "--name", "private", "--ipc", "private", "busybox", B, "true"])?;
    let mode = |name| ["inspect", "-f", "{{.HostConfig.IpcMode}} {{.HostConfig.CgroupnsMode}}", name];
    shown(
        host,
        &[
            ("default-ipc-mode", &mode("donor"), "shareable private"),
            ("--ipc", &mode("private"), "private private"),
            (
                "default-ipc-mode",
                &["run", "--rm", "--ipc", "container:donor", "busybox", B, "echo", "joined"],
                "joined",
            ),
            ("storage-driver", &["info", "-f", "{{.Driver}} {{.CgroupDriver}}"], "overlayfs cgroupfs"),
        ],
    )?;

    let daemon = host.daemon_pid()?;
    let score = host.exec(&["cat", &format!("/proc/{daemon}/oom_score_adj")])?;
    ensure!(score.trim() == "100", "oom-score-adjust: {score}");
    let score = ok(run(&[], &format!("{B} cat /proc/self/oom_score_adj"))?)?;
    ensure!(score.trim() == "0", "containers have their own score: {score}");
    let owner = host.exec(&["stat", "-c", "%U:%G %a", &host.socket().display().to_string()])?;
    ensure!(owner.trim() == "root:daemon 660", "group: {owner}");
    logged(host, "allow-nondistributable-artifacts has no effect")?;
    lab.down()
}

#[test]
fn what_has_one_value_is_refused_by_name_and_judged_without_a_start() -> Result<()> {
    let lab = lab("se")?;
    let host = lab.host(1);
    let file = host.dir.join("judged.json");
    let path = file.display().to_string();
    let root = host.dir.join("never");
    let judge = |json: &str, flags: &[&str]| -> Result<std::process::Output> {
        std::fs::write(&file, json)?;
        let mut command = host.command(&host.skep)?;
        command.args(["daemon", "--validate", "--config-file", &path, "--data-root"]).arg(&root);
        Ok(command.args(flags).output()?)
    };
    for (json, flags, said) in [
        ("{}", &[] as &[&str], "configuration OK"),
        (
            r#"{ "bip": "10.9.0.1/24", "icc": false, "features": { "buildkit": false } }"#,
            &[],
            "configuration OK",
        ),
        ("{}", &["--icc", "--iptables", "--ip-forward=true", "-b", "none"], "configuration OK"),
        (r#"{ "colour": 1 }"#, &[], "unknown field `colour`"),
        (r#"{ "exec-opts": ["native.cgroupdriver=systemd"] }"#, &[], "native.cgroupdriver=cgroupfs"),
        (r#"{ "iptables": false }"#, &[], "iptables = false is not supported"),
        (r#"{ "features": { "buildkit": true } }"#, &[], "configuration OK"),
        (r#"{ "bip": "10.9.0.0/24" }"#, &[], "--bip 10.9.0.0/24"),
        (r#"{ "seccomp-profile": "/no/such" }"#, &[], "/no/such"),
        ("{}", &["--storage-driver", "zfs"], "use overlay2"),
        ("{}", &["--default-address-pool", "base=10.0.0.0/8,size=40"], "size of an address pool"),
        ("{}", &["--mtu", "9"], "--mtu 9"),
    ] {
        let out = judge(json, flags)?;
        let stderr = String::from_utf8_lossy(&out.stderr);
        ensure!(out.status.success() == (said == "configuration OK"), "{json} {flags:?}: {out:?}");
        ensure!(stderr.contains(said), "{json} {flags:?}: {stderr}");
    }
    ensure!(!root.exists(), "nothing is made");
    lab.down()
}
