//! One scenario with each client; then what the daemon has is compared.

use anyhow::{Result, ensure};
use serde_json::Value;
use skep_e2e::Host;

use super::{Client, field, lab, write};

const FILE: &str = r#"
name: par
services:
  db:
    image: bb
    command: sh -c "trap 'exit 0' TERM; echo db up; touch /tmp/ready; while true; do sleep 0.1; done"
    healthcheck: {test: ["CMD", "cat", "/tmp/ready"], interval: 500ms, retries: 60}
    volumes: ["data:/data", "/anonymous", "./src:/src:ro"]
    tmpfs: /scratch:size=1m
    ulimits: {nofile: {soft: 512, hard: 1024}}
    sysctls: {net.ipv4.ip_unprivileged_port_start: "80"}
  init:
    image: bb
    command: [echo, initialised]
    network_mode: none
  web:
    build: {context: ., args: {GREETING: hello}, labels: {made: here}}
    depends_on:
      db: {condition: service_healthy}
      init: {condition: service_completed_successfully}
    ports: ["127.0.0.1:8086:80"]
    expose: ["90"]
    environment: {COLOUR: "${COLOUR:-red}", FROM_FILE: "${FROM_FILE}"}
    env_file: [vars.env]
    labels: {tier: front}
    hostname: webhost
    extra_hosts: ["other:10.1.2.3"]
    cap_drop: [NET_RAW]
    init: true
    secrets: [key, {source: word, target: /etc/word}]
    configs: [{source: app, target: /etc/app.conf, mode: 0440}]
    networks: {front: {aliases: [www], ipv4_address: 172.31.99.7}, default: {}}
    restart: on-failure:2
    stop_grace_period: 3s
    deploy: {resources: {limits: {cpus: "0.5", memory: 64M, pids: 50}}}
volumes: {data: {labels: {kept: "yes"}}}
networks: {front: {ipam: {config: [{subnet: 172.31.99.0/24}]}}}
secrets: {key: {file: ./key.txt}, word: {environment: WORD}}
configs: {app: {content: "hello ${COLOUR:-red}\n"}}
"#;
const DOCKERFILE: &str = "FROM bb\nARG GREETING\nRUN echo $GREETING > /built\nCMD [\"sh\",\"-c\",\"trap 'exit 0' TERM; echo web up; cat /etc/app.conf /run/secrets/key /etc/word; while true; do sleep 0.1; done\"]\n";

/// What a container is, without what each has for itself.
fn shape(host: &Host, name: &str) -> Result<Value> {
    let mut found: Value = serde_json::from_str(&field(host, name, "{{json .}}")?)?;
    let keep = ["Config", "HostConfig", "Path", "Args", "Name"];
    if let Some(o) = found.as_object_mut() {
        o.retain(|k, _| keep.contains(&k.as_str()));
    }
    if let Some(l) = found["Config"]["Labels"].as_object_mut() {
        l.retain(|k, _| {
            !["config-hash", "version", "image", "image.builder"]
                .iter()
                .any(|e| k == &format!("com.docker.compose.{e}"))
        });
        // In any order.
        if let Some(needs) = l.get("com.docker.compose.depends_on").and_then(Value::as_str) {
            let mut needs: Vec<&str> = needs.split(',').collect();
            needs.sort_unstable();
            let sorted = needs.join(",");
            l.insert("com.docker.compose.depends_on".into(), sorted.into());
        }
    }
    for list in ["Env"] {
        if let Some(list) = found["Config"][list].as_array_mut() {
            list.sort_by_key(Value::to_string);
        }
    }
    // How the streams of a container that nobody types into were asked for, and the one way or the other to mount.
    for key in ["AttachStdout", "AttachStderr", "AttachStdin", "Image", "Hostname", "Volumes"] {
        found["Config"][key].take();
    }
    for key in ["Binds", "Mounts", "ConsoleSize"] {
        found["HostConfig"][key].take();
    }
    Ok(empty_out(found))
}

/// Without what says nothing.
fn empty_out(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().map(|(k, v)| (k, empty_out(v)));
            kept.filter(|(_, v)| {
                !(v.is_null()
                    || v == ""
                    || v == 0
                    || v == false
                    || *v == Value::Array(vec![])
                    || v.as_object().is_some_and(|o| o.is_empty()))
            })
            .collect()
        }
        other => other,
    }
}

/// Mounts as `TYPE TARGET RW`, networks with their aliases, what is in files, and what the project's things are called.
fn effects(host: &Host, client: Client, dir: &std::path::Path) -> Result<Vec<(String, String)>> {
    let mut out = Vec::new();
    for name in ["par-db-1", "par-init-1", "par-web-1"] {
        let mounts = field(host, name, "{{range .Mounts}}{{.Type}} {{.Destination}} {{.RW}}\n{{end}}")?;
        let mut mounts: Vec<&str> = mounts.lines().filter(|l| !l.is_empty()).collect();
        mounts.sort_unstable();
        out.push((format!("mounts of {name}"), mounts.join(";")));
        let networks = field(
            host,
            name,
            "{{range $n, $e := .NetworkSettings.Networks}}{{$n}} {{json $e.Aliases}} {{json $e.IPAMConfig}};{{end}}",
        )?;
        out.push((format!("networks of {name}"), networks));
        out.push((format!("{name} itself"), serde_json::to_string_pretty(&shape(host, name)?)?));
        out.push((
            format!("state of {name}"),
            field(host, name, "{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}")?,
        ));
    }
    out.push((
        "volumes".into(),
        host.docker(&[
            "volume",
            "ls",
            "-f",
            "label=com.docker.compose.project=par",
            "--format",
            "{{.Name}}",
        ])?,
    ));
    out.push((
        "a volume's label".into(),
        host.docker(&[
            "volume",
            "inspect",
            "-f",
            "{{.Labels.kept}} {{index .Labels \"com.docker.compose.volume\"}}",
            "par_data",
        ])?,
    ));
    let mut networks: Vec<String> = host
        .docker(&[
            "network",
            "ls",
            "-f",
            "label=com.docker.compose.project=par",
            "--format",
            "{{.Name}} {{.Label \"com.docker.compose.network\"}}",
        ])?
        .lines()
        .map(str::to_owned)
        .collect();
    networks.sort();
    out.push(("networks".into(), networks.join(";")));
    let inside = client.ok(host, dir, &["exec", "-T", "web", "sh", "-c", "cat /built /etc/app.conf /run/secrets/key /etc/word; ls -ln /etc/app.conf /etc/word; hostname; env | sort"])?;
    let inside: Vec<String> = inside
        .lines()
        .filter(|l| !l.starts_with("HOME"))
        .map(|l| l.split_whitespace().filter(|w| !w.contains(':')).collect::<Vec<_>>().join(" "))
        .collect();
    out.push(("inside".into(), inside.join("\n")));
    let mut logs: Vec<String> = client
        .ok(host, dir, &["logs", "--no-color"])?
        .lines()
        .map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    logs.sort();
    out.push(("logs".into(), logs.join("\n")));
    out.push(("port".into(), client.ok(host, dir, &["port", "web", "80"])?.trim().to_owned()));
    let ps = client.ok(
        host,
        dir,
        &["ps", "-a", "--format", "{{.Name}} {{.Service}} {{.State}} {{.ExitCode}} {{.Ports}} {{.Health}}"],
    )?;
    out.push(("ps".into(), ps));
    out.push(("services".into(), client.ok(host, dir, &["ps", "--services"])?));
    out.push((
        "image".into(),
        host.docker(&["image", "inspect", "-f", "{{.Config.Labels.made}}", "par-web"])?,
    ));
    Ok(out)
}

#[test]
fn both_clients_make_the_same_of_a_file() -> Result<()> {
    let (lab, dir) = lab("cpar")?;
    let host = lab.host(1);
    write(
        &dir,
        &[
            ("compose.yaml", FILE),
            ("Dockerfile", DOCKERFILE),
            ("key.txt", "secret\n"),
            ("vars.env", "A='quoted value'\nB=$COLOUR-x # c\n"),
            (".env", "COLOUR=green\nFROM_FILE=\"yes it is\"\nWORD=magic\n"),
            ("src/a", "a"),
        ],
    )?;
    let mut seen = Vec::new();
    for client in [Client::Docker, Client::Skep] {
        client.ok(host, &dir, &["up", "-d", "--wait"])?;
        seen.push(effects(host, client, &dir)?);
        // What the one has made, the other sees.
        let other = if client == Client::Skep { Client::Docker } else { Client::Skep };
        let theirs = other.ok(host, &dir, &["ps", "-a", "--format", "{{.Name}} {{.State}}"])?;
        let own = client.ok(host, &dir, &["ps", "-a", "--format", "{{.Name}} {{.State}}"])?;
        ensure!(theirs == own, "{other:?} sees {theirs} and {client:?} {own}");
        let ls = |c: Client| {
            c.ok(host, &dir, &["ls", "--format", "json"]).and_then(|t| Ok(serde_json::from_str::<Value>(&t)?))
        };
        ensure!(ls(client)? == ls(other)?, "{} {}", ls(client)?, ls(other)?);
        for (args, wanted) in [
            (&["run", "--rm", "-T", "--no-deps", "db", "sh", "-c", "exit 7"][..], 7),
            (&["exec", "-T", "web", "sh", "-c", "exit 3"], 3),
            (&["exec", "-T", "nope", "true"], 1),
            (&["logs", "nope"], 1),
        ] {
            let (code, out, err) = client.run(host, &dir, args)?;
            ensure!(code == wanted, "{client:?} {args:?}: {code} {out}{err}");
        }
        other.ok(host, &dir, &["down", "-v", "--rmi", "local", "-t", "5"])?;
        ensure!(super::containers(host)?.is_empty(), "{other:?} takes away what {client:?} has made");
        for kind in ["volume", "network"] {
            let left = host.docker(&[kind, "ls", "-q", "-f", "label=com.docker.compose.project=par"])?;
            ensure!(left.trim().is_empty(), "{kind}s are left: {left}");
        }
        ensure!(
            !host.docker(&["images", "--format", "{{.Repository}}"])?.contains("par-web"),
            "the image stays"
        );
    }
    let pairs = seen[0].iter().zip(&seen[1]).filter(|(theirs, own)| theirs != own);
    let differ: Vec<String> = pairs
        .map(|(theirs, own)| format!("{}:\ndocker compose:\n{}\nskep compose:\n{}", own.0, theirs.1, own.1))
        .collect();
    ensure!(differ.is_empty(), "{}", differ.join("\n\n"));
    lab.down()
}
