//! Raft nodes in real time, with the log on its own thread: commit latency, election after a crash,
//! membership, a lone survivor.

#![expect(clippy::unwrap_used, reason = "in a test a failure is a panic")]

mod raft;

use std::time::{Duration, Instant};

use skep_manager::raft::{MembershipError, ProposeError, Role, Start};

use raft::{Group, Node, put};

async fn measure(group: &Group, label: &str) {
    let leader = group.leader().unwrap();
    let mut each: Vec<Duration> = Vec::new();
    for number in 0..200 {
        let start = Instant::now();
        leader.propose(0, put(&format!("s{number}"))).await.unwrap();
        each.push(start.elapsed());
    }
    each.sort();
    let start = Instant::now();
    let all = (0..2000).map(|number| {
        let leader = leader.clone();
        async move { leader.propose(0, put(&format!("p{number}"))).await.unwrap() }
    });
    futures::future::join_all(all).await;
    let rate = 2000.0 / start.elapsed().as_secs_f64();
    println!("{label}: commit median {:?}, p95 {:?}; 2000 at once {rate:.0}/s", each[100], each[190]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_commits_and_keeps_what_it_acknowledged() {
    let mut group = Group::form(1, false, 0.0, 1).await;
    measure(&group, "one node").await;
    // What no entry can hold is refused, and the leader goes on.
    let big = group.leader().unwrap().propose(0, put(&"x".repeat(17 << 20))).await;
    assert!(matches!(big, Err(ProposeError::TooLarge { .. })), "{big:?}");
    group.nodes[0].raft.take().unwrap().stop().await;
    group.start("n1", Start::Restart);
    let raft = group.nodes[0].raft.clone().unwrap();
    raft.read_index().await.unwrap();
    assert_eq!(group.nodes[0].names.all().len(), 2200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_elect_hand_over_and_refuse_to_lose_the_quorum() {
    let mut group = Group::form(2, false, 0.0, 3).await;
    measure(&group, "three nodes").await;

    let old = group.leader().unwrap();
    old.transfer_leadership().await.unwrap();
    let refused = old.propose(0, put("x")).await;
    assert!(matches!(refused, Err(ProposeError::NotLeader { leader: Some(_) })), "{refused:?}");

    // The old one knows who follows it a little before that one has told of its own election.
    let leading = loop {
        let leads = |node: &Node| node.raft.as_ref().unwrap().status().borrow().role == Role::Leader;
        match group.nodes.iter().position(leads) {
            None => tokio::task::yield_now().await,
            found => break found,
        }
    };
    let start = Instant::now();
    group.crash(leading.unwrap()).await;
    loop {
        if let Some(raft) = group.leader()
            && raft.propose(0, put("after")).await.is_ok()
        {
            break;
        }
        tokio::task::yield_now().await;
    }
    println!("a write was answered {:?} after the leader's end", start.elapsed());

    let leader = group.leader().unwrap();
    let follower = group
        .nodes
        .iter()
        .find(|node| node.raft.as_ref().is_some_and(|raft| raft.identity() != leader.identity()));
    let name = follower.unwrap().name.clone();
    // The crashed one counts as reachable until two election timeouts have passed without a word.
    let crashed = group.nodes[leading.unwrap()].id;
    leader
        .status()
        .wait_for(|now| now.members.iter().any(|member| member.peer.raft_id == crashed && !member.reachable))
        .await
        .unwrap();
    let refused = leader.remove(&name).await;
    assert!(matches!(refused, Err(MembershipError::WouldLoseQuorum { .. })), "{refused:?}");
    leader.remove(&group.nodes[leading.unwrap()].name).await.unwrap();
    assert_eq!(leader.status().borrow().members.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_fail_without_a_quorum_and_a_survivor_can_go_on_alone() {
    let mut group = Group::form(3, false, 0.0, 3).await;
    let leader = group.leader().unwrap();
    leader.propose(0, put("kept")).await.unwrap();
    let own = leader.identity().raft_id;
    let survivor = group.nodes.iter().position(|node| node.id == own).unwrap();
    let others: Vec<usize> = (0..3).filter(|position| *position != survivor).collect();
    others.iter().for_each(|position| group.net.cut(group.nodes[*position].id));
    let start = Instant::now();
    let lost = leader.propose(0, put("unsure")).await;
    assert!(matches!(lost, Err(ProposeError::Unknown { .. })), "{lost:?}");
    let lost = leader.propose(0, put("refused")).await;
    assert!(matches!(lost, Err(ProposeError::QuorumLost { .. })), "{lost:?}");
    println!("two writes refused after {:?}", start.elapsed());
    assert!(leader.read_index().await.is_err());
    group.net.heal();
    leader.leadership().wait_for(|now| now.leader.is_some()).await.unwrap();
    leader.read_index().await.unwrap();
    for position in others {
        group.crash(position).await;
    }
    group.nodes[survivor].raft = None;
    leader.stop().await;
    drop(leader);
    let name = group.nodes[survivor].name.clone();
    group.start(&name, Start::ForceNewCluster { addr: "alone".into() });
    let raft = group.nodes[survivor].raft.clone().unwrap();
    raft.propose(0, put("alone")).await.unwrap();
    let names = group.nodes[survivor].names.all();
    assert!(names.contains(&"kept".to_owned()) && names.contains(&"alone".to_owned()));
    assert_eq!(raft.status().borrow().members.len(), 1);
}
