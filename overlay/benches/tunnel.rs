//! TCP between two hosts through our userspace WireGuard, beside Debian's wireguard-go and the bare
//! link, in one run. Prints Gbit/s per round, the medians and the ratio.
//!
//! `cargo bench -p skep-overlay --bench tunnel [-- SECONDS ROUNDS]`; needs iperf3 and wireguard-go.

#[path = "../tests/wglab/mod.rs"]
mod wglab;

use std::process::{Child, Command, Stdio};

use serde_json::Value;
use wglab::{Host, Lab, must, until};
use wireguard_control::{Backend, DeviceUpdate, InterfaceName, KeyPair, PeerConfigBuilder};

fn main() {
    if let Some(status) = wglab::dispatch() {
        std::process::exit(status);
    }
    let numbers: Vec<u32> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let (seconds, rounds) = (numbers.first().copied().unwrap_or(5), numbers.get(1).copied().unwrap_or(3));
    for tool in ["iperf3", "wireguard-go"] {
        if wglab::run(&format!("command -v {tool}")).is_err() {
            must(&format!("apt-get install -y --no-install-recommends {tool}"));
        }
    }
    let mut lab = Lab::new(2);
    lab.mesh();
    let _go = WireguardGo::start(&lab);
    // Handshakes are not part of the comparison.
    for addr in ["10.66.0.2", "10.88.0.2"] {
        assert!(lab.hosts[0].pings(addr), "{addr} does not answer");
    }
    assert!(lab.hosts[0].show().iter().all(|peer| peer["handshake"] == true), "no session");
    let ways = [("bare link", "10.99.0.2"), ("wireguard-go", "10.66.0.2"), ("skep wireguard", "10.88.0.2")];
    for streams in [1, 4] {
        println!("{streams} TCP stream(s), {seconds} s a round, Gbit/s:");
        let mut rates = [const { Vec::new() }; 3];
        for _ in 0..rounds {
            for ((_, addr), rates) in ways.iter().zip(&mut rates) {
                rates.push(iperf(&lab, addr, seconds, streams));
            }
        }
        let medians: Vec<f64> = rates.iter().map(|r| median(r)).collect();
        for (((name, _), rates), median) in ways.iter().zip(&rates).zip(&medians) {
            let shown: Vec<String> = rates.iter().map(|r| format!("{r:.2}")).collect();
            println!("  {name:<16} {} median {median:.2}", shown.join(" "));
        }
        println!("  skep / wireguard-go: {:.2}", medians[2] / medians[1]);
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// Gbit/s received.
fn iperf(lab: &Lab, to: &str, seconds: u32, streams: u32) -> f64 {
    let mut server = lab.hosts[1].command("iperf3");
    let mut server =
        Process(server.args(["-s", "-1", "-J"]).stdout(Stdio::null()).spawn().expect("iperf3 server"));
    let listens = || lab.hosts[1].run("ss -Hltn sport = :5201").is_ok_and(|out| !out.trim().is_empty());
    until("iperf3 to listen", listens);
    let report = lab.hosts[0].run(&format!("iperf3 -J -c {to} -t {seconds} -P {streams}")).expect("iperf3");
    let _ = server.0.wait();
    let report: Value = serde_json::from_str(&report).expect("report");
    report["end"]["sum_received"]["bits_per_second"].as_f64().expect("rate") / 1e9
}

/// A process that ends with its owner.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The peer of the comparison: wireguard-go on both hosts, 10.66.0.N.
struct WireguardGo {
    processes: Vec<Process>,
    names: Vec<String>,
}

impl WireguardGo {
    fn start(lab: &Lab) -> Self {
        let keys = [KeyPair::generate(), KeyPair::generate()];
        let names: Vec<String> = lab.hosts.iter().map(|h| format!("g{}", h.interface)).collect();
        let mut processes = Vec::new();
        for (n, (host, name)) in lab.hosts.iter().zip(&names).enumerate() {
            let mut go = host.command("wireguard-go");
            go.args(["-f", name]).stdout(Stdio::null()).stderr(Stdio::null());
            processes.push(Process(go.spawn().expect("wireguard-go")));
            let socket = format!("/var/run/wireguard/{name}.sock");
            until("wireguard-go to serve", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
            let other = 1 - n;
            let peer = PeerConfigBuilder::new(&keys[other].public)
                .set_endpoint(format!("{}:51999", lab.hosts[other].underlay).parse().expect("endpoint"))
                .add_allowed_ip(format!("10.66.0.{}", other + 1).parse().expect("address"), 32);
            let interface: InterfaceName = name.parse().expect("name");
            let update =
                DeviceUpdate::new().set_keypair(keys[n].clone()).set_listen_port(51999).add_peer(peer);
            update.apply(&interface, Backend::Userspace).expect("configure wireguard-go");
            must(&format!(
                "ip -n {0} addr add 10.66.0.{1}/24 dev {name} && ip -n {0} link set {name} mtu 1440 up",
                host.namespace,
                n + 1
            ));
        }
        Self { processes, names }
    }
}

impl Drop for WireguardGo {
    fn drop(&mut self) {
        self.processes.clear();
        for name in &self.names {
            // Killed, it leaves its control socket behind.
            let _ = std::fs::remove_file(format!("/var/run/wireguard/{name}.sock"));
        }
    }
}

impl Host {
    /// A command to be run inside.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.namespace)).arg(program).stdin(Stdio::null());
        command
    }
}
