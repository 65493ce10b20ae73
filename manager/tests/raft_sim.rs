//! Seeded simulation of raft groups under partition, loss, reordering, crash and restart, in virtual time.

#![expect(clippy::unwrap_used, reason = "in a test a failure is a panic")]

mod raft;

use std::collections::BTreeSet;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use skep_manager::raft::{ProposeError, Raft, RaftStatus, Start};
use tokio::time::{sleep, timeout};

use raft::{Group, put};

/// Cuts the end off a node's log, as a disk does that lost a write it had confirmed.
fn cut_log(group: &Group, name: &str, bytes: u64) {
    let files = std::fs::read_dir(group.options(name).log.state_dir.join("raft"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut segments: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == "seg")).collect();
    segments.sort();
    let last = segments.pop().unwrap();
    let end = std::fs::read(&last).unwrap().iter().rposition(|byte| *byte != 0).unwrap() as u64 + 1;
    std::fs::OpenOptions::new().write(true).open(&last).unwrap().set_len(end - bytes).unwrap();
}

/// Three nodes, all with twenty writes, as the leader knows; and that leader.
async fn twenty_everywhere(seed: u64) -> (Group, Raft) {
    let group = Group::form(seed, true, 0.0, 3).await;
    let leader = group.leader().unwrap();
    for number in 0..20 {
        leader.propose(0, put(&format!("w{number}"))).await.unwrap();
    }
    let all = |now: &RaftStatus| now.members.iter().all(|m| m.matched == now.last_index);
    leader.status().wait_for(all).await.unwrap();
    (group, leader)
}

/// A follower's log lost what it had acknowledged: it catches up, whether the leader noticed its absence or not.
async fn lost_tail(seed: u64, absent: Duration) {
    let (mut group, leader) = twenty_everywhere(seed).await;
    let follower = group.nodes.iter().position(|node| node.id != leader.identity().raft_id).unwrap();
    let name = group.nodes[follower].name.clone();
    group.crash(follower).await;
    cut_log(&group, &name, 300);
    if !absent.is_zero() {
        leader.propose(0, put("meanwhile")).await.unwrap();
    }
    sleep(absent).await;
    group.start(&name, Start::Restart);
    // Also where nothing new is written.
    let index = leader.status().borrow().last_index;
    let mut applied = group.nodes[follower].raft.as_ref().unwrap().applied();
    let caught_up = timeout(Duration::from_secs(30), applied.wait_for(|now| *now >= index)).await;
    assert!(caught_up.is_ok(), "seed {seed}: absent for {absent:?}, it never caught up");
    let position = |id| group.nodes.iter().position(|node| node.id == id).unwrap();
    let leading = position(group.leader().unwrap().identity().raft_id);
    assert_eq!(group.nodes[follower].names.all(), group.nodes[leading].names.all(), "seed {seed}");
}

/// The leader dies while a follower may still lack what it had acknowledged: the third has all of it, and is elected.
async fn lost_tail_and_leader(seed: u64, after: Duration) {
    let (mut group, leader) = twenty_everywhere(seed).await;
    let position = |group: &Group, id| group.nodes.iter().position(|node| node.id == id).unwrap();
    let leading = position(&group, leader.identity().raft_id);
    let follower = (leading + 1) % 3;
    let name = group.nodes[follower].name.clone();
    group.crash(follower).await;
    cut_log(&group, &name, 300);
    group.start(&name, Start::Restart);
    sleep(after).await;
    drop(leader);
    group.crash(leading).await;
    let written = timeout(Duration::from_secs(30), async {
        loop {
            if let Some(raft) = group.leader()
                && raft.propose(0, put("after")).await.is_ok()
            {
                return raft.identity().raft_id;
            }
            sleep(Duration::from_millis(50)).await;
        }
    });
    let Ok(next) = written.await else { panic!("seed {seed}, {after:?}: nobody was elected") };
    let names = group.nodes[position(&group, next)].names.all();
    assert_eq!(names.len(), 21, "seed {seed}, {after:?}: acknowledged writes are lost: {names:?}");
}

/// One run; returns how many writes were acknowledged.
async fn run(seed: u64, count: usize) -> usize {
    let mut group = Group::form(seed, true, 0.02, count).await;
    let mut rng = StdRng::seed_from_u64(seed ^ 0x5EED);
    let mut acknowledged = BTreeSet::new();
    let mut refused = BTreeSet::new();
    for number in 0..250 {
        match rng.random_range(0..100) {
            0..5 => {
                let victim = rng.random_range(0..count);
                group.crash(victim).await;
            }
            5..13 => {
                let victim = rng.random_range(0..count);
                if group.nodes[victim].raft.is_none() {
                    let name = group.nodes[victim].name.clone();
                    group.start(&name, Start::Restart);
                }
            }
            13..18 => group.net.cut(group.nodes[rng.random_range(0..count)].id),
            18..24 => group.net.heal(),
            _ => {}
        }
        let name = format!("w{number}");
        let node = &group.nodes[rng.random_range(0..count)];
        let Some(raft) = group.leader().or_else(|| node.raft.clone()) else {
            sleep(Duration::from_millis(300)).await;
            continue;
        };
        match timeout(Duration::from_millis(rng.random_range(50..1500)), raft.propose(0, put(&name))).await {
            Ok(Ok(_)) => {
                acknowledged.insert(name);
            }
            Ok(Err(ProposeError::NotLeader { .. } | ProposeError::QuorumLost { .. })) => {
                refused.insert(name);
            }
            _ => {}
        }
        sleep(Duration::from_millis(rng.random_range(0..200))).await;
    }
    group.net.heal();
    for position in 0..count {
        if group.nodes[position].raft.is_none() {
            let name = group.nodes[position].name.clone();
            group.start(&name, Start::Restart);
        }
    }
    let healed = tokio::time::Instant::now();
    let index = loop {
        if healed.elapsed() > Duration::from_secs(120) {
            let state = |node: &raft::Node| {
                format!("{}: {:?}", node.name, *node.raft.as_ref().unwrap().status().borrow())
            };
            let states: Vec<String> = group.nodes.iter().map(state).collect();
            panic!("seed {seed}: no leader takes writes after the heal:\n{}", states.join("\n"));
        }
        match group.leader() {
            Some(raft) => match raft.propose(0, put("last")).await {
                Ok(index) => break index,
                Err(_) => sleep(Duration::from_millis(100)).await,
            },
            None => sleep(Duration::from_millis(100)).await,
        }
    };
    let expected = {
        let leader = group.leader().unwrap();
        group.nodes.iter().find(|node| node.id == leader.identity().raft_id).unwrap().names.all()
    };
    for node in &group.nodes {
        let mut applied = node.raft.as_ref().unwrap().applied();
        let caught_up = timeout(Duration::from_secs(60), applied.wait_for(|now| *now >= index)).await;
        assert!(caught_up.is_ok(), "seed {seed}: {} did not catch up after the heal", node.name);
        assert_eq!(node.names.all(), expected, "seed {seed}: {} differs", node.name);
    }
    let present: BTreeSet<String> = expected.iter().cloned().collect();
    assert_eq!(present.len(), expected.len(), "seed {seed}: a write was applied twice");
    let lost: Vec<_> = acknowledged.difference(&present).collect();
    assert!(lost.is_empty(), "seed {seed}: acknowledged writes lost: {lost:?}");
    let ghosts: Vec<_> = refused.intersection(&present).collect();
    assert!(ghosts.is_empty(), "seed {seed}: refused writes applied: {ghosts:?}");
    for (term, leaders) in group.leaders.lock().unwrap().iter() {
        assert_eq!(leaders.len(), 1, "seed {seed}: term {term} had the leaders {leaders:?}");
    }
    acknowledged.len()
}

fn simulate(seeds: std::ops::Range<u64>, count: usize) {
    let (mut total, runs) = (0, seeds.clone().count());
    for seed in seeds {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let acknowledged = runtime.block_on(run(seed, count));
        assert!(acknowledged > 0, "seed {seed}: no write got through");
        total += acknowledged;
    }
    println!("{runs} runs of {count} nodes: {total} writes acknowledged");
    assert!(total > 30 * runs, "only {total} writes got through in {runs} runs");
}

#[test]
fn three_nodes_lose_nothing_and_heal() {
    simulate(0..40, 3);
}

#[test]
fn five_nodes_lose_nothing_and_heal() {
    simulate(100..115, 5);
}

#[test]
fn a_follower_whose_log_lost_what_it_acknowledged_catches_up() {
    for seed in 0..3 {
        for absent in [0, 150, 5000] {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .start_paused(true)
                .build()
                .unwrap();
            runtime.block_on(lost_tail(seed, Duration::from_millis(absent)));
        }
    }
}

#[test]
fn a_follower_that_lacks_what_it_acknowledged_votes_for_who_has_it() {
    for seed in 0..2 {
        for after in (0..1000).step_by(100) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .start_paused(true)
                .build()
                .unwrap();
            runtime.block_on(lost_tail_and_leader(seed, Duration::from_millis(after)));
        }
    }
}
