//! What Docker's client sends to create a container, and what comes of it.

use std::time::Duration;

use serde_json::{Value, json};
use skep_engine::{MountKind, NetworkMode, RestartPolicy, Seccomp};

use super::{Create, read};
use crate::error::ApiResult;

/// What `docker run busybox true` sends.
fn run() -> Value {
    let text = r#"{
        "Hostname": "", "Domainname": "", "User": "", "AttachStdin": false, "AttachStdout": true, "AttachStderr": true,
        "Tty": false, "OpenStdin": false, "StdinOnce": false, "Env": null, "Cmd": ["true"], "Image": "busybox",
        "Volumes": {}, "WorkingDir": "", "Entrypoint": null, "OnBuild": null, "Labels": {},
        "HostConfig": {
            "Binds": null, "ContainerIDFile": "", "LogConfig": {"Type": "", "Config": {}}, "NetworkMode": "default",
            "PortBindings": {}, "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}, "AutoRemove": false,
            "VolumeDriver": "", "VolumesFrom": null, "ConsoleSize": [24, 80], "CapAdd": null, "CapDrop": null,
            "CgroupnsMode": "", "Dns": [], "DnsOptions": [], "DnsSearch": [], "ExtraHosts": null, "GroupAdd": null,
            "IpcMode": "", "Cgroup": "", "Links": null, "OomScoreAdj": 0, "PidMode": "", "Privileged": false,
            "PublishAllPorts": false, "ReadonlyRootfs": false, "SecurityOpt": null, "UTSMode": "", "UsernsMode": "",
            "ShmSize": 0, "Isolation": "", "CpuShares": 0, "Memory": 0, "NanoCpus": 0, "CgroupParent": "",
            "BlkioWeight": 0, "BlkioWeightDevice": [], "BlkioDeviceReadBps": [], "CpuPeriod": 0, "CpuQuota": 0,
            "CpusetCpus": "", "CpusetMems": "", "Devices": [], "DeviceCgroupRules": null, "DeviceRequests": null,
            "MemoryReservation": 0, "MemorySwap": 0, "MemorySwappiness": -1, "OomKillDisable": false,
            "PidsLimit": 0, "Ulimits": [], "CpuCount": 0, "CpuPercent": 0, "IOMaximumIOps": 0,
            "IOMaximumBandwidth": 0, "MaskedPaths": null, "ReadonlyPaths": null
        },
        "NetworkingConfig": {"EndpointsConfig": {"default": {
            "IPAMConfig": null, "Links": null, "Aliases": null, "MacAddress": "", "DriverOpts": null, "GwPriority": 0,
            "NetworkID": "", "EndpointID": "", "Gateway": "", "IPAddress": "", "IPPrefixLen": 0, "IPv6Gateway": "",
            "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0, "DNSNames": null
        }}}
    }"#;
    serde_json::from_str(text).expect("JSON")
}

fn with(changes: &[(&str, Value)]) -> ApiResult<Create> {
    let mut body = run();
    for (at, value) in changes {
        let (parent, key) = at.rsplit_once('/').expect("pointer");
        body.pointer_mut(parent).expect("in the request")[key] = value.clone();
    }
    read(body.to_string().as_bytes())
}

#[test]
fn a_plain_run_asks_for_nothing_special() {
    let c = with(&[]).expect("valid").config;
    assert_eq!((c.image.as_str(), c.cmd, c.entrypoint), ("busybox", Some(vec!["true".into()]), None));
    let NetworkMode::Networks(networks) = c.network else { panic!("a network") };
    assert_eq!(networks.len(), 1);
    assert_eq!(networks[0].network, "bridge");
    assert_eq!((c.resources, c.ports.len(), c.init), (Default::default(), 0, None));
}

#[test]
fn what_is_asked_arrives() {
    let c = with(&[
        ("/Entrypoint", json!("")),
        ("/StopTimeout", json!(3)),
        ("/HostConfig/NetworkMode", json!("back")),
        (
            "/NetworkingConfig/EndpointsConfig",
            json!({"back": {"Aliases": ["a"], "IPAMConfig": {"IPv4Address": "10.1.1.5"}}}),
        ),
        (
            "/HostConfig/PortBindings",
            json!({"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}, {"HostPort": ""}]}),
        ),
        ("/HostConfig/Binds", json!(["/srv:/www:ro"])),
        ("/HostConfig/Tmpfs", json!({"/t": "size=1m,mode=700"})),
        ("/HostConfig/CpuQuota", json!(50_000)),
        ("/HostConfig/Memory", json!(64 << 20)),
        ("/HostConfig/RestartPolicy", json!({"Name": "on-failure", "MaximumRetryCount": 2})),
        (
            "/HostConfig/SecurityOpt",
            json!([
                "no-new-privileges",
                "seccomp=unconfined",
                "apparmor=mine",
                "label=type:t",
                "label:level:s0:c1,c2"
            ]),
        ),
        (
            "/HostConfig/LogConfig",
            json!({"Type": "json-file", "Config": {"max-size": "10k", "max-file": "3"}}),
        ),
    ])
    .expect("valid");
    let c = c.config;
    assert_eq!((c.entrypoint, c.stop_timeout), (Some(vec![]), Some(Duration::from_secs(3))));
    let NetworkMode::Networks(networks) = &c.network else { panic!("a network") };
    assert_eq!((networks[0].network.as_str(), networks[0].aliases.len()), ("back", 1));
    assert_eq!(networks[0].addr.map(|a| a.to_string()).as_deref(), Some("10.1.1.5"));
    assert_eq!((c.ports[0].host_port, c.ports[1].host_port), (8080, 0));
    assert!(c.mounts[0].read_only);
    let MountKind::Tmpfs { size, mode, .. } = &c.mounts[1].kind else { panic!("a tmpfs") };
    assert_eq!((*size, *mode), (Some(1 << 20), Some(0o700)));
    assert_eq!((c.resources.cpu_quota, c.resources.nano_cpus), (Some(50_000), None));
    assert_eq!(c.restart, RestartPolicy::OnFailure(2));
    assert!(c.no_new_privileges == Some(true) && c.seccomp == Seccomp::Unconfined);
    let labels = &c.security.selinux;
    assert_eq!(c.security.apparmor.as_deref(), Some("mine"));
    assert_eq!((labels.kind.as_deref(), labels.level.as_deref()), (Some("t"), Some("s0:c1,c2")));
    assert_eq!(c.log.options["max-size"], "10k");
}

#[test]
fn network_modes() {
    let of = |mode: &str| {
        with(&[("/HostConfig/NetworkMode", json!(mode)), ("/NetworkingConfig", json!(null))])
            .map(|c| c.config.network)
    };
    assert_eq!(of("none"), Ok(NetworkMode::None));
    assert_eq!(of("host"), Ok(NetworkMode::Host));
    assert_eq!(of("container:x"), Ok(NetworkMode::Container("x".into())));
    let clash = with(&[
        ("/HostConfig/NetworkMode", json!("none")),
        ("/NetworkingConfig/EndpointsConfig", json!({"back": {}})),
    ]);
    assert!(clash.is_err());
    for (mode, endpoints, said) in [
        ("bridge", json!({"bridge": {}, "none": {}}), "networks in private (none) mode"),
        ("none", json!({"bridge": {}, "none": {}}), "networks in private (none) mode"),
        ("bridge", json!({"bridge": {}, "host": {}}), "connected to host network"),
        ("host", json!({"bridge": {}, "host": {}}), "container sharing network namespace"),
        ("container:x", json!({"bridge": {}}), "container sharing network namespace"),
        (
            "none",
            json!({"none": {"IPAMConfig": {"IPv4Address": "10.1.1.5"}}}),
            "invalid config for network none: invalid endpoint settings:\nuser specified IP address is supported",
        ),
        (
            "host",
            json!({"host": {"IPAMConfig": {"IPv6Address": "fd00::5"}, "Aliases": ["a"]}}),
            "on user defined networks only\n* network-scoped alias",
        ),
    ] {
        let changes = [
            ("/HostConfig/NetworkMode", json!(mode)),
            ("/NetworkingConfig/EndpointsConfig", endpoints.clone()),
        ];
        let e = with(&changes).expect_err(mode);
        assert!(e.status == 400 && e.message.contains(said), "{mode} {endpoints}: {}", e.message);
    }
}

#[test]
fn what_cannot_be_done_is_refused_by_its_path() {
    let table = [
        ("/Image", json!(""), "Image"),
        ("/HostConfig/Links", json!(["a:"]), "HostConfig.Links"),
        ("/MacAddress", json!("01:00:00:00:00:01"), "MacAddress"),
        (
            "/HostConfig/PortBindings",
            json!({"80/tcp": [{"HostPort": "90-80"}]}),
            "HostConfig.PortBindings[\"80/tcp\"].HostPort",
        ),
        ("/HostConfig/ShmSize", json!(-1), "SHM size can not be less than 0"),
        ("/HostConfig/OomScoreAdj", json!(1001), "Invalid value 1001, range for oom score adj is"),
        ("/HostConfig/BlkioWeight", json!(9), "Range of blkio weight is from 10 to 1000"),
        ("/HostConfig/PidMode", json!("shared"), "invalid PID mode: shared"),
        ("/HostConfig/IpcMode", json!("container:"), "invalid IPC mode: container:"),
        ("/HostConfig/PortBindings", json!({"http": []}), "HostConfig.PortBindings"),
        (
            "/HostConfig/PortBindings",
            json!({"80/tcp": [{"HostPort": "99999"}]}),
            "HostConfig.PortBindings[\"80/tcp\"].HostPort",
        ),
        (
            "/HostConfig/LogConfig",
            json!({"Type": "splunk"}),
            "logger: no log driver named 'splunk' is registered",
        ),
        ("/HostConfig/Dns", json!(["x"]), "HostConfig.Dns[0]"),
    ];
    for (at, value, path) in table {
        let e = with(&[(at, value)]).expect_err(at);
        assert_eq!(e.status, 400, "{at}");
        assert!(e.message.starts_with(path), "{at}: {}", e.message);
    }
}

#[test]
fn what_docker_passes_over_is_told_and_not_shown() {
    let table = [
        ("/Healthcheck", json!({"Nope": 1}), "Healthcheck.Nope"),
        (
            "/HostConfig/Devices",
            json!([{"PathOnHost": "/dev/null", "Path": "/x"}]),
            "HostConfig.Devices[0].Path",
        ),
        (
            "/HostConfig/Mounts",
            json!([{"Type": "tmpfs", "Target": "/x", "Nope": 1}]),
            "HostConfig.Mounts[0].Nope",
        ),
        (
            "/NetworkingConfig",
            json!({"EndpointsConfig": {"default": {"Nope": 1}}}),
            "NetworkingConfig.EndpointsConfig.bridge.Nope",
        ),
        ("/HostConfig/KernelMemory", json!(4 << 20), "HostConfig.KernelMemory"),
        ("/HostConfig/KernelMemoryTCP", json!(4 << 20), "HostConfig.KernelMemoryTCP"),
        ("/HostConfig/CpuPercent", json!(5), "HostConfig.CpuPercent"),
        ("/NoSuch", json!(1), "NoSuch"),
    ];
    for (at, value, path) in table {
        let create = with(&[(at, value)]).expect(at);
        let said = format!("{path} is not known to this version of Skep, and was discarded.");
        assert_eq!(create.warnings, [said], "{at}");
        let kept = create.config.api_request.expect("kept");
        for shown in ["/HostConfig/KernelMemory", "/HostConfig/KernelMemoryTCP", "/HostConfig/Mounts/0/Nope"]
        {
            let value = kept.pointer(shown).unwrap_or(&Value::Null);
            assert!(crate::fields::is_zero(value), "{shown}: {value}");
        }
    }
    let nothing = with(&[("/HostConfig/KernelMemory", json!(0)), ("/HostConfig/Nope", json!(null))]);
    assert_eq!(nothing.expect("valid").warnings, [""; 0]);
}

#[test]
fn durations_read_as_in_dockers_tables() {
    for (seconds, text) in [
        (0, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (119, "About a minute"),
        (120, "2 minutes"),
        (3600, "About an hour"),
        (7200, "2 hours"),
        (86400, "24 hours"),
        (172_800, "2 days"),
        (14 * 86400, "2 weeks"),
        (60 * 86400, "2 months"),
        (730 * 86400, "2 years"),
    ] {
        assert_eq!(super::human_duration(seconds), text, "{seconds}");
    }
}
