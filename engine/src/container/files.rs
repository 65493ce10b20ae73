//! The host files of a container: /etc/hosts, /etc/hostname, /etc/resolv.conf and its directories.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::config::{Container, NetworkMode};
use crate::data_root::{make_dir, remove_tree};
use crate::error::Error;
use crate::log_config::{LogConfig, LogFormat};
use crate::network::{Attachment, Endpoint};
use crate::quota;
use crate::shim::spec::HostFiles;
use crate::userns::IdMaps;

/// Where things lie in a container's directory.
pub(super) struct Layout {
    pub(super) dir: PathBuf,
}

impl Layout {
    pub(super) fn upper(&self) -> PathBuf {
        self.dir.join("upper")
    }

    pub(super) fn work(&self) -> PathBuf {
        self.dir.join("work")
    }

    /// The file that `logs` reads; empty where there is none.
    pub(super) fn log(&self, config: &LogConfig) -> PathBuf {
        let id = self.dir.file_name().unwrap_or_default().to_string_lossy();
        match config.format() {
            None => PathBuf::new(),
            Some(LogFormat::Json) => self.dir.join(format!("{id}-json.log")),
            Some(LogFormat::Entries) if config.is_remote() => self.dir.join("container-cached.log"),
            Some(LogFormat::Entries) => self.dir.join("container.log"),
        }
    }

    /// Makes the directories, in a place that a start empties, and puts them where they belong: a crash leaves all or
    /// none. What is changed in them may take `size` bytes.
    pub(super) fn make(&self, temporary: &Path, size: Option<u64>) -> Result<(), Error> {
        let half = Self { dir: temporary.join(self.dir.file_name().unwrap_or_default()) };
        make_dir(&half.dir, 0o710)?;
        for dir in [half.upper(), half.work()] {
            make_dir(&dir, 0o755)?;
        }
        // Together: the kernel moves what it copies up from the one to the other.
        let limited = size.map_or(Ok(()), |size| quota::limit(&[&half.upper(), &half.work()], size));
        let placed =
            limited.and_then(|()| fs::rename(&half.dir, &self.dir).map_err(Error::io("rename", &half.dir)));
        placed.inspect_err(|_| drop(remove_tree(&half.dir)))
    }

    /// Writes the files anew, as each start may come with other addresses; `more` are further lines of /etc/hosts.
    pub(super) fn write_host_files(
        &self,
        c: &Container,
        attachment: Option<&Attachment>,
        peer: Option<&Path>,
        more: &[String],
        ids: Option<&IdMaps>,
    ) -> Result<HostFiles, Error> {
        if let Some(peer) = peer {
            // In another's network namespace, its names are ours.
            return Ok(HostFiles::there(peer));
        }
        let write = |name: &str, text: String| {
            let path = self.dir.join(name);
            fs::write(&path, text).map_err(Error::io("write", &path))?;
            let (uid, gid) = ids.map_or((0, 0), IdMaps::root);
            std::os::unix::fs::chown(&path, Some(uid), Some(gid)).map_err(Error::io("own", &path))?;
            Ok::<_, Error>(Some(path))
        };
        let resolv_conf = match attachment {
            Some(a) => a.resolv_conf.clone(),
            None => resolv_conf(c, &fs::read_to_string("/etc/resolv.conf").unwrap_or_default()),
        };
        Ok(HostFiles {
            hosts: write("hosts", hosts(c, attachment, more))?,
            resolv_conf: write("resolv.conf", resolv_conf)?,
            hostname: write("hostname", format!("{}\n", hostname(c)))?,
        })
    }
}

impl HostFiles {
    /// Those that are in `dir`.
    pub(super) fn there(dir: &Path) -> Self {
        let of = |n: &str| Some(dir.join(n)).filter(|p| p.exists());
        Self { hosts: of("hosts"), resolv_conf: of("resolv.conf"), hostname: of("hostname") }
    }
}

impl Layout {
    /// Adds and takes out lines of addresses that came and went while the container runs, and tells it of its name
    /// server. What else it has written there itself stays. The files are written in place: it sees these inodes.
    pub(super) fn renew_host_files(
        &self,
        c: &Container,
        attachment: &Attachment,
        left: &[String],
    ) -> Result<(), Error> {
        let change = |name: &str, new: &dyn Fn(&str) -> Option<String>| {
            let path = self.dir.join(name);
            let old = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
            new(&old).map_or(Ok(()), |text| fs::write(&path, text).map_err(Error::io("write", &path)))
        };
        change("hosts", &|old| {
            let of_left = |line: &str| left.iter().any(|a| line.split_whitespace().next() == Some(a));
            let mut text: String = old.split_inclusive('\n').filter(|line| !of_left(line)).collect();
            for addr in attachment.endpoints.iter().flat_map(Endpoint::addresses) {
                let line = own_line(c, &addr.to_string());
                if !text.contains(&line) {
                    text.push_str(&line);
                }
            }
            (text != old).then_some(text)
        })?;
        let ours = |text: &str| text.lines().any(|l| l == OWN_SERVER);
        change("resolv.conf", &|old| {
            (ours(old) != ours(&attachment.resolv_conf)).then(|| attachment.resolv_conf.clone())
        })
    }
}

impl Layout {
    /// Gives `names` of /etc/hosts other addresses, where they stand in a line of their own, else at the end. Written in
    /// place.
    pub(super) fn renew_name(&self, names: &str, addrs: &[IpAddr]) -> Result<(), Error> {
        let path = self.dir.join("hosts");
        let old = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        let is = |line: &str| line.split_once('\t').is_some_and(|(_, rest)| rest.trim_end() == names);
        let mut new: String = addrs.iter().map(|addr| format!("{addr}\t{names}\n")).collect();
        let mut text = String::with_capacity(old.len());
        for line in old.split_inclusive('\n') {
            match is(line) {
                // Where the first of them was.
                true => text.push_str(&std::mem::take(&mut new)),
                false => text.push_str(line),
            }
        }
        text.push_str(&new);
        match text == old {
            true => Ok(()),
            false => fs::write(&path, text).map_err(Error::io("write", &path)),
        }
    }
}

/// How /etc/resolv.conf names the server that the data plane runs in a container.
const OWN_SERVER: &str = "nameserver 127.0.0.11";

/// The host name a container sees.
pub(super) fn hostname(c: &Container) -> String {
    match (&c.config.hostname, &c.config.network) {
        (Some(h), _) if !h.is_empty() => h.clone(),
        (_, NetworkMode::Host) => nix::unistd::gethostname()
            .map_or_else(|_| "localhost".into(), |h| h.to_string_lossy().into_owned()),
        _ => c.id.0.chars().take(12).collect(),
    }
}

fn hosts(c: &Container, attachment: Option<&Attachment>, more: &[String]) -> String {
    let mut out = match c.config.network {
        NetworkMode::Host => fs::read_to_string("/etc/hosts").unwrap_or_default(),
        _ => "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n".into(),
    };
    more.iter().for_each(|line| out.push_str(line));
    for addr in attachment.map_or(&[][..], |a| &a.endpoints).iter().flat_map(Endpoint::addresses) {
        out.push_str(&own_line(c, &addr.to_string()));
    }
    out
}

/// The line of one of the container's own addresses.
fn own_line(c: &Container, addr: &str) -> String {
    let name = hostname(c);
    match &c.config.domainname {
        Some(d) if !d.is_empty() => format!("{addr}\t{name}.{d} {name}\n"),
        _ => format!("{addr}\t{name}\n"),
    }
}

/// The host's, each part replaced by what was asked for.
fn resolv_conf(c: &Container, host: &str) -> String {
    let of_host = |word: &str| -> Vec<String> {
        host.lines().filter_map(|l| l.trim().strip_prefix(word)).map(|r| r.trim().to_owned()).collect()
    };
    let or = |ours: Vec<String>, theirs: Vec<String>| if ours.is_empty() { theirs } else { ours };
    let mut out = String::new();
    for server in or(c.config.dns.iter().map(ToString::to_string).collect(), of_host("nameserver ")) {
        out.push_str(&format!("nameserver {server}\n"));
    }
    let search = or(c.config.dns_search.clone(), of_host("search "));
    if !search.is_empty() && search != ["."] {
        out.push_str(&format!("search {}\n", search.join(" ")));
    }
    let options = or(c.config.dns_options.clone(), of_host("options "));
    if !options.is_empty() {
        out.push_str(&format!("options {}\n", options.join(" ")));
    }
    out
}
