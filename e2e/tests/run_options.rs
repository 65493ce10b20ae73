//! What `run` has, in services: by flags and by Compose files, on the nodes that allow it, kept by clients that know
//! nothing of it, and GPUs of the Container Device Interface counted.

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use skep_e2e::swarm::{LONG, binaries, join, nodes_are, path, token, wait_running};
use skep_e2e::{Host, Lab, LabOptions, busybox_image, eventually};

const FOREVER: [&str; 3] = ["box:1", "sleep", "1000000"];

/// Hosts 1 to 3: one that allows nothing, one that allows all and has two GPUs, one that allows devices only.
fn prepared() -> Result<Lab> {
    let (skep, init) = binaries()?;
    let name = format!("runopt{}", std::process::id() % 10_000);
    let lab = Lab::bare(LabOptions { name, hosts: 3, skep, init })?;
    let [one, two, three] = lab.hosts() else { bail!("three hosts") };
    let cdi = two.dir.join("cdi");
    std::fs::create_dir_all(&cdi)?;
    let gpu =
        |name: &str| json!({ "name": name, "containerEdits": { "env": [format!("MY_GPU_{name}=yes")] } });
    let all = json!({ "name": "all", "containerEdits": { "env": ["MY_GPU_all=yes"] } });
    let spec =
        json!({ "cdiVersion": "0.6.0", "kind": "lab.example/gpu", "devices": [gpu("0"), gpu("1"), all] });
    std::fs::write(cdi.join("gpu.json"), spec.to_string())?;
    let config = format!("allow-in-services = [\"all\"]\ncdi-spec-dirs = [{cdi:?}]\n");
    std::fs::write(two.dir.join("daemon.toml"), config)?;
    std::fs::write(three.dir.join("daemon.toml"), "allow-in-services = [\"devices\"]\n")?;
    let archive = one.dir.join("box.tar");
    busybox_image(&["sh", "sleep", "env", "grep", "cat", "df", "mount", "ls", "readlink"], &archive)?;
    for host in [one, two, three] {
        host.start_daemon()?;
        host.docker(&["import", path(&archive), "box:1"])?;
    }
    one.docker(&["swarm", "init", "--advertise-addr", &one.addr])?;
    let worker = token(one, "worker")?;
    for host in [two, three] {
        join(host, &worker, "10.99.0.1:2377")?;
    }
    nodes_are(one, "three nodes are ready", &["Ready Leader", "Ready", "Ready"])?;
    Ok(lab)
}

fn options(host: &Host, service: &str) -> Result<serde_json::Value> {
    let shown = host.skep(&["service", "inspect", service])?;
    let shown: serde_json::Value = serde_json::from_str(&shown)?;
    Ok(shown[0]["Spec"]["TaskTemplate"]["ContainerSpec"]["RunOptions"].clone())
}

fn waits_for(host: &Host, service: &str, words: &str) -> Result<()> {
    eventually(&format!("a task of {service} says why it waits"), LONG, || {
        let seen = host.docker(&["service", "ps", "--no-trunc", "--format", "{{.Error}}", service])?;
        ensure!(seen.contains(words), "{seen}");
        Ok(())
    })
}

/// Standard error of a command that succeeds.
fn told(mut command: std::process::Command, args: &[&str]) -> Result<String> {
    let out = command.args(args).output()?;
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(out.status.success(), "{args:?}: {err}");
    Ok(err)
}

#[test]
fn services_have_what_run_has_where_nodes_allow_it() -> Result<()> {
    let lab = prepared()?;
    let [one, two, three] = lab.hosts() else { bail!("three hosts") };
    let allows = one.skep(&["node", "inspect", "-f", "{{json .Description.Allows}}", &two.name])?;
    ensure!(allows.contains("privileged") && allows.contains("host-namespaces"), "{allows}");
    let create = ["service", "create", "-d", "--no-resolve-image", "--stop-grace-period", "0s", "--name"];
    let made = |name: &str, flags: &[&str]| {
        one.skep(&[&create[..], &[name], flags, &FOREVER].concat()).with_context(|| name.to_owned())
    };

    // All of it, on the one node that allows all of it.
    made(
        "much",
        &[
            "--privileged",
            "--shm-size",
            "5m",
            "--pid",
            "host",
            "--uts",
            "host",
            "--ipc",
            "shareable",
            "--cgroupns",
            "host",
            "--cpu-shares",
            "300",
            "--device",
            "/dev/null:/dev/hole:r",
            "--security-opt",
            "seccomp=unconfined",
        ],
    )?;
    ensure!(wait_running(one, "much", 1)? == [two.name.as_str()]);
    let says =
        |service: &str, script: &str| one.docker(&["exec", &format!("{service}.1"), "sh", "-c", script]);
    let has = |what: &str, script: &str, words: &str| -> Result<()> {
        let seen = says("much", script)?;
        ensure!(seen.contains(words), "{what}: {seen}");
        Ok(())
    };
    has("shm", "df -k /dev/shm", "5120")?;
    has("seccomp", "grep Seccomp: /proc/self/status", "0")?;
    // All that the host has, which itself may lack some: CAP_SYS_ADMIN (capabilities(7)) is not among Docker's default ones.
    let mask = says("much", "grep CapEff /proc/self/status")?;
    let mask = mask.split_whitespace().last().context("a mask")?;
    ensure!(u64::from_str_radix(mask, 16)? & (1 << 21) != 0, "capabilities: {mask}");
    let mine = one.docker(&["inspect", "-f", "{{json .HostConfig}}", "much.1"])?;
    for part in ["\"Privileged\":true", "\"PidMode\":\"host\"", "\"ShmSize\":5242880", "\"CpuShares\":300"] {
        ensure!(mine.contains(part), "{part}: {mine}");
    }

    // Docker's client updates and scales without what it does not know of, and is told so; ours takes a part away.
    let before = options(one, "much")?;
    ensure!(before["Privileged"] == true && before["ShmSize"] == 5_242_880, "{before}");
    let err = told(
        one.docker_command(),
        &["service", "update", "-d", "--no-resolve-image", "--env-add", "A=1", "much"],
    )?;
    ensure!(err.contains("stay as they were"), "{err}");
    ensure!(options(one, "much")? == before);
    let less = [
        "--privileged=false",
        "--pid",
        "",
        "--device",
        "",
        "--security-opt",
        "",
        "--uts",
        "",
        "--cgroupns",
        "",
    ];
    let err = told(
        one.skep_command(),
        &[&["service", "update", "-d", "--no-resolve-image"][..], &less, &["much"]].concat(),
    )?;
    ensure!(!err.contains("stay as they were"), "{err}");
    ensure!(
        options(one, "much")? == json!({ "ShmSize": 5_242_880, "IpcMode": "shareable", "CpuShares": 300 }),
        "{}",
        options(one, "much")?
    );
    one.docker(&["service", "rollback", "-d", "much"])?;
    ensure!(options(one, "much")? == before);
    one.docker(&["service", "rm", "much"])?;

    // Where it is not allowed.
    let here = format!("node.hostname=={}", one.name);
    made("no", &["--privileged", "--constraint", &here])?;
    waits_for(one, "no", "1 does not allow privileged containers")?;
    made("admin", &["--cap-add", "SYS_ADMIN", "--constraint", &format!("node.hostname!={}", two.name)])?;
    waits_for(one, "admin", "2 of 3 do not allow the capability SYS_ADMIN")?;
    made(
        "dev",
        &["--device", "/dev/null:/dev/hole", "--constraint", &format!("node.hostname!={}", two.name)],
    )?;
    ensure!(wait_running(one, "dev", 1)? == [three.name.as_str()]);
    says("dev", "ls /dev/hole")?;
    // What is harmless is allowed everywhere.
    made(
        "small",
        &["--shm-size", "1m", "--ipc", "none", "--security-opt", "no-new-privileges", "--constraint", &here],
    )?;
    wait_running(one, "small", 1)?;
    // Annotations are for whoever acts on them: other runtimes than ours may.
    let knows = one.skep(&["node", "inspect", "-f", "{{json .Description.Knows}}", &three.name])?;
    ensure!(knows.contains("annotations") && knows.contains("storage-opt"), "{knows}");
    let noted = ["--annotation", "run.oci.note=1", "--constraint"];
    made("noted", &[&noted[..], &[&here]].concat())?;
    ensure!(wait_running(one, "noted", 1)? == [one.name.as_str()]);
    made("acted", &[&noted[..], &[&format!("node.hostname!={}", two.name), "--runtime", "runc"]].concat())?;
    waits_for(one, "acted", "2 of 3 do not allow annotations for another OCI runtime")?;
    made("runc", &[&noted[..], &[&format!("node.hostname!={}", one.name), "--runtime", "runc"]].concat())?;
    ensure!(wait_running(one, "runc", 1)? == [two.name.as_str()]);
    one.docker(&["service", "rm", "noted", "acted", "runc"])?;
    for (flags, said) in [
        (&["--pid", "container:x"][..], "another node"),
        (&["--gpus", "all"], "give a number"),
        (&["--blkio-weight", "5"], "from 10 to 1000"),
        (&["--ipc", "colour"], "invalid IPC mode: colour"),
    ] {
        let Err(e) = made("bad", flags) else { bail!("{flags:?} was not refused") };
        ensure!(format!("{e:#}").contains(said), "{flags:?}: {e:#}");
    }
    one.docker(&["service", "rm", "no", "admin", "dev", "small"])?;
    gpus(one, two)?;
    composed(one, two)?;
    lab.down()
}

/// Each task has a GPU of its own; who finds none waits.
fn gpus(one: &Host, two: &Host) -> Result<()> {
    let has = one.docker(&[
        "node",
        "inspect",
        "-f",
        "{{json .Description.Resources.GenericResources}}",
        &two.name,
    ])?;
    ensure!(
        has.contains("lab.example/gpu=0") && has.contains("lab.example/gpu=1") && !has.contains("all"),
        "{has}"
    );
    let create =
        ["service", "create", "-d", "--no-resolve-image", "--stop-grace-period", "0s", "--name", "render"];
    one.skep(&[&create[..], &["--replicas", "2", "--gpus", "1"], &FOREVER].concat())?;
    ensure!(wait_running(one, "render", 2)? == [two.name.clone(), two.name.clone()]);
    let mut seen = Vec::new();
    for slot in ["render.1", "render.2"] {
        let env = one.docker(&["exec", slot, "cat", "/proc/1/environ"])?;
        seen.extend(env.split('\0').filter(|l| l.starts_with("MY_GPU_")).map(str::to_owned));
    }
    seen.sort();
    ensure!(seen == ["MY_GPU_0=yes", "MY_GPU_1=yes"], "{seen:?}");
    one.docker(&["service", "scale", "-d", "render=3"])?;
    waits_for(one, "render", "lack 1 gpu")?;
    one.docker(&["service", "rm", "render"])?;
    Ok(())
}

/// A stack of ours has it, and Docker's client keeps it.
fn composed(one: &Host, two: &Host) -> Result<()> {
    let file = one.dir.join("c.yml");
    let text = "services:\n  one:\n    image: box:1\n    command: sleep 1000000\n    stop_grace_period: 0s\n    shm_size: 3m\n    \
                pid: host\n    security_opt: [\"seccomp=unconfined\"]\n    devices: [\"/dev/null:/dev/hole:r\"]\n    \
                deploy: {resources: {reservations: {devices: [{capabilities: [gpu], count: 1}]}}}\n  \
                two:\n    image: box:1\n    command: sleep 1000000\n    stop_grace_period: 0s\n    privileged: true\n";
    std::fs::write(&file, text)?;
    let deploy = ["stack", "deploy", "--resolve-image", "never", "--detach=true", "-c", path(&file), "s"];
    let err = told(one.skep_command(), &deploy)?;
    ensure!(!err.contains("Ignoring"), "{err}");
    ensure!(wait_running(one, "s_one", 1)? == [two.name.as_str()]);
    let before = options(one, "s_one")?;
    ensure!(before["ShmSize"] == 3 << 20 && before["PidMode"] == "host", "{before}");
    ensure!(wait_running(one, "s_two", 1)? == [two.name.as_str()]);
    ensure!(options(one, "s_two")? == json!({ "Privileged": true }));
    let seen = one.docker(&["exec", "s_one.1", "sh", "-c", "ls /dev/hole; env; df -k /dev/shm"])?;
    ensure!(
        seen.contains("/dev/hole") && seen.contains("=lab.example/gpu=") && seen.contains("3072"),
        "{seen}"
    );
    let plain = "image: box:1\n    command: sleep 1000000\n    stop_grace_period: 0s\n";
    std::fs::write(&file, format!("version: '3.8'\nservices:\n  one:\n    {plain}"))?;
    told(one.docker_command(), &deploy)?;
    ensure!(options(one, "s_one")? == before);
    // A file that asks for less takes it away.
    std::fs::write(
        &file,
        "services:\n  one:\n    image: box:1\n    command: sleep 1000000\n    stop_grace_period: 0s\n",
    )?;
    told(one.skep_command(), &deploy)?;
    ensure!(options(one, "s_one")?.is_null(), "{}", options(one, "s_one")?);
    one.docker(&["stack", "rm", "s"])?;
    Ok(())
}
