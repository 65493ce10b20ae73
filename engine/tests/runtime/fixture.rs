//! A busybox root file system and throw-away containers.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use futures::StreamExt;
use skep_engine::shim::{Exec, ExecEvent, Exit, Rootfs, Shim, ShimError, ShimSpec};
use tokio::io::AsyncWriteExt;

const APPLETS: [&str; 36] = [
    "sh", "true", "false", "cat", "echo", "printf", "sleep", "id", "hostname", "mount", "umount", "unshare",
    "ls", "touch", "mkdir", "grep", "ulimit", "kill", "ps", "tr", "head", "dd", "env", "pwd", "ip", "stty",
    "tail", "wc", "seq", "readlink", "stat", "mknod", "tty", "test", "date", "chroot",
];

/// The binary that serves as the helper: the example beside this test.
pub fn helper() -> PathBuf {
    let test = std::env::current_exe().expect("a running test has a path");
    let target = test.parent().and_then(Path::parent).expect("tests are built in target/PROFILE/deps");
    let helper = target.join("examples/shim");
    assert!(helper.exists(), "{} is missing: `cargo test` builds it with the examples", helper.display());
    helper
}

fn busybox() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let found = ["/bin/busybox", "/usr/bin/busybox"].iter().map(PathBuf::from).find(|p| p.exists());
        found.expect("busybox is missing: install the Debian package busybox-static")
    })
}

/// A container in a directory of its own. Everything is removed when it is dropped.
pub struct Bundle {
    directory: tempfile::TempDir,
    /// To be changed before the launch.
    pub spec: ShimSpec,
}

impl Bundle {
    /// A container that runs `argv`.
    pub fn new(argv: &[&str]) -> Self {
        Self::below(&std::env::temp_dir(), argv)
    }

    /// The same with its files somewhere below `place`.
    pub fn below(place: &Path, argv: &[&str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let directory = tempfile::tempdir_in(place).expect("a temporary directory");
        let at = |name: &str| directory.path().join(name);
        for name in ["bundle", "upper", "work", "lower/bin", "lower/etc", "lower/tmp"] {
            std::fs::create_dir_all(at(name)).expect("a directory");
        }
        std::fs::copy(busybox(), at("lower/bin/busybox")).expect("busybox can be copied");
        for applet in APPLETS {
            std::os::unix::fs::symlink("busybox", at("lower/bin").join(applet)).expect("a link");
        }
        std::fs::write(
            at("lower/etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:Web:/srv:/bin/sh\n",
        )
        .expect("passwd");
        std::fs::write(at("lower/etc/group"), "root:x:0:\nweb:x:33:\nlogs:x:40:web\n").expect("group");
        std::fs::write(at("lower/bin/data"), "not a program\n").expect("a file");
        let id = format!("t{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let spec = ShimSpec {
            cgroup: format!("skep-test-{id}/{id}"),
            hostname: "box".into(),
            rootfs: Rootfs::Overlay {
                lowers: vec![at("lower")],
                upper: at("upper"),
                work: at("work"),
                volatile: false,
            },
            argv: argv.iter().map(|a| (*a).to_owned()).collect(),
            log_path: at("json.log"),
            id,
            ..ShimSpec::default()
        };
        Self { directory, spec }
    }

    /// A container that runs a shell script, whose errors go to stdout: between two pipes the order
    /// would be left to chance.
    pub fn script(text: &str) -> Self {
        Self::new(&["sh", "-c", &format!("exec 2>&1; {text}")])
    }

    /// A file or directory of the fixture.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Creates the container.
    pub async fn launch(&self) -> Result<Shim, ShimError> {
        Shim::launch(&helper(), &self.path("bundle"), &self.spec).await
    }

    /// Runs it to its end.
    pub async fn run(&self) -> Exit {
        let shim = self.launch().await.expect("created");
        shim.start().await.expect("started");
        shim.wait().await.expect("ended")
    }

    /// Everything logged, as (stream, text).
    pub fn log(&self) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(&self.spec.log_path).expect("a log");
        let entry = |line: &str| {
            let v: serde_json::Value = serde_json::from_str(line).expect("each line is JSON");
            let field = |name: &str| v[name].as_str().expect("a string").to_owned();
            (field("stream"), field("log"))
        };
        text.lines().map(entry).collect()
    }

    /// Runs it and returns the exit code and what it wrote to stdout and stderr together.
    pub async fn output(&self) -> (i32, String) {
        let code = self.run().await.code;
        (code, self.log().into_iter().map(|(_, text)| text).collect())
    }
}

/// Leaves a command without more input; its exit code, which is told over its own connection however soon it ends.
pub async fn ended(mut command: Exec) -> i32 {
    command.input.shutdown().await.expect("the end of its input");
    while let Some(event) = command.output.next().await {
        if let ExecEvent::Ended(exit) = event.expect("read") {
            return exit.code;
        }
    }
    panic!("its end was not told")
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let pids = std::fs::read_to_string(self.path("bundle/pids")).unwrap_or_default();
        let mut pids = pids.split_whitespace().filter_map(|p| p.parse::<i32>().ok());
        if let (Some(shim), Some(init), false) =
            (pids.next(), pids.next(), self.path("bundle/exit.json").exists())
        {
            // SAFETY: plain integers; without an exit status the container is still there.
            unsafe { libc::kill(init, libc::SIGKILL) };
            // The shim removes the cgroup before it goes.
            while Path::new(&format!("/proc/{shim}")).exists() {
                std::thread::yield_now();
            }
        }
        let parent = self.spec.cgroup.split('/').next().unwrap_or_default().to_owned();
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = std::fs::remove_dir(hierarchy.path().join(&self.spec.cgroup));
            let _ = std::fs::remove_dir(hierarchy.path().join(&parent));
        }
        let _ = std::fs::remove_dir(Path::new("/sys/fs/cgroup").join(&self.spec.cgroup));
        let _ = std::fs::remove_dir(Path::new("/sys/fs/cgroup").join(parent));
    }
}
