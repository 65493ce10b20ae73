//! Secrets and configs of this node's tasks: held in memory for as long as managers say that a task here needs them,
//! and nowhere else.

use std::sync::Arc;

use skep_proto::v1;
use tokio::sync::watch;

use crate::assignments::Assignments;

/// Knows which of them this node has been sent.
#[derive(Clone)]
pub struct Held(pub(crate) watch::Receiver<Assignments>);

impl Held {
    /// What these files hold, in the same order; else what is missing, for a person.
    pub fn look(&self, files: &[v1::FileReference]) -> Result<Vec<Arc<v1::Dependency>>, String> {
        look(&self.0.borrow(), files)
    }

    /// The same once all of it is there.
    pub async fn wait(&self, files: &[v1::FileReference]) -> Vec<Arc<v1::Dependency>> {
        let mut assigned = self.0.clone();
        loop {
            if let Ok(found) = look(&assigned.borrow_and_update(), files) {
                return found;
            }
            if assigned.changed().await.is_err() {
                // The agent is ending.
                std::future::pending::<()>().await;
            }
        }
    }
}

fn look(set: &Assignments, files: &[v1::FileReference]) -> Result<Vec<Arc<v1::Dependency>>, String> {
    let found: Vec<_> = files.iter().filter_map(|f| set.dependencies.get(&f.id).cloned()).collect();
    if found.len() == files.len() {
        return Ok(found);
    }
    let missing = files.iter().filter(|f| !set.dependencies.contains_key(&f.id)).map(described);
    Err(missing.collect::<Vec<_>>().join(", "))
}

/// `secret NAME`.
pub fn described(file: &v1::FileReference) -> String {
    let kind = match file.kind() {
        v1::DependencyKind::Secret => "secret",
        v1::DependencyKind::Config => "config",
    };
    format!("{kind} {}", file.name)
}

/// The files of a task's container.
pub fn files(task: &v1::TaskAssignment) -> &[v1::FileReference] {
    task.spec.as_ref().and_then(|s| s.container.as_ref()).map_or(&[], |c| &c.files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_missing_is_named_and_waited_for() {
        let (sender, assigned) = watch::channel(Assignments::default());
        let held = Held(assigned);
        let files = ["a", "b"].map(|id| v1::FileReference {
            id: id.into(),
            name: format!("my-{id}"),
            ..Default::default()
        });
        let send = |id: &str| {
            let dependency = v1::Dependency { id: id.into(), ..Default::default() };
            sender.send_modify(|set| drop(set.dependencies.insert(id.into(), Arc::new(dependency))));
        };
        send("b");
        assert_eq!(held.look(&files).expect_err("one is missing"), "secret my-a");
        let (found, ()) = tokio::join!(held.wait(&files), async { send("a") });
        assert_eq!(found.iter().map(|d| d.id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    }
}
