//! The Dockerfile instructions that `--change` of `import` and `commit` takes, applied to an image's configuration.

use super::config::ImageConfig;
use super::words::{expand, instructions, split};
use crate::error::Error;
use crate::health::HealthConfig;
use crate::parse_duration;

/// Applies instructions, such as `CMD ["sh"]`, one after another.
pub(crate) fn apply(config: &mut ImageConfig, changes: &[String]) -> Result<(), Error> {
    let mut with_cmd = false;
    let changed = instructions(&changes.join("\n"));
    if changed.is_empty() && !changes.is_empty() {
        return Err(Error::Invalid("file with no instructions".into()));
    }
    for change in changed {
        let (word, rest) = change.split_once(char::is_whitespace).unwrap_or((&change, ""));
        let word = word.to_ascii_uppercase();
        one(config, &word, rest.trim(), with_cmd)
            .map_err(|why| Error::Invalid(format!("invalid change {change:?}: {why}")))?;
        with_cmd |= word == "CMD";
    }
    Ok(())
}

fn one(config: &mut ImageConfig, word: &str, rest: &str, with_cmd: bool) -> Result<(), String> {
    const KNOWN: [&str; 11] = [
        "CMD",
        "ENTRYPOINT",
        "ENV",
        "EXPOSE",
        "HEALTHCHECK",
        "LABEL",
        "ONBUILD",
        "STOPSIGNAL",
        "USER",
        "VOLUME",
        "WORKDIR",
    ];
    if !KNOWN.contains(&word) {
        return Err(format!("{} is not a valid change command", word.to_ascii_lowercase()));
    }
    if rest.is_empty() && !matches!(word, "CMD" | "ENTRYPOINT") {
        return Err(format!("{word} requires at least one argument"));
    }
    let env = config.env.clone();
    let single = || expand(rest, &env);
    match word {
        "CMD" => config.cmd = command(config, rest),
        "ENTRYPOINT" => {
            config.entrypoint = command(config, rest);
            // The image's CMD was written for the image's own entrypoint.
            if !with_cmd {
                config.cmd.clear();
            }
        }
        "USER" => config.user = single()?,
        "WORKDIR" => config.working_dir = below(&config.working_dir, &single()?),
        "STOPSIGNAL" => {
            let signal = single()?;
            crate::container::signal(&signal).map_err(|_| format!("Invalid signal: {signal}"))?;
            config.stop_signal = signal;
        }
        "ENV" => {
            for (key, value) in pairs(word, rest, &env)? {
                let entry = format!("{key}={value}");
                match config.env.iter_mut().find(|e| e.split('=').next() == Some(&key)) {
                    Some(there) => *there = entry,
                    None => config.env.push(entry),
                }
            }
        }
        "LABEL" => config.labels.extend(pairs(word, rest, &env)?),
        "EXPOSE" => {
            for port in split(rest) {
                for port in ports(&expand(&port, &env)?)? {
                    if !config.exposed_ports.contains(&port) {
                        config.exposed_ports.push(port);
                    }
                }
            }
        }
        "VOLUME" => {
            let paths = json(rest).unwrap_or_else(|| split(rest));
            for path in paths {
                let path = expand(&path, &env)?;
                if !path.starts_with('/') {
                    return Err(format!("a volume is an absolute path, and {path:?} is not"));
                }
                if !config.volumes.contains(&path) {
                    config.volumes.push(path);
                }
            }
        }
        "HEALTHCHECK" => config.healthcheck = Some(health_check(rest)?.to_image()),
        _ => {
            let trigger = rest.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
            match trigger.as_str() {
                "ONBUILD" => return Err("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".into()),
                "FROM" | "MAINTAINER" => {
                    return Err(format!("{trigger} isn't allowed as an ONBUILD trigger"));
                }
                _ => config.on_build.push(rest.to_owned()),
            }
        }
    }
    Ok(())
}

/// A list in JSON.
fn json(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text).ok()
}

/// JSON form as it stands, anything else through the shell.
fn command(config: &ImageConfig, text: &str) -> Vec<String> {
    if text.is_empty() {
        return Vec::new();
    }
    json(text).unwrap_or_else(|| {
        let usual = || vec!["/bin/sh".to_owned(), "-c".to_owned()];
        let mut shell = if config.shell.is_empty() { usual() } else { config.shell.clone() };
        shell.push(text.to_owned());
        shell
    })
}

/// `a=b "c"="d e"`, or the old form `a b c`.
fn pairs(word: &str, text: &str, env: &[String]) -> Result<Vec<(String, String)>, String> {
    let words = split(text);
    let raw: Vec<(&str, &str)> = if words.first().is_some_and(|w| w.contains('=')) {
        let odd =
            |w: &String| format!("Syntax error - can't find = in {w:?}. Must be of the form: name=value");
        words.iter().map(|w| w.split_once('=').ok_or_else(|| odd(w))).collect::<Result<_, _>>()?
    } else {
        let (key, value) =
            text.split_once(char::is_whitespace).ok_or_else(|| format!("{word} must have two arguments"))?;
        vec![(key, value.trim())]
    };
    raw.into_iter()
        .map(|(key, value)| match expand(key, env)? {
            key if key.is_empty() => Err(format!("{word} names can not be blank")),
            key => Ok((key, expand(value, env)?)),
        })
        .collect()
}

/// A directory against the one before, without dots.
fn below(before: &str, path: &str) -> String {
    let whole = if path.starts_with('/') { path.to_owned() } else { format!("{before}/{path}") };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// `80`, `53/udp`, `8000-8010/tcp`.
fn ports(text: &str) -> Result<Vec<String>, String> {
    let bad = || format!("Invalid containerPort: {text}; EXPOSE takes ports such as 80, 53/udp or 8000-8010");
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let port = |p: &str| p.parse::<u16>().ok().filter(|n| *n > 0).ok_or_else(bad);
    let (first, last) = (port(first)?, port(last)?);
    if first > last || !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return Err(bad());
    }
    Ok((first..=last).map(|n| format!("{n}/{protocol}")).collect())
}

/// `NONE`, or `[--interval=30s ...] CMD command`.
fn health_check(text: &str) -> Result<HealthConfig, String> {
    let mut health = HealthConfig::default();
    let mut rest = text;
    while let Some(flag) = rest.strip_prefix("--") {
        let (flag, more) = flag.split_once(char::is_whitespace).unwrap_or((flag, ""));
        rest = more.trim_start();
        let (name, value) = flag.split_once('=').ok_or_else(|| format!("Missing a value on flag: {flag}"))?;
        let span = |name: &str| match parse_duration(value) {
            None => Err(format!("--{name} is not a duration such as 30s: {value:?}")),
            Some(d) if !d.is_zero() && d < std::time::Duration::from_millis(1) => {
                Err(format!("Interval {name:?} cannot be less than 1ms"))
            }
            Some(d) => Ok(d),
        };
        match name {
            "interval" => health.interval = span(name)?,
            "timeout" => health.timeout = span(name)?,
            "start-period" => health.start_period = span(name)?,
            "start-interval" => health.start_interval = span(name)?,
            "retries" => {
                health.retries = value.parse().map_err(|_| format!("--retries is no number: {value:?}"))?;
            }
            other => return Err(format!("Unknown flag: {other}")),
        }
    }
    let (kind, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let command = command.trim();
    match kind.to_ascii_uppercase().as_str() {
        "NONE" if !command.is_empty() => return Err("HEALTHCHECK NONE takes no arguments".into()),
        "NONE" => health = HealthConfig { test: vec!["NONE".into()], ..HealthConfig::default() },
        "CMD" => {
            let words = json(command);
            let kind = if words.is_some() { "CMD" } else { "CMD-SHELL" };
            let words = words.unwrap_or_else(|| vec![command.to_owned()]);
            if words.iter().all(String::is_empty) {
                return Err("Missing command after HEALTHCHECK CMD".into());
            }
            health.test = std::iter::once(kind.to_owned()).chain(words).collect();
        }
        _ => return Err(format!("Unknown type {kind:?} in HEALTHCHECK (try CMD)")),
    }
    Ok(health)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(config: &mut ImageConfig, changes: &[&str]) -> Result<(), Error> {
        apply(config, &changes.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn applies_instructions_and_refuses_the_rest() {
        let mut c = ImageConfig { env: vec!["PATH=/bin".into()], ..ImageConfig::default() };
        let changes = [
            "CMD [\"a\", \"b c\"]",
            "entrypoint run me",
            "ENV A=1 B=\"two words\" PATH=$PATH:/x",
            "ENV A=2",
            "ENV C old  \"form\"",
            "LABEL x=y n=${A}\\\n z=1",
            "# nothing",
            "EXPOSE 80 53/udp 7-8/TCP 80",
            "VOLUME /data /more",
            "VOLUME [\"/da ta\"]",
            "WORKDIR /a/c",
            "WORKDIR ../b",
            "USER 1:2",
            "STOPSIGNAL SIGINT",
            "ONBUILD RUN make",
            "HEALTHCHECK --interval=5s --retries=2 CMD wget -q x",
        ];
        applied(&mut c, &changes).expect("applied");
        assert_eq!(c.cmd, ["a", "b c"]);
        assert_eq!(c.entrypoint, ["/bin/sh", "-c", "run me"]);
        assert_eq!(c.env, ["PATH=/bin:/x", "A=2", "B=two words", "C=old  form"]);
        assert_eq!((c.labels["x"].as_str(), c.labels["n"].as_str(), c.labels["z"].as_str()), ("y", "2", "1"));
        assert_eq!(c.exposed_ports, ["80/tcp", "53/udp", "7/tcp", "8/tcp"]);
        assert_eq!(c.volumes, ["/data", "/more", "/da ta"]);
        assert_eq!((c.working_dir.as_str(), c.on_build[0].as_str()), ("/a/b", "RUN make"));
        let health = HealthConfig::of_image(c.healthcheck.as_ref().expect("set"));
        assert_eq!(health.test, ["CMD-SHELL", "wget -q x"]);
        assert_eq!((health.interval.as_secs(), health.retries), (5, 2));
        for change in [
            "",
            "RUN x",
            "EXPOSE x",
            "EXPOSE 0",
            "EXPOSE 9-8",
            "VOLUME rel",
            "LABEL \"a=b",
            "LABEL a",
            "ENV =b",
            "FROM x",
            "USER",
            "STOPSIGNAL SIGNOPE",
            "ONBUILD ONBUILD RUN x",
            "HEALTHCHECK CMD",
            "HEALTHCHECK NONE x",
            "HEALTHCHECK RUN x",
            "HEALTHCHECK --interval=1us CMD x",
            "HEALTHCHECK --nope=1 CMD x",
        ] {
            assert!(applied(&mut c, &[change]).is_err(), "{change:?} was taken");
        }
    }

    #[test]
    fn an_entrypoint_alone_clears_the_command() {
        let before = ImageConfig { cmd: vec!["sh".into()], ..ImageConfig::default() };
        let mut c = before.clone();
        applied(&mut c, &["ENTRYPOINT [\"/run\"]", "HEALTHCHECK NONE"]).expect("applied");
        assert!(c.cmd.is_empty());
        let mut c = before;
        applied(&mut c, &["CMD [\"x\"]", "ENTRYPOINT [\"/run\"]"]).expect("applied");
        assert_eq!(c.cmd, ["x"]);
    }
}
