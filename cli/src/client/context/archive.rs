//! A context as a tar: `meta.json`, and its files of TLS under `tls/ENDPOINT/`, as Docker's client writes and reads it.

use std::io::{Read, Write};

use anyhow::{Context, Result, bail, ensure};

use super::store::{Material, Meta};

/// No more is read of an archive, nor of a file in it.
const MOST: u64 = 10 << 20;

/// Writes a context.
pub fn write(meta: &Meta, material: &Material, to: impl Write) -> Result<()> {
    let mut tar = tar::Builder::new(to);
    let mut add = |path: &str, bytes: Option<&[u8]>, mode: u32| {
        let mut header = tar::Header::new_ustar();
        header.set_mode(mode);
        header.set_size(bytes.map_or(0, |b| b.len() as u64));
        let kind = if bytes.is_some() { tar::EntryType::Regular } else { tar::EntryType::Directory };
        header.set_entry_type(kind);
        tar.append_data(&mut header, path, bytes.unwrap_or_default())
    };
    add("meta.json", Some(&serde_json::to_vec(meta)?), 0o644)?;
    add("tls", None, 0o700)?;
    for (endpoint, files) in material {
        add(&format!("tls/{endpoint}"), None, 0o700)?;
        for (name, bytes) in files {
            add(&format!("tls/{endpoint}/{name}"), Some(bytes), 0o600)?;
        }
    }
    Ok(tar.into_inner()?.flush()?)
}

/// Reads a context, which is nobody's word: every path in it is checked.
pub fn read(from: impl Read) -> Result<(Meta, Material)> {
    let mut bytes = Vec::new();
    from.take(MOST + 1).read_to_end(&mut bytes)?;
    ensure!(bytes.len() as u64 <= MOST, "the archive has more than {} MiB, which no context has", MOST >> 20);
    ensure!(!bytes.starts_with(b"PK\x03\x04"), "a zip archive cannot be read: make a tar of it");
    ensure!(bytes.is_empty() || bytes.len() >= 512, "unexpected EOF");
    let (mut meta, mut material) = (None, Material::new());
    for entry in tar::Archive::new(bytes.as_slice()).entries()? {
        let mut entry = entry?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if entry.header().entry_type() == tar::EntryType::Directory {
            continue;
        }
        let parts: Vec<&str> = path.split('/').collect();
        ensure!(
            entry.header().entry_type() == tar::EntryType::Regular
                && parts.iter().all(|p| !p.is_empty() && *p != "." && *p != ".." && !p.contains('\0')),
            "{path}: unexpected context file"
        );
        let mut bytes = Vec::new();
        match parts.as_slice() {
            ["meta.json"] => {
                entry.read_to_end(&mut bytes)?;
                meta = Some(serde_json::from_slice::<Meta>(&bytes).context("the archive's meta.json")?);
            }
            ["tls", endpoint, file] => {
                entry.read_to_end(&mut bytes)?;
                material.entry((*endpoint).to_owned()).or_default().insert((*file).to_owned(), bytes);
            }
            ["tls", ..] => bail!("archive format is invalid"),
            _ => bail!("{path}: unexpected context file"),
        }
    }
    Ok((meta.context("invalid context: no metadata found")?, material))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_what_leads_out_is_refused() {
        let meta = Meta::new("aa", Some("unix:///x"), true);
        let material = Material::from([("docker".into(), [("ca.pem".into(), b"pem".to_vec())].into())]);
        let mut bytes = Vec::new();
        write(&meta, &material, &mut bytes).expect("write");
        assert_eq!(read(bytes.as_slice()).expect("read"), (meta, material));
        for bad in ["tls/../../x", "/meta.json", "tls/docker/a/b", "tls/x", "other", "tls//x"] {
            let mut header = tar::Header::new_ustar();
            header.as_mut_bytes()[..bad.len()].copy_from_slice(bad.as_bytes());
            header.set_size(0);
            header.set_mode(0o600);
            header.set_entry_type(tar::EntryType::Regular);
            header.set_cksum();
            let mut tar = tar::Builder::new(Vec::new());
            tar.append(&header, std::io::empty()).expect("append");
            let bytes = tar.into_inner().expect("tar");
            assert!(read(bytes.as_slice()).is_err(), "{bad}");
        }
        assert!(read(&b"PK\x03\x04zip"[..]).expect_err("zip").to_string().contains("zip"));
        assert_eq!(read(&b"bad"[..]).expect_err("bad").to_string(), "unexpected EOF");
    }
}
