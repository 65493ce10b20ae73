//! The runs: random histories, and a few failures looked at closely.

use std::time::Duration;

use rand::Rng;
use skep_proto::v1::{NodeAvailability, NodeRole, UpdateState};

use crate::batch;
use crate::client::{Ask, RETURNS, Want};
use crate::cluster::Cluster;
use crate::job;
use crate::members::Lock;
use crate::scaled;

/// Plays one run to its end; returns its digest.
pub fn play(scenario: &str, seed: u64) -> u64 {
    let run = format!("{scenario}:{seed}");
    let mut cluster = match scenario {
        "history" => history(&run, seed),
        "leader" => leader_dies_in_an_update(&run, seed),
        "worker" => worker_cut_off(&run, seed),
        "quorum" => quorum_lost(&run, seed),
        "skew" => clocks_apart(&run, seed),
        "root" => root_replaced(&run, seed),
        "cron" => job_by_schedule(&run, seed),
        "spread" => spread_evenly(&run, seed),
        "load" => scaled_by_use(&run, seed),
        "roles" => roles_changed(&run, seed),
        "lock" => locked_and_unlocked(&run, seed),
        "back" => updates_that_fail(&run, seed),
        "batch" => a_job_to_its_end(&run, seed),
        other => {
            panic!(
                "there is no scenario {other}: history, leader, worker, quorum, skew, root, cron, spread, load, \
                 roles, lock, back or batch"
            )
        }
    };
    cluster.pass(Duration::from_millis(100));
    cluster.hash()
}

const MINUTES: i64 = 60_000;

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Users and failures at random.
fn history(run: &str, seed: u64) -> Cluster {
    let mut c = Cluster::form(run, seed, 3, 2);
    let hosts = c.nodes.len();
    for i in 0..hosts {
        let off = c.rng.random_range(-5 * MINUTES..5 * MINUTES);
        c.skew(i, off);
        c.nodes[i].containers.set_failing(true);
    }
    let mut services = 0;
    let end = c.now() + Duration::from_secs(40);
    while c.now() < end {
        let pause = c.rng.random_range(20..500);
        c.pass(millis(pause));
        let (i, j) = (c.rng.random_range(0..hosts), c.rng.random_range(0..hosts));
        match c.rng.random_range(0..100) {
            0..55 => ask_something(&mut c, &mut services),
            55..57 => c.rotate_root(),
            57..63 => c.crash(i),
            63..65 => c.power_cut(i),
            65..77 => c.start(i),
            77..80 => c.isolate(i),
            80..83 => {
                let side: Vec<usize> = (0..hosts).filter(|_| c.rng.random_bool(0.5)).collect();
                let other: Vec<usize> = (0..hosts).filter(|i| !side.contains(i)).collect();
                c.cut(&side, &other);
            }
            83..85 if i != j => c.cut_one_way(&[i], &[j]),
            85..87 if i != j => c.hold(i, j),
            87..89 => {
                let rate = if c.rng.random_bool(0.5) { 0.002 } else { 0.0 };
                c.lose(rate);
            }
            89..93 => c.heal(),
            // The founder stays, so that there is always somewhere to go.
            93..96 if i != 0 => c.make(i, NodeAvailability::Drain),
            96..98 => c.make(i, NodeAvailability::Active),
            98..100 => {
                let off = c.rng.random_range(-5 * MINUTES..5 * MINUTES);
                c.skew(i, off);
            }
            _ => {}
        }
    }
    c.mend();
    c.converge(Duration::from_secs(120));
    c
}

fn ask_something(c: &mut Cluster, services: &mut u64) {
    let Some(at) = c.some_manager() else { return };
    let service = format!("s{}", c.rng.random_range(0..(*services).max(1)));
    let ask = match c.rng.random_range(0..11) {
        0..3 if *services < 6 => {
            let want = Want { replicas: c.rng.random_range(0..6), image: 0 };
            let name = format!("s{services}");
            *services += 1;
            return c.ask(at, &name, Ask::Create(want));
        }
        0..5 => Ask::Image(c.rng.random_range(1..1000)),
        5..8 => Ask::Scale(c.rng.random_range(0..8)),
        8 => Ask::Rollback,
        _ => Ask::Remove,
    };
    if *services > 0 {
        c.ask(at, &service, ask);
    }
}

/// A service that runs.
fn deploy(c: &mut Cluster, replicas: u64) {
    let leader = c.settled_leader();
    c.ask(leader, "web", Ask::Create(Want { replicas, image: 1 }));
    c.converge(Duration::from_secs(30));
}

/// The leader dies in the middle of a rolling update, and comes back later.
fn leader_dies_in_an_update(run: &str, seed: u64) -> Cluster {
    let mut c = Cluster::form(run, seed, 3, 1);
    deploy(&mut c, 6);
    let leader = c.settled_leader();
    c.ask((leader + 1) % 3, "web", Ask::Image(2));
    let wait = c.rng.random_range(50..3000);
    c.pass(millis(wait));
    if c.rng.random_bool(0.5) {
        c.crash(leader)
    } else {
        c.isolate(leader)
    }
    let wait = c.rng.random_range(2000..15_000);
    c.pass(millis(wait));
    c.mend();
    c.converge(Duration::from_secs(60));
    c
}

/// A worker is cut off for long enough to be replaced, goes on meanwhile, and comes back.
fn worker_cut_off(run: &str, seed: u64) -> Cluster {
    let mut c = Cluster::form(run, seed, 3, 2);
    deploy(&mut c, 10);
    let worker = 4;
    let runs =
        |c: &Cluster, i: usize| c.nodes[i].containers.all().values().filter(|k| k.runs(c.now())).count();
    let before = runs(&c, worker);
    if before == 0 {
        c.fail("the worker has no task: nothing is tested");
    }
    c.isolate(worker);
    c.until("replaced", Duration::from_secs(20), |c| {
        let elsewhere: usize = (0..4).map(|i| runs(c, i)).sum();
        if elsewhere == 10 { Ok(()) } else { Err(format!("{elsewhere} run elsewhere")) }
    });
    if runs(&c, worker) != before {
        c.fail("a worker that is cut off must go on");
    }
    if c.rng.random_bool(0.5) {
        c.crash(worker);
        c.pass(millis(500));
        c.start(worker);
        c.pass(millis(2000));
        if runs(&c, worker) != before {
            c.fail("a daemon that starts without a manager must take its containers up");
        }
    }
    c.mend();
    c.converge(Duration::from_secs(40));
    c
}

/// Two managers of three are gone: writes fail in time and say so, reads say that they may be stale, and what runs
/// goes on.
fn quorum_lost(run: &str, seed: u64) -> Cluster {
    let mut c = Cluster::form(run, seed, 3, 1);
    deploy(&mut c, 4);
    let left = c.rng.random_range(0..3);
    for i in (0..3).filter(|i| *i != left) {
        if c.rng.random_bool(0.5) { c.crash(i) } else { c.isolate(i) }
    }
    c.pass(millis(3000));
    let answers = c.record.answers().len();
    c.ask(left, "more", Ask::Create(Want { replicas: 1, image: 1 }));
    c.ask(left, "web", Ask::Scale(7));
    // The client checks that no answer takes more than five seconds.
    c.pass(millis(8000));
    let answers = c.record.answers().split_off(answers);
    if answers.len() != 2 {
        c.fail(&format!("two requests, but the answers {answers:?}"));
    }
    for answer in &answers {
        if answer.written || !answer.told.contains("no leader") {
            c.fail(&format!("without a quorum somebody was told {answer:?}"));
        }
        if answer.service == "web" && answer.stale != Some(true) {
            c.fail(&format!("a read without a quorum must say that it may be stale: {answer:?}"));
        }
    }
    let running = c.nodes.iter().flat_map(|n| n.containers.all().into_values()).filter(|k| k.runs(c.now()));
    if running.count() != 4 {
        c.fail("what runs must go on without a quorum");
    }
    c.mend();
    c.converge(Duration::from_secs(60));
    c
}

/// The leader's clock is minutes ahead of the others', and it dies while a task waits for its restart: the next
/// leader must not make it wait for those minutes.
fn clocks_apart(run: &str, seed: u64) -> Cluster {
    let mut c = Cluster::form(run, seed, 3, 1);
    let leader = c.settled_leader();
    for i in 0..4 {
        c.skew(i, if i == leader { 5 * MINUTES } else { -5 * MINUTES });
    }
    deploy(&mut c, 8);
    let worker = 3;
    for _ in 0..3 {
        if c.nodes[worker].containers.kill_one(1).is_none() {
            c.fail("the worker has no task: nothing is tested");
        }
        let wait = c.rng.random_range(150..900);
        c.pass(millis(wait));
        let leader = c.settled_leader();
        c.crash(leader);
        c.pass(millis(4000));
        c.start(leader);
        c.converge(Duration::from_secs(30));
    }
    c
}

/// The root is replaced while hosts die, are cut off and come back, the leader among them; another one is asked for
/// before that is over. In the end every node has a certificate of the last one.
fn root_replaced(run: &str, seed: u64) -> Cluster {
    let mut c = Cluster::form(run, seed, 3, 2);
    deploy(&mut c, 4);
    for _ in 0..3 {
        c.rotate_root();
        let wait = c.rng.random_range(0..1500);
        c.pass(millis(wait));
        let leader = c.settled_leader();
        let i = if c.rng.random_bool(0.5) { leader } else { c.rng.random_range(0..5) };
        match c.rng.random_range(0..3) {
            0 => c.crash(i),
            1 => c.isolate(i),
            _ => c.power_cut(i),
        }
        let wait = c.rng.random_range(500..8000);
        c.pass(millis(wait));
        if c.rng.random_bool(0.5) {
            c.rotate_root();
            let wait = c.rng.random_range(0..2000);
            c.pass(millis(wait));
        }
        c.mend();
        c.converge(Duration::from_secs(60));
    }
    c
}

/// A job is due every minute while leaders die, also at that very moment, and clocks are apart: every run is begun once,
/// and comes to its end.
fn job_by_schedule(run: &str, seed: u64) -> Cluster {
    let mut c = Cluster::form(run, seed, 3, 1);
    for i in 0..4 {
        let off = c.rng.random_range(-20_000..20_000);
        c.skew(i, off);
    }
    c.make_job();
    let complete = |c: &Cluster| job::complete(&c.view());
    c.until("begun", Duration::from_secs(130), |c| match complete(c)? {
        0 => Err("no run yet".into()),
        _ => Ok(()),
    });
    for _ in 0..2 {
        let wait = c.rng.random_range(20_000..60_000);
        c.pass(millis(wait));
        let leader = c.settled_leader();
        c.crash(leader);
        let wait = c.rng.random_range(1000..15_000);
        c.pass(millis(wait));
        c.start(leader);
    }
    let before = complete(&c).unwrap_or_else(|e| c.fail(&e));
    c.until("begun again", Duration::from_secs(100), |c| match complete(c)? {
        now if now > before => Ok(()),
        now => Err(format!("{now} runs are complete, as before")),
    });
    c.converge(Duration::from_secs(60));
    c
}

/// A worker that was gone is back, and the tasks are spread over it again, while leaders die in the middle of the moves: no
/// replica is missing meanwhile, and it comes to an end.
fn spread_evenly(run: &str, seed: u64) -> Cluster {
    const REPLICAS: u64 = 9;
    let mut c = Cluster::form(run, seed, 3, 1);
    deploy(&mut c, REPLICAS);
    c.even_out("web");
    c.converge(Duration::from_secs(30));
    let spread = |c: &Cluster| {
        let running = |n: &std::sync::Arc<crate::node::Node>| {
            n.containers.all().values().filter(|k| k.runs(c.now()) && !k.stopping).count()
        };
        c.nodes.iter().map(running).collect::<Vec<_>>()
    };
    let worker = 3;
    c.isolate(worker);
    c.until("replaced", Duration::from_secs(20), |c| {
        let elsewhere: usize = spread(c)[..worker].iter().sum();
        if elsewhere == REPLICAS as usize { Ok(()) } else { Err(format!("{elsewhere} run elsewhere")) }
    });
    c.heal();
    // Its own old tasks have stopped once it was told.
    c.until("told", Duration::from_secs(30), |c| {
        let all: usize = spread(c).iter().sum();
        if all <= REPLICAS as usize + 1 { Ok(()) } else { Err(format!("{all} run")) }
    });
    let whole = |c: &Cluster| match spread(c).iter().sum::<usize>() {
        n if n >= REPLICAS as usize => {}
        n => c.fail(&format!("{n} of {REPLICAS} replicas run while tasks are moved")),
    };
    for _ in 0..2 {
        for _ in 0..c.rng.random_range(1..40) {
            c.pass(millis(50));
            whole(&c);
        }
        let leader = c.settled_leader();
        c.crash(leader);
        for _ in 0..60 {
            c.pass(millis(50));
            whole(&c);
        }
        c.start(leader);
    }
    let even = |c: &Cluster| {
        let spread = spread(c);
        let (most, least) = (spread.iter().max(), spread.iter().min());
        let near = most.zip(least).is_some_and(|(most, least)| most - least <= 1);
        if near { Ok(()) } else { Err(format!("{spread:?} tasks run on the nodes")) }
    };
    let end = c.now() + Duration::from_secs(120);
    while let Err(why) = even(&c) {
        c.pass(millis(50));
        whole(&c);
        if c.now() > end {
            c.fail(&why);
        }
    }
    c.converge(Duration::from_secs(60));
    if let Err(why) = even(&c) {
        c.fail(&format!("it did not stay even: {why}"));
    }
    c
}

/// Tasks become busy and idle again while leaders die: the replicas follow, within their bounds.
fn scaled_by_use(run: &str, seed: u64) -> Cluster {
    let mut c = Cluster::form(run, seed, 3, 1);
    c.make_scaled();
    let (least, most) = scaled::BOUNDS;
    let limit = Duration::from_secs(180);
    let has = |wanted: u64| {
        move |c: &Cluster| match scaled::replicas(&c.view())? {
            now if now < least || now > most => c.fail(&format!("{now} replicas are out of bounds")),
            now if now == wanted => Ok(()),
            now => Err(format!("{now} replicas")),
        }
    };
    c.until("made", limit, has(least));
    for (processors, wanted) in [(1.0, most), (0.5, most), (0.0, least)] {
        c.load(processors);
        let wait = c.rng.random_range(0..15_000);
        c.pass(millis(wait));
        let leader = c.settled_leader();
        c.crash(leader);
        let wait = c.rng.random_range(1000..6000);
        c.pass(millis(wait));
        c.start(leader);
        c.until("scaled", limit, has(wanted));
    }
    c.converge(Duration::from_secs(60));
    c
}

/// Something happens to a host, and for how long it lasts.
fn strike(c: &mut Cluster, i: usize) {
    match c.rng.random_range(0..3) {
        0 => c.crash(i),
        1 => c.isolate(i),
        _ => c.power_cut(i),
    }
    let wait = c.rng.random_range(300..6000);
    c.pass(millis(wait));
}

/// Workers become managers and managers workers, the leader among them, while hosts are struck and the root is replaced:
/// the swarm never lacks its quorum for good, and in the end everyone has the role, and a certificate for it, that users
/// were told.
fn roles_changed(run: &str, seed: u64) -> Cluster {
    let mut c = Cluster::form(run, seed, 3, 2);
    deploy(&mut c, 4);
    for _ in 0..3 {
        let pick = |c: &mut Cluster, manages: bool| {
            let of: Vec<usize> = (0..c.nodes.len()).filter(|i| c.nodes[*i].manages() == manages).collect();
            of[c.rng.random_range(0..of.len())]
        };
        if c.rng.random_bool(0.5) {
            c.rotate_root();
        }
        let up = pick(&mut c, false);
        c.give_role(up, NodeRole::Manager);
        let struck = c.rng.random_range(0..c.nodes.len());
        let wait = c.rng.random_range(0..1500);
        c.pass(millis(wait));
        strike(&mut c, struck);
        c.mend();
        c.converge(Duration::from_secs(90));
        if c.rng.random_bool(0.5) {
            c.rotate_root();
        }
        let leader = c.settled_leader();
        let down = if c.rng.random_bool(0.5) { leader } else { pick(&mut c, true) };
        c.give_role(down, NodeRole::Worker);
        let struck = c.rng.random_range(0..c.nodes.len());
        let wait = c.rng.random_range(0..1500);
        c.pass(millis(wait));
        strike(&mut c, struck);
        c.mend();
        c.converge(Duration::from_secs(90));
    }
    c
}

/// The swarm is locked and unlocked and its key changes while managers die and come back: each is opened by a key that the
/// swarm has had, and in the end every disk is sealed as the swarm says.
fn locked_and_unlocked(run: &str, seed: u64) -> Cluster {
    let mut c = Cluster::form(run, seed, 3, 1);
    deploy(&mut c, 4);
    c.lock(Lock::On);
    for _ in 0..5 {
        let wait = c.rng.random_range(0..1000);
        c.pass(millis(wait));
        let struck = c.rng.random_range(0..3);
        strike(&mut c, struck);
        let lock = match c.rng.random_range(0..4) {
            0 => Lock::Off,
            1 => Lock::On,
            _ => Lock::Rotate,
        };
        c.lock(lock);
        let wait = c.rng.random_range(0..3000);
        c.pass(millis(wait));
        c.mend();
        c.converge(Duration::from_secs(60));
    }
    c
}

/// An update to what comes to a bad end goes back by itself, whoever leads, and the healthy tasks are there again.
fn updates_that_fail(run: &str, seed: u64) -> Cluster {
    let mut c = Cluster::form(run, seed, 3, 1);
    let good = Want { replicas: 6, image: 1 };
    let leader = c.settled_leader();
    c.ask(leader, RETURNS, Ask::Create(good));
    c.converge(Duration::from_secs(30));
    for _ in 0..2 {
        let asked = c.record.answers().len();
        let leader = c.settled_leader();
        c.ask(leader, RETURNS, Ask::Image(666));
        c.until("acknowledged", Duration::from_secs(10), |c| match c.record.answers().get(asked) {
            Some(answer) if answer.written => Ok(()),
            other => Err(format!("{other:?}")),
        });
        // What was acknowledged fails, and the swarm goes back.
        c.record.stranger(RETURNS, good);
        let wait = c.rng.random_range(0..4000);
        c.pass(millis(wait));
        let leader = c.settled_leader();
        strike(&mut c, leader);
        c.mend();
        c.until("rolled back", Duration::from_secs(90), |c| {
            let view = c.view();
            let service = view.service_by_name(RETURNS).ok_or("it is gone")?;
            let state = service.update_status.as_ref().map(|u| u.state());
            let is = crate::client::want_of(service);
            let back = state == Some(UpdateState::RollbackCompleted) && is == good;
            if back { Ok(()) } else { Err(format!("{is:?} {state:?}")) }
        });
        c.converge(Duration::from_secs(60));
    }
    c
}

/// A job goes on to its end while its containers fail, leaders die and a worker is cut off.
fn a_job_to_its_end(run: &str, seed: u64) -> Cluster {
    let mut c = Cluster::form(run, seed, 3, 2);
    for node in &c.nodes {
        node.containers.set_failing(true);
    }
    c.make_batch();
    let complete = |c: &Cluster| batch::complete(&c.view());
    c.until("made", Duration::from_secs(20), |c| complete(c).map(drop));
    for _ in 0..3 {
        let wait = c.rng.random_range(500..4000);
        c.pass(millis(wait));
        let leader = c.settled_leader();
        let struck = if c.rng.random_bool(0.5) { leader } else { c.rng.random_range(3..5) };
        strike(&mut c, struck);
        c.mend();
        c.settled_leader();
        if let Err(why) = complete(&c) {
            c.fail(&why);
        }
    }
    c.until("complete", Duration::from_secs(180), |c| match complete(c) {
        Ok(batch::COMPLETIONS) => Ok(()),
        Ok(so_far) => Err(format!("{so_far} of {} are complete", batch::COMPLETIONS)),
        Err(why) => c.fail(&why),
    });
    c.converge(Duration::from_secs(60));
    if complete(&c) != Ok(batch::COMPLETIONS) {
        c.fail("what was complete is not");
    }
    c
}
