//! `docker system ...`, `docker context ...` and `docker version`.

use anyhow::{Context, Result, ensure};

use skep_e2e::tally::{Tally, docker, prints, refuses, says};

pub fn drive(tally: &mut Tally<'_>) -> Result<()> {
    let host = tally.host;
    tally.drive("version", |h| {
        prints(
            h,
            "version --format '{{.Server.APIVersion}} {{.Server.MinAPIVersion}} {{.Server.Os}}'",
            "1.50 1.24 linux",
        )?;
        says(h, "version", "Server:")
    });
    tally.drive("system info", |h| {
        let name = h.exec(&["hostname"])?;
        prints(
            h,
            "info --format '{{.Name}} {{.Containers}} {{.DockerRootDir}}'",
            &format!("{} 0 {}", name.trim(), h.dir.join("data").display()),
        )?;
        says(h, "info", "Cgroup Version: ")
    });
    tally.drive("system df", |h| {
        docker(h, "run --name big -v /d bb dd if=/dev/zero of=/file bs=1M count=3")?;
        let table = docker(h, "system df")?;
        for row in ["TYPE", "Images", "Containers", "Local Volumes", "Build Cache"] {
            ensure!(table.lines().any(|l| l.starts_with(row)), "no {row} in {table}");
        }
        says(h, "system df --format '{{.Type}} {{.TotalCount}} {{.Size}}'", "Containers 1 3.146MB")?;
        says(h, "system df -v", "Local Volumes space usage:")
    });
    tally.drive("system prune", |h| {
        let said = docker(h, "system prune -f")?;
        ensure!(
            said.contains("Deleted Containers:") && said.contains("Total reclaimed space: 3.146MB"),
            "{said}"
        );
        says(h, "images -q bb", "")?;
        docker(h, "system prune -af --volumes")?;
        prints(h, "images -q", "")?;
        prints(h, "volume ls -q", "")
    });
    let socket = host.docker_host();
    // The client keeps contexts by itself; what counts is that the daemon is reached through them.
    let alone = |args: &[&str]| -> Result<String> {
        let mut command = host.docker_command();
        let output = command.env_remove("DOCKER_HOST").args(args).output()?;
        let said = String::from_utf8(output.stdout)?;
        ensure!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(said)
    };
    let is = |args: &[&str], expected: &str| -> Result<()> {
        let said = alone(args)?;
        ensure!(said.contains(expected), "{args:?} printed {said:?}, without {expected:?}");
        Ok(())
    };
    let exported = host.dir.join("context.tar");
    let exported = exported.to_str().context("a UTF-8 path")?.to_owned();
    let endpoint = format!("host={socket}");
    tally.drive("context create", |_| {
        is(&["context", "create", "here", "--docker", &endpoint, "--description", "one"], "here")?;
        is(&["--context", "here", "version", "--format", "{{.Server.Os}}"], "linux")
    });
    tally.drive("context update", |_| is(&["context", "update", "here", "--description", "two"], "here"));
    tally.drive("context ls", |_| {
        is(&["context", "ls", "--format", "{{.Name}} {{.Description}}"], "here two")
    });
    tally.drive("context inspect", |_| {
        is(&["context", "inspect", "here", "-f", "{{.Endpoints.docker.Host}}"], &socket)
    });
    tally.drive("context use", |_| {
        is(&["context", "use", "here"], "here")?;
        is(&["info", "--format", "{{.OperatingSystem}}"], "")
    });
    tally.drive("context show", |_| is(&["context", "show"], "here"));
    tally.drive("context export", |_| is(&["context", "export", "here", &exported], ""));
    tally.drive("context import", |_| {
        is(&["context", "import", "again", &exported], "again")?;
        is(&["--context", "again", "version", "--format", "{{.Server.Os}}"], "linux")
    });
    tally.drive("context rm", |h| {
        is(&["context", "use", "default"], "default")?;
        is(&["context", "rm", "here", "again"], "again")?;
        refuses(h, "--context here version", "not found")
    });
    Ok(())
}
