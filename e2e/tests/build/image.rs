//! An image looked at whole: its configuration, and its files as `docker export` has them.

use std::collections::BTreeMap;
use std::io::Read;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use skep_e2e::Host;

/// A file of it.
#[derive(Debug)]
pub struct File {
    pub content: Vec<u8>,
    pub mode: u32,
    pub owner: String,
    pub link: Option<String>,
    pub directory: bool,
}

/// An image.
#[derive(Debug)]
pub struct Image {
    pub name: String,
    pub config: Value,
    pub layers: usize,
    /// Newest first.
    pub history: Vec<String>,
    files: BTreeMap<String, File>,
}

impl Image {
    /// Reads it from the daemon, all of it or what lies at these paths.
    pub fn read(host: &Host, name: &str, look: &[String]) -> Result<Self> {
        let shown: Value =
            serde_json::from_str(&host.docker(&["image", "inspect", "-f", "{{json .}}", name])?)?;
        let history = host.docker(&["history", "--no-trunc", "--format", "{{.CreatedBy}}", name])?;
        let container = host.docker(&["create", name, "x"])?.trim().to_owned();
        let mut files = BTreeMap::new();
        let outcome = if look.is_empty() {
            let exported = host.docker_command().args(["export", &container]).output()?;
            ensure!(exported.status.success(), "{exported:?}");
            add(&mut files, "", &exported.stdout)
        } else {
            look.iter().try_for_each(|path| {
                let copied =
                    host.docker_command().args(["cp", &format!("{container}:{path}"), "-"]).output()?;
                if String::from_utf8_lossy(&copied.stderr).contains("Could not find the file") {
                    return Ok(());
                }
                ensure!(copied.status.success(), "{copied:?}");
                let (above, _) = path.rsplit_once('/').context("an absolute path")?;
                add(&mut files, above, &copied.stdout)
            })
        };
        host.docker(&["rm", "-v", &container])?;
        outcome?;
        let layers = shown["RootFS"]["Layers"].as_array().map_or(0, Vec::len);
        let history = history.lines().map(str::to_owned).collect();
        Ok(Self { name: name.to_owned(), config: shown["Config"].clone(), layers, history, files })
    }

    /// The file of a path.
    pub fn file(&self, path: &str) -> Result<&File> {
        self.files.get(path).with_context(|| format!("{path} is not there"))
    }

    /// Names of the files and links below a directory, without what the start of a container makes.
    pub fn tree(&self, dir: &str) -> Vec<String> {
        let made = ["dev/", "proc/", "sys/", "etc/hosts", "etc/hostname", "etc/resolv.conf", ".dockerenv"];
        let below = format!("{}/", dir.trim_end_matches('/'));
        let files = self.files.iter().filter(|(_, f)| !f.directory);
        let names = files.filter_map(|(path, _)| path.strip_prefix(&below).map(str::to_owned));
        names.filter(|n| dir != "/" || !made.iter().any(|m| n.starts_with(m))).collect()
    }
}

/// Adds what an archive has, whose paths are below `above`.
fn add(files: &mut BTreeMap<String, File>, above: &str, archive: &[u8]) -> Result<()> {
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        let path = format!("{above}/{}", entry.path()?.to_string_lossy().trim_end_matches('/'));
        let header = entry.header().clone();
        let link = entry.link_name()?.map(|l| l.to_string_lossy().into_owned());
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        let owner = format!("{}:{}", header.uid()?, header.gid()?);
        let (mode, directory) = (header.mode()? & 0o7777, header.entry_type().is_dir());
        files.insert(path, File { content, mode, owner, link, directory });
    }
    Ok(())
}
