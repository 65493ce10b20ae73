//! Instructions that change an image's configuration and nothing else.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use crate::dockerfile::{Command, Expander, Instruction, Kind};
use crate::image::ImageConfig;

/// The shell of commands in shell form.
pub(super) const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// What an image's history says of one, once it has been applied: as it was written, but for lists, which Docker shows as
/// Go does.
pub(super) fn recorded(i: &Instruction, config: &ImageConfig) -> String {
    let quoted = |words: &[String]| words.iter().map(|w| format!("{w:?}")).collect::<Vec<_>>().join(" ");
    match &i.kind {
        Kind::Cmd(_) => format!("CMD [{}]", quoted(&config.cmd)),
        Kind::Entrypoint(_) => format!("ENTRYPOINT [{}]", quoted(&config.entrypoint)),
        Kind::Shell(words) => format!("SHELL [{}]", words.join(" ")),
        Kind::Volume(paths) => format!("VOLUME [{}]", paths.join(" ")),
        _ => i.text.clone(),
    }
}

/// Applies one; false = it is none of these. `cmd_set` says whether a `CMD` came before: an `ENTRYPOINT` takes away one that
/// was meant for another.
pub(crate) fn apply(
    config: &mut ImageConfig,
    kind: &Kind,
    x: &Expander<'_>,
    cmd_set: &mut bool,
) -> Result<bool, String> {
    match kind {
        Kind::Cmd(c) => {
            config.cmd = argv(config, c);
            *cmd_set = true;
        }
        Kind::Entrypoint(c) => {
            config.entrypoint = argv(config, c);
            if !*cmd_set {
                config.cmd.clear();
            }
        }
        Kind::Env(pairs) => {
            let mut new = Vec::new();
            for (name, value) in pairs {
                let name = x.word(name)?;
                if name.is_empty() {
                    return Err("ENV names can not be blank".into());
                }
                new.push((name, x.word(value)?));
            }
            for (name, value) in new {
                set_env(&mut config.env, &name, &value);
            }
        }
        Kind::Label(pairs) => {
            for (name, value) in pairs {
                config.labels.insert(x.word(name)?, x.word(value)?);
            }
        }
        Kind::Expose(ports) => {
            // A range may have all ports of a host.
            let mut known: HashSet<String> = config.exposed_ports.iter().cloned().collect();
            for port in ports {
                for port in x.words(port)? {
                    let new = exposed(&port)?.into_iter().filter(|p| known.insert(p.clone()));
                    config.exposed_ports.extend(new);
                }
            }
        }
        Kind::Volume(paths) => {
            for path in paths {
                let path = x.word(path)?;
                if path.trim().is_empty() {
                    return Err("VOLUME specified can not be an empty string".into());
                }
                if !path.starts_with('/') {
                    return Err(format!("a volume is an absolute path, and {path:?} is not"));
                }
                if !config.volumes.contains(&path) {
                    config.volumes.push(path);
                }
            }
        }
        Kind::User(user) => config.user = x.word(user)?,
        Kind::Workdir(path) => {
            let path = x.word(path)?;
            if path.is_empty() {
                return Err("WORKDIR requires exactly one argument, and it is empty".into());
            }
            config.working_dir = beneath(&config.working_dir, &path);
        }
        Kind::StopSignal(signal) => {
            let signal = x.word(signal)?;
            crate::container::signal(&signal).map_err(|_| format!("Invalid signal: {signal}"))?;
            config.stop_signal = signal;
        }
        Kind::Healthcheck(check) => config.healthcheck = Some(check.clone()),
        Kind::Shell(shell) => config.shell.clone_from(shell),
        Kind::Onbuild(text) => config.on_build.push(text.clone()),
        _ => return Ok(false),
    }
    Ok(true)
}

/// A command as image configurations have it.
pub(super) fn argv(config: &ImageConfig, command: &Command) -> Vec<String> {
    match command {
        Command::Exec(list) => list.clone(),
        Command::Shell(line) => {
            let mut argv = match config.shell.is_empty() {
                true => SHELL.map(str::to_owned).to_vec(),
                false => config.shell.clone(),
            };
            argv.push(line.clone());
            argv
        }
    }
}

/// Sets a variable where it is, or at the end.
pub(super) fn set_env(env: &mut Vec<String>, name: &str, value: &str) {
    let entry = format!("{name}={value}");
    match env.iter_mut().find(|e| e.split('=').next() == Some(name)) {
        Some(e) => *e = entry,
        None => env.push(entry),
    }
}

/// A path from a working directory, without `.` and `..`.
pub(super) fn beneath(working_dir: &str, path: &str) -> String {
    let mut out = PathBuf::from("/");
    for part in Path::new(working_dir).join(path).components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => drop(out.pop()),
            _ => {}
        }
    }
    out.to_string_lossy().into_owned()
}

/// `80`, `80/udp`, `8000-8010/tcp`.
fn exposed(text: &str) -> Result<Vec<String>, String> {
    let bad = || format!("invalid containerPort: {text}");
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return Err(format!("invalid proto: {protocol}"));
    }
    let (from, to) = ports.split_once('-').unwrap_or((ports, ports));
    let number = |t: &str| t.parse::<u16>().ok().filter(|n| *n > 0).ok_or_else(bad);
    let (from, to) = (number(from)?, number(to)?);
    if from > to {
        return Err(bad());
    }
    Ok((from..=to).map(|p| format!("{p}/{protocol}")).collect())
}
