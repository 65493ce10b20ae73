//! A container's files from outside: copied out and in, compared with the image, exported and committed, on the
//! real kernel.

mod support;

use std::io::Read;

use skep_engine::{
    AttachOptions, Change, Commit, ContainerConfig, CopyIn, Engine, Error, HealthConfig, MountConfig,
    MountKind, WaitCondition,
};
use support::{Fixture, Outcome, Tar};
use tokio::io::AsyncReadExt;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn sh(script: &str) -> ContainerConfig {
    ContainerConfig {
        image: "bb:1".into(),
        cmd: Some(["sh", "-c", script].map(str::to_owned).to_vec()),
        ..Default::default()
    }
}

/// Names, kinds and content of an archive of a path.
async fn copied(e: &Engine, id: &str, path: &str) -> Result<Vec<(String, String)>, Failure> {
    let (_, mut archive) = e.copy_out(id, path).await?;
    let mut bytes = Vec::new();
    archive.read_to_end(&mut bytes).await?;
    entries(&bytes)
}

fn entries(bytes: &[u8]) -> Result<Vec<(String, String)>, Failure> {
    let mut archive = tar::Archive::new(bytes);
    let mut out = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = String::from_utf8(entry.path_bytes().into_owned())?;
        let text = match entry.link_name_bytes() {
            Some(link) => format!("-> {}", String::from_utf8_lossy(&link)),
            None => {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes)?;
                // Programs are not what is looked at here.
                String::from_utf8_lossy(&bytes[..bytes.len().min(1000)]).into_owned()
            }
        };
        out.push((name, text));
    }
    Ok(out)
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

/// Starts it and waits until it has made `/ready`.
async fn start(e: &Engine, id: &str) -> Outcome {
    let mut out = e.attach(id, AttachOptions { stdout: true, ..Default::default() }).await?.output;
    e.start(id).await?;
    let first = futures::StreamExt::next(&mut out).await.ok_or("it says nothing")??;
    assert_eq!(first.data, "ready\n");
    Ok(())
}

const MADE: &str = "mkdir -p /d/sub; echo one > /d/a; echo two > /d/sub/b; ln -s /d/a /d/l; ln -s /d /dl; \
    ln -s ../../../../../../etc/passwd /out; ";

#[tokio::test(flavor = "multi_thread")]
async fn files_are_copied_out_of_running_and_stopped_containers_alike() -> Outcome {
    let f = Fixture::new().await?;
    let e = &f.engine;
    let mounts = vec![
        MountConfig::new(MountKind::volume("vol"), "/vol", false),
        MountConfig::new(MountKind::tmpfs(None, None), "/mem", false),
    ];
    let script = format!(
        "{MADE} echo kept > /vol/v; echo gone > /mem/m; echo ready; while ! test -e /go; do sleep 0.05; done"
    );
    let id = e.create(Some("cc".into()), ContainerConfig { mounts, ..sh(&script) }).await?;
    start(e, id.as_str()).await?;
    assert_eq!(copied(e, "cc", "/mem").await?, pairs(&[("mem/", ""), ("mem/m", "gone\n")]));
    for running in [true, false] {
        let whole =
            pairs(&[("d/", ""), ("d/a", "one\n"), ("d/l", "-> /d/a"), ("d/sub/", ""), ("d/sub/b", "two\n")]);
        assert_eq!(copied(e, "cc", "/d").await?, whole, "running: {running}");
        let content: Vec<_> = whole.iter().map(|(n, t)| (n.replacen('d', ".", 1), t.clone())).collect();
        assert_eq!(copied(e, "cc", "d/.").await?, content);
        assert_eq!(copied(e, "cc", "/dl/sub/b").await?, pairs(&[("b", "two\n")]));
        assert_eq!(copied(e, "cc", "/dl").await?, pairs(&[("dl", "-> /d")]));
        assert_eq!(copied(e, "cc", "/vol").await?, pairs(&[("vol/", ""), ("vol/v", "kept\n")]));
        let link = e.stat_path("cc", "/out").await?;
        assert_eq!((link.name.as_str(), link.link_target.as_str()), ("out", "/etc/passwd"));
        let inside = copied(e, "cc", "/out/").await.err().map(|e| e.to_string());
        assert!(inside.as_deref().is_some_and(|e| e.contains("not a directory")), "{inside:?}");
        let error = e.stat_path("cc", "/none").await.err().ok_or("found")?;
        assert_eq!(error.to_string(), "Could not find the file /none in container cc");
        let root = copied(e, "cc", "/").await?;
        assert!(root.iter().any(|(n, _)| n == "/etc/passwd") && root[0].0 == "/", "{:?}", &root[..3]);
        if running {
            let exit = e.wait("cc", WaitCondition::NotRunning)?;
            e.copy_in("cc", "/", CopyIn::default(), Tar::default().file("go", 0o644, b"").bytes().as_slice())
                .await?;
            exit.await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_copied_in_and_no_link_leads_out() -> Outcome {
    let f = Fixture::new().await?;
    let e = &f.engine;
    let outside = f.dir().join("outside");
    std::fs::create_dir(&outside)?;
    let escape = format!(
        "ln -s {} /esc; ln -s /tmp /abs; ln -s /no/where /gone; ln -s loop /loop; mkdir /dir; ln -s . /dir/up; \
         ln -s ../tmp /dir/rel; ln -s ../../../.. /dir/high; ",
        outside.display()
    );
    let script = format!("{escape} echo old > /file; echo ready; while :; do sleep 0.05; done");
    let mounts = vec![MountConfig::new(MountKind::volume("locked"), "/locked", true)];
    let config = ContainerConfig { mounts, user: Some("1000:1000".into()), ..sh(&script) };
    // As root, since others may not write there.
    let id = e.create(Some("cc".into()), ContainerConfig { user: None, ..config }).await?;
    start(e, id.as_str()).await?;
    let one = |name: &str| Tar::default().file(name, 0o640, b"new").bytes();
    let copy = async |to: &str, how: CopyIn, tar: Vec<u8>| e.copy_in("cc", to, how, tar.as_slice()).await;
    for running in [true, false] {
        copy("/abs", CopyIn::default(), one("x")).await?;
        assert_eq!(copied(e, "cc", "/tmp/x").await?, pairs(&[("x", "new")]));
        // The host has that directory, the container does not.
        let error = copy("/esc", CopyIn::default(), one("x")).await.err().ok_or("it leads out")?;
        assert!(matches!(error, Error::NoSuchFile { .. }), "{error}");
        let through = Tar::default().file("esc/x", 0o644, b"new").bytes();
        assert!(copy("/", CopyIn::default(), through).await.is_err());
        assert_eq!(std::fs::read_dir(&outside)?.count(), 0);
        for (to, name, lands) in [
            ("/", "abs/by", "/tmp/by"),
            ("/", "abs/deep/er/by", "/tmp/deep/er/by"),
            ("/", "dir/up/by-up", "/dir/by-up"),
            ("/", "dir/rel/by-rel", "/tmp/by-rel"),
            ("/dir", "rel/by-dir", "/tmp/by-dir"),
            ("/dir", "high/tmp/by-high", "/tmp/by-high"),
        ] {
            copy(to, CopyIn::default(), one(name)).await.map_err(|e| format!("{to} {name}: {e}"))?;
            let found = copied(e, "cc", lands).await?;
            assert!(matches!(&found[..], [(_, text)] if text == "new"), "{to} {name}: {found:?}");
        }
        // A hard link, too, is to what the container would find there.
        let linked =
            Tar::default().file("abs/first", 0o640, b"linked").hard_link("second", "abs/first").bytes();
        copy("/", CopyIn::default(), linked).await?;
        assert_eq!(copied(e, "cc", "/second").await?, pairs(&[("second", "linked")]));
        for (name, why) in [
            ("proc/self/cwd/x", "No such file"),
            ("proc/1/root/tmp/x", "loop of symlinks"),
            ("loop/x", "loop of symlinks"),
            ("gone/x", "No such file"),
            ("dir/../x", "\"..\""),
            ("file/x", "not a directory"),
        ] {
            // Only what runs has a /proc.
            if running || !name.starts_with("proc") {
                let error = copy("/", CopyIn::default(), one(name)).await.err().ok_or(name)?.to_string();
                assert!(error.contains(why), "{name}: {error}");
            }
        }
        assert_eq!(std::fs::read_dir(&outside)?.count(), 0);
        let keep = CopyIn { keep_kinds: true, ..Default::default() };
        let error = copy("/", keep, one("dir")).await.err().ok_or("replaced")?.to_string();
        assert!(error.contains("cannot overwrite directory"), "{error}");
        copy("/", keep, one("file")).await?;
        assert_eq!(copied(e, "cc", "/file").await?, pairs(&[("file", "new")]));
        assert!(
            copy("/file", CopyIn::default(), one("x"))
                .await
                .err()
                .ok_or("into a file")?
                .to_string()
                .contains("extraction point is not a directory")
        );
        let error = copy("/locked", CopyIn::default(), one("x")).await.err().ok_or("written")?.to_string();
        assert_eq!(error, "mounted volume is marked read-only");
        if running {
            e.stop("cc", Some(std::time::Duration::ZERO)).await?;
        }
    }
    e.start("cc").await?;
    e.kill("cc", "KILL").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_told_committed_and_exported() -> Outcome {
    let f = Fixture::new().await?;
    let e = &f.engine;
    let script = "echo x > /new; mkdir -p /made/deep; echo y > /made/deep/f; rm /etc/group; chmod 600 /etc/passwd; \
        rm -r /tmp; mkdir /tmp; mkfifo /tmp/p 2>/dev/null; echo 0 > /vol/v";
    let mounts = vec![MountConfig::new(MountKind::volume(""), "/vol", false)];
    let config = ContainerConfig {
        mounts,
        env: vec!["B=2".into()],
        labels: [("k".to_owned(), "v".to_owned())].into(),
        health: Some(HealthConfig {
            test: vec!["CMD".into(), "true".into()],
            retries: 7,
            ..Default::default()
        }),
        ..sh(script)
    };
    let id = e.create(Some("cc".into()), config).await?;
    let exit = e.wait("cc", WaitCondition::NextExit)?;
    e.start("cc").await?;
    exit.await?;
    e.wait("cc", WaitCondition::NotRunning)?.await?;
    let shown: Vec<String> = e
        .changes("cc")
        .await?
        .into_iter()
        .map(|(path, change)| {
            let letter = match change {
                Change::Modified => 'C',
                Change::Added => 'A',
                Change::Deleted => 'D',
            };
            format!("{letter} {}", path.display())
        })
        .collect();
    for line in ["A /new", "A /made", "A /made/deep/f", "C /etc", "D /etc/group", "C /etc/passwd", "A /vol"] {
        assert!(shown.iter().any(|s| s == line), "{line} is not in {shown:?}");
    }
    for word in ["hosts", "proc", "/vol/v", "/bin"] {
        assert!(!shown.iter().any(|s| s.contains(word)), "{word} is in {shown:?}");
    }

    let asked = Commit {
        reference: Some("made:1".into()),
        author: "me".into(),
        comment: "why".into(),
        config: None,
        changes: vec!["CMD [\"cat\", \"/made/deep/f\"]".into()],
        pause: true,
    };
    let image = e.commit("cc", asked).await?;
    let found = e.images().resolve("made:1")?;
    assert_eq!((found.id.as_str(), found.layers.len()), (image.as_str(), 2));
    assert_eq!((found.author.as_str(), found.comment.as_str()), ("me", "why"));
    assert!(found.config.env.contains(&"B=2".to_owned()) && found.config.env.contains(&"A=1".to_owned()));
    assert_eq!(found.config.labels["k"], "v");
    assert_eq!(found.config.healthcheck.as_ref().map(|h| &h["Retries"]), Some(&7.into()));
    let check = "cat /made/deep/f; test -e /etc/group || echo gone; stat -c %a /etc/passwd; ls /vol";
    let config = ContainerConfig { image: "made:1".into(), ..sh(check) };
    let id2 = e.create(None, config).await?;
    let mut out = e.attach(id2.as_str(), AttachOptions { stdout: true, ..Default::default() }).await?.output;
    e.start(id2.as_str()).await?;
    let mut text = Vec::new();
    while let Some(frame) = futures::StreamExt::next(&mut out).await {
        text.extend_from_slice(&frame?.data);
    }
    assert_eq!(String::from_utf8_lossy(&text), "y\ngone\n600\n");

    // It goes out and comes in again as it was.
    let mut saved = Vec::new();
    e.images().save(&["made:1".to_owned()]).await?.read_to_end(&mut saved).await?;
    e.remove(id2.as_str(), true).await?;
    e.images().remove("made:1", true).await?;
    assert_eq!(e.images().load(saved.as_slice()).await?[0].id, image);

    let mut bytes = Vec::new();
    e.export(id.as_str()).await?.read_to_end(&mut bytes).await?;
    let files = entries(&bytes)?;
    let has = |name: &str| files.iter().any(|(n, _)| n == name);
    assert!(has("made/deep/f") && has("etc/") && has("vol/"), "{files:?}");
    assert!(!has("vol/v") && !has("etc/group"), "{files:?}");
    // Nothing changed: the same layers, and an image all the same.
    let idle = e.create(None, sh("true")).await?;
    let same = e.commit(idle.as_str(), Commit::default()).await?;
    assert_eq!(e.images().resolve(&same)?.layers.len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn links_that_change_during_a_copy_lead_nowhere() -> Outcome {
    // CVE-2018-15664: a container swaps a directory for a link to one of the host's.
    let f = Fixture::new().await?;
    let e = &f.engine;
    let outside = f.dir().join("outside");
    std::fs::create_dir(&outside)?;
    std::fs::write(outside.join("token"), "host")?;
    let out = outside.display();
    let swap = "mv /d /e; mv /l /d; mv /d /l; mv /e /d";
    let script = format!(
        "mkdir /d; echo own > /d/token; ln -s {out} /l; ln -s / /way; echo ready; while :; do {swap}; done"
    );
    let id = e.create(Some("cc".into()), sh(&script)).await?;
    start(e, id.as_str()).await?;
    let new = Tar::default().file("token", 0o644, b"new").bytes();
    let deep = Tar::default().dir("d/", 0o755).file("d/token", 0o644, b"new").bytes();
    let through = Tar::default().file("d/token", 0o644, b"new").file("way/d/token", 0o644, b"new").bytes();
    let (mut out_of, mut into) = (0, 0);
    for _ in 0..60 {
        for path in ["/d/token", "/d/.", "/way/d/token"] {
            // While it is away, or a link to what the container has not, there is nothing to copy.
            let Ok(found) = copied(e, "cc", path).await else { continue };
            assert!(!found.iter().any(|(_, text)| text.contains("host")), "{path}: {found:?}");
            out_of += 1;
        }
        into += usize::from(e.copy_in("cc", "/d", CopyIn::default(), new.as_slice()).await.is_ok());
        into += usize::from(e.copy_in("cc", "/", CopyIn::default(), deep.as_slice()).await.is_ok());
        into += usize::from(e.copy_in("cc", "/", CopyIn::default(), through.as_slice()).await.is_ok());
        assert_eq!(std::fs::read_to_string(outside.join("token"))?, "host");
        assert_eq!(std::fs::read_dir(&outside)?.count(), 1);
    }
    assert!(out_of > 0 && into > 0, "some copies meet the directory: {out_of} {into}");
    e.kill("cc", "KILL").await?;
    Ok(())
}
