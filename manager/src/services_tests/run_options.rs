//! What services ask for as `run` does: kept where an update says nothing of it, taken away where it says so, refused where a
//! manager would drop it.

use skep_proto::v1;
use skep_proto::v1::control_server::Control;
use tonic::Request;

use super::harness::{Swarm, swarm, web};

fn privileged() -> v1::ServiceSpec {
    let mut spec = web(0, &[]);
    let container = spec.task.get_or_insert_default().container.get_or_insert_default();
    container.run = Some(v1::RunOptions { privileged: true, ..Default::default() });
    spec
}

fn run(service: &v1::Service) -> Option<&v1::RunOptions> {
    service.spec.as_ref()?.task.as_ref()?.container.as_ref()?.run.as_ref()
}

async fn update(swarm: &Swarm, id: &str, spec: v1::ServiceSpec) -> v1::ServiceResponse {
    let version = swarm.service(0, id).await.meta.map_or(0, |m| m.version);
    let request = v1::UpdateServiceRequest {
        id: id.into(),
        version,
        spec: Some(spec),
        rollback: false,
        rebalance: false,
    };
    swarm.managers[1].control.update_service(Request::new(request)).await.expect("updated").into_inner()
}

#[tokio::test]
async fn what_run_has_stays_until_it_is_taken_away_and_is_told_of() {
    let swarm = swarm().await;
    let request = Request::new(v1::CreateServiceRequest { spec: Some(privileged()) });
    let made = swarm.managers[1].control.create_service(request).await.expect("created").into_inner();
    assert!(
        made.warnings.iter().any(|w| w.contains("--allow-in-services privileged")),
        "{:?}",
        made.warnings
    );
    let id = made.service.expect("there").id;
    // A node that allows it is all the same to the rest.
    let allows = v1::NodeDescription { allows: vec!["privileged".into()], ..Default::default() };
    swarm.describe("manager3", allows).await;

    let kept = update(&swarm, &id, web(0, &[])).await;
    assert_eq!(kept.warnings.len(), 1, "{:?}", kept.warnings);
    assert!(kept.warnings[0].contains("stay as they were"), "{:?}", kept.warnings);
    let kept = kept.service.expect("there");
    assert_eq!((run(&kept).map(|r| r.privileged), kept.revision), (Some(true), 1));

    // GPUs are counted, also where a client forgot that they are.
    let mut two = privileged();
    let container = two.task.get_or_insert_default().container.get_or_insert_default();
    container.run.get_or_insert_default().device_requests.push(v1::DeviceRequest {
        count: 2,
        capabilities: vec![v1::Words { words: vec!["gpu".into()] }],
        ..Default::default()
    });
    let reserved = |s: &v1::Service| {
        let task = s.spec.as_ref().and_then(|s| s.task.as_ref()).expect("there");
        task.generic.iter().map(|g| (g.kind.clone(), g.amount)).collect::<Vec<_>>()
    };
    for spec in [two, web(0, &[])] {
        let updated = update(&swarm, &id, spec).await.service.expect("there");
        assert_eq!(reserved(&updated), [("gpu".to_owned(), 2)]);
    }

    let mut nothing = web(0, &[]);
    nothing.task.get_or_insert_default().container.get_or_insert_default().run =
        Some(v1::RunOptions::default());
    let bare = update(&swarm, &id, nothing).await;
    assert!(bare.warnings.is_empty(), "{:?}", bare.warnings);
    let bare = bare.service.expect("there");
    assert_eq!((run(&bare), bare.revision, reserved(&bare)), (None, 3, vec![]));
}

#[tokio::test]
async fn what_a_manager_of_an_older_version_would_drop_is_refused() {
    let swarm = swarm().await;
    let mut noted = web(0, &[]);
    noted.task.get_or_insert_default().container.get_or_insert_default().run =
        Some(v1::RunOptions { annotations: [("a".to_owned(), "b".to_owned())].into(), ..Default::default() });
    let version = |knows: &[&str]| v1::NodeDescription {
        hostname: "elder".into(),
        engine_version: "0.1.0".into(),
        knows: knows.iter().map(|w| (*w).to_owned()).collect(),
        ..Default::default()
    };
    let plain = swarm.create(1, web(0, &[])).await.expect("asks for nothing new");
    // By whichever manager: the leader may be the one that would not even see it.
    for elder in ["manager1", "manager3"] {
        swarm.describe(elder, version(&["domainname", "storage-opt"])).await;
        let refused = swarm.create(1, noted.clone()).await.expect_err("one does not know it");
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
        assert!(
            refused.message().contains("annotations of containers") && refused.message().contains("elder"),
            "{refused}"
        );
        let service = swarm.service(0, &plain.id).await;
        let request = v1::UpdateServiceRequest {
            id: plain.id.clone(),
            version: service.meta.map_or(0, |m| m.version),
            spec: Some(noted.clone()),
            ..Default::default()
        };
        let refused = swarm.managers[1].control.update_service(Request::new(request)).await;
        assert!(refused.expect_err("one does not know it").message().contains("elder"));
        assert_eq!(run(&swarm.service(0, &plain.id).await), None, "nothing was changed");
        swarm.describe(elder, version(&["annotations"])).await;
    }
    let updated = update(&swarm, &plain.id, noted.clone()).await.service.expect("there");
    assert!(run(&updated).is_some_and(|r| r.annotations.contains_key("a")));
    // What holds already goes on, whoever joins later.
    swarm.describe("manager3", version(&[])).await;
    update(&swarm, &plain.id, web(0, &[])).await;
}
