//! `cargo xtask demo`: Skep at work on throw-away state, without a network or a registry.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use skep_e2e::{eventually, eventually_some, whoami_image};

use crate::build;

#[derive(Args)]
pub struct DemoArgs {
    /// Port to publish the service on.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// End after the show instead of waiting for ctrl-C.
    #[arg(long)]
    once: bool,
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn interrupt(_: i32) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

pub fn run(args: DemoArgs) -> Result<()> {
    // SAFETY: the handler only stores to an atomic.
    unsafe {
        nix::sys::signal::signal(
            nix::sys::signal::Signal::SIGINT,
            nix::sys::signal::SigHandler::Handler(interrupt),
        )
    }?;
    println!("Building skep (release; the first time takes a few minutes) ...");
    let skep = build::binary("skep", "skep", true)?;
    let mut demo = Demo::start(skep)?;
    let outcome = demo.show(args.port, args.once);
    demo.stop()?;
    outcome
}

struct Demo {
    skep: PathBuf,
    dir: PathBuf,
    daemon: Child,
}

impl Demo {
    fn start(skep: PathBuf) -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("skep-demo-{}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        println!("Starting a single-node swarm in {} ...", dir.display());
        let log = std::fs::File::create(dir.join("daemon.log"))?;
        use std::os::unix::process::CommandExt;
        let daemon = Command::new(&skep)
            .args(["dev", "--log-level", "info", "--dir"])
            .arg(&dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Its own group: ctrl-C reaches it only through us, after we have cleaned up.
            .process_group(0)
            .spawn()
            .context("start skep dev")?;
        Ok(Self { skep, dir, daemon })
    }

    fn docker_host(&self) -> String {
        format!("unix://{}", self.dir.join("run/skep.sock").display())
    }

    fn skep(&self, args: &[&str]) -> Result<String> {
        let out = Command::new(&self.skep)
            .args(args)
            .env("DOCKER_HOST", self.docker_host())
            .stdin(Stdio::null())
            .output()?;
        if !out.status.success() {
            bail!("skep {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr));
        }
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    fn say(&self, args: &[&str]) -> Result<String> {
        println!("\n$ skep {}", args.join(" "));
        let out = self.skep(args)?;
        print!("{out}");
        Ok(out)
    }

    fn show(&mut self, port: u16, once: bool) -> Result<()> {
        let wait = Duration::from_secs(30);
        eventually("the daemon answers", wait, || {
            if let Some(status) = self.daemon.try_wait()? {
                bail!(
                    "skep dev ended with {status}: {}",
                    std::fs::read_to_string(self.dir.join("daemon.log"))?
                );
            }
            self.skep(&["node", "ls", "-q"]).map(drop)
        })?;
        let archive = self.dir.join("whoami.tar");
        whoami_image(&self.skep, &archive)?;
        self.say(&["import", &archive.display().to_string(), "whoami"])?;
        let published = format!("{port}:80");
        self.say(&[
            "service",
            "create",
            "--name",
            "web",
            "--replicas",
            "3",
            "-p",
            &published,
            "whoami",
            "/skep",
            "whoami",
        ])?;
        self.say(&["service", "ps", "web"])?;
        println!("\nAsking http://127.0.0.1:{port}/ until every replica has answered:");
        let mut seen = BTreeSet::new();
        eventually_some("all three replicas answer", wait, || {
            let answer = get(port)?;
            let name = answer
                .lines()
                .find_map(|l| l.strip_prefix("Hostname: "))
                .context("no host name in the answer")?
                .to_owned();
            if seen.insert(name.clone()) {
                println!("  answered by {name}");
            }
            Ok((seen.len() == 3).then_some(()))
        })?;
        println!("\nAll three replicas answer. Try, in another shell:\n");
        println!("  export DOCKER_HOST={}", self.docker_host());
        for next in [
            "curl http://127.0.0.1:PORT/",
            "skep service scale web=5",
            "skep service ps web",
            "skep service logs -f web",
            "docker service ls    # the docker client works too",
        ] {
            println!("  {}", next.replace("PORT", &port.to_string()));
        }
        println!("\n(skep is {})", self.skep.display());
        if !once {
            println!("\nctrl-C ends the demonstration and removes everything.");
            while !INTERRUPTED.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        Ok(())
    }

    /// Ends the daemon and removes every trace.
    fn stop(&mut self) -> Result<()> {
        println!("\nCleaning up ...");
        let removed = self.skep(&["service", "rm", "web"]).and_then(|_| {
            eventually("the containers are gone", Duration::from_secs(30), || {
                match self.skep(&["ps", "-aq"])?.trim() {
                    "" => Ok(()),
                    left => bail!("still there: {left}"),
                }
            })
        });
        let pid = nix::unistd::Pid::from_raw(self.daemon.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT)?;
        self.daemon.wait()?;
        let gone = remove(&self.dir);
        removed.and(gone)
    }
}

fn remove(dir: &Path) -> Result<()> {
    std::fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))
}

fn get(port: u16) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
