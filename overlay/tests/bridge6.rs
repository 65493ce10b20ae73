//! IPv6 of bridge networks on the real kernel: addresses, ways out, published ports, isolation, restarts, drift.

mod lab;
#[path = "lab/names.rs"]
mod names;
#[path = "lab/notices.rs"]
mod notices;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use lab::{Host, ask, in_order, knock, request, serve, start, up};
use notices::notices;
use skep_overlay::{Attached, BridgeSpec, DataPlane, DefaultBridge, Endpoint6, Publish};

const LOOPBACK: Ipv6Addr = Ipv6Addr::LOCALHOST;

fn six(text: &str) -> Ipv6Addr {
    text.parse().expect("address")
}

fn spec(name: &str, subnet6: &str) -> BridgeSpec {
    BridgeSpec {
        name: name.into(),
        ipv6: true,
        subnet6: Some(subnet6.parse().expect("subnet")),
        ..BridgeSpec::default()
    }
}

fn publish(host_ip: Option<&str>, host_port: u16) -> Publish {
    let host_ip = host_ip.map(|ip| ip.parse().expect("address"));
    Publish { host_ip, ..lab::publish(host_port, 80) }
}

fn place(attached: &Attached) -> &Endpoint6 {
    attached.endpoints[0].v6.as_ref().expect("an IPv6 address")
}

/// Two hosts with a link of both families.
fn pair() -> (Host, Host) {
    let (host, far) = (Host::new(), Host::new());
    host.connect(&far, "under", "10.66.0.1", "10.66.0.2");
    host.sh("ip addr add 2001:db8:66::1/64 dev under nodad");
    far.sh("ip addr add 2001:db8:66::2/64 dev under nodad");
    (host, far)
}

fn who(answer: Option<(String, String)>) -> Option<String> {
    answer.map(|a| a.0)
}

/// What a command prints in a namespace.
fn sh(netns: &Path, command: &str) -> String {
    let netns = format!("--net={}", netns.display());
    let out = std::process::Command::new("nsenter").args([&netns, "sh", "-c", command]).output().expect("sh");
    String::from_utf8_lossy(&out.stdout).into_owned()
}

#[test]
fn containers_have_an_address_a_way_out_and_only_their_own_network() {
    let (host, far) = pair();
    serve(far.netns(), 81, "far");
    host.run(async {
        let plane = start(&host).await;
        let blue = plane.create_bridge(spec("blue", "fd66:1::/64")).await.expect("blue");
        assert_eq!(blue.v6.map(|r| r.gateway), Some(six("fd66:1::1")));
        plane.create_bridge(spec("red", "fd66:2::/64")).await.expect("red");
        let a = up(&plane, request("a", &["blue"])).await;
        let b = up(&plane, request("b", &["blue"])).await;
        let c = up(&plane, request("c", &["red"])).await;
        let old = up(&plane, request("old", &["bridge"])).await;
        let expected = Endpoint6 { addr: six("fd66:1::2"), prefix_len: 64, gateway: Some(six("fd66:1::1")) };
        assert_eq!(place(&a), &expected);
        // At once, without waiting until nobody objects to the address.
        assert_eq!(ask(&a.netns, place(&b).addr, 80), Some(("b".into(), "fd66:1::2".into())));
        assert_eq!(knock(&a.netns, place(&c).addr, 80), None, "networks are apart");
        assert_eq!(who(ask(host.netns(), place(&c).addr, 80)), Some("c".into()));
        let answer = ask(&a.netns, six("2001:db8:66::2"), 81);
        assert_eq!(answer, Some(("far".into(), "2001:db8:66::1".into())), "behind the host");
        assert_eq!(knock(far.netns(), place(&a).addr, 80), None, "no way in");
        for (netns, off) in [(&a.netns, "0\n"), (&old.netns, "1\n")] {
            assert_eq!(sh(netns, "cat /proc/sys/net/ipv6/conf/eth0/disable_ipv6"), off);
        }
        assert!(old.endpoints[0].v6.is_none());
        in_order(&plane).await;
        plane.shutdown().await;
    });
}

#[test]
fn published_ports_answer_by_ipv6_without_a_proxy() {
    let (host, far) = pair();
    host.run(async {
        let plane = start(&host).await;
        plane.create_bridge(spec("blue", "fd66:1::/64")).await.expect("blue");
        let mut web = request("web", &["blue"]);
        web.ports = vec![publish(None, 8080), publish(Some("::1"), 8081), publish(Some("127.0.0.1"), 8082)];
        let web = up(&plane, web).await;
        let hosts: Vec<_> = web.ports.iter().map(|p| (p.host_ip.to_string(), p.host_port)).collect();
        let expected = [("0.0.0.0", 8080), ("::", 8080), ("::1", 8081), ("127.0.0.1", 8082)];
        assert_eq!(hosts, expected.map(|(ip, port)| (ip.to_owned(), port)));
        let other = up(&plane, request("other", &["blue"])).await;
        let here = six("2001:db8:66::1");
        let web_of = Some("web".to_owned());
        assert_eq!(who(ask(host.netns(), LOOPBACK, 8080)), web_of, "loopback");
        assert_eq!(who(ask(host.netns(), LOOPBACK, 8081)), web_of, "loopback only");
        assert_eq!(who(ask(host.netns(), here, 8080)), web_of, "own address");
        assert_eq!(
            ask(far.netns(), here, 8080),
            Some(("web".into(), "2001:db8:66::2".into())),
            "from afar, with the client's address"
        );
        assert_eq!(who(ask(&other.netns, here, 8080)), web_of, "from a neighbour");
        assert_eq!(who(ask(&web.netns, here, 8080)), web_of, "from itself");
        assert_eq!(who(ask(host.netns(), Ipv4Addr::LOCALHOST, 8080)), web_of, "IPv4 as well");
        assert_eq!(knock(far.netns(), here, 8081), None, "not from afar");
        assert_eq!(knock(host.netns(), LOOPBACK, 8082), None, "of IPv4 only");
        // Who holds a port is told apart by family, and refused on both.
        let error = {
            let mut second = request("second", &["blue"]);
            second.ports = vec![publish(Some("::"), 8080)];
            plane.attach(second).await.expect_err("taken")
        };
        assert!(
            error.to_string().ends_with("Bind for [::]:8080 failed: port is already allocated"),
            "{error}"
        );
        let _program = std::net::TcpListener::bind("[::1]:8090").expect("bind");
        let mut third = request("third", &["blue"]);
        third.ports = vec![publish(None, 8090)];
        let error = plane.attach(third.clone()).await.expect_err("another program has it");
        assert!(error.to_string().contains("failed to bind host port for [::]:8090:"), "{error}");
        std::net::TcpListener::bind("127.0.0.1:8090").expect("nothing is kept of what failed");
        third.networks[0].network = "bridge".into();
        let error = plane.attach(third).await.expect_err("also where a shim would serve it");
        assert!(error.to_string().contains("failed to bind host port for [::]:8090:"), "{error}");
        // Of IPv4 only: somebody else serves these, who finds the port free.
        let mut old = request("old", &["bridge"]);
        old.ports = vec![publish(Some("::1"), 8091), publish(None, 8092)];
        let old = up(&plane, old).await;
        let relays: Vec<_> = old.relays.iter().map(|r| (r.from.to_string(), r.to.map(|t| t.ip()))).collect();
        let to = old.endpoints[0].addr.map(IpAddr::V4);
        assert_eq!(relays, [("[::1]:8091".to_owned(), to), ("[::]:8092".to_owned(), to)]);
        std::net::TcpListener::bind("[::1]:8091").expect("left to the shim");
        assert!(std::net::TcpListener::bind("0.0.0.0:8092").is_err(), "but not that of IPv4");
        let relays: Vec<_> = web.relays.iter().map(|r| (r.from.to_string(), r.to.map(|t| t.ip()))).collect();
        let to = Some(IpAddr::V6(place(&web).addr));
        assert_eq!(
            relays,
            [("[::]:8080".to_owned(), to), ("[::1]:8081".to_owned(), to)],
            "the shim's to hold"
        );
        plane.detach("web").await.expect("detach");
        assert_eq!(knock(host.netns(), LOOPBACK, 8080), None);
        plane.shutdown().await;
    });
}

/// Who answers at the host's link-local address.
fn ask_by_link(netns: &Path, link: &str, addr: Ipv6Addr, port: u16) -> Option<String> {
    let index = sh(netns, &format!("ip -o link show {link}"));
    let scope = index.split(':').next().and_then(|n| n.parse().ok()).expect("an index");
    lab::within(netns, || {
        let to = std::net::SocketAddrV6::new(addr, port, 0, scope);
        let mut stream = std::net::TcpStream::connect_timeout(&to.into(), lab::PATIENCE).ok()?;
        let mut text = String::new();
        std::io::Read::read_to_string(&mut stream, &mut text).ok()?;
        Some(text.split(' ').next()?.to_owned())
    })
}

#[test]
fn clients_with_a_link_local_address_are_left_to_the_shim() {
    let (host, far) = pair();
    host.sh("ip addr add fe80::66/64 dev under nodad");
    far.sh("ip addr add fe80::67/64 dev under nodad");
    host.run(async {
        let plane = start(&host).await;
        plane.create_bridge(spec("blue", "fd66:1::/64")).await.expect("blue");
        let mut web = request("web", &["blue"]);
        web.ports = vec![publish(Some("::"), 8080)];
        let web = up(&plane, web).await;
        // In the shim's place.
        serve(host.netns(), 8080, "shim");
        assert_eq!(ask_by_link(far.netns(), "under", six("fe80::66"), 8080).as_deref(), Some("shim"));
        let here = six("2001:db8:66::1");
        assert_eq!(who(ask(far.netns(), here, 8080)).as_deref(), Some("web"), "by the kernel as ever");
        assert_eq!(web.relays[0].to.map(|t| t.ip()), Some(place(&web).addr.into()));
        in_order(&plane).await;
        plane.shutdown().await;
    });
}

#[test]
fn an_internal_network_has_no_way_out_and_a_quiet_one_no_neighbours() {
    let (host, far) = pair();
    serve(far.netns(), 81, "far");
    host.run(async {
        let plane = start(&host).await;
        let inner = BridgeSpec { internal: true, ..spec("inner", "fd66:3::/64") };
        plane.create_bridge(inner).await.expect("inner");
        let a = up(&plane, request("a", &["inner"])).await;
        let b = up(&plane, request("b", &["inner"])).await;
        assert_eq!(place(&a).gateway, None);
        assert_eq!(who(ask(&a.netns, place(&b).addr, 80)), Some("b".into()));
        sh(&a.netns, "ip -6 route add default via fd66:3::1");
        assert_eq!(knock(&a.netns, six("2001:db8:66::2"), 81), None, "even with a route of its own");
        let options = [("com.docker.network.bridge.enable_icc".to_owned(), "false".to_owned())];
        let quiet = BridgeSpec { options: options.into(), ..spec("quiet", "fd66:4::/64") };
        plane.create_bridge(quiet).await.expect("quiet");
        let c = up(&plane, request("c", &["quiet"])).await;
        let mut d = request("d", &["quiet"]);
        d.ports = vec![publish(None, 8080)];
        let d = up(&plane, d).await;
        assert_eq!(knock(&c.netns, place(&d).addr, 80), None, "kept apart");
        assert_eq!(who(ask(&c.netns, six("2001:db8:66::2"), 81)), Some("far".into()));
        assert_eq!(who(ask(&c.netns, six("2001:db8:66::1"), 8080)), Some("d".into()), "published");
        plane.shutdown().await;
    });
}

#[test]
fn addresses_are_chosen_or_given_and_what_cannot_be_is_refused() {
    let host = Host::new();
    host.run(async {
        let plane = start(&host).await;
        let plain = BridgeSpec { name: "any".into(), ipv6: true, ..BridgeSpec::default() };
        let any = plane.create_bridge(plain.clone()).await.expect("any");
        let range = any.v6.expect("a range");
        assert!(range.subnet.to_string().starts_with("fd") && range.subnet.len == 64, "{}", range.subnet);
        let next = plane.create_bridge(BridgeSpec { name: "next".into(), ..plain }).await.expect("next");
        assert_ne!(next.v6.map(|r| r.subnet), Some(range.subnet));
        let blue = BridgeSpec {
            gateway6: Some(six("fd66:1::fe")),
            ip_range6: Some("fd66:1::10/126".parse().expect("range")),
            aux_addresses6: [("router".to_owned(), six("fd66:1::10"))].into(),
            ..spec("blue", "fd66:1::/64")
        };
        plane.create_bridge(blue).await.expect("blue");
        let a = plane.attach(request("a", &["blue"])).await.expect("attach");
        assert_eq!((place(&a).addr, place(&a).gateway), (six("fd66:1::11"), Some(six("fd66:1::fe"))));
        let mut b = request("b", &["blue"]);
        b.networks[0].addr6 = Some(six("fd66:1::77"));
        b.networks[0].link_local = vec!["169.254.7.7".parse().expect("v4"), "fe80::7".parse().expect("v6")];
        let b = plane.attach(b).await.expect("attach");
        assert_eq!(place(&b).addr, six("fd66:1::77"));
        let shown = sh(&b.netns, "ip -o addr show dev eth0");
        for addr in ["fd66:1::77/64", "169.254.7.7/16", "fe80::7/64"] {
            assert!(shown.contains(addr), "{shown}");
        }
        in_order(&plane).await;
        let mut wrong = Vec::new();
        for (network, addr6, link_local) in [
            ("blue", Some("fd66:1::77"), None),
            ("blue", Some("fd66:2::1"), None),
            ("blue", Some("fd66:1::fe"), None),
            ("any", Some("fd66:1::9"), None),
            ("bridge", Some("fd66:1::9"), None),
            ("blue", None, Some("10.1.1.1")),
            ("bridge", None, Some("fe80::9")),
        ] {
            let mut each = request("wrong", &[network]);
            each.networks[0].addr6 = addr6.map(six);
            each.networks[0].link_local = link_local.iter().map(|a| a.parse().expect("address")).collect();
            wrong.push(plane.attach(each).await.expect_err(network).to_string());
        }
        assert!(wrong[4].contains("has no IPv6"), "{wrong:?}");
        assert!(wrong[6].contains("has no IPv6"), "{wrong:?}");
        for bad in ["fd66:1::/48", "ff02::/64", "fe80::/64", "::1/128"] {
            plane.create_bridge(spec("bad", bad)).await.expect_err(bad);
        }
        let unsaid = BridgeSpec { ipv6: false, ..spec("bad", "fd66:9::/64") };
        let error = plane.create_bridge(unsaid).await.expect_err("IPv6 is off").to_string();
        assert!(error.contains("--ipv6"), "{error}");
        plane.shutdown().await;
    });
}

/// The code of the answer to a query of type AAAA, and the address where there is one.
fn resolve(netns: &Path, name: &str) -> (u8, Option<Ipv6Addr>) {
    let (code, addr) = names::look_up::<16>(netns, name, 28);
    (code, addr.map(Ipv6Addr::from))
}

#[test]
fn running_containers_join_leave_and_find_each_other() {
    let host = Host::new();
    host.run(async {
        let plane = start(&host).await;
        plane.create_bridge(spec("blue", "fd66:1::/64")).await.expect("blue");
        let old = BridgeSpec { name: "old".into(), ..BridgeSpec::default() };
        plane.create_bridge(old).await.expect("old");
        let a = up(&plane, request("a", &["old"])).await;
        let b = up(&plane, request("b", &["blue"])).await;
        let mut join = request("", &["blue"]).networks.remove(0);
        join.addr6 = Some(six("fd66:1::99"));
        let joined = plane.connect("a", join).await.expect("connect");
        let addr = joined.endpoints[1].v6.as_ref().expect("an IPv6 address").addr;
        assert_eq!(addr, six("fd66:1::99"));
        assert_eq!(who(ask(&b.netns, addr, 80)), Some("a".into()));
        assert_eq!(resolve(&b.netns, "a-name"), (0, Some(addr)));
        assert!(sh(&a.netns, "ip -6 route show default").contains("fd66:1::1"));
        in_order(&plane).await;
        plane.disconnect("a", &joined.endpoints[1].network_id).await.expect("disconnect");
        assert_eq!(sh(&a.netns, "ip -6 route show default"), "");
        plane.attach(request("c", &["old"])).await.expect("attach");
        assert_eq!(resolve(&a.netns, "c-name"), (0, None), "it exists, and has none");
        in_order(&plane).await;
        plane.shutdown().await;
    });
}

#[test]
fn a_restart_and_drift_change_nothing_and_removal_leaves_nothing() {
    let host = Host::new();
    let list =
        "ip -o link | cut -d: -f2 | cut -d@ -f1 | sort; ip -6 addr show scope global; nft list ruleset";
    let kernel = "nft -a list ruleset; ip -o link; ip -6 addr show scope global; ip -6 route";
    let netns = host.run(async {
        let plane = start(&host).await;
        let before = host.sh(list);
        plane.create_bridge(spec("blue", "fd66:1::/64")).await.expect("blue");
        let mut web = request("web", &["blue"]);
        web.ports = vec![publish(None, 8080)];
        let web = up(&plane, web).await;
        plane.shutdown().await;
        let held = host.sh(kernel);
        assert_eq!(who(ask(host.netns(), LOOPBACK, 8080)), Some("web".into()), "no daemon needed");

        let plane = start(&host).await;
        lab::assert_same(&held, &host.sh(kernel));
        let mut second = request("second", &["blue"]);
        second.ports = vec![publish(Some("::"), 8080)];
        let error = plane.attach(second).await.expect_err("known again");
        assert!(error.to_string().contains("Bind for [::]:8080 failed"), "{error}");
        let table = format!("skep_{}", host.instance);
        let bridge = plane.inspect_bridge("blue").expect("bridge").interface;
        for breakage in [
            format!("nft delete table ip6 {table}"),
            format!("nft flush map ip6 {table} ports_any"),
            format!("nft flush map ip6 {table} loopback"),
            format!("nft add rule ip6 {table} guard accept"),
            format!("ip -6 addr flush dev {bridge} scope global"),
            format!("sysctl -qw net.ipv6.conf.{bridge}.accept_ra=1"),
            "sysctl -qw net.ipv6.conf.all.forwarding=0".to_owned(),
            format!("ip link del {bridge}"),
        ] {
            assert!(notices(&plane, &host, &breakage).await, "unseen: {breakage}");
            plane.reconcile().await.expect("reconcile");
            in_order(&plane).await;
            let answer = ask(host.netns(), LOOPBACK, 8080);
            assert_eq!(who(answer), Some("web".into()), "after {breakage}");
        }
        plane.retain(&[]).await.expect("retain");
        plane.remove_bridge("blue").await.expect("remove");
        plane.shutdown().await;
        lab::assert_same(&before, &host.sh(list));
        web.netns
    });
    assert!(!netns.exists());
}

#[test]
fn the_default_network_has_ipv6_when_the_daemon_is_told_so() {
    let host = Host::new();
    host.sh("sysctl -qw net.ipv6.conf.default.accept_ra=1; ip link add uplink type bridge");
    host.run(async {
        start(&host).await.shutdown().await;
        let subnet = Some("fd66:7::/64".parse().expect("subnet"));
        let told = skep_overlay::DataPlaneOptions {
            default_bridge: DefaultBridge { ipv6: true, fixed6: subnet, ..Default::default() },
            ..host.options()
        };
        let plane = DataPlane::start(told).await.expect("data plane");
        let a = up(&plane, request("a", &["bridge"])).await;
        assert_eq!(place(&a).addr, six("fd66:7::2"));
        assert_eq!(
            host.sh("cat /proc/sys/net/ipv6/conf/uplink/accept_ra"),
            "2\n",
            "the host still hears its routers"
        );
        in_order(&plane).await;
        plane.shutdown().await;
        let plane = start(&host).await;
        assert!(plane.inspect_bridge("bridge").expect("bridge").v6.is_some(), "a container needs it");
        plane.detach("a").await.expect("detach");
        plane.shutdown().await;
        let plane = start(&host).await;
        assert!(plane.inspect_bridge("bridge").expect("bridge").v6.is_none());
        in_order(&plane).await;
        assert_eq!(host.sh("ip -6 -o addr show scope global"), "");
        plane.shutdown().await;
    });
}
