//! What can go wrong in the engine: each variant says the operation and its subject, and what to do next
//! where a user sees it.

use std::path::PathBuf;

/// Everything the engine's handles return.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No image by that reference or identifier.
    #[error("No such image: {}", with_tag(reference))]
    NoSuchImage {
        /// As asked for.
        reference: String,
    },
    /// A blob of an image that is not what its digest says.
    #[error("layer {digest} is damaged: what came is not what its digest says")]
    Damaged {
        /// The digest.
        digest: String,
    },
    /// A `RUN` of a build that failed.
    #[error("The command '{command}' returned a non-zero code: {code}{reason}")]
    BuildFailed {
        /// What ran.
        command: String,
        /// Its exit code.
        code: i32,
        /// Further words.
        reason: String,
    },
    /// No container by that identifier, name or prefix.
    #[error("No such container: {name}")]
    NoSuchContainer {
        /// As asked for.
        name: String,
    },
    /// No volume by that name.
    #[error("get {name}: no such volume")]
    NoSuchVolume {
        /// As asked for.
        name: String,
    },
    /// A volume that containers use.
    #[error("remove {name}: volume is in use - [{}]", users.join(", "))]
    VolumeInUse {
        /// The volume.
        name: String,
        /// The containers.
        users: Vec<String>,
    },
    /// A path that is not in a container.
    #[error("Could not find the file {path} in container {container}")]
    NoSuchFile {
        /// The path as asked for.
        path: String,
        /// The container as asked for.
        container: String,
    },
    /// A driver that is none of ours.
    #[error("{operation}: error looking up volume plugin {plugin}: plugin \"{plugin}\" not found")]
    NoSuchPlugin {
        /// What was tried.
        operation: String,
        /// The driver.
        plugin: String,
    },
    /// An identifier prefix that fits several objects.
    #[error("multiple {kind}s found with provided prefix: {prefix}; give more characters of the ID")]
    AmbiguousPrefix {
        /// `container` or `image`.
        kind: &'static str,
        /// As asked for.
        prefix: String,
    },
    /// A container name is taken.
    #[error(
        "Conflict. The container name \"/{name}\" is already in use by container \"{holder}\". You have to remove (or rename) that container to be able to reuse that name."
    )]
    NameInUse {
        /// The name.
        name: String,
        /// Who holds it.
        holder: String,
    },
    /// The request itself is wrong.
    #[error("{0}")]
    Invalid(String),
    /// The object's state forbids the operation.
    #[error("{0}")]
    Conflict(String),
    /// Not allowed in this place.
    #[error("{0}")]
    Forbidden(String),
    /// `start` of a running container.
    #[error("container {id} is already started")]
    AlreadyStarted {
        /// The container.
        id: String,
    },
    /// `stop`, `kill` or `resize` of a container that does not run.
    #[error("container {id} is not running")]
    NotRunning {
        /// The container.
        id: String,
    },
    /// The container could not be started; the code is what `inspect` shows as its exit code.
    #[error("{}", unless_of_user(reason, NOT_CREATED))]
    StartFailed {
        /// The container.
        id: String,
        /// 125 (engine), 126 (cannot be executed) or 127 (not found).
        code: i32,
        /// Why.
        reason: String,
    },
    /// No exec by that identifier.
    #[error("No such exec instance: {id}")]
    NoSuchExec {
        /// As asked for.
        id: String,
    },
    /// A command could not be started in a container.
    #[error("{}", unless_of_user(reason, if reason == RELATIVE { EXEC_REFUSED } else { EXEC_FAILED }))]
    ExecFailed {
        /// The exec.
        id: String,
        /// 126 (cannot be executed), 127 (not found) or 128.
        code: i32,
        /// Why.
        reason: String,
    },
    /// What a container takes over of another, or of the host's networks, is not to be had.
    #[error("{0}")]
    Missing(String),
    /// Devices that a container asks for are not to be had.
    #[error("{0}")]
    Devices(String),
    /// The network could not be prepared.
    #[error("failed to set up container networking: {source}")]
    Network {
        /// The container.
        id: String,
        /// As the data plane said it.
        source: crate::network::NetworkError,
    },
    /// What is left of the networks of containers that ended could not be removed.
    #[error("remove networks of containers that are gone: {source}")]
    LeftNetworks {
        /// As the data plane said it.
        source: crate::network::NetworkError,
    },
    /// An archive that is not an image, is cut short, or tries something it must not.
    #[error("cannot read the image archive: {0}")]
    Archive(String),
    /// A registry refused, was not reached, or sent what cannot be used.
    #[error("{message}")]
    Registry {
        /// In the words of Docker's daemon.
        message: String,
        /// As the registry's client said it.
        cause: skep_registry::Error,
    },
    /// A pull or a push failed after it had begun.
    #[error("{0}")]
    Transfer(String),
    /// Another daemon holds the data root or the exec root.
    #[error(
        "{} {} is in use by another skep daemon (pid {pid}); stop it, or give this one its own --{}",
        root.flag().replace('-', " "), path.display(), root.flag()
    )]
    RootInUse {
        /// Which of the two.
        root: crate::root_lock::Root,
        /// Where it is.
        path: PathBuf,
        /// Process ID of the holder, as it wrote it.
        pid: String,
    },
    /// A system call on a file failed.
    #[error("cannot {operation} {path}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The metadata store failed.
    #[error("metadata store: cannot {operation}: {reason}")]
    Metadata {
        /// What was tried.
        operation: &'static str,
        /// The store's answer.
        reason: String,
    },
    /// The shim of a container failed or does not answer.
    #[error("shim of container {id}: {reason}")]
    Shim {
        /// The container.
        id: String,
        /// Why.
        reason: String,
    },
    /// Several steps of a teardown failed; the others were done.
    #[error("{operation}: {}", reasons.join("; "))]
    Several {
        /// What was tried.
        operation: String,
        /// Each failure.
        reasons: Vec<String>,
    },
    /// A line of a log that cannot be read; the lines after it can.
    #[error("log {path} has a damaged line, which is left out: {reason}")]
    DamagedLog {
        /// The log.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The engine is shutting down.
    #[error("the engine is shutting down")]
    ShuttingDown,
}

/// What Docker, containerd and runc say before the reason that a container does not start, by which clients know it.
const NOT_CREATED: &str = "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: ";
/// The same of an exec.
const EXEC_FAILED: &str = "OCI runtime exec failed: exec failed: unable to start container process: ";
/// Of one that is not even tried.
const EXEC_REFUSED: &str = "OCI runtime exec failed: exec failed: ";
/// runc's words for an exec in a directory whose path is relative.
pub(crate) const RELATIVE: &str = "Cwd must be an absolute path";

/// The reason with what comes before it; Docker looks users and groups up itself, and then says no more than that.
fn unless_of_user(reason: &str, before: &str) -> String {
    match crate::runtime::refuses_user(reason) {
        true => reason.to_owned(),
        false => format!("{before}{reason}"),
    }
}

/// A reference as Docker tells of it: with `latest` where neither tag nor digest is given, an ID with its algorithm.
fn with_tag(reference: &str) -> String {
    match crate::image::Reference::parse(reference) {
        Ok(parsed) => parsed.or_latest().to_string(),
        Err(_) if reference.len() == 64 && !reference.contains([':', '/', '@']) => {
            format!("sha256:{reference}")
        }
        Err(_) => reference.to_owned(),
    }
}

impl Error {
    /// For `map_err`: a failed file operation with its subject.
    pub(crate) fn io(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { operation, path, source }
    }

    /// For `map_err`: a failed metadata operation.
    pub(crate) fn metadata<E: std::fmt::Display>(operation: &'static str) -> impl FnOnce(E) -> Error {
        move |e| Error::Metadata { operation, reason: e.to_string() }
    }
}

impl From<skep_registry::Error> for Error {
    fn from(cause: skep_registry::Error) -> Self {
        Error::Registry { message: cause.to_string(), cause }
    }
}

/// Runs blocking file work off the async runtime.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        Err(_) => Err(Error::ShuttingDown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_missed_by_name_and_tag() {
        let hex = "0".repeat(64);
        for (reference, shown) in [
            ("busybox", "busybox:latest"),
            ("docker.io/library/busybox", "busybox:latest"),
            ("busybox:1", "busybox:1"),
            ("host:5000/busybox", "host:5000/busybox:latest"),
            (&format!("a@sha256:{hex}"), &format!("a@sha256:{hex}")),
            (&format!("sha256:{hex}"), &format!("sha256:{hex}")),
            (&hex, &format!("sha256:{hex}")),
            ("no:such:thing", "no:such:thing"),
        ] {
            let said = Error::NoSuchImage { reference: reference.to_owned() }.to_string();
            assert_eq!(said, format!("No such image: {shown}"));
        }
    }
}
