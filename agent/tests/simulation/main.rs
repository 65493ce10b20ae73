//! Whole managers and agents in a simulated world, played from seeds: real logs, real gRPC over TLS on a simulated
//! network, containers as records. Every run is a process of its own, so that nothing of another run is in its
//! memory and the same seed gives the same run.
//!
//! `SKEP_SEED=7` plays that seed, `SKEP_SEEDS=100` the seeds 0 to 99, instead of the usual few. A run that fails
//! prints its trace and how to replay it; `SKEP_TRACE=1` prints the trace as it goes, `RUST_LOG` the daemons' logs.

mod batch;
mod check;
mod client;
mod cluster;
mod containers;
mod entropy;
mod job;
mod members;
mod net;
mod node;
mod scaled;
mod scenarios;
mod trace;

use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Names the run for a process that plays one.
const RUN: &str = "SKEP_RUN";
/// What a run that held ends with.
const DIGEST: &str = "digest of the run: ";

/// Plays the run that `SKEP_RUN` names (`history:7`), and none without it.
#[test]
fn one_run() {
    let Ok(run) = std::env::var(RUN) else { return };
    let (scenario, seed) = run.split_once(':').expect("SKEP_RUN is SCENARIO:SEED");
    let (scenario, seed) = (scenario.to_owned(), seed.parse().expect("the seed is a number"));
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        cluster::PANICKED.store(true, Ordering::Relaxed);
        hook(info);
    }));
    // A thread that has asked for no entropy yet.
    let player = std::thread::Builder::new().name(run).stack_size(16 << 20).spawn(move || {
        entropy::seed(seed);
        // The logs go to the test's output; none without RUST_LOG.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_writer(std::io::stderr)
            .try_init();
        scenarios::play(&scenario, seed)
    });
    let digest = player.expect("a thread").join().expect("the run holds");
    println!("{DIGEST}{digest:016x}");
}

fn play(scenario: &str, seed: u64) -> Output {
    let program = std::env::current_exe().expect("this program");
    let mut command = Command::new(program);
    command.args(["--exact", "one_run", "--nocapture"]).env(RUN, format!("{scenario}:{seed}"));
    command.output().expect("run this program again")
}

fn digest(output: &Output) -> Option<String> {
    let text = String::from_utf8_lossy(&output.stdout);
    let found = text.lines().find_map(|l| l.split_once(DIGEST)).map(|(_, digest)| digest.to_owned());
    found.filter(|_| output.status.success())
}

fn seeds(usual: u64) -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|n| n.parse().expect("a number"));
    match (number("SKEP_SEED"), number("SKEP_SEEDS")) {
        (Some(seed), _) => vec![seed],
        (None, count) => (0..count.unwrap_or(usual)).collect(),
    }
}

/// Plays a scenario for all seeds, two at a time.
fn all_hold(scenario: &str, usual: u64) {
    let (seeds, next) = (seeds(usual), AtomicUsize::new(0));
    let one = || {
        let mut broken = Vec::new();
        while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
            let output = play(scenario, *seed);
            if digest(&output).is_none() {
                broken.push(*seed);
                eprintln!("{}", String::from_utf8_lossy(&output.stdout));
                eprintln!("{}", String::from_utf8_lossy(&output.stderr));
            }
        }
        broken
    };
    let broken = std::thread::scope(|scope| {
        let other = scope.spawn(one);
        let mut broken = one();
        broken.extend(other.join().expect("no panic"));
        broken
    });
    assert!(broken.is_empty(), "{scenario}: the seeds {broken:?} of {} do not hold", seeds.len());
}

#[test]
fn random_histories_lose_nothing_and_heal() {
    all_hold("history", 4);
}

#[test]
fn an_update_goes_on_when_the_leader_dies() {
    all_hold("leader", 2);
}

#[test]
fn a_worker_cut_off_is_replaced_and_gives_way_when_it_is_back() {
    all_hold("worker", 2);
}

#[test]
fn without_a_quorum_writes_fail_in_time_and_reads_say_so() {
    all_hold("quorum", 2);
}

#[test]
fn clocks_that_differ_delay_nothing() {
    all_hold("skew", 2);
}

#[test]
fn a_job_is_begun_every_minute_whoever_leads() {
    all_hold("cron", 1);
}

#[test]
fn replicas_follow_what_tasks_use_whoever_leads() {
    all_hold("load", 1);
}

#[test]
fn tasks_are_spread_again_over_a_node_that_is_back() {
    all_hold("spread", 2);
}

#[test]
fn the_root_is_replaced_whatever_happens_meanwhile() {
    all_hold("root", 2);
}

#[test]
fn roles_change_and_every_node_has_the_one_that_users_were_told() {
    all_hold("roles", 2);
}

#[test]
fn locked_managers_are_opened_by_the_keys_there_were() {
    all_hold("lock", 2);
}

#[test]
fn an_update_that_fails_goes_back_whoever_leads() {
    all_hold("back", 2);
}

#[test]
fn a_job_comes_to_its_end_and_no_slot_is_begun_twice() {
    all_hold("batch", 2);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let (one, two) = std::thread::scope(|scope| {
        let other = scope.spawn(|| play("history", 3));
        (play("history", 3), other.join().expect("no panic"))
    });
    let (one, two) = (digest(&one).expect("it holds"), digest(&two).expect("it holds"));
    assert_eq!(one, two, "two runs of one seed differ");
}
