//! What managers have assigned to this node, kept on disk so that a new daemon goes on with no manager in reach.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prost::Message;
use skep_proto::v1::{self, assignment_change::Op};

/// Why the assignment set could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum AssignmentsError {
    /// A message that builds on one this node has not got; the stream must be opened anew.
    #[error("assignments {applies_to} -> {results_in} do not follow {have}, asking for the whole set again")]
    Gap {
        /// The version at hand.
        have: u64,
        /// The version the message builds on.
        applies_to: u64,
        /// The version it leads to.
        results_in: u64,
    },
    /// The set could not be written.
    #[error("keep the assignments in {path}: {source}")]
    Write {
        /// File.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
}

/// The assignment set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Assignments {
    version: u64,
    /// Tasks by ID.
    pub tasks: BTreeMap<String, Arc<v1::TaskAssignment>>,
    /// Networks by ID.
    pub networks: BTreeMap<String, v1::NetworkView>,
    /// Secrets and configs by ID. Never on disk.
    pub dependencies: BTreeMap<String, Arc<v1::Dependency>>,
    /// Ports every node listens on.
    pub ingress: v1::IngressView,
    /// This node's own address in the overlay; empty until decided.
    pub overlay_addr: String,
    /// The same of IPv6, for networks that have it.
    pub overlay_addr6: String,
    /// UDP port of the data path.
    pub data_path_port: u32,
}

impl Assignments {
    /// Takes every task, network and port back; the node's own address stays, for the data plane to be left in
    /// order.
    pub fn clear(&mut self) {
        self.version = 0;
        self.tasks.clear();
        self.networks.clear();
        self.dependencies.clear();
        self.ingress = v1::IngressView::default();
    }

    /// The tasks of services.
    pub fn service_tasks(&self) -> BTreeMap<String, Arc<v1::TaskAssignment>> {
        let of_service = |t: &v1::TaskAssignment| t.task.as_ref().is_none_or(|t| t.attachment.is_none());
        let tasks = self.tasks.iter().filter(|(_, t)| of_service(t));
        tasks.map(|(id, t)| (id.clone(), t.clone())).collect()
    }

    /// The places of this node's own containers.
    pub fn attachments(&self) -> impl Iterator<Item = (&v1::Task, &v1::Attachment)> {
        let tasks = self.tasks.values().filter_map(|t| t.task.as_ref());
        tasks.filter_map(|t| Some((t, t.attachment.as_deref()?)))
    }

    /// Applies a message of the stream.
    pub fn apply(&mut self, message: v1::AssignmentsMessage) -> Result<(), AssignmentsError> {
        if message.complete {
            self.tasks.clear();
            self.networks.clear();
            self.dependencies.clear();
            self.ingress = v1::IngressView::default();
        } else if message.applies_to != self.version {
            return Err(AssignmentsError::Gap {
                have: self.version,
                applies_to: message.applies_to,
                results_in: message.results_in,
            });
        }
        if !message.overlay_addr.is_empty() {
            self.overlay_addr = message.overlay_addr;
            self.overlay_addr6 = message.overlay_addr6;
        }
        if message.data_path_port != 0 {
            self.data_path_port = message.data_path_port;
        }
        for change in message.changes {
            match change.op {
                Some(Op::Task(t)) => {
                    let id = t.task.as_ref().map(|t| t.id.clone()).unwrap_or_default();
                    self.tasks.insert(id, Arc::new(t));
                }
                Some(Op::Network(n)) => {
                    self.networks.insert(n.network_id.clone(), n);
                }
                Some(Op::Ingress(i)) => self.ingress = i,
                Some(Op::RemoveTask(id)) => {
                    self.tasks.remove(&id);
                }
                Some(Op::RemoveNetwork(id)) => {
                    self.networks.remove(&id);
                }
                Some(Op::Dependency(d)) => {
                    self.dependencies.insert(d.id.clone(), Arc::new(d));
                }
                Some(Op::RemoveDependency(id)) => {
                    self.dependencies.remove(&id);
                }
                None => {}
            }
        }
        self.version = message.results_in;
        Ok(())
    }

    /// The whole set as one message, but for secrets and configs.
    fn to_message(&self) -> v1::AssignmentsMessage {
        let change = |op| v1::AssignmentChange { op: Some(op) };
        let mut changes = vec![change(Op::Ingress(self.ingress.clone()))];
        changes.extend(self.networks.values().map(|n| change(Op::Network(n.clone()))));
        changes.extend(self.tasks.values().map(|t| change(Op::Task(t.as_ref().clone()))));
        v1::AssignmentsMessage {
            complete: true,
            applies_to: 0,
            results_in: self.version,
            changes,
            overlay_addr: self.overlay_addr.clone(),
            overlay_addr6: self.overlay_addr6.clone(),
            data_path_port: self.data_path_port,
        }
    }

    /// Reads the set that [`save`](Self::save) wrote; a missing or unreadable file is an empty set, since
    /// the next manager in reach sends it whole.
    pub fn load(path: &Path) -> Self {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Self::default(),
            Err(e) => {
                tracing::warn!(path = %path.display(), error = %e, "cannot read the kept assignments, waiting for a manager");
                return Self::default();
            }
        };
        let mut set = Self::default();
        match v1::AssignmentsMessage::decode(bytes.as_slice()) {
            Ok(message) => match set.apply(message) {
                Ok(()) => set,
                Err(_) => Self::default(),
            },
            Err(e) => {
                tracing::warn!(path = %path.display(), error = %e, "the kept assignments are damaged, waiting for a manager");
                Self::default()
            }
        }
    }

    /// Writes the set so that it survives a crash (write, fsync, rename).
    pub fn save(&self, path: &Path) -> Result<(), AssignmentsError> {
        let write = || -> std::io::Result<()> {
            use std::io::Write;
            use std::os::unix::fs::OpenOptionsExt;
            let tmp = path.with_extension("new");
            let mut file =
                std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&tmp)?;
            file.write_all(&self.to_message().encode_to_vec())?;
            file.sync_data()?;
            std::fs::rename(&tmp, path)?;
            let dir = path.parent().unwrap_or(Path::new("."));
            std::fs::File::open(dir)?.sync_all()
        };
        write().map_err(|source| AssignmentsError::Write { path: path.to_owned(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(id: &str) -> v1::AssignmentChange {
        let task = v1::Task { id: id.into(), ..Default::default() };
        v1::AssignmentChange {
            op: Some(Op::Task(v1::TaskAssignment { task: Some(task), ..Default::default() })),
        }
    }

    fn message(
        complete: bool,
        from: u64,
        to: u64,
        changes: Vec<v1::AssignmentChange>,
    ) -> v1::AssignmentsMessage {
        v1::AssignmentsMessage { complete, applies_to: from, results_in: to, changes, ..Default::default() }
    }

    #[test]
    fn increments_build_on_the_complete_set_and_a_gap_is_refused() {
        let mut set = Assignments::default();
        set.apply(message(true, 0, 7, vec![task("a"), task("b")])).expect("complete");
        let gone = v1::AssignmentChange { op: Some(Op::RemoveTask("a".into())) };
        set.apply(message(false, 7, 8, vec![gone, task("c")])).expect("increment");
        assert_eq!(set.tasks.keys().collect::<Vec<_>>(), ["b", "c"]);
        let before = set.clone();
        let gap = set.apply(message(false, 9, 10, vec![task("d")]));
        assert!(matches!(gap, Err(AssignmentsError::Gap { have: 8, applies_to: 9, .. })));
        assert_eq!(set, before);
    }

    #[test]
    fn a_kept_set_comes_back_and_a_damaged_one_is_empty() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("assignments");
        let mut set = Assignments::default();
        set.apply(message(true, 0, 3, vec![task("a")])).expect("complete");
        set.save(&path).expect("save");
        assert_eq!(Assignments::load(&path), set);
        let mut with_secret = set.clone();
        with_secret.dependencies.insert("s".into(), Arc::default());
        with_secret.save(&path).expect("save");
        assert_eq!(Assignments::load(&path), set, "secrets are on no disk");
        let bytes = std::fs::read(&path).expect("read");
        std::fs::write(&path, &bytes[..bytes.len() - 2]).expect("cut");
        assert_eq!(Assignments::load(&path), Assignments::default());
    }
}
