//! What a container sees and may do.

use skep_engine::runtime;
use skep_engine::shim::NetworkNamespace;
use skep_engine::{MountConfig, MountKind, Seccomp};

use crate::fixture::Bundle;

#[tokio::test]
async fn a_container_has_namespaces_of_its_own() {
    let bundle = Bundle::script("hostname; echo $$; pwd; ls /sys/class/net; echo $HOME");
    assert_eq!(bundle.output().await, (0, "box\n1\n/\nlo\n/root\n".into()));
}

#[tokio::test]
async fn the_network_namespace_is_the_one_asked_for() {
    let link =
        |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).expect("a link").display().to_string();
    let host = link("self");
    let mut bundle = Bundle::script("readlink /proc/self/ns/net");
    bundle.spec.network = NetworkNamespace::Host;
    assert_eq!(bundle.output().await.1.trim(), host);

    let peer = Bundle::new(&["sleep", "1000"]);
    let shim = peer.launch().await.expect("created");
    let mut bundle = Bundle::script("readlink /proc/self/ns/net");
    bundle.spec.network = NetworkNamespace::Path(format!("/proc/{}/ns/net", shim.pid()).into());
    let seen = bundle.output().await.1;
    assert!(seen.trim() == link(&shim.pid().to_string()) && seen.trim() != host, "{seen}");

    bundle.spec.network = NetworkNamespace::Path("/etc/hostname".into());
    std::fs::remove_file(bundle.path("bundle/shim.sock")).expect("the old socket");
    let error = bundle.launch().await.expect_err("refused").to_string();
    assert!(error.contains("is not a network namespace"), "{error}");
}

#[tokio::test]
async fn capabilities_are_dockers() {
    let script = "grep -E '^Cap(Eff|Bnd|Inh|Amb)' /proc/self/status | tr '\\n' ' '";
    let cap =
        |v: &str| format!("CapInh:\t{:016x} CapEff:\t{v} CapBnd:\t00000000a80425fb CapAmb:\t{:016x} ", 0, 0);
    assert_eq!(Bundle::script(script).output().await.1, cap("00000000a80425fb"));
    let mut user = Bundle::script(script);
    user.spec.user = "web".into();
    assert_eq!(user.output().await.1, cap("0000000000000000"));
    let mut none = Bundle::script("grep CapBnd /proc/self/status");
    none.spec.cap_drop = vec!["ALL".into()];
    none.spec.cap_add = vec!["net_admin".into()];
    assert_eq!(none.output().await.1, "CapBnd:\t0000000000001000\n");
}

#[tokio::test]
async fn seccomp_keeps_calls_from_a_container() {
    // Even with the capability dropped names would fail; under the filter the answer is EPERM for a
    // call that needs no capability at all (a user namespace), and none without the filter.
    let mut bundle = Bundle::script(
        "unshare -U true; echo $?; grep ^Seccomp: /proc/self/status; mount -t tmpfs none /tmp; echo $?",
    );
    let (_, text) = bundle.output().await;
    assert!(text.contains("Operation not permitted") && text.contains("Seccomp:\t2"), "{text}");
    assert!(!text.contains("0\n0\n"), "{text}");
    bundle = Bundle::script("grep ^Seccomp: /proc/self/status; unshare -U true");
    bundle.spec.seccomp = Seccomp::Unconfined;
    assert_eq!(bundle.output().await, (0, "Seccomp:\t0\n".into()));
    bundle = Bundle::script("mkdir /tmp/a; mkdir /tmp/b || echo refused");
    bundle.spec.seccomp = Seccomp::Profile(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":28}]}"#.into(),
    );
    let (_, text) = bundle.output().await;
    assert!(text.contains("No space left on device") && text.contains("refused"), "{text}");
    bundle = Bundle::new(&["grep", "^NoNewPrivs", "/proc/self/status"]);
    bundle.spec.no_new_privileges = true;
    bundle.spec.user = "web".into();
    assert_eq!(bundle.output().await.1, "NoNewPrivs:\t1\n");
}

#[tokio::test]
async fn kernel_secrets_are_hidden() {
    let script = "ls /sys/firmware | wc -l; cat /proc/keys /proc/timer_list /proc/interrupts | wc -c; echo 1 > /proc/sys/kernel/core_uses_pid; touch /sys/x; \
                  mkdir /sys/fs/cgroup/x; ls /sys/fs/cgroup | grep -q . && echo groups";
    let (_, text) = Bundle::script(script).output().await;
    assert!(text.matches("0\n").count() == 2 && text.contains("groups"), "{text}");
    assert_eq!(text.matches("Read-only file system").count(), 3, "{text}");
}

#[tokio::test]
async fn devices_are_the_harmless_ones() {
    let script = "echo x > /dev/null; head -c 4 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c; \
                  mknod /tmp/mem c 1 1 && dd if=/tmp/mem of=/dev/null count=1; ls /dev/shm | wc -l";
    let (_, text) = Bundle::script(script).output().await;
    assert!(
        text.starts_with("4\n4\n") && text.contains("Operation not permitted") && text.ends_with("0\n"),
        "{text}"
    );
}

#[tokio::test]
async fn writes_stay_in_the_upper_directory() {
    let bundle = Bundle::script("echo mine > /etc/mine; echo over > /etc/passwd");
    assert_eq!(bundle.run().await.code, 0);
    assert_eq!(std::fs::read_to_string(bundle.path("upper/etc/mine")).expect("written"), "mine\n");
    assert!(!bundle.path("lower/etc/mine").exists());
    let mut fixed = Bundle::script("touch /etc/x; touch /dev/shm/y && echo shm");
    fixed.spec.read_only = true;
    let (_, text) = fixed.output().await;
    assert!(text.contains("Read-only file system") && text.contains("shm"), "{text}");
}

#[tokio::test]
async fn layers_may_be_many_and_lie_deep() {
    let mut bundle = Bundle::script("cat /layers/1 /layers/126 /etc/passwd | head -n 3; ls /layers | wc -l");
    let deep = format!("{}/{}", "d".repeat(150), "e".repeat(150));
    let mut lowers = Vec::new();
    for layer in 1..=126 {
        let at = bundle.path(&format!("{deep}/{layer}"));
        std::fs::create_dir_all(at.join("layers")).expect("a directory");
        std::fs::create_dir_all(at.join("etc")).expect("a directory");
        std::fs::write(at.join("layers").join(layer.to_string()), format!("{layer}\n")).expect("a file");
        std::fs::write(at.join("etc/passwd"), format!("user{layer}\n")).expect("a file");
        lowers.push(at);
    }
    lowers.push(bundle.path("lower"));
    let (upper, work) = (bundle.path("upper"), bundle.path("work"));
    bundle.spec.rootfs = skep_engine::shim::Rootfs::Overlay { lowers, upper, work, volatile: false };
    assert_eq!(bundle.output().await, (0, "1\n126\nuser1\n126\n".into()));
}

#[tokio::test]
async fn volumes_are_mounted_where_asked() {
    let mut bundle = Bundle::script(
        "cat /data/a; touch /data/b; touch /tmp/new/deep/x && mount | grep -c deep; cat /etc/hosts",
    );
    std::fs::create_dir(bundle.path("volume")).expect("a directory");
    std::fs::write(bundle.path("volume/a"), "content\n").expect("a file");
    std::fs::write(bundle.path("hosts"), "127.0.0.1 localhost\n").expect("a file");
    let bind = MountKind::bind(bundle.path("volume"));
    bundle.spec.mounts = vec![
        MountConfig::new(bind, "/data", true),
        MountConfig::new(MountKind::tmpfs(Some(1 << 20), None), "/tmp/new/deep", false),
    ];
    bundle.spec.host_files.hosts = Some(bundle.path("hosts"));
    let (code, text) = bundle.output().await;
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("content\n")
            && text.contains("Read-only")
            && text.ends_with("1\n127.0.0.1 localhost\n"),
        "{text}"
    );
}

#[tokio::test]
async fn links_of_an_image_do_not_lead_out() {
    let mut bundle = Bundle::script("ls /trap");
    std::os::unix::fs::symlink("/proc/self/fd", bundle.path("lower/trap")).expect("a link");
    std::os::unix::fs::symlink("/../../../../outside", bundle.path("lower/away")).expect("a link");
    bundle.spec.cwd = "/trap/3".into();
    let error = bundle.launch().await.expect_err("refused").to_string();
    assert!(error.contains("working directory"), "{error}");
    let mut bundle = Bundle::new(&["pwd"]);
    std::os::unix::fs::symlink("/etc", bundle.path("lower/proc")).expect("a link");
    bundle.spec.id.push('x');
    let error = bundle.launch().await.expect_err("refused").to_string();
    assert!(error.contains("/proc of the root file system is not a directory"), "{error}");
}

#[tokio::test]
async fn users_and_directories_are_as_asked() {
    let mut bundle = Bundle::script("id; pwd; touch x || echo no; echo via > /dev/stdout");
    bundle.spec.user = "web".into();
    bundle.spec.cwd = "/srv/made/here".into();
    let (_, text) = bundle.output().await;
    let id = "uid=33(web) gid=33(web) groups=33(web),40(logs)\n/srv/made/here\n";
    assert!(text.starts_with(id) && text.contains("no\n") && text.contains("via\n"), "{text}");
    let mut nobody = Bundle::new(&["true"]);
    nobody.spec.user = "ghost".into();
    let error = nobody.launch().await.expect_err("refused").to_string();
    assert!(error.contains("unable to find user ghost"), "{error}");
}

#[tokio::test]
async fn what_cannot_be_had_is_refused_by_name() {
    let check = |change: &dyn Fn(&mut skep_engine::shim::ShimSpec), wanted: &str| {
        let mut spec = Bundle::new(&["true"]).spec.clone();
        change(&mut spec);
        let error = runtime::validate(&spec).expect_err(wanted).to_string();
        assert!(error.contains(wanted), "{error}");
    };
    check(&|s| s.cap_add = vec!["FLY".into()], "unknown capability: \"CAP_FLY\"");
    check(&|s| drop(s.sysctls.insert("kernel.panic".into(), "1".into())), "sysctl \"kernel.panic\"");
    check(&|s| s.seccomp = Seccomp::Profile("{}".into()), "seccomp profile");
    let limit = skep_engine::UlimitConfig { name: "wings".into(), soft: 1, hard: 1 };
    check(&|s| s.ulimits = vec![limit.clone()], "unknown ulimit \"wings\"");
    let mut sysctl = Bundle::new(&["cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start"]);
    sysctl.spec.sysctls.insert("net.ipv4.ip_unprivileged_port_start".into(), "80".into());
    assert_eq!(sysctl.output().await.1, "80\n");
}

#[tokio::test]
async fn our_own_binary_cannot_be_overwritten() {
    let mut bundle = Bundle::script("readlink /proc/1/exe; cat /proc/1/comm; : > /proc/1/exe");
    bundle.spec.init = true;
    let before = std::fs::metadata(crate::fixture::helper()).expect("there").len();
    let (code, text) = bundle.output().await;
    assert!(code != 0 && text.contains("can't create"), "{text}");
    assert_eq!(std::fs::metadata(crate::fixture::helper()).expect("there").len(), before);
}
