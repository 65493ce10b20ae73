//! Images through the public handle, on a real file system: what is stored, what is refused, what is left.

mod support;

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde_json::json;
use skep_engine::{Engine, Error, ImportRequest, Removed};
use support::{Outcome, Tar, busybox, docker_archive, engine, gzip, oci_archive};
use tokio::io::AsyncReadExt;

fn names(dir: &Path) -> Vec<String> {
    let mut out: Vec<String> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    out.sort();
    out
}

fn layer_diff(dir: &Path, chain: &str) -> PathBuf {
    dir.join("data/layers").join(chain.trim_start_matches("sha256:")).join("diff")
}

#[tokio::test]
async fn loads_every_form_of_archive_as_the_same_image() -> Outcome {
    let dir = tempfile::tempdir()?;
    let engine = engine(dir.path()).await?;
    let layer = busybox();
    let config = json!({"Cmd": ["sh"], "Env": ["A=1"]});
    let docker = docker_archive("docker.io/library/bb:1", &[&layer], config.clone());
    let packed = gzip(&layer);
    let zst = ruzstd::encoding::compress_to_vec(&layer[..], ruzstd::encoding::CompressionLevel::Fastest);
    let mut ids = std::collections::BTreeSet::new();
    for archive in [
        docker.clone(),
        gzip(&docker),
        oci_archive("bb:gz", &[(&packed, &layer)], config.clone()),
        oci_archive("bb:zst", &[(&zst, &layer)], config.clone()),
    ] {
        let loaded = engine.images().load(archive.as_slice()).await?;
        assert_eq!(loaded.len(), 1);
        ids.insert(loaded[0].id.clone());
    }
    assert_eq!(ids.len(), 1, "one configuration is one image: {ids:?}");
    let image = engine.images().resolve("bb:1")?;
    assert_eq!(image.references, ["bb:1", "bb:gz", "bb:zst"]);
    assert_eq!((image.config.cmd, image.config.env), (vec!["sh".to_owned()], vec!["A=1".to_owned()]));
    for asked in [image.id.as_str(), &image.id[7..], &image.id[7..19], "docker.io/library/bb:gz"] {
        assert_eq!(engine.images().resolve(asked)?.id, image.id, "{asked}");
    }
    assert!(matches!(engine.images().resolve("bb"), Err(Error::NoSuchImage { .. })));
    assert!(matches!(engine.images().resolve("nope"), Err(Error::NoSuchImage { .. })));
    let diff = layer_diff(dir.path(), &image.chain_ids[0]);
    assert_eq!(std::fs::read(diff.join("bin/busybox"))?, std::fs::read("/bin/busybox")?);
    assert_eq!(names(&dir.path().join("data/tmp")), Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn unpacks_whiteouts_links_devices_and_attributes() -> Outcome {
    let dir = tempfile::tempdir()?;
    let engine = engine(dir.path()).await?;
    let mut sparse = tar::Header::new_gnu();
    sparse.set_path("holes")?;
    sparse.set_entry_type(tar::EntryType::GNUSparse);
    sparse.set_mode(0o600);
    sparse.set_size(4);
    if let Some(g) = sparse.as_gnu_mut() {
        g.set_real_size(1 << 20);
        g.sparse[0].set_offset((1 << 20) - 4);
        g.sparse[0].set_length(4);
    }
    sparse.set_cksum();
    let layer = Tar::default()
        .file("a", 0o4755, b"data")
        .hard_link("b", "a")
        .symlink("s", "/etc")
        .dir("d/", 0o700)
        .file("d/.wh.gone", 0, b"")
        .file("d/.wh..wh..opq", 0, b"")
        .file("made/without/parent", 0o644, b"x")
        .raw(&sparse, b"tail")
        .bytes();
    engine.images().load(docker_archive("x:1", &[&layer], json!({})).as_slice()).await?;
    let root = layer_diff(dir.path(), &engine.images().resolve("x:1")?.chain_ids[0]);
    let stat = |p: &str| std::fs::symlink_metadata(root.join(p));
    assert_eq!(stat("a")?.mode() & 0o7777, 0o4755);
    assert_eq!(stat("a")?.ino(), stat("b")?.ino());
    assert_eq!(stat("a")?.mtime(), 1_700_000_000);
    assert_eq!(stat("d")?.mtime(), 1_700_000_000);
    assert_eq!(std::fs::read_link(root.join("s"))?, Path::new("/etc"));
    assert!(stat("d/gone")?.file_type().is_char_device() && stat("d/gone")?.rdev() == 0);
    assert!(stat("d/.wh.gone").is_err() && stat("d/.wh..wh..opq").is_err());
    let holes = stat("holes")?;
    assert_eq!(holes.len(), 1 << 20);
    assert!(holes.blocks() * 512 < 1 << 19, "its holes are holes");
    assert!(std::fs::read(root.join("holes"))?.ends_with(b"tail"));
    Ok(())
}

/// Loads what must be refused; checks the words and that nothing is left.
async fn refused(engine: &Engine, dir: &Path, archive: &[u8], words: &[&str]) {
    let error =
        engine.images().load(archive).await.expect_err(&format!("was taken; wanted {words:?}")).to_string();
    for w in words {
        assert!(error.contains(w), "{error:?} does not say {w:?}");
    }
    for part in ["tmp", "layers", "blobs/sha256"] {
        assert_eq!(names(&dir.join("data").join(part)), Vec::<String>::new(), "{part} after {words:?}");
    }
    assert!(engine.images().list().is_empty());
}

#[tokio::test]
async fn refuses_bad_archives_by_name_and_keeps_nothing() -> Outcome {
    let dir = tempfile::tempdir()?;
    let outside = dir.path().join("outside");
    std::fs::create_dir(&outside)?;
    let engine = engine(dir.path()).await?;
    let shown = outside.display().to_string();
    let up = "../".repeat(12);
    let with = |layer: Vec<u8>| docker_archive("x:1", &[&layer], json!({}));
    for (archive, words) in [
        (with(Tar::default().file("../evil", 0o644, b"x").bytes()), ["../evil", "refused"]),
        (with(Tar::default().file(&format!("a/{up}evil"), 0o644, b"x").bytes()), ["evil", "refused"]),
        (
            with(Tar::default().symlink("out", &shown).file("out/evil", 0o644, b"x").bytes()),
            ["out/evil", "symlink"],
        ),
        (
            with(
                Tar::default()
                    .symlink("out", &format!("{up}{}", &shown[1..]))
                    .file("out/evil", 0o644, b"x")
                    .bytes(),
            ),
            ["out/evil", "symlink"],
        ),
        (with(Tar::default().hard_link("evil", "../../etc/passwd").bytes()), ["evil", "refused"]),
        (
            with(Tar::default().symlink("out", "/etc").hard_link("evil", "out/passwd").bytes()),
            ["evil", "hard link"],
        ),
        (with(Tar::default().hard_link("evil", "nowhere").bytes()), ["nowhere", "not in this layer"]),
        (
            with(Tar::default().file("f", 0o644, b"x").file("f/below", 0o644, b"x").bytes()),
            ["f/below", "not a directory"],
        ),
        (Tar::default().file("../x", 0o644, b"x").bytes(), ["../x", "leaves the archive"]),
        (Tar::default().file("hello", 0o644, b"x").bytes(), ["manifest.json", "import"]),
        (b"".to_vec(), ["empty", "archive"]),
        (b"not an archive at all".to_vec(), ["not a tar archive", "gzip"]),
        (vec![b'x'; 4096], ["not a tar archive", "gzip"]),
    ] {
        refused(&engine, dir.path(), &archive, &words).await;
    }
    assert_eq!(names(&outside), Vec::<String>::new(), "nothing was written outside");

    // Cut at every kind of place.
    let good = with(Tar::default().file("file", 0o644, &[7; 3000]).bytes());
    for cut in [100, 512, 700, 1024, 2000, good.len() / 2, good.len() - 1024] {
        refused(&engine, dir.path(), &good[..cut], &["archive"]).await;
    }
    let packed = gzip(&good);
    refused(&engine, dir.path(), &packed[..packed.len() - 20], &["archive"]).await;

    // One byte of a layer flipped.
    let mut flipped = good.clone();
    let at = good.windows(64).position(|w| w == [7; 64]).ok_or("the data is in the archive")?;
    flipped[at + 5] ^= 1;
    refused(&engine, dir.path(), &flipped, &["damaged"]).await;

    // A manifest that names what is not there.
    let manifest =
        json!([{"Config": "config.json", "RepoTags": ["x:1"], "Layers": ["missing.tar"]}]).to_string();
    let config = support::image_config(&[b"x"], json!({}));
    let lacking = Tar::default()
        .file("config.json", 0o644, &config)
        .file("manifest.json", 0o644, manifest.as_bytes())
        .bytes();
    refused(&engine, dir.path(), &lacking, &["missing.tar", "incomplete"]).await;

    // A header that says an absurd size.
    let mut big = tar::Header::new_gnu();
    big.set_path("huge")?;
    big.set_mode(0o644);
    big.set_size(1 << 60);
    big.set_cksum();
    let mut absurd = big.as_bytes().to_vec();
    absurd.extend([0; 1024]);
    refused(&engine, dir.path(), &absurd, &["huge", "too big"]).await;
    let mut long = tar::Header::new_gnu();
    long.set_path("././@LongLink")?;
    long.set_entry_type(tar::EntryType::GNULongName);
    long.set_size(1 << 40);
    long.set_cksum();
    let mut absurd = long.as_bytes().to_vec();
    absurd.extend([b'a'; 2048]);
    refused(&engine, dir.path(), &absurd, &["extension header", "limit"]).await;
    Ok(())
}

fn import(name: Option<&str>, change: &str) -> ImportRequest {
    ImportRequest {
        reference: name.map(str::to_owned),
        changes: vec![change.to_owned()],
        ..ImportRequest::default()
    }
}

#[tokio::test]
async fn imports_saves_and_loads_again() -> Outcome {
    let dir = tempfile::tempdir()?;
    let engine = engine(dir.path()).await?;
    let layer = gzip(&busybox());
    let id = engine.images().import(layer.as_slice(), import(Some("bb"), "CMD [\"sh\"]")).await?;
    let image = engine.images().resolve("bb:latest")?;
    assert_eq!((image.id.as_str(), image.config.cmd.len()), (id.as_str(), 1));
    assert!(engine.images().import(&b"junk"[..], import(None, "USER 0")).await.is_err());
    assert!(engine.images().import(layer.as_slice(), import(None, "RUN x")).await.is_err());
    assert!(image.last_tagged_ns >= image.created_at_ns, "{}", image.last_tagged_ns);
    engine.images().tag("bb", "me/other:2").await?;
    assert!(engine.images().resolve("bb")?.last_tagged_ns > image.last_tagged_ns);
    let mut saved = Vec::new();
    engine.images().save(&["bb".into(), "me/other:2".into()]).await?.read_to_end(&mut saved).await?;
    let removed = engine.images().remove("bb", false).await?;
    assert_eq!(removed, [Removed::Untagged("bb:latest".into())]);
    let removed = engine.images().remove(&id[7..19], false).await?;
    assert_eq!(removed[..2], [Removed::Untagged("me/other:2".into()), Removed::Deleted(id.clone())]);
    for part in ["tmp", "layers", "blobs/sha256"] {
        assert_eq!(names(&dir.path().join("data").join(part)), Vec::<String>::new(), "{part}");
    }
    let loaded = engine.images().load(saved.as_slice()).await?;
    assert_eq!((loaded[0].id.as_str(), loaded[0].references.len()), (id.as_str(), 2));
    assert!(matches!(engine.images().remove("gone", false).await, Err(Error::NoSuchImage { .. })));
    Ok(())
}

/// What another node says of an image is not believed before room is made for it.
#[tokio::test]
async fn sizes_that_another_node_says_are_held_against_the_manifest() -> Outcome {
    let (here, there) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let (giver, taker) = (engine(there.path()).await?, engine(here.path()).await?);
    giver.images().load(docker_archive("x:1", &[&busybox()], json!({})).as_slice()).await?;
    let id = giver.images().resolve("x:1")?.id;
    let honest = giver.images().share(&id)?.makeup().clone();
    let (layer, size) = honest.blobs[0].clone();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": id, "size": honest.config.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": size}],
    });
    let documents = vec![serde_json::to_vec(&manifest)?];
    let said = |size| skep_engine::Makeup {
        blobs: vec![(layer.clone(), size)],
        documents: documents.clone(),
        ..honest.clone()
    };
    drop(taker.images().expect("x:1", &id, said(size)).await?);
    for (size, words) in [(size + 1, "by its manifest"), (u64::MAX, "its layers have more than")] {
        let refused = taker.images().expect("x:1", &id, said(size)).await.expect_err(words).to_string();
        assert!(refused.contains(words), "{refused}");
    }
    Ok(())
}

#[tokio::test]
async fn a_start_sweeps_what_a_crash_left_and_a_second_daemon_is_refused() -> Outcome {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    let first = engine(dir.path()).await?;
    first.images().load(docker_archive("x:1", &[&busybox()], json!({})).as_slice()).await?;
    let tagged = first.images().resolve("x:1")?.last_tagged_ns;
    assert!(tagged > 0);
    let refused = engine(dir.path()).await.err().ok_or("a second engine was let in")?;
    assert!(refused.to_string().contains(&format!("pid {}", std::process::id())), "{refused}");
    // The crash: the lock goes with the handle, and half-made things are about.
    first.shutdown().await;
    drop(first);
    std::fs::create_dir_all(data.join("tmp/load-abc/layer-1/diff"))?;
    std::fs::create_dir_all(data.join("layers").join("0".repeat(64)).join("diff"))?;
    std::fs::create_dir_all(data.join("containers").join("1".repeat(64)).join("upper"))?;
    std::fs::write(data.join("blobs/sha256").join("2".repeat(64)), b"orphan")?;
    let second = loop {
        // The writer thread of the first lets go of its file once it has seen that nobody is left.
        match engine(dir.path()).await {
            Err(Error::RootInUse { .. } | Error::Metadata { .. }) => tokio::task::yield_now().await,
            other => break other?,
        }
    };
    assert_eq!(second.images().list().len(), 1);
    assert_eq!(second.images().resolve("x:1")?.last_tagged_ns, tagged, "the last tag's time is kept");
    assert_eq!(names(&data.join("tmp")), Vec::<String>::new());
    assert_eq!(names(&data.join("containers")), Vec::<String>::new());
    assert_eq!(names(&data.join("layers")).len(), 1);
    assert_eq!(names(&data.join("blobs/sha256")).len(), 2);
    Ok(())
}
