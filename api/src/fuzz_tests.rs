//! Requests that nobody meant: bodies, query strings and filters of any form are answered, by a 4xx where they are
//! not understood, and never by a panic. `PROPTEST_CASES=N` looks longer.

use axum::http::StatusCode;
use proptest::prelude::*;
use serde_json::Value;

use crate::convert::{cluster, container, mounts, network, node, service, time, volume};
use crate::error::ApiResult;
use crate::fields::Fields;
use crate::filters::Filters;
use crate::version;

/// Names of fields, and what is in them, as clients send them.
const WORDS: &[&str] = &[
    "Image",
    "Cmd",
    "Env",
    "Entrypoint",
    "HostConfig",
    "NetworkingConfig",
    "EndpointsConfig",
    "IPAMConfig",
    "IPv4Address",
    "Aliases",
    "Links",
    "MacAddress",
    "PortBindings",
    "HostIp",
    "HostPort",
    "ExposedPorts",
    "80/tcp",
    "8000-9000/udp",
    "1-65535",
    "70000/tcp",
    "0/tcp",
    "Binds",
    "Mounts",
    "Type",
    "Source",
    "Target",
    "volume",
    "bind",
    "tmpfs",
    "BindOptions",
    "VolumeOptions",
    "TmpfsOptions",
    "Subpath",
    "Propagation",
    "Tmpfs",
    "RestartPolicy",
    "Name",
    "always",
    "on-failure",
    "MaximumRetryCount",
    "Healthcheck",
    "Test",
    "Interval",
    "Timeout",
    "NONE",
    "CMD-SHELL",
    "Memory",
    "NanoCpus",
    "CpusetCpus",
    "0-3,5",
    "Devices",
    "PathOnHost",
    "CgroupPermissions",
    "DeviceRequests",
    "Ulimits",
    "Soft",
    "Hard",
    "LogConfig",
    "json-file",
    "max-size",
    "Sysctls",
    "SecurityOpt",
    "seccomp={}",
    "no-new-privileges",
    "NetworkMode",
    "container:x",
    "PidMode",
    "IPAM",
    "Config",
    "Subnet",
    "10.0.0.0/8",
    "10.0.0.0/33",
    "::/0",
    "Gateway",
    "IPRange",
    "Driver",
    "bridge",
    "Options",
    "Labels",
    "Mode",
    "Replicated",
    "Replicas",
    "Global",
    "TaskTemplate",
    "ContainerSpec",
    "EndpointSpec",
    "Ports",
    "PublishedPort",
    "TargetPort",
    "Placement",
    "Constraints",
    "node.role==manager",
    "UpdateConfig",
    "Order",
    "start-first",
    "/a:/b:ro",
    "C:\\x",
    "/",
    "..",
    "a=b",
    "=",
    "\u{0}",
    "1h30m",
    "5m",
    "2024-01-02T03:04:05.999999999Z",
    "1e400",
];

fn word() -> impl Strategy<Value = String> {
    prop_oneof![4 => prop::sample::select(WORDS.to_vec()).prop_map(str::to_owned), 1 => "\\PC{0,10}"]
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        2 => any::<i64>().prop_map(Value::from),
        1 => any::<u64>().prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
        3 => (-2..100i64).prop_map(Value::from),
        5 => word().prop_map(Value::from),
    ]
}

fn json() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(5, 64, 6, |inner| {
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            3 => prop::collection::btree_map(word(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// A request that is right, to be spoilt in one place.
fn right(which: usize) -> Value {
    let container = serde_json::json!({
        "Image": "a", "Cmd": ["b"], "Env": ["A=1"], "ExposedPorts": {"80/tcp": {}}, "Labels": {"a": "b"},
        "Healthcheck": {"Test": ["CMD", "true"], "Interval": 1_000_000_000, "Retries": 3},
        "StopTimeout": 3, "Volumes": {"/v": {}},
        "HostConfig": {
            "Binds": ["/a:/b:ro", "v:/c"], "PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "8080-8090"}]},
            "Mounts": [{"Type": "volume", "Source": "v", "Target": "/d", "VolumeOptions": {"Subpath": "e"}}],
            "Tmpfs": {"/t": "size=1m,mode=700"}, "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3},
            "Memory": 33_554_432, "MemorySwap": -1, "NanoCpus": 500_000_000, "CpusetCpus": "0-1",
            "Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "rwm"}],
            "Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2}], "ExtraHosts": ["a:1.2.3.4"],
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}}, "Sysctls": {"net.a": "1"},
            "NetworkMode": "net",
        },
        "NetworkingConfig": {"EndpointsConfig": {"net": {"Aliases": ["x"], "IPAMConfig": {"IPv4Address": "10.1.0.2"}}}},
    });
    let network = serde_json::json!({
        "Name": "n", "Driver": "bridge", "Internal": true, "Labels": {"a": "b"},
        "IPAM": {"Config": [{"Subnet": "10.1.0.0/16", "Gateway": "10.1.0.1", "IPRange": "10.1.2.0/24"}]},
    });
    let service = serde_json::json!({
        "Name": "s", "Mode": {"Replicated": {"Replicas": 2}},
        "TaskTemplate": {
            "ContainerSpec": {"Image": "a", "Mounts": [{"Type": "bind", "Source": "/a", "Target": "/b"}]},
            "Placement": {"Constraints": ["node.role==manager"]}, "RestartPolicy": {"Delay": 1},
            "Resources": {"Limits": {"NanoCPUs": 1, "MemoryBytes": 1}},
        },
        "UpdateConfig": {"Parallelism": 1, "Order": "start-first", "MaxFailureRatio": 0.5},
        "EndpointSpec": {"Ports": [{"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080}]},
    });
    [
        container,
        network,
        service,
        serde_json::json!({"Name": "v", "DriverOpts": {"type": "tmpfs", "device": "tmpfs"}}),
    ][which % 4]
        .clone()
}

/// Puts `with` in the place that a walk along `path` comes to.
fn spoil(at: &mut Value, path: &[prop::sample::Index], with: Value) {
    let next = path.split_first().and_then(|(step, rest)| {
        let inner = match at {
            Value::Object(map) if !map.is_empty() => {
                let n = step.index(map.len());
                map.values_mut().nth(n)
            }
            Value::Array(list) if !list.is_empty() => {
                let n = step.index(list.len());
                list.get_mut(n)
            }
            _ => None,
        };
        inner.map(|inner| (inner, rest))
    });
    match next {
        Some((inner, rest)) => spoil(inner, rest, with),
        None => *at = with,
    }
}

fn answered<T>(result: ApiResult<T>) -> Result<(), TestCaseError> {
    if let Err(e) = result {
        let status = axum::response::IntoResponse::into_response(e).status();
        prop_assert!(status.is_client_error() || status == StatusCode::NOT_IMPLEMENTED, "{}", status);
    }
    Ok(())
}

fn read_all(body: &[u8]) -> Result<(), TestCaseError> {
    answered(container::read(body))?;
    answered(Fields::parse(body).and_then(container::read_update))?;
    answered(Fields::parse(body).and_then(network::read))?;
    answered(volume::read(body))?;
    answered(cluster::read_init(body))?;
    answered(cluster::read_join(body))?;
    answered(node::read_spec(body))?;
    answered(Fields::parse(body).and_then(service::read))?;
    answered(Fields::parse(body).and_then(cluster::read_spec))?;
    answered(Fields::parse(body).and_then(mounts::read_mount))
}

proptest! {
    #[test]
    fn bodies_are_read_or_refused(value in json(), bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        read_all(value.to_string().as_bytes())?;
        read_all(&bytes)?;
    }

    #[test]
    fn a_right_body_spoilt_in_one_place_is_read_or_refused(
        which in 0..4usize,
        path in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        with in prop_oneof![leaf(), json()],
    ) {
        let mut body = right(which);
        spoil(&mut body, &path, with);
        read_all(body.to_string().as_bytes())?;
    }

    #[test]
    fn filters_are_read_or_refused(value in json(), text in "\\PC{0,40}") {
        for text in [value.to_string(), text] {
            answered(Filters::parse(Some(&text), &["label", "name", "dangling", "until"]))?;
            if let Ok(f) = Filters::parse(Some(&text), WORDS) {
                for name in WORDS {
                    answered(f.flag(name))?;
                    let _ = (f.list(name), f.any(name, |v| v.is_empty()), f.labels(name, |_| Some("b")));
                }
            }
        }
    }

    #[test]
    fn filters_come_through_in_both_forms(values in prop::collection::btree_set("\\PC{0,12}", 0..5)) {
        let list = serde_json::json!({"label": values}).to_string();
        let set: serde_json::Map<String, Value> = values.iter().map(|v| (v.clone(), true.into())).collect();
        let set = serde_json::json!({"label": set}).to_string();
        for text in [list, set] {
            let read = Filters::parse(Some(&text), &["label"]).map_err(|_| TestCaseError::fail(text.clone()))?;
            prop_assert_eq!(read.list("label"), values.iter().cloned().collect::<Vec<_>>());
        }
    }

    #[test]
    fn times_are_read_as_they_are_written(ns in any::<i64>(), text in prop_oneof!["\\PC{0,30}", "[0-9.:TZhms+-]{0,30}"]) {
        let shown = time::from_ns(ns);
        if ns > 0 {
            prop_assert_eq!(time::parse("since", &shown).ok().flatten(), Some(ns), "{}", shown);
        }
        let _ = (time::fixed(ns), time::from_ms(ns));
        answered(time::parse("since", &text))?;
        answered(time::until(&text))?;
    }

    #[test]
    fn mounts_and_paths_are_read_or_refused(bind in prop_oneof!["\\PC{0,30}", "[a-z/:.,=]{0,30}"], text in "[a-z0-9=,/:.-]{0,30}") {
        answered(mounts::read_bind(&bind, ""))?;
        answered(mounts::read_tmpfs("/t", &text))?;
        answered(mounts::read_tmpfs(&bind, &text))?;
    }

    #[test]
    fn versions_in_paths_are_read_or_refused(path in prop_oneof!["/v[0-9.]{0,8}/[a-z/]{0,10}", "/\\PC{0,20}", "/v1.50(/[a-z%0-9?=&]{0,20})?"]) {
        if let Ok(uri) = path.parse::<axum::http::Uri>() {
            answered(version::negotiate(&uri))?;
        }
    }
}
