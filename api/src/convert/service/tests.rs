//! What Docker's client sends for a service, and what comes of it.

use serde_json::{Value, json};
use skep_proto::v1::service_spec::Mode;
use skep_proto::v1::{GlobalJob, PublishMode, Replicated, ReplicatedJob, ServiceSpec};

use crate::error::ApiResult;
use crate::fields::Fields;

fn read(value: Value) -> ApiResult<ServiceSpec> {
    super::read(Fields::of(value, "")?)
}

/// `docker service create --name web --replicas 3 --network N -p 8080:80 ... IMAGE CMD`.
fn web() -> Value {
    json!({
        "Name": "web", "Labels": {"tier": "front"},
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": "web:1", "Args": ["httpd", "-f"], "Env": ["A=1"], "Init": false,
                "DNSConfig": {}, "Isolation": "default", "StopGracePeriod": 10_000_000_000_i64,
                "Privileges": {"CredentialSpec": null, "SELinuxContext": null, "NoNewPrivileges": false},
                "Mounts": [{"Type": "bind", "Source": "/srv", "Target": "/www", "ReadOnly": true}],
            },
            "Resources": {"Limits": {"MemoryBytes": 5}, "Reservations": {}},
            "RestartPolicy": {"Condition": "on-failure", "Delay": 0, "MaxAttempts": 2},
            "Placement": {"Constraints": ["node.role==worker"], "MaxReplicas": 2},
            "Networks": [{"Target": "n1", "Aliases": ["w"]}],
            "ForceUpdate": 0,
        },
        "Mode": {"Replicated": {"Replicas": 3}},
        "UpdateConfig": {"Parallelism": 2, "FailureAction": "rollback", "Monitor": 5, "MaxFailureRatio": 0.5, "Order": "start-first"},
        "EndpointSpec": {"Mode": "vip", "Ports": [{"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080, "PublishMode": "ingress"}]},
    })
}

#[test]
fn a_service_reads_whole() {
    let spec = read(web()).expect("valid");
    assert_eq!(spec.mode, Some(Mode::Replicated(Replicated { replicas: 3 })));
    let task = spec.task.expect("task");
    assert_eq!(task.networks[0].aliases, ["w"]);
    assert_eq!(task.restart.expect("restart").delay_ns, Some(0));
    assert_eq!(task.reservations, None);
    let port = &spec.endpoint.expect("endpoint").ports[0];
    assert_eq!((port.target_port, port.published_port), (80, 8080));
    assert_eq!(port.mode, PublishMode::Ingress as i32);
}

#[test]
fn what_is_written_reads_back_the_same() {
    let mut all = web();
    all["TaskTemplate"]["LogDriver"] = json!({"Name": "json-file", "Options": {"max-size": "1m"}});
    all["TaskTemplate"]["ContainerSpec"]["Ulimits"] = json!([{"Name": "nofile", "Soft": 1, "Hard": -1}]);
    all["TaskTemplate"]["ContainerSpec"]["DNSConfig"] = json!({"Nameservers": ["1.1.1.1"]});
    all["TaskTemplate"]["Placement"]["Preferences"] =
        json!([{"Spread": {"SpreadDescriptor": "node.labels.z"}}]);
    all["RollbackConfig"] = json!({"Parallelism": 0, "Order": "stop-first"});
    for spec in [read(web()), read(all)] {
        let spec = spec.expect("valid");
        assert_eq!(read(super::spec(&spec)), Ok(spec));
    }
}

#[test]
fn modes_default_as_docker_says() {
    let of = |mode: Value| {
        let spec = json!({"TaskTemplate": {"ContainerSpec": {"Image": "i"}}, "Mode": mode});
        read(spec).map(|s| s.mode.expect("mode"))
    };
    let one = Mode::Replicated(Replicated { replicas: 1 });
    assert_eq!(of(json!(null)), Ok(one));
    assert_eq!(of(json!({"Replicated": {}})), Ok(one));
    assert_eq!(of(json!({"Replicated": {"Replicas": 0}})), Ok(Mode::Replicated(Replicated { replicas: 0 })));
    assert!(matches!(of(json!({"Global": {}})), Ok(Mode::Global(_))));
    assert!(of(json!({"Replicated": {"Replicas": -1}})).is_err());
    let job = |max_concurrent, total_completions| {
        Ok(Mode::ReplicatedJob(ReplicatedJob { max_concurrent, total_completions }))
    };
    assert_eq!(of(json!({"ReplicatedJob": {}})), job(1, 1));
    assert_eq!(of(json!({"ReplicatedJob": {"MaxConcurrent": 3}})), job(3, 3));
    assert_eq!(of(json!({"ReplicatedJob": {"MaxConcurrent": 2, "TotalCompletions": 5}})), job(2, 5));
    assert_eq!(of(json!({"GlobalJob": {}})), Ok(Mode::GlobalJob(GlobalJob {})));
    assert!(of(json!({"GlobalJob": {}, "Global": {}})).is_err());
}

#[test]
fn what_cannot_be_done_is_refused_by_its_path() {
    let table = [
        (
            "/TaskTemplate/ContainerSpec/Configs",
            json!([{"ConfigID": "x", "Runtime": {}}]),
            "TaskTemplate.ContainerSpec.Configs[0].Runtime",
        ),
        (
            "/TaskTemplate/ContainerSpec/Privileges/NoNewPrivileges",
            json!(true),
            "TaskTemplate.ContainerSpec.Privileges.NoNewPrivileges",
        ),
        (
            "/TaskTemplate/ContainerSpec/Healthcheck",
            json!({"Nope": 1}),
            "TaskTemplate.ContainerSpec.Healthcheck.Nope",
        ),
        (
            "/TaskTemplate/ContainerSpec/Mounts/0/Type",
            json!("npipe"),
            "invalid mount config for type \"npipe\"",
        ),
        (
            "/TaskTemplate/ContainerSpec/Mounts/0/Source",
            json!("rel"),
            "invalid mount config for type \"bind\": invalid mount path: 'rel'",
        ),
        ("/TaskTemplate/ContainerSpec/Image", json!(""), "TaskTemplate.ContainerSpec.Image"),
        (
            "/TaskTemplate/Resources/Limits/MemoryBytes",
            json!(-1),
            "TaskTemplate.Resources.Limits.MemoryBytes",
        ),
        ("/TaskTemplate/RestartPolicy/Condition", json!("maybe"), "TaskTemplate.RestartPolicy.Condition"),
        (
            "/TaskTemplate/LogDriver",
            json!({"Name": "splunk"}),
            "logger: no log driver named 'splunk' is registered",
        ),
        ("/UpdateConfig/MaxFailureRatio", json!(1.5), "UpdateConfig.MaxFailureRatio"),
        ("/EndpointSpec/Ports/0/TargetPort", json!(70000), "EndpointSpec.Ports[0].TargetPort"),
        ("/EndpointSpec/Ports/0/PublishMode", json!("both"), "EndpointSpec.Ports[0].PublishMode"),
        ("/Whatever", json!("x"), "Whatever"),
    ];
    for (at, value, path) in table {
        let mut spec = web();
        let (parent, key) = at.rsplit_once('/').expect("pointer");
        spec.pointer_mut(parent).expect("in the table")[key] = value;
        let e = read(spec).expect_err(at);
        assert_eq!(e.status, 400, "{at}");
        assert!(e.message.starts_with(path), "{at}: {}", e.message);
    }
}
