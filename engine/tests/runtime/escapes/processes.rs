//! Processes, keys, sockets and terminals of the host.

use std::os::linux::net::SocketAddrExt;

use skep_engine::Seccomp;
use skep_engine::shim::{Namespace, NetworkNamespace};

use super::{container, executed, others, these, tried};

#[tokio::test]
async fn processes_of_the_host_are_out_of_reach_even_where_they_are_seen() {
    // This test itself, which runs as root.
    let own = std::process::id();
    let probes: Vec<String> = ["trace:", "memory:", "descriptors:"].map(|p| format!("{p}{own}")).into();
    let files = ["environ", "maps", "exe", "cwd", "root/etc", "ns/mnt"];
    let files = files.map(|f| format!("open:/proc/{own}/{f}"));
    let probes: Vec<&str> = probes.iter().chain(&files).map(String::as_str).collect();

    let found = tried(&[&format!("kill:{own}")], |_| {}).await;
    assert!(others(&found, &["ESRCH"]).is_empty(), "{found:?}");
    let found = tried(&probes, |s| s.pid = Namespace::Host).await;
    assert!(others(&found, &["EPERM", "EACCES"]).is_empty(), "{found:?}");
    let lifted = tried(&probes, |s| {
        s.pid = Namespace::Host;
        s.cap_add = vec!["SYS_PTRACE".into()];
    });
    let lifted = lifted.await;
    assert!(these(&lifted, "EPERM").is_empty() && these(&lifted, "EACCES").is_empty(), "{lifted:?}");

    // The shim and what it makes on the way in.
    let bundle = container(&["sleep", "1000"], |s| s.pid = Namespace::Host);
    let shim = bundle.launch().await.expect("created");
    shim.start().await.expect("started");
    let pids = std::fs::read_to_string(bundle.path("bundle/pids")).expect("reads");
    let shims = pids.split(' ').next().unwrap_or_default();
    let probes = ["trace:", "memory:", "descriptors:"].map(|p| format!("{p}{shims}"));
    let probes: Vec<&str> = probes.iter().map(String::as_str).collect();
    let found = executed(&shim, &probes, "").await.expect("runs");
    assert!(others(&found, &["EPERM", "EACCES"]).is_empty() && found.len() == 3, "{found:?}");
}

#[tokio::test]
async fn keys_are_the_containers_own() {
    // SAFETY: plain integers: KEYCTL_GET_KEYRING_ID of KEY_SPEC_SESSION_KEYRING, made where there is none.
    let host = unsafe { libc::syscall(libc::SYS_keyctl, 0, -3i64, 1) }.to_string();
    let unconfined = |s: &mut skep_engine::shim::ShimSpec| s.seccomp = Seccomp::Unconfined;
    let found = tried(&["session"], unconfined).await;
    assert!(
        found["session"] != host && found["session"].parse::<u32>().is_ok(),
        "{found:?}, the host's: {host}"
    );
    let bundle = container(&["sleep", "1000"], unconfined);
    let shim = bundle.launch().await.expect("created");
    shim.start().await.expect("started");
    let found = executed(&shim, &["session"], "").await.expect("runs");
    assert!(
        found["session"] != host && found["session"].parse::<u32>().is_ok(),
        "{found:?}, the host's: {host}"
    );
}

#[tokio::test]
async fn sockets_of_the_host_are_out_of_reach() {
    let name = format!("skep-escape-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).expect("a name");
    let _listener = std::os::unix::net::UnixListener::bind_addr(&address).expect("listens");
    let probe = format!("abstract:{name}");
    assert_eq!(tried(&[&probe], |_| {}).await[&probe], "ECONNREFUSED");
    assert_eq!(tried(&[&probe], |s| s.network = NetworkNamespace::Host).await[&probe], "ok");
    // Packet sockets are Docker's too, within its own network.
    assert_eq!(tried(&["packet"], |_| {}).await["packet"], "lo");
    assert_eq!(tried(&["packet"], |s| s.cap_drop = vec!["NET_RAW".into()]).await["packet"], "EPERM");
    let lifted = tried(&["set_mtu"], |s| s.cap_add = vec!["NET_ADMIN".into()]).await;
    assert_eq!(lifted["set_mtu"], "ok");
}

#[tokio::test]
async fn no_terminal_of_the_host_is_left() {
    // A container without one has none to push characters into (TIOCSTI); with one, it is a pty of its own.
    let found = tried(&["push:/dev/tty", "open:/dev/tty"], |_| {}).await;
    assert!(others(&found, &["ENXIO"]).is_empty(), "{found:?}");
    let found = tried(&["push:/dev/tty0", "push:/dev/console"], |_| {}).await;
    assert!(others(&found, &["ENOENT"]).is_empty(), "{found:?}");
    let found = tried(&["open:/dev/tty", "open:/dev/console"], |s| s.tty = true).await;
    assert!(others(&found, &["ok"]).is_empty(), "{found:?}");
}
