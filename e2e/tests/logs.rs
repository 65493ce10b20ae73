//! Log drivers as the `docker` client sees them, with a journal that listens where systemd's does, and a daemon that
//! is killed meanwhile.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use skep_e2e::{Lab, LabOptions, busybox_image, eventually};

const LONG: Duration = Duration::from_secs(60);

#[test]
fn the_journal_gets_messages_also_while_no_daemon_runs() -> Result<()> {
    let init = PathBuf::from(env!("CARGO_BIN_EXE_skep-lab-init"));
    let skep = init.with_file_name("skep");
    let name = format!("lo{}", std::process::id() % 10_000);
    let lab = Lab::up(LabOptions { name, hosts: 1, skep, init })?;
    let host = lab.host(1);
    let image = host.dir.join("busybox.tar");
    busybox_image(&["sh", "echo", "sleep"], &image)?;
    host.docker(&["import", image.to_str().context("a path")?, "bb"])?;
    for (args, words) in [
        (&["--log-driver", "splunk"][..], "logger: no log driver named 'splunk' is registered"),
        (
            &["--log-driver", "journald", "--log-opt", "colour=red"],
            "unknown log opt 'colour' for journald log driver",
        ),
        (
            &["--log-driver", "journald"],
            "failed to initialize logging driver: journald is not enabled on this host",
        ),
    ] {
        let error =
            host.docker(&[&["run", "--rm"], args, &["bb", "echo", "x"]].concat()).err().context(words)?;
        ensure!(format!("{error:#}").contains(words), "{error:#} lacks {words}");
    }
    // In this host's mounts only.
    host.exec(&["sh", "-c", "mount -t tmpfs none /run && mkdir -p /run/systemd/journal"])?;
    let socket = format!("/proc/{}/root/run/systemd/journal/socket", host.init.context("alive")?);
    let journal = UnixDatagram::bind(&socket)?;
    journal.set_read_timeout(Some(LONG))?;
    let next = |words: &str| -> Result<String> {
        let mut buffer = vec![0; 65536];
        loop {
            let n = journal.recv(&mut buffer)?;
            let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
            if text.contains(words) {
                return Ok(text);
            }
        }
    };
    let script = "n=0; while :; do n=$((n+1)); echo message $n; sleep 0.1; done";
    let args = [
        "run",
        "-d",
        "--name",
        "jj",
        "--log-driver",
        "journald",
        "--label",
        "a.b=c",
        "--log-opt",
        "labels=a.b",
    ];
    host.docker(
        &[&args[..], &["--log-opt", "tag={{.ImageName}}/{{.Name}}", "bb", "sh", "-c", script]].concat(),
    )?;
    let got = next("MESSAGE=message 2\n")?;
    for field in
        ["PRIORITY=6\n", "CONTAINER_NAME=jj\n", "CONTAINER_TAG=bb/jj\n", "IMAGE_NAME=bb\n", "A_B=c\n"]
    {
        ensure!(got.contains(field), "{got:?} lacks {field:?}");
    }
    let shown = host.docker(&["inspect", "-f", "{{json .HostConfig.LogConfig}}", "jj"])?;
    ensure!(shown.contains("\"Type\":\"journald\"") && shown.contains("\"labels\":\"a.b\""), "{shown}");
    ensure!(
        host.docker(&["info", "-f", "{{.LoggingDriver}} {{.Plugins.Log}}"])?
            .starts_with("json-file [fluentd journald")
    );
    // A service's tasks have drivers too; those that the daemon can read are read by `service logs`.
    host.docker(&["swarm", "init"])?;
    let service = ["service", "create", "-q", "--detach=false"];
    let words = ["--no-resolve-image", "bb", "sh", "-c", "echo of a service; exec sleep 1000"];
    for (name, driver, tag) in [("sj", "journald", "tag={{.Name}}"), ("sl", "local", "env=A")] {
        let log = ["--name", name, "--env", "A=b", "--log-driver", driver, "--log-opt", tag];
        host.docker(&[&service[..], &log, &words].concat())?;
        let told = host.docker(&["service", "logs", "--raw", name])?;
        ensure!(told == "of a service\n", "{name}: {told:?}");
    }
    let got = next("MESSAGE=of a service\n")?;
    ensure!(got.contains("CONTAINER_TAG=sj.1."), "{got:?}");
    let asked = host.docker(&["service", "inspect", "sj", "-f", "{{json .Spec.TaskTemplate.LogDriver}}"])?;
    ensure!(asked.trim() == r#"{"Name":"journald","Options":{"tag":"{{.Name}}"}}"#, "{asked}");
    host.docker(&["service", "rm", "sj", "sl"])?;
    host.docker(&["swarm", "leave", "--force"])?;
    host.stop_daemon("-9")?;
    next("MESSAGE=message ")?;
    next("MESSAGE=message ")?;
    host.start_daemon()?;
    let told = host.docker(&["logs", "--details", "--tail", "1", "jj"])?;
    ensure!(told.starts_with("a.b=c message "), "{told:?}");
    // The journal goes away: the container runs on, and the daemon's log says what is lost.
    drop(journal);
    host.exec(&["rm", "/run/systemd/journal/socket"])?;
    eventually("the daemon's log tells of lost messages", LONG, || {
        let log = host.log_tail();
        ensure!(log.contains("messages do not reach their receiver and are lost"), "{log}");
        Ok(())
    })?;
    ensure!(host.docker(&["inspect", "-f", "{{.State.Running}}", "jj"])?.trim() == "true");
    for driver in ["local", "json-file"] {
        let args = [
            "run",
            "--name",
            driver,
            "--log-driver",
            driver,
            "--log-opt",
            "env=A",
            "-e",
            "A=b c",
            "bb",
            "echo",
            "hi",
        ];
        host.docker(&args)?;
        let told = host.docker(&["logs", "--details", driver])?;
        ensure!(told == "A=b+c hi\n" || told == "A=b%20c hi\n" || told == "A=b c hi\n", "{told:?}");
    }
    host.docker(&["rm", "-f", "jj", "local", "json-file"])?;
    lab.down()
}
