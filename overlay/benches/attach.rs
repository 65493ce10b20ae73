//! How long connecting and disconnecting a container takes, one at a time and eight at once.

#[path = "../tests/lab/mod.rs"]
mod lab;

use std::time::{Duration, Instant};

use lab::{Host, ask, assert_same, in_order, knock, publish, request, up};

const TIMES: usize = 40;

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    println!("{what:<44} median {:>8.2?}  best {:>8.2?}", times[times.len() / 2], times[0]);
}

fn main() {
    let (host, far) = (Host::new(), Host::new());
    host.connect(&far, "under", "10.66.0.1", "10.66.0.2");
    let list = "ip -o link | cut -d: -f2; nft list ruleset";
    let before = host.sh(list);
    host.run(async {
        let plane = lab::start(&host).await;
        for (what, ports) in [("bridge", false), ("bridge, one published port", true)] {
            let (mut on, mut off) = (Vec::new(), Vec::new());
            for number in 0..TIMES {
                let id = format!("c{number}");
                let mut each = request(&id, &["bridge"]);
                each.ports = if ports { vec![publish(0, 80)] } else { Vec::new() };
                let start = Instant::now();
                plane.attach(each).await.expect("attach");
                on.push(start.elapsed());
                let start = Instant::now();
                plane.detach(&id).await.expect("detach");
                off.push(start.elapsed());
            }
            report(&format!("attach, {what}"), on);
            report(&format!("detach, {what}"), off);
        }
        let start = Instant::now();
        let all = (0..TIMES).map(|n| {
            let plane = plane.clone();
            tokio::spawn(async move { plane.attach(request(&format!("p{n}"), &["bridge"])).await })
        });
        for one in all.collect::<Vec<_>>() {
            one.await.expect("task").expect("attach");
        }
        println!("attach, {TIMES} at once: {:.2?} each", start.elapsed() / TIMES as u32);
        let mut web = request("web", &["bridge"]);
        web.ports = vec![publish(8080, 80)];
        up(&plane, web).await;
        let door = "10.66.0.1".parse::<std::net::Ipv4Addr>().expect("address");
        let start = Instant::now();
        ask(far.netns(), door, 8080).expect("answer");
        println!("first connection by a published port: {:.2?}", start.elapsed());
        knock(far.netns(), door, 8080).expect("answer");
        in_order(&plane).await;
        plane.uninstall().await.expect("uninstall");
    });
    assert_same(&before, &host.sh(list));
}
