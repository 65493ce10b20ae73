//! Secrets and configs whose content the client has (`environment`, `content`): they are written into the container
//! before it starts.

use anyhow::Result;
use hyper::Method;

use super::super::api::{Api, Query, full};
use super::super::compose_parts::number;
use super::mounts;
use super::project::Project;
use crate::compose::{Node, Problem};

/// A file to be written.
pub struct File {
    /// Whole path in the container.
    pub path: String,
    pub content: Vec<u8>,
    pub uid: u64,
    pub gid: u64,
    pub mode: u32,
}

/// All of a service.
pub fn of(project: &Project, service: &Node) -> Result<Vec<File>> {
    let mut out = Vec::new();
    for section in ["secrets", "configs"] {
        for item in service.get(section).map(Node::items).unwrap_or_default() {
            let source = item.text_of("source").unwrap_or_default();
            let Some(declared) = project.root.path(&[section, source]) else { continue };
            let content = match (declared.get("environment"), declared.text_of("content")) {
                (Some(node), _) => {
                    let name = node.text().unwrap_or_default();
                    let Some(value) = project.variables.get(name) else {
                        let what = format!("{section}.{source}: environment variable {name:?} is not set");
                        return Err(Problem::new(&node.at, what).into());
                    };
                    value.clone().into_bytes()
                }
                (None, Some(content)) => content.as_bytes().to_vec(),
                (None, None) => continue,
            };
            let id = |key: &str| -> Result<u64> {
                let Some(node) = item.get(key) else { return Ok(0) };
                let read = node.text().and_then(|t| t.parse().ok());
                let what = format!("{section}.{source}: {key}: want a number");
                Ok(read.ok_or_else(|| Problem::new(&node.at, what))?)
            };
            let mode = number(item, "mode").and_then(|m| u32::try_from(m).ok()).unwrap_or(0o444);
            let path = mounts::target(section, item);
            out.push(File { path, content, uid: id("uid")?, gid: id("gid")?, mode });
        }
    }
    Ok(out)
}

/// Writes them into a container that has not been started.
pub async fn write(api: &Api, container: &str, files: &[File]) -> Result<()> {
    if files.is_empty() {
        return Ok(());
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let mut archive = tar::Builder::new(Vec::new());
    for file in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(file.content.len() as u64);
        header.set_mode(file.mode);
        header.set_uid(file.uid);
        header.set_gid(file.gid);
        header.set_mtime(now);
        let inside = file.path.trim_start_matches('/');
        archive.append_data(&mut header, inside, file.content.as_slice())?;
    }
    let query = Query::new().with("path", "/").with("copyUIDGID", "true");
    let body = full(archive.into_inner()?);
    let headers = [("Content-Type", "application/x-tar")];
    api.send(Method::PUT, &format!("{container}/archive"), &query, body, &headers).await.map(drop)
}
