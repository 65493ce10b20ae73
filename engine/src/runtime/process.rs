//! The container's first process, from its first instruction to the command.

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::stat::{Mode, umask};

use super::capabilities::{self, Capabilities};
use super::cgroup::Cgroup;
use super::command::Command;
use super::confinement::{Confinement, Entry};
use super::error::{Context, Error};
use super::gate::{Gate, Message};
use super::mounts::FromHost;
use super::reaper::{self, Role};
use super::resolve::Root;
use super::rlimits::{self, Rlimit};
use super::seccomp::Filter;
use super::user::User;
use super::{descriptors, devices, hooks, keyring, mount_api, namespaces, paths, rootfs, sysctls, terminal};
use crate::cdi::Stage;
use crate::shim::{Namespace, NetworkNamespace, ShimSpec};

/// Everything decided before the process exists.
pub struct Plan<'a> {
    /// As asked for.
    pub spec: &'a ShimSpec,
    /// What it may keep.
    pub capabilities: Capabilities,
    /// Its filter.
    pub filter: Option<Filter>,
    /// Its resource limits.
    pub rlimits: Vec<Rlimit>,
    /// The namespace to enter.
    pub network: Option<OwnedFd>,
    /// The IPC namespace to enter.
    pub ipc: Option<OwnedFd>,
    /// Devices of the host for an ordinary container.
    pub devices: Vec<devices::Chosen>,
    /// A directory that the root file system is mounted on before it becomes the root.
    pub scratch: &'a Path,
    /// What hooks are told of as the bundle.
    pub bundle: &'a Path,
    /// The user namespace to enter.
    pub userns: Option<&'a OwnedFd>,
}

/// stdin, stdout and stderr of a container without a terminal.
pub type Pipes = [OwnedFd; 3];

/// What a container has of the host, gathered before it is out of reach.
pub struct Outside {
    from_host: FromHost,
    tree: OwnedFd,
    nodes: Vec<devices::HostDevice>,
    /// /dev with its nodes, where the container's root may make none.
    dev: Option<OwnedFd>,
    confinement: Option<Confinement>,
}

/// Sets everything up, waits to be started, and becomes the command. Returns only failures, except
/// in the reaper, which never does.
pub fn run(plan: &Plan<'_>, cgroup: &Cgroup, pipes: Option<Pipes>, gate: &Gate) -> Result<Infallible, Error> {
    begin(plan)?;
    join_namespaces(plan)?;
    let mut outside = gather_trees(plan)?;
    if !cgroup.is_entered_by_clone() {
        // Its directories were being made meanwhile.
        match gate.receive()? {
            Some((Message::Join, _)) => cgroup.join()?,
            _ => return Err(Error::Refused("the shim is gone".into())),
        }
    }
    outside.from_host.collect_cgroups(cgroup, !plan.spec.privileged)?;
    // Opened here, since a mount point must be of this mount namespace.
    let scratch = open_scratch(plan)?;
    inside(plan, outside, &scratch, pipes, gate)
}

/// What is as the host's root sets it.
pub fn begin(plan: &Plan<'_>) -> Result<(), Error> {
    // Processes that are no part of this container may see this one before it is confined, and as the reaper its
    // own see it for good: what it holds of the host must stay out of their reach.
    nix::sys::prctl::set_dumpable(false).on("protect", "container init")?;
    reset_signals()?;
    set_oom_score(plan.spec)?;
    rlimits::apply(&plan.rlimits)
}

/// Enters and sets up the namespaces that this process was not cloned into.
pub fn join_namespaces(plan: &Plan<'_>) -> Result<(), Error> {
    keyring::leave_hosts()?;
    nix::unistd::setsid().on("make", "session")?;
    if let Some(network) = &plan.network {
        namespaces::enter_network(network)?;
    }
    if let Some(ipc) = &plan.ipc {
        namespaces::enter_ipc(ipc)?;
    }
    if plan.spec.network == NetworkNamespace::New {
        namespaces::loopback_up()?;
    }
    namespaces::set_names(plan.spec)
}

/// Everything of the host, as its root. The cgroup has been joined.
pub fn gather(plan: &Plan<'_>, cgroup: &Cgroup) -> Result<Outside, Error> {
    let mut outside = gather_trees(plan)?;
    outside.from_host.collect_cgroups(cgroup, true)?;
    Ok(outside)
}

fn gather_trees(plan: &Plan<'_>) -> Result<Outside, Error> {
    let spec = plan.spec;
    let mut from_host = FromHost::collect(&spec.host_files, &spec.mounts)?;
    rootfs::isolate()?;
    let scratch = open_scratch(plan)?;
    from_host.collect_shm(&spec.shm)?;
    let nodes = devices::nodes(spec, &plan.devices);
    let label = spec.confined.mount_label.as_str();
    let dev = spec.id_maps.as_ref().map(|maps| devices::tree(&nodes, maps, label)).transpose()?;
    let mapped = plan.userns.zip(spec.id_maps.as_ref());
    from_host.collect_images(&scratch, mapped)?;
    let tree = rootfs::prepare(&spec.rootfs, &scratch, mapped, label)?;
    let confinement = Confinement::prepare(&spec.confined)?;
    Ok(Outside { from_host, tree, nodes, dev, confinement })
}

fn open_scratch(plan: &Plan<'_>) -> Result<OwnedFd, Error> {
    Ok(std::fs::File::open(plan.scratch).on("open", plan.scratch.display())?.into())
}

/// The rest, with what the container itself may do.
pub fn inside(
    plan: &Plan<'_>,
    mut outside: Outside,
    scratch: &OwnedFd,
    pipes: Option<Pipes>,
    gate: &Gate,
) -> Result<Infallible, Error> {
    let spec = plan.spec;
    let confinement = outside.confinement.take();
    let (root, null) = build_root(plan, outside, scratch, gate)?;
    let slave = match spec.tty {
        true => Some(open_terminal(&root, gate)?),
        false => None,
    };
    sysctls::apply(&spec.sysctls)?;
    if !spec.privileged {
        paths::protect(&root, &null, spec.masked_paths.as_deref(), spec.readonly_paths.as_deref())?;
    }
    if spec.read_only {
        let top = root.locate(Path::new("/")).on("open", "/")?;
        mount_api::set_attributes(&top, mount_api::RDONLY, false).on("make read-only", "root file system")?;
    }
    umask(Mode::from_bits_truncate(0o022));
    let user = User::resolve(&root, &spec.user, &spec.groups)?;
    user.check(spec.id_maps.as_ref())?;
    enter_directory(&root, &spec.cwd)?;
    connect_stdio(pipes, slave, &user, null)?;
    drop(root);
    become_user(&user, plan.capabilities)?;
    let command = Command::find(spec, &user)?;
    gate.send(&Message::Ready, None)?;
    match gate.receive()? {
        Some((Message::Start, _)) => execute(plan, &user, &command, confinement),
        _ => Err(Error::Refused("the shim is gone".into())),
    }
}

/// The root, and its /dev/null as it was before volumes could cover it.
fn build_root(
    plan: &Plan<'_>,
    outside: Outside,
    scratch: &OwnedFd,
    gate: &Gate,
) -> Result<(Root, OwnedFd), Error> {
    let spec = plan.spec;
    let Outside { from_host, tree, nodes, dev, .. } = outside;
    if spec.cgroupns == Namespace::New {
        namespaces::unshare_cgroup()?;
    }
    // Mounted while the host's root is still there, for the hooks that want to see both, and since the kernel gives
    // who is not the host's root a /proc only where there is one already.
    rootfs::place(&tree, scratch)?;
    umask(Mode::empty());
    let root = Root::from(tree.try_clone().on("copy", "root file system")?);
    from_host.attach_kernel(&root, spec, dev.as_ref())?;
    if dev.is_none() {
        devices::populate(&root, &nodes)?;
    }
    let null = devices::null(&root)?;
    umask(Mode::from_bits_truncate(0o022));
    rootfs::mark(&root)?;
    from_host.attach_volumes(&root, &spec.confined.mount_label)?;
    if hooks::any(spec, &[Stage::Prestart, Stage::CreateRuntime]) {
        gate.send(&Message::Mounted, None)?;
        match gate.receive()? {
            Some((Message::Enter, _)) => {}
            _ => return Err(Error::Refused("the shim is gone".into())),
        }
    }
    hooks::run(spec, &[Stage::CreateContainer], "creating", own_pid(), plan.bundle)?;
    rootfs::enter(&tree)?;
    Ok((Root::current().on("open", "/")?, null))
}

/// As the container sees it.
fn own_pid() -> i32 {
    nix::unistd::getpid().as_raw()
}

fn open_terminal(root: &Root, gate: &Gate) -> Result<OwnedFd, Error> {
    let (master, slave) = terminal::open_console(root)?;
    gate.send(&Message::Terminal, Some(&master))?;
    Ok(slave)
}

/// How readily the kernel kills it when out of memory.
pub(super) fn set_oom_score(spec: &ShimSpec) -> Result<(), Error> {
    let Some(score) = spec.oom_score_adj else { return Ok(()) };
    std::fs::write("/proc/self/oom_score_adj", score.to_string())
        .on("set", format_args!("oom_score_adj={score}"))
}

pub(super) fn reset_signals() -> Result<(), Error> {
    for number in 1..=64 {
        if !matches!(number, libc::SIGKILL | libc::SIGSTOP | 32 | 33) {
            // SAFETY: installs no handler.
            unsafe { libc::signal(number, libc::SIG_DFL) };
        }
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None).on("reset", "signals")
}

fn enter_directory(root: &Root, cwd: &str) -> Result<(), Error> {
    let cwd = if cwd.is_empty() { "/" } else { cwd };
    if !cwd.starts_with('/') {
        return Err(Error::Refused(format!("working directory {cwd:?} is not an absolute path")));
    }
    let directory = root.directory(Path::new(cwd)).on("make working directory", cwd)?;
    nix::unistd::fchdir(directory).on("enter working directory", cwd)
}

/// `null` is the container's own: through the host's it could change that one's mode for everybody.
pub(super) fn connect_stdio(
    pipes: Option<Pipes>,
    slave: Option<OwnedFd>,
    user: &User,
    null: OwnedFd,
) -> Result<(), Error> {
    let mut ends: [OwnedFd; 3] = match (pipes, slave) {
        (Some(pipes), _) => pipes,
        (None, Some(slave)) => {
            let copy = || slave.try_clone().on("copy", "terminal");
            [copy()?, copy()?, copy()?]
        }
        (None, None) => return Err(Error::Refused("neither pipes nor a terminal".into())),
    };
    for end in &mut ends {
        if devices::is_null(end).on("examine", "stdio")? {
            *end = null.try_clone().on("copy", "/dev/null")?;
        } else {
            // So that the command can open /dev/stdout by name.
            nix::unistd::fchown(end.as_fd(), Some(user.uid), None).on("own", "stdio")?;
        }
    }
    drop(null);
    let [stdin, stdout, stderr] = &ends;
    nix::unistd::dup2_stdin(stdin).on("connect", "stdin")?;
    nix::unistd::dup2_stdout(stdout).on("connect", "stdout")?;
    nix::unistd::dup2_stderr(stderr).on("connect", "stderr")
}

pub(super) fn become_user(user: &User, capabilities: Capabilities) -> Result<(), Error> {
    capabilities.bound()?;
    nix::unistd::setgroups(&user.groups).on("set", "supplementary groups")?;
    nix::unistd::setresgid(user.gid, user.gid, user.gid).on("set group", user.gid)?;
    nix::sys::prctl::set_keepcaps(true).on("keep", "capabilities")?;
    nix::unistd::setresuid(user.uid, user.uid, user.uid).on("set user", user.uid)?;
    nix::sys::prctl::set_keepcaps(false).on("keep", "capabilities")?;
    // After the change of user, which clears it. A shim that dies takes its container along.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).on("set", "parent death signal")
}

fn execute(
    plan: &Plan<'_>,
    user: &User,
    command: &Command,
    confinement: Option<Confinement>,
) -> Result<Infallible, Error> {
    if let Some(to) = &confinement {
        to.at_exec()?;
    }
    let reaper =
        confinement.as_ref().filter(|_| plan.spec.init).map(Confinement::entry).transpose()?.flatten();
    // Nothing is opened from here on but by hooks, and a filter may have no place for it any more.
    rlimits::lower(&plan.rlimits)?;
    confine(plan.spec, plan.filter.as_ref(), user, plan.capabilities)?;
    hooks::run(plan.spec, &[Stage::StartContainer], "created", own_pid(), plan.bundle)?;
    if plan.spec.init {
        // SAFETY: this process has never had a second thread.
        match unsafe { reaper::split(plan.spec.tty) }? {
            Role::Reaper(child) => {
                reaper.map_or(Ok(()), Entry::enter)?;
                // It stays, and what it holds of the host may not. Without the gate the shim sees the command
                // being executed.
                descriptors::close_all_but(&[])?;
                reaper::disguise(command.words());
                std::process::exit(reaper::run(child));
            }
            Role::Command => {}
        }
    }
    command.execute()
}

/// Loads the filter and keeps no more than the capabilities that are the user's: the last steps before the
/// command.
pub(super) fn confine(
    spec: &ShimSpec,
    filter: Option<&Filter>,
    user: &User,
    capabilities: Capabilities,
) -> Result<(), Error> {
    let own = if user.uid.is_root() { capabilities } else { Capabilities::none() };
    let load = || filter.map_or(Ok(()), Filter::load);
    if spec.no_new_privileges {
        nix::sys::prctl::set_no_new_privs().on("set", "no_new_privs")?;
        own.apply()?;
        load()
    } else {
        // Loading takes CAP_SYS_ADMIN, which goes next.
        capabilities::raise_permitted()?;
        load()?;
        own.apply()
    }
}
