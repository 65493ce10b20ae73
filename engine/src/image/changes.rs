//! The Dockerfile instructions that `import --change` takes, applied to an image's configuration.

use super::config::ImageConfig;
use crate::error::Error;

/// Applies one instruction, such as `CMD ["sh"]`.
pub(super) fn apply(config: &mut ImageConfig, change: &str) -> Result<(), Error> {
    let bad = |why: &str| Error::Invalid(format!("invalid change {change:?}: {why}"));
    let (word, rest) = change
        .trim()
        .split_once(char::is_whitespace)
        .ok_or_else(|| bad("an instruction and its arguments are wanted"))?;
    let rest = rest.trim();
    match word.to_ascii_uppercase().as_str() {
        "CMD" => config.cmd = command(rest),
        "ENTRYPOINT" => config.entrypoint = command(rest),
        "USER" => config.user = rest.to_owned(),
        "WORKDIR" if rest.starts_with('/') => config.working_dir = rest.to_owned(),
        "WORKDIR" => config.working_dir = format!("{}/{rest}", config.working_dir.trim_end_matches('/')),
        "STOPSIGNAL" => config.stop_signal = rest.to_owned(),
        "ENV" => {
            for (k, v) in pairs(rest).ok_or_else(|| bad("ENV takes NAME=value or NAME value"))? {
                config.env.retain(|e| e.split('=').next() != Some(&k));
                config.env.push(format!("{k}={v}"));
            }
        }
        "LABEL" => config.labels.extend(pairs(rest).ok_or_else(|| bad("LABEL takes NAME=value"))?),
        "EXPOSE" => {
            for port in rest.split_whitespace() {
                let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
                let good =
                    number.parse::<u16>().is_ok_and(|n| n > 0) && ["tcp", "udp", "sctp"].contains(&protocol);
                if !good {
                    return Err(bad("EXPOSE takes ports such as 80 or 53/udp"));
                }
                config.exposed_ports.push(format!("{number}/{protocol}"));
            }
        }
        "VOLUME" => {
            let paths = if rest.starts_with('[') {
                command(rest)
            } else {
                words(rest).ok_or_else(|| bad("a quote is open"))?
            };
            if paths.iter().any(|p| !p.starts_with('/')) {
                return Err(bad("a volume is an absolute path"));
            }
            config.volumes.extend(paths);
        }
        "ONBUILD" => config.on_build.push(rest.to_owned()),
        other => {
            return Err(bad(&format!(
                "{other} is not one of CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR"
            )));
        }
    }
    Ok(())
}

/// JSON form as it stands, anything else through the shell.
fn command(text: &str) -> Vec<String> {
    serde_json::from_str(text).unwrap_or_else(|_| vec!["/bin/sh".into(), "-c".into(), text.into()])
}

/// `a=b "c"="d e"`, or the old form `a b c`.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let words = words(text)?;
    if !words.first()?.contains('=') {
        let (k, v) = text.split_once(char::is_whitespace)?;
        return Some(vec![(k.to_owned(), v.trim().to_owned())]);
    }
    words.iter().map(|w| w.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()))).collect()
}

/// Words as a shell splits them: quotes and backslashes.
fn words(text: &str) -> Option<Vec<String>> {
    let (mut out, mut word, mut quote, mut any) = (Vec::new(), String::new(), None, false);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                any = true;
            }
            (None | Some('"'), '\\') => word.push(chars.next()?),
            (None, c) if c.is_whitespace() => {
                if any || !word.is_empty() {
                    out.push(std::mem::take(&mut word));
                }
                any = false;
            }
            (_, c) => word.push(c),
        }
    }
    if quote.is_some() {
        return None;
    }
    if any || !word.is_empty() {
        out.push(word);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn applies_instructions_and_refuses_the_rest() {
        let mut c = ImageConfig::default();
        for change in [
            "CMD [\"a\", \"b c\"]",
            "entrypoint run me",
            "ENV A=1 B=\"two words\"",
            "ENV A=2",
            "ENV C old form",
            "LABEL x=y",
            "EXPOSE 80 53/udp",
            "VOLUME /data",
            "WORKDIR /a",
            "WORKDIR b",
            "USER 1:2",
            "STOPSIGNAL SIGINT",
        ] {
            apply(&mut c, change).expect(change);
        }
        assert_eq!(c.cmd, ["a", "b c"]);
        assert_eq!(c.entrypoint, ["/bin/sh", "-c", "run me"]);
        assert_eq!(c.env, ["B=two words", "A=2", "C=old form"]);
        assert_eq!(c.labels["x"], "y");
        assert_eq!(c.exposed_ports, ["80/tcp", "53/udp"]);
        assert_eq!((c.volumes[0].as_str(), c.working_dir.as_str()), ("/data", "/a/b"));
        for change in ["", "CMD", "RUN x", "EXPOSE x", "EXPOSE 0", "VOLUME rel", "LABEL \"a=b", "FROM x"] {
            assert!(apply(&mut c, change).is_err(), "{change:?} was taken");
        }
    }
}
