//! Arguments of `skep wireguard`. The key itself is never among them: anyone may read `/proc/*/cmdline`.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// What the process is to serve.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Options {
    pub name: String,
    pub private_key_file: PathBuf,
    pub listen_port: u16,
    pub mtu: u16,
    pub exec_root: PathBuf,
}

impl Options {
    /// Reads `--name N --private-key-file F --listen-port P --mtu M --exec-root D`, all of them needed.
    pub fn parse(args: &[OsString]) -> Result<Self, String> {
        let mut rest = args.iter();
        let (mut name, mut key, mut port, mut mtu, mut root) = (None, None, None, None, None);
        while let Some(flag) = rest.next() {
            let shown = flag.to_string_lossy();
            let mut value = || rest.next().ok_or_else(|| format!("{shown} needs a value"));
            match flag.to_str() {
                Some("--name") => name = Some(text(flag, value()?)?),
                Some("--private-key-file") => key = Some(absolute(value()?)?),
                Some("--listen-port") => port = Some(number(flag, value()?)?),
                Some("--mtu") => mtu = Some(number(flag, value()?)?),
                Some("--exec-root") => root = Some(absolute(value()?)?),
                _ => return Err(format!("unknown argument {shown:?}; this command is the daemon's own")),
            }
        }
        let missing = |flag: &str| format!("{flag} is missing; this command is the daemon's own");
        Ok(Self {
            name: name.ok_or_else(|| missing("--name"))?,
            private_key_file: key.ok_or_else(|| missing("--private-key-file"))?,
            listen_port: port.ok_or_else(|| missing("--listen-port"))?,
            mtu: mtu.ok_or_else(|| missing("--mtu"))?,
            exec_root: root.ok_or_else(|| missing("--exec-root"))?,
        })
    }
}

fn text(flag: &OsStr, value: &OsStr) -> Result<String, String> {
    let bad = || format!("{} {value:?} is not text", flag.to_string_lossy());
    value.to_str().map(str::to_owned).ok_or_else(bad)
}

fn number(flag: &OsStr, value: &OsStr) -> Result<u16, String> {
    let parsed = value.to_str().and_then(|v| v.parse().ok());
    parsed.ok_or_else(|| format!("{} {value:?} is not a number below 65536", flag.to_string_lossy()))
}

/// The process leaves its working directory.
fn absolute(value: &OsStr) -> Result<PathBuf, String> {
    std::path::absolute(Path::new(value)).map_err(|e| format!("path {value:?}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn arguments_are_all_needed_and_checked() {
        let whole = "--name wg-x --private-key-file /k --listen-port 4789 --mtu 1420 --exec-root /run/x";
        assert_eq!(parse(whole).expect("valid").listen_port, 4789);
        for (line, says) in [
            ("", "--name"),
            ("--name", "needs a value"),
            ("--frobnicate", "--frobnicate"),
            ("--mtu 70000", "70000"),
            ("--listen-port x", "--listen-port"),
            (&whole.replace("--exec-root /run/x", ""), "--exec-root"),
        ] {
            let error = parse(line).expect_err(line);
            assert!(error.contains(says), "{line}: {error}");
        }
    }
}
