//! Generates the Rust of `proto/skep/v1` with protox, so that no protoc is needed.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Regenerates `proto/src/gen`; with `check`, fails when the checked-in code differs.
pub fn generate(check: bool) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("workspace root")?;
    let include = root.join("proto");
    let mut files: Vec<PathBuf> = std::fs::read_dir(include.join("skep/v1"))?
        .map(|e| e.map(|e| e.path()))
        .collect::<std::io::Result<_>>()?;
    files.sort();
    let descriptors = protox::compile(&files, [&include])?;
    let out = tempdir(root)?;
    tonic_prost_build::configure()
        .out_dir(&out)
        .emit_rerun_if_changed(false)
        .btree_map(".")
        // Passed on as they come.
        .bytes(".skep.v1.BlobChunk")
        // A batch may hold a hundred thousand tasks: none should take the room of a service.
        .boxed(".skep.v1.Object.kind.node")
        .boxed(".skep.v1.Object.kind.service")
        .boxed(".skep.v1.Object.kind.revision")
        .boxed(".skep.v1.Task.attachment")
        // What is secret is not for logs.
        .skip_debug(["skep.v1.Content"])
        .compile_fds(descriptors)?;
    let fresh = std::fs::read_to_string(out.join("skep.v1.rs"))?;
    std::fs::remove_dir_all(&out)?;
    let target = root.join("proto/src/gen/skep.v1.rs");
    if check {
        let have = std::fs::read_to_string(&target).unwrap_or_default();
        if have != fresh {
            bail!("{} is not what the .proto files generate: run `cargo xtask proto`", target.display());
        }
        return Ok(());
    }
    std::fs::create_dir_all(root.join("proto/src/gen"))?;
    std::fs::write(&target, fresh).with_context(|| format!("write {}", target.display()))
}

fn tempdir(root: &Path) -> Result<PathBuf> {
    let dir = root.join("target").join(format!("proto-gen-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}
