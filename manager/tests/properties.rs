//! Whatever happens to a cluster, in whatever order: no address is given twice, no node is asked for more than
//! it has, no slot runs two tasks, nothing moves backwards (all checked by the driver after every write), and
//! in the end every replica runs or says why not, every node has its task of a global service, and every job is complete.

mod driver;

use driver::Driver;
use proptest::prelude::*;

fn command() -> impl Strategy<Value = String> {
    let service = prop::sample::select(vec!["a", "b", "c"]);
    // Jobs, and a service with a task on every node.
    let job = prop::sample::select(vec!["d", "e", "g"]);
    let node = 1..=4u32;
    prop_oneof![
        4 => (service.clone(), 0..9u32).prop_map(|(s, n)| format!("service {s} replicas={n}")),
        2 => (service.clone(), 1..5u32).prop_map(|(s, n)| format!("service {s} image=v{n} update-parallelism=2")),
        1 => service.clone().prop_map(|s| format!("service {s} update-order=start-first")),
        1 => service.clone().prop_map(|s| format!("service {s} update-on-failure=rollback")),
        1 => (service.clone(), prop::sample::select(vec!["stay", "prefer", "ignore"]))
            .prop_map(|(s, p)| format!("service {s} data={p}")),
        1 => service.clone().prop_map(|s| format!("remove {s}")),
        1 => (service.clone(), prop::sample::select(vec!["1/0s", "2/0s", "off"]))
            .prop_map(|(s, r)| format!("service {s} rebalance={r}")),
        1 => service.clone().prop_map(|s| format!("rebalance {s}")),
        2 => (1..4u32, 0..6u32).prop_map(|(max, total)| format!("service d job={max}/{total}")),
        1 => (job.clone(), 1..5u32).prop_map(|(s, n)| format!("service {s} image=v{n}")),
        1 => job.clone().prop_map(|s| format!("remove {s}")),
        4 => (job, 1..6u32, prop::sample::select(vec!["failed", "rejected", "complete", "running"]))
            .prop_map(|(s, n, to)| format!("report {s}.{} {to}", if s != "d" { format!("n{n}") } else { n.to_string() })),
        2 => (node.clone(), prop::sample::select(vec!["down", "ready"])).prop_map(|(n, s)| format!("node n{n} state={s}")),
        2 => (node, prop::sample::select(vec!["drain", "pause", "active"]))
            .prop_map(|(n, a)| format!("node n{n} availability={a}")),
        3 => (service, 1..9u32, prop::sample::select(vec!["failed", "rejected", "complete", "running"]))
            .prop_map(|(s, n, to)| format!("report {s}.{n} {to}")),
        6 => Just("agent once".to_owned()),
        2 => prop::sample::select(vec!["500ms", "2s", "1m", "25h"]).prop_map(|d| format!("advance {d}")),
        1 => Just("new-leader".to_owned()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_history_keeps_the_promises_and_comes_to_rest(commands in prop::collection::vec(command(), 1..60)) {
        let mut driver = Driver::new();
        let setup = [
            "cluster c history=2", "network small subnet=10.1.0.0/27 ipv6", "network wide ipv6 subnet6=fd99::/64",
            "node n1 mem=1000 generic=gpu:x generic=gpu:y generic=apple:2", "node n2 mem=1500 generic=gpu:x", "node n3 mem=500", "node n4 mem=800",
            "service a replicas=3 mem=200 network=small network=wide delay=1s rebalance=1/0s",
            "service b replicas=3 volume=data mem=100 generic=gpu:1 network=small delay=1s restart=on-failure attempts=2",
            "service c global mem=50 network=small delay=1s after=a:healthy",
            "service d job=2/4 network=wide delay=1s restart=on-failure",
            "service e global-job network=wide delay=1s",
            "service g global delay=1s",
        ];
        for command in setup.into_iter().map(str::to_owned).chain(commands) {
            // Some commands make no sense where they come; that is part of the chance.
            let _ = driver.run(&command);
        }
        for command in ["node n1 state=ready availability=active", "node n2 state=ready availability=active",
                        "node n3 state=ready availability=active", "node n4 state=ready availability=active",
                        "agent", "advance 1m", "agent", "advance 1m", "agent ends", "advance 1m", "agent ends"] {
            driver.run(command).expect("the cluster mends");
        }
        let tasks = driver.run("tasks").expect("prints");
        // Chance may complete a job's task that is not let run yet.
        let at_rest = |l: &&str| l.contains("(wanted running)") || l.contains("(wanted ready)");
        for line in tasks.lines().filter(|l| at_rest(l) && !l.contains(" complete (")) {
            prop_assert!(line.contains(" running (") || line.contains("pending (wanted running): "), "{tasks}");
        }
        for line in tasks.lines() {
            prop_assert!(!line.contains("(wanted remove)"), "{tasks}");
            prop_assert!(!line.contains("(wanted complete)") || line.contains(" complete ("), "{tasks}");
        }
        prop_assert_eq!(driver.run("unfinished").expect("prints"), "", "{}", tasks);
    }
}
