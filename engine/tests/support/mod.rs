//! What the engine's tests share: archives made in memory and an engine on throw-away roots.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use skep_engine::{Engine, EngineOptions, Networking, NoNetworks};

/// Every test's result.
pub type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Options below `dir`.
pub fn options(dir: &Path) -> EngineOptions {
    let instance = format!(
        "t{:x}",
        Sha256::digest(dir.as_os_str().as_encoded_bytes())
            .iter()
            .take(4)
            .fold(0u32, |a, b| a << 8 | u32::from(*b))
    );
    EngineOptions {
        data_root: dir.join("data"),
        exec_root: dir.join("exec"),
        instance,
        cgroup_parent: None,
        helper_exe: helper(),
        default_log: Default::default(),
        runtimes: Default::default(),
        cdi_spec_dirs: Vec::new(),
        defaults: Default::default(),
        real_time: (0, 0),
        userns: None,
        networking: Arc::new(NoNetworks),
    }
}

/// `examples/shim`, which cargo builds with the tests.
fn helper() -> std::path::PathBuf {
    let exe = std::env::current_exe().unwrap_or_default();
    exe.ancestors().nth(2).unwrap_or(Path::new("/")).join("examples/shim")
}

pub async fn engine(dir: &Path) -> Result<Engine, skep_engine::Error> {
    Engine::open(options(dir)).await
}

async fn networked(dir: &Path, networking: Arc<dyn Networking>) -> Result<Engine, skep_engine::Error> {
    Engine::open(EngineOptions { networking, ..options(dir) }).await
}

pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// A tar made entry by entry.
pub struct Tar(tar::Builder<Vec<u8>>);

impl Default for Tar {
    fn default() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }
}

impl Tar {
    fn entry(mut self, kind: tar::EntryType, path: &str, link: &str, mode: u32, data: &[u8]) -> Self {
        let mut h = tar::Header::new_gnu();
        h.set_entry_type(kind);
        h.set_mode(mode);
        h.set_size(data.len() as u64);
        h.set_mtime(1_700_000_000);
        // Raw, as the crate's own setters refuse what the tests must try.
        let name = h.as_old_mut();
        name.name[..path.len()].copy_from_slice(path.as_bytes());
        name.linkname[..link.len()].copy_from_slice(link.as_bytes());
        h.set_cksum();
        self.0.append(&h, data).expect("writing to memory");
        self
    }

    pub fn file(self, path: &str, mode: u32, data: &[u8]) -> Self {
        self.entry(tar::EntryType::Regular, path, "", mode, data)
    }

    pub fn dir(self, path: &str, mode: u32) -> Self {
        self.entry(tar::EntryType::Directory, path, "", mode, b"")
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(tar::EntryType::Symlink, path, target, 0o777, b"")
    }

    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(tar::EntryType::Link, path, target, 0o644, b"")
    }

    pub fn raw(mut self, header: &tar::Header, data: &[u8]) -> Self {
        self.0.append(header, data).expect("writing to memory");
        self
    }

    pub fn bytes(self) -> Vec<u8> {
        self.0.into_inner().expect("writing to memory")
    }
}

/// A root file system of busybox and its applets.
pub fn busybox() -> Vec<u8> {
    let program = std::fs::read("/bin/busybox").expect("busybox-static is installed");
    let mut tar = Tar::default()
        .dir("bin/", 0o755)
        .dir("etc/", 0o755)
        .dir("tmp/", 0o1777)
        .dir("proc/", 0o755)
        .dir("sys/", 0o755)
        .dir("dev/", 0o755);
    tar = tar.file("bin/busybox", 0o755, &program);
    for applet in [
        "sh", "true", "false", "cat", "echo", "sleep", "ls", "id", "hostname", "env", "seq", "kill", "pwd",
        "grep", "stty", "tty", "mknod", "test", "touch", "stat", "wc", "head", "yes", "mv",
    ] {
        tar = tar.symlink(&format!("bin/{applet}"), "busybox");
    }
    tar.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")
        .file("etc/group", 0o644, b"root:x:0:\nuser:x:1000:\n")
        .bytes()
}

pub fn image_config(layers: &[&[u8]], config: serde_json::Value) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|l| digest(l)).collect();
    serde_json::to_vec(&serde_json::json!({
        "architecture": "amd64", "os": "linux", "created": "2024-01-02T03:04:05Z", "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }))
    .expect("encodes")
}

/// A docker-archive of one image with plain layers.
pub fn docker_archive(reference: &str, layers: &[&[u8]], config: serde_json::Value) -> Vec<u8> {
    let config = image_config(layers, config);
    let mut tar = Tar::default().file("config.json", 0o644, &config);
    let mut names = Vec::new();
    for (i, l) in layers.iter().enumerate() {
        names.push(format!("l{i}/layer.tar"));
        tar = tar.file(&names[i], 0o644, l);
    }
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": [reference], "Layers": names}]);
    tar.file("manifest.json", 0o644, manifest.to_string().as_bytes()).bytes()
}

/// An OCI archive of one image; each layer as it is in the archive, and plain.
pub fn oci_archive(reference: &str, layers: &[(&[u8], &[u8])], config: serde_json::Value) -> Vec<u8> {
    let plain: Vec<&[u8]> = layers.iter().map(|(_, p)| *p).collect();
    let config = image_config(&plain, config);
    let blob = |b: &[u8]| format!("blobs/sha256/{}", &digest(b)[7..]);
    let descriptor =
        |media: &str, b: &[u8]| serde_json::json!({"mediaType": media, "digest": digest(b), "size": b.len()});
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": layers.iter().map(|(a, _)| descriptor("application/vnd.oci.image.layer.v1.tar+gzip", a)).collect::<Vec<_>>(),
    })
    .to_string();
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes());
    entry["annotations"] = serde_json::json!({"io.containerd.image.name": reference});
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
    let mut tar = Tar::default().file("oci-layout", 0o644, b"{\"imageLayoutVersion\":\"1.0.0\"}");
    for (archived, _) in layers {
        tar = tar.raw(&header(&blob(archived), archived.len()), archived);
    }
    tar.raw(&header(&blob(&config), config.len()), &config)
        .raw(&header(&blob(manifest.as_bytes()), manifest.len()), manifest.as_bytes())
        .file("index.json", 0o644, index.as_bytes())
        .bytes()
}

fn header(path: &str, size: usize) -> tar::Header {
    let mut h = tar::Header::new_gnu();
    h.set_path(path).expect("fits");
    h.set_size(size as u64);
    h.set_mode(0o644);
    h.set_cksum();
    h
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut z = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    z.write_all(bytes).expect("writing to memory");
    z.finish().expect("writing to memory")
}

/// An engine with a busybox image `bb:1` (`A=1` in its environment), on roots that go with it.
pub struct Fixture {
    pub engine: Engine,
    /// Host PIDs by name, as of the last crash.
    pub pids: std::collections::HashMap<String, u32>,
    dir: tempfile::TempDir,
}

impl Fixture {
    pub async fn new() -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Self::with(Arc::new(NoNetworks)).await
    }

    /// One whose containers have these networks.
    pub async fn with(
        networking: Arc<dyn Networking>,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let dir = tempfile::tempdir()?;
        let engine = networked(dir.path(), networking).await?;
        let archive = docker_archive("bb:1", &[&busybox()], serde_json::json!({"Env": ["A=1", "PATH=/bin"]}));
        engine.images().load(archive.as_slice()).await?;
        Ok(Self { engine, pids: Default::default(), dir })
    }

    /// Cgroup that those of its containers are in.
    pub fn cgroup_parent(&self) -> String {
        format!("skep-{}", options(self.dir.path()).instance)
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The daemon is gone: nothing supervises, nothing is tidied up. An engine on other roots stands in.
    pub async fn crash(&mut self) -> Outcome {
        self.pids = self.engine.list().iter().filter_map(|c| Some((c.name.clone(), c.pid?))).collect();
        let spare = engine(&self.dir.path().join("spare")).await?;
        let old = std::mem::replace(&mut self.engine, spare);
        old.shutdown().await;
        Ok(())
    }

    /// A new daemon on the same roots.
    pub async fn reopen(&mut self) -> Outcome {
        self.reopen_with(Arc::new(NoNetworks)).await
    }

    /// The same with networks.
    pub async fn reopen_with(&mut self, networking: Arc<dyn Networking>) -> Outcome {
        self.engine = loop {
            // The old one's threads let go of lock and file once they have seen that they are alone.
            match networked(self.dir.path(), networking.clone()).await {
                Err(skep_engine::Error::RootInUse { .. } | skep_engine::Error::Metadata { .. }) => {
                    tokio::task::yield_now().await
                }
                other => break other?,
            }
        };
        Ok(())
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        // Nothing is started again by its policy.
        let _ = futures::FutureExt::now_or_never(self.engine.shutdown());
        end_containers(self.dir.path());
    }
}

/// Shims of containers below `dir`, and what sends their logs on (true), which may wait for its receiver for long; with
/// the bundle of each.
pub fn shims(dir: &Path) -> Vec<(i32, bool, std::path::PathBuf)> {
    let of_ours = |process: std::fs::DirEntry| {
        let line = std::fs::read(process.path().join("cmdline")).ok()?;
        let bundle = line.strip_prefix(b"skep\0shim\0")?.split(|b| *b == 0).next()?;
        let bundle = std::path::PathBuf::from(String::from_utf8_lossy(bundle).into_owned());
        let sends = std::fs::read_to_string(process.path().join("comm")).ok()? == "skep-log\n";
        let pid = process.file_name().to_str()?.parse::<i32>().ok()?;
        bundle.starts_with(dir).then_some((pid, sends, bundle))
    };
    std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(of_ours).collect()
}

/// Ends all containers whose shims were started below `dir`, known to an engine or not, waits for the shims, and takes
/// the cgroup away.
pub fn end_containers(dir: &Path) {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let mut killed = std::collections::BTreeSet::new();
    loop {
        let found = shims(dir);
        if found.is_empty() || std::time::Instant::now() > deadline {
            break;
        }
        for (pid, sends, bundle) in found {
            let pids = std::fs::read_to_string(bundle.join("pids")).unwrap_or_default();
            let end = match sends {
                true => Some(pid),
                false if bundle.join("exit.json").exists() => None,
                // Without that it is being made still, for nobody any more.
                false => pids.split_whitespace().nth(1).and_then(|init| init.parse().ok()),
            };
            if let Some(end) = end.filter(|end| killed.insert((bundle, *end))) {
                let _ = kill(Pid::from_raw(end), Signal::SIGKILL);
            }
        }
        std::thread::yield_now();
    }
    // Those of engines on roots further down, too.
    let below = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
    for dir in below.chain([dir.to_owned()]) {
        let parent = format!("skep-{}", options(&dir).instance);
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        for place in hierarchies.map(|h| h.path()).chain(["/sys/fs/cgroup".into()]) {
            let _ = std::fs::remove_dir(place.join(&parent));
        }
    }
}
