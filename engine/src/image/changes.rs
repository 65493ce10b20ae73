//! The Dockerfile instructions that `--change` of `import` and `commit` takes, applied to an image's configuration.

use super::config::ImageConfig;
use crate::build::apply_setting;
use crate::dockerfile::{Expander, Kind, parse_instructions};
use crate::error::Error;

/// Applies instructions, such as `CMD ["sh"]`, one after another.
pub(crate) fn apply(config: &mut ImageConfig, changes: &[String]) -> Result<(), Error> {
    let bad = |text: &str, why: &str| Error::Invalid(format!("invalid change {text:?}: {why}"));
    let file = parse_instructions(&changes.join("\n"));
    let file = file.map_err(|e| {
        let text = changes.get(e.line - 1).map_or("", String::as_str);
        if e.message.starts_with("unknown instruction: ") { not_valid(text) } else { bad(text, &e.message) }
    })?;
    if file.instructions.is_empty() && !changes.is_empty() {
        return Err(Error::Invalid("file with no instructions".into()));
    }
    let mut cmd_set = false;
    for i in file.instructions {
        let env = config.env.clone();
        let lookup = |name: &str| {
            env.iter().filter_map(|e| e.split_once('=')).find(|(n, _)| *n == name).map(|(_, v)| v.to_owned())
        };
        let x = Expander { escape: file.escape, lookup: &lookup };
        let applied = match &i.kind {
            Kind::Shell(_) => Ok(false),
            kind => apply_setting(config, kind, &x, &mut cmd_set),
        };
        if !applied.map_err(|why| bad(&i.text, &why))? {
            return Err(not_valid(&i.text));
        }
    }
    Ok(())
}

/// In Docker's words.
fn not_valid(text: &str) -> Error {
    let word = text.split_whitespace().next().unwrap_or_default();
    Error::Invalid(format!("{word} is not a valid change command"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::HealthConfig;

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
