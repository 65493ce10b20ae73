//! Mounts led astray: links in images and volumes at the places where something is mounted.

use std::os::unix::fs::symlink;

use skep_engine::{BindOptions, MountConfig, MountKind};

use super::{container, others};

/// Mounts a directory of the bundle.
fn bind(bundle: &crate::fixture::Bundle, from: &str, target: &str) -> MountConfig {
    MountConfig::new(MountKind::bind(bundle.path(from)), target, false)
}

#[tokio::test]
async fn what_is_hidden_stays_so_under_a_volume_of_somebody_elses_making() {
    // CVE-2025-31133, CVE-2025-52565: links in place of /dev/null and of the terminal.
    let argv = [
        "escape",
        "read:/proc/interrupts",
        "read:/proc/kcore",
        "write:/proc/sysrq-trigger",
        "write:/dev/console",
    ];
    for tty in [false, true] {
        let mut bundle = container(&argv, |s| s.tty = tty);
        std::fs::create_dir_all(bundle.path("dev")).expect("makes");
        symlink("/proc/sysrq-trigger", bundle.path("dev/null")).expect("links");
        symlink("/proc/sys/kernel/core_pattern", bundle.path("dev/console")).expect("links");
        bundle.spec.mounts = vec![bind(&bundle, "dev", "/dev")];
        match bundle.launch().await {
            // There is no terminal to be had in such a directory.
            Err(e) => assert!(tty, "{e}"),
            Ok(_) if tty => panic!("a terminal came from a directory without"),
            Ok(shim) => {
                shim.start().await.expect("started");
                assert_eq!(shim.wait().await.expect("ended").code, 0);
                let text: String = bundle.log().into_iter().map(|(_, text)| text).collect();
                let found = super::told(&text);
                assert_eq!(found["read:/proc/interrupts"], "empty", "{found:?}");
                assert!(others(&found, &["empty", "EROFS", "ENOENT"]).is_empty(), "{found:?}");
            }
        }
    }
}

#[tokio::test]
async fn nothing_is_mounted_in_proc() {
    let refused = |link: Option<&'static str>, target: &'static str| async move {
        let mut bundle = container(&["true"], |_| {});
        std::fs::create_dir_all(bundle.path("fake")).expect("makes");
        if let Some(to) = link {
            symlink(to, bundle.path("lower/data")).expect("links");
        }
        bundle.spec.mounts = vec![bind(&bundle, "fake", target)];
        bundle.launch().await.err().map(|e| e.to_string()).unwrap_or_default()
    };
    for (link, target) in [
        (None, "/proc/self/attr"),
        (None, "/proc/sys/net"),
        (Some("/proc/sys"), "/data/kernel"),
        (Some("proc/1"), "/data"),
    ] {
        let error = refused(link, target).await;
        assert!(error.contains("cannot be mounted because it is inside /proc"), "{link:?} {target}: {error}");
    }
    let error = refused(Some("/proc"), "/data").await;
    assert!(error.contains("cannot be mounted because it is not of type proc"), "{error}");

    // What only tells numbers may be covered, as LXCFS does.
    let mut bundle = container(&["cat", "/proc/uptime"], |_| {});
    std::fs::write(bundle.path("uptime"), "1.00 1.00\n").expect("writes");
    bundle.spec.mounts = vec![bind(&bundle, "uptime", "/proc/uptime")];
    assert_eq!(bundle.output().await, (0, "1.00 1.00\n".into()));
}

#[tokio::test]
async fn links_that_change_while_a_container_starts_lead_nowhere() {
    // CVE-2021-30465: a container swaps the place of another one's mount for a link to the root.
    let swap = container(
        &["sh", "-c", "cd /shared; while :; do mkdir -p at/in; rm -rf at; ln -s /outside at; rm at; done"],
        |_| {},
    );
    let outside = swap.path("outside");
    for name in ["shared", "outside", "payload"] {
        std::fs::create_dir_all(swap.path(name)).expect("makes");
    }
    std::fs::write(swap.path("payload/token"), "mine").expect("writes");
    std::fs::write(outside.join("secret"), "host").expect("writes");
    let mut swap = swap;
    swap.spec.mounts = vec![bind(&swap, "shared", "/shared")];
    let shim = swap.launch().await.expect("created");
    shim.start().await.expect("started");
    let (mut started, mut failed) = (0, 0);
    for round in 0..16 {
        // Its own /outside is another one's: nothing of the host's may appear in it.
        let mut bundle = container(&["sh", "-c", "cat /outside/secret /sub/secret; true"], |_| {});
        let subpath = BindOptions { subpath: Some("at".into()), ..BindOptions::default() };
        let through = MountKind::Bind { source: swap.path("shared"), options: subpath };
        bundle.spec.mounts = match round % 2 {
            0 => vec![bind(&swap, "shared", "/shared"), bind(&swap, "payload", "/shared/at/in")],
            _ => vec![MountConfig::new(through, "/sub", false)],
        };
        bundle.spec.cwd = if round % 2 == 0 { "/shared/at".into() } else { String::new() };
        match bundle.launch().await {
            Err(_) => failed += 1,
            Ok(shim) => {
                started += 1;
                shim.start().await.expect("started");
                shim.wait().await.expect("ended");
                let text: String = bundle.log().into_iter().map(|(_, text)| text).collect();
                assert!(!text.contains("host"), "round {round}: {text}");
            }
        }
        assert_eq!(std::fs::read_dir(&outside).expect("lists").count(), 1, "round {round}");
    }
    assert_eq!((started + failed, outside.join("secret").exists()), (16, true));
}
