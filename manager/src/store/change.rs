//! Constructors of the changes a batch is made of.

use skep_proto::v1::{self, change::Op, object::Kind};

/// Anything that can be put into the store as a whole.
pub trait Stored {
    /// The object wrapped for a batch.
    fn into_kind(self) -> Kind;
}

macro_rules! stored {
    ($($name:ident),*) => {$(
        impl Stored for v1::$name {
            fn into_kind(self) -> Kind {
                Kind::$name(self.into())
            }
        }
    )*};
}
stored!(Cluster, Node, Service, Revision, Task, Network, Dependency, Homes);

/// Creates the object or replaces it whole. Its version and times are set when it is applied.
pub fn put(object: impl Stored) -> v1::Change {
    v1::Change { op: Some(Op::Put(v1::Object { kind: Some(object.into_kind()) })) }
}

/// The task that a change puts, if it puts one.
pub fn as_task(change: &v1::Change) -> Option<&v1::Task> {
    match change.op.as_ref()? {
        Op::Put(v1::Object { kind: Some(Kind::Task(task)) }) => Some(task),
        _ => None,
    }
}

fn remove(kind: v1::ObjectKind, id: &str, revision: u64) -> v1::Change {
    v1::Change { op: Some(Op::Remove(v1::RemoveObject { kind: kind.into(), id: id.to_owned(), revision })) }
}

/// Removes a node; nothing happens if it is not there. So do the others.
pub fn remove_node(id: &str) -> v1::Change {
    remove(v1::ObjectKind::Node, id, 0)
}
/// Removes a service.
pub fn remove_service(id: &str) -> v1::Change {
    remove(v1::ObjectKind::Service, id, 0)
}
/// Removes one revision of a service.
pub fn remove_revision(service_id: &str, number: u64) -> v1::Change {
    remove(v1::ObjectKind::Revision, service_id, number)
}
/// Removes a task.
pub fn remove_task(id: &str) -> v1::Change {
    remove(v1::ObjectKind::Task, id, 0)
}
/// Removes a network.
pub fn remove_network(id: &str) -> v1::Change {
    remove(v1::ObjectKind::Network, id, 0)
}
/// Removes a secret or config.
pub fn remove_dependency(id: &str) -> v1::Change {
    remove(v1::ObjectKind::Dependency, id, 0)
}
/// Forgets where the data of a service lies.
pub fn remove_homes(service_id: &str) -> v1::Change {
    remove(v1::ObjectKind::Homes, service_id, 0)
}
