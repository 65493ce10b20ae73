//! The flags of `service create`.

use anyhow::{Context, Result, ensure};
use skep_e2e::swarm::{LONG, path};
use skep_e2e::tally::{Tally, docker, prints, refuses};
use skep_e2e::{Host, Lab, eventually};

use crate::rolling::{self, By};
use crate::seen::Seen::{self, Container, Says, Service, Waits};
use crate::seen::{PLAIN, finds, idle, limit, see, tasks};

/// Those of Docker's client.
pub const ALL: &str = "
cap-add cap-drop config constraint container-label credential-spec detach dns dns-option dns-search endpoint-mode
entrypoint env env-file generic-resource group health-cmd health-interval health-retries health-start-interval
health-start-period health-timeout host hostname init isolation label limit-cpu limit-memory limit-pids log-driver
log-opt max-concurrent mode mount name network no-healthcheck no-resolve-image oom-score-adj placement-pref publish
quiet read-only replicas replicas-max-per-node reserve-cpu reserve-memory restart-condition restart-delay
restart-max-attempts restart-window rollback-delay rollback-failure-action rollback-max-failure-ratio
rollback-monitor rollback-order rollback-parallelism secret stop-grace-period stop-signal sysctl tty ulimit
update-delay update-failure-action update-max-failure-ratio update-monitor update-order update-parallelism user
with-registry-auth workdir
";

/// Flags that are not right yet, and why.
pub const NOT_YET: &[(&str, &str)] = &[];

/// Flag, arguments, how it is seen.
const SEEN: &[(&str, &str, Seen)] = &[
    ("cap-add", "--cap-drop ALL --cap-add NET_ADMIN", Says(CAPS, "0000000000001000")),
    ("cap-drop", "--cap-drop ALL", Says(CAPS, "0000000000000000")),
    (
        "config",
        "--config source=flags,target=/c,mode=0440,uid=7",
        Says("cat /c; stat -c '%a %u' /c", "content\n440 7"),
    ),
    (
        "secret",
        "--secret source=flags,target=key,mode=0400,gid=8",
        Says("cat /run/secrets/key; stat -c '%a %g' /run/secrets/key", "content\n400 8"),
    ),
    ("constraint", "--constraint node.labels.rack==c", Waits("not match node.labels.rack==c")),
    (
        "container-label",
        "--container-label tier=front",
        Container("{{index .Config.Labels \"tier\"}}", "front"),
    ),
    ("dns", "--dns 10.1.2.3", Says("grep -c 10.1.2.3 /etc/resolv.conf", "1")),
    ("dns-option", "--dns-option ndots:3", Says("grep -c ndots:3 /etc/resolv.conf", "1")),
    ("dns-search", "--dns-search corp.example", Says("grep search /etc/resolv.conf", "search corp.example")),
    (
        "endpoint-mode",
        "--network flags --endpoint-mode dnsrr",
        Says(
            "at() { nslookup $1 127.0.0.11 | grep 'Address: ' | tail -n 1; }; test \"$(at NAME)\" = \"$(at tasks.NAME)\" && echo same",
            "same",
        ),
    ),
    (
        "entrypoint",
        "--entrypoint 'env MARK=1'",
        Says("tr '\\0' '\\n' < /proc/1/environ | grep MARK", "MARK=1"),
    ),
    ("env", "-e A=1 --env B={{.Service.Name}}", Says("echo $A$B", "1NAME")),
    (
        "generic-resource",
        "--generic-resource apple=2",
        Says("env | grep ^DOCKER_RESOURCE_", "DOCKER_RESOURCE_APPLE=2"),
    ),
    ("group", "--user 5:6 --group 77", Says("id -G", "6 77")),
    ("health-cmd", "--health-cmd 'touch /checked' --health-interval 50ms", Says("ls /checked", "/checked")),
    (
        "health-interval",
        "--health-cmd true --health-interval 70ms",
        Container("{{.Config.Healthcheck.Interval}}", "70ms"),
    ),
    (
        "health-retries",
        "--health-cmd true --health-interval 50ms --health-retries 4",
        Container("{{.Config.Healthcheck.Retries}}", "4"),
    ),
    (
        "health-start-interval",
        "--health-cmd true --health-start-interval 60ms --health-start-period 1m",
        Container("{{.Config.Healthcheck.StartInterval}}", "60ms"),
    ),
    (
        "health-start-period",
        "--health-cmd true --health-start-period 90s --health-start-interval 50ms",
        Container("{{.Config.Healthcheck.StartPeriod}}", "1m30s"),
    ),
    (
        "health-timeout",
        "--health-cmd true --health-interval 50ms --health-timeout 7s",
        Container("{{.Config.Healthcheck.Timeout}}", "7s"),
    ),
    ("no-healthcheck", "--no-healthcheck", Container("{{json .Config.Healthcheck.Test}}", "[\"NONE\"]")),
    ("host", "--host mysql:10.9.8.7", Says("grep mysql /etc/hosts | tr '\\t' ' '", "10.9.8.7 mysql")),
    ("hostname", "--hostname '{{.Service.Name}}-{{.Task.Slot}}'", Says("hostname", "NAME-1")),
    ("init", "--init", Says("test \"$(readlink /proc/1/exe)\" = /bin/busybox || echo another", "another")),
    ("isolation", "--isolation default", Says("echo runs", "runs")),
    ("limit-cpu", "--limit-cpu 0.5", Says(limit!("cpu/cpu.cfs_quota_us", "cpu.max"), "50000")),
    (
        "limit-memory",
        "--limit-memory 64m",
        Says(limit!("memory/memory.limit_in_bytes", "memory.max"), "67108864"),
    ),
    ("limit-pids", "--limit-pids 33", Says(limit!("pids/pids.max", "pids.max"), "33")),
    ("log-driver", "--log-driver local", Container("{{.HostConfig.LogConfig.Type}}", "local")),
    (
        "log-opt",
        "--log-driver json-file --log-opt max-size=5m",
        Container("{{index .HostConfig.LogConfig.Config \"max-size\"}}", "5m"),
    ),
    (
        "mount",
        "--mount type=tmpfs,dst=/m,tmpfs-size=1m --mount type=volume,src=flags,dst=/v",
        Says("df -k /m | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2; mount | grep -c ' /v '", "1024\n1"),
    ),
    ("network", "--network name=flags,alias=called", Says(finds!("called"), "found")),
    ("oom-score-adj", "--oom-score-adj 300", Says("cat /proc/1/oom_score_adj", "300")),
    ("read-only", "--read-only", Says("touch /x 2>/dev/null || echo refused", "refused")),
    ("reserve-cpu", "--reserve-cpu 999", Waits("999")),
    ("reserve-memory", "--reserve-memory 900g", Waits("900 GiB of memory")),
    ("restart-delay", "--restart-delay 7s", Service("{{.Spec.TaskTemplate.RestartPolicy.Delay}}", "7s")),
    ("rollback-delay", "--rollback-delay 7s", Service("{{.Spec.RollbackConfig.Delay}}", "7s")),
    ("rollback-monitor", "--rollback-monitor 7s", Service("{{.Spec.RollbackConfig.Monitor}}", "7s")),
    ("sysctl", "--sysctl net.ipv4.ip_forward=0", Says("cat /proc/sys/net/ipv4/ip_forward", "0")),
    ("tty", "--tty", Says("readlink /proc/1/fd/0", "/dev/pts/0")),
    (
        "ulimit",
        "--ulimit nofile=50:60",
        Says("grep open.files /proc/1/limits | tr -s ' ' | cut -d ' ' -f 4,5", "50 60"),
    ),
    ("update-delay", "--update-delay 7s", Service("{{.Spec.UpdateConfig.Delay}}", "7s")),
    ("update-monitor", "--update-monitor 7s", Service("{{.Spec.UpdateConfig.Monitor}}", "7s")),
    ("user", "--user 12:34", Says("id -u; id -g", "12\n34")),
    // With credentials to send: `e2e/tests/registry`.
    ("with-registry-auth", "--with-registry-auth", Says("echo runs", "runs")),
    ("workdir", "--workdir /made/here", Says("pwd", "/made/here")),
];

pub const CAPS: &str = "grep CapEff /proc/self/status | cut -f 2";

pub fn drive(tally: &mut Tally<'_>, lab: &Lab) -> Result<()> {
    for (flag, flags, seen) in SEEN {
        let name = format!("c-{flag}");
        tally.drive(flag, |host| {
            idle(host, &name, flags)?;
            let outcome = see(host, &name, &[], seen);
            docker(host, &format!("service rm {name}"))?;
            outcome
        });
    }
    for (flag, check) in OWN {
        tally.drive(flag, |_| check(lab));
    }
    for (flag, check) in rolling::FLAGS {
        tally.drive(flag, |host| check(host, By::Create));
    }
    Ok(())
}

type Check = fn(&Lab) -> Result<()>;

/// What takes a service of its own kind, or is seen elsewhere.
const OWN: &[(&str, Check)] = &[
    ("credential-spec", credential_spec),
    ("detach", detach),
    ("env-file", env_file),
    ("label", label),
    ("max-concurrent", max_concurrent),
    ("mode", mode),
    ("name", name),
    ("no-resolve-image", no_resolve_image),
    ("placement-pref", placement_pref),
    ("publish", publish),
    ("quiet", quiet),
    ("replicas", replicas),
    ("replicas-max-per-node", replicas_max_per_node),
    ("restart-condition", restart_condition),
    ("restart-max-attempts", restart_max_attempts),
    ("restart-window", restart_window),
];

fn credential_spec(lab: &Lab) -> Result<()> {
    let flags = "--credential-spec file://a.json";
    refuses(
        lab.host(1),
        &format!("service create {PLAIN} {flags} bb true"),
        "credential specs are a windows setting",
    )
}

fn detach(lab: &Lab) -> Result<()> {
    let host = lab.host(1);
    let create = format!("service create --name c-detach {PLAIN} --update-monitor 1ms");
    let told = docker(host, &format!("{create} --detach=false bb sleep 100000"))?;
    docker(host, "service rm c-detach")?;
    ensure!(told.contains("overall progress: 1 out of 1 tasks") && told.contains("converged"), "{told}");
    let told = docker(host, &format!("{create} --detach bb sleep 100000"))?;
    docker(host, "service rm c-detach")?;
    ensure!(told.lines().count() == 1, "{told}");
    Ok(())
}

fn quiet(lab: &Lab) -> Result<()> {
    let host = lab.host(1);
    let create = format!("service create --name c-quiet {PLAIN} --update-monitor 1ms --detach=false --quiet");
    let told = docker(host, &format!("{create} bb sleep 100000"))?;
    docker(host, "service rm c-quiet")?;
    ensure!(told.trim().len() == 25 && told.lines().count() == 1, "{told:?} is no ID alone");
    Ok(())
}

fn env_file(lab: &Lab) -> Result<()> {
    let host = lab.host(1);
    let file = host.dir.join("env-file");
    std::fs::write(&file, "A=1\n# none\nB=two words\n")?;
    idle(host, "c-env-file", &format!("--env-file {}", path(&file)))?;
    let outcome = see(host, "c-env-file", &[], &Says("echo $A $B", "1 two words"));
    docker(host, "service rm c-env-file")?;
    outcome
}

fn label(lab: &Lab) -> Result<()> {
    let host = lab.host(1);
    idle(host, "c-label", "--label tier=front")?;
    let found = prints(host, "service ls --filter label=tier=front --format {{.Name}}", "c-label");
    docker(host, "service rm c-label")?;
    found
}

fn name(lab: &Lab) -> Result<()> {
    let host = lab.host(1);
    idle(host, "c-name", "")?;
    let twice = refuses(host, "service create -d --name c-name bb", "name conflicts with an existing object");
    docker(host, "service rm c-name")?;
    twice
}

/// Tasks of a service that run, as `node` or `node node`, sorted.
fn nodes(host: &Host, service: &str) -> Result<Vec<String>> {
    let mut nodes = skep_e2e::swarm::running(host, service)?;
    nodes.sort();
    Ok(nodes)
}

fn runs_on(lab: &Lab, service: &str, wanted: &[u32]) -> Result<()> {
    let mut wanted: Vec<_> = wanted.iter().map(|n| lab.host(*n).name.clone()).collect();
    wanted.sort();
    eventually(&format!("{service} runs where it should"), LONG, || {
        let nodes = nodes(lab.host(1), service)?;
        ensure!(nodes == wanted, "{nodes:?}, not {wanted:?}");
        Ok(())
    })
}

/// A service on any host.
fn anywhere(lab: &Lab, name: &str, flags: &str, then: impl FnOnce() -> Result<()>) -> Result<()> {
    let host = lab.host(1);
    let create = format!("service create -d --no-resolve-image --stop-signal KILL --name {name}");
    docker(host, &format!("{create} {flags} bb sleep 100000"))?;
    let outcome = then();
    docker(host, &format!("service rm {name}"))?;
    outcome
}

fn max_concurrent(lab: &Lab) -> Result<()> {
    anywhere(lab, "c-concurrent", "--mode replicated-job --replicas 4 --max-concurrent 2", || {
        eventually("two are at work", LONG, || {
            let shown = docker(lab.host(1), "service ls --filter name=c-concurrent --format {{.Replicas}}")?;
            ensure!(shown.trim() == "2/2 (0/4 completed)", "{shown}");
            Ok(())
        })
    })
}

fn mode(lab: &Lab) -> Result<()> {
    anywhere(lab, "c-mode", "--mode global", || runs_on(lab, "c-mode", &[1, 2, 3]))
}

fn no_resolve_image(lab: &Lab) -> Result<()> {
    let host = lab.host(1);
    for (flags, pinned) in [("--no-resolve-image", false), ("", true)] {
        docker(
            host,
            &format!("service create -d --name c-resolve --stop-signal KILL {flags} bb sleep 100000"),
        )?;
        let image = docker(host, "service inspect -f {{.Spec.TaskTemplate.ContainerSpec.Image}} c-resolve")?;
        docker(host, "service rm c-resolve")?;
        ensure!(image.contains("@sha256:") == pinned, "{flags}: {image}");
    }
    Ok(())
}

/// Without it each host would have two.
fn placement_pref(lab: &Lab) -> Result<()> {
    let flags = "--replicas 6 --placement-pref spread=node.labels.rack";
    anywhere(lab, "c-pref", flags, || {
        eventually("as many in each rack", LONG, || {
            let nodes = nodes(lab.host(1), "c-pref")?;
            let there = nodes.iter().filter(|n| **n == lab.host(3).name).count();
            ensure!(nodes.len() == 6 && there == 3, "{nodes:?}");
            Ok(())
        })
    })
}

fn publish(lab: &Lab) -> Result<()> {
    let host = lab.host(1);
    let flags = "--publish published=8090,target=80 --publish published=8091,target=80,mode=host";
    docker(host, &format!("service create --name c-publish {PLAIN} {flags} bb busybox httpd -f -p 80"))?;
    let ask = |host: &Host, port: u16| {
        let url = format!("http://{}:{port}/", host.addr);
        lab.outside(&["curl", "-sS", "-o", "/dev/null", "--max-time", "2", &url])
    };
    let answered = eventually("it is answered where it should be", LONG, || {
        for (host, port) in [(1, 8090), (2, 8090), (1, 8091)] {
            ask(lab.host(host), port).with_context(|| format!("host {host}, port {port}"))?;
        }
        Ok(())
    });
    let elsewhere = ask(lab.host(2), 8091).is_ok();
    docker(host, "service rm c-publish")?;
    ensure!(!elsewhere, "a port in host mode is open on its host alone");
    answered
}

fn replicas(lab: &Lab) -> Result<()> {
    anywhere(lab, "c-replicas", "--replicas 3", || runs_on(lab, "c-replicas", &[1, 2, 3]))
}

fn replicas_max_per_node(lab: &Lab) -> Result<()> {
    anywhere(lab, "c-max", "--replicas 4 --replicas-max-per-node 1", || {
        runs_on(lab, "c-max", &[1, 2, 3])?;
        eventually("the fourth says why it waits", LONG, || {
            let tasks = tasks(lab.host(1), "c-max")?;
            ensure!(tasks.iter().any(|t| t.contains(" Pending ") && t.contains("max")), "{tasks:?}");
            Ok(())
        })
    })
}

/// A service whose tasks end at once with this status.
fn ending(
    host: &Host,
    name: &str,
    flags: &str,
    status: u32,
    then: impl Fn(&[String]) -> Result<()>,
) -> Result<()> {
    let create = format!("service create --name {name} {PLAIN} --restart-delay 0s {flags} bb sh -c");
    docker(host, &format!("{create} 'exit {status}'"))?;
    let outcome = eventually("its tasks end as they should", LONG, || then(&tasks(host, name)?));
    docker(host, &format!("service rm {name}"))?;
    outcome
}

fn restart_condition(lab: &Lab) -> Result<()> {
    let one = |tasks: &[String], state: &str| {
        let over = tasks.len() == 1 && tasks[0].starts_with("Shutdown") && tasks[0].contains(state);
        ensure!(over, "{tasks:?}");
        Ok(())
    };
    ending(lab.host(1), "c-none", "--restart-condition none", 3, |tasks| one(tasks, "Failed"))?;
    ending(lab.host(1), "c-failure", "--restart-condition on-failure", 0, |tasks| one(tasks, "Complete"))
}

fn restart_max_attempts(lab: &Lab) -> Result<()> {
    ending(lab.host(1), "c-attempts", "--restart-max-attempts 2", 3, |tasks| {
        let over = tasks.len() == 3 && tasks.iter().all(|t| t.starts_with("Shutdown Failed"));
        ensure!(over, "{tasks:?}");
        Ok(())
    })
}

/// Attempts of before the window do not count, so there are more than two tasks.
fn restart_window(lab: &Lab) -> Result<()> {
    let flags = "--restart-max-attempts 1 --restart-window 1ms";
    ending(lab.host(1), "c-window", flags, 3, |tasks| {
        ensure!(tasks.iter().filter(|t| t.starts_with("Shutdown Failed")).count() > 2, "{tasks:?}");
        Ok(())
    })
}
