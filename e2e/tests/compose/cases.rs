//! Tables of Compose files, one behaviour each: what they come to, what is wrong with them, and what containers are made.

use std::sync::Mutex;

use anyhow::{Context, Result, ensure};
use skep_e2e::Host;

use super::{Client, field, lab, skep, write};

/// Files beside `compose.yaml` that cases use.
const BESIDE: &[(&str, &str)] = &[
    (".env", "TAG=from-dotenv\nCOMPOSE_PROFILES=\n"),
    ("other.env", "TAG=from-flag\n"),
    ("more/part.yaml", "services:\n  part:\n    image: ${PART:-bb}\n    volumes: [\"./data:/data\"]\n"),
    ("more/.env", "PART=bb:part\n"),
    ("clash.yaml", "services:\n  a: {image: other}\n"),
    ("base.yaml", "services:\n  base: {image: bb, environment: {A: base, B: base}}\n"),
    ("vars.env", "A=\"one $TAG\"\nB='$TAG' # c\n"),
    ("key", "secret\n"),
];

/// Files, the command (after `compose -p p`), and what standard output or error must have; `!` is what it must not have.
const TOLD: &[(&str, &[&str], i32, &str)] = &[
    ("services: {a: {image: \"bb:$TAG\"}}", &["config"], 0, "image: bb:from-dotenv"),
    ("services: {a: {image: \"bb:$TAG\"}}", &["--env-file", "other.env", "config"], 0, "image: bb:from-flag"),
    ("services: {a: {image: \"bb:$COMPOSE_PROJECT_NAME\"}}", &["config"], 0, "image: bb:p"),
    ("services: {a: {image: \"bb:${NO:-x}\"}}", &["config", "--images"], 0, "bb:x"),
    ("services: {a: {image: \"bb:${NO:-x}\"}}", &["config", "--no-interpolate"], 0, "${NO:-x}"),
    (
        "services: {a: {image: bb, network_mode: host, networks: [default]}}",
        &["config"],
        1,
        "compose.yaml:1:41: services.a declares mutually exclusive network_mode and networks",
    ),
    (
        "services: {a: {image: bb, deploy: {replicas: -1}}}",
        &["config"],
        1,
        "services.a.deploy.replicas: must be greater than or equal to 0",
    ),
    (
        "services: {a: {image: bb, scale: 5, deploy: {replicas: 2}}}",
        &["config"],
        1,
        "services.a: can't set distinct values on 'scale' and 'deploy.replicas'",
    ),
    (
        "services: {a: {image: bb, cpus: 1, deploy: {resources: {limits: {cpus: \"2\"}}}}}",
        &["config"],
        1,
        "services.a: can't set distinct values on 'cpus' and 'deploy.resources.limits.cpus'",
    ),
    (
        "services: {a: {image: bb, mem_limit: 64m, deploy: {resources: {limits: {memory: 65m}}}}}",
        &["config"],
        1,
        "services.a: can't set distinct values on 'mem_limit' and 'deploy.resources.limits.memory'",
    ),
    (
        "services: {a: {image: bb, mem_reservation: 1g, deploy: {resources: {reservations: {memory: 64m}}}}}",
        &["config"],
        1,
        "services.a: can't set distinct values on 'mem_reservation' and 'deploy.resources.reservations.memory'",
    ),
    (
        "services: {a: {image: bb, pids_limit: 5, deploy: {resources: {limits: {pids: 6}}}}}",
        &["config"],
        1,
        "services.a: can't set distinct values on 'pids_limit' and 'deploy.resources.limits.pids'",
    ),
    ("services: {a: {image: bb, scale: 2, deploy: {replicas: 2}}}", &["config"], 0, "replicas: 2"),
    ("services: {\"a b\": {image: bb}}", &["config"], 1, "services: \"a b\" is no name"),
    (
        "services: {a: {image: bb}}\n---\nservices: {a: {environment: {A: \"1\"}}}\n---\nservices: {a: {image: cc}}",
        &["config"],
        0,
        "    environment:\n      A: \"1\"\n    image: cc\n",
    ),
    ("services: {a: {image: bb, command: [\"$$x\"]}}", &["config"], 0, "- $$x"),
    ("services: {a: {image: bb, command: [\"$$x\"]}}", &["config", "--no-interpolate"], 0, "- $$x"),
    (
        "services: {a: {image: bb, configs: [{source: c, mode: 0o440}]}}\nconfigs: {c: {content: x}}",
        &["config"],
        0,
        "mode: \"0440\"",
    ),
    (
        "services: {a: {image: bb, volumes: [\"/x:/y\", \"/z:/y\"], expose: [\"1\", \"1\"], ports: [\"80:80\", \"80:80\"]}}",
        &["config"],
        0,
        "    expose:\n      - \"1\"\n    image: bb\n    networks:\n      default: null\n    ports:\n      - mode: ingress\n        target: 80\n        published: \"80\"\n        protocol: tcp\n    volumes:\n      - type: bind\n        source: /z\n",
    ),
    ("services: {a: {build: .}}", &["config", "--images"], 0, "p-a"),
    ("services: {a: {image: bb}, b: {image: bb, profiles: [x]}}", &["config", "--services"], 0, "!b"),
    (
        "services: {a: {image: bb}, b: {image: bb, profiles: [x]}}",
        &["--profile", "x", "config", "--services"],
        0,
        "a\nb\n",
    ),
    ("services: {a: {image: bb}, b: {image: bb, profiles: [x]}}", &["config", "b"], 0, "  b:\n"),
    (
        "services: {a: {image: bb, profiles: [y]}, b: {image: bb, profiles: [x]}}",
        &["config", "--profiles"],
        0,
        "x\ny\n",
    ),
    ("include: [more/part.yaml]\nservices: {a: {image: bb}}", &["config"], 0, "image: bb:part"),
    (
        "include: [{path: more/part.yaml, env_file: other.env}]\nservices: {a: {image: bb}}",
        &["config"],
        0,
        "/more/data",
    ),
    (
        "include: [clash.yaml]\nservices:\n  a: {image: bb}",
        &["config"],
        1,
        "compose.yaml:3:3: service \"a\" is also in",
    ),
    ("include: [gone.yaml]\nservices: {a: {image: bb}}", &["config"], 1, "compose.yaml:1:11: include: open"),
    (
        "services:\n  a:\n    extends: {file: base.yaml, service: base}\n    environment: {B: own}",
        &["config"],
        0,
        "A: base\n      B: own",
    ),
    ("services: {a: {image: bb, env_file: vars.env}}", &["config"], 0, "A: one from-dotenv\n      B: $$TAG"),
    (
        "services: {a: {image: bb, volumes: [\"v:/v\"]}}\nvolumes: {v: {}, unused: {}}",
        &["config", "--volumes"],
        0,
        "!unused",
    ),
    ("services: {a: {image: bb}}\nnetworks: {default: {name: mine}}", &["config"], 0, "name: mine"),
    ("services: {a: {image: bb}}", &["config", "--format", "json"], 0, "\"image\": \"bb\""),
    ("services: {a: {image: bb}}", &["config", "--hash", "a"], 0, "a "),
    (
        "services:\n  a:\n    imgae: bb",
        &["config"],
        1,
        "compose.yaml:3:5: services.a: unknown key \"imgae\": did you mean \"image\"?",
    ),
    (
        "services:\n  a:\n    image: bb\n    develop: {watch: [{path: ., action: copy}]}",
        &["config"],
        1,
        "compose.yaml:4:41: services.a.develop.watch[0].action: want one of sync, rebuild",
    ),
    (
        "services:\n  a: {command: x}",
        &["config"],
        1,
        "compose.yaml:2:3: service \"a\" has neither an image nor a build context specified",
    ),
    (
        "services:\n  a: {image: bb, depends_on: [b]}",
        &["config"],
        1,
        "compose.yaml:2:31: service \"a\" depends on undefined service \"b\"",
    ),
    (
        "services:\n  a: {image: bb, depends_on: [b]}\n  b: {image: bb, profiles: [x]}",
        &["config"],
        1,
        "\"b\", whose profiles are not active",
    ),
    (
        "services:\n  a: {image: bb, depends_on: {b: {condition: service_started, required: false}}}\n  b: {image: bb, profiles: [x]}",
        &["config", "-q"],
        0,
        "",
    ),
    (
        "services:\n  a: {image: bb, depends_on: [b]}\n  b: {image: bb, depends_on: [a]}",
        &["config"],
        1,
        "dependency cycle detected: a -> b -> a",
    ),
    (
        "services:\n  a: {image: bb, network_mode: \"service:b\"}",
        &["config"],
        1,
        "compose.yaml:2:32: service \"a\" depends on undefined service \"b\"",
    ),
    (
        "services:\n  a: {image: bb, provider: {type: x}}",
        &["config"],
        1,
        "compose.yaml:2:18: services.a.provider is not supported",
    ),
    (
        "services:\n  a: {build: {context: ., provenance: true}}",
        &["config"],
        1,
        "services.a.build.provenance is not supported",
    ),
    (
        "services:\n  a: {build: {context: ., cache_to: [x]}}",
        &["config", "-q"],
        0,
        "compose.yaml:2:27: services.a.build.cache_to has no effect",
    ),
    (
        "services:\n  a: {build: {context: ., additional_contexts: {x: \"service:b\"}}}\n  b: {build: {context: ., additional_contexts: {x: \"service:a\"}}}",
        &["build"],
        1,
        "wait for each other: see their additional_contexts",
    ),
    (
        "services:\n  a: {image: bb, secrets: [s]}\nsecrets: {s: {external: true}}",
        &["config"],
        1,
        "services.a.secrets: unsupported external secret s",
    ),
    (
        "services:\n  a: {image: bb, deploy: {placement: {constraints: [x]}}}",
        &["config", "-q"],
        0,
        "compose.yaml:2:27: services.a.deploy.placement has no effect outside a swarm",
    ),
    (
        "version: \"3\"\nservices: {a: {image: bb}}",
        &["config", "-q"],
        0,
        "the attribute `version` is obsolete",
    ),
    (
        "services:\n  a: {image: bb, restart: often}",
        &["up", "-d"],
        1,
        "compose.yaml:2:27: services.a.restart: want no, always",
    ),
    (
        "services:\n  a: {image: bb, mem_limit: much}",
        &["up", "-d"],
        1,
        "compose.yaml:2:29: services.a.mem_limit: want a size like 64m",
    ),
    (
        "services:\n  a: {image: bb, container_name: one, scale: 2}",
        &["up", "-d"],
        1,
        "compose.yaml:2:34: services.a: can't set container_name",
    ),
    (
        "services:\n  a: {image: bb, pull_policy: sometimes}",
        &["up", "-d"],
        1,
        "compose.yaml:2:31: services.a.pull_policy: want always",
    ),
    ("services:\n  a: {image: \"bb:none\", pull_policy: never}", &["up", "-d"], 1, "no such image: bb:none"),
    (
        "services:\n  a: {image: bb}\nnetworks: {default: {external: true, name: gone}}",
        &["up", "-d"],
        1,
        "network gone declared as external, but could not be found",
    ),
    (
        "services:\n  a: {image: bb, volumes: [\"v:/v\"]}\nvolumes: {v: {external: true}}",
        &["up", "-d"],
        1,
        "external volume \"v\" not found",
    ),
    (
        "services: {a: {image: bb, security_opt: [\"seccomp=gone.json\"]}}",
        &["config", "--hash", "*"],
        1,
        "services.a.security_opt: opening seccomp profile (/",
    ),
    ("services: {a: {image: bb}}", &["up", "nope"], 1, "no such service: nope"),
    ("services: {a: {image: bb}}", &["-p", "Bad Name", "config"], 1, "invalid project name \"Bad Name\""),
    (
        "services: {a: {image: bb}}",
        &["up", "-d", "--abort-on-container-exit"],
        1,
        "--abort-on-container-exit and --detach are incompatible",
    ),
    ("services: {a: {image: bb}}", &["watch"], 1, "none of the selected services is configured for watch"),
];

/// A service, a template for its container, and what that shows.
const MADE: &[(&str, &str, &str)] = &[
    ("command: sleep 9", "{{.Config.Cmd}}", "[sleep 9]"),
    ("entrypoint: [sleep], command: [\"9\"]", "{{.Config.Entrypoint}} {{.Config.Cmd}}", "[sleep] [9]"),
    (
        "working_dir: /tmp, user: \"1:2\", hostname: h, domainname: d",
        "{{.Config.WorkingDir}} {{.Config.User}} {{.Config.Hostname}} {{.Config.Domainname}}",
        "/tmp 1:2 h d",
    ),
    ("environment: [A=1, NOT_SET_ANYWHERE]", "{{.Config.Env}}", "[A=1]"),
    (
        "stop_signal: SIGINT, stop_grace_period: 1m5s",
        "{{.Config.StopSignal}} {{.Config.StopTimeout}}",
        "SIGINT 65",
    ),
    ("tty: true, stdin_open: true", "{{.Config.Tty}} {{.Config.OpenStdin}}", "true true"),
    ("healthcheck: {disable: true}", "{{.Config.Healthcheck.Test}}", "[NONE]"),
    (
        "healthcheck: {test: \"true\", interval: 2s, timeout: 1s, retries: 5, start_period: 3s}",
        "{{.Config.Healthcheck.Test}} {{.Config.Healthcheck.Interval}} {{.Config.Healthcheck.Retries}}",
        "[CMD-SHELL true] 2s 5",
    ),
    ("restart: unless-stopped", "{{.HostConfig.RestartPolicy.Name}}", "unless-stopped"),
    (
        "deploy: {restart_policy: {condition: on-failure, max_attempts: 4}}",
        "{{.HostConfig.RestartPolicy.Name}} {{.HostConfig.RestartPolicy.MaximumRetryCount}}",
        "on-failure 4",
    ),
    (
        "privileged: true, read_only: true",
        "{{.HostConfig.Privileged}} {{.HostConfig.ReadonlyRootfs}}",
        "true true",
    ),
    (
        "mem_limit: 32m, mem_reservation: 16m, cpus: 0.5, pids_limit: 9, shm_size: 1m",
        "{{.HostConfig.Memory}} {{.HostConfig.MemoryReservation}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}} {{.HostConfig.ShmSize}}",
        "33554432 16777216 500000000 9 1048576",
    ),
    (
        "deploy: {resources: {limits: {cpus: \"0.25\", memory: 32M, pids: 7}}}",
        "{{.HostConfig.NanoCpus}} {{.HostConfig.Memory}} {{.HostConfig.PidsLimit}}",
        "250000000 33554432 7",
    ),
    (
        "cpuset: \"0\", cpu_shares: 100, oom_score_adj: 10",
        "{{.HostConfig.CpusetCpus}} {{.HostConfig.CpuShares}} {{.HostConfig.OomScoreAdj}}",
        "0 100 10",
    ),
    (
        "devices: [\"/dev/null:/dev/x:r\"]",
        "{{json .HostConfig.Devices}}",
        "[{\"PathOnHost\":\"/dev/null\",\"PathInContainer\":\"/dev/x\",\"CgroupPermissions\":\"r\"}]",
    ),
    (
        "ipc: host, pid: host, uts: host",
        "{{.HostConfig.IpcMode}} {{.HostConfig.PidMode}} {{.HostConfig.UTSMode}}",
        "host host host",
    ),
    ("network_mode: none", "{{.HostConfig.NetworkMode}}", "none"),
    (
        "group_add: [\"5\"], security_opt: [no-new-privileges], cap_add: [SYS_TIME]",
        "{{.HostConfig.GroupAdd}} {{.HostConfig.SecurityOpt}}",
        "[5] [no-new-privileges]",
    ),
    (
        "dns: 9.9.9.9, dns_search: [a.b], dns_opt: [\"ndots:2\"]",
        "{{.HostConfig.Dns}} {{.HostConfig.DnsSearch}} {{.HostConfig.DnsOptions}}",
        "[9.9.9.9] [a.b] [ndots:2]",
    ),
    ("extra_hosts: [\"x=1.2.3.4\"]", "{{.HostConfig.ExtraHosts}}", "[x:1.2.3.4]"),
    (
        "logging: {driver: local, options: {max-size: 1m}}",
        "{{.HostConfig.LogConfig.Type}} {{index .HostConfig.LogConfig.Config \"max-size\"}}",
        "local 1m",
    ),
    ("tmpfs: [\"/t:size=1m\"]", "{{.HostConfig.Tmpfs}}", "map[/t:size=1m]"),
    (
        "volumes: [{type: tmpfs, target: /t, tmpfs: {size: 1m}}]",
        "{{(index .Mounts 0).Type}} {{(index .Mounts 0).Destination}}",
        "tmpfs /t",
    ),
    ("volumes: [\"./made:/m:ro\"]", "{{(index .Mounts 0).Type}} {{(index .Mounts 0).RW}}", "bind false"),
    ("labels: [a=b], annotations: {c: d}", "{{.Config.Labels.a}} {{.HostConfig.Annotations.c}}", "b d"),
    (
        "expose: [\"7\", \"8-9/udp\"]",
        "{{json .Config.ExposedPorts}}",
        "{\"7/tcp\":{},\"8/udp\":{},\"9/udp\":{}}",
    ),
    ("ports: [\"127.0.0.1::80\"]", "{{len (index .NetworkSettings.Ports \"80/tcp\")}}", "1"),
    (
        "container_name: chosen",
        "{{.Name}} {{index .Config.Labels \"com.docker.compose.container-number\"}}",
        "/chosen 1",
    ),
    ("blkio_config: {weight: 300}", "{{.HostConfig.BlkioWeight}}", "300"),
    ("post_start: [{command: touch /hooked}]", "{{.State.Running}}", "true"),
];

fn told(host: &Host, dir: &std::path::Path, n: usize) -> Result<()> {
    let (file, args, wanted, words) = TOLD[n];
    let dir = dir.join(format!("told-{n}"));
    write(&dir, BESIDE)?;
    write(&dir, &[("compose.yaml", file)])?;
    let words_of_args: Vec<&str> =
        if args.contains(&"-p") { args.to_vec() } else { [&["-p", "p"], args].concat() };
    let (code, out, err) = Client::Skep.run(host, &dir, &words_of_args)?;
    let said = format!("{out}{err}");
    match words.strip_prefix('!') {
        Some(not) => {
            ensure!(code == wanted && !said.lines().any(|l| l == not), "{file}\n{args:?}: {code} {said}")
        }
        None => ensure!(code == wanted && said.contains(words), "{file}\n{args:?}: {code} {said}"),
    }
    Ok(())
}

fn made(host: &Host, dir: &std::path::Path, n: usize) -> Result<()> {
    let (service, template, wanted) = MADE[n];
    let (dir, project) = (dir.join(format!("made-{n}")), format!("m{n}"));
    let own = service.starts_with("command") || service.contains(", command");
    let command = if own { "" } else { "command: sleep 1000, " };
    write(
        &dir,
        &[("compose.yaml", &format!("services:\n  a: {{image: bb, init: true, {command}{service}}}\n"))],
    )?;
    skep(host, &dir, &["-p", &project, "up", "-d"]).with_context(|| service.to_owned())?;
    let id = skep(host, &dir, &["-p", &project, "ps", "-aq"])?;
    let shown = field(host, id.trim(), template)?;
    ensure!(shown == wanted, "{service}: {template}: {shown}, not {wanted}");
    if service.starts_with("post_start") {
        skep(host, &dir, &["-p", &project, "exec", "-T", "a", "ls", "/hooked"])?;
    }
    skep(host, &dir, &["-p", &project, "down", "-v", "-t", "0"]).map(drop)
}

#[test]
fn files_come_to_what_they_say() -> Result<()> {
    let (lab, dir) = lab("ccase")?;
    let host = lab.host(1);
    let work: Vec<(bool, usize)> =
        (0..TOLD.len()).map(|n| (true, n)).chain((0..MADE.len()).map(|n| (false, n))).collect();
    let (failures, queue) = (Mutex::new(Vec::new()), Mutex::new(work.iter()));
    std::thread::scope(|s| {
        for _ in 0..3 {
            s.spawn(|| {
                loop {
                    let next = queue.lock().expect("not poisoned").next();
                    let Some((is_told, n)) = next else { break };
                    let done = if *is_told { told(host, &dir, *n) } else { made(host, &dir, *n) };
                    if let Err(e) = done {
                        failures.lock().expect("not poisoned").push(format!("{e:#}"));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("not poisoned");
    ensure!(failures.is_empty(), "{} of {}:\n{}", failures.len(), work.len(), failures.join("\n\n"));
    ensure!(super::containers(host)?.is_empty(), "nothing is left");
    lab.down()
}
