//! What a container or an exec that cannot be started says, in the words by which clients know it, and its exit codes; and the
//! ports of a container that goes from one kind of network to another.

use anyhow::{Context, Result, ensure};
use skep_e2e::swarm::hostname;

use crate::compare::Compare;
use crate::served::{inspect, run};
use crate::{busybox, docker, lab};

const CREATE: &str = "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: ";

#[test]
fn what_cannot_be_started_says_so_in_dockers_words() -> Result<()> {
    let lab = lab("er")?;
    let host = lab.host(1);
    busybox(host)?;
    host.docker(&["run", "-d", "--name", "up", "busybox", "/bin/busybox", "sleep", "100000"])?;
    let _held = host.hold_port(8090)?;
    for (args, code, said) in [
        (
            &["run", "--rm", "busybox", "nosuch"] as &[&str],
            127,
            format!("{CREATE}exec: \"nosuch\": executable file not found in $PATH"),
        ),
        (&["run", "--rm", "busybox", "/bin"], 126, format!("{CREATE}exec: \"/bin\": is a directory")),
        (&["run", "--rm", "--sysctl", "kernel.nosuch=1", "busybox", "true"], 125, "sysctl".into()),
        (&["exec", "up", "nosuch"], 127, "exec: \"nosuch\": executable file not found in $PATH".into()),
        (
            &["exec", "-w", "relative", "up", "/bin/busybox", "true"],
            128,
            "OCI runtime exec failed: exec failed: Cwd must be an absolute path".into(),
        ),
        (
            &["run", "--rm", "--name", "port", "-p", "8090:80", "busybox", "true"],
            125,
            "driver failed programming external connectivity on endpoint port (".into(),
        ),
        (
            &["run", "--rm", "-p", "127.0.0.1:8090:80", "busybox", "true"],
            125,
            "failed to bind host port for 127.0.0.1:8090:172.17.0.3:80/tcp: address already in use".into(),
        ),
    ] {
        let out = docker(host, args)?;
        let all = format!("{}{}", out.stdout, out.stderr);
        ensure!(out.code == Some(code) && all.contains(&said), "{args:?}: {out:?}, not {code} and {said:?}");
    }
    let mut compare = Compare::new(host);
    for line in
        ["run --rm busybox nosuch", "run --rm busybox /bin", "exec up nosuch", "exec -w relative up true"]
    {
        compare.same(line)?;
    }
    compare.end()?;
    lab.down()
}

#[test]
fn ports_are_bound_anew_where_a_container_goes_to_another_kind_of_network() -> Result<()> {
    let lab = lab("rb")?;
    let host = lab.host(1);
    let routed = "com.docker.network.bridge.gateway_mode_ipv4=routed";
    host.docker(&["network", "create", "--subnet", "10.75.0.0/24", "-o", routed, "ways"])?;
    host.docker(&["network", "create", "plain"])?;
    lab.outside(&["ip", "route", "add", "10.75.0.0/24", "via", &host.addr])?;
    run(host, "aa", &["--network", "plain", "-p", "8091:80", "-p", "127.0.0.1::81"])?;
    let curl =
        |url: &str| lab.outside(&["curl", "-gsS", "--max-time", "3", url]).and_then(|body| hostname(&body));
    let own = format!("http://{}:8091/", host.addr);
    let ports = |name: &str| inspect(host, name, "{{json .NetworkSettings.Ports}}");
    let random = |ports: &str| -> Result<String> {
        let all: serde_json::Value = serde_json::from_str(ports)?;
        Ok(all["81/tcp"][0]["HostPort"].as_str().context("a port")?.to_owned())
    };
    let before = random(&ports("aa")?)?;
    ensure!(curl(&own)? == "aa" && before.parse::<u16>()? > 0);

    // From the host's addresses to its own, and back.
    host.docker(&["network", "connect", "--ip", "10.75.0.9", "ways", "aa"])?;
    ensure!(random(&ports("aa")?)? == before, "what stays is not bound anew");
    host.docker(&["network", "disconnect", "plain", "aa"])?;
    ensure!(curl("http://10.75.0.9/")? == "aa", "by its own address");
    ensure!(curl(&own).is_err(), "not by the host's any more");
    let shown = ports("aa")?;
    ensure!(shown.contains(r#"{"HostIp":"0.0.0.0","HostPort":""}"#), "{shown}");
    // The host's port is free meanwhile, by IPv4.
    run(host, "bb", &["--network", "plain", "-p", "0.0.0.0:8091:80"])?;
    ensure!(curl(&own)? == "bb");
    host.docker(&["network", "connect", "plain", "aa"])?;
    let refused = docker(host, &["network", "disconnect", "ways", "aa"])?;
    ensure!(refused.code == Some(1) && refused.stderr.contains("port is already allocated"), "{refused:?}");
    ensure!(curl("http://10.75.0.9/")? == "aa" && curl(&own)? == "bb", "and all is as it was");
    host.docker(&["rm", "-f", "bb"])?;
    host.docker(&["network", "disconnect", "ways", "aa"])?;
    ensure!(curl(&own)? == "aa" && curl("http://10.75.0.9/").is_err());
    let listed = host.docker(&["ps", "--format", "{{.Ports}}"])?;
    ensure!(listed.contains("0.0.0.0:8091->80/tcp") && listed.contains("[::]:8091->80/tcp"), "{listed}");
    host.stop_daemon("-KILL")?;
    host.start_daemon()?;
    ensure!(curl(&own)? == "aa", "and stays so");
    lab.down()
}
