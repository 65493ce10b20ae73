//! The driver `local`: a directory, or what its options mount there (mount(8)'s `type`, `o` and `device`).

use std::collections::BTreeMap;
use std::net::ToSocketAddrs;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount as mount2, umount2};

use crate::error::Error;

/// The driver's name.
pub(super) const NAME: &str = "local";
/// The directory of a volume that is mounted.
pub(super) const DATA: &str = "_data";

/// Options mount(2) takes as flags: word, flag, and whether the word sets it.
const FLAGS: &[(&str, MsFlags, bool)] = &[
    ("ro", MsFlags::MS_RDONLY, true),
    ("rw", MsFlags::MS_RDONLY, false),
    ("nosuid", MsFlags::MS_NOSUID, true),
    ("suid", MsFlags::MS_NOSUID, false),
    ("nodev", MsFlags::MS_NODEV, true),
    ("dev", MsFlags::MS_NODEV, false),
    ("noexec", MsFlags::MS_NOEXEC, true),
    ("exec", MsFlags::MS_NOEXEC, false),
    ("sync", MsFlags::MS_SYNCHRONOUS, true),
    ("async", MsFlags::MS_SYNCHRONOUS, false),
    ("dirsync", MsFlags::MS_DIRSYNC, true),
    ("mand", MsFlags::MS_MANDLOCK, true),
    ("nomand", MsFlags::MS_MANDLOCK, false),
    ("noatime", MsFlags::MS_NOATIME, true),
    ("atime", MsFlags::MS_NOATIME, false),
    ("nodiratime", MsFlags::MS_NODIRATIME, true),
    ("diratime", MsFlags::MS_NODIRATIME, false),
    ("relatime", MsFlags::MS_RELATIME, true),
    ("norelatime", MsFlags::MS_RELATIME, false),
    ("strictatime", MsFlags::MS_STRICTATIME, true),
    ("nostrictatime", MsFlags::MS_STRICTATIME, false),
    ("bind", MsFlags::MS_BIND, true),
    ("rbind", MsFlags::MS_BIND.union(MsFlags::MS_REC), true),
];

/// Whether a volume may have this name.
pub(super) fn check_name(name: &str) -> Result<(), Error> {
    if name.len() == 1 {
        return Err(Error::Invalid(
            "volume name is too short, names should be at least two alphanumeric characters".into(),
        ));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !starts || !name.chars().all(plain) || name.len() > 255 {
        return Err(Error::Invalid(format!(
            "\"{name}\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
        )));
    }
    Ok(())
}

/// Whether these options mean something together.
pub(super) fn check_options(options: &BTreeMap<String, String>) -> Result<(), Error> {
    let invalid = |why: String| Err(Error::Invalid(why));
    if let Some(unknown) = options.keys().find(|o| !["type", "o", "device", "size"].contains(&o.as_str())) {
        return invalid(format!("invalid option: \"{unknown}\""));
    }
    if options.contains_key("size") {
        return invalid("quota size requested but no quota support".into());
    }
    for (option, needs) in [("device", "type"), ("type", "device"), ("o", "device"), ("o", "type")] {
        if options.contains_key(option) && !options.contains_key(needs) {
            return invalid(format!("missing required option: \"{needs}\""));
        }
    }
    Ok(())
}

/// Whether the volume's content comes from elsewhere.
pub(super) fn needs_mount(options: &BTreeMap<String, String>) -> bool {
    options.contains_key("device")
}

/// Mounts what the options say.
pub(super) fn mount(name: &str, options: &BTreeMap<String, String>, at: &Path) -> Result<(), Error> {
    let of = |key: &str| options.get(key).map(String::as_str).unwrap_or_default();
    let (kind, device) = (of("type"), of("device"));
    let mut flags = MsFlags::empty();
    let mut data = Vec::new();
    for word in of("o").split(',').filter(|w| !w.is_empty() && *w != "defaults") {
        match FLAGS.iter().find(|(known, ..)| *known == word) {
            Some((_, flag, true)) => flags |= *flag,
            Some((_, flag, false)) => flags -= *flag,
            None => data.push(if kind.starts_with("nfs") { resolved(word) } else { word.to_owned() }),
        }
    }
    let data = data.join(",");
    mount2(Some(device), at, Some(kind), flags, Some(data.as_str()))
        .and_then(|()| {
            // A bind takes its other flags only afterwards.
            let more = flags - MsFlags::MS_BIND - MsFlags::MS_REC;
            if flags.contains(MsFlags::MS_BIND) && !more.is_empty() {
                return mount2(None::<&str>, at, None::<&str>, flags | MsFlags::MS_REMOUNT, None::<&str>);
            }
            Ok(())
        })
        .map_err(|e| {
            let _ = unmount(at);
            Error::Invalid(format!(
                "failed to mount local volume: mount {device}:{}, flags: {:#x}{}: {}",
                at.display(),
                flags.bits(),
                if data.is_empty() { String::new() } else { format!(", data: {data}") },
                std::io::Error::from(e)
            ))
        })
        .inspect(|()| tracing::debug!(volume = name, device, kind, "mounted"))
}

/// `addr=HOST` with the host's address, which the kernel wants. One that cannot be found is left for it to refuse.
fn resolved(word: &str) -> String {
    let Some(host) = word.strip_prefix("addr=") else { return word.to_owned() };
    let found = (host, 0).to_socket_addrs().ok().and_then(|mut all| all.next());
    found.map_or_else(|| word.to_owned(), |a| format!("addr={}", a.ip()))
}

/// Takes off whatever is mounted there.
pub(super) fn unmount(at: &Path) -> Result<(), Error> {
    loop {
        match umount2(at, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // Nothing is mounted there.
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(e) => return Err(Error::io("unmount", at)(e.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn names_and_options_are_refused_in_dockers_words() {
        for name in ["ab", "a.b-c_d", "0a"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        assert!(check_name("a").expect_err("short").to_string().contains("at least two"));
        for name in ["..", "a/b", "-a", "ä1", ".hidden", "a b"] {
            assert!(check_name(name).expect_err(name).to_string().contains("invalid characters"), "{name}");
        }
        for (given, wanted) in [
            (options(&[]), None),
            (options(&[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m")]), None),
            (options(&[("colour", "red")]), Some("invalid option: \"colour\"")),
            (options(&[("type", "nfs")]), Some("missing required option: \"device\"")),
            (options(&[("device", "/x")]), Some("missing required option: \"type\"")),
            (options(&[("o", "bind")]), Some("missing required option: \"device\"")),
            (options(&[("size", "1g")]), Some("no quota support")),
        ] {
            let got = check_options(&given).err().map(|e| e.to_string());
            match wanted {
                None => assert_eq!(got, None, "{given:?}"),
                Some(words) => assert!(got.as_ref().is_some_and(|g| g.contains(words)), "{got:?}"),
            }
        }
    }
}
