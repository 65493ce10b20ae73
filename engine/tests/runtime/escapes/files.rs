//! Files of the kernel, devices, the descriptors a container starts with.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::{container, executed, others, output, privileged, these, tried};

#[tokio::test]
async fn the_kernels_files_are_not_for_writing() {
    // All there are, whatever this kernel has.
    let found = tried(&["all_writable:/proc", "all_writable:/sys"], |_| {}).await;
    assert!(others(&found, &["none"]).is_empty(), "{found:?}");
    let found = tried(
        &["read:/proc/interrupts", "read:/proc/keys", "read:/proc/timer_list", "read:/proc/kcore"],
        |_| {},
    )
    .await;
    assert!(others(&found, &["empty", "ENOENT"]).is_empty(), "{found:?}");

    let some =
        ["write:/proc/sys/kernel/core_pattern", "write:/proc/sys/vm/drop_caches", "mkdir:/sys/fs/cgroup/x"];
    let found = tried(&some, |_| {}).await;
    assert!(others(&found, &["EROFS"]).is_empty(), "{found:?}");
    let lifted = tried(&[&some[..], &["read:/proc/interrupts"]].concat(), privileged).await;
    assert!(these(&lifted, "EROFS").is_empty() && these(&lifted, "empty").is_empty(), "{lifted:?}");
}

#[tokio::test]
async fn devices_are_out_of_reach() {
    // Memory, the kernel's log, a port, a disk (7:0 is a loop device), the hypervisor, FUSE.
    let nodes = [
        "device:c:1:1",
        "device:c:1:11",
        "device:c:1:4",
        "device:b:7:0",
        "device:c:10:232",
        "device:c:10:229",
    ];
    let found = tried(&nodes, |_| {}).await;
    assert!(others(&found, &["EPERM"]).is_empty(), "{found:?}");
    // The kernel's log can be opened; of the others it says that they are not there, where they are not.
    let lifted = tried(&nodes[1..2], privileged).await;
    assert!(others(&lifted, &["ok"]).is_empty(), "{lifted:?}");
    let lifted = tried(&nodes[3..4], |s| s.device_rules = vec!["b 7:* rwm".into()]).await;
    assert!(these(&lifted, "EPERM").is_empty(), "{lifted:?}");

    assert_eq!(tried(&["raw_disks"], |_| {}).await["raw_disks"], "none");
    let disks = std::fs::read_dir("/dev").expect("lists").flatten();
    if disks.filter_map(|d| d.metadata().ok()).any(|m| m.mode() & libc::S_IFMT == libc::S_IFBLK) {
        assert_eq!(tried(&["raw_disks"], privileged).await["raw_disks"], "ok");
    }
}

#[tokio::test]
async fn nothing_of_the_host_is_left_open() {
    // A descriptor such as the daemon may have been started with. For all of this test: it cannot be given back.
    let root = std::fs::File::open("/").expect("opens");
    // SAFETY: a descriptor that is never closed.
    assert!(unsafe { libc::dup(std::os::fd::AsRawFd::as_raw_fd(&root)) } > 2);
    let found = tried(&["descriptors:self"], |_| {}).await;
    assert_eq!(found["descriptors:self"], "none");
    // The reaper is the shim's image, and stays.
    let probes = ["descriptors:1", "open:/proc/1/environ", "open:/proc/1/exe", "read:/proc/1/mem"];
    let bundle = container(&["sleep", "1000"], |s| s.init = true);
    let shim = bundle.launch().await.expect("created");
    shim.start().await.expect("started");
    let found = executed(&shim, &probes, "").await.expect("runs");
    assert!(others(&found, &["EACCES"]).is_empty() && found.len() == probes.len(), "{found:?}");
    let found = executed(&shim, &["descriptors:self"], "").await.expect("runs");
    assert_eq!(found["descriptors:self"], "none");
    // CVE-2024-21626: a working directory by way of a descriptor.
    for cwd in
        ["/proc/self/fd/3", "/proc/self/fd/7", "/proc/1/fd/7", "/proc/self/cwd/../../..", "/proc/1/root"]
    {
        let told = executed(&shim, &["read:etc/hostname"], cwd).await;
        assert!(
            told.is_err() || told.as_ref().is_ok_and(|t| t["read:etc/hostname"] == "ENOENT"),
            "{cwd}: {told:?}"
        );
    }

    // With the right to look at it there is nothing to see, and its file cannot be written.
    let bundle = container(&["sleep", "1000"], |s| {
        s.init = true;
        s.cap_add = vec!["SYS_PTRACE".into()];
    });
    let shim = bundle.launch().await.expect("created");
    shim.start().await.expect("started");
    let probes =
        ["descriptors:1", "read:/proc/1/environ", "mounted_read_only:/proc/1/exe", "reopened:/proc/1/exe"];
    let found = executed(&shim, &probes, "").await.expect("runs");
    assert_eq!(found["descriptors:1"], "none");
    assert_eq!(found["read:/proc/1/environ"], "empty");
    assert_eq!(found["mounted_read_only:/proc/1/exe"], "read-only");
    let refused = found["reopened:/proc/1/exe"].as_str();
    assert!(matches!(refused, "EROFS" | "ETXTBSY"), "{found:?}");
    let own = executed(&shim, &["mounted_read_only:/proc/self/exe"], "").await.expect("runs");
    assert_eq!(own["mounted_read_only:/proc/self/exe"], "ok", "the probe can tell");
}

#[tokio::test]
async fn a_command_that_is_the_shims_own_file_cannot_write_it() {
    // CVE-2019-5736: a script whose interpreter is /proc/self/exe runs whatever enters the container.
    let bundle = container(&["sleep", "1000"], |_| {});
    std::fs::write(bundle.path("lower/bin/trap"), "#!/proc/self/exe\n").expect("writes");
    std::fs::set_permissions(bundle.path("lower/bin/trap"), PermissionsExt::from_mode(0o755)).expect("sets");
    let shim = bundle.launch().await.expect("created");
    shim.start().await.expect("started");
    let own = std::fs::read(crate::fixture::helper()).expect("reads");
    let spec = skep_engine::shim::ExecSpec {
        id: "trap".into(),
        argv: vec!["/bin/trap".into()],
        ..Default::default()
    };
    // It runs, confined, without knowing what to do; or it does not.
    drop(output(&shim, spec).await);
    assert!(own == std::fs::read(crate::fixture::helper()).expect("reads"));
}

#[tokio::test]
async fn standard_input_is_the_containers_own() {
    let mode = || {
        let meta = std::fs::metadata("/dev/null").expect("there");
        (meta.permissions().mode(), meta.uid())
    };
    let before = mode();
    let bundle = container(
        &["sh", "-c", "escape change_stdin mode:/dev/null; chmod 606 /dev/stdin; sleep 1000"],
        |_| {},
    );
    let shim = bundle.launch().await.expect("created");
    shim.start().await.expect("started");
    // As a further command, too; and the container sees its own node changed.
    let found = executed(&shim, &["change_stdin", "mode:/dev/null"], "").await.expect("runs");
    assert_eq!((found["change_stdin"].as_str(), found["mode:/dev/null"].as_str()), ("ok", "20606 259"));
    assert_eq!(mode(), before, "the host's /dev/null is as it was");
}

#[tokio::test]
async fn no_privilege_is_gained_where_that_is_forbidden() {
    for (forbidden, expected) in [(false, "ok"), (true, "user 33")] {
        let bundle = container(&["escape", "set_user"], |s| {
            s.user = "web".into();
            s.no_new_privileges = forbidden;
        });
        let program = bundle.path("lower/bin/escape");
        std::fs::set_permissions(Path::new(&program), PermissionsExt::from_mode(0o4755)).expect("sets");
        let (_, text) = bundle.output().await;
        assert_eq!(text, format!("set_user {expected}\n"));
    }
}
