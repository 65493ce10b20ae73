//! Volumes through the public handle, on the real kernel: made, begun with the image's content, shared, mounted
//! from elsewhere, kept while in use, removed, and found again after a crash.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use futures::StreamExt;
use serde_json::json;
use skep_engine::{
    AttachOptions, BindOptions, ContainerConfig, Engine, Error, MountConfig, MountKind, NewVolume,
    Propagation, WaitCondition,
};
use support::{Fixture, Outcome, docker_archive};

fn sh(script: &str, mounts: Vec<MountConfig>) -> ContainerConfig {
    ContainerConfig {
        image: "bb:1".into(),
        cmd: Some(["sh", "-c", script].map(str::to_owned).to_vec()),
        mounts,
        ..Default::default()
    }
}

fn volume(name: &str, target: &str) -> MountConfig {
    MountConfig::new(MountKind::volume(name), target, false)
}

/// Runs to its end and stays; what it wrote.
async fn run(e: &Engine, name: &str, config: ContainerConfig) -> Result<String, Error> {
    let id = e.create(Some(name.to_owned()), config).await?;
    let all = AttachOptions { stdout: true, stderr: true, ..Default::default() };
    let mut out = e.attach(id.as_str(), all).await?.output;
    let exit = e.wait(id.as_str(), WaitCondition::NextExit)?;
    e.start(id.as_str()).await?;
    let mut text = String::new();
    while let Some(frame) = out.next().await {
        text.push_str(&String::from_utf8_lossy(&frame?.data));
    }
    exit.await?;
    e.wait(id.as_str(), WaitCondition::NotRunning)?.await?;
    Ok(text)
}

fn is_mounted(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().any(|l| l.split(' ').nth(4) == path.to_str())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_volume_outlives_its_containers_and_is_kept_while_one_is_there() -> Outcome {
    let f = Fixture::new().await?;
    let e = &f.engine;
    let mut events = e.events();
    let layer = support::Tar::default()
        .dir("data/", 0o750)
        .file("data/a", 0o640, b"a")
        .hard_link("data/b", "data/a")
        .symlink("data/l", "/etc/passwd")
        .bytes();
    let archive = docker_archive("with:1", &[&support::busybox(), &layer], json!({"Env": ["PATH=/bin"]}));
    e.images().load(archive.as_slice()).await?;
    let with = |script: &str| ContainerConfig {
        image: "with:1".into(),
        ..sh(script, vec![volume("data", "/data")])
    };
    let out =
        run(e, "one", with("stat -c '%a %h' /data/a; stat -c %a /data; echo more >> /data/b; cat /data/a"))
            .await?;
    assert_eq!(out, "640 2\n750\namore\n");
    let found = e.volumes().get("data")?;
    assert_eq!((found.users, found.driver.as_str()), (1, "local"));
    assert_eq!(std::fs::read_link(found.mountpoint.join("l"))?, Path::new("/etc/passwd"));
    let refused = e.volumes().remove("data").await.err().ok_or("removed in use")?.to_string();
    let id = e.inspect("one")?.id.to_string();
    assert_eq!(refused, format!("remove data: volume is in use - [{id}]"));
    e.remove_with("one", false, true).await?;
    // Named: it stays, and is not begun again.
    std::fs::remove_file(found.mountpoint.join("b"))?;
    assert_eq!(run(e, "two", with("ls /data")).await?, "a\nl\n");
    e.remove("two", false).await?;
    e.volumes().remove("data").await?;
    assert!(!found.mountpoint.exists());
    assert_eq!(e.volumes().get("data").err().ok_or("found")?.to_string(), "get data: no such volume");
    let mut told = Vec::new();
    while let Ok(event) = events.try_recv() {
        if event.kind == "volume" {
            told.push(event.action);
        }
    }
    assert_eq!(told, ["create", "mount", "unmount", "mount", "unmount", "destroy"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn anonymous_volumes_go_with_their_container_when_asked_and_others_inherit() -> Outcome {
    let f = Fixture::new().await?;
    let e = &f.engine;
    run(e, "source", sh("echo kept > /v/file", vec![volume("", "/v"), volume("named", "/n")])).await?;
    let from = |mode: &str, script: &str| ContainerConfig {
        volumes_from: vec![format!("source{mode}")],
        ..sh(script, Vec::new())
    };
    assert_eq!(
        run(e, "heir", from("", "cat /v/file; touch /v/x /n/x && echo wrote")).await?,
        "kept\nwrote\n"
    );
    let out = run(e, "reader", from(":ro", "touch /v/y || touch /n/y || echo refused")).await?;
    assert!(out.contains("refused\n"), "{out}");
    let error = e.create(None, from(":odd", "true")).await.err().ok_or("created")?.to_string();
    assert_eq!(error, "invalid mode: odd");
    // As long as an heir is there, it stays.
    e.remove_with("source", false, true).await?;
    e.remove("reader", false).await?;
    assert_eq!(e.volumes().list().len(), 2);
    e.remove_with("heir", false, true).await?;
    let left: Vec<String> = e.volumes().list().into_iter().map(|v| v.name).collect();
    assert_eq!(left, ["named"]);

    run(e, "left", sh("true", vec![volume("", "/v")])).await?;
    e.remove("left", false).await?;
    let pruned = e.volumes().prune(|v| v.is_anonymous()).await?;
    assert_eq!((pruned.removed.len(), e.volumes().list().len()), (1, 1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_from_elsewhere_is_mounted_by_its_first_user_and_unmounted_by_its_last() -> Outcome {
    let f = Fixture::new().await?;
    let e = &f.engine;
    let options = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    };
    let memory = options(&[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m,noexec")]);
    let made =
        e.volumes().create(NewVolume { name: "mem".into(), options: memory, ..Default::default() }).await?;
    assert!(!is_mounted(&made.mountpoint));
    let wait = "echo here > /m/f; while ! test -e /m/go; do sleep 0.05; done";
    let first = e.create(Some("first".into()), sh(wait, vec![volume("mem", "/m")])).await?;
    e.start(first.as_str()).await?;
    assert!(is_mounted(&made.mountpoint));
    let script = "while ! test -e /m/f; do sleep 0.05; done; cat /m/f; touch /m/go";
    assert_eq!(run(e, "second", sh(script, vec![volume("mem", "/m")])).await?, "here\n");
    e.wait("first", WaitCondition::NotRunning)?.await?;
    e.remove("first", false).await?;
    assert!(!is_mounted(&made.mountpoint));

    let dir = f.dir().join("elsewhere");
    std::fs::create_dir(&dir)?;
    std::fs::write(dir.join("file"), "bound")?;
    let bound = options(&[("type", "none"), ("o", "bind,ro"), ("device", dir.to_str().ok_or("utf8")?)]);
    e.volumes().create(NewVolume { name: "bound".into(), options: bound, ..Default::default() }).await?;
    let out =
        run(e, "third", sh("cat /b/file; touch /b/x || echo refused", vec![volume("bound", "/b")])).await?;
    assert!(out.starts_with("bound") && out.contains("refused\n"), "{out}");
    e.remove("third", false).await?;
    e.volumes().remove("bound").await?;
    assert!(dir.join("file").exists(), "what is mounted is not deleted");
    let lost = options(&[("type", "none"), ("o", "bind"), ("device", "/no/such")]);
    e.volumes().create(NewVolume { name: "lost".into(), options: lost, ..Default::default() }).await?;
    let id = e.create(None, sh("true", vec![volume("lost", "/b")])).await;
    let error = match id {
        Ok(id) => e.start(id.as_str()).await.err().ok_or("started")?.to_string(),
        Err(e) => e.to_string(),
    };
    assert!(error.contains("failed to mount local volume: mount /no/such:"), "{error}");
    for (name, driver, words) in [
        ("x", "", "too short"),
        ("a/b", "", "invalid characters"),
        (
            "ab",
            "nfs-plugin",
            "create ab: error looking up volume plugin nfs-plugin: plugin \"nfs-plugin\" not found",
        ),
    ] {
        let new = NewVolume { name: name.into(), driver: driver.into(), ..Default::default() };
        let error = e.volumes().create(new).await.err().ok_or("created")?.to_string();
        assert!(error.contains(words), "{error}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_are_found_again_after_a_crash_and_what_it_left_is_tidied_up() -> Outcome {
    let mut f = Fixture::new().await?;
    let labels: BTreeMap<String, String> = [("a".to_owned(), "b".to_owned())].into();
    f.engine
        .volumes()
        .create(NewVolume { name: "kept".into(), labels: labels.clone(), ..Default::default() })
        .await?;
    f.engine.create(Some("user".into()), sh("true", vec![volume("kept", "/k")])).await?;
    let volumes = f.dir().join("data/volumes");
    f.crash().await?;
    std::fs::create_dir_all(volumes.join("orphan/_data"))?;
    std::fs::write(volumes.join("orphan/_data/precious"), "")?;
    std::fs::create_dir_all(volumes.join("kept/_filling/half"))?;
    f.reopen().await?;
    let e = &f.engine;
    let kept = e.volumes().get("kept")?;
    assert_eq!((&kept.labels, kept.users), (&labels, 1));
    assert!(!volumes.join("kept/_filling").exists());
    assert!(e.volumes().get("orphan")?.mountpoint.join("precious").exists());
    assert!(matches!(e.volumes().remove("kept").await, Err(Error::VolumeInUse { .. })));
    e.remove("user", false).await?;
    e.volumes().remove("kept").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subpath_stays_in_its_volume_and_a_read_only_bind_is_so_all_the_way_down() -> Outcome {
    let f = Fixture::new().await?;
    let e = &f.engine;
    let made = e.volumes().create(NewVolume { name: "tree".into(), ..Default::default() }).await?;
    std::fs::create_dir(made.mountpoint.join("sub"))?;
    std::fs::write(made.mountpoint.join("sub/file"), "below")?;
    std::os::unix::fs::symlink("/etc", made.mountpoint.join("out"))?;
    let at = |subpath: &str| {
        let mut m = volume("tree", "/t");
        if let MountKind::Volume { options, .. } = &mut m.kind {
            options.subpath = Some(subpath.into());
        }
        vec![m]
    };
    assert_eq!(run(e, "sub", sh("cat /t/file", at("sub"))).await?, "below");
    let out = e.create(None, sh("ls /t", at("out"))).await?;
    let error = e.start(out.as_str()).await.err().ok_or("the host's /etc was mounted")?.to_string();
    assert!(error.contains("does not exist"), "{error}");

    // A bind made by the start, where `-v` asks for it.
    let fresh = f.dir().join("not/there/yet");
    let options = BindOptions { create: true, ..Default::default() };
    let kind = MountKind::Bind { source: fresh.clone(), options };
    assert_eq!(
        run(e, "made", sh("touch /b/x; ls /b", vec![MountConfig::new(kind, "/b", false)])).await?,
        "x\n"
    );
    assert!(fresh.join("x").exists());
    Ok(())
}

/// A tmpfs that is taken away again.
struct Memory(PathBuf);

impl Memory {
    fn mount(at: &Path) -> nix::Result<Self> {
        use nix::mount::MsFlags;
        std::fs::create_dir_all(at).map_err(|_| nix::errno::Errno::EIO)?;
        nix::mount::mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
        Ok(Self(at.to_path_buf()))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_pass_from_the_host_only_where_that_was_asked_for() -> Outcome {
    let f = Fixture::new().await?;
    let e = &f.engine;
    let top = Memory::mount(&f.dir().join("top"))?;
    let bound = |propagation| {
        let options = BindOptions { propagation, ..Default::default() };
        vec![MountConfig::new(MountKind::Bind { source: top.0.clone(), options }, "/top", false)]
    };
    nix::mount::mount(None::<&str>, &top.0, None::<&str>, nix::mount::MsFlags::MS_PRIVATE, None::<&str>)?;
    let refused = e.create(None, sh("true", bound(Propagation::Rslave))).await?;
    let error = e.start(refused.as_str()).await.err().ok_or("started")?.to_string();
    assert!(error.contains("but it is not a shared or slave mount"), "{error}");
    nix::mount::mount(None::<&str>, &top.0, None::<&str>, nix::mount::MsFlags::MS_SHARED, None::<&str>)?;
    let script =
        "while ! test -e /top/go; do sleep 0.05; done; test -e /top/below/seen && echo seen || echo blind";
    for (name, propagation, wanted) in
        [("private", Propagation::Rprivate, "blind\n"), ("slave", Propagation::Rslave, "seen\n")]
    {
        let id = e.create(Some(name.into()), sh(script, bound(propagation))).await?;
        let mut out = e.attach(name, AttachOptions { stdout: true, ..Default::default() }).await?.output;
        e.start(id.as_str()).await?;
        let below = Memory::mount(&top.0.join("below"))?;
        std::fs::write(below.0.join("seen"), "")?;
        std::fs::write(top.0.join("go"), "")?;
        let mut text = Vec::new();
        while let Some(frame) = out.next().await {
            text.extend_from_slice(&frame?.data);
        }
        assert_eq!(String::from_utf8_lossy(&text), wanted, "{name}");
        std::fs::remove_file(top.0.join("go"))?;
    }
    Ok(())
}
