//! What a step may do only where whoever builds allows it: BuildKit's `security.insecure` and `network.host`.

use std::fs;

use anyhow::{Context, Result, ensure};
use skep_e2e::swarm::path;

use crate::image::Image;
use crate::{builder, cached, docker_build, run};

#[test]
fn steps_are_privileged_or_in_the_hosts_network_where_that_is_allowed() -> Result<()> {
    let (lab, context) = builder("bent")?;
    let host = lab.host(1);
    let skep = |allowed: &[&str], text: &str| {
        fs::write(context.join("Dockerfile"), text)?;
        let mut command = host.skep_command();
        command.args(["build", "-t", "allowed"]);
        for entitlement in allowed {
            command.args(["--allow", entitlement]);
        }
        command.arg(path(&context));
        run(command)
    };
    let (insecure, network) = ("security.insecure", "network.host");
    let both = "FROM bb\nRUN cat /proc/self/status > /status\n\
                RUN --security=insecure cat /proc/self/status > /privileged\n\
                RUN busybox readlink /proc/self/ns/net > /net\n\
                RUN --network=host busybox readlink /proc/self/ns/net > /host\n";
    let (ok, said) = skep(&[insecure, network], both)?;
    ensure!(ok, "{said}");
    let image = Image::read(host, "allowed", &[])?;
    let text =
        |path: &str| Ok::<_, anyhow::Error>(String::from_utf8_lossy(&image.file(path)?.content).into_owned());
    // CAP_SYS_ADMIN (capabilities(7)), which no other container has.
    let admin = |path: &str| -> Result<bool> {
        let status = text(path)?;
        let mask = status.lines().find_map(|l| l.strip_prefix("CapEff:")).context("a mask")?;
        Ok(u64::from_str_radix(mask.trim(), 16)? & (1 << 21) != 0)
    };
    ensure!(!admin("/status")? && admin("/privileged")?, "{}{}", text("/status")?, text("/privileged")?);
    let own = host.exec(&["readlink", "/proc/self/ns/net"])?;
    ensure!(text("/host")?.trim() == own.trim(), "{} is not {own}", text("/host")?);
    ensure!(text("/net")?.trim() != own.trim(), "{own}");
    // What is not allowed is refused, by name, also where an earlier build has made it.
    for (flag, allowed, other) in
        [("--security=insecure", insecure, network), ("--network=host", network, insecure)]
    {
        let step = format!("FROM bb\nRUN {flag} touch /made\n");
        for attempt in ["new", "made before"] {
            for allow in [&[][..], &[other]] {
                let (ok, said) = skep(allow, &step)?;
                let words = format!("RUN {flag} is not allowed");
                ensure!(
                    !ok && said.contains(&words) && said.contains(allowed),
                    "{attempt} {allow:?}: {said}"
                );
            }
            let (ok, said) = run(docker_build(host, &[], &context))?;
            ensure!(!ok && said.contains(allowed), "{attempt}: {said}");
            let (ok, said) = skep(&[allowed], &step)?;
            ensure!(ok && cached(&said) == usize::from(attempt != "new"), "{attempt}: {said}");
        }
    }
    // A build that is in the host's network as a whole has it in each step.
    let (ok, said) = run(docker_build(host, &["--network=host"], &context))?;
    ensure!(ok, "{said}");
    let (ok, said) = skep(&["device"], "FROM bb\n")?;
    ensure!(!ok && said.contains("device") && said.contains(network), "{said}");
    lab.down()
}
