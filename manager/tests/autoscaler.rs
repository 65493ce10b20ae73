//! The autoscaler in a table of situations: settings, replicas, what tasks use, and what comes of it.

use std::collections::BTreeMap;

use skep_manager::autoscaler::{Used, nonsense, pass};
use skep_proto::v1::{self, service_spec::Mode};

const CPU: f64 = 1e9;

fn config() -> v1::Autoscale {
    v1::Autoscale {
        min: 2,
        max: 10,
        cpu_percent: 50.0,
        cooldown_ns: Some(60_000_000_000),
        window_ns: Some(300_000_000_000),
        ..Default::default()
    }
}

fn service(autoscale: v1::Autoscale, replicas: u64) -> v1::Service {
    let spec = v1::ServiceSpec {
        mode: Some(Mode::Replicated(v1::Replicated { replicas })),
        autoscale: Some(autoscale),
        ..Default::default()
    };
    v1::Service { spec: Some(spec), ..Default::default() }
}

/// Tasks that use so much of a processor each.
fn cpus(shares: &[f64]) -> BTreeMap<String, Used> {
    let one =
        |(i, share): (usize, &f64)| (format!("t{i}"), Used { nano_cpus: share * CPU, ..Default::default() });
    shares.iter().enumerate().map(one).collect()
}

fn replicas(s: &v1::Service) -> u64 {
    match s.spec.as_ref().and_then(|s| s.mode.as_ref()) {
        Some(Mode::Replicated(r)) => r.replicas,
        _ => 0,
    }
}

fn step(s: &mut v1::Service, used: &BTreeMap<String, Used>, now_s: i64) -> u64 {
    if let Some(changed) = pass(s, &v1::TaskSpec::default(), used, now_s * 1000) {
        *s = changed;
    }
    replicas(s)
}

#[test]
fn the_average_is_brought_to_the_target() {
    // Replicas, what the tasks use of a processor (the target is a half of one), replicas then.
    let table: [(u64, &[f64], u64); 14] = [
        (2, &[0.5, 0.5], 2),
        // Within a tenth of the target nothing happens.
        (2, &[0.54, 0.54], 2),
        (4, &[0.46, 0.46, 0.46, 0.46], 4),
        (2, &[0.6, 0.6], 3),
        (2, &[1.0, 0.5], 3),
        (3, &[0.75, 0.75, 0.75], 5),
        // A step up is to twice as many at most, or by four.
        (2, &[2.0, 2.0], 6),
        (5, &[3.0, 3.0, 3.0, 3.0, 3.0], 10),
        // Those that nothing is known of are taken for idle where more seem to be needed.
        (4, &[1.0, 1.0], 4),
        (4, &[1.5, 1.5], 6),
        // Nothing is known: nothing is done.
        (3, &[], 3),
        // Out of bounds, whatever is used.
        (1, &[0.5], 2),
        (12, &[], 10),
        (0, &[], 2),
    ];
    for (present, used, wanted) in table {
        let mut s = service(config(), present);
        assert_eq!(step(&mut s, &cpus(used), 1000), wanted, "{present} replicas that use {used:?}");
    }
}

#[test]
fn fewer_come_only_when_fewer_have_been_enough_for_the_window() {
    let mut s = service(config(), 8);
    let (idle, half, busy) = (cpus(&[0.1; 8]), cpus(&[0.25; 8]), cpus(&[0.5; 8]));
    assert_eq!(step(&mut s, &idle, 1000), 8);
    assert_eq!(step(&mut s, &half, 1100), 8);
    assert_eq!(step(&mut s, &idle, 1299), 8);
    // The most that were needed in that time.
    assert_eq!(step(&mut s, &idle, 1300), 4);
    let status = s.autoscale_status.clone().expect("a status");
    assert_eq!((status.events.len(), status.events[0].from, status.events[0].to), (1, 8, 4));
    assert_eq!(status.events[0].reason, "cpu is at 20% of its target");
    // A moment of work begins the window anew.
    let mut s = service(config(), 8);
    assert_eq!(step(&mut s, &idle, 1000), 8);
    assert_eq!(step(&mut s, &busy, 1200), 8);
    assert_eq!(step(&mut s, &idle, 1301), 8);
    assert_eq!(step(&mut s, &idle, 1601), 2);
}

#[test]
fn after_a_change_there_is_none_for_the_cooldown() {
    let mut s = service(config(), 2);
    assert_eq!(step(&mut s, &cpus(&[0.75, 0.75]), 1000), 3);
    assert_eq!(step(&mut s, &cpus(&[0.75; 3]), 1059), 3);
    assert_eq!(
        s.autoscale_status.as_ref().map(|a| a.message.as_str()),
        Some("waits for the cooldown to end")
    );
    assert_eq!(step(&mut s, &cpus(&[0.75; 3]), 1060), 5);
    // The bounds do not wait.
    let spec = s.spec.as_mut().and_then(|s| s.autoscale.as_mut()).expect("settings");
    spec.max = 4;
    assert_eq!(step(&mut s, &BTreeMap::new(), 1061), 4);
}

#[test]
fn nothing_is_written_while_nothing_changes_in_kind() {
    let mut s = service(config(), 2);
    step(&mut s, &cpus(&[0.5, 0.5]), 1000);
    let task = v1::TaskSpec::default();
    for (i, share) in [0.48, 0.5, 0.51, 0.53].into_iter().enumerate() {
        assert_eq!(pass(&s, &task, &cpus(&[share, share]), 1_005_000 + i as i64 * 5000), None);
    }
}

#[test]
fn the_target_that_needs_most_counts_and_shares_are_of_what_is_reserved() {
    let metric = v1::MetricTarget { name: "queue".into(), port: 9090, path: "/metrics".into(), target: 10.0 };
    let autoscale = v1::Autoscale { memory_percent: 50.0, metric: Some(metric), ..config() };
    let resources = |nano_cpus, memory_bytes| Some(v1::Resources { nano_cpus, memory_bytes, pids: 0 });
    // Of a quarter of a processor and 100 MiB: the limit counts only where nothing is reserved.
    let task = v1::TaskSpec {
        reservations: resources(250_000_000, 0),
        limits: resources(2_000_000_000, 100 << 20),
        ..Default::default()
    };
    let use_of = |cpu: f64, mib: f64, metric| {
        let one = Used { nano_cpus: cpu * CPU, memory_bytes: mib * 1048576.0, metric };
        BTreeMap::from([("a".to_owned(), one.clone()), ("b".to_owned(), one)])
    };
    let table = [
        (use_of(0.125, 50.0, Some(10.0)), 2, "-"),
        (use_of(0.25, 50.0, Some(10.0)), 4, "cpu is at 200% of its target"),
        (use_of(0.125, 75.0, Some(10.0)), 3, "memory is at 150% of its target"),
        (use_of(0.01, 1.0, Some(25.0)), 5, "queue is at 250% of its target"),
        (use_of(0.125, 75.0, None), 3, "memory is at 150% of its target"),
    ];
    for (used, wanted, why) in table {
        let s = pass(&service(autoscale.clone(), 2), &task, &used, 1000).expect("a status at least");
        let event = s.autoscale_status.as_ref().and_then(|a| a.events.last());
        assert_eq!((replicas(&s), event.map_or("-", |e| &e.reason)), (wanted, why), "{used:?}");
    }
}

#[test]
fn what_cannot_be_is_told() {
    let wrong = |change: &dyn Fn(&mut v1::Autoscale)| {
        let mut c = config();
        change(&mut c);
        nonsense(&c, None).unwrap_or_default()
    };
    assert_eq!(wrong(&|_| {}), "");
    assert!(wrong(&|c| c.min = 0).contains("1 <= min <= max"));
    assert!(wrong(&|c| c.max = 1).contains("1 <= min <= max"));
    assert!(wrong(&|c| c.cpu_percent = 0.0).contains("there is no target"));
    assert!(wrong(&|c| c.cpu_percent = -1.0).contains("10000%"));
    assert!(wrong(&|c| c.memory_percent = 50.0).contains("--reserve-memory"));
    let metric = |name: &str, port, path: &str, target| {
        let m = Some(v1::MetricTarget { name: name.into(), port, path: path.into(), target });
        wrong(&|c: &mut v1::Autoscale| c.metric.clone_from(&m))
    };
    assert_eq!(metric("http_requests:rate", 80, "", 1.5), "");
    assert!(metric("a b", 80, "", 1.0).contains("not the name of a metric"));
    assert!(metric("a", 0, "", 1.0).contains("port"));
    assert!(metric("a", 80, "x", 1.0).contains("path"));
    assert!(metric("a", 80, "/ HTTP/1.1\r\nX: y", 1.0).contains("path"));
    assert!(metric("a", 80, "", 0.0).contains("positive"));
}
