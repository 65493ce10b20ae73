//! Every command of Docker's client for one host, and every flag of `container create` and `run`, each by what it does
//! and by what it prints. Counts those that are right: `N/M`.

mod containers;
mod effects;
mod flags;
mod images;
mod networks;
mod system;
mod volumes;

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use skep_e2e::registry::{Registry, RegistryOptions};
use skep_e2e::tally::Tally;
use skep_e2e::{Lab, LabOptions, busybox_image};

/// The commands of containers, images, volumes, networks and the system.
const COMMANDS: &str = "
container: attach commit cp create diff exec export inspect kill logs ls pause port prune rename restart rm run start
stats stop top unpause update wait
image: history import inspect load ls prune pull push rm save tag
manifest: annotate create inspect push
volume: create inspect ls prune rm
network: connect create disconnect inspect ls prune rm
system: df events info prune
context: create export import inspect ls rm show update use
-: login logout search version
";

/// Commands that are not right yet, and why.
const NOT_YET: &[(&str, &str)] = &[];

const APPLETS: &[&str] = &[
    "sh", "echo", "true", "false", "cat", "grep", "ls", "id", "pwd", "hostname", "sleep", "env", "tr", "cut",
    "head", "df", "tail", "stty", "mkdir", "touch", "mount", "nc", "ip", "nslookup", "ping", "dd", "stat",
    "wc", "readlink", "rm", "mknod", "sed", "test",
];

#[test]
fn every_command_and_flag_does_what_it_is_for() -> Result<()> {
    let init = PathBuf::from(env!("CARGO_BIN_EXE_skep-lab-init"));
    let skep = init.with_file_name("skep");
    let name = format!("cm{}", std::process::id() % 10_000);
    let lab = Lab::bare(LabOptions { name, hosts: 1, skep, init })?;
    let host = lab.host(1);
    let specifications = flags::cdi(host).display().to_string();
    let real_time = std::path::Path::new("/sys/fs/cgroup/cpu/cpu.rt_runtime_us").exists();
    let real_time = if real_time { "cpu-rt-runtime = 50000\n" } else { "" };
    let real_time = format!("default-ulimits = [\"core=7:9\"]\n{real_time}");
    let config = format!("cdi-spec-dirs = [{specifications:?}]\n{real_time}{}", effects::spy(host)?);
    std::fs::write(host.dir.join("daemon.toml"), config)?;
    // As most are started: a daemon takes what it may have, and its containers have what it was given.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, 1024.min(hard), hard)?;
    host.start_daemon()?;
    let limits = host.exec(&["cat", &format!("/proc/{}/limits", host.daemon_pid()?)])?;
    let open = limits.lines().find(|l| l.starts_with("Max open files")).context("its limit of open files")?;
    ensure!(open.split_whitespace().skip(3).take(2).all(|n| n == hard.to_string()), "{open}");
    let archive = host.dir.join("busybox.tar");
    busybox_image(APPLETS, &archive)?;
    host.docker(&["import", archive.to_str().context("a UTF-8 path")?, "bb"])?;
    let registry =
        Registry::start(host, images::REGISTRY, &RegistryOptions { password: true, ..Default::default() })?;

    let inside = host.docker(&["run", "--rm", "bb", "grep", "open.files", "/proc/self/limits"])?;
    ensure!(inside.split_whitespace().nth(3) == Some(&1024.min(hard).to_string()), "{inside}");

    let mut tally = Tally::new(host);
    flags::drive(&mut tally)?;
    let flags = tally.end("flags of container create and run", flags::ALL, flags::NOT_YET);
    let mut tally = Tally::new(host);
    containers::drive(&mut tally)?;
    images::drive(&mut tally)?;
    volumes::drive(&mut tally)?;
    networks::drive(&mut tally)?;
    system::drive(&mut tally)?;
    let commands = tally.end("commands", COMMANDS, NOT_YET);
    // Not through `print!`, which the test harness keeps to itself when all is well.
    for outcome in [&flags, &commands] {
        writeln!(std::io::stderr(), "{}", outcome.count)?;
    }
    let unexpected = [flags.unexpected, commands.unexpected].concat();
    ensure!(unexpected.is_empty(), "{}", unexpected.join("\n"));
    drop(registry);
    lab.down()
}
