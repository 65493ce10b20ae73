//! A registry on loopback for the crash tests, in the process that is killed: images by number, made when they are
//! asked for, and sent in pieces, so that a kill finds transfers under way.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::support::{Tar, busybox, digest, gzip, image_config};

/// Bytes sent at once.
const PIECE: usize = 4096;

type Blobs = Arc<Mutex<HashMap<String, (&'static str, Vec<u8>)>>>;

/// Serves `/v2/pulled` until the process ends; `content` is what image N has in `/f`. The registry's name.
pub fn serve(content: fn(u64) -> Vec<u8>) -> std::io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let name = listener.local_addr()?.to_string();
    let blobs = Blobs::default();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let blobs = blobs.clone();
            // A client that leaves is no failure.
            std::thread::spawn(move || converse(&stream, &blobs, content));
        }
    });
    Ok(name)
}

fn converse(stream: &TcpStream, blobs: &Blobs, content: fn(u64) -> Vec<u8>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        // A TLS handshake has no lines: this registry is one without.
        if reader.fill_buf()?.first() == Some(&0x16) {
            return (&mut &*stream).write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
        }
        let mut first = Vec::new();
        if reader.read_until(b'\n', &mut first)? == 0 {
            return Ok(());
        }
        let first = String::from_utf8_lossy(&first).into_owned();
        let Some((method, path)) = first.split_once(' ').filter(|(m, _)| ["GET", "HEAD"].contains(m)) else {
            return Ok(());
        };
        let path = path.split(' ').next().unwrap_or_default();
        let mut line = String::new();
        while reader.read_line(&mut line)? > 2 {
            line.clear();
        }
        let found = match path.rsplit('/').next().unwrap_or_default() {
            "" => Some(("application/json", b"{}".to_vec())),
            name if path.contains("/manifests/") && !name.starts_with("sha256:") => {
                name.parse().ok().map(|number| make(number, blobs, content))
            }
            name => blobs.lock().expect("no panic").get(name).cloned(),
        };
        let mut out = stream;
        let Some((kind, bytes)) = found else {
            out.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
            continue;
        };
        write!(
            out,
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nDocker-Content-Digest: {}\r\nContent-Length: {}\r\n\r\n",
            digest(&bytes),
            bytes.len()
        )?;
        if method == "GET" {
            bytes.chunks(PIECE).try_for_each(|piece| out.write_all(piece))?;
        }
    }
}

/// The manifest of an image, whose blobs are there from then on.
fn make(number: u64, blobs: &Blobs, content: fn(u64) -> Vec<u8>) -> (&'static str, Vec<u8>) {
    let own = Tar::default().dir("d/", 0o755).file("f", 0o644, &content(number)).bytes();
    let plain = [busybox(), own];
    let config = image_config(&[&plain[0], &plain[1]], serde_json::json!({}));
    let keep = |kind: &'static str, bytes: Vec<u8>| {
        let descriptor =
            serde_json::json!({ "mediaType": kind, "digest": digest(&bytes), "size": bytes.len() });
        blobs.lock().expect("no panic").insert(digest(&bytes), (kind, bytes));
        descriptor
    };
    let layers: Vec<_> =
        plain.iter().map(|l| keep("application/vnd.oci.image.layer.v1.tar+gzip", gzip(l))).collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": keep("application/vnd.oci.image.config.v1+json", config),
        "layers": layers,
    });
    let bytes = manifest.to_string().into_bytes();
    keep("application/vnd.oci.image.manifest.v1+json", bytes.clone());
    ("application/vnd.oci.image.manifest.v1+json", bytes)
}
