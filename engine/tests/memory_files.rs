//! Files that are in a container and on no disk, through the public handle on the real kernel: with their owner and
//! mode, for as long as the container's process lives, whatever becomes of the daemon.

mod support;

use std::os::fd::OwnedFd;
use std::path::Path;

use skep_engine::runtime::mount_api;
use skep_engine::{ContainerConfig, Error, FileContent, MemoryFile, WaitCondition};
use support::{Fixture, Outcome};

fn config(script: &str) -> ContainerConfig {
    let file = |what: &str, target: &str, uid: u32, mode: u32| MemoryFile {
        what: what.into(),
        target: target.into(),
        uid,
        gid: 7,
        mode,
    };
    ContainerConfig {
        image: "bb:1".into(),
        cmd: Some(["sh", "-c", script].map(str::to_owned).to_vec()),
        files: vec![
            file("secret pw", "/run/secrets/pw", 5, 0o440),
            file("config conf", "/etc/deep/conf", 0, 0o444),
        ],
        ..Default::default()
    }
}

fn contents() -> Vec<FileContent> {
    ["hunter2", "settings"].map(|text| FileContent::from(text.as_bytes().to_vec())).to_vec()
}

/// Mounts of ours below a directory.
fn mounted_below(dir: &Path) -> Vec<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mounts.lines().filter_map(|l| l.split(' ').nth(4));
    points.filter(|p| Path::new(p).starts_with(dir)).map(str::to_owned).collect()
}

/// What a file of a running container holds.
fn seen(f: &Fixture, name: &str, path: &str) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    let pid = f.engine.inspect(name)?.pid.ok_or("it does not run")?;
    Ok(std::fs::read_to_string(format!("/proc/{pid}/root{path}"))?)
}

#[tokio::test(flavor = "multi_thread")]
async fn they_are_there_as_asked_and_stay_when_the_daemon_goes() -> Outcome {
    let mut f = Fixture::new().await?;
    assert!(!format!("{:?}", contents()).contains("hunter"), "nothing prints them");
    let check = "[ $(busybox stat -c %a:%u:%g /run/secrets/pw) = 440:5:7 ] && [ $(busybox stat -c %a:%u:%g /etc/deep/conf) = 444:0:7 ]";
    let script = format!(
        "{check} && ! echo x > /etc/deep/conf && busybox grep -q hunter2 /run/secrets/pw && sleep 1000"
    );
    let id = f.engine.create(Some("one".into()), config(&script)).await?;

    // Nobody else can start it: their content is kept nowhere.
    let refused = f.engine.start("one").await.expect_err("without them");
    assert!(matches!(&refused, Error::Conflict(why) if why.contains("secret pw, config conf")), "{refused}");
    f.engine.start_with_files("one", contents()).await?;
    assert_eq!(seen(&f, "one", "/run/secrets/pw")?, "hunter2");
    assert_eq!(mounted_below(f.dir()), Vec::<String>::new(), "nothing stays mounted on the host");

    // A daemon that was killed half-way through another start left a tmpfs. The next one takes that off, and only that.
    f.crash().await?;
    let left = f.dir().join("exec/containers/left/files");
    std::fs::create_dir_all(&left)?;
    let context = mount_api::FsContext::open("tmpfs")?;
    let tree = context.mount(0)?;
    mount_api::attach(&tree, OwnedFd::from(std::fs::File::open(&left)?))?;
    std::fs::write(left.join("0"), "half-written")?;
    f.reopen().await?;
    assert_eq!(mounted_below(f.dir()), Vec::<String>::new());
    assert!(!left.exists(), "the bundle is swept");
    assert_eq!(seen(&f, "one", "/run/secrets/pw")?, "hunter2");
    assert_eq!(seen(&f, "one", "/etc/deep/conf")?, "settings");

    // A further run has what that is given.
    let ended = f.engine.wait(id.as_str(), WaitCondition::NotRunning)?;
    f.engine.kill("one", "").await?;
    ended.await?;
    f.engine.start_with_files("one", vec![b"other hunter2".to_vec().into(), b"x".to_vec().into()]).await?;
    assert_eq!(seen(&f, "one", "/etc/deep/conf")?, "x");
    f.engine.remove("one", true).await?;
    assert_eq!(mounted_below(f.dir()), Vec::<String>::new());
    Ok(())
}
