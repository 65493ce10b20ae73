//! Devices of the Container Device Interface, by both clients and by all runtimes: nodes, variables, mounts and hooks of
//! a device that is no more than a null device, and what is said when there is something wrong with it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use skep_e2e::{Host, Lab, LabOptions, eventually};

use crate::{busybox, docker, skep};

const LONG: Duration = Duration::from_secs(60);
/// Writes into the root file system that the bundle of its state names.
const CREATED: &str = r#"b=$(sed 's/.*"bundle":"\([^"]*\)".*/\1/') && r=$(sed 's/.*"root":{"path":"\([^"]*\)".*/\1/' $b/config.json) && cd $b && echo made > $r/made && test -e $r/dev/hole"#;

fn prepared() -> Result<Lab> {
    let init = std::path::PathBuf::from(env!("CARGO_BIN_EXE_skep-lab-init"));
    let name = format!("dv{}", std::process::id() % 10_000);
    let lab = Lab::bare(LabOptions { name, hosts: 1, skep: init.with_file_name("skep"), init })?;
    let host = lab.host(1);
    let specifications = host.dir.join("cdi");
    let config = format!(
        "cdi-spec-dirs = [{specifications:?}]\n[runtimes.runc]\npath = \"runc\"\n[runtimes.crun]\npath = \"crun\"\nruntimeArgs = [\"--cgroup-manager=cgroupfs\"]\n"
    );
    std::fs::write(host.dir.join("daemon.toml"), config)?;
    std::fs::create_dir_all(&specifications)?;
    std::fs::write(specifications.join("lab.json"), specification(&host.dir).to_string())?;
    // Crun refuses a host with both versions of cgroups. Where there is only one, nothing is mounted here.
    let _ = host.exec(&["umount", "/sys/fs/cgroup/unified"]);
    host.start_daemon()?;
    busybox(host)?;
    Ok(lab)
}

fn specification(dir: &Path) -> serde_json::Value {
    let hook = |stage: &str, script: String| json!({ "hookName": stage, "path": "/bin/busybox", "args": ["busybox", "sh", "-c", script], "env": ["PATH=/bin:/usr/bin"] });
    let told = |stage: &str| hook(stage, format!("cat > {}/{stage}.json", dir.display()));
    json!({
        "cdiVersion": "0.6.0", "kind": "lab.example/thing",
        "containerEdits": { "env": ["THING=there"] },
        "devices": [
            { "name": "one", "containerEdits": {
                "deviceNodes": [{ "path": "/dev/hole", "hostPath": "/dev/null", "permissions": "rw", "uid": 5 }],
                "mounts": [{ "hostPath": dir, "containerPath": "/from/host", "options": ["ro", "nosuid", "nodev", "bind"] }],
                "hooks": [
                    told("createRuntime"), hook("createContainer", CREATED.into()),
                    hook("startContainer", "echo started > /started".into()), told("poststart"), told("poststop"),
                ],
            } },
            { "name": "failing", "containerEdits": { "hooks": [hook("createContainer", "echo no luck >&2; exit 3".into())] } },
            { "name": "slow", "containerEdits": { "hooks": [
                { "hookName": "createRuntime", "path": "/bin/busybox", "args": ["busybox", "sleep", "1000"], "timeout": 1 },
            ] } },
            { "name": "gone", "containerEdits": { "deviceNodes": [{ "path": "/dev/nowhere" }] } },
        ],
    })
}

#[test]
fn devices_of_cdi_are_given_by_every_runtime_and_refused_in_dockers_words() -> Result<()> {
    let lab = prepared()?;
    let host = lab.host(1);
    for client in [docker, skep] {
        let run = |args: &[&str]| {
            client(host, &[&["run", "--rm"][..], args, &["busybox", "sh", "-c", "true"]].concat())
        };
        for (device, said) in [
            (
                "lab.example/thing=two",
                "CDI device injection failed: unresolvable CDI devices lab.example/thing=two",
            ),
            ("lab.example/thing=gone", "failed to stat CDI host device \"/dev/nowhere\""),
            ("lab.example/thing=failing", "createContainer hook #0"),
            ("lab.example/thing=slow", "createRuntime hook #0"),
        ] {
            let refused = run(&["--device", device])?;
            // What is not there is 127 to both clients, whatever it is.
            let code = if device.ends_with("gone") { 127 } else { 125 };
            ensure!(refused.code == Some(code) && refused.stderr.contains(said), "{device}: {refused:?}");
        }
        let refused = run(&["--gpus", "2"])?;
        let said = "could not select device driver \"\" with capabilities: [[gpu]]";
        ensure!(refused.code == Some(125) && refused.stderr.contains(said), "{refused:?}");
        for runtime in ["skep", "runc", "crun"] {
            given(host, client, runtime)?;
        }
        let shown = client(host, &["info"])?.stdout;
        ensure!(
            shown.contains("CDI spec directories:") && shown.contains("cdi: lab.example/thing=one"),
            "{shown}"
        );
    }
    lab.down()
}

fn given(host: &Host, client: fn(&Host, &[&str]) -> Result<crate::Outcome>, runtime: &str) -> Result<()> {
    for stage in ["createRuntime", "poststart", "poststop"] {
        let _ = std::fs::remove_file(host.dir.join(format!("{stage}.json")));
    }
    let script = "b=/bin/busybox; echo $THING; echo x > /dev/hole; $b stat -c %u:%t:%T /dev/hole; $b cat /made /started; \
        $b grep ' /from/host ' /proc/mounts | $b grep -c ro,nosuid,nodev; > /from/host/x";
    let args = [
        "run",
        "--rm",
        "--runtime",
        runtime,
        "--device",
        "lab.example/thing=one",
        "busybox",
        "sh",
        "-c",
        script,
    ];
    let out = client(host, &args)?;
    ensure!(out.stdout == "there\n5:1:3\nmade\nstarted\n1\n", "{runtime}: {out:?}");
    ensure!(out.stderr.contains("Read-only file system"), "{runtime}: {out:?}");
    eventually("the hooks have been told", LONG, || {
        for (stage, status) in [("createRuntime", "creat"), ("poststart", "running"), ("poststop", "stopped")]
        {
            let told = std::fs::read_to_string(host.dir.join(format!("{stage}.json")))?;
            let state: serde_json::Value = serde_json::from_str(&told)?;
            let pid = state["pid"].as_i64();
            // Runc calls a container that it has just started created.
            let known = |s: &str| s.starts_with(status) || (runtime == "runc" && s == "created");
            ensure!(state["status"].as_str().is_some_and(known), "{runtime} {stage}: {told}");
            ensure!(stage == "poststop" || pid.is_some_and(|p| p > 1), "{runtime} {stage}: {told}");
        }
        Ok(())
    })
}
