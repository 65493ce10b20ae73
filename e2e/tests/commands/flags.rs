//! The flags of `container create` and `run`, each by what comes of it: what the container sees, what its cgroup says,
//! who finds it. What takes a container of its own kind is in `effects`.

use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use skep_e2e::{Host, eventually};

use crate::effects;
use skep_e2e::tally::{Tally, docker, prints, refuses, says, words};

/// Those of Linux.
pub const ALL: &str = "
add-host annotation attach blkio-weight blkio-weight-device cap-add cap-drop cgroup-parent cgroupns cidfile cpu-period
cpu-quota cpu-rt-period cpu-rt-runtime cpu-shares cpus cpuset-cpus cpuset-mems device device-cgroup-rule
device-read-bps device-read-iops device-write-bps device-write-iops dns dns-option dns-search domainname entrypoint env
env-file expose gpus group-add health-cmd health-interval health-retries health-start-interval health-start-period
health-timeout no-healthcheck hostname init interactive ip ip6 ipc label label-file link link-local-ip log-driver
log-opt mac-address memory memory-reservation memory-swap memory-swappiness mount name network network-alias
oom-kill-disable oom-score-adj pid pids-limit platform privileged publish publish-all pull quiet read-only restart rm
runtime security-opt shm-size stop-signal stop-timeout storage-opt sysctl tmpfs tty ulimit user userns uts volume
volume-driver volumes-from workdir detach detach-keys sig-proxy
";

/// Flags that are not right yet, and why.
pub const NOT_YET: &[(&str, &str)] = &[];

/// How a flag is seen to work.
enum Seen {
    /// A shell script in the container prints this.
    Says(&'static str, &'static str),
    /// Of these files of its cgroup, for both versions, the first that is there has this word: `FILE=WORD ...`.
    Kept(&'static str),
    /// As `Kept` where this host can honour it; refused in these words where it cannot.
    KeptOrRefused(&'static str, &'static str),
}
use Seen::{Kept, KeptOrRefused, Says};

const NO_REAL_TIME: &str = "kernel does not support cpu real-time scheduler";
const NO_QUOTA: &str = "--storage-opt is supported only for overlay over xfs with 'pquota' mount option";

/// Flag, arguments (`DISK`: a block device of this machine), how it is seen.
const SEEN: &[(&str, &str, Seen)] = &[
    ("add-host", "--add-host db:10.9.8.7", Says("grep -w db /etc/hosts | tr '\\t' ' '", "10.9.8.7 db")),
    (
        "blkio-weight",
        "--blkio-weight 300",
        KeptOrRefused(
            "blkio/blkio.bfq.weight=300 blkio/blkio.weight=300 io.bfq.weight=300 io.weight=300",
            "--blkio-weight",
        ),
    ),
    (
        "blkio-weight-device",
        "--blkio-weight-device DISK:200",
        KeptOrRefused(
            "blkio/blkio.bfq.weight_device=200 blkio/blkio.weight_device=200 io.bfq.weight=200 io.weight=200",
            "--blkio-weight",
        ),
    ),
    (
        "cap-add",
        "--cap-drop ALL --cap-add NET_ADMIN",
        Says("grep CapEff /proc/self/status | cut -f 2", "0000000000001000"),
    ),
    ("cap-drop", "--cap-drop ALL", Says("grep CapEff /proc/self/status | cut -f 2", "0000000000000000")),
    (
        "cgroup-parent",
        "--cgroup-parent /skep-commands-test --cgroupns host",
        Says("grep -q /skep-commands-test/ /proc/self/cgroup && echo below", "below"),
    ),
    ("cgroupns", "--cgroupns private", Says("grep -v ':/$' /proc/self/cgroup; echo none", "none")),
    ("cpu-period", "--cpu-period 50000 --cpu-quota 20000", Kept("cpu/cpu.cfs_period_us=50000 cpu.max=50000")),
    ("cpu-quota", "--cpu-quota 20000", Kept("cpu/cpu.cfs_quota_us=20000 cpu.max=20000")),
    ("cpu-rt-period", "--cpu-rt-period 500000", KeptOrRefused("cpu/cpu.rt_period_us=500000", NO_REAL_TIME)),
    ("cpu-rt-runtime", "--cpu-rt-runtime 9000", KeptOrRefused("cpu/cpu.rt_runtime_us=9000", NO_REAL_TIME)),
    ("cpu-shares", "--cpu-shares 512", Kept("cpu/cpu.shares=512 cpu.weight=20")),
    ("cpus", "--cpus 0.5", Kept("cpu/cpu.cfs_quota_us=50000 cpu.max=50000")),
    ("cpuset-cpus", "--cpuset-cpus 0", Says("grep Cpus_allowed_list /proc/self/status | cut -f 2", "0")),
    ("cpuset-mems", "--cpuset-mems 0", Says("grep Mems_allowed_list /proc/self/status | cut -f 2", "0")),
    (
        "device",
        "--device /dev/null:/dev/hole:rw",
        Says("echo x > /dev/hole && stat -c %F /dev/hole", "character special file"),
    ),
    (
        "device-cgroup-rule",
        "--device-cgroup-rule 'c 42:* rwm'",
        // No driver has them: it is the kernel that says so, not the cgroup.
        Says(
            "mknod /let c 42 0; mknod /kept c 43 0; cat /let /kept 2>&1 | sed 's/.*: //'",
            "No such device or address\nOperation not permitted",
        ),
    ),
    (
        "device-read-bps",
        "--device-read-bps DISK:1mb",
        Kept("blkio/blkio.throttle.read_bps_device=1048576 io.max=rbps=1048576"),
    ),
    (
        "device-read-iops",
        "--device-read-iops DISK:100",
        Kept("blkio/blkio.throttle.read_iops_device=100 io.max=riops=100"),
    ),
    (
        "device-write-bps",
        "--device-write-bps DISK:1mb",
        Kept("blkio/blkio.throttle.write_bps_device=1048576 io.max=wbps=1048576"),
    ),
    (
        "device-write-iops",
        "--device-write-iops DISK:100",
        Kept("blkio/blkio.throttle.write_iops_device=100 io.max=wiops=100"),
    ),
    ("dns", "--dns 10.1.2.3", Says("grep -c 10.1.2.3 /etc/resolv.conf", "1")),
    ("dns-option", "--dns-option ndots:3", Says("grep -c ndots:3 /etc/resolv.conf", "1")),
    ("dns-search", "--dns-search corp.example", Says("grep search /etc/resolv.conf", "search corp.example")),
    (
        "domainname",
        "--hostname web --domainname corp.example",
        Says("cat /proc/sys/kernel/domainname", "corp.example"),
    ),
    ("env", "-e A=1 -e B=2", Says("echo $A$B", "12")),
    ("group-add", "--user 5:6 --group-add 77", Says("id -G", "6 77")),
    ("hostname", "--hostname web", Says("hostname", "web")),
    ("init", "--init", Says("echo $PPID", "1")),
    (
        "ip",
        "--network flags --ip 10.91.0.77",
        Says("ip -4 -o addr show dev eth0 | grep -c 10.91.0.77/24", "1"),
    ),
    ("ipc", "--ipc none", Says("mount | grep -c /dev/shm; echo over", "0\nover")),
    (
        "mac-address",
        "--mac-address 02:42:0a:5b:00:09",
        Says("cat /sys/class/net/eth0/address", "02:42:0a:5b:00:09"),
    ),
    (
        "memory",
        "--memory 64m",
        Says(
            "grep -h . /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null",
            "67108864",
        ),
    ),
    (
        "memory-reservation",
        "--memory 64m --memory-reservation 32m",
        Kept("memory/memory.soft_limit_in_bytes=33554432 memory.low=33554432"),
    ),
    (
        "memory-swap",
        "--memory 64m --memory-swap 96m",
        Kept("memory/memory.memsw.limit_in_bytes=100663296 memory.swap.max=33554432"),
    ),
    (
        "mount",
        "--mount type=tmpfs,dst=/m,tmpfs-size=1m",
        Says("df -k /m | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2", "1024"),
    ),
    ("network", "--network none", Says("ls /sys/class/net", "lo")),
    ("oom-score-adj", "--oom-score-adj 300", Says("cat /proc/self/oom_score_adj", "300")),
    (
        "pid",
        "--pid container:flags-other",
        Says("readlink /proc/1/exe; grep -c . /proc/1/comm", "/bin/busybox\n1"),
    ),
    (
        "pids-limit",
        "--pids-limit 33",
        Says("cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null", "33"),
    ),
    ("privileged", "--privileged", Says("mkdir /m && mount -t tmpfs tmpfs /m && echo mounted", "mounted")),
    ("read-only", "--read-only", Says("touch /x 2>/dev/null || echo refused", "refused")),
    (
        "security-opt",
        "--security-opt no-new-privileges",
        Says("grep NoNewPrivs /proc/self/status | cut -f 2", "1"),
    ),
    ("shm-size", "--shm-size 1m", Says("df -k /dev/shm | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2", "1024")),
    ("sysctl", "--sysctl net.ipv4.ip_forward=0", Says("cat /proc/sys/net/ipv4/ip_forward", "0")),
    ("tmpfs", "--tmpfs /t:size=2m", Says("df -k /t | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2", "2048")),
    ("tty", "--tty", Says("readlink /proc/self/fd/0", "/dev/pts/0")),
    (
        "ulimit",
        "--ulimit nofile=50:60",
        Says(
            "for l in open.files core; do grep $l /proc/self/limits | sed 's/.*  \\([0-9][0-9]*\\)  *\\([0-9][0-9]*\\) .*/\\1 \\2/'; done",
            "50 60\n7 9",
        ),
    ),
    ("user", "--user 12:34", Says("id -u; id -g", "12\n34")),
    ("userns", "--userns host", Says("tr -s ' ' < /proc/self/uid_map", "0 0 4294967295")),
    ("volume", "--volume flags-data:/d", Says("mount | grep -c ' /d '", "1")),
    (
        "volume-driver",
        "--volume-driver local -v flags-local:/d",
        Says("echo kept > /d/f; cat /d/f; mount | grep -c ' /d '", "kept\n1"),
    ),
    ("workdir", "--workdir /made/here", Says("pwd", "/made/here")),
];

pub fn drive(tally: &mut Tally<'_>) -> Result<()> {
    let host = tally.host;
    docker(host, "network create --ipv6 --subnet 10.91.0.0/24 --subnet fd00::/64 flags")?;
    docker(host, "run -d --name flags-other --network flags -v /shared bb sleep 100000")?;
    let disk = disk()?;
    for (flag, args, seen) in SEEN {
        let args = args.replace("DISK", &disk);
        tally.drive(flag, |host| see(host, &args, seen));
    }
    tally.drive("gpus", gpus);
    tally.drive("attach", attach);
    effects::drive(tally);
    tally.drive("cidfile", |host| {
        let file = host.dir.join("cid");
        let id = docker(host, &format!("create --cidfile {} bb true", file.display()))?;
        ensure!(std::fs::read_to_string(&file)? == id.trim(), "{id}");
        docker(host, &format!("rm {id}")).map(drop)
    });
    tally.drive("entrypoint", |host| prints(host, "run --rm --entrypoint /bin/hostname -h web bb", "web"));
    tally.drive("interactive", |host| {
        let out = with_input(host, "run --rm -i bb cat", "typed")?;
        ensure!(out.stdout == b"typed", "{out:?}");
        Ok(())
    });
    tally.drive("link", |host| {
        docker(host, "run -d --name flags-linked --expose 81 bb sleep 100000")?;
        let script = "env | grep ^DB_PORT_81_TCP_PORT=; grep -cw db /etc/hosts";
        let seen = prints(
            host,
            &format!("run --rm --link flags-linked:db bb sh -c '{script}'"),
            "DB_PORT_81_TCP_PORT=81\n1",
        );
        docker(host, "rm -f flags-linked")?;
        seen
    });
    for (flag, args) in [
        ("ip6", "--network flags --ip6 fd00::7"),
        ("link-local-ip", "--network flags --link-local-ip 169.254.7.7"),
    ] {
        tally.drive(flag, |host| {
            says(host, &format!("run --rm {args} bb ip addr"), args.rsplit(' ').next().unwrap_or(args))
        });
    }
    tally.drive("log-driver", |host| {
        docker(host, "run --name silent --log-driver none bb true")?;
        let refused = refuses(host, "logs silent", "does not support reading");
        docker(host, "rm silent")?;
        refused
    });
    tally.drive("log-opt", log_opt);
    for (flag, args, files) in [
        ("memory-swappiness", "--memory-swappiness 10", "memory/memory.swappiness=10"),
        ("oom-kill-disable", "--memory 64m --oom-kill-disable", "memory/memory.oom_control=1"),
    ] {
        tally.drive(flag, |host| {
            // A kernel with cgroups v2 has no such thing.
            if std::path::Path::new("/sys/fs/cgroup/memory").exists() {
                kept(host, args, files)
            } else {
                refuses(host, &format!("run --rm {args} bb true"), &flag.replace('-', ""))
            }
        });
    }
    tally.drive("network-alias", |host| {
        docker(host, "run -d --name aliased --network flags --network-alias other-name bb sleep 100000")?;
        let found = says(host, "run --rm --network flags bb nslookup other-name 127.0.0.11", "10.91.0.");
        docker(host, "rm -f aliased")?;
        found
    });
    tally.drive("platform", |host| {
        says(host, "run --rm --platform linux/amd64 bb echo ran", "ran")?;
        refuses(host, "run --rm --pull never --platform linux/s390x bb true", "linux/s390x")
    });
    tally.drive("publish", publish);
    tally.drive("publish-all", |host| {
        docker(host, "run -d --name all --expose 81 -P bb sleep 100000")?;
        let port = docker(host, "port all 81/tcp")?;
        docker(host, "rm -f all")?;
        let number = port.lines().next().and_then(|l| l.rsplit(':').next()?.parse::<u16>().ok());
        ensure!(number.is_some_and(|n| n > 1024), "{port}");
        Ok(())
    });
    tally.drive("pull", |host| {
        refuses(host, "run --rm --pull never nothere true", "no such image")?;
        refuses(host, "run --rm --pull always 127.0.0.1:1/nothere true", "127.0.0.1:1")
    });
    tally.drive("quiet", |host| {
        let out = host.docker_command().args(["run", "--rm", "--quiet", "127.0.0.1:1/nothere"]).output()?;
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        ensure!(out.status.code() == Some(125) && said.contains("127.0.0.1:1"), "{said}");
        Ok(())
    });
    tally.drive("rm", |host| {
        docker(host, "run --rm --name passing bb true")?;
        refuses(host, "inspect passing", "no such object")
    });
    tally.drive("runtime", |host| {
        says(host, "run --rm --runtime skep bb echo ran", "ran")?;
        refuses(host, "run --rm --runtime nosuch bb true", "nosuch")
    });
    tally.drive("storage-opt", |host| {
        let script = "df -k / | tail -n 1 | tr -s \" \" | cut -d \" \" -f 2";
        prints(host, &format!("run --rm --storage-opt size=1G bb sh -c '{script}'"), "1048576")
            .or_else(|_| refuses(host, "run --rm --storage-opt size=1G bb true", NO_QUOTA))
    });
    tally.drive("stop-signal", |host| {
        let script = "trap \"exit 7\" USR1; echo ready; while :; do sleep 0.1; done";
        docker(host, &format!("run -d --name stopped --stop-signal USR1 bb sh -c '{script}'"))?;
        // Before the trap is set, the signal ends the shell.
        eventually("it is ready", skep_e2e::swarm::LONG, || says(host, "logs stopped", "ready"))?;
        docker(host, "stop stopped")?;
        let code = prints(host, "inspect -f '{{.State.ExitCode}}' stopped", "7");
        docker(host, "rm -f stopped")?;
        code
    });
    tally.drive("uts", |host| {
        let name = host.exec(&["hostname"])?;
        prints(host, "run --rm --uts host bb hostname", name.trim())
    });
    tally.drive("volumes-from", |host| {
        prints(host, "run --rm --volumes-from flags-other bb sh -c 'mount | grep -c /shared'", "1")
    });
    tally.drive("detach", |host| {
        let id = docker(host, "run --detach --name away bb sleep 100000")?;
        let shown =
            prints(host, "inspect -f '{{.Id}} {{.State.Running}}' away", &format!("{} true", id.trim()));
        docker(host, "rm -f away")?;
        shown
    });
    tally.drive("detach-keys", |host| {
        refuses(host, "run --rm --detach-keys ctrl-nosuch -it bb true", "")?;
        says(host, "run --rm --detach-keys ctrl-x,x bb echo ran", "ran")
    });
    tally.drive("sig-proxy", sig_proxy);
    // No daemon's own, and so nobody else takes it away.
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup")?.flatten().map(|h| h.path());
    for place in hierarchies.chain(["/sys/fs/cgroup".into()]) {
        let _ = std::fs::remove_dir(place.join("skep-commands-test"));
    }
    docker(host, "rm -fv flags-other")?;
    docker(host, "network rm flags")?;
    docker(host, "volume rm flags-data flags-local").map(drop)
}

/// Where the daemon looks for CDI specifications.
pub fn cdi(host: &Host) -> std::path::PathBuf {
    host.dir.join("cdi")
}

/// Without a specification no GPU is there; with one of a GPU that is no more than a null device, that is it.
fn gpus(host: &Host) -> Result<()> {
    let none = "could not select device driver \"\" with capabilities: [[gpu]]";
    refuses(host, "run --rm --gpus all bb true", none)?;
    let unknown = "cdi device injection failed: unresolvable cdi devices lab.example/gpu=7";
    refuses(host, "run --rm --device lab.example/gpu=7 bb true", unknown)?;
    let spec = r#"
cdiVersion: "0.6.0"
kind: lab.example/gpu
devices:
- name: "0"
  containerEdits: {deviceNodes: [{path: /dev/gpu0, hostPath: /dev/null, fileMode: 0640, gid: 7}]}
- name: "1"
  containerEdits: {deviceNodes: [{path: /dev/gpu1, hostPath: /dev/null}]}
containerEdits:
  env: [GPUS=some]
"#;
    std::fs::create_dir_all(cdi(host))?;
    std::fs::write(cdi(host).join("lab.yaml"), spec)?;
    let script = "echo x > /dev/gpu0; stat -c %a:%g /dev/gpu0; ls /dev | grep -c gpu; echo $GPUS";
    for (args, count) in [("--gpus all", 2), ("--gpus 1", 1), ("--device lab.example/gpu=0", 1)] {
        let seen = format!("640:7\n{count}\nsome");
        prints(host, &format!("run --rm {args} bb sh -c '{script}'"), &seen)?;
    }
    let one = "run --rm --gpus device=1 bb sh -c 'echo x > /dev/gpu1; ls /dev | grep gpu'";
    prints(host, one, "gpu1")?;
    let asked = r#"[{"Driver":"","Count":-1,"DeviceIDs":null,"Capabilities":[["gpu"]],"Options":{}}]"#;
    let id = docker(host, "create --gpus all bb true")?;
    prints(host, &format!("inspect -f '{{{{json .HostConfig.DeviceRequests}}}}' {}", id.trim()), asked)?;
    docker(host, &format!("rm {}", id.trim()))?;
    prints(
        host,
        "info -f '{{range .DiscoveredDevices}}{{.Source}}: {{.ID}} {{end}}'",
        "cdi: lab.example/gpu=0 cdi: lab.example/gpu=1",
    )
}

fn see(host: &Host, args: &str, seen: &Seen) -> Result<()> {
    match seen {
        Says(script, expected) => {
            let said = sh(host, args, script)?;
            ensure!(said == *expected, "{args}: {said:?}, not {expected:?}");
            Ok(())
        }
        Kept(files) => kept(host, args, files),
        KeptOrRefused(files, words) => {
            kept(host, args, files).or_else(|_| refuses(host, &format!("run --rm {args} bb true"), words))
        }
    }
}

/// What a script in such a container prints. Its own exit code is of no matter.
fn sh(host: &Host, args: &str, script: &str) -> Result<String> {
    let mut command = words(&format!("run --rm {args} bb sh -c"));
    command.push(script.to_owned());
    let output = host.docker_command().args(&command).stdin(Stdio::null()).output()?;
    ensure!(output.status.code() < Some(125), "{args}: {output:?}");
    Ok(String::from_utf8_lossy(&output.stdout).replace('\r', "").trim().to_owned())
}

/// The first of `FILE=WORD ...` that is there below the container's `/sys/fs/cgroup` has that word.
fn kept(host: &Host, args: &str, files: &str) -> Result<()> {
    let files: Vec<(&str, &str)> = files.split_whitespace().filter_map(|f| f.split_once('=')).collect();
    let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
    let script = format!(
        "cd /sys/fs/cgroup; for f in {}; do test -e $f && echo $f $(cat $f) && break; done",
        names.join(" ")
    );
    let said = sh(host, args, &script)?;
    let (name, text) =
        said.split_once(' ').with_context(|| format!("{args}: none of {names:?}: {said:?}"))?;
    let word = files.iter().find(|(n, _)| *n == name).map_or("", |(_, word)| word);
    ensure!(text.split_whitespace().any(|w| w == word), "{args}: {name} is {text:?}, without {word}");
    Ok(())
}

/// A block device of this machine.
fn disk() -> Result<String> {
    let mut names: Vec<_> = std::fs::read_dir("/sys/block")?.flatten().map(|e| e.file_name()).collect();
    // Disks before what only looks like one.
    names.sort_by_key(|n| (n.to_string_lossy().starts_with("loop"), n.clone()));
    let paths = names.iter().map(|n| std::path::Path::new("/dev").join(n));
    let found = paths.into_iter().find(|p| p.exists()).context("this machine has no block device")?;
    Ok(found.display().to_string())
}

fn with_input(host: &Host, line: &str, input: &str) -> Result<Output> {
    use std::io::Write;
    let mut command = host.docker_command();
    command.args(words(line)).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    child.stdin.take().context("its input")?.write_all(input.as_bytes())?;
    Ok(child.wait_with_output()?)
}

fn attach(host: &Host) -> Result<()> {
    for (stream, out, err) in [("stdout", "out\n", ""), ("stderr", "", "err\n")] {
        let script = "echo out; echo err >&2";
        let output = host
            .docker_command()
            .args(["run", "--rm", "--attach", stream, "bb", "sh", "-c", script])
            .output()?;
        ensure!(output.stdout == out.as_bytes() && output.stderr == err.as_bytes(), "{output:?}");
    }
    Ok(())
}

fn log_opt(host: &Host) -> Result<()> {
    let script = "i=0; while [ $i -lt 2000 ]; do echo line $i of many; i=$((i + 1)); done";
    docker(
        host,
        &format!("run --name chatty --log-opt max-size=20k --log-opt max-file=2 bb sh -c '{script}'"),
    )?;
    let log = docker(host, "logs chatty")?;
    let shown = docker(host, "inspect -f '{{json .HostConfig.LogConfig.Config}}' chatty")?;
    docker(host, "rm chatty")?;
    ensure!(shown.contains(r#""max-size":"#), "{shown}");
    ensure!(log.contains("line 1999 of many") && !log.contains("line 0 of many"), "nothing was rotated away");
    Ok(())
}

fn publish(host: &Host) -> Result<()> {
    let serve = "while :; do echo here | nc -l -p 80; done";
    docker(host, &format!("run -d --name served -p 127.0.0.1:8081:80 -p 5300:53/udp bb sh -c '{serve}'"))?;
    let ports = docker(host, "port served")?;
    let answer = eventually("the port answers", skep_e2e::swarm::LONG, || {
        let said = host.exec(&["busybox", "nc", "-w", "2", "127.0.0.1", "8081"])?;
        ensure!(said == "here\n", "{said:?}");
        Ok(())
    });
    docker(host, "rm -f served")?;
    ensure!(
        ports.contains("80/tcp -> 127.0.0.1:8081") && ports.contains("53/udp -> 0.0.0.0:5300"),
        "{ports}"
    );
    answer
}

/// A signal to the client reaches the container, unless it is told to keep it.
fn sig_proxy(host: &Host) -> Result<()> {
    let script = "trap \"exit 7\" USR1; echo ready; while :; do sleep 0.1; done";
    let mut client: Command = host.docker_command();
    client.args(["run", "--name", "proxied", "--sig-proxy=true", "bb", "sh", "-c", script]);
    let mut client = client.stdout(Stdio::null()).spawn()?;
    eventually("it is ready", skep_e2e::swarm::LONG, || says(host, "logs proxied", "ready"))?;
    let pid = nix::unistd::Pid::from_raw(client.id().try_into()?);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGUSR1)?;
    let code = client.wait()?.code();
    docker(host, "rm -f proxied")?;
    ensure!(code == Some(7), "the client ended with {code:?}");
    says(host, "run --rm --sig-proxy=false bb echo ran", "ran")
}
