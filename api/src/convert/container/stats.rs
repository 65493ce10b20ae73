//! What a container uses, as `docker stats` reads it.

use serde_json::{Map, Value, json};
use skep_engine::{CpuUsage, IoUsage, Stats};

use crate::convert::time;

/// A look, and the one before it (or none, with `read_ns` 0).
pub fn stats(now: &Stats, before: &Stats) -> Value {
    let mut out = json!({
        "name": format!("/{}", now.name),
        "id": now.id,
        "read": time::from_ns(now.read_ns),
        "preread": time::from_ns(before.read_ns),
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": cpu(now),
        "precpu_stats": cpu(before),
        "pids_stats": {},
        "blkio_stats": {},
        "memory_stats": {},
    });
    if now.read_ns == 0 {
        return out;
    }
    let u = &now.usage;
    out["pids_stats"] = json!({ "current": u.pids, "limit": u.pids_limit.unwrap_or(u64::MAX) });
    out["blkio_stats"] = json!({
        "io_service_bytes_recursive": io(&u.io_bytes),
        "io_serviced_recursive": io(&u.io_operations),
        "io_queue_recursive": null, "io_service_time_recursive": null, "io_wait_time_recursive": null,
        "io_merged_recursive": null, "io_time_recursive": null, "sectors_recursive": null,
    });
    let m = &u.memory;
    // Without a limit, the host's memory is one.
    let limit = m.limit.map_or(now.host_memory, |l| l.min(now.host_memory));
    let mut memory = json!({ "usage": m.usage, "stats": m.stat, "limit": limit });
    for (name, value) in [("max_usage", m.max_usage), ("failcnt", m.failures)] {
        if value != 0 {
            memory[name] = json!(value);
        }
    }
    out["memory_stats"] = memory;
    if !now.networks.is_empty() {
        let one = |(name, c): (&String, &skep_engine::InterfaceCounters)| {
            let counters = json!({
                "rx_bytes": c.rx_bytes, "rx_packets": c.rx_packets, "rx_errors": c.rx_errors,
                "rx_dropped": c.rx_dropped, "tx_bytes": c.tx_bytes, "tx_packets": c.tx_packets,
                "tx_errors": c.tx_errors, "tx_dropped": c.tx_dropped,
            });
            (name.clone(), counters)
        };
        out["networks"] = Value::Object(now.networks.iter().map(one).collect::<Map<_, _>>());
    }
    out
}

fn cpu(s: &Stats) -> Value {
    let CpuUsage { total_ns, per_cpu_ns, kernel_ns, user_ns, periods, throttled_periods, throttled_ns } =
        &s.usage.cpu;
    let mut usage = json!({
        "total_usage": total_ns, "usage_in_kernelmode": kernel_ns, "usage_in_usermode": user_ns,
    });
    if !per_cpu_ns.is_empty() {
        usage["percpu_usage"] = json!(per_cpu_ns);
    }
    let mut out = json!({
        "cpu_usage": usage,
        "throttling_data": {
            "periods": periods, "throttled_periods": throttled_periods, "throttled_time": throttled_ns,
        },
    });
    if s.read_ns != 0 {
        out["system_cpu_usage"] = json!(s.system_cpu_ns);
        out["online_cpus"] = json!(s.online_cpus);
    }
    out
}

fn io(entries: &[IoUsage]) -> Value {
    if entries.is_empty() {
        return Value::Null;
    }
    let one =
        |e: &IoUsage| json!({ "major": e.major, "minor": e.minor, "op": e.operation, "value": e.value });
    entries.iter().map(one).collect()
}
