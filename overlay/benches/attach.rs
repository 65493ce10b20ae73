//! How long connecting and disconnecting a container takes, one at a time and eight at once.

#[path = "../tests/lab/mod.rs"]
mod lab;

use std::time::{Duration, Instant};

use lab::{Host, ask, knock, publish, request};
use skep_overlay::DataPlane;

const TIMES: usize = 40;

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    println!("{what:<44} median {:>8.2?}  best {:>8.2?}", times[times.len() / 2], times[0]);
}

fn main() {
    let host = Host::new();
    host.run(async {
        let plane = DataPlane::start(host.options()).await.expect("data plane");
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
        let container = plane.attach(request("p0", &["bridge"])).await.expect("attach");
        lab::serve(&container.netns, 80, "p0");
        let addr = container.endpoints[0].addr;
        let start = Instant::now();
        ask(host.netns(), addr, 80).expect("answer");
        println!("first connection: {:.2?}", start.elapsed());
        knock(host.netns(), addr, 80).expect("answer");
        plane.retain(&[]).await.expect("retain");
        plane.shutdown().await;
    });
}
