//! How bridge networks stand to the outside, on the real kernel: without IPv4, without translation, with trusted
//! interfaces, and what else their options say. Restarts, drift and removal of each.

mod lab;
#[path = "lab/names.rs"]
mod names;
#[path = "lab/notices.rs"]
mod notices;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use lab::{Host, ask, in_order, knock, request, serve, start, up};
use notices::notices;
use skep_overlay::{Attached, BridgeSpec, Error, Publish};

const MODE: &str = "com.docker.network.bridge.gateway_mode_ipv4";
const MODE6: &str = "com.docker.network.bridge.gateway_mode_ipv6";

fn spec(name: &str, subnet: &str, subnet6: &str, options: &[(&str, &str)]) -> BridgeSpec {
    fn range(text: &str) -> Option<&str> {
        Some(text).filter(|t| !t.is_empty())
    }
    BridgeSpec {
        name: name.into(),
        without_ipv4: subnet.is_empty(),
        subnet: range(subnet).map(|s| s.parse().expect("subnet")),
        ipv6: !subnet6.is_empty(),
        subnet6: range(subnet6).map(|s| s.parse().expect("subnet")),
        options: options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        ..BridgeSpec::default()
    }
}

fn publish(host_ip: Option<&str>, host_port: u16, container_port: u16) -> Publish {
    let host_ip = host_ip.map(|ip| ip.parse().expect("address"));
    Publish { host_ip, ..lab::publish(host_port, container_port) }
}

/// Two hosts with a link of both families; the far one knows the way to the containers.
fn pair() -> (Host, Host) {
    let (host, far) = (Host::new(), Host::new());
    host.connect(&far, "under", "10.66.0.1", "10.66.0.2");
    host.sh("ip addr add 2001:db8:66::1/64 dev under nodad");
    far.sh("ip addr add 2001:db8:66::2/64 dev under nodad");
    far.sh("ip route add 10.77.0.0/16 via 10.66.0.1; ip route add fd66::/16 via 2001:db8:66::1");
    (host, far)
}

fn six(text: &str) -> Ipv6Addr {
    text.parse().expect("address")
}

fn addresses(attached: &Attached) -> (IpAddr, IpAddr) {
    let place = &attached.endpoints[0];
    (place.addr.expect("IPv4").into(), place.v6.as_ref().expect("IPv6").addr.into())
}

fn who(answer: Option<(String, String)>) -> Option<String> {
    answer.map(|a| a.0)
}

fn bound(attached: &Attached) -> Vec<(String, u16)> {
    attached.ports.iter().map(|p| (p.host_ip.to_string(), p.host_port)).collect()
}

/// What a command prints in a namespace.
fn sh(netns: &Path, command: &str) -> String {
    let netns = format!("--net={}", netns.display());
    let out = std::process::Command::new("nsenter").args([&netns, "sh", "-c", command]).output().expect("sh");
    String::from_utf8_lossy(&out.stdout).into_owned()
}

const KERNEL: &str = "nft -a list ruleset; ip -o link; ip addr show scope global; ip route; ip -6 route";
const LIST: &str = "ip -o link | cut -d: -f2 | cut -d@ -f1 | sort; ip -o addr show scope global | cut -d' ' -f2-7; nft list ruleset";

#[test]
fn a_network_without_ipv4_has_ipv6_names_and_ports() {
    let (host, far) = pair();
    serve(far.netns(), 81, "far");
    host.run(async {
        let plane = start(&host).await;
        let before = host.sh(LIST);
        let made = plane.create_bridge(spec("six", "", "fd66:9::/64", &[])).await.expect("six");
        assert_eq!((made.subnet, made.gateway), (None, None));
        let mut web = request("web", &["six"]);
        web.ports = vec![publish(None, 8080, 80), publish(Some("::1"), 8081, 80)];
        let web = up(&plane, web).await;
        let other = up(&plane, request("other", &["six"])).await;
        let addr = web.endpoints[0].v6.as_ref().expect("IPv6").addr;
        assert_eq!((web.endpoints[0].addr, web.endpoints[0].gateway), (None, None));
        assert_eq!(sh(&web.netns, "ip -4 -o addr show dev eth0; ip -4 route"), "");
        assert!(!host.sh("ip -o -4 addr").contains(&made.interface), "nor has the bridge an address");
        assert_ne!(web.endpoints[0].mac, other.endpoints[0].mac);
        assert_eq!(who(ask(&other.netns, addr, 80)).as_deref(), Some("web"));
        assert_eq!(who(ask(&other.netns, six("2001:db8:66::2"), 81)).as_deref(), Some("far"), "a way out");
        assert_eq!(names::look_up(&other.netns, "web-name", 28), (0, Some(addr.octets())));
        assert_eq!(names::look_up::<4>(&other.netns, "web-name", 1), (0, None), "it has no other address");
        assert_eq!(bound(&web), [("::".to_owned(), 8080), ("::1".to_owned(), 8081)]);
        assert_eq!(who(ask(host.netns(), Ipv6Addr::LOCALHOST, 8081)).as_deref(), Some("web"));
        assert_eq!(who(ask(far.netns(), six("2001:db8:66::1"), 8080)).as_deref(), Some("web"));
        assert_eq!(knock(far.netns(), Ipv4Addr::new(10, 66, 0, 1), 8080), None, "nothing by IPv4");
        let mut four = request("four", &["six"]);
        four.ports = vec![publish(Some("127.0.0.1"), 8082, 80)];
        let error = plane.attach(four.clone()).await.expect_err("an IPv4 port").to_string();
        assert!(error.contains("which the container has not"), "{error}");
        four.ports.clear();
        four.networks[0].addr = Some(Ipv4Addr::new(10, 1, 1, 1));
        let error = plane.attach(four).await.expect_err("an IPv4 address").to_string();
        assert!(error.contains("network six has no IPv4"), "{error}");
        // In a network of IPv4 besides, it has both.
        let mut both = request("both", &["bridge", "six"]);
        both.ports = vec![publish(None, 8090, 80)];
        let both = up(&plane, both).await;
        assert_eq!(bound(&both), [("0.0.0.0".to_owned(), 8090), ("::".to_owned(), 8090)]);
        assert_eq!(who(ask(far.netns(), Ipv4Addr::new(10, 66, 0, 1), 8090)).as_deref(), Some("both"));
        assert_eq!(who(ask(far.netns(), six("2001:db8:66::1"), 8090)).as_deref(), Some("both"));
        let more = plane.connect("web", request("", &["bridge"]).networks.remove(0)).await.expect("connect");
        assert!(more.endpoints[1].addr.is_some());
        plane.disconnect("web", &more.endpoints[1].network_id).await.expect("disconnect");
        in_order(&plane).await;
        plane.shutdown().await;
        let held = host.sh(KERNEL);
        let plane = start(&host).await;
        lab::assert_same(&held, &host.sh(KERNEL));
        for breakage in [
            format!("ip -6 addr flush dev {} scope global", made.interface),
            format!("ip link del {}", made.interface),
        ] {
            assert!(notices(&plane, &host, &breakage).await, "unseen: {breakage}");
            plane.reconcile().await.expect("reconcile");
            in_order(&plane).await;
            assert_eq!(
                who(ask(host.netns(), Ipv6Addr::LOCALHOST, 8081)).as_deref(),
                Some("web"),
                "{breakage}"
            );
        }
        plane.retain(&[]).await.expect("retain");
        plane.remove_bridge("six").await.expect("remove");
        plane.shutdown().await;
        lab::assert_same(&before, &host.sh(LIST));
    });
}

#[test]
fn a_network_has_one_family_at_least_and_nothing_of_the_other() {
    let (host, _far) = pair();
    host.run(async {
        let plane = start(&host).await;
        let neither = spec("neither", "", "", &[]);
        let error = plane.create_bridge(neither).await.expect_err("neither");
        assert_eq!(error.to_string(), "IPv4 or IPv6 must be enabled");
        let range = BridgeSpec { without_ipv4: true, ..spec("bad", "10.77.1.0/24", "fd66:1::/64", &[]) };
        let error = plane.create_bridge(range).await.expect_err("a range of IPv4").to_string();
        assert!(error.contains("--ipv4=false"), "{error}");
        let by_option = BridgeSpec {
            without_ipv4: false,
            ..spec("six", "", "fd66:1::/64", &[("com.docker.network.enable_ipv4", "false")])
        };
        assert_eq!(plane.create_bridge(by_option).await.expect("by the option").subnet, None);
        // On an interface of the host it is the same.
        let direct = BridgeSpec {
            driver: skep_overlay::LocalDriver::Macvlan,
            ..spec("direct", "", "fd66:2::/64", &[("parent", "under")])
        };
        plane.create_bridge(direct).await.expect("direct");
        let a = up(&plane, request("a", &["direct"])).await;
        let b = up(&plane, request("b", &["direct"])).await;
        assert_eq!(a.endpoints[0].addr, None);
        let addr = b.endpoints[0].v6.as_ref().expect("IPv6").addr;
        assert_eq!(who(ask(&a.netns, addr, 80)).as_deref(), Some("b"));
        in_order(&plane).await;
        plane.shutdown().await;
    });
}

#[test]
fn routed_networks_are_reached_by_published_ports_of_their_own_addresses() {
    let (host, far) = pair();
    serve(far.netns(), 81, "far");
    host.run(async {
        let plane = start(&host).await;
        let before = host.sh(LIST);
        let routed = [(MODE, "routed"), (MODE6, "routed")];
        let made = plane
            .create_bridge(spec("routed", "10.77.1.0/24", "fd66:1::/64", &routed))
            .await
            .expect("routed");
        plane.create_bridge(spec("plain", "10.77.2.0/24", "fd66:2::/64", &[])).await.expect("plain");
        let inner = BridgeSpec { internal: true, ..spec("inner", "10.77.3.0/24", "fd66:3::/64", &[]) };
        plane.create_bridge(inner).await.expect("inner");
        let mut web = request("web", &["routed"]);
        web.ports = vec![publish(None, 8080, 80), publish(Some("127.0.0.1"), 8080, 80)];
        let web = up(&plane, web).await;
        serve(&web.netns, 82, "unpublished");
        let open = |ip: &str| (ip.to_owned(), 0);
        assert_eq!(bound(&web), [open("0.0.0.0"), open("::"), open("0.0.0.0")], "no port of the host");
        std::net::TcpListener::bind("0.0.0.0:8080").expect("free");
        let mut again = request("again", &["routed"]);
        again.ports = vec![publish(None, 8080, 80)];
        up(&plane, again).await;
        let plain = up(&plane, request("plain", &["plain"])).await;
        let inner = up(&plane, request("inner", &["inner"])).await;
        sh(&inner.netns, "ip route add default via 10.77.3.1; ip -6 route add default via fd66:3::1");
        let (four, six_) = addresses(&web);
        for (addr, client, home) in [
            (four, "10.66.0.2", IpAddr::from([10, 66, 0, 2])),
            (six_, "2001:db8:66::2", IpAddr::V6(six("2001:db8:66::2"))),
        ] {
            let from_afar = Some(("web".to_owned(), client.to_owned()));
            assert_eq!(ask(far.netns(), addr, 80), from_afar, "published");
            assert_eq!(knock(far.netns(), addr, 82), None, "not published");
            assert_eq!(who(ask(&plain.netns, addr, 80)).as_deref(), Some("web"), "from another network");
            assert_eq!(knock(&plain.netns, addr, 82), None, "not published");
            assert_eq!(knock(&inner.netns, addr, 80), None, "from an internal network");
            assert_eq!(who(ask(host.netns(), addr, 82)).as_deref(), Some("unpublished"), "from the host");
            // Out with its own address.
            let out = ask(&web.netns, home, 81);
            assert_eq!(out, Some(("far".to_owned(), addr.to_string())));
        }
        assert_eq!(knock(host.netns(), Ipv4Addr::LOCALHOST, 8080), None, "nothing of the host's");
        in_order(&plane).await;
        plane.shutdown().await;
        let held = host.sh(KERNEL);
        assert_eq!(who(ask(far.netns(), four, 80)).as_deref(), Some("web"), "no daemon needed");
        let plane = start(&host).await;
        lab::assert_same(&held, &host.sh(KERNEL));
        let table = format!("skep_{}", host.instance);
        for breakage in [
            format!("nft flush set ip {table} opened"),
            format!("nft flush set ip6 {table} opened"),
            format!("nft delete table ip {table}"),
            format!("ip link del {}", made.interface),
        ] {
            assert!(notices(&plane, &host, &breakage).await, "unseen: {breakage}");
            plane.reconcile().await.expect("reconcile");
            in_order(&plane).await;
            for addr in [four, six_] {
                assert_eq!(who(ask(far.netns(), addr, 80)).as_deref(), Some("web"), "after {breakage}");
            }
        }
        plane.detach("web").await.expect("detach");
        in_order(&plane).await;
        plane.retain(&[]).await.expect("retain");
        for network in ["routed", "plain", "inner"] {
            plane.remove_bridge(network).await.expect("remove");
        }
        plane.shutdown().await;
        lab::assert_same(&before, &host.sh(LIST));
    });
}

#[test]
fn a_network_may_be_routed_by_one_family_and_translated_by_the_other() {
    let (host, far) = pair();
    host.run(async {
        let plane = start(&host).await;
        plane
            .create_bridge(spec("mixed", "10.77.1.0/24", "fd66:1::/64", &[(MODE6, "routed")]))
            .await
            .expect("mixed");
        let mut web = request("web", &["mixed"]);
        web.ports = vec![publish(None, 8080, 80), publish(Some("::"), 0, 81)];
        let web = up(&plane, web).await;
        // As Docker's manual has it.
        let expected = [("0.0.0.0".to_owned(), 8080), ("::".to_owned(), 0), ("::".to_owned(), 0)];
        assert_eq!(bound(&web), expected);
        let (four, six_) = addresses(&web);
        assert_eq!(who(ask(far.netns(), Ipv4Addr::new(10, 66, 0, 1), 8080)).as_deref(), Some("web"));
        assert_eq!(knock(far.netns(), four, 80), None, "not at its own address of IPv4");
        assert_eq!(who(ask(far.netns(), six_, 80)).as_deref(), Some("web"));
        assert_eq!(knock(far.netns(), six("2001:db8:66::1"), 8080), None, "not at the host's of IPv6");
        assert!(web.relays.is_empty());
        in_order(&plane).await;
        plane.shutdown().await;
    });
}

#[test]
fn trusted_interfaces_chosen_sources_and_names() {
    let (host, far) = pair();
    let near = Host::new();
    host.connect(&near, "inside", "10.67.0.1", "10.67.0.2");
    near.sh("ip route add 10.77.0.0/16 via 10.67.0.1");
    host.sh("ip addr add 10.66.0.9/24 dev under; ip addr add 2001:db8:66::9/64 dev under nodad");
    serve(far.netns(), 81, "far");
    host.run(async {
        let plane = start(&host).await;
        let options = [
            ("com.docker.network.bridge.trusted_host_interfaces", "inside:absent.1"),
            ("com.docker.network.host_ipv4", "10.66.0.9"),
            ("com.docker.network.host_ipv6", "2001:db8:66::9"),
            ("com.docker.network.container_iface_prefix", "net"),
            ("com.docker.network.bridge.default_bridge", "false"),
            ("org.example.colour", "blue"),
        ];
        let made = spec("blue", "10.77.1.0/24", "fd66:1::/64", &options);
        assert_eq!(skep_overlay::unknown_options(&made), ["org.example.colour"]);
        let made = plane.create_bridge(made).await.expect("blue");
        assert_eq!(made.options.get("org.example.colour").map(String::as_str), Some("blue"), "it is shown");
        let mut web = request("web", &["blue", "bridge"]);
        web.ports = vec![publish(Some("127.0.0.1"), 8080, 80)];
        let web = up(&plane, web).await;
        serve(&web.netns, 82, "unpublished");
        let (four, _) = addresses(&web);
        assert_eq!(sh(&web.netns, "ls /proc/sys/net/ipv4/conf"), "all\ndefault\neth0\nlo\nnet0\n");
        assert_eq!(who(ask(near.netns(), four, 80)).as_deref(), Some("web"), "trusted");
        assert_eq!(knock(near.netns(), four, 82), None, "with what is published alone");
        assert_eq!(knock(far.netns(), four, 80), None, "not trusted");
        assert_eq!(
            ask(&web.netns, Ipv4Addr::new(10, 66, 0, 2), 81).map(|a| a.1).as_deref(),
            Some("10.66.0.9")
        );
        assert_eq!(
            ask(&web.netns, six("2001:db8:66::2"), 81).map(|a| a.1).as_deref(),
            Some("2001:db8:66::9")
        );
        in_order(&plane).await;
        // The host stays out of a range where somebody else is the gateway.
        let mut quiet =
            spec("quiet", "10.77.2.0/24", "", &[("com.docker.network.bridge.inhibit_ipv4", "true")]);
        quiet.aux_addresses = [("DefaultGatewayIPv4".to_owned(), Ipv4Addr::new(10, 77, 2, 9))].into();
        let quiet = plane.create_bridge(quiet).await.expect("quiet");
        let a = up(&plane, request("a", &["quiet"])).await;
        assert_eq!(a.endpoints[0].gateway, Some(Ipv4Addr::new(10, 77, 2, 9)));
        assert!(sh(&a.netns, "ip route show default").contains("via 10.77.2.9"));
        assert!(!host.sh("ip -o -4 addr").contains(&quiet.interface));
        in_order(&plane).await;
        host.sh(&format!("ip addr add 10.77.2.9/24 dev {}", quiet.interface));
        plane.reconcile().await.expect("reconcile");
        assert_eq!(
            who(ask(&a.netns, Ipv4Addr::new(10, 66, 0, 2), 81)).as_deref(),
            Some("far"),
            "by that gateway"
        );
        let second = spec("second", "", "", &[("com.docker.network.bridge.default_bridge", "true")]);
        let second = BridgeSpec { without_ipv4: false, ..second };
        let error = plane.create_bridge(second).await.expect_err("there is one");
        assert!(matches!(&error, Error::Forbidden(words) if words.contains("same bridge name")), "{error}");
        plane.shutdown().await;
    });
}
