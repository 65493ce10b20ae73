//! What nodes say of their tasks.

use skep_proto::v1::TaskState;
use skep_proto::v1::assignment_change::Op;

use super::harness::{swarm, web};

/// A daemon that is back, or has another session, says again what its tasks are.
#[tokio::test]
async fn a_task_that_still_runs_has_done_so_since_it_began() {
    let swarm = swarm().await;
    let mut agent = swarm.agent(1, "one").await;
    swarm.create(2, web(1, &[])).await.expect("created");
    let assigned = |op: &Op| match op {
        Op::Task(t) => t.task.clone(),
        _ => None,
    };
    let task = agent.until("a task", assigned).await.id;
    let status = || {
        let view = swarm.log.stores[0].view();
        view.task(&task).and_then(|t| t.status.clone()).expect("told of")
    };
    agent.report(&task, TaskState::Running).await;
    let before = status();
    assert_eq!(before.state(), TaskState::Running);
    // By the clock of the test, later.
    while skep_identity::Host::system().now_ms() == before.timestamp_ms {
        tokio::task::yield_now().await;
    }
    agent.report(&task, TaskState::Running).await;
    assert_eq!(status(), before);
    agent.report(&task, TaskState::Complete).await;
    assert!(status().timestamp_ms > before.timestamp_ms, "another state has another time");
}
