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
}

/// An image.
#[derive(Debug)]
pub struct Image {
    pub config: Value,
    pub layers: usize,
    /// Newest first.
    pub history: Vec<String>,
    files: BTreeMap<String, File>,
}

impl Image {
    /// Reads it from the daemon.
    pub fn read(host: &Host, name: &str) -> Result<Self> {
        let shown: Value =
            serde_json::from_str(&host.docker(&["image", "inspect", "-f", "{{json .}}", name])?)?;
        let history = host.docker(&["history", "--no-trunc", "--format", "{{.CreatedBy}}", name])?;
        let container = host.docker(&["create", name, "x"])?.trim().to_owned();
        let exported = host.docker_command().args(["export", &container]).output()?;
        host.docker(&["rm", "-v", &container])?;
        ensure!(exported.status.success(), "{exported:?}");
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(exported.stdout.as_slice()).entries()? {
            let mut entry = entry?;
            let path = format!("/{}", entry.path()?.to_string_lossy().trim_end_matches('/'));
            let header = entry.header().clone();
            let link = entry.link_name()?.map(|l| l.to_string_lossy().into_owned());
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            let owner = format!("{}:{}", header.uid()?, header.gid()?);
            files.insert(path, File { content, mode: header.mode()? & 0o7777, owner, link });
        }
        let layers = shown["RootFS"]["Layers"].as_array().map_or(0, Vec::len);
        let history = history.lines().map(str::to_owned).collect();
        Ok(Self { config: shown["Config"].clone(), layers, history, files })
    }

    /// The file of a path.
    pub fn file(&self, path: &str) -> Result<&File> {
        self.files.get(path).with_context(|| format!("{path} is not there"))
    }
}
