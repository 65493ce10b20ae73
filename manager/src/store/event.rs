//! What a batch did to the store: one event per object that changed, with the object before and after.

use std::sync::Arc;

use skep_proto::v1;

/// One object before and after a change. `before` is `None` for a new object, `after` for a removed one.
#[derive(Clone, Debug)]
pub struct Diff<T> {
    /// The object as it was.
    pub before: Option<Arc<T>>,
    /// The object as it is.
    pub after: Option<Arc<T>>,
}

impl<T> Diff<T> {
    /// The newest version there is: after the change or, of a removed object, before it.
    pub fn latest(&self) -> &Arc<T> {
        self.after.as_ref().or(self.before.as_ref()).expect("an event has a before or an after")
    }
    /// Whether the object is new.
    pub fn created(&self) -> bool {
        self.before.is_none()
    }
    /// Whether the object is gone.
    pub fn removed(&self) -> bool {
        self.after.is_none()
    }
}

/// A change of one object.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the variants are the object kinds")]
pub enum Event {
    Cluster(Diff<v1::Cluster>),
    Node(Diff<v1::Node>),
    Service(Diff<v1::Service>),
    Revision(Diff<v1::Revision>),
    Task(Diff<v1::Task>),
    Network(Diff<v1::Network>),
    Dependency(Diff<v1::Dependency>),
    Homes(Diff<v1::Homes>),
}

impl Event {
    /// The kind of the object that changed.
    pub fn kind(&self) -> v1::ObjectKind {
        match self {
            Event::Cluster(_) => v1::ObjectKind::Cluster,
            Event::Node(_) => v1::ObjectKind::Node,
            Event::Service(_) => v1::ObjectKind::Service,
            Event::Revision(_) => v1::ObjectKind::Revision,
            Event::Task(_) => v1::ObjectKind::Task,
            Event::Network(_) => v1::ObjectKind::Network,
            Event::Dependency(_) => v1::ObjectKind::Dependency,
            Event::Homes(_) => v1::ObjectKind::Homes,
        }
    }

    /// The identifier of the object that changed (of a revision and of homes: their service's).
    pub fn id(&self) -> &str {
        match self {
            Event::Cluster(d) => &d.latest().id,
            Event::Node(d) => &d.latest().id,
            Event::Service(d) => &d.latest().id,
            Event::Revision(d) => &d.latest().service_id,
            Event::Task(d) => &d.latest().id,
            Event::Network(d) => &d.latest().id,
            Event::Dependency(d) => &d.latest().id,
            Event::Homes(d) => &d.latest().service_id,
        }
    }
}
