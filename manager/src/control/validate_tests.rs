//! A table of specifications and what is said of them.

use super::*;
use v1::service_spec::Mode;

fn good() -> v1::ServiceSpec {
    v1::ServiceSpec {
        annotations: Some(v1::Annotations { name: "web".into(), ..Default::default() }),
        task: Some(v1::TaskSpec {
            container: Some(v1::ContainerSpec { image: "whoami".into(), ..Default::default() }),
            ..Default::default()
        }),
        mode: Some(Mode::Replicated(v1::Replicated { replicas: 3 })),
        endpoint: Some(v1::EndpointSpec::default()),
        ..Default::default()
    }
}

fn port(published: u32, target: u32) -> v1::PortConfig {
    v1::PortConfig { published_port: published, target_port: target, ..Default::default() }
}

#[test]
fn services() {
    type Edit = fn(&mut v1::ServiceSpec);
    fn task(s: &mut v1::ServiceSpec) -> &mut v1::TaskSpec {
        s.task.get_or_insert_default()
    }
    fn container(s: &mut v1::ServiceSpec) -> &mut v1::ContainerSpec {
        task(s).container.get_or_insert_default()
    }
    fn ports(s: &mut v1::ServiceSpec) -> &mut Vec<v1::PortConfig> {
        &mut s.endpoint.get_or_insert_default().ports
    }
    let table: &[(&str, Edit)] = &[
        ("", |_| ()),
        ("", |s| s.mode = Some(Mode::Replicated(v1::Replicated { replicas: 0 }))),
        ("needs a name", |s| s.annotations = None),
        ("\"-web\" is not valid", |s| s.annotations.get_or_insert_default().name = "-web".into()),
        ("63 characters", |s| s.annotations.get_or_insert_default().name = "w".repeat(64)),
        ("at most 1000000", |s| s.mode = Some(Mode::Replicated(v1::Replicated { replicas: u64::MAX }))),
        ("", |s| s.mode = Some(Mode::Global(v1::Global {}))),
        ("needs a mode", |s| s.mode = None),
        ("needs a task", |s| s.task = None),
        ("needs an image", |s| container(s).image.clear()),
        ("not valid", |s| container(s).image = "a b".into()),
        ("NAME=VALUE", |s| container(s).env.push("=x".into())),
        ("absolute path", |s| {
            container(s).mounts.push(v1::Mount {
                r#type: "bind".into(),
                source: "rel".into(),
                ..Default::default()
            })
        }),
        ("\"npipe\" is not supported", |s| {
            container(s).mounts.push(v1::Mount { r#type: "npipe".into(), ..Default::default() })
        }),
        ("at least 4 MiB", |s| {
            task(s).limits = Some(v1::Resources { memory_bytes: -1, ..Default::default() })
        }),
        ("above the memory limit", |s| {
            task(s).limits = Some(v1::Resources { memory_bytes: 8 << 20, ..Default::default() });
            task(s).reservations = Some(v1::Resources { memory_bytes: 9 << 20, ..Default::default() });
        }),
        ("KEY==VALUE", |s| task(s).placement.get_or_insert_default().constraints.push("node.role".into())),
        ("node.x", |s| task(s).placement.get_or_insert_default().constraints.push("node.x==y".into())),
        ("manager or worker", |s| {
            task(s).placement.get_or_insert_default().constraints.push("node.role==boss".into())
        }),
        ("", |s| task(s).placement.get_or_insert_default().constraints.push("node.labels.a != b".into())),
        ("between 1 and 65535", |s| ports(s).push(port(80, 0))),
        ("between 1 and 65535", |s| ports(s).push(port(70_000, 80))),
        ("appears twice", |s| ports(s).extend([port(80, 80), port(80, 81)])),
        ("SCTP", |s| ports(s).push(v1::PortConfig { protocol: v1::PortProtocol::Sctp.into(), ..port(1, 1) })),
        ("dnsrr", |s| {
            s.endpoint.get_or_insert_default().mode = v1::EndpointMode::Dnsrr.into();
            ports(s).push(port(1, 1));
        }),
        ("attached twice", |s| {
            let net = v1::NetworkAttachment { network: "n".into(), ..Default::default() };
            task(s).networks = vec![net.clone(), net];
        }),
        ("log driver", |s| task(s).log_driver.get_or_insert_default().name = "splunk".into()),
        ("failure ratio", |s| s.update.get_or_insert_default().max_failure_ratio = f32::NAN),
        ("cannot be rollback", |s| {
            s.rollback.get_or_insert_default().failure_action = v1::UpdateFailureAction::Rollback.into()
        }),
    ];
    for (i, (says, edit)) in table.iter().enumerate() {
        let mut spec = good();
        edit(&mut spec);
        match service(&spec) {
            Ok(()) => assert!(says.is_empty(), "row {i} should say {says}"),
            Err(e) => assert!(!says.is_empty() && e.message().contains(says), "row {i}: {}", e.message()),
        }
    }
}

#[test]
fn networks() {
    for (driver, subnet, says) in [
        ("overlay", "", ""),
        ("", "10.1.0.0/16", ""),
        ("bridge", "", "use overlay"),
        ("overlay", "10.1.0.1/16", ""),
        ("overlay", "fd00::/64", "not an IPv4 network"),
        ("overlay", "10.1.0.0/33", "not an IPv4 network"),
        ("overlay", "10.1.0.0/30", "from 8 to 28"),
    ] {
        let spec = v1::NetworkSpec {
            annotations: Some(v1::Annotations { name: "n".into(), ..Default::default() }),
            driver: driver.into(),
            subnet: subnet.into(),
            ..Default::default()
        };
        let said = network(&spec).err().map_or(String::new(), |e| e.message().to_owned());
        assert!(said.contains(says) && said.is_empty() == says.is_empty(), "{subnet}: {said}");
    }
}
