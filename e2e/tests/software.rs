//! Real servers from Debian's packages: nginx behind a published port, redis whose data outlives its container,
//! PostgreSQL as its own user within a limit of memory, and what is killed for want of memory.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use skep_e2e::swarm::{LONG, path, plain};
use skep_e2e::{Host, eventually};

/// What `cargo xtask packages` made.
fn archive() -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let found = exe.ancestors().map(|dir| dir.join("tools/software.tar")).find(|p| p.exists());
    match found {
        Some(found) => Ok(found),
        None => bail!(
            "the image of Debian's servers is not there: run `cargo xtask packages` once, which makes it"
        ),
    }
}

fn shown(host: &Host, container: &str, template: &str) -> Result<String> {
    Ok(host.docker(&["inspect", "-f", template, container])?.trim().to_owned())
}

#[test]
fn servers_of_debian_run_as_they_do_in_docker() -> Result<()> {
    let lab = plain("sw", 1)?;
    let host = lab.host(1);
    host.docker(&["import", path(&archive()?), "debian"])?;
    nginx(host)?;
    redis(host)?;
    postgres(host)?;
    hog(host)?;
    lab.down()
}

fn nginx(host: &Host) -> Result<()> {
    let pages = host.dir.join("pages");
    std::fs::create_dir_all(&pages)?;
    std::fs::write(pages.join("index.html"), "a page of nginx\n")?;
    let bind = format!("{}:/srv:ro", path(&pages));
    host.docker(&[
        "run",
        "-d",
        "--name",
        "web",
        "-p",
        "8080:80",
        "-v",
        &bind,
        "debian",
        "nginx",
        "-g",
        "daemon off;",
    ])?;
    let url = format!("http://{}:8080/", host.addr);
    eventually("nginx serves the page", LONG, || {
        let page = host.exec(&["curl", "-sS", "--max-time", "5", &url])?;
        ensure!(page == "a page of nginx\n", "{page:?}");
        Ok(())
    })?;
    // Written once the answer has been sent.
    eventually("nginx has logged it", LONG, || {
        let logged = host.docker(&["exec", "web", "cat", "/var/log/nginx/access.log"])?;
        ensure!(logged.contains("\"GET / HTTP/1.1\" 200"), "{logged}");
        Ok(())
    })?;
    // Master and workers end in good order.
    host.docker(&["stop", "web"])?;
    ensure!(shown(host, "web", "{{.State.ExitCode}}")? == "0", "nginx did not end by itself");
    host.docker(&["rm", "web"]).map(drop)
}

fn redis(host: &Host) -> Result<()> {
    let start = || -> Result<()> {
        let server = ["redis-server", "--dir", "/data", "--appendonly", "yes", "--save", ""];
        let run = ["run", "-d", "--name", "cache", "--user", "redis", "-v", "cache:/data", "debian"];
        // The image has no /data: the volume's root belongs to root until somebody is given it.
        host.docker(&["run", "--rm", "-v", "cache:/data", "debian", "chown", "redis:redis", "/data"])?;
        host.docker(&[&run[..], &server].concat())?;
        eventually("redis answers", LONG, || {
            let said = cli(host, &["ping"])?;
            ensure!(said == "PONG", "{said}");
            Ok(())
        })
    };
    start()?;
    ensure!(cli(host, &["set", "kept", "through it all"])? == "OK");
    host.docker(&["stop", "cache"])?;
    host.docker(&["rm", "cache"])?;
    start()?;
    let kept = cli(host, &["get", "kept"])?;
    ensure!(kept == "through it all", "{kept:?}");
    host.docker(&["rm", "-f", "cache"])?;
    host.docker(&["volume", "rm", "cache"]).map(drop)
}

fn cli(host: &Host, command: &[&str]) -> Result<String> {
    Ok(host.docker(&[&["exec", "cache", "redis-cli"], command].concat())?.trim().to_owned())
}

fn postgres(host: &Host) -> Result<()> {
    let script = "initdb -N --locale=C --encoding=UTF8 --auth=trust /var/lib/postgresql/data && \
                  exec postgres -D /var/lib/postgresql/data -c jit=off -c shared_buffers=16MB -k /tmp";
    let run = [
        "run",
        "-d",
        "--name",
        "db",
        "--user",
        "postgres",
        "--memory",
        "128m",
        "-v",
        "db:/var/lib/postgresql",
    ];
    host.docker(&[&run[..], &["debian", "bash", "-c", script]].concat())?;
    let psql = |sql: &str| {
        let said = host.docker(&["exec", "db", "psql", "-h", "/tmp", "-At", "-c", sql])?;
        Ok::<_, anyhow::Error>(said.trim().to_owned())
    };
    eventually("PostgreSQL answers", 3 * LONG, || {
        if shown(host, "db", "{{.State.Running}}")? != "true" {
            let output = host.docker_command().args(["logs", "db"]).output()?;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            panic!("it ended: {}{}", text(&output.stdout), text(&output.stderr));
        }
        let user = psql("select current_user")?;
        ensure!(user == "postgres", "{user}");
        Ok(())
    })?;
    psql("create table t as select n, n * n as square from generate_series(1, 100000::bigint) n")?;
    let sum = psql("select sum(square) from t")?;
    ensure!(sum == "333338333350000", "{sum}");
    let id = host.docker(&["exec", "db", "id", "-un"])?;
    ensure!(id == "postgres\n", "{id}");
    let limit = host.docker(&["stats", "--no-stream", "--format", "{{.MemUsage}}", "db"])?;
    ensure!(limit.trim().ends_with("/ 128MiB"), "{limit}");
    // What was written is there after a crash, and is recovered.
    host.docker(&["kill", "db"])?;
    host.docker(&["rm", "db"])?;
    let again = ["debian", "postgres", "-D", "/var/lib/postgresql/data", "-c", "jit=off", "-k", "/tmp"];
    host.docker(&[&run[..], &again].concat())?;
    eventually("it has recovered", 3 * LONG, || {
        let sum = psql("select sum(square) from t")?;
        ensure!(sum == "333338333350000", "{sum}");
        Ok(())
    })?;
    host.docker(&["rm", "-f", "db"])?;
    host.docker(&["volume", "rm", "db"]).map(drop)
}

/// More memory than it may have: killed, and said to have been killed for that.
fn hog(host: &Host) -> Result<()> {
    let args =
        ["run", "--name", "hog", "--memory", "32m", "--memory-swap", "32m", "debian", "tail", "/dev/zero"];
    let output = host.docker_command().args(args).output()?;
    ensure!(output.status.code() == Some(137), "{output:?}");
    let state = shown(host, "hog", "{{.State.OOMKilled}} {{.State.ExitCode}} {{.State.Status}}")?;
    ensure!(state == "true 137 exited", "{state}");
    host.docker(&["rm", "hog"]).map(drop)
}
