//! The flags of `service update`: one after the other on one service, so that what is added can be removed.

use anyhow::{Context, Result, ensure};
use skep_e2e::swarm::LONG;
use skep_e2e::tally::{Tally, docker, prints, refuses, words};
use skep_e2e::{Host, Lab, eventually};

use crate::create::CAPS;
use crate::rolling::{self, By};
use crate::seen::Seen::{self, Container, Says, Service, Waits};
use crate::seen::{container, containers, finds, idle, limit, see};

/// Those of Docker's client.
pub const ALL: &str = "
args cap-add cap-drop config-add config-rm constraint-add constraint-rm container-label-add container-label-rm
credential-spec detach dns-add dns-option-add dns-option-rm dns-rm dns-search-add dns-search-rm endpoint-mode
entrypoint env-add env-rm force generic-resource-add generic-resource-rm group-add group-rm health-cmd
health-interval health-retries health-start-interval health-start-period health-timeout host-add host-rm hostname
image init isolation label-add label-rm limit-cpu limit-memory limit-pids log-driver log-opt max-concurrent mount-add
mount-rm network-add network-rm no-healthcheck no-resolve-image oom-score-adj placement-pref-add placement-pref-rm
publish-add publish-rm quiet read-only replicas replicas-max-per-node reserve-cpu reserve-memory restart-condition
restart-delay restart-max-attempts restart-window rollback rollback-delay rollback-failure-action
rollback-max-failure-ratio rollback-monitor rollback-order rollback-parallelism secret-add secret-rm
stop-grace-period stop-signal sysctl-add sysctl-rm tty ulimit-add ulimit-rm update-delay update-failure-action
update-max-failure-ratio update-monitor update-order update-parallelism user with-registry-auth workdir
";

/// Flags that are not right yet, and why.
pub const NOT_YET: &[(&str, &str)] = &[];

const NAME: &str = "updated";

/// Docker's client 28.2.2 takes it and sends nothing of it; ours does.
const UNSENT: &str = "health-start-interval";

/// Flag, arguments, whether the task is another one afterwards, how it is seen.
const SEEN: &[(&str, &str, bool, Seen)] = &[
    ("args", "--args 'sleep 200000'", true, Says("tr '\\0' ' ' < /proc/1/cmdline", "sleep 200000")),
    ("cap-drop", "--cap-drop ALL", true, Says(CAPS, "0000000000000000")),
    ("cap-add", "--cap-add NET_ADMIN", true, Says(CAPS, "0000000000001000")),
    ("config-add", "--config-add source=flags,target=/c", true, Says("cat /c", "content")),
    ("config-rm", "--config-rm flags", true, Says("test -e /c || echo gone", "gone")),
    ("secret-add", "--secret-add source=flags,target=key", true, Says("cat /run/secrets/key", "content")),
    ("secret-rm", "--secret-rm flags", true, Says("test -e /run/secrets/key || echo gone", "gone")),
    (
        "container-label-add",
        "--container-label-add tier=front",
        true,
        Container("{{index .Config.Labels \"tier\"}}", "front"),
    ),
    (
        "container-label-rm",
        "--container-label-rm tier",
        true,
        Container("{{index .Config.Labels \"tier\"}}", ""),
    ),
    ("dns-add", "--dns-add 10.1.2.3", true, Says("grep -c 10.1.2.3 /etc/resolv.conf", "1")),
    ("dns-rm", "--dns-rm 10.1.2.3", true, Says("grep -c 10.1.2.3 /etc/resolv.conf", "0")),
    ("dns-option-add", "--dns-option-add ndots:3", true, Says("grep -c ndots:3 /etc/resolv.conf", "1")),
    ("dns-option-rm", "--dns-option-rm ndots:3", true, Says("grep -c ndots:3 /etc/resolv.conf", "0")),
    (
        "dns-search-add",
        "--dns-search-add corp.example",
        true,
        Says("grep -c corp.example /etc/resolv.conf", "1"),
    ),
    (
        "dns-search-rm",
        "--dns-search-rm corp.example",
        true,
        Says("grep -c corp.example /etc/resolv.conf", "0"),
    ),
    (
        "entrypoint",
        "--entrypoint 'env MARK=1'",
        true,
        Says("tr '\\0' '\\n' < /proc/1/environ | grep MARK", "MARK=1"),
    ),
    ("env-add", "--env-add A=1 --env-add B=2", true, Says("echo $A$B", "12")),
    ("env-rm", "--env-rm A", true, Says("echo $A$B", "2")),
    (
        "generic-resource-add",
        "--generic-resource-add apple=2",
        true,
        Says("env | grep ^DOCKER_RESOURCE_", "DOCKER_RESOURCE_APPLE=2"),
    ),
    (
        "generic-resource-rm",
        "--generic-resource-rm apple",
        true,
        Says("env | grep -c ^DOCKER_RESOURCE_", "0"),
    ),
    ("user", "--user 5:6", true, Says("id -u; id -g", "5\n6")),
    ("group-add", "--group-add 77", true, Says("id -G", "6 77")),
    ("group-rm", "--group-rm 77", true, Says("id -G", "6")),
    (
        "health-cmd",
        "--user 0 --health-cmd 'touch /checked' --health-interval 50ms",
        true,
        Says("ls /checked", "/checked"),
    ),
    (
        "health-interval",
        "--health-interval 70ms",
        true,
        Container("{{.Config.Healthcheck.Interval}}", "70ms"),
    ),
    ("health-retries", "--health-retries 4", true, Container("{{.Config.Healthcheck.Retries}}", "4")),
    (
        "health-start-period",
        "--health-start-period 90s",
        true,
        Container("{{.Config.Healthcheck.StartPeriod}}", "1m30s"),
    ),
    (
        "health-start-interval",
        "--health-start-interval 60ms",
        true,
        Container("{{.Config.Healthcheck.StartInterval}}", "60ms"),
    ),
    ("health-timeout", "--health-timeout 7s", true, Container("{{.Config.Healthcheck.Timeout}}", "7s")),
    (
        "no-healthcheck",
        "--no-healthcheck",
        true,
        Container("{{json .Config.Healthcheck.Test}}", "[\"NONE\"]"),
    ),
    (
        "host-add",
        "--host-add mysql:10.9.8.7",
        true,
        Says("grep mysql /etc/hosts | tr '\\t' ' '", "10.9.8.7 mysql"),
    ),
    ("host-rm", "--host-rm mysql:10.9.8.7", true, Says("grep -c mysql /etc/hosts", "0")),
    ("hostname", "--hostname at-{{.Task.Slot}}", true, Says("hostname", "at-1")),
    ("image", "--no-resolve-image --image other", true, Container("{{.Config.Image}}", "other:latest")),
    (
        "init",
        "--init",
        true,
        Says("test \"$(readlink /proc/1/exe)\" = /bin/busybox || echo another", "another"),
    ),
    ("isolation", "--isolation default --init=false", true, Says("echo runs", "runs")),
    ("label-add", "--label-add tier=front", false, Service("{{index .Spec.Labels \"tier\"}}", "front")),
    ("label-rm", "--label-rm tier", false, Service("{{index .Spec.Labels \"tier\"}}", "")),
    ("limit-cpu", "--limit-cpu 0.5", true, Says(limit!("cpu/cpu.cfs_quota_us", "cpu.max"), "50000")),
    (
        "limit-memory",
        "--limit-memory 64m",
        true,
        Says(limit!("memory/memory.limit_in_bytes", "memory.max"), "67108864"),
    ),
    ("limit-pids", "--limit-pids 33", true, Says(limit!("pids/pids.max", "pids.max"), "33")),
    ("log-driver", "--log-driver local", true, Container("{{.HostConfig.LogConfig.Type}}", "local")),
    (
        "log-opt",
        "--log-driver json-file --log-opt max-size=5m",
        true,
        Container("{{index .HostConfig.LogConfig.Config \"max-size\"}}", "5m"),
    ),
    ("mount-add", "--mount-add type=tmpfs,dst=/m,tmpfs-size=1m", true, Says(SIZE, "1024")),
    ("mount-rm", "--mount-rm /m", true, Says("mount | grep -c ' /m '", "0")),
    ("network-add", "--network-add name=flags,alias=called", true, Says(finds!("called"), "found")),
    (
        "endpoint-mode",
        "--endpoint-mode dnsrr",
        false,
        Service("{{.Endpoint.Spec.Mode}} {{len .Endpoint.VirtualIPs}}", "dnsrr 0"),
    ),
    ("network-rm", "--network-rm flags --endpoint-mode vip", true, Says(finds!("called"), "lost")),
    ("oom-score-adj", "--oom-score-adj 300", true, Says("cat /proc/1/oom_score_adj", "300")),
    (
        "placement-pref-add",
        "--placement-pref-add spread=node.labels.rack",
        true,
        Service("{{len .Spec.TaskTemplate.Placement.Preferences}}", "1"),
    ),
    (
        "placement-pref-rm",
        "--placement-pref-rm spread=node.labels.rack",
        true,
        Service("{{len .Spec.TaskTemplate.Placement.Preferences}}", "0"),
    ),
    (
        "publish-add",
        "--publish-add 8092:80",
        true,
        Service("{{(index .Endpoint.Ports 0).PublishedPort}}", "8092"),
    ),
    ("publish-rm", "--publish-rm 80", false, Service("{{len .Endpoint.Ports}}", "0")),
    ("read-only", "--read-only", true, Says("touch /x 2>/dev/null || echo refused", "refused")),
    (
        "restart-condition",
        "--read-only=false --restart-condition none",
        true,
        Service("{{.Spec.TaskTemplate.RestartPolicy.Condition}}", "none"),
    ),
    (
        "restart-delay",
        "--restart-condition any --restart-delay 7s",
        true,
        Service("{{.Spec.TaskTemplate.RestartPolicy.Delay}}", "7s"),
    ),
    (
        "restart-max-attempts",
        "--restart-max-attempts 4",
        true,
        Service("{{.Spec.TaskTemplate.RestartPolicy.MaxAttempts}}", "4"),
    ),
    (
        "restart-window",
        "--restart-window 7s",
        true,
        Service("{{.Spec.TaskTemplate.RestartPolicy.Window}}", "7s"),
    ),
    ("rollback-delay", "--rollback-delay 7s", false, Service("{{.Spec.RollbackConfig.Delay}}", "7s")),
    ("rollback-monitor", "--rollback-monitor 7s", false, Service("{{.Spec.RollbackConfig.Monitor}}", "7s")),
    (
        "sysctl-add",
        "--sysctl-add net.ipv4.ip_forward=0",
        true,
        Says("cat /proc/sys/net/ipv4/ip_forward", "0"),
    ),
    (
        "sysctl-rm",
        "--sysctl-rm net.ipv4.ip_forward",
        true,
        Service("{{len .Spec.TaskTemplate.ContainerSpec.Sysctls}}", "0"),
    ),
    ("tty", "--tty", true, Says("readlink /proc/1/fd/0", "/dev/pts/0")),
    ("ulimit-add", "--ulimit-add nofile=50:60", true, Says(OPEN_FILES, "50 60")),
    (
        "ulimit-rm",
        "--ulimit-rm nofile",
        true,
        Service("{{len .Spec.TaskTemplate.ContainerSpec.Ulimits}}", "0"),
    ),
    ("update-delay", "--update-delay 7ms", false, Service("{{.Spec.UpdateConfig.Delay}}", "7ms")),
    ("update-monitor", "--update-monitor 7ms", false, Service("{{.Spec.UpdateConfig.Monitor}}", "7ms")),
    // With credentials to send: `e2e/tests/registry`.
    ("with-registry-auth", "--with-registry-auth", false, Says("echo runs", "runs")),
    ("workdir", "--workdir /made/here", true, Says("pwd", "/made/here")),
    ("force", "--force", true, Says("echo runs", "runs")),
    // What waits for a node comes last: nothing of it runs.
    ("reserve-cpu", "--limit-cpu 0 --reserve-cpu 999", true, Waits("999")),
    (
        "reserve-memory",
        "--reserve-cpu 0 --limit-memory 0 --reserve-memory 900g",
        true,
        Waits("900 GiB of memory"),
    ),
    (
        "constraint-add",
        "--reserve-memory 0 --constraint-add node.labels.rack==c",
        true,
        Waits("not match node.labels.rack==c"),
    ),
    ("constraint-rm", "--constraint-rm node.labels.rack==c", true, Says("echo runs", "runs")),
];

const SIZE: &str = "df -k /m | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2";
const OPEN_FILES: &str = "grep open.files /proc/1/limits | tr -s ' ' | cut -d ' ' -f 4,5";

pub fn drive(tally: &mut Tally<'_>, lab: &Lab) -> Result<()> {
    let host = tally.host;
    idle(host, NAME, "--update-monitor 1ms --update-parallelism 0")?;
    container(host, NAME, &[])?;
    for (flag, flags, another, seen) in SEEN {
        tally.drive(flag, |host| {
            let before = containers(host, NAME)?;
            let update = format!("service update -d {flags} {NAME}");
            if *flag == UNSENT {
                host.skep(&words(&update).iter().map(String::as_str).collect::<Vec<_>>())?;
            } else {
                docker(host, &update)?;
            }
            if !*another {
                return see(host, NAME, &[], seen);
            }
            // The next update is of a service at rest: the leader's last word on this one would be in its way.
            if !matches!(seen, Waits(_)) {
                container(host, NAME, &before)?;
                rolling::state(host, NAME, "completed")?;
            }
            see(host, NAME, &before, seen)
        });
    }
    docker(host, &format!("service rm {NAME}"))?;
    for (flag, check) in OWN {
        tally.drive(flag, |_| check(lab));
    }
    for (flag, check) in rolling::FLAGS {
        tally.drive(flag, |host| check(host, By::Update));
    }
    Ok(())
}

type Check = fn(&Lab) -> Result<()>;

/// What takes a service of its own.
const OWN: &[(&str, Check)] = &[
    ("credential-spec", credential_spec),
    ("detach", |lab| told(lab, "--detach=false", &["overall progress: 1 out of 1 tasks", "converged"])),
    ("quiet", |lab| told(lab, "--detach=false --quiet", &[])),
    ("max-concurrent", max_concurrent),
    ("no-resolve-image", no_resolve_image),
    ("replicas", replicas),
    ("replicas-max-per-node", replicas_max_per_node),
    ("rollback", rollback),
];

fn credential_spec(lab: &Lab) -> Result<()> {
    let host = lab.host(1);
    idle(host, "u-credential", "")?;
    let update = "service update -d --credential-spec file://a.json u-credential";
    let refused = refuses(host, update, "credential specs are a windows setting");
    docker(host, "service rm u-credential")?;
    refused
}

/// What an update prints, beside the service's name.
fn told(lab: &Lab, flags: &str, words: &[&str]) -> Result<()> {
    let host = lab.host(1);
    // The client says that all is well only if it has seen that before the update is over.
    idle(host, "u-told", "--update-monitor 3s")?;
    container(host, "u-told", &[])?;
    let said = docker(host, &format!("service update {flags} --env-add A=1 u-told"));
    docker(host, "service rm u-told")?;
    let said = said?;
    let (first, rest) = said.split_once('\n').context("a line")?;
    ensure!(first == "u-told" && words.iter().all(|w| rest.contains(w)), "{said:?}");
    ensure!(!words.is_empty() || rest.is_empty(), "{said:?}");
    Ok(())
}

fn max_concurrent(lab: &Lab) -> Result<()> {
    let host = lab.host(1);
    idle(host, "u-job", "--mode replicated-job --replicas 4 --max-concurrent 1")?;
    // Docker's client 28.2.2 takes the flag and sends nothing of it.
    host.skep(&["service", "update", "-d", "--max-concurrent", "3", "u-job"])?;
    let outcome = eventually("three are at work", LONG, || {
        prints(host, "service ls --filter name=u-job --format {{.Replicas}}", "3/3 (0/4 completed)")
    });
    docker(host, "service rm u-job")?;
    outcome
}

fn no_resolve_image(lab: &Lab) -> Result<()> {
    let host = lab.host(1);
    idle(host, "u-resolve", "--update-monitor 1ms")?;
    let outcome = [("--no-resolve-image", false), ("", true)].into_iter().try_for_each(|(flags, pinned)| {
        docker(host, &format!("service update -d {flags} --image other u-resolve"))?;
        let image = docker(host, "service inspect -f {{.Spec.TaskTemplate.ContainerSpec.Image}} u-resolve")?;
        ensure!(image.contains("@sha256:") == pinned, "{flags}: {image}");
        rolling::state(host, "u-resolve", "completed")
    });
    docker(host, "service rm u-resolve")?;
    outcome
}

fn running(host: &Host, service: &str, wanted: usize) -> Result<()> {
    eventually(&format!("{service} has {wanted} containers"), LONG, || {
        let found = containers(host, service)?;
        ensure!(found.len() == wanted, "{found:?}");
        Ok(())
    })
}

fn replicas(lab: &Lab) -> Result<()> {
    let host = lab.host(1);
    idle(host, "u-replicas", "")?;
    let outcome = [3, 0, 1].into_iter().try_for_each(|n| {
        docker(host, &format!("service update -d --replicas {n} u-replicas"))?;
        running(host, "u-replicas", n)
    });
    docker(host, "service rm u-replicas")?;
    outcome
}

fn replicas_max_per_node(lab: &Lab) -> Result<()> {
    let host = lab.host(1);
    idle(host, "u-max", "--replicas 2 --update-parallelism 0 --update-monitor 1ms")?;
    let outcome = running(host, "u-max", 2).and_then(|()| {
        docker(host, "service update -d --replicas-max-per-node 1 u-max")?;
        running(host, "u-max", 1)
    });
    docker(host, "service rm u-max")?;
    outcome
}

fn rollback(lab: &Lab) -> Result<()> {
    let host = lab.host(1);
    idle(host, "u-rollback", "--env A=1 --update-monitor 1ms --rollback-monitor 1ms")?;
    let outcome = container(host, "u-rollback", &[]).and_then(|first| {
        docker(host, "service update -d --env-add A=2 u-rollback")?;
        let second = container(host, "u-rollback", std::slice::from_ref(&first))?;
        rolling::state(host, "u-rollback", "completed")?;
        docker(host, "service update -d --rollback u-rollback")?;
        see(host, "u-rollback", &[first, second], &Says("echo $A", "1"))
    });
    docker(host, "service rm u-rollback")?;
    outcome
}
